//! Our end of a pipe that a worker writes to.
//!
//! Owns: when it is registered with the runtime: not before somebody waits for it.
//! Never: interprets what comes; decides how much is read.
//!
//! A short job is over before its pipes are full, and they are read once, when it has ended. Registering one and taking
//! it out again are two system calls and two allocations; three pipes' were a tenth of what the supervisor did for a job.

use std::cell::OnceCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;
use tokio::io::unix::AsyncFd;

use super::readiness::watch_shared;

/// The reading end, which does not block.
#[derive(Debug)]
pub(crate) struct GuestPipe {
    fd: Rc<OwnedFd>,
    watched: OnceCell<AsyncFd<Rc<OwnedFd>>>,
}

impl GuestPipe {
    /// Both ends of a new pipe. The worker's blocks.
    ///
    /// # Errors
    /// When there is no descriptor to be had.
    pub(crate) fn make() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_RDONLY | OFlag::O_NONBLOCK))?;
        Ok((Self { fd: Rc::new(ours), watched: OnceCell::new() }, theirs))
    }

    /// Returns when there may be something to read, or nothing will come any more. Dropping the future loses nothing. Needs a
    /// Tokio runtime.
    ///
    /// # Errors
    /// When the pipe cannot be watched.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.watched()?.readable().await.map(drop)
    }

    /// Reads once.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing, which one that is watched may know without asking; others as the kernel has them.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = |buffer: &mut [u8]| Ok(nix::unistd::read(&*self.fd, buffer)?);
        match self.watched.get() {
            Some(watched) => watched.try_io(tokio::io::Interest::READABLE, |_| read(buffer)),
            None => read(buffer),
        }
    }

    /// Has the runtime know of it from now on, where it is read again and again.
    ///
    /// # Errors
    /// When the kernel refuses that.
    pub(crate) fn watched(&self) -> io::Result<&AsyncFd<Rc<OwnedFd>>> {
        if let Some(watched) = self.watched.get() {
            return Ok(watched);
        }
        let watched = watch_shared(Rc::clone(&self.fd))?;
        Ok(self.watched.get_or_init(|| watched))
    }
}

impl AsFd for GuestPipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
