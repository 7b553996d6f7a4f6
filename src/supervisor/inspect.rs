//! A worker seen from outside, through `/proc`.
//!
//! Owns: reading what the kernel says of a locked worker, and comparing it with what a locked worker must be.
//! Never: asks the worker.
//!
//! Landlock has no trace in `/proc`: of that layer there is only the worker's word, given before it saw a byte
//! of its job. The rest is the kernel's.

use std::path::PathBuf;

use stockade_wire::zygote::Identity;

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
}

/// Reads `/proc/PID/status` of a worker that has not been reaped and checks it. One short read.
///
/// # Errors
/// When the kernel says the worker is not locked, or nothing can be learnt.
pub(crate) fn inspect(pid: u32, identity: Option<Identity>) -> Result<(), InspectError> {
    let path = PathBuf::from(format!("/proc/{pid}/status"));
    let status =
        std::fs::read_to_string(&path).map_err(|source| InspectError::Read { path: path.clone(), source })?;
    check(&status, identity)
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
        inspect(std::process::id(), None).unwrap_err();
    }
}
