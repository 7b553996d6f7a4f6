//! Frames over the client's end of the socket.
//!
//! Owns: bytes that have come and are not a whole frame yet, and the descriptors that came with them.
//! Never: knows which answer belongs to which request; receives a descriptor that no header announced.

use std::io::{self, ErrorKind};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use stockade_wire::client::{FromDaemon, ToDaemon};
use stockade_wire::codec;
use stockade_wire::frame::{self, FrameError, HEADER_BYTES, Header};
use stockade_wire::limits::FRAME_BODY_BYTES_MAX;
use tokio::net::UnixStream;

use super::ClientError;
use crate::wire_end::WireEnd;

/// What is read at once, bytes.
const READ_BYTES: usize = 64 << 10;

/// A connected socket.
#[derive(Debug)]
pub(super) struct FrameStream {
    socket: WireEnd,
    /// The beginning of the next frame, as far as it has come.
    received: Vec<u8>,
    /// What came with the first byte of its body.
    fds: Vec<OwnedFd>,
    /// Headers may announce descriptors, and no more is read at once than belongs to one header or to one body.
    with_fds: bool,
}

/// A message and what came with it.
pub(super) type Received = (FromDaemon, Vec<OwnedFd>);

impl FrameStream {
    pub(super) async fn connect(path: &Path) -> Result<Self, ClientError> {
        let socket = UnixStream::connect(path).await.map_err(|source| match source.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                ClientError::NotRunning(path.into(), source)
            }
            ErrorKind::PermissionDenied => ClientError::NotAllowed(path.into(), source),
            _ => ClientError::Connect(path.into(), source),
        })?;
        let socket = WireEnd::new(socket).map_err(ClientError::Io)?;
        Ok(Self { socket, received: Vec::new(), fds: Vec::new(), with_fds: false })
    }

    /// From here on headers may announce descriptors.
    pub(super) const fn expect_fds(&mut self) {
        self.with_fds = true;
    }

    pub(super) async fn send(&mut self, message: &ToDaemon) -> Result<(), ClientError> {
        self.send_within(message, &[], FRAME_BODY_BYTES_MAX as u64).await
    }

    /// Sends a frame of at most `max` bytes of body, with copies of `fds`. Not to be dropped half-way.
    pub(super) async fn send_within(
        &mut self,
        message: &ToDaemon,
        fds: &[BorrowedFd<'_>],
        max: u64,
    ) -> Result<(), ClientError> {
        let bound = usize::try_from(max).unwrap_or(usize::MAX).min(FRAME_BODY_BYTES_MAX);
        let frame = frame::encode_with(message, bound, fds.len()).map_err(|error| match error {
            FrameError::TooLarge { announced, .. } => ClientError::TooLarge { bytes: announced, max },
            error => ClientError::Frame(error),
        })?;
        match self.write(&frame, fds).await {
            // The daemon has closed; what it said before that is still there to be read.
            Err(error) if gone(&error) => match self.receive().await? {
                (FromDaemon::Protocol { message }, _) => {
                    Err(super::strange(FromDaemon::Protocol { message }))
                }
                _ => Err(ClientError::Closed),
            },
            written => written.map_err(ClientError::Io),
        }
    }

    async fn write(&self, frame: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if fds.is_empty() {
            return self.socket.write_all(frame).await;
        }
        let (header, body) = frame.split_at_checked(HEADER_BYTES).unwrap_or_default();
        self.socket.write_all(header).await?;
        let sent = self.socket.send(body, fds).await?;
        self.socket.write_all(body.get(sent..).unwrap_or_default()).await
    }

    /// The next message. Safe to drop: what has come is kept.
    pub(super) async fn receive(&mut self) -> Result<Received, ClientError> {
        loop {
            if let Some(received) = self.take_frame()? {
                return Ok(received);
            }
            match self.read().await {
                Ok(0) => return Err(ClientError::Closed),
                Err(error) if gone(&error) => return Err(ClientError::Closed),
                read => read.map_err(ClientError::Io)?,
            };
        }
    }

    /// Reads once.
    async fn read(&mut self) -> io::Result<usize> {
        let (wanted, room) = self.wanted();
        let mut part = vec![0; wanted.min(READ_BYTES)];
        let came = self.socket.receive(&mut part, room).await?;
        if came.more_fds {
            return Err(ErrorKind::InvalidData.into());
        }
        part.truncate(came.length);
        self.received.append(&mut part);
        self.fds.extend(came.fds);
        Ok(came.length)
    }

    /// How many bytes are read next at most, and with room for how many descriptors.
    fn wanted(&self) -> (usize, usize) {
        if !self.with_fds {
            return (READ_BYTES, 0);
        }
        let held = self.received.len();
        let header = self.received.first_chunk::<HEADER_BYTES>();
        // Whether it is a header at all is seen when its frame is taken.
        let header = header.and_then(|header| frame::header(*header, FRAME_BODY_BYTES_MAX).ok());
        match header {
            None => (HEADER_BYTES.saturating_sub(held), 0),
            Some(Header { body_bytes, fds }) => {
                let first = held == HEADER_BYTES;
                ((HEADER_BYTES + body_bytes).saturating_sub(held), if first { fds } else { 0 })
            }
        }
    }

    fn take_frame(&mut self) -> Result<Option<Received>, ClientError> {
        let Some((header, rest)) = self.received.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let Header { body_bytes, fds } = if self.with_fds {
            frame::header(*header, FRAME_BODY_BYTES_MAX)
        } else {
            frame::body_length(*header, FRAME_BODY_BYTES_MAX).map(|body_bytes| Header { body_bytes, fds: 0 })
        }
        .map_err(ClientError::Frame)?;
        let Some(body) = rest.get(..body_bytes) else { return Ok(None) };
        if self.fds.len() != fds {
            return Err(ClientError::Unexpected);
        }
        let message = codec::decode(body).map_err(|error| ClientError::Frame(error.into()))?;
        self.received.drain(..HEADER_BYTES + body_bytes);
        if self.received.is_empty() {
            // Not to keep the memory of the largest answer there ever was.
            self.received.shrink_to(READ_BYTES);
        }
        Ok(Some((message, std::mem::take(&mut self.fds))))
    }
}

fn gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}
