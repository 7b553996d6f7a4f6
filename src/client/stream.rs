//! Frames over the client's end of the socket.
//!
//! Owns: bytes that have come and are not a whole frame yet.
//! Never: knows which answer belongs to which request.

use std::io::{self, ErrorKind};
use std::path::Path;

use stockade_wire::client::{FromDaemon, ToDaemon};
use stockade_wire::codec;
use stockade_wire::frame::{self, FrameError, HEADER_BYTES};
use stockade_wire::limits::FRAME_BODY_BYTES_MAX;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::ClientError;

/// What is read at once, bytes.
const READ_BYTES: usize = 64 << 10;

/// A connected socket.
#[derive(Debug)]
pub(super) struct FrameStream {
    socket: UnixStream,
    /// The beginning of the next frame, as far as it has come.
    received: Vec<u8>,
}

impl FrameStream {
    pub(super) async fn connect(path: &Path) -> Result<Self, ClientError> {
        let socket = UnixStream::connect(path).await.map_err(|source| match source.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                ClientError::NotRunning(path.into(), source)
            }
            ErrorKind::PermissionDenied => ClientError::NotAllowed(path.into(), source),
            _ => ClientError::Connect(path.into(), source),
        })?;
        Ok(Self { socket, received: Vec::new() })
    }

    pub(super) async fn send(&mut self, message: &ToDaemon) -> Result<(), ClientError> {
        self.send_within(message, FRAME_BODY_BYTES_MAX as u64).await
    }

    /// Sends a frame of at most `max` bytes of body. Not to be dropped half-way.
    pub(super) async fn send_within(&mut self, message: &ToDaemon, max: u64) -> Result<(), ClientError> {
        let bound = usize::try_from(max).unwrap_or(usize::MAX).min(FRAME_BODY_BYTES_MAX);
        let frame = frame::encode(message, bound).map_err(|error| match error {
            FrameError::TooLarge { announced, .. } => ClientError::TooLarge { bytes: announced, max },
            error => ClientError::Frame(error),
        })?;
        match self.socket.write_all(&frame).await {
            // The daemon has closed; what it said before that is still there to be read.
            Err(error) if gone(&error) => match self.receive().await? {
                FromDaemon::Protocol { message } => Err(super::strange(FromDaemon::Protocol { message })),
                _ => Err(ClientError::Closed),
            },
            written => written.map_err(ClientError::Io),
        }
    }

    /// The next message. Safe to drop: what has come is kept.
    pub(super) async fn receive(&mut self) -> Result<FromDaemon, ClientError> {
        loop {
            if let Some(message) = self.take_frame()? {
                return Ok(message);
            }
            self.received.reserve(READ_BYTES);
            match self.socket.read_buf(&mut self.received).await {
                Ok(0) => return Err(ClientError::Closed),
                Err(error) if gone(&error) => return Err(ClientError::Closed),
                read => read.map_err(ClientError::Io)?,
            };
        }
    }

    fn take_frame(&mut self) -> Result<Option<FromDaemon>, ClientError> {
        let Some((header, rest)) = self.received.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let length = frame::body_length(*header, FRAME_BODY_BYTES_MAX).map_err(ClientError::Frame)?;
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let message = codec::decode(body).map_err(|error| ClientError::Frame(error.into()))?;
        self.received.drain(..HEADER_BYTES + length);
        if self.received.is_empty() {
            // Not to keep the memory of the largest answer there ever was.
            self.received.shrink_to(READ_BYTES);
        }
        Ok(Some(message))
    }
}

fn gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}
