//! Every setting there is.
//!
//! Owns: names and bounds. The file reader, the environment reader, `config check` and the tests follow it.
//! Never: holds a default; those are in `policies/`.

use stockade_sys::artifact::ARTIFACT_BYTES_MAX;
use stockade_wire::limits::{FRAME_BODY_BYTES_MAX, INPUT_BYTES_MAX, MODULE_BYTES_MAX};

use super::value::Kind;

/// Starts every environment variable that is a setting.
pub(super) const VARIABLE_PREFIX: &str = "STOCKADE_";

/// Names the configuration file; not a setting itself.
pub(super) const FILE_VARIABLE: &str = "STOCKADE_CONFIG";

/// Holds a filter for the log in most programs of this kind; here, too, unless the setting of its own does.
pub(super) const FILTER_VARIABLE: &str = "RUST_LOG";

/// The setting it stands for.
pub(super) const FILTER: &str = "log.filter";

/// The section that holds the profiles.
pub(super) const PROFILES: &str = "profiles";

/// The section that holds the modules to be held ready from the start.
pub(super) const WARM_UP: &str = "warm_up";

const MS: u64 = 1_000;
const SECOND: u64 = 1_000 * MS;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Most guest memory a job can have: what one 32-bit Wasm memory can address.
const GUEST_MEMORY_MAX: u64 = 4 * GIB;

/// A part of one processor, or of several.
const PERCENT: Kind = Kind::MaybeCount { min: 1, max: 100_000 };

/// One setting.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting {
    /// `section.key`, or `key` at the top level.
    pub(super) key: &'static str,
    /// What it may be.
    pub(super) kind: Kind,
    /// It can change while the daemon runs: it is looked at anew for each job. Others are built into what runs already.
    pub(super) live: bool,
}

const fn set(key: &'static str, kind: Kind) -> Setting {
    Setting { key, kind, live: false }
}

const fn live(key: &'static str, kind: Kind) -> Setting {
    Setting { key, kind, live: true }
}

const fn time(min_us: u64, max_us: u64) -> Kind {
    Kind::Duration { min_us, max_us }
}

const fn size(min: u64, max: u64) -> Kind {
    Kind::Size { min, max }
}

const fn count(min: u64, max: u64) -> Kind {
    Kind::Count { min, max }
}

