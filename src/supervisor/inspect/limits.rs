//! Resource limits of a worker.
//!
//! Owns: asking the kernel for them, and holding it against the order and the report.
//! Never: asks for a limit that is not one of the jail's.

use std::path::PathBuf;

use rlimit::{Resource, prlimit};
use stockade_wire::job::Layer;
use stockade_wire::worker::JailReport;
use stockade_wire::zygote::ProcessLimits;

use super::sight::{Status, read};
use super::{InspectError, same};

/// The limits of every worker: the name reports use, the line of the table, and the kernel's number for it.
pub(crate) const NAMED_LIMITS: [(&str, &str, Resource); 4] = [
    ("core", "Max core file size", Resource::CORE),
    ("fsize", "Max file size", Resource::FSIZE),
    ("nofile", "Max open files", Resource::NOFILE),
    ("data", "Max data size", Resource::DATA),
];

/// Memory a worker may have given back between its zygote's count, from which its limit is reckoned, and ours.
const DATA_SLACK_BYTES: u64 = 1 << 20;

const KIBIBYTE: u64 = 1 << 10;

/// A soft and a hard limit.
pub(super) type Pair = (u64, u64);

/// What the kernel says of the limits of a process that has not been reaped, in the order of [`NAMED_LIMITS`].
///
/// # Errors
/// When neither the call nor the table is to be had.
pub(super) fn of(pid: u32) -> Result<[Pair; 4], InspectError> {
    match ask(pid) {
        Some(limits) => Ok(limits),
        // Whoever shares no id with the worker and has no privilege may read them still.
        None => parse(&read(&PathBuf::from(format!("/proc/{pid}/limits")))?.0),
    }
}

/// By `prlimit64`: the table is written by the kernel and read here at ten times the cost.
fn ask(pid: u32) -> Option<[Pair; 4]> {
    let pid = i32::try_from(pid).ok()?;
    let mut limits = [(0, 0); 4];
    for ((soft, hard), (_, _, resource)) in limits.iter_mut().zip(NAMED_LIMITS) {
        prlimit(pid, resource, None, Some((soft, hard))).ok()?;
    }
    Some(limits)
}

/// The table of `/proc/PID/limits`.
pub(super) fn parse(table: &str) -> Result<[Pair; 4], InspectError> {
    let mut limits = [(0, 0); 4];
    for (pair, (_, line, _)) in limits.iter_mut().zip(NAMED_LIMITS) {
        *pair = limit(table, line)?;
    }
    Ok(limits)
}

/// Every limit is at most what was ordered, cannot be raised, and is what the worker says it is.
pub(super) fn check(
    (status, limits): (&Status<'_>, &[Pair; 4]),
    ordered: &ProcessLimits,
    report: &JailReport,
) -> Result<(), InspectError> {
    if report.lacks(Layer::Rlimits) {
        return Ok(());
    }
    // What the worker has now stands for what its zygote had: the order is for memory above that.
    let has = status.number("VmData")?.saturating_mul(KIBIBYTE).saturating_add(DATA_SLACK_BYTES);
    let most = [0, ordered.file_bytes, ordered.open_files, ordered.data_bytes.saturating_add(has)];
    for (((name, line, _), (soft, hard)), most) in NAMED_LIMITS.into_iter().zip(*limits).zip(most) {
        if soft != hard || soft > most {
            let (found, wanted) = (format!("{soft} to {hard}"), format!("one limit of at most {most}"));
            return Err(InspectError::NotLocked { field: line, found, wanted });
        }
        let said = report.rlimits.iter().find(|(said, _)| said == name);
        same(line, said.map_or("none".to_owned(), |(_, value)| value.to_string()), soft.to_string())?;
    }
    Ok(())
}

/// The soft and the hard limit on one line.
fn limit(table: &str, line: &'static str) -> Result<Pair, InspectError> {
    let unreadable = || InspectError::Field { field: line };
    let values = table.lines().find_map(|found| found.strip_prefix(line)).ok_or_else(unreadable)?;
    let mut values = values.split_whitespace().map(value);
    match (values.next().flatten(), values.next().flatten()) {
        (Some(soft), Some(hard)) => Ok((soft, hard)),
        _ => Err(unreadable()),
    }
}

fn value(text: &str) -> Option<u64> {
    if text == "unlimited" { Some(u64::MAX) } else { text.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_are_asked_for_are_those_of_the_table() {
        let table = std::fs::read_to_string("/proc/self/limits").unwrap();
        assert_eq!(ask(std::process::id()), Some(parse(&table).unwrap()));
    }
}
