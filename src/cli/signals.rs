//! What signals are to the process a supervisor lives in, whoever started it.
//!
//! Owns: undoing what is inherited and cannot be lived with.
//! Never: installs a handler; [`crate::daemon::StopSignals`] does.

use nix::errno::Errno;
use nix::sys::signal::Signal;
use stockade_sys::signals::{reset, unblock_all};

/// The kernel refused to.
#[derive(Debug, thiserror::Error)]
#[error("the signals this process was started with cannot be put in order; do not filter rt_sigaction")]
pub(super) struct InheritedSignalsError(#[from] Errno);

/// To be called by every command that starts a supervisor, before it has a second thread.
///
/// With SIGCHLD ignored the kernel reaps children by itself: how a worker ended is lost, and its id given away while
/// it is still taken for the worker's. What is blocked here is blocked in the zygote and every worker, too.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn begin_afresh() -> Result<(), InheritedSignalsError> {
    reset(Signal::SIGCHLD)?;
    Ok(unblock_all()?)
}
