//! A worker seen from outside, through `/proc`.
//!
//! Owns: what a locked worker must be, and comparing that and the worker's report with what the kernel says.
//! Never: asks the worker.
//!
//! A worker reports before it has seen a byte of its job, so a false report is a fault and no attack; but it is from
//! reports that results and refusals are made, and a worker whose report is not true gets no job. Of a template's forks one
//! of many reports and is looked at, for all of them (`pool/templates.rs`). Landlock has no
//! trace in `/proc`: of that layer there is the worker's word, which may not go beyond what its zygote found. The
//! namespaces are the zygote's, and cannot be others.

mod limits;
mod sight;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use stockade_wire::job::Layer;
use stockade_wire::worker::JailReport;
use stockade_wire::zygote::{Identity, ProcessLimits, WarmReport};
use stockade_worker::jail::fds::WORKER_FDS;
use stockade_worker::jail::report::FDS_LOOKED_AT;

pub(crate) use self::limits::NAMED_LIMITS;
pub(crate) use self::sight::filters_around;

use self::sight::{Sight, Status, is_ending};
use super::logs::display::safe_text;

/// Most of a report's word that an error repeats, bytes.
const SHOWN_BYTES_MAX: usize = 64;

/// Why a worker is not lent out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InspectError {
    /// Its files could not be read.
    #[error("cannot read {path}: is /proc mounted?")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// `/proc` is there and does not show the worker.
    #[error(
        "{path} is hidden from this user: /proc is mounted with hidepid=, which ProtectProc= of a systemd unit does \
         too, the worker is in no user namespace of the daemon's, and one that nobody can check gets no job; allow user \
         namespaces, or set ProtectProc=default (/usr/share/stockade/no-namespaces.conf), or mount /proc with gid= a group of \
         the daemon's"
    )]
    Hidden {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// It has ended, or is about to, and has no walls any more.
    #[error("worker ended before it was looked at")]
    Ended,
    /// A line of them is missing or not understood.
    #[error("what /proc says of the worker has no readable `{field}`")]
    Field {
        /// The line.
        field: &'static str,
    },
    /// The kernel contradicts what a locked worker must be.
    #[error("worker is not locked: the kernel says {field} is {found}, it must be {wanted}")]
    NotLocked {
        /// What it is about: a line of `/proc/PID/status` or of `/proc/PID/limits`, or a description.
        field: &'static str,
        /// What it says.
        found: String,
        /// What it must say.
        wanted: String,
    },
    /// The worker says something else than the kernel, its zygote or its order.
    #[error("worker reports {what} as {reported}, which is not so: it is {found}")]
    False {
        /// Of what.
        what: &'static str,
        /// The worker's word.
        reported: String,
        /// The kernel's, or the zygote's.
        found: String,
    },
}

/// What a worker was ordered to be, and what it cannot but inherit.
pub(crate) struct Expected<'a> {
    pub(crate) identity: Option<Identity>,
    pub(crate) rlimits: ProcessLimits,
    /// Descriptors above those that every worker has: its granted directories.
    pub(crate) further_fds: u32,
    pub(crate) zygote: &'a WarmReport,
    /// Seccomp filters of the supervisor itself.
    pub(crate) filters_around: u32,
}

/// What else was seen of a worker that is what it should be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inspected {
    /// Its resident set, bytes.
    pub(crate) resident_bytes: u64,
}

/// Looks at a worker that has not been reaped, through `/proc/PID`, and checks it and its report. A few short reads.
///
/// # Errors
/// When the kernel says the worker is not locked, when the report is not true, or when nothing can be learnt.
pub(crate) fn inspect(
    pid: u32,
    expected: &Expected<'_>,
    report: &JailReport,
) -> Result<Inspected, InspectError> {
    let looked = Sight::of(pid).and_then(|sight| {
        check(&sight, expected, report)?;
        let resident_kib = Status::of(&sight.status).number("VmRSS")?;
        Ok(Inspected { resident_bytes: resident_kib.saturating_mul(1024) })
    });
    looked.map_err(|error| if is_ending(pid) { InspectError::Ended } else { error })
}

fn check(sight: &Sight, expected: &Expected<'_>, report: &JailReport) -> Result<(), InspectError> {
    let status = &Status::of(&sight.status);
    must_be(status, "Threads", "1")?;
    filters(status, expected, report)?;
    privileges(status, sight.owner, report)?;
    capabilities(status, expected, report)?;
    ids(status, expected, report)?;
    same("its namespaces", report.namespaces.join(" "), expected.zygote.namespaces.join(" "))?;
    // A worker may have found reason to do without.
    if report.landlock_abi != 0 {
        same("the Landlock ABI", report.landlock_abi, expected.zygote.landlock_abi)?;
    }
    descriptors(sight, expected.further_fds, report)?;
    limits::check((status, &sight.limits), &expected.rlimits, report)?;
    missing(report)
}

/// Every filter there must be is there: a mode alone says nothing of whose filter it is.
fn filters(status: &Status<'_>, expected: &Expected<'_>, report: &JailReport) -> Result<(), InspectError> {
    if !report.seccomp_filtered {
        return Ok(());
    }
    must_be(status, "Seccomp", "2")?;
    same("the seccomp mode", report.seccomp_mode, 2)?;
    // Its own, and the zygote's that it was born with.
    let ours = 1 + u32::from(expected.zygote.filtered);
    let wanted = expected.filters_around.saturating_add(ours);
    let found = status.number("Seccomp_filters")?;
    if found >= u64::from(wanted) {
        return Ok(());
    }
    let (found, wanted) = (found.to_string(), format!("{wanted} or more"));
    Err(InspectError::NotLocked { field: "Seccomp_filters", found, wanted })
}

