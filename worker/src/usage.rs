//! What this process has used, as the kernel tells it.
//!
//! Owns: reading it, at the end of a job that is the process's only one.
//! Never: judges it. The supervisor asks the kernel too, and holds the two against one another.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use stockade_wire::worker::Usage;

/// What was used so far; `None` when the kernel does not say. Does not block: a system call of less than a microsecond.
pub(crate) fn so_far() -> Option<Usage> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let count = |figure: i64| u64::try_from(figure).unwrap_or(0);
    Some(Usage {
        cpu_user_us: count(usage.user_time().num_microseconds()),
        cpu_system_us: count(usage.system_time().num_microseconds()),
        resident_peak_bytes: count(usage.max_rss()).saturating_mul(1024),
        page_faults: count(usage.minor_page_faults().saturating_add(usage.major_page_faults())),
    })
}
