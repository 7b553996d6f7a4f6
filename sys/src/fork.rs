//! Forking a sibling: a child of this process's parent.
//!
//! Owns: `clone3` with `CLONE_PARENT` and the pidfd that comes with it.
//! Never: forks a process of several threads, lets a child return into its parent's frames.
//!
//! The raw call skips `pthread_atfork` handlers. With one thread no lock can be held by somebody else, and
//! whoever registers such a handler for another reason must not be in a process that forks here.

use std::convert::Infallible;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use crate::solo::SingleThreaded;

/// Exit status of a child whose closure unwound.
pub const UNWOUND_STATUS: i32 = 102;

/// Held by the child of a fork only. The parent's frames never run again in it: what they own may be closed
/// under them.
#[derive(Debug)]
pub struct Newborn(SingleThreaded);

impl Newborn {
    /// The proof that the child has one thread.
    #[must_use]
    pub fn into_solo(self) -> SingleThreaded {
        self.0
    }
}

/// A sibling that was born.
#[derive(Debug)]
pub struct Forked {
    /// Its process id in this process's namespace.
    pub pid: u32,
    /// Its pidfd, close-on-exec.
    pub pidfd: OwnedFd,
}

/// Ends the child if its closure unwinds: its frames below belong to the parent.
pub(crate) struct ExitGuard;

impl Drop for ExitGuard {
    fn drop(&mut self) {
        // SAFETY: `_exit` has no precondition and does not return; no destructor of the parent's runs.
        unsafe { libc::_exit(UNWOUND_STATUS) }
    }
}

/// Forks a child of this process's parent, in cgroup `leaf` if one is given, and runs `child` in it.
///
/// Where a syscall filter hides `clone3` (`ENOSYS`), which alone can have a child born in another cgroup, it is born in this
/// process's: who gave the leaf has to look where the child is, and to move it.
///
/// The child has copies of everything this process had: memory, descriptors, signal dispositions.
///
/// # Errors
/// What `clone3` says, or where that is hidden, `clone`.
pub fn sibling<F>(_solo: &SingleThreaded, leaf: Option<BorrowedFd<'_>>, child: F) -> Result<Forked, Errno>
where
    F: FnOnce(Newborn) -> Infallible,
{
    let mut pidfd: libc::c_int = -1;
    let pid = match clone3(&mut pidfd, leaf) {
        Err(Errno::ENOSYS) => clone(&mut pidfd)?,
        other => other?,
    };
    if pid == 0 {
        let _guard = ExitGuard;
        #[expect(unreachable_code, reason = "the type of what the closure returns says so")]
        match child(Newborn(SingleThreaded::after_fork())) {}
    }
    // SAFETY: `from_raw_fd` wants an open descriptor that nobody else owns: the kernel stored one in `pidfd`
    // when the call above returned a process id, and nothing else has seen it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Forked { pid: u32::try_from(pid).map_err(|_| Errno::EOVERFLOW)?, pidfd })
}

fn clone3(pidfd: &mut libc::c_int, leaf: Option<BorrowedFd<'_>>) -> Result<libc::c_long, Errno> {
    // No exit signal: with CLONE_PARENT the child gets its parent's, and clone3 refuses one of its own.
    let flags = libc::CLONE_PARENT | libc::CLONE_PIDFD;
    // SAFETY: `clone_args` is a struct of integers, for which all zero is a value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    if let Some(leaf) = leaf {
        arguments.cgroup = u64::try_from(leaf.as_raw_fd()).map_err(|_| Errno::EBADF)?;
        arguments.flags = CLONE_INTO_CGROUP;
    }
    arguments.flags |= u64::try_from(flags).map_err(|_| Errno::EINVAL)?;
    arguments.pidfd = std::ptr::from_mut(pidfd) as u64;
    let size = size_of::<libc::clone_args>();
    // SAFETY: `clone3` reads `size` bytes at `arguments`, which is that large, and writes one int at `pidfd`,
    // which outlives the call. Without CLONE_VM the child has its own memory, so running on in it is what
    // `fork` does; that no other thread held a lock is what the caller's `SingleThreaded` says.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::from_ref(&arguments), size) };
    Errno::result(pid)
}

/// The older call, for hosts whose syscall filter hides `clone3` because it cannot look into its argument.
fn clone(pidfd: &mut libc::c_int) -> Result<libc::c_long, Errno> {
    let flags = libc::c_long::from(libc::CLONE_PARENT | libc::CLONE_PIDFD);
    let null = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: flags, stack, parent_tid are in this order on x86-64 and aarch64. A null stack without CLONE_VM
    // means a copy of this one; with CLONE_PIDFD the third argument is where one int is written, and `pidfd`
    // outlives the call. The rest is unused with these flags. As for `clone3`, the child is a plain fork.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, null, std::ptr::from_mut(pidfd), null, null) };
    Errno::result(pid)
}

// libc types it as c_int, which it does not fit.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
