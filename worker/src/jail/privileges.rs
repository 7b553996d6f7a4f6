//! Layer: no new privileges, not dumpable, dead with the supervisor.
//!
//! Owns: three `prctl` settings and the look at the parent.
//! Never: relies on the parent-death signal alone; the link's end-of-file and `cgroup.kill` stand behind it.

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::getppid;
use stockade_sys::solo::SingleThreaded;
use stockade_wire::job::Layer;

use super::{Ledger, LockError, capabilities::Powerless};

/// Privileges cannot come back, and nobody of the same user can look inside.
#[derive(Debug)]
pub struct Unprivileged {
    pub(super) ledger: Ledger,
    pub(super) solo: SingleThreaded,
}

/// Gives up gaining privileges, being dumped or traced by equals, and outliving process `supervisor_pid`.
///
/// # Errors
/// When `no_new_privs` is required and refused, when one of the others fails, or when the parent is another.
pub fn renounce(powerless: Powerless, supervisor_pid: u32) -> Result<Unprivileged, LockError> {
    let Powerless { mut ledger, solo } = powerless;
    if let Err(errno) = prctl::set_no_new_privs() {
        let reason = format!("prctl(PR_SET_NO_NEW_PRIVS) failed: {errno}");
        ledger.lacks(Layer::NoNewPrivs, reason, "do not filter prctl")?;
    }
    prctl::set_dumpable(false)
        .map_err(|errno| LockError::Kernel { call: "prctl(PR_SET_DUMPABLE)", errno })?;
    die_with(supervisor_pid)?;
    Ok(Unprivileged { ledger, solo })
}

/// Gives up outliving process `supervisor_pid`. A fork does not inherit it.
///
/// # Errors
/// When the kernel refuses, or the parent is another.
pub(super) fn die_with(supervisor_pid: u32) -> Result<(), LockError> {
    prctl::set_pdeathsig(Signal::SIGKILL)
        .map_err(|errno| LockError::Kernel { call: "prctl(PR_SET_PDEATHSIG)", errno })?;
    // After the signal is set, so that a parent that died before is noticed here and one that dies later kills.
    let found = u32::try_from(getppid().as_raw()).unwrap_or(0);
    if found != supervisor_pid {
        return Err(LockError::Orphan { wanted: supervisor_pid, found });
    }
    Ok(())
}
