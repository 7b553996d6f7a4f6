//! Resource limits of a worker, as `/proc/PID/limits` has them.
//!
//! Owns: reading that table, and holding it against the order and the report.
//! Never: asks for a limit that is not one of the jail's.

use stockade_wire::job::Layer;
use stockade_wire::worker::JailReport;
use stockade_wire::zygote::ProcessLimits;

use super::sight::{Sight, number};
use super::{InspectError, same};

/// The limits of every worker: the name reports use, and the line of the table.
pub(crate) const NAMED_LIMITS: [(&str, &str); 4] = [
    ("core", "Max core file size"),
    ("fsize", "Max file size"),
    ("nofile", "Max open files"),
    ("data", "Max data size"),
];

/// Memory a worker may have given back between its zygote's count, from which its limit is reckoned, and ours.
const DATA_SLACK_BYTES: u64 = 1 << 20;

const KIBIBYTE: u64 = 1 << 10;

/// Every limit is at most what was ordered, cannot be raised, and is what the worker says it is.
pub(super) fn check(sight: &Sight, ordered: &ProcessLimits, report: &JailReport) -> Result<(), InspectError> {
    if report.lacks(Layer::Rlimits) {
        return Ok(());
    }
    // What the worker has now stands for what its zygote had: the order is for memory above that.
    let has = number(&sight.status, "VmData")?.saturating_mul(KIBIBYTE).saturating_add(DATA_SLACK_BYTES);
    let most = [0, ordered.file_bytes, ordered.open_files, ordered.data_bytes.saturating_add(has)];
    for ((name, line), most) in NAMED_LIMITS.into_iter().zip(most) {
        let (soft, hard) = limit(&sight.limits, line)?;
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
fn limit(table: &str, line: &'static str) -> Result<(u64, u64), InspectError> {
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
