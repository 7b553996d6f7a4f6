//! Tests of the configuration as a whole: every setting, every origin, every refusal.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use stockade_wire::job::Layer;

use super::layers::Layers;
use super::schema::{self, PROFILE_SETTINGS, SETTINGS, WARM_UP_SETTINGS};
use super::value::Kind;
use super::*;

fn variable(name: &str, value: &str) -> (OsString, OsString) {
    (name.into(), value.into())
}

/// Loads `text` as a file; messages name it `F`.
fn load(text: &str, variables: &[(&str, &str)]) -> Result<Inspection, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stockade.toml");
    std::fs::write(&path, text).unwrap();
    let variables = variables.iter().map(|(name, value)| variable(name, value));
    inspect(Some(&path), variables).map_err(|error| error.to_string().replace(path.to_str().unwrap(), "F"))
}

/// Values of a kind, of which at least one differs from any default and contradicts nothing.
fn candidates(key: &str, kind: Kind) -> Vec<String> {
    let us = |us| units::show_duration(Duration::from_micros(us));
    match kind {
        Kind::Duration { min_us, max_us } => vec![us(min_us), us(max_us)],
        Kind::MaybeDuration { min_us, .. } => vec![us(min_us)],
        Kind::Size { min, max } => {
            vec![units::show_size(min), "2M".into(), "32M".into(), units::show_size(max)]
        }
        Kind::MaybeSize { min, .. } => vec![units::show_size(min)],
        Kind::Count { min, max } => vec![min.to_string(), max.to_string()],
        Kind::MaybeCount { min, .. } => vec![min.to_string()],
        Kind::Flag => vec!["true".into(), "false".into()],
        Kind::Choice(words) => words.iter().map(|word| (*word).to_owned()).collect(),
        Kind::Text if key == "default_profile" => vec!["batch".into()],
        Kind::Text | Kind::MaybeText => vec!["debug".into()],
        Kind::Uids => vec!["1000,1001".into()],
        Kind::Path | Kind::Paths | Kind::Location => vec!["/srv/somewhere".into()],
        Kind::Layers => vec!["seccomp".into()],
        Kind::Ids => vec!["1234:5678".into()],
        Kind::SocketMode => vec!["0600".into()],
    }
}

fn every_key() -> Vec<(String, Kind)> {
    let plain = SETTINGS.iter().map(|s| (s.key.to_owned(), s.kind));
    let profiles = ["script", "extension", "batch"].into_iter().flat_map(|name| {
        PROFILE_SETTINGS.iter().map(move |s| (format!("profiles.{name}.{}", s.key), s.kind))
    });
    plain.chain(profiles).collect()
}

#[test]
fn default_of_every_setting_is_there() {
    let defaults = load("", &[]).unwrap();
    let have: Vec<&str> = defaults.settings.iter().map(|setting| setting.key.as_str()).collect();
    let want: BTreeSet<String> = every_key().into_iter().map(|(key, _)| key).collect();
    assert_eq!(have.iter().map(|key| (*key).to_owned()).collect::<BTreeSet<_>>(), want);
    assert_eq!(have.len(), want.len());
    assert!(defaults.settings.iter().all(|setting| setting.origin == Origin::Default));
}

#[test]
fn default_values_are_the_documented_ones() {
    let config = Config::defaults().unwrap();
    assert_eq!((config.mode, config.production), (Mode::Jailed, false));
    assert_eq!((config.pool.warm, config.pool.workers_max, config.pool.compilers_max), (4, 8, 1));
    assert_eq!((config.queue.jobs_max, config.queue.bytes_max), (1000, 256 << 20));
    let required = [Layer::Seccomp, Layer::Landlock, Layer::NoNewPrivs, Layer::Rlimits, Layer::Capabilities];
    assert_eq!(config.jail.require, required.into());
    assert_eq!(config.jail.run_as, RunAs { uid: 65534, gid: 65534 });
    assert_eq!(config.cgroup.root, CgroupRoot::Auto);
    assert_eq!(config.clients.socket_mode, 0o660);
    assert_eq!(config.kill.epoch_head_start, Duration::from_millis(2));
    let of = |name: &str| {
        let profile = &config.profiles[name];
        (profile.memory_bytes >> 20, profile.timeout, profile.grace)
    };
    let (ms, s) = (Duration::from_millis, Duration::from_secs);
    assert_eq!(of("script"), (16, ms(500), ms(100)));
    assert_eq!(of("extension"), (128, s(30), s(1)));
    assert_eq!(of("batch"), (512, s(30), s(5)));
    assert_eq!(config.default_profile, "extension");
}

