//! What ships beside the executable: the units against what the jail needs, and the Debian package as it is built.
//! What they do under systemd is checked in the virtual machine (scripts/vm/checks-package.sh).
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on says so by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

fn file(path: &str) -> String {
    fs::read_to_string(in_tree(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn in_tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A unit: section, name and value of each assignment, in order.
fn unit(text: &str) -> Vec<(String, String, String)> {
    let mut section = String::new();
    let mut assignments = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut section);
        } else {
            let (name, value) = line.split_once('=').unwrap_or_else(|| panic!("not an assignment: {line}"));
            assignments.push((section.clone(), name.to_owned(), value.to_owned()));
        }
    }
    assignments
}

fn values(unit: &[(String, String, String)], name: &str) -> Vec<String> {
    unit.iter().filter(|(_, known, _)| known == name).map(|(_, _, value)| value.clone()).collect()
}

#[test]
fn service_takes_away_what_the_jail_leaves_possible() {
    let text = file("packaging/systemd/stockade.service");
    let service = unit(&text);
    for (section, name, value) in [
        ("Unit", "Requires", "stockade.socket"),
        ("Service", "Type", "notify"),
        ("Service", "ExecStart", "/usr/bin/stockade serve"),
        ("Service", "WatchdogSec", "30"),
        ("Service", "User", "stockade"),
        ("Service", "Delegate", "memory pids cpu"),
        ("Service", "KillMode", "mixed"),
        ("Service", "OOMPolicy", "continue"),
        ("Service", "Restart", "on-failure"),
        ("Service", "NoNewPrivileges", "yes"),
        ("Service", "CapabilityBoundingSet", ""),
        ("Service", "ProtectSystem", "strict"),
        ("Service", "ProtectHome", "yes"),
        ("Service", "PrivateNetwork", "yes"),
        ("Service", "RestrictAddressFamilies", "AF_UNIX"),
        ("Service", "SystemCallArchitectures", "native"),
        ("Service", "UMask", "0077"),
        ("Service", "ProtectProc", "invisible"),
        ("Service", "PrivateIPC", "yes"),
        ("Install", "WantedBy", "multi-user.target"),
    ] {
        let wanted = (section.to_owned(), name.to_owned(), value.to_owned());
        assert!(service.contains(&wanted), "[{section}] {name}={value}");
    }
    // What the jail forbids is not there, and the reason is.
    let reasons = text.split_once("What is not here").unwrap().1;
    for name in [
        "PrivateUsers",
        "ProtectControlGroups",
        "MemoryDenyWriteExecute",
        "RestrictNamespaces",
        "ProcSubset",
        "RootDirectory",
        "RestrictFileSystems",
        "DynamicUser",
    ] {
        assert!(values(&service, name).is_empty(), "{name}");
        assert!(reasons.contains(&format!("\n#   {name}=")), "{name}: no reason");
    }
}

#[test]
fn unit_without_namespaces_needs_no_more_than_the_drop_in_that_ships() {
    let drop_in = unit(&file("packaging/systemd/no-namespaces.conf"));
    let set = |name: &str, value: &str| ("Service".to_owned(), name.to_owned(), value.to_owned());
    assert_eq!(drop_in, [set("RestrictNamespaces", "yes"), set("ProtectProc", "default")]);
}

#[test]
fn socket_is_the_one_clients_look_for_and_the_groups() {
    let socket = unit(&file("packaging/systemd/stockade.socket"));
    let place = stockade::cli::socket::for_client(Some(Path::new("/run/stockade/stockade.sock")), None);
    assert_eq!(values(&socket, "ListenStream"), [place.to_str().unwrap()]);
    assert_eq!(values(&socket, "SocketGroup"), ["stockade"]);
    assert_eq!(values(&socket, "SocketMode"), ["0660"]);
    assert!(values(&socket, "Accept").is_empty());
    assert!(
        file("packaging/sysusers.d/stockade.conf").lines().any(|line| line.starts_with("u     stockade "))
    );
}

