//! Signal dispositions that run no code.
//!
//! Owns: ignoring a signal.
//! Never: installs a handler; [`crate::epoch`] and [`crate::sigsys`] have theirs.

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal, signal};

/// Ignores `which` from now on, in this process and its forks.
///
/// # Errors
/// `EINVAL` for SIGKILL and SIGSTOP.
pub fn ignore(which: Signal) -> Result<(), Errno> {
    // SAFETY: `signal` asks that a handler be async-signal-safe; SIG_IGN is no handler and runs nothing.
    unsafe { signal(which, SigHandler::SigIgn) }.map(drop)
}