#[test]
fn every_setting_can_be_set_by_its_variable() {
    let default = load("", &[]).unwrap();
    for (key, kind) in every_key() {
        let name = schema::variable_of(&key);
        let took = candidates(&key, kind).into_iter().any(|value| {
            let Ok(inspection) = load("", &[(&name, &value)]) else { return false };
            let setting = inspection.settings.iter().find(|setting| setting.key == key).unwrap();
            assert_eq!(setting.origin, Origin::Environment { name: name.clone() });
            inspection.config != default.config
        });
        assert!(took, "{name} changes nothing");
    }
}

#[test]
fn every_setting_can_be_set_in_the_file_and_its_variable_wins() {
    let default = load("", &[]).unwrap();
    for (key, kind) in every_key() {
        let (section, name) = key.rsplit_once('.').unwrap_or(("", &key));
        let header = if section.is_empty() { String::new() } else { format!("[{section}]\n") };
        let took = candidates(&key, kind).into_iter().any(|value| {
            let text = format!("{header}{name} = \"{value}\"\n");
            let Ok(inspection) = load(&text, &[]) else { return false };
            let was = default.settings.iter().find(|setting| setting.key == key).unwrap();
            let won = load(&text, &[(&schema::variable_of(&key), &was.value)]).unwrap();
            assert_eq!(won.config, default.config, "{key}");
            inspection.config != default.config
        });
        assert!(took, "{key} changes nothing");
    }
}

#[test]
fn every_setting_shown_reads_back() {
    let default = load("", &[]).unwrap();
    let pairs: Vec<(String, String)> = default
        .settings
        .iter()
        .map(|setting| (schema::variable_of(&setting.key), setting.value.clone()))
        .collect();
    let pairs: Vec<(&str, &str)> =
        pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(load("", &pairs).unwrap().config, default.config);
}

fn assert_refused(refusals: &[(&str, &str)]) {
    for (text, message) in refusals {
        assert_eq!(load(text, &[]).unwrap_err(), *message, "{text}");
    }
}

#[test]
fn file_with_a_figure_at_fault_is_refused_naming_line_key_and_what_is_allowed() {
    assert_refused(&[
        (
            "[pool]\nwram = 3",
            "F:2: there is no setting `pool.wram`; did you mean `pool.warm`?; `stockade config check` lists all",
        ),
        (
            "\n\nwarm = 3",
            "F:3: there is no setting `warm`; did you mean `pool.warm`?; `stockade config check` lists all",
        ),
        ("[plumbing]\nx = 1", "F:1: there is no setting `plumbing`; `stockade config check` lists all"),
        ("pool = 3", "F:1: `pool` is a section; write [pool] and its settings below"),
        (
            "[compile]\nartifact_bytes = \"513M\"",
            "F:2: `compile.artifact_bytes` cannot be \"513M\": too large; allowed: a size from 64K to 512M",
        ),
        (
            "[pool]\nwarm = -1",
            "F:2: `pool.warm` cannot be -1: not a plain number such as 500 or 1.5; allowed: a whole number from 0 to 1024",
        ),
        (
            "[pool]\nwarm = 1.5",
            "F:2: `pool.warm` cannot be 1.5: not a plain number such as 500 or 1.5; allowed: a whole number from 0 to 1024",
        ),
        (
            "[pool]\nwarm = 99999999999999999999999",
            "F:2: `pool.warm` cannot be 99999999999999999999999: too large; allowed: a whole number from 0 to 1024",
        ),
        (
            "[pool]\nwarm = [3]",
            "F:2: `pool.warm` cannot be [\"3\"]: not a figure; allowed: a whole number from 0 to 1024",
        ),
        (
            "[pool]\nwarm = 1979-05-27",
            "F:2: `pool.warm` cannot be a TOML date: not a figure; allowed: a whole number from 0 to 1024",
        ),
        (
            "[pool]\nwarm = { a = 1 }",
            "F:2: `pool.warm` cannot be a TOML table: not a figure; allowed: a whole number from 0 to 1024",
        ),
        (
            "[ceilings]\ntimeout = nan",
            "F:2: `ceilings.timeout` cannot be nan: durations end in us, ms, s, m or h; allowed: a duration from 1ms to 24h",
        ),
        (
            "[ceilings]\ntimeout = -0.0",
            "F:2: `ceilings.timeout` cannot be -0.0: durations end in us, ms, s, m or h; allowed: a duration from 1ms to 24h",
        ),
        (
            "[ceilings]\ntimeout = \"0s\"",
            "F:2: `ceilings.timeout` cannot be \"0s\": too small; allowed: a duration from 1ms to 24h",
        ),
        (
            "[ceilings]\nmemory_bytes = \"64MB\"",
            "F:2: `ceilings.memory_bytes` cannot be \"64MB\": sizes end in K, M, G or T (powers of 1024); allowed: a size from 64K to 4G",
        ),
    ]);
}