#[test]
fn configuration_that_ships_is_read_and_is_for_production() {
    let inspection =
        stockade::config::inspect(Some(&in_tree("packaging/stockade.toml")), std::iter::empty()).unwrap();
    assert!(inspection.config.production);
    assert_eq!(inspection.config.socket, None, "the socket unit says where");
    let stop = values(&unit(&file("packaging/systemd/stockade.service")), "TimeoutStopSec");
    let drain_s = inspection.config.clients.drain_timeout.as_secs();
    assert!(
        stop[0].parse::<u64>().unwrap() >= drain_s + 10,
        "a drain must end before systemd loses patience"
    );
}

/// systemd's sets of system calls, by name; a set may hold others.
fn sets(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut sets: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        match line.strip_prefix("    ") {
            Some(member) => sets.get_mut(&current).unwrap().push(member.to_owned()),
            None => {
                line.clone_into(&mut current);
                sets.insert(current.clone(), Vec::new());
            }
        }
    }
    sets
}

fn expanded(sets: &BTreeMap<String, Vec<String>>, name: &str) -> BTreeSet<String> {
    if !name.starts_with('@') {
        return BTreeSet::from([name.to_owned()]);
    }
    let members = sets.get(name).unwrap_or_else(|| panic!("{name} is not in syscall-sets.txt"));
    members.iter().flat_map(|member| expanded(sets, member)).collect()
}

/// What `SystemCallFilter=` lines allow that begin with a list of what is allowed: each adds, or with `~` removes.
/// systemd always allows `@default`.
fn allowed(lines: &[String], sets: &BTreeMap<String, Vec<String>>) -> BTreeSet<String> {
    assert!(!lines[0].starts_with('~'), "the first line says what is allowed");
    let mut allowed = expanded(sets, "@default");
    for line in lines {
        let (removes, names) = line.strip_prefix('~').map_or((false, line.as_str()), |names| (true, names));
        for call in names.split_whitespace().flat_map(|name| expanded(sets, name)) {
            if removes {
                allowed.remove(&call);
            } else {
                allowed.insert(call);
            }
        }
    }
    allowed
}

fn calls_of_policies(architecture: &str) -> BTreeSet<(String, String)> {
    let ending = format!(".{architecture}.json");
    let mut calls = BTreeSet::new();
    for entry in fs::read_dir(in_tree("policies/seccomp")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(policy) = name.strip_suffix(&ending) else { continue };
        let text: serde_json::Value =
            serde_json::from_str(&file(&format!("policies/seccomp/{name}"))).unwrap();
        for rule in text["rules"].as_array().unwrap() {
            calls.insert((policy.to_owned(), rule["syscall"].as_str().unwrap().to_owned()));
        }
    }
    calls
}

/// A worker takes on other ids and drops capabilities for a daemon that root runs, and the unit's is not.
const FOR_ROOT_ALONE: [&str; 4] = ["capset", "setgroups", "setresgid", "setresuid"];

fn not_allowed(lines: &[String]) -> BTreeSet<(String, String)> {
    let sets = sets(&file("packaging/systemd/syscall-sets.txt"));
    let allowed = allowed(lines, &sets);
    let needed = ["x86_64", "aarch64"].into_iter().flat_map(calls_of_policies);
    needed
        .filter(|(policy, call)| !(policy == "zygote" && FOR_ROOT_ALONE.contains(&call.as_str())))
        .filter(|(_, call)| !allowed.contains(call))
        .collect()
}

