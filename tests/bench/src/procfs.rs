//! What the kernel says of processes and of the machine.
//!
//! Owns: reading /proc.
//! Never: changes anything.

use std::fs;
use std::time::Duration;

/// USER_HZ, which is 100 on every architecture this runs on.
const TICK: Duration = Duration::from_millis(10);

/// The direct children of a process, whichever of its threads forked them.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// A process and all that descend from it.
#[must_use]
pub fn family(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(children(parent));
        next += 1;
    }
    found
}

/// CPU time of a process, its family, and those of the family that have ended and were waited for.
#[must_use]
pub fn cpu_time(pid: u32) -> Duration {
    let ticks: u32 = family(pid).into_iter().map(|member| ticks(member).unwrap_or(0)).sum();
    TICK * ticks
}

/// CPU time of a process itself, without its children.
#[must_use]
pub fn own_cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields).split(' ').skip(11).take(2);
    TICK * fields.filter_map(|field| field.parse::<u32>().ok()).sum::<u32>()
}

/// Own and waited-for children's time, user and system.
fn ticks(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // What follows the name, in which anything may stand.
    let fields = stat.rsplit_once(") ")?.1.split(' ').skip(11).take(4);
    fields.map(|field| field.parse::<u32>().ok()).sum()
}

/// What people see as a process's name.
#[must_use]
pub fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// Resident memory, KiB; 0 of a process that is gone.
#[must_use]
pub fn resident_kib(pid: u32) -> u64 {
    kib(&format!("/proc/{pid}/status"), &["VmRSS:"])
}

/// Proportional share of memory, KiB; 0 of a process that is gone.
#[must_use]
pub fn proportional_kib(pid: u32) -> u64 {
    kib(&format!("/proc/{pid}/smaps_rollup"), &["Pss:"])
}

/// Memory of a process that no other has, KiB; 0 of a process that is gone.
#[must_use]
pub fn private_kib(pid: u32) -> u64 {
    kib(&format!("/proc/{pid}/smaps_rollup"), &["Private_Clean:", "Private_Dirty:"])
}

/// Whether a process has anything mapped of a file in memory that goes by a name.
#[must_use]
pub fn has_mapped(pid: u32, name: &str) -> bool {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    names_mapping(&maps, name)
}

fn names_mapping(maps: &str, name: &str) -> bool {
    maps.contains(&format!(" /memfd:{name} "))
}

/// Open descriptors; 0 of a process that is gone.
#[must_use]
pub fn descriptors(pid: u32) -> u64 {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |entries| entries.count() as u64)
}

/// Load average of the last minute.
#[must_use]
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or_default()
}

/// Time of all processors since the machine's start, and what of it the hypervisor kept for others, in the kernel's ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processors {
    all: u64,
    stolen: u64,
}

impl Processors {
    /// As it is now; all 0 where the kernel does not say.
    #[must_use]
    pub fn now() -> Self {
        Self::of(&fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    fn of(stat: &str) -> Self {
        let line = stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).unwrap_or_default();
        // User, nice, system, idle, waiting, interrupts, soft interrupts, stolen; what guests took is in the first two.
        let ticks: Vec<u64> =
            line.split_whitespace().take(8).filter_map(|ticks| ticks.parse().ok()).collect();
        Self { all: ticks.iter().sum(), stolen: ticks.get(7).copied().unwrap_or_default() }
    }

    /// What was stolen since then, of a hundred.
    #[must_use]
    pub fn stolen_percent_since(self, then: Self) -> f64 {
        let all = self.all.saturating_sub(then.all);
        if all == 0 { 0.0 } else { 100.0 * self.stolen.saturating_sub(then.stolen) as f64 / all as f64 }
    }
}

/// The sum of these fields of a file of `Name: N kB` lines.
#[must_use]
pub fn kib(file: &str, fields: &[&str]) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let found = text.lines().filter_map(|line| {
        let rest = fields.iter().find_map(|field| line.strip_prefix(field))?;
        rest.trim().trim_end_matches(" kB").parse::<u64>().ok()
    });
    found.sum()
}

/// The value of the first `name : value` line of a file.
#[must_use]
pub fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))?;
    Some(value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_time_is_a_share_of_all_processors_time_since_then() {
        let then = Processors::of("cpu  10 0 10 70 0 0 0 10 5 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n");
        let now = Processors::of("cpu  40 0 30 100 0 0 10 20 30 0\n");
        assert_eq!((then.all, now.all), (100, 200));
        assert!((now.stolen_percent_since(then) - 10.0).abs() < 1e-9);
        assert_eq!(Processors::of(""), Processors { all: 0, stolen: 0 });
        assert!(then.stolen_percent_since(then).abs() < 1e-9);
    }

    #[test]
    fn own_process_has_memory_descriptors_and_a_name() {
        let own = std::process::id();
        assert!(resident_kib(own) > 0 && proportional_kib(own) > 0 && private_kib(own) > 0);
        assert!(descriptors(own) >= 3);
        assert!(!name(own).is_empty());
        assert_eq!(family(own).first(), Some(&own));
    }

    #[test]
    fn file_in_memory_that_is_mapped_to_be_read_alone_is_mapped() {
        let maps = "7f00-7f01 r--p 00000000 00:01 2056 /memfd:stockade-artifact (deleted)\n\
                    7f01-7f02 r-xp 00000000 00:00 0 \n\
                    7f02-7f03 r--p 00000000 00:01 2057 /memfd:stockade-input (deleted)\n";
        assert!(names_mapping(maps, "stockade-artifact") && names_mapping(maps, "stockade-input"));
        assert!(!names_mapping(maps, "stockade") && !names_mapping(maps, "artifact"));
        assert!(!has_mapped(std::process::id(), "stockade-artifact"));
    }

    #[test]
    fn process_that_is_gone_has_nothing() {
        assert_eq!((resident_kib(0), descriptors(0), cpu_time(0)), (0, 0, Duration::ZERO));
    }
}
