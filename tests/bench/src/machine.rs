//! On what a run was made.
//!
//! Owns: the machine, the versions, the time of day.
//! Never: measures.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::utsname::uname;

use crate::procfs;
use crate::report::{Machine, Version};
use crate::rivals::Tools;

/// The machine this runs on.
#[must_use]
pub fn machine() -> Machine {
    let flags = procfs::field("/proc/cpuinfo", "flags").unwrap_or_default();
    let kernel = uname()
        .map(|name| format!("{} {}", name.sysname().to_string_lossy(), name.release().to_string_lossy()));
    Machine {
        processor: procfs::field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned()),
        processors: std::thread::available_parallelism().map_or(0, |count| count.get() as u64),
        architecture: std::env::consts::ARCH.to_owned(),
        memory_mib: procfs::kib("/proc/meminfo", &["MemTotal:"]) >> 10,
        kernel: kernel.unwrap_or_default(),
        virtual_machine: flags.split(' ').any(|flag| flag == "hypervisor"),
        cgroup_controllers: cgroup_controllers(),
    }
}

fn cgroup_controllers() -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let tree = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let place = fields.next()?;
        (fields.next()? == "cgroup2").then(|| place.to_owned())
    });
    let file = format!("{}/cgroup.controllers", tree.unwrap_or_default());
    let controllers = std::fs::read_to_string(file).unwrap_or_default();
    controllers.split_whitespace().map(str::to_owned).collect()
}

/// Everything that takes part, and its version.
#[must_use]
pub fn versions(stockade: &Path, tools: &Tools) -> Vec<Version> {
    let said = |name: &str, program: Option<&Path>| Version {
        name: name.to_owned(),
        version: program.and_then(first_line),
    };
    let package = |name: &str, package: &str| Version {
        name: name.to_owned(),
        version: tools.package_version(package),
    };
    vec![
        said("stockade", Some(stockade)),
        said("rustc", Some(Path::new("rustc"))),
        said("bwrap", tools.bwrap()),
        said("wasmtime", tools.wasmtime()),
        said("node", tools.node()),
        package("isolated-vm", "isolated-vm"),
        package("workerd", "@cloudflare/workerd-linux-64"),
    ]
}

/// What `PROGRAM --version` prints first.
fn first_line(program: &Path) -> Option<String> {
    let said = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&said.stdout).lines().next()?.trim().to_owned();
    (said.status.success() && !text.is_empty()).then_some(text)
}

/// Now, as `2026-01-31T12:00:00Z`.
#[must_use]
pub fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    utc(since)
}

/// Seconds since 1970 as a date and a time.
fn utc(seconds: u64) -> String {
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day of the Gregorian calendar, from days since 1970-01-01. In it 400 years have 146,097 days; a year
/// that begins in March has its odd day last.
const fn date(days: u64) -> (u64, u64, u64) {
    // Days since 0000-03-01.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = 400 * era + year_of_era + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utc_of_known_moments_is_right() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(4_107_542_400), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn machine_is_known() {
        let machine = machine();
        assert!(machine.processors > 0 && machine.memory_mib > 0 && machine.kernel.starts_with("Linux "));
    }
}
