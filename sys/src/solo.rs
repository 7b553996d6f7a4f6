//! Proof that a process has one thread.
//!
//! Owns: [`SingleThreaded`] and the two ways to come by one.
//! Never: starts or ends a thread.

use std::marker::PhantomData;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

/// Why the proof could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SoloError {
    /// The process has other threads.
    #[error(
        "this process has more than one thread, so it cannot fork or lock itself; do so before starting any"
    )]
    Threads,
    /// The kernel would not say.
    #[error("unshare(CLONE_THREAD), which asks the kernel whether this process has one thread, failed")]
    Unshare(#[source] Errno),
    /// The kernel's list of threads cannot be read.
    #[error("the list of this process's threads cannot be read")]
    List(#[source] std::io::Error),
}

/// This process had one thread when the value was made, and the value cannot leave that thread.
///
/// What a process does to itself (a fork, a syscall filter, a capability set) reaches one thread only.
#[derive(Debug)]
pub struct SingleThreaded(PhantomData<*const ()>);

impl SingleThreaded {
    /// Asks the kernel. `unshare(CLONE_THREAD)` changes nothing and succeeds in a process of one thread only. Where a
    /// container's filter refuses that call whatever its flags, procfs is asked.
    ///
    /// # Errors
    /// When there are other threads, or the call is forbidden here.
    pub fn probe() -> Result<Self, SoloError> {
        match unshare(CloneFlags::CLONE_THREAD) {
            Ok(()) => Ok(Self(PhantomData)),
            Err(Errno::EINVAL) => Err(SoloError::Threads),
            Err(Errno::EPERM | Errno::ENOSYS) => match threads()? {
                1 => Ok(Self(PhantomData)),
                _ => Err(SoloError::Threads),
            },
            Err(errno) => Err(SoloError::Unshare(errno)),
        }
    }

    /// The child of a fork has one thread, whatever its parent had: a rule of the kernel.
    pub(crate) const fn after_fork() -> Self {
        Self(PhantomData)
    }
}

/// Threads of this process, counted in procfs. For reports; [`SingleThreaded::probe`] is the check.
///
/// # Errors
/// When procfs is not there.
pub fn threads() -> Result<u32, SoloError> {
    let entries = std::fs::read_dir("/proc/self/task").map_err(SoloError::List)?;
    Ok(u32::try_from(entries.count()).unwrap_or(u32::MAX))
}
