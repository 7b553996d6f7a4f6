//! Frames from a client, read with suspicion.
//!
//! Owns: when reading a frame is given up, and how much memory it may take until then.
//! Never: knows what a message means, receives a descriptor (plain reads; the kernel closes what was sent along).

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use stockade_wire::client::ToDaemon;
use stockade_wire::codec;
use stockade_wire::frame::{self, FrameError, HEADER_BYTES};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::OwnedReadHalf;
use tokio::time::timeout;

use super::census::{Reservation, Seat};

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
    /// The socket failed; nothing can be said to the client.
    #[error("reading from the client failed")]
    Read(#[source] std::io::Error),
}

/// The reading side of one connection.
pub(super) struct Inbound {
    reader: BufReader<OwnedReadHalf>,
    seat: Seat,
    frame_timeout: Duration,
}

impl Inbound {
    pub(super) fn new(half: OwnedReadHalf, seat: Seat, frame_timeout: Duration) -> Self {
        Self { reader: BufReader::with_capacity(READ_BYTES, half), seat, frame_timeout }
    }

    /// The first message, whose time runs from now. `None` when the client ended the connection instead.
    pub(super) async fn first(&mut self, max: usize) -> Result<Option<ToDaemon>, InboundError> {
        let patience = self.frame_timeout;
        timeout(patience, self.next(max)).await.unwrap_or(Err(InboundError::TooSlow(patience)))
    }

    /// The next message of at most `max` bytes, whose time runs from its first byte. `None` when the client
    /// ended its half between frames.
    ///
    /// Not to be called again after an error or after having been dropped half-way.
    pub(super) async fn next(&mut self, max: usize) -> Result<Option<ToDaemon>, InboundError> {
        if self.reader.fill_buf().await.map_err(InboundError::Read)?.is_empty() {
            return Ok(None);
        }
        let patience = self.frame_timeout;
        let late = |_| InboundError::TooSlow(patience);
        let length = timeout(patience, self.header(max)).await.map_err(late)??;
        let reservation = match length {
            ..=UNCOUNTED_BYTES => Reservation::none(),
            _ => self.seat.reserve(length, patience).await.ok_or(InboundError::Busy(length))?,
        };
        let body = timeout(patience, self.body(length)).await.map_err(late)??;
        let message = codec::decode(&body).map_err(FrameError::from)?;
        drop(reservation);
        Ok(Some(message))
    }

    /// Whether the client has closed the connection altogether, not just its sending half.
    pub(super) fn hung_up(&self) -> bool {
        let socket: BorrowedFd<'_> = self.reader.get_ref().as_ref().as_fd();
        let mut asked = [PollFd::new(socket, PollFlags::empty())];
        // POLLHUP is reported unasked, and on a Unix socket only once both directions are closed.
        let answered = poll(&mut asked, PollTimeout::ZERO).is_ok_and(|count| count > 0);
        answered && asked.iter().any(|fd| fd.any().unwrap_or(false))
    }

    async fn header(&mut self, max: usize) -> Result<usize, InboundError> {
        let mut header = [0; HEADER_BYTES];
        self.reader.read_exact(&mut header).await.map_err(truncated)?;
        Ok(frame::body_length(header, max)?)
    }

    /// Memory grows with the bytes that came, to at most twice as many and never above `length`.
    async fn body(&mut self, length: usize) -> Result<Vec<u8>, InboundError> {
        let mut body = Vec::new();
        while body.len() < length {
            let buffered = self.reader.fill_buf().await.map_err(InboundError::Read)?;
            let missing = length - body.len();
            let part = buffered.get(..missing).unwrap_or(buffered);
            let came = part.len();
            if came == 0 {
                return Err(InboundError::Truncated);
            }
            if body.capacity() < body.len() + came {
                body.reserve_exact(came.max(body.len()).min(missing));
            }
            body.extend_from_slice(part);
            self.reader.consume(came);
        }
        Ok(body)
    }
}

fn truncated(error: std::io::Error) -> InboundError {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => InboundError::Truncated,
        _ => InboundError::Read(error),
    }
}