#[test]
fn file_with_a_value_at_fault_is_refused_naming_line_key_and_what_is_allowed() {
    assert_refused(&[
        ("production = 1", "F:1: `production` cannot be 1: neither true nor false; allowed: true or false"),
        (
            "mode = \"fast\"",
            "F:1: `mode` cannot be \"fast\": not one of the words; allowed: jailed or in-process",
        ),
        (
            "socket = \"here.sock\"",
            "F:1: `socket` cannot be \"here.sock\": \"here.sock\" is not absolute; allowed: an absolute path, or nothing",
        ),
        (
            "[jail]\nrequire = [\"seccmp\"]",
            "F:2: `jail.require` cannot be [\"seccmp\"]: \"seccmp\" is no layer; allowed: any of seccomp, landlock, cgroup, namespaces, no-new-privs, rlimits, capabilities, mdwe",
        ),
        (
            "[jail]\nrun_as = \"0:0\"",
            "F:2: `jail.run_as` cannot be \"0:0\": \"0\" is not such an id; allowed: UID:GID, neither 0, such as 65534:65534",
        ),
        (
            "[clients]\nsocket_mode = \"0777\"",
            "F:2: `clients.socket_mode` cannot be \"0777\": has other bits than read and write; allowed: octal permissions of read and write, such as 0660",
        ),
        (
            "[grants]\ndirectories = [\"/srv/../etc\"]",
            "F:2: `grants.directories` cannot be [\"/srv/../etc\"]: \"/srv/../etc\" has a `..`; allowed: absolute paths without `..`",
        ),
        (
            "[profiles.script]\ntimeot = 3",
            "F:2: there is no setting `profiles.script.timeot`; did you mean `profiles.script.timeout`?; `stockade config check` lists all",
        ),
        (
            "[profiles]\nscript = 3",
            "F:2: `profiles.script` is a section; write [profiles.script] and its settings below",
        ),
        (
            "[profiles.\"A b\"]",
            "F:1: `\"A b\"` cannot name a profile; allowed: up to 64 of a-z, 0-9 and -, a letter first",
        ),
    ]);
}

#[test]
fn module_to_be_held_ready_takes_what_its_table_leaves_out_from_what_is_built_in() {
    let text = "[warm_up.thumbnails]\nmodule = \"/srv/t.wasm\"\nuids = [1000, 33]\n[warm_up.b]\nmodule = \"/b\"\nrequired = true\nuids = 7";
    let inspection = load(text, &[("STOCKADE_WARM_UP_B_READY", "9")]).unwrap();
    let of = |module: &str, uids: &[u32], ready, required| WarmUp {
        module: module.into(),
        entry: None,
        uids: uids.iter().copied().collect(),
        ready,
        required,
    };
    let expected = [("b", of("/b", &[7], 9, true)), ("thumbnails", of("/srv/t.wasm", &[33, 1000], 4, false))];
    let expected = expected.map(|(name, warm_up)| (name.to_owned(), warm_up));
    assert_eq!(inspection.config.warm_up, BTreeMap::from(expected));
    let shown = inspection.settings.iter().find(|one| one.key == "warm_up.thumbnails.uids").unwrap();
    assert_eq!(shown.value, "33,1000");
    assert_refused(&[
        (
            "[warm_up.a]\nmodul = \"/a\"",
            "F:2: there is no setting `warm_up.a.modul`; did you mean `warm_up.a.module`?; `stockade config check` lists all",
        ),
        (
            "[warm_up.A]\nmodule = \"/a\"",
            "F:1: `\"A\"` cannot name a warm-up; allowed: up to 64 of a-z, 0-9 and -, a letter first",
        ),
        (
            "[warm_up.a]\nuids = [-1]",
            "F:2: `warm_up.a.uids` cannot be [\"-1\"]: \"-1\" is no user id; allowed: user ids, such as 1000",
        ),
        ("warm_up = 3", "F:1: `warm_up` is a section; write [warm_up] and its settings below"),
    ]);
}

