//! The table of open descriptors as a whole.
//!
//! Owns: settling descriptors at fixed numbers, closing all others, listing what is open.
//! Never: opens anything.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use crate::fork::Newborn;

/// Why the table could not be put in order.
#[derive(Debug, thiserror::Error)]
pub enum FdsError {
    /// A descriptor could not be put at its number.
    #[error("descriptor could not be moved to number {number}")]
    Move {
        /// The number.
        number: RawFd,
        /// What the kernel said.
        #[source]
        errno: Errno,
    },
    /// The others could not be closed.
    #[error("descriptors {first} and above could not be closed; close_range needs Linux 5.9")]
    Close {
        /// First of the range.
        first: RawFd,
        /// What the kernel said.
        #[source]
        errno: Errno,
    },
    /// A number was asked for twice or is out of range.
    #[error("descriptor number {number} cannot be used")]
    Number {
        /// The number.
        number: RawFd,
    },
}

/// Puts `wanted[i]` at number `i` for every `i`, leaves the next `kept` numbers as they are, closes every other
/// descriptor of the process, and hands the survivors of `wanted` back in the same order. None of them is
/// close-on-exec: nothing here ever execs.
///
/// Takes the child's proof, because descriptors that the parent's frames own are closed under them. What is `kept`
/// stays with whatever owns it in the memory that the child inherited.
///
/// # Errors
/// When the kernel refuses; the table is then in disorder and the process should end.
pub fn settle(
    newborn: Newborn,
    wanted: Vec<OwnedFd>,
    kept: u16,
) -> Result<(Newborn, Vec<OwnedFd>), FdsError> {
    let first_free = RawFd::try_from(wanted.len()).map_err(|_| FdsError::Number { number: RawFd::MAX })?;
    let mut sources = Vec::with_capacity(wanted.len());
    for (number, fd) in (0..).zip(wanted) {
        let raw = fd.into_raw_fd();
        // One that sits where another belongs is moved out of the way before anything is overwritten.
        let in_the_way = raw < first_free && raw != number;
        sources.push(if in_the_way { duplicate_above(raw, first_free + RawFd::from(kept))? } else { raw });
    }
    let mut settled = Vec::with_capacity(sources.len());
    for (number, raw) in (0..).zip(sources) {
        duplicate_to(raw, number)?;
        // SAFETY: `from_raw_fd` wants an open descriptor that nobody else owns. `number` was just made open, and
        // whatever frame owned it before belongs to the parent, which `Newborn` says never runs here.
        settled.push(unsafe { OwnedFd::from_raw_fd(number) });
    }
    close_from(first_free + RawFd::from(kept))?;
    Ok((newborn, settled))
}

fn duplicate_above(raw: RawFd, floor: RawFd) -> Result<RawFd, FdsError> {
    // SAFETY: F_DUPFD reads two integers and makes a new descriptor; it touches no memory of ours.
    let fd = unsafe { libc::fcntl(raw, libc::F_DUPFD_CLOEXEC, floor) };
    Errno::result(fd).map_err(|errno| FdsError::Move { number: floor, errno })
}

fn duplicate_to(raw: RawFd, number: RawFd) -> Result<(), FdsError> {
    if raw == number {
        return Ok(());
    }
    // SAFETY: `dup2` takes two integers. The descriptor it closes at `number` is owned by no frame that runs
    // in this process, which is the contract of `settle`.
    let fd = unsafe { libc::dup2(raw, number) };
    Errno::result(fd).map(drop).map_err(|errno| FdsError::Move { number, errno })
}

/// Closes every descriptor except 0, 1, 2 and those in `keep`. For the start of a process, before it opens
/// anything of its own: what was inherited has no owner here.
///
/// # Errors
/// When `close_range` fails.
pub fn close_inherited(keep: &[BorrowedFd<'_>]) -> Result<(), FdsError> {
    let mut kept: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).filter(|fd| *fd > 2).collect();
    kept.sort_unstable();
    let mut next = 3;
    for fd in kept {
        if fd > next {
            close_range(next, fd.unsigned_abs() - 1)?;
        }
        next = fd + 1;
    }
    close_from(next)
}

fn close_from(first: RawFd) -> Result<(), FdsError> {
    close_range(first, u32::MAX)
}

fn close_range(first: RawFd, last: u32) -> Result<(), FdsError> {
    // SAFETY: `close_range` takes three integers. That no live owner of a descriptor in the range exists is
    // the contract of both callers in this file.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first.unsigned_abs(), last, 0) };
    Errno::result(done).map(drop).map_err(|errno| FdsError::Close { first, errno })
}

/// Which of the numbers below `end` are open, asked one by one: works where procfs does not.
#[must_use]
pub fn open_below(end: u32) -> Vec<u32> {
    (0..end).filter(|fd| is_open(*fd)).collect()
}

fn is_open(fd: u32) -> bool {
    let Ok(fd) = RawFd::try_from(fd) else { return false };
    // SAFETY: F_GETFD reads a flag of a descriptor number, open or not, and touches no memory of ours.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}
