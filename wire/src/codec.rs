//! The only file that names bincode.
//!
//! Owns: how a message becomes bytes and back.
//! Never: knows a message type, reads or writes a socket.
//!
//! Integers are fixed-width little-endian: every number then has exactly one encoding, so there is no
//! non-canonical form to accept, and the format can be written down in a page (`docs/wire.md`).

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::enc::write::Writer;
use bincode::error::EncodeError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits::FRAME_BODY_BYTES_MAX;

type Fixed<const MAX: usize> = Configuration<LittleEndian, Fixint, Limit<MAX>>;

// The codec reserves a string's announced length before it looks whether the bytes are there, and its limit
// is part of a type. Steps keep what a lying length can reserve within 32 times what was really sent.
const SMALL: usize = 4 << 10;
const MEDIUM: usize = 128 << 10;
const LARGE: usize = 4 << 20;

/// Room that is made for a message before its length is known, bytes: most results of small jobs fit.
const USUAL_BYTES: usize = 1 << 10;

const fn config<const MAX: usize>() -> Fixed<MAX> {
    bincode::config::standard().with_fixed_int_encoding().with_limit::<MAX>()
}

fn decode_within<T: DeserializeOwned, const MAX: usize>(body: &[u8]) -> Result<(T, usize), CodecError> {
    bincode::serde::decode_from_slice(body, config::<MAX>()).map_err(CodecError::Decode)
}

/// Why bytes could not become a message, or a message bytes.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The message is larger than any frame may be.
    #[error("message cannot be encoded within {FRAME_BODY_BYTES_MAX} bytes")]
    Encode(#[source] EncodeError),
    /// The bytes are not a message of the expected type.
    #[error("frame body is not a message of the expected type")]
    Decode(#[source] bincode::error::DecodeError),
    /// The message ended before the frame did.
    #[error("frame body has {extra} bytes after its message")]
    Trailing {
        /// How many bytes were left over.
        extra: usize,
    },
}

/// Encodes `message`. Does not block.
///
/// # Errors
/// When the encoded form would be larger than [`FRAME_BODY_BYTES_MAX`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    encode_after(&[], message)
}

/// The same behind `prefix`, in one piece of memory.
///
/// # Errors
/// As for [`encode`].
pub fn encode_after<T: Serialize>(prefix: &[u8], message: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = Vec::with_capacity(USUAL_BYTES);
    bytes.extend_from_slice(prefix);
    let mut grown = Grown(bytes);
    bincode::serde::encode_into_writer(message, &mut grown, config::<FRAME_BODY_BYTES_MAX>())
        .map_err(CodecError::Encode)?;
    Ok(grown.0)
}

/// What is written to, with room for most messages from the start: one that grows from nothing is moved eight times.
struct Grown(Vec<u8>);

impl Writer for Grown {
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// Decodes exactly one message from all of `body`. Does not block.
///
/// Allocates no more than the length of `body` justifies: a collection's length prefix is charged against
/// a limit near that length before memory is reserved, and no wire type is recursive or holds zero-sized elements.
///
/// # Errors
/// When `body` is not one message of type `T`, or has bytes left over after it.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, CodecError> {
    let (message, used) = if body.len() <= SMALL {
        decode_within::<T, SMALL>(body)
    } else if body.len() <= MEDIUM {
        decode_within::<T, MEDIUM>(body)
    } else if body.len() <= LARGE {
        decode_within::<T, LARGE>(body)
    } else {
        decode_within::<T, FRAME_BODY_BYTES_MAX>(body)
    }?;
    if used != body.len() {
        return Err(CodecError::Trailing { extra: body.len() - used });
    }
    Ok(message)
}