#[test]
fn filter_of_the_unit_allows_every_call_that_a_policy_does() {
    let mut lines = values(&unit(&file("packaging/systemd/stockade.service")), "SystemCallFilter");
    assert_eq!(not_allowed(&lines), BTreeSet::new());
    // Without what systemd 252's @system-service lacks, no worker could lock itself.
    assert!(lines.pop().unwrap().contains("landlock"));
    let lacking: BTreeSet<String> = not_allowed(&lines).into_iter().map(|(_, call)| call).collect();
    let wanted = ["landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "seccomp"];
    assert_eq!(lacking, wanted.map(str::to_owned).into());
}

#[test]
fn filter_of_the_unit_refuses_what_no_process_of_stockades_asks_for() {
    let lines = values(&unit(&file("packaging/systemd/stockade.service")), "SystemCallFilter");
    let allowed = allowed(&lines, &sets(&file("packaging/systemd/syscall-sets.txt")));
    for call in [
        "mount",
        "ptrace",
        "bpf",
        "io_uring_setup",
        "init_module",
        "keyctl",
        "setuid",
        "capset",
        "chown",
        "reboot",
    ] {
        assert!(!allowed.contains(call), "{call}");
    }
}

fn printed(program: impl AsRef<std::ffi::OsStr>, words: &[&str]) -> String {
    let output = Command::new(program.as_ref()).args(words).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn stockade(words: &[&str]) -> String {
    printed(env!("CARGO_BIN_EXE_stockade"), words)
}

/// The long flags that a command's help lists.
fn flags(help: &str) -> BTreeSet<String> {
    let lines = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let named = lines.filter_map(|line| line.split_whitespace().find_map(|word| word.strip_prefix("--")));
    named.map(|flag| flag.trim_end_matches(',').to_owned()).collect()
}

/// The commands in a help text.
fn commands(help: &str) -> Vec<String> {
    let listed =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = listed.filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn manual_pages_and_completions_know_what_help_does() {
    let directory = TempDir::new().unwrap();
    let pages = stockade(&["manual", directory.path().to_str().unwrap()]);
    let page = |command: &str| {
        let name = if command.is_empty() { "stockade.1".to_owned() } else { format!("stockade-{command}.1") };
        assert!(pages.lines().any(|path| path.ends_with(&name)), "{name}");
        fs::read_to_string(directory.path().join(name)).unwrap().replace("\\-", "-")
    };
    let completions = ["bash", "zsh", "fish"].map(|shell| stockade(&["completions", shell]));
    let all = commands(&stockade(&["--help"]));
    assert!(
        all.len() >= 10 && all.contains(&"run".to_owned()) && !all.contains(&"manual".to_owned()),
        "{all:?}"
    );
    for command in all {
        assert!(page("").contains(&format!("stockade-{command}(1)")), "{command}");
        let flags = flags(&stockade(&[&command, "--help"]));
        assert!(flags.contains("socket"), "{command}: {flags:?}");
        for flag in flags {
            assert!(page(&command).contains(&format!("--{flag}")), "{command}: --{flag} is on no page");
            for script in &completions {
                assert!(script.contains(&flag), "{command}: --{flag} is not completed");
            }
        }
    }
}

/// Builds the package as its script does; `None` where that cannot be.
fn package(output: &TempDir) -> Option<PathBuf> {
    if ["dpkg-deb", "strip"].iter().any(|tool| Command::new(tool).arg("--version").output().is_err()) {
        println!("not run: dpkg-deb and strip");
        return None;
    }
    let built = Command::new(in_tree("packaging/deb/build"))
        .args(["--binary", env!("CARGO_BIN_EXE_stockade"), "--output"])
        .arg(output.path())
        .env("STOCKADE_DEB_COMPRESSION", "none")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{stderr}");
    Some(PathBuf::from(String::from_utf8(built.stdout).unwrap().trim_end()))
}

/// What may be in the package: where, and with which permissions.
fn mode_of(path: &str) -> &'static str {
    match path {
        directory if directory.ends_with('/') => "drwxr-xr-x",
        "./usr/bin/stockade" => "-rwxr-xr-x",
        "./etc/stockade/stockade.toml" => "-rw-r--r--",
        other => {
            let places = ["lib/systemd/system/", "lib/sysusers.d/", "lib/tmpfiles.d/", "share/"];
            assert!(
                places.iter().any(|place| other.starts_with(&format!("./usr/{place}"))),
                "{other} is nowhere"
            );
            "-rw-r--r--"
        }
    }
}

#[test]
fn package_holds_what_it_should_as_root_s_and_nothing_else() {
    let output = TempDir::new().unwrap();
    let Some(package) = package(&output) else { return };
    let package = package.to_str().unwrap();
    let listing = printed("dpkg-deb", &["--contents", package]);
    let mut paths = BTreeSet::new();
    for line in listing.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        assert_eq!((fields[0], fields[1], fields.len()), (mode_of(fields[5]), "root/root", 6), "{line}");
        paths.insert(fields[5].trim_start_matches('.').to_owned());
    }
    for path in [
        "/usr/lib/systemd/system/stockade.service",
        "/usr/lib/systemd/system/stockade.socket",
        "/usr/lib/sysusers.d/stockade.conf",
        "/usr/lib/tmpfiles.d/stockade.conf",
        "/usr/share/bash-completion/completions/stockade",
        "/usr/share/zsh/vendor-completions/_stockade",
        "/usr/share/fish/vendor_completions.d/stockade.fish",
        "/usr/share/man/man5/stockade.toml.5.gz",
        "/usr/share/doc/stockade/changelog.Debian.gz",
        "/usr/share/stockade/no-namespaces.conf",
        "/usr/share/doc/stockade/copyright",
    ] {
        assert!(paths.contains(path), "{path}");
    }
    for command in commands(&stockade(&["--help"])) {
        assert!(paths.contains(&format!("/usr/share/man/man1/stockade-{command}.1.gz")), "{command}");
    }
    control_is_in_order(package, &paths);
}

fn control_is_in_order(package: &str, paths: &BTreeSet<String>) {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    printed("dpkg-deb", &["--control", package, directory.path().to_str().unwrap()]);
    let control = fs::read_to_string(path("control")).unwrap();
    let field = |name: &str| {
        let found = control.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        found.unwrap_or_else(|| panic!("no {name}:\n{control}")).to_owned()
    };
    let version = format!("{}-1", env!("CARGO_PKG_VERSION").replace('-', "~"));
    assert_eq!((field("Package"), field("Version")), ("stockade".to_owned(), version.clone()));
    assert!(
        file("packaging/deb/changelog").starts_with(&format!("stockade ({version}) ")),
        "the changelog's first entry"
    );
    assert!(
        field("Depends").contains("libc6 (>= 2.") && field("Installed-Size").parse::<u64>().unwrap() > 1000
    );
    assert!(!control.contains('@') || control.matches('@').count() == 1, "{control}");
    assert_eq!(fs::read_to_string(path("conffiles")).unwrap(), "/etc/stockade/stockade.toml\n");
    let summed: BTreeSet<String> = fs::read_to_string(path("md5sums"))
        .unwrap()
        .lines()
        .map(|line| format!("/{}", line.split_whitespace().nth(1).unwrap()))
        .collect();
    let files = paths.iter().filter(|path| path.starts_with("/usr/") && !path.ends_with('/')).cloned();
    assert_eq!(summed, files.collect());
    for script in ["postinst", "prerm", "postrm"] {
        let text = fs::read_to_string(path(script)).unwrap();
        assert!(text.starts_with("#!/bin/sh\n") && text.contains("\nset -e\n"), "{script}");
        printed("sh", &["-n", path(script).to_str().unwrap()]);
        // dpkg runs them wherever the package is: one for another system must not fail for want of systemd.
        for line in
            text.lines().filter(|line| line.contains("systemctl") || line.contains("deb-systemd-invoke"))
        {
            assert!(line.trim_end().ends_with("|| true"), "{script}: {line}");
        }
    }
}

#[test]
fn copyright_names_the_locked_release_of_what_the_javascript_engine_is_built_from() {
    let lock = file("Cargo.lock");
    let (_, package) = lock.split_once("name = \"rquickjs-sys\"\nversion = \"").unwrap();
    let (version, _) = package.split_once('"').unwrap();
    let copyright = file("packaging/deb/copyright");
    assert!(copyright.contains(&format!("crate rquickjs-sys {version} carries")), "{version}");
    for part in ["quickjs", "wasm-shim", "vendor/wasi-libc"] {
        assert!(copyright.contains(&format!("Files: rquickjs-sys-{version}/{part}/*\n")), "{part}");
    }
}