#[test]
fn file_that_is_not_toml_is_refused_naming_the_line() {
    for (text, line) in [("[pool\nwarm = 1", 1), ("mode = \"jailed\"\nmode = \"jailed\"", 2), ("a = \n", 1)] {
        let message = load(text, &[]).unwrap_err();
        assert!(message.starts_with(&format!("F:{line}: not TOML: ")), "{message}");
    }
}

#[test]
fn configuration_that_contradicts_itself_is_refused() {
    for (text, start) in [
        (
            "production = true\nmode = \"in-process\"",
            "F:2: `mode` = in-process contradicts the rest of the configuration: in-process runs jobs without a jail, for developers only, and production = true refuses it",
        ),
        (
            "[pool]\nwarm = 9",
            "F:2: `pool.warm` = 9 contradicts the rest of the configuration: at most pool.workers_max",
        ),
        ("[pool]\nworkers_max = 1", "default: `pool.warm` = 4 contradicts"),
        (
            "[pool]\nwarm = 8\nready_max = 7",
            "F:2: `pool.warm` = 8 contradicts the rest of the configuration: at most pool.ready_max",
        ),
        (
            "[pressure]\nlow_percent = 10",
            "F:2: `pressure.low_percent` = 10 contradicts the rest of the configuration: below pressure.high_percent",
        ),
        (
            "[pool]\ntenant_scripts_bytes_max = \"4097K\"\n[jail]\ndata_headroom_bytes = \"16M\"",
            "F:2: `pool.tenant_scripts_bytes_max` = 4097K contradicts the rest of the configuration: at most a quarter",
        ),
        (
            "[warm_up.a]\nready = 1",
            "default: `warm_up.a.module` cannot be \"\": it is to be a file; allowed: an absolute path, or nothing",
        ),
        (
            "[warm_up.a]\nmodule = \"/a\"\nuids = [1,2,3,4,5,6,7,8,9]",
            "F:3: `warm_up.a.uids` = 1,2,3,4,5,6,7,8,9 contradicts the rest of the configuration: all warm-ups",
        ),
        (
            "[warm_up.a]\nmodule = \"/a\"\nuids = [1,2]\nready = 63",
            "F:4: `warm_up.a.ready` = 63 contradicts the rest of the configuration: for all warm-ups",
        ),
        ("[queue]\njobs_per_caller_max = 1001", "F:2: `queue.jobs_per_caller_max` = 1001"),
        ("[clients]\nconnections_per_uid_max = 257", "F:2: `clients.connections_per_uid_max` = 257"),
        ("[clients]\nbuffered_bytes_max = \"1M\"", "default: `clients.frame_bytes_max` = 96M"),
        ("[jail]\nlandlock_abi_min = 0", "F:2: `jail.landlock_abi_min` = 0"),
        ("[jail]\nnamespaces = \"off\"\nrequire = [\"namespaces\"]", "F:2: `jail.namespaces` = off"),
        ("[cgroup]\nroot = \"off\"\n[jail]\nrequire = [\"cgroup\"]", "F:2: `cgroup.root` = off"),
        ("[ceilings]\noutput_bytes = \"80M\"", "F:2: `ceilings.output_bytes` = 80M"),
        (
            "[results]\nbytes_max = \"95M\"",
            "F:2: `results.bytes_max` = 95M contradicts the rest of the configuration: at least 96M, ceilings.output_bytes",
        ),
        (
            "[ceilings]\nlog_bytes = \"15M\"\n[results]\nbytes_max = \"123M\"",
            "F:4: `results.bytes_max` = 123M",
        ),
        (
            "[log]\nfilter = \"stockade=loud\"",
            "F:2: `log.filter` cannot be \"stockade=loud\": error parsing level filter",
        ),
        (
            "default_profile = \"nobody\"",
            "F:1: `default_profile` cannot be \"nobody\": there is no such profile; allowed: batch, extension, script",
        ),
        (
            "[profiles.batch]\ntimeout = \"11m\"",
            "F:2: `profiles.batch.timeout` = 11m contradicts the rest of the configuration: at most ceilings.timeout",
        ),
        ("[ceilings]\nmemory_bytes = \"256M\"", "default: `profiles.batch.memory_bytes` = 512M"),
    ] {
        let message = load(text, &[]).unwrap_err();
        assert!(message.starts_with(start), "{message}\n{start}");
    }
}

