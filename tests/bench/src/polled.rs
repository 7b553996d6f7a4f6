//! A socket that is read from once there is something to be read.
//!
//! Owns: how every client of the bench waits for an answer, so that none is measured otherwise than the rest.
//! Never: waits for ever.
//!
//! Who sleeps in the read itself is also woken when the other side takes the request, which makes room to write, and goes
//! to sleep again.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Longest wait for an answer: whatever takes longer hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Such a socket.
#[derive(Debug)]
pub struct Polled<S>(pub S);

impl<S: AsFd + Read> Read for Polled<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let patience = PollTimeout::try_from(PATIENCE).map_err(io::Error::other)?;
        loop {
            match poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], patience) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => return self.0.read(buffer),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl<S: Write> Write for Polled<S> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