fn privileges(status: &Status<'_>, owner: u32, report: &JailReport) -> Result<(), InspectError> {
    must_be(status, "NoNewPrivs", "1")?;
    same("no-new-privs", report.no_new_privs, true)?;
    same("that it is not dumpable", report.not_dumpable, true)?;
    // The files of a process that is not dumpable are root's and not its user's, which of root's own tells nothing.
    let user = id(status, "Uid", EFFECTIVE)?;
    if user == "0" || user != owner.to_string() {
        return Ok(());
    }
    let (found, wanted) = (user.to_owned(), "root, as of a process that is not dumpable".to_owned());
    Err(InspectError::NotLocked { field: "the owner of its files", found, wanted })
}

fn capabilities(
    status: &Status<'_>,
    expected: &Expected<'_>,
    report: &JailReport,
) -> Result<(), InspectError> {
    if report.lacks(Layer::Capabilities) {
        return Ok(());
    }
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        must_be_zero(status, set)?;
    }
    same("the emptiness of its capabilities", report.capabilities_empty, true)?;
    // Emptying the bounding set takes a privilege. Whoever has none to begin with cannot gain one through it either:
    // no_new_privs is set.
    if expected.identity.is_some() { must_be_zero(status, "CapBnd") } else { Ok(()) }
}

fn ids(status: &Status<'_>, expected: &Expected<'_>, report: &JailReport) -> Result<(), InspectError> {
    if let Some(Identity { uid, gid }) = expected.identity {
        must_be(status, "Uid", &[uid; 4].map(|id| id.to_string()).join("\t"))?;
        must_be(status, "Gid", &[gid; 4].map(|id| id.to_string()).join("\t"))?;
        must_be(status, "Groups", "")?;
    }
    same("its user", report.uid.to_string().as_str(), id(status, "Uid", REAL)?)?;
    same("its group", report.gid.to_string().as_str(), id(status, "Gid", REAL)?)
}

fn descriptors(sight: &Sight, further: u32, report: &JailReport) -> Result<(), InspectError> {
    let wanted = WORKER_FDS.saturating_add(further);
    let standing: Vec<u32> = (0..wanted.min(FDS_LOOKED_AT)).collect();
    same("its open descriptors", listed(&report.open_fds), listed(&standing))?;
    match sight.open_fds {
        // Nobody who may not trace the worker is told, before Linux 6.2.
        None => Ok(()),
        Some(found) => same("the number of its open descriptors", u64::from(wanted), found),
    }
}

/// A layer that is not there is in the list of those missing, and no other that leaves a doubt is.
fn missing(report: &JailReport) -> Result<(), InspectError> {
    let word = |layer: Layer| (report.lacks(layer), layer.name());
    let same = |held: bool, layer| match word(layer) {
        (lacks, name) if lacks == held => Err(InspectError::False {
            what: "what it is missing",
            reported: shown(if lacks { name } else { "" }),
            found: shown(if lacks { "" } else { name }),
        }),
        _ => Ok(()),
    };
    same(report.seccomp_filtered, Layer::Seccomp)?;
    same(report.landlock_abi > 0, Layer::Landlock)?;
    same(!report.namespaces.is_empty(), Layer::Namespaces)?;
    same(report.no_new_privs, Layer::NoNewPrivs)?;
    match report.missing.iter().find(|missing| !Layer::ALL.iter().any(|layer| layer.name() == missing.layer))
    {
        None => Ok(()),
        Some(unknown) => Err(InspectError::False {
            what: "what it is missing",
            reported: shown(&unknown.layer),
            found: "no layer".to_owned(),
        }),
    }
}

fn listed(numbers: &[u32]) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}

fn same<T: PartialEq + ToString>(what: &'static str, reported: T, found: T) -> Result<(), InspectError> {
    if reported == found {
        return Ok(());
    }
    Err(InspectError::False {
        what,
        reported: shown(&reported.to_string()),
        found: shown(&found.to_string()),
    })
}

fn shown(text: &str) -> String {
    format!("\"{}\"", safe_text(text, SHOWN_BYTES_MAX))
}

/// Places on a line of ids.
const REAL: usize = 0;
const EFFECTIVE: usize = 1;

fn id<'s>(status: &Status<'s>, name: &'static str, place: usize) -> Result<&'s str, InspectError> {
    status.field(name)?.split('\t').nth(place).ok_or(InspectError::Field { field: name })
}

fn must_be(status: &Status<'_>, name: &'static str, wanted: &str) -> Result<(), InspectError> {
    let found = status.field(name)?;
    if found == wanted {
        return Ok(());
    }
    Err(InspectError::NotLocked { field: name, found: found.to_owned(), wanted: wanted.to_owned() })
}

fn must_be_zero(status: &Status<'_>, name: &'static str) -> Result<(), InspectError> {
    let found = status.field(name)?;
    if !found.is_empty() && found.bytes().all(|digit| digit == b'0') {
        return Ok(());
    }
    Err(InspectError::NotLocked { field: name, found: found.to_owned(), wanted: "empty".to_owned() })
}