#[test]
fn variable_at_fault_is_refused_by_name() {
    let error = |name, value| load("", &[(name, value)]).unwrap_err();
    assert_eq!(
        error("STOCKADE_POOL_WRAM", "3"),
        "environment: `STOCKADE_POOL_WRAM` is no setting; did you mean `STOCKADE_POOL_WARM`?; unset it"
    );
    assert_eq!(
        error("STOCKADE_POOL_WARM", "many"),
        "STOCKADE_POOL_WARM: `pool.warm` cannot be \"many\": not a plain number such as 500 or 1.5; \
         allowed: a whole number from 0 to 1024"
    );
    assert!(error("STOCKADE_MODE", "in-process\u{1b}[2J").contains(r#"cannot be "in-process\u{1b}[2J""#));
    let raw = (OsString::from("STOCKADE_LOG_FILTER"), OsString::from_vec(vec![b'i', 0xff]));
    let error = Config::load(Some(Path::new("/nonexistent")), std::iter::once(raw.clone())).unwrap_err();
    assert!(matches!(error, ConfigError::Read { .. }));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("empty.toml");
    std::fs::write(&path, "").unwrap();
    let error = Config::load(Some(&path), std::iter::once(raw)).unwrap_err();
    assert!(error.to_string().contains("not UTF-8"), "{error}");
}

#[test]
fn rust_log_is_the_filter_unless_the_setting_s_own_variable_is() {
    let file = "[log]\nfilter = \"warn\"";
    let filter = |variables: &[(&str, &str)]| load(file, variables).unwrap().config.log.filter;
    assert_eq!(filter(&[("RUST_LOG", "stockade=debug")]), "stockade=debug");
    assert_eq!(filter(&[("RUST_LOG", "")]), "warn");
    // Whichever of them comes first, and even when the weaker one is malformed.
    let both = [("STOCKADE_LOG_FILTER", "error"), ("RUST_LOG", "stockade=loud")];
    assert_eq!(filter(&both), "error");
    assert_eq!(filter(&[both[1], both[0]]), "error");
    let inspection = load(file, &[("RUST_LOG", "trace")]).unwrap();
    let setting = inspection.settings.iter().find(|setting| setting.key == "log.filter").unwrap();
    assert_eq!(setting.origin.to_string(), "RUST_LOG");
    let message = load(file, &[("RUST_LOG", "stockade=loud")]).unwrap_err();
    assert!(message.starts_with("RUST_LOG: `log.filter` cannot be \"stockade=loud\": "), "{message}");
    assert!(
        message.ends_with("; allowed: levels by module, as RUST_LOG has them, such as stockade=debug,info")
    );
}

#[test]
fn variables_of_others_are_left_alone() {
    let variables = [("PATH", "/bin"), ("STOCKADE", "x"), ("MY_STOCKADE_POOL_WARM", "x")];
    assert_eq!(load("", &variables).unwrap().config, load("", &[]).unwrap().config);
    let others = ["STOCKADE_PORT", "STOCKADE_SERVICE_HOST", "STOCKADE_CLANG"];
    let inspection = load("", &others.map(|name| (name, "x"))).unwrap();
    assert_eq!(inspection.ignored, others);
    for meant in
        ["STOCKADE_JIAL_REQUIRE", "STOCKADE_JAIL_NOTHING", "STOCKADE_MOD", "STOCKADE_PROFILES_X_TIMEOUT"]
    {
        assert!(load("", &[(meant, "x")]).unwrap_err().contains(meant), "{meant}");
    }
}

#[test]
fn profile_of_its_own_takes_the_rest_from_extension() {
    let text = "default_profile = \"mine\"\n[profiles.mine]\nmemory_bytes = \"64M\"\nfuel = 5\n[profiles.extension]\ncpu = \"2s\"";
    let config = load(text, &[("STOCKADE_PROFILES_MINE_GRACE", "7ms")]).unwrap().config;
    let mine = &config.profiles["mine"];
    assert_eq!((mine.memory_bytes, mine.fuel, mine.grace), (64 << 20, Some(5), Duration::from_millis(7)));
    assert_eq!(mine.timeout, config.profiles["extension"].timeout);
    assert_eq!(config.profiles["extension"].cpu, Some(Duration::from_secs(2)));
}

#[test]
fn file_that_cannot_be_used_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let at = |path: &Path| inspect(Some(path), std::iter::empty()).unwrap_err();
    assert!(matches!(at(directory.path()), ConfigError::NotAFile { .. }));
    assert!(matches!(at(Path::new("/dev/null")), ConfigError::NotAFile { .. }));
    let path = directory.path().join("f.toml");
    std::fs::write(&path, b"# fine\nmode = \"\xff\"").unwrap();
    assert_eq!(at(&path).to_string(), format!("{}:2: not UTF-8; save the file as UTF-8", path.display()));
    std::fs::write(&path, vec![b'\n'; (1 << 20) + 1]).unwrap();
    assert!(matches!(at(&path), ConfigError::FileTooLarge { .. }));
}

#[test]
fn file_is_the_named_one_else_the_variable_s() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, warm: u32| -> PathBuf {
        let path = directory.path().join(name);
        std::fs::write(&path, format!("[pool]\nwarm = {warm}")).unwrap();
        path
    };
    let (named, other) = (write("named.toml", 1), write("other.toml", 2));
    let environment = || std::iter::once(("STOCKADE_CONFIG".into(), other.clone().into_os_string()));
    assert_eq!(Config::load(Some(&named), environment()).unwrap().pool.warm, 1);
    assert_eq!(Config::load(None, environment()).unwrap().pool.warm, 2);
}

