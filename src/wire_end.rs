//! One end of a client's connection, the daemon's or the client's.
//!
//! Owns: when the runtime is asked whether there is something to read, or room to write.
//! Never: knows a frame.
//!
//! The runtime knows of the socket for what there is to read, and not for room to write: there is room for what the other end
//! is sent, and each message that it takes would wake this process to be told so. What the kernel has said is exhausted is not
//! asked for again.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use stockade_sys::rights::{self, Received};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

use crate::supervisor::readiness::{watch_shared, watch_writable};

/// A connected socket that does not block. A cheap handle.
#[derive(Debug, Clone)]
pub(crate) struct WireEnd {
    socket: Arc<OwnedFd>,
    readable: Arc<AsyncFd<Arc<OwnedFd>>>,
}

impl WireEnd {
    /// Takes over a connection. Needs a Tokio runtime.
    ///
    /// # Errors
    /// When the kernel does not let it be watched.
    pub(crate) fn new(stream: UnixStream) -> io::Result<Self> {
        // It stays as it is, which is not blocking.
        let socket = Arc::new(OwnedFd::from(stream.into_std()?));
        let readable = Arc::new(watch_shared(Arc::clone(&socket))?);
        Ok(Self { socket, readable })
    }

    /// Reads once, when there is something; 0 bytes are the end. Descriptors that come are closed by the kernel. Dropping the
    /// future loses nothing.
    ///
    /// # Errors
    /// As the kernel has them.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len();
        let read = || loop {
            match recv(self.socket.as_raw_fd(), buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                read => return Ok(read?),
            }
        };
        self.when_readable(read, |length| (1..most).contains(length)).await
    }

    /// The same with room for `room` descriptors.
    ///
    /// # Errors
    /// As the kernel has them.
    pub(crate) async fn receive(&self, buffer: &mut [u8], room: usize) -> io::Result<Received> {
        let most = buffer.len();
        let receive = || Ok(rights::receive(self.socket.as_fd(), buffer, room)?);
        // What came with descriptors ends there, whatever comes after it.
        let all = |came: &Received| came.fds.is_empty() && !came.more_fds && (1..most).contains(&came.length);
        self.when_readable(receive, all).await
    }

    /// Less than there was room for is all there was: nothing is tried again before the kernel says that more has come.
    async fn when_readable<T>(
        &self,
        mut read: impl FnMut() -> io::Result<T>,
        is_all: impl Fn(&T) -> bool,
    ) -> io::Result<T> {
        loop {
            let mut ready = self.readable.readable().await?;
            match read() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Ok(came) => {
                    if is_all(&came) {
                        ready.clear_ready();
                    }
                    return Ok(came);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes all of `bytes`, waiting for room where there is none.
    ///
    /// # Errors
    /// As the kernel has them.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = self.send(bytes, &[]).await?;
            bytes = bytes.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    /// Sends as much of `bytes` as there is room for, at least one, and copies of `fds` with the first of them. With how many
    /// went out.
    ///
    /// # Errors
    /// As the kernel has them.
    pub(crate) async fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        match self.send_now(bytes, fds) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // Through a descriptor of its own, which alone is watched for room.
                let room = watch_writable(self.socket.try_clone()?)?;
                room.async_io(Interest::WRITABLE, |_| self.send_now(bytes, fds)).await
            }
            sent => sent,
        }
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room; others as the kernel has them.
    pub(crate) fn send_now(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        if !fds.is_empty() {
            return Ok(rights::send(self.socket.as_fd(), bytes, fds)?);
        }
        loop {
            match send(self.socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL) {
                Err(Errno::EINTR) => {}
                sent => return Ok(sent?),
            }
        }
    }
}

impl AsFd for WireEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn timed(test: impl AsyncFnOnce(WireEnd, UnixStream)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (ours, theirs) = UnixStream::pair().unwrap();
            tokio::time::timeout(PATIENCE, test(WireEnd::new(ours).unwrap(), theirs)).await.unwrap();
        });
    }

    #[test]
    fn bytes_that_come_in_any_portions_are_all_read_and_then_the_end() {
        timed(async |ours, mut theirs| {
            let reading = async {
                let (mut all, mut buffer) = (Vec::new(), [0; 7]);
                loop {
                    match ours.read(&mut buffer).await.unwrap() {
                        0 => return all,
                        length => all.extend_from_slice(&buffer[..length]),
                    }
                }
            };
            let writing = async {
                for length in (1..=15).chain([7, 14, 7]) {
                    theirs.write_all(&vec![b'x'; length]).await.unwrap();
                    tokio::task::yield_now().await;
                }
                drop(theirs);
            };
            let (read, ()) = tokio::join!(reading, writing);
            assert_eq!(read.len(), 120 + 28);
        });
    }

    #[test]
    fn end_that_comes_with_the_last_bytes_is_seen_after_them() {
        timed(async |ours, mut theirs| {
            theirs.write_all(b"last").await.unwrap();
            drop(theirs);
            let mut buffer = [0; 64];
            assert_eq!(ours.receive(&mut buffer, 0).await.unwrap().length, 4);
            assert_eq!(ours.receive(&mut buffer, 0).await.unwrap().length, 0);
        });
    }

    #[test]
    fn more_than_there_is_room_for_goes_out_as_it_is_read() {
        timed(async |ours, mut theirs| {
            const BYTES: usize = 4 << 20;
            let writing = async {
                ours.write_all(&vec![b'x'; BYTES]).await.unwrap();
                drop(ours);
            };
            let mut read = Vec::new();
            let (_, length) = tokio::join!(writing, theirs.read_to_end(&mut read));
            assert_eq!(length.unwrap(), BYTES);
        });
    }

    #[test]
    fn writing_to_a_client_that_is_gone_fails() {
        timed(async |ours, theirs| {
            drop(theirs);
            let error = ours.write_all(b"x").await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        });
    }
}