/// Every setting outside the profiles, in the order of `policies/stockade.toml`.
pub(super) const SETTINGS: &[Setting] = &[
    set("mode", Kind::Choice(&["jailed", "in-process"])),
    set("production", Kind::Flag),
    set("socket", Kind::Path),
    live("default_profile", Kind::Text),
    set("pool.warm", count(0, 1024)),
    set("pool.warm_max", count(0, 4096)),
    set("pool.workers_max", count(1, 4096)),
    live("pool.unawaited_bytes_max", size(0, TIB)),
    live("pool.spin", time(0, MS)),
    set("pool.compilers_max", count(1, 64)),
    set("pool.templates_max", count(0, 1024)),
    set("pool.template_ready", count(1, 1024)),
    set("pool.template_ready_max", count(0, 4096)),
    set("pool.script_ready", count(0, 1024)),
    set("pool.template_after", count(1, 1_000_000)),
    set("pool.template_idle", time(SECOND, 24 * HOUR)),
    set("pool.ready_max", count(1, 8192)),
    set("pool.ready_bytes_max", size(MIB, TIB)),
    set("pool.initialise", Kind::Choice(&["never", "listed", "any"])),
    set("pool.initialise_time", time(MS, MINUTE)),
    set("pool.initialise_bytes", size(0, GUEST_MEMORY_MAX)),
    set("pool.isolation_floor", Kind::Choice(&["fresh", "tenant"])),
    set("pool.tenant_workers_max", count(0, 4096)),
    set("pool.tenant_workers_per_user_max", count(1, 4096)),
    set("pool.tenant_jobs_max", count(1, 1_000_000_000)),
    set("pool.tenant_age", time(SECOND, 24 * HOUR)),
    set("pool.tenant_idle", time(SECOND, 24 * HOUR)),
    set("pool.tenant_wait", time(0, SECOND)),
    set("pool.tenant_scripts_bytes_max", size(0, GIB)),
    set("pool.lock_timeout", time(10 * MS, MINUTE)),
    set("pool.inspect_every", count(1, 1_000_000)),
    set("pool.zygote_forks_max", count(1, 1_000_000_000)),
    set("pool.restart_burst", count(1, 1000)),
    set("pool.restart_window", time(SECOND, HOUR)),
    set("pool.worker_failures_max", count(1, 100_000)),
    set("pressure.file", Kind::Location),
    set("pressure.interval", time(100 * MS, MINUTE)),
    set("pressure.high_percent", count(1, 100)),
    set("pressure.low_percent", count(0, 99)),
    set("pressure.calm", time(0, HOUR)),
    live("queue.jobs_max", count(1, 1_000_000)),
    live("queue.bytes_max", size(MIB, TIB)),
    live("queue.jobs_per_caller_max", count(1, 1_000_000)),
    live("queue.files_max", count(2, 65_536)),
    live("queue.files_per_caller_max", count(2, 65_536)),
    set("jail.require", Kind::Layers),
    set("jail.landlock_abi_min", count(0, 9)),
    set("jail.namespaces", Kind::Choice(&["auto", "off"])),
    set("jail.open_files", count(16, 65_536)),
    set("jail.file_bytes", size(0, TIB)),
    set("jail.run_as", Kind::Ids),
    set("jail.data_headroom_bytes", size(16 * MIB, 4 * GIB)),
    set("cgroup.root", Kind::Location),
    set("cgroup.pids_max", count(1, 4096)),
    set("cgroup.memory_headroom_bytes", size(16 * MIB, 4 * GIB)),
    set("cgroup.cpu_weight", count(1, 10_000)),
    set("cgroup.cpu_max_percent", PERCENT),
    set("cgroup.caller_memory_bytes", Kind::MaybeSize { min: 64 * MIB, max: 16 * TIB }),
    set("cgroup.caller_pids_max", Kind::MaybeCount { min: 2, max: 1_000_000 }),
    set("cgroup.caller_cpu_max_percent", PERCENT),
    set("cgroup.caller_cpu_weight", Kind::MaybeCount { min: 1, max: 10_000 }),
    live("ceilings.timeout", time(MS, 24 * HOUR)),
    live("ceilings.grace", time(0, HOUR)),
    set("ceilings.memory_bytes", size(64 * KIB, GUEST_MEMORY_MAX)),
    live("ceilings.output_bytes", size(1, FRAME_BODY_BYTES_MAX as u64)),
    live("ceilings.log_bytes", size(4 * KIB, FRAME_BODY_BYTES_MAX as u64)),
    live("ceilings.module_bytes", size(KIB, MODULE_BYTES_MAX as u64)),
    live("ceilings.input_bytes", size(0, INPUT_BYTES_MAX as u64)),
    live("ceilings.cpu", time(MS, 24 * HOUR)),
    live("ceilings.fuel", count(1, u64::MAX)),
    set("compile.timeout", time(10 * MS, HOUR)),
    set("compile.cpu", time(10 * MS, HOUR)),
    set("compile.memory_bytes", size(64 * MIB, 64 * GIB)),
    set("compile.artifact_bytes", size(64 * KIB, ARTIFACT_BYTES_MAX)),
    set("cache.directory", Kind::Location),
    set("cache.disk_bytes", size(0, 16 * TIB)),
    set("cache.memory_bytes", size(0, TIB)),
    set("cache.files_max", count(0, 65_536)),
    set("cache.scripts_max", count(0, 65_536)),
    set("cache.scripts_bytes_max", size(0, GIB)),
    set("cache.key_file", Kind::Path),
    live("results.kept_max", count(0, 1_000_000)),
    live("results.bytes_max", size(0, TIB)),
    live("results.kept_for", time(0, 24 * HOUR)),
    set("results.files_max", count(0, 65_536)),
    set("durable.directory", Kind::Location),
    set("durable.bytes_max", size(MIB, TIB)),
    set("clients.connections_max", count(1, 65_536)),
    set("clients.connections_per_uid_max", count(1, 65_536)),
    set("clients.frame_timeout", time(10 * MS, HOUR)),
    set("clients.frame_bytes_max", size(64 * KIB, FRAME_BODY_BYTES_MAX as u64)),
    set("clients.buffered_bytes_max", size(64 * KIB, TIB)),
    set("clients.outbound_bytes_max", size(64 * KIB, TIB)),
    set("clients.requests_in_flight_max", count(1, 65_536)),
    set("clients.drain_timeout", time(0, HOUR)),
    set("clients.socket_mode", Kind::SocketMode),
    live("grants.directories", Kind::Paths),
    live(FILTER, Kind::Text),
    set("log.format", Kind::Choice(&["text", "json"])),
    live("kill.epoch_head_start", time(0, SECOND)),
];

/// Every setting of a profile.
pub(super) const PROFILE_SETTINGS: &[Setting] = &[
    live("timeout", time(MS, 24 * HOUR)),
    live("grace", time(0, HOUR)),
    live("memory_bytes", size(64 * KIB, GUEST_MEMORY_MAX)),
    live("fuel", Kind::MaybeCount { min: 1, max: u64::MAX }),
    live("cpu", Kind::MaybeDuration { min_us: MS, max_us: 24 * HOUR }),
    live("output_bytes", size(1, FRAME_BODY_BYTES_MAX as u64)),
    live("log_bytes", size(4 * KIB, FRAME_BODY_BYTES_MAX as u64)),
    live("log_lines", count(1, 1_000_000)),
];