#[test]
fn every_default_of_the_shipped_file_is_explained() {
    let text = include_str!("../../policies/stockade.toml");
    let mut explained = false;
    for (number, line) in text.lines().enumerate() {
        match line.as_bytes().first() {
            Some(b'#') => explained = true,
            None => explained = false,
            // A section's own comment explains what follows at once.
            Some(b'[') => {}
            Some(_) => assert!(explained, "line {} has no comment above: {line}", number + 1),
        }
    }
}

#[test]
fn document_has_every_setting_with_its_default_and_what_is_allowed() {
    let document = include_str!("../../docs/configuration.md");
    let code = |text: &str| if text.is_empty() { String::new() } else { format!("`{text}`") };
    let row = |name: &str, default: &str, kind: Kind| {
        format!("| `{name}` | {} | {} |", code(default), kind.allowed().replace('`', ""))
            .replace("|  |", "| |")
    };
    let defaults = load("", &[]).unwrap().settings;
    let default = |key: &str| defaults.iter().find(|setting| setting.key == key).unwrap().value.clone();
    let plain = SETTINGS.iter().map(|setting| row(setting.key, &default(setting.key), setting.kind));
    let profile = PROFILE_SETTINGS.iter().map(|setting| {
        row(setting.key, &default(&format!("profiles.extension.{}", setting.key)), setting.kind)
    });
    let bare = load("[warm_up.a]\nmodule = \"/a\"", &[]).unwrap().settings;
    let warm_up = WARM_UP_SETTINGS.iter().map(|setting| {
        let key = format!("warm_up.a.{}", setting.key);
        let default = bare.iter().find(|one| one.key == key).unwrap().value.replace("/a", "");
        row(setting.key, &default, setting.kind)
    });
    let missing: Vec<String> = plain
        .chain(profile)
        .chain(warm_up)
        .filter(|row| !document.lines().any(|line| line.starts_with(row)))
        .collect();
    assert!(missing.is_empty(), "not in docs/configuration.md:\n{}", missing.join("\n"));
}

#[test]
fn shipped_defaults_read_as_a_file_change_nothing() {
    let text = include_str!("../../policies/stockade.toml");
    assert_eq!(load(text, &[]).unwrap().config, load("", &[]).unwrap().config);
}

proptest! {
    #[test]
    fn any_text_is_a_configuration_or_a_refusal(text in "(\\[[a-z.\"]{0,12}\\]\n)?([a-z_.]{1,12} = [-\"0-9a-zA-Z.\\[\\]{}]{0,12}\n){0,4}") {
        if let Ok(mut layers) = Layers::defaults() {
            let _ = layers.add_file(&text, Path::new("f"));
        }
    }
}
