//! The table of open descriptors as a whole.
//!
//! Owns: settling descriptors at fixed numbers, taking over inherited ones, closing all others, listing what is open.
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
    /// The process was not started with this descriptor.
    #[error("descriptor {number} was not inherited: it is {what}")]
    NotInherited {
        /// The number.
        number: RawFd,
        /// What it is instead.
        what: &'static str,
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

/// Takes over the descriptor that whoever executed this program left open for it at `number`, and has it closed when
/// anything else is executed.
///
/// Nothing has to be believed about `number`: a descriptor that came through `execve` cannot be close-on-exec, and one
/// that this program opened always is (the standard library, `nix` and Tokio see to it), as is one taken over before.
///
/// # Errors
/// When it is not open, is one of the standard three, or is this program's own. It is left as it is then.
pub fn take_inherited(number: RawFd) -> Result<OwnedFd, FdsError> {
    if number <= libc::STDERR_FILENO {
        return Err(FdsError::NotInherited { number, what: "a standard one" });
    }
    // SAFETY: F_GETFD reads a flag of a descriptor number, open or not, and touches no memory of ours.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags < 0 {
        return Err(FdsError::NotInherited { number, what: "not open" });
    }
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(FdsError::NotInherited { number, what: "this program's own" });
    }
    // SAFETY: F_SETFD sets a flag of an open descriptor and touches no memory of ours.
    let set = unsafe { libc::fcntl(number, libc::F_SETFD, flags | libc::FD_CLOEXEC) };
    Errno::result(set).map_err(|errno| FdsError::Move { number, errno })?;
    // SAFETY: `from_raw_fd` wants an open descriptor that nobody else owns: it is open, and was not close-on-exec, so
    // that it was inherited and has no owner in this program, nor was it taken over before.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn descriptor_that_was_not_inherited_is_not_taken() {
        let own = File::open("/dev/null").unwrap();
        for (number, says) in
            [(0, "standard"), (own.as_raw_fd(), "own"), (1 << 20, "not open"), (-1, "standard")]
        {
            let refused = take_inherited(number).unwrap_err().to_string();
            assert!(refused.contains(says), "{number}: {refused}");
        }
        assert!(own.metadata().is_ok());
    }
}