/// Every setting of a module that is to be held ready.
pub(super) const WARM_UP_SETTINGS: &[Setting] = &[
    set("module", Kind::Path),
    set("entry", Kind::MaybeText),
    set("uids", Kind::Uids),
    set("ready", count(1, 1024)),
    set("required", Kind::Flag),
];

/// Settings that there are any number of times, each time under a name: `SECTION.NAME.KEY`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Family {
    /// The section.
    pub(super) section: &'static str,
    /// What one of them is called.
    pub(super) called: &'static str,
    /// What each has.
    pub(super) settings: &'static [Setting],
}

/// Every family, in the order in which they are shown.
pub(super) const FAMILIES: [Family; 2] = [
    Family { section: PROFILES, called: "profile", settings: PROFILE_SETTINGS },
    Family { section: WARM_UP, called: "warm-up", settings: WARM_UP_SETTINGS },
];

/// The family of that section.
pub(super) fn family_of(section: &str) -> Option<Family> {
    FAMILIES.into_iter().find(|family| family.section == section)
}

/// The kind of the setting with that dotted name.
pub(super) fn kind_of(key: &str) -> Option<Kind> {
    let (settings, name) = match member_key(key) {
        Some((family, _, name)) => (family.settings, name),
        None => (SETTINGS, key),
    };
    settings.iter().find(|setting| setting.key == name).map(|setting| setting.kind)
}

/// Whether the setting with that dotted name can change while the daemon runs.
pub(super) fn is_live(key: &str) -> bool {
    let (settings, name) = match member_key(key) {
        Some((family, _, name)) => (family.settings, name),
        None => (SETTINGS, key),
    };
    settings.iter().any(|setting| setting.key == name && setting.live)
}

/// `SECTION.NAME.KEY` of a family taken apart.
pub(super) fn member_key(key: &str) -> Option<(Family, &str, &str)> {
    let (section, rest) = key.split_once('.')?;
    let (name, setting) = rest.rsplit_once('.')?;
    Some((family_of(section)?, name, setting))
}

/// The environment variable of a dotted name.
pub(super) fn variable_of(key: &str) -> String {
    let name = key.replace(['.', '-'], "_").to_ascii_uppercase();
    format!("{VARIABLE_PREFIX}{name}")
}

/// Whether there is a section of that name.
pub(super) fn is_section(name: &str) -> bool {
    family_of(name).is_some()
        || SETTINGS
            .iter()
            .any(|setting| setting.key.split_once('.').is_some_and(|(section, _)| section == name))
}

/// Whether a variable's name begins as those of a section do.
pub(super) fn begins_like_a_setting(variable: &str) -> bool {
    let rest = variable.strip_prefix(VARIABLE_PREFIX).unwrap_or(variable);
    let rest = rest.to_ascii_lowercase();
    rest.match_indices('_').any(|(end, _)| rest.get(..end).is_some_and(is_section))
}

/// The variable most like `given`, which all begin with the same prefix.
pub(super) fn nearest_variable<'a>(given: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let bare = |name: &'a str| name.strip_prefix(VARIABLE_PREFIX).unwrap_or(name);
    let given = given.strip_prefix(VARIABLE_PREFIX).unwrap_or(given);
    nearest(given, names.map(bare)).map(|name| format!("{VARIABLE_PREFIX}{name}"))
}

/// The name most like `given`, when one is alike enough to have been meant.
pub(crate) fn nearest<'a>(given: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    names
        .map(|name| {
            // A right key in a wrong section is the likeliest slip of all.
            let distance = if last(name) == last(given) { 1 } else { edits(given, name) };
            (distance, name)
        })
        .min()
        .filter(|(distance, _)| *distance <= 2.max(given.chars().count() / 4))
        .map(|(_, name)| name.to_owned())
}

/// Levenshtein's distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().take(128).enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, cb) in row.iter_mut().skip(1).zip(&b) {
            let here = (diagonal + usize::from(ca != *cb)).min(left + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, here);
            left = here;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn edits_of_known_pairs_are_right() {
        for (a, b, n) in
            [("", "", 0), ("abc", "abc", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("warm", "wram", 2)]
        {
            assert_eq!(edits(a, b), n, "{a} {b}");
            assert_eq!(edits(b, a), n, "{b} {a}");
        }
    }

    #[test]
    fn variables_of_all_settings_are_distinct() {
        let names: BTreeSet<String> = SETTINGS.iter().map(|s| variable_of(s.key)).collect();
        assert_eq!(names.len(), SETTINGS.len());
        assert!(!names.contains(FILE_VARIABLE));
    }

    #[test]
    fn slip_of_the_pen_is_recognised() {
        let names = || SETTINGS.iter().map(|s| s.key);
        assert_eq!(nearest("pool.wram", names()).as_deref(), Some("pool.warm"));
        assert_eq!(nearest("queue.warm", names()).as_deref(), Some("pool.warm"));
        assert_eq!(nearest("productoin", names()).as_deref(), Some("production"));
        assert_eq!(nearest("frobnicate", names()), None);
    }
}
