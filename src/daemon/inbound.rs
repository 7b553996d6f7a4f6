//! Frames from a client, read with suspicion.
//!
//! Owns: when reading a frame is given up, and how much memory it may take until then.
//! Never: knows what a message means; receives a descriptor that was not announced (the kernel closes those).
//!
//! Until its client has said that it may send descriptors, and for ever if it does not, a connection is read with plain
//! reads, as much at once as there is. Afterwards no more is read at once than belongs to one header or to one body,
//! since the header says what there has to be room for: a byte that is read without room loses its descriptors.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use stockade_wire::client::ToDaemon;
use stockade_wire::codec;
use stockade_wire::frame::{self, FrameError, HEADER_BYTES, Header};
use tokio::time::timeout;

use super::census::{Reservation, Seat};
use crate::wire_end::WireEnd;

/// What is read at once, bytes; most requests fit.
const READ_BYTES: usize = 32 << 10;

/// Bodies up to this are not counted against the memory for bodies, so that a client can still ask and cancel
/// while others fill it. Bounded by the number of connections.
const UNCOUNTED_BYTES: usize = 16 << 10;

/// Why no further frame is read from a client.
#[derive(Debug, thiserror::Error)]
pub(super) enum InboundError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the connection ended within a frame")]
    Truncated,
    #[error("a frame took longer than {0:?}; send it in one go")]
    TooSlow(Duration),
    #[error("no memory for a frame of {0} bytes became free in time; try again later")]
    Busy(usize),
    #[error("{came} descriptors came with the body of a frame that announces {announced}")]
    FewFds { came: usize, announced: usize },
    #[error(
        "descriptors came that no header announced; they have to be announced, and to come with the first byte of a body"
    )]
    UnannouncedFds,
    /// The socket failed; nothing can be said to the client.
    #[error("reading from the client failed")]
    Read(#[source] io::Error),
}

/// A message and what came with it.
pub(super) type Received = (ToDaemon, Vec<OwnedFd>);

/// The reading side of one connection.
pub(super) struct Inbound {
    socket: WireEnd,
    seat: Seat,
    frame_timeout: Duration,
    /// What was read and not taken yet: from `taken` up to `filled`.
    buffer: Box<[u8]>,
    taken: usize,
    filled: usize,
    /// Headers may announce descriptors.
    with_fds: bool,
}

impl Inbound {
    pub(super) fn new(socket: WireEnd, seat: Seat, frame_timeout: Duration) -> Self {
        let buffer = vec![0; READ_BYTES].into_boxed_slice();
        Self { socket, seat, frame_timeout, buffer, taken: 0, filled: 0, with_fds: false }
    }

    /// From here on headers may announce descriptors. What was read already came without.
    pub(super) const fn expect_fds(&mut self) {
        self.with_fds = true;
    }

    /// The first message, whose time runs from now. `None` when the client ended the connection instead.
    pub(super) async fn first(&mut self, max: usize) -> Result<Option<Received>, InboundError> {
        let patience = self.frame_timeout;
        timeout(patience, self.next(max)).await.unwrap_or(Err(InboundError::TooSlow(patience)))
    }

    /// The next message of at most `max` bytes, whose time runs from its first byte. `None` when the client
    /// ended its half between frames.
    ///
    /// Not to be called again after an error or after having been dropped half-way.
    pub(super) async fn next(&mut self, max: usize) -> Result<Option<Received>, InboundError> {
        self.fill(HEADER_BYTES, 0).await?;
        if self.taken == self.filled {
            return Ok(None);
        }
        let patience = self.frame_timeout;
        let late = |_| InboundError::TooSlow(patience);
        let header = timeout(patience, self.header(max)).await.map_err(late)??;
        let reservation = match header.body_bytes {
            ..=UNCOUNTED_BYTES => Reservation::none(),
            length => self.seat.reserve(length, patience).await.ok_or(InboundError::Busy(length))?,
        };
        let (body, fds) = timeout(patience, self.body(header)).await.map_err(late)??;
        let message = codec::decode(&body).map_err(FrameError::from)?;
        drop(reservation);
        Ok(Some((message, fds)))
    }

    /// Whether the client has closed the connection altogether, not just its sending half.
    pub(super) fn hung_up(&self) -> bool {
        let mut asked = [PollFd::new(self.socket.as_fd(), PollFlags::empty())];
        // POLLHUP is reported unasked, and on a Unix socket only once both directions are closed.
        let answered = poll(&mut asked, PollTimeout::ZERO).is_ok_and(|count| count > 0);
        answered && asked.iter().any(|fd| fd.any().unwrap_or(false))
    }

    /// Reads once if nothing is there to be taken: at most `most` bytes, and with room for `room` descriptors, where
    /// there may be any. Returns what came; with nothing in the buffer either, the client has ended its half.
    async fn fill(&mut self, most: usize, room: usize) -> Result<Vec<OwnedFd>, InboundError> {
        if self.taken < self.filled {
            return Ok(Vec::new());
        }
        (self.taken, self.filled) = (0, 0);
        if !self.with_fds {
            self.filled = self.socket.read(&mut self.buffer).await.map_err(InboundError::Read)?;
            return Ok(Vec::new());
        }
        let length = most.min(self.buffer.len());
        let part = self.buffer.get_mut(..length).unwrap_or_default();
        let received = self.socket.receive(part, room).await.map_err(InboundError::Read)?;
        if received.more_fds {
            return Err(InboundError::UnannouncedFds);
        }
        self.filled = received.length;
        Ok(received.fds)
    }

    /// What is there, at most `most` bytes of it.
    fn take(&mut self, most: usize) -> &[u8] {
        let end = self.filled.min(self.taken.saturating_add(most));
        let part = self.buffer.get(self.taken..end).unwrap_or_default();
        self.taken = end;
        part
    }

    async fn header(&mut self, max: usize) -> Result<Header, InboundError> {
        let mut header = [0; HEADER_BYTES];
        let mut rest = header.as_mut_slice();
        while !rest.is_empty() {
            self.fill(rest.len(), 0).await?;
            let part = self.take(rest.len());
            let (now, later) = rest.split_at_mut(part.len());
            now.copy_from_slice(part);
            if now.is_empty() {
                return Err(InboundError::Truncated);
            }
            rest = later;
        }
        Ok(if self.with_fds {
            frame::header(header, max)?
        } else {
            Header { body_bytes: frame::body_length(header, max)?, fds: 0 }
        })
    }

    /// Memory grows with the bytes that came, to at most twice as many and never above the body's length.
    async fn body(
        &mut self,
        Header { body_bytes, fds: announced }: Header,
    ) -> Result<(Vec<u8>, Vec<OwnedFd>), InboundError> {
        let mut body = Vec::new();
        let mut fds = Vec::new();
        while body.len() < body_bytes {
            let missing = body_bytes - body.len();
            let first = body.is_empty();
            // By itself where something has to come with it: a longer read would take what comes with a later byte, too.
            let most = if first && announced > 0 { 1 } else { missing };
            let came = self.fill(most, if first { announced } else { 0 }).await?;
            if first {
                fds = came;
            }
            let part = self.take(missing);
            if part.is_empty() {
                return Err(InboundError::Truncated);
            }
            if first && fds.len() < announced {
                return Err(InboundError::FewFds { came: fds.len(), announced });
            }
            if body.capacity() < body.len() + part.len() {
                body.reserve_exact(part.len().max(body.len()).min(missing));
            }
            body.extend_from_slice(part);
        }
        Ok((body, fds))
    }
}
