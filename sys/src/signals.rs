//! Signal dispositions that run no code, and the mask.
//!
//! Owns: ignoring a signal, whether one is ignored, giving it back its default, blocking none.
//! Never: installs a handler; [`crate::epoch`] and [`crate::sigsys`] have theirs.

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};

/// Ignores `which` from now on, in this process and its forks.
///
/// # Errors
/// `EINVAL` for SIGKILL and SIGSTOP.
pub fn ignore(which: Signal) -> Result<(), Errno> {
    // SAFETY: `signal` asks that a handler be async-signal-safe; SIG_IGN is no handler and runs nothing.
    unsafe { signal(which, SigHandler::SigIgn) }.map(drop)
}

/// Whether `which` is ignored.
///
/// # Errors
/// Never on Linux.
pub fn is_ignored(which: Signal) -> Result<bool, Errno> {
    // SAFETY: `sigaction` is integers, a set of bits and a pointer that may be null: all zero is a value of it.
    let mut now: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: `sigaction(2)` with a null second argument changes nothing, and writes one struct to the third, which
    // outlives the call.
    let asked = unsafe { libc::sigaction(which as libc::c_int, std::ptr::null(), &raw mut now) };
    Errno::result(asked)?;
    Ok(now.sa_sigaction == libc::SIG_IGN)
}

/// Gives `which` the kernel's default disposition, in this process and its forks.
///
/// # Errors
/// `EINVAL` for SIGKILL and SIGSTOP.
pub fn reset(which: Signal) -> Result<(), Errno> {
    // SAFETY: as for `ignore`: SIG_DFL is no handler and runs nothing.
    unsafe { signal(which, SigHandler::SigDfl) }.map(drop)
}

/// Blocks no signal in the calling thread, nor in what it forks, spawns and execs from now on.
///
/// # Errors
/// Never on Linux.
pub fn unblock_all() -> Result<(), Errno> {
    SigSet::empty().thread_set_mask()
}
