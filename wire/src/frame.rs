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
//!
//! Where descriptors may travel (version 2 of the client protocol), the two topmost bits of the length say how many come
//! with the first byte of the body, so that a receiver has room for them then, and for none at any other time.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{self, CodecError};
use crate::limits::{FRAME_BODY_BYTES_MAX, FRAME_FDS_MAX};

/// Bytes of a frame before its body.
pub const HEADER_BYTES: usize = 4;

/// Bits of the first four bytes that are the body's length, where descriptors may travel.
const LENGTH_BITS: u32 = 30;

const _: () = assert!(FRAME_BODY_BYTES_MAX < 1 << LENGTH_BITS && FRAME_FDS_MAX < 4, "both fit the header");

/// What the first four bytes say where descriptors may travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Length of the body, bytes.
    pub body_bytes: usize,
    /// Descriptors that come with its first byte.
    pub fds: usize,
}

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
    /// More descriptors than a frame can have.
    #[error("frame announces {announced} descriptors; at most {FRAME_FDS_MAX} are accepted")]
    TooManyFds {
        /// What the header says.
        announced: usize,
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

/// Reads a header where descriptors may travel: the body's length, bytes, at most `max`, and the descriptors, at most
/// [`FRAME_FDS_MAX`].
///
/// # Errors
/// When the length is zero or above `max`, or there are too many descriptors; nothing has been allocated by then.
pub fn header(header: [u8; HEADER_BYTES], max: usize) -> Result<Header, FrameError> {
    let bits = u32::from_le_bytes(header);
    let announced = (bits >> LENGTH_BITS) as usize;
    let length = bits & ((1 << LENGTH_BITS) - 1);
    let body_bytes = body_length(length.to_le_bytes(), max)?;
    if announced > FRAME_FDS_MAX {
        return Err(FrameError::TooManyFds { announced });
    }
    Ok(Header { body_bytes, fds: announced })
}

/// One whole frame that announces `fds` descriptors, header included, at most `max` bytes of body.
///
/// # Errors
/// When the message encodes to more than `max` bytes, or there are more than [`FRAME_FDS_MAX`] descriptors.
pub fn encode_with<T: Serialize>(message: &T, max: usize, fds: usize) -> Result<Vec<u8>, FrameError> {
    let mut frame = encode(message, max.min(FRAME_BODY_BYTES_MAX))?;
    if fds > FRAME_FDS_MAX {
        return Err(FrameError::TooManyFds { announced: fds });
    }
    if let (Some([.., last]), Ok(fds)) = (frame.first_chunk_mut::<HEADER_BYTES>(), u8::try_from(fds)) {
        *last |= fds << (LENGTH_BITS % 8);
    }
    Ok(frame)
}

/// One whole frame, header included, at most `max` bytes of body.
///
/// # Errors
/// When the message encodes to more than `max` bytes.
pub fn encode<T: Serialize>(message: &T, max: usize) -> Result<Vec<u8>, FrameError> {
    let mut frame = codec::encode_after(&[0; HEADER_BYTES], message)?;
    let announced = frame.len().saturating_sub(HEADER_BYTES);
    let length = u32::try_from(announced)
        .ok()
        .filter(|_| announced <= max)
        .ok_or(FrameError::TooLarge { announced, max })?;
    if let Some(header) = frame.first_chunk_mut::<HEADER_BYTES>() {
        *header = length.to_le_bytes();
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_that_announces_descriptors_is_read_back_and_is_none_where_there_are_none() {
        for (length, fds) in [(1, 0), (1, 1), (5, 2), (FRAME_BODY_BYTES_MAX - 8, 2)] {
            let frame = encode_with(&"x".repeat(length), FRAME_BODY_BYTES_MAX, fds);
            let frame = frame.unwrap();
            let first = *frame.first_chunk::<HEADER_BYTES>().unwrap();
            let body_bytes = frame.len() - HEADER_BYTES;
            assert_eq!(header(first, FRAME_BODY_BYTES_MAX).unwrap(), Header { body_bytes, fds });
            assert_eq!(body_length(first, FRAME_BODY_BYTES_MAX).is_ok(), fds == 0, "{fds} descriptors");
        }
    }

    #[test]
    fn header_with_every_number_of_descriptors_keeps_the_bounds_of_its_length() {
        for fds in 0..4_u32 {
            let read = |length: u32| header((length | (fds << LENGTH_BITS)).to_le_bytes(), 100);
            assert!(matches!(read(0), Err(FrameError::Empty)));
            assert!(matches!(read(101), Err(FrameError::TooLarge { announced: 101, max: 100 })));
            match read(100) {
                Ok(found) => {
                    assert_eq!((found.body_bytes, found.fds), (100, fds as usize));
                    assert!(found.fds <= FRAME_FDS_MAX);
                }
                Err(error) => assert!(matches!(error, FrameError::TooManyFds { announced: 3 }), "{error}"),
            }
        }
        assert!(matches!(encode_with(&1_u8, 100, 3), Err(FrameError::TooManyFds { announced: 3 })));
    }
}
