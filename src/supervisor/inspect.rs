//! A worker seen from outside, through `/proc`.
//!
//! Owns: reading what the kernel says of a locked worker, and comparing it with what a locked worker must be and with
//! what the worker reports.
//! Never: asks the worker.
//!
//! A worker reports before it has seen a byte of its job, so a false report is a fault and no attack; but it is from
//! reports that results and refusals are made, and a worker whose report is not true gets no job. Landlock has no
//! trace in `/proc`: of that layer there is the worker's word, which may not go beyond what its zygote found. The
//! namespaces are the zygote's, and cannot be others.

use std::path::PathBuf;

use stockade_wire::worker::JailReport;
use stockade_wire::zygote::{Identity, WarmReport};

use super::logs::display::safe_text;

/// Most of a report's word that an error repeats, bytes.
const SHOWN_BYTES_MAX: usize = 64;

/// Why a worker is not lent out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InspectError {
    /// Its status could not be read.
    #[error("cannot read {path}: is /proc mounted?")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A line of it is missing or not understood.
    #[error("/proc status of the worker has no readable `{field}`")]
    Field {
        /// The line.
        field: &'static str,
    },
    /// The kernel contradicts what a locked worker must be.
    #[error("worker is not locked: the kernel says {field} is {found}, it must be {wanted}")]
    NotLocked {
        /// The line of `/proc/PID/status`.
        field: &'static str,
        /// What it says.
        found: String,
        /// What it must say.
        wanted: String,
    },
    /// The worker says something else than the kernel or its zygote.
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

/// Reads `/proc/PID/status` of a worker that has not been reaped, and checks it and the worker's report. One short
/// read.
///
/// # Errors
/// When the kernel says the worker is not locked, when the report is not true, or when nothing can be learnt.
pub(crate) fn inspect(
    pid: u32,
    identity: Option<Identity>,
    report: &JailReport,
    zygote: &WarmReport,
) -> Result<(), InspectError> {
    let path = PathBuf::from(format!("/proc/{pid}/status"));
    let status =
        std::fs::read_to_string(&path).map_err(|source| InspectError::Read { path: path.clone(), source })?;
    check(&status, identity)?;
    compare(report, &status, zygote)
}

fn check(status: &str, identity: Option<Identity>) -> Result<(), InspectError> {
    must_be(status, "Seccomp", "2")?;
    must_be(status, "NoNewPrivs", "1")?;
    must_be(status, "Threads", "1")?;
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        must_be_zero(status, set)?;
    }
    if let Some(Identity { uid, gid }) = identity {
        // Emptying the bounding set takes a privilege. Whoever has none to begin with cannot gain one through it
        // either: no_new_privs is set.
        must_be_zero(status, "CapBnd")?;
        must_be(status, "Uid", &[uid; 4].map(|id| id.to_string()).join("\t"))?;
        must_be(status, "Gid", &[gid; 4].map(|id| id.to_string()).join("\t"))?;
        must_be(status, "Groups", "")?;
    }
    Ok(())
}

/// The report against a status that has been checked.
fn compare(report: &JailReport, status: &str, zygote: &WarmReport) -> Result<(), InspectError> {
    same("the seccomp mode", report.seccomp_mode, 2)?;
    same("no-new-privs", report.no_new_privs, true)?;
    same("the emptiness of its capabilities", report.capabilities_empty, true)?;
    same("its user", report.uid.to_string().as_str(), real_id(status, "Uid")?)?;
    same("its group", report.gid.to_string().as_str(), real_id(status, "Gid")?)?;
    same("its namespaces", report.namespaces.join(" "), zygote.namespaces.join(" "))?;
    // A worker may have found reason to do without.
    if report.landlock_abi != 0 {
        same("the Landlock ABI", report.landlock_abi, zygote.landlock_abi)?;
    }
    Ok(())
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

/// The first of the four ids on a line.
fn real_id<'s>(status: &'s str, name: &'static str) -> Result<&'s str, InspectError> {
    field(status, name)?.split('\t').next().ok_or(InspectError::Field { field: name })
}

fn field<'s>(status: &'s str, name: &'static str) -> Result<&'s str, InspectError> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
        .ok_or(InspectError::Field { field: name })
}

