//! Length-prefixed frames, without input or output.
//!
//! Owns: the four bytes before every message and what they may say.
//! Never: allocates for a body whose length has not been checked, touches a socket.
//!
//! ```text
//! ┌────────────────────┬──────────────────────┐
//! │ body length, u32 LE│ body: one message    │
//! └────────────────────┴──────────────────────┘
//! ```

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{self, CodecError};

/// Bytes of a frame before its body.
pub const HEADER_BYTES: usize = 4;

/// Why a frame is refused. Every one of these ends the connection it came on.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A body length of zero: no message encodes to nothing.
    #[error("frame announces an empty body")]
    Empty,
    /// The announced body is larger than the receiver accepts at this point.
    #[error("frame announces {announced} bytes; at most {max} are accepted here")]
    TooLarge {
        /// What the header says.
        announced: usize,
        /// What the receiver accepts.
        max: usize,
    },
    /// A packet whose length is not what its header says.
    #[error("packet of {received} bytes announces a body of {announced}")]
    LengthMismatch {
        /// Bytes after the header.
        received: usize,
        /// What the header says.
        announced: usize,
    },
    /// The body is not a message of the expected type.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// Reads a header: the length of the body that follows, bytes, at most `max`.
///
/// # Errors
/// When the length is zero or above `max`; nothing has been allocated by then.
pub fn body_length(header: [u8; HEADER_BYTES], max: usize) -> Result<usize, FrameError> {
    let announced = u32::from_le_bytes(header) as usize;
    match announced {
        0 => Err(FrameError::Empty),
        n if n > max => Err(FrameError::TooLarge { announced, max }),
        n => Ok(n),
    }
}

/// One whole frame, header included, at most `max` bytes of body.
///
/// # Errors
/// When the message encodes to more than `max` bytes.
pub fn encode<T: Serialize>(message: &T, max: usize) -> Result<Vec<u8>, FrameError> {
    let body = codec::encode(message)?;
    let announced = body.len();
    let length = u32::try_from(announced)
        .ok()
        .filter(|_| announced <= max)
        .ok_or(FrameError::TooLarge { announced, max })?;
    let mut frame = Vec::with_capacity(HEADER_BYTES + announced);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// The message in `packet`, which must hold exactly one frame: how links between Stockade's own processes
/// receive, where the kernel keeps message boundaries.
///
/// # Errors
/// When `packet` is not exactly one frame of at most `max` bytes of body, or its body is not a `T`.
pub fn decode_packet<T: DeserializeOwned>(packet: &[u8], max: usize) -> Result<T, FrameError> {
    let Some((header, body)) = packet.split_first_chunk::<HEADER_BYTES>() else {
        return Err(FrameError::Empty);
    };
    let announced = body_length(*header, max)?;
    if announced != body.len() {
        return Err(FrameError::LengthMismatch { received: body.len(), announced });
    }
    Ok(codec::decode(body)?)
}