fn must_be(status: &str, name: &'static str, wanted: &str) -> Result<(), InspectError> {
    let found = field(status, name)?;
    if found == wanted {
        return Ok(());
    }
    Err(InspectError::NotLocked { field: name, found: found.to_owned(), wanted: wanted.to_owned() })
}

fn must_be_zero(status: &str, name: &'static str) -> Result<(), InspectError> {
    let found = field(status, name)?;
    if !found.is_empty() && found.bytes().all(|digit| digit == b'0') {
        return Ok(());
    }
    Err(InspectError::NotLocked { field: name, found: found.to_owned(), wanted: "empty".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCKED: &str = "Name:\tstockade\nUid:\t65534\t65534\t65534\t65534\nGid:\t65534\t65534\t65534\t65534\n\
        Groups:\t \nThreads:\t1\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\n\
        CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\n\
        NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t2\n";
    const NOBODY: Identity = Identity { uid: 65534, gid: 65534 };

    #[test]
    fn locked_worker_passes() {
        check(LOCKED, Some(NOBODY)).unwrap();
    }

    #[test]
    fn worker_with_any_wall_down_is_told_apart() {
        for (held, fallen) in [
            ("Seccomp:\t2", "Seccomp:\t0"),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
            ("Threads:\t1", "Threads:\t2"),
            ("CapEff:\t0000000000000000", "CapEff:\t0000000000000400"),
            ("CapBnd:\t0000000000000000", "CapBnd:\t000001ffffffffff"),
            ("Uid:\t65534\t65534\t65534\t65534", "Uid:\t65534\t0\t65534\t65534"),
            ("Groups:\t ", "Groups:\t0 "),
            ("Seccomp:\t2\n", ""),
        ] {
            assert!(LOCKED.contains(held));
            check(&LOCKED.replace(held, fallen), Some(NOBODY)).expect_err(fallen);
        }
    }

    #[test]
    fn bounding_set_of_an_unprivileged_supervisors_worker_is_left_alone() {
        let status = LOCKED.replace("CapBnd:\t0000000000000000", "CapBnd:\t000001ffffffffff");
        check(&status, None).unwrap();
        check(&status, Some(NOBODY)).unwrap_err();
    }

    #[test]
    fn own_process_is_no_locked_worker() {
        inspect(std::process::id(), None, &report(), &zygote()).unwrap_err();
    }

    fn report() -> JailReport {
        JailReport {
            landlock_abi: 7,
            namespaces: vec!["net".to_owned(), "ipc".to_owned()],
            no_new_privs: true,
            seccomp_mode: 2,
            capabilities_empty: true,
            uid: 65534,
            gid: 65534,
            ..JailReport::default()
        }
    }

    fn zygote() -> WarmReport {
        WarmReport {
            engine_fingerprint: String::new(),
            threads: 1,
            landlock_abi: 7,
            namespaces: vec!["net".to_owned(), "ipc".to_owned()],
            namespaces_missing: None,
        }
    }

    #[test]
    fn true_report_passes_also_without_landlock() {
        compare(&report(), LOCKED, &zygote()).unwrap();
        compare(&JailReport { landlock_abi: 0, ..report() }, LOCKED, &zygote()).unwrap();
    }

    #[test]
    fn report_that_is_false_in_anything_is_told_apart() {
        for (said, what) in [
            (JailReport { seccomp_mode: 1, ..report() }, "seccomp"),
            (JailReport { no_new_privs: false, ..report() }, "no-new-privs"),
            (JailReport { capabilities_empty: false, ..report() }, "capabilities"),
            (JailReport { uid: 0, ..report() }, "user"),
            (JailReport { gid: 0, ..report() }, "group"),
            (JailReport { namespaces: Vec::new(), ..report() }, "namespaces"),
            (JailReport { landlock_abi: 8, ..report() }, "Landlock"),
        ] {
            let error = compare(&said, LOCKED, &zygote()).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
