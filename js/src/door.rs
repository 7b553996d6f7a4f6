//! What a script may ask of its host.
//!
//! Owns: the requests that come through [`crate::abi::import::CALL`], their bounds, and the form of the replies.
//! Never: does what is asked: who holds the job's grants decides.

use crate::profile::Look;

/// Most bytes of one request.
pub const REQUEST_BYTES_MAX: usize = 1 << 20;

/// Most bytes of one reply.
pub const REPLY_BYTES_MAX: usize = 1 << 20;

/// What the engine is told when its request is refused.
pub const REFUSED: i32 = -1;

/// How much a line of the log matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// `console.debug`, `console.trace`.
    Debug,
    /// `console.log`, `console.info`.
    Info,
    /// `console.warn`.
    Warn,
    /// `console.error`, a failed `console.assert`.
    Error,
}

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call<'a> {
    /// A line for the job's log. Its text need not be UTF-8, and may hold line ends.
    Log(Level, &'a [u8]),
    /// The job's environment: the reply is [`environment`].
    Environment,
    /// The job has come to a phase, and the engine holds so many bytes. Only of a request with
    /// [`Request::debug`](crate::request::Request::debug).
    Phase(Phase, u32),
    /// What the script is doing: the reply is [`next_look`]. Only of a request with
    /// [`Request::profile`](crate::request::Request::profile).
    Look(Look<'a>),
    /// What the source compiled to, before any of it ran. Only of a request with
    /// [`Compiled::Wanted`](crate::request::Compiled::Wanted).
    Compiled(&'a [u8]),
}

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The engine has the request.
    Ready,
    /// The source is compiled.
    Compiled,
    /// The script has run, and what it began is waited for.
    Ran,
    /// The output, or the error, is written.
    Ended,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DoorError {
    /// It is longer than any may be.
    #[error("a request of {bytes} bytes; at most {REQUEST_BYTES_MAX} are taken")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// There is no such operation.
    #[error("operation {0} is not known")]
    Unknown(u32),
    /// It does not have the form of its operation.
    #[error("a request of operation {0} that is malformed")]
    Malformed(u32),
    /// The reply would be longer than any may be.
    #[error("a reply of {bytes} bytes; at most {REPLY_BYTES_MAX} are given")]
    ReplyTooLong {
        /// Its length.
        bytes: usize,
    },
}

/// Reads a request.
///
/// # Errors
/// If it is none that is known.
pub fn read(operation: u32, request: &[u8]) -> Result<Call<'_>, DoorError> {
    if request.len() > REQUEST_BYTES_MAX {
        return Err(DoorError::TooLong { bytes: request.len() });
    }
    match (operation, request) {
        (1, [level, text @ ..]) => {
            let level = match level {
                0 => Level::Debug,
                1 => Level::Info,
                2 => Level::Warn,
                3 => Level::Error,
                _ => return Err(DoorError::Malformed(operation)),
            };
            Ok(Call::Log(level, text))
        }
        (2, []) => Ok(Call::Environment),
        (3, [phase, 0, 0, 0, held @ ..]) => {
            let phase = match phase {
                0 => Phase::Ready,
                1 => Phase::Compiled,
                2 => Phase::Ran,
                3 => Phase::Ended,
                _ => return Err(DoorError::Malformed(operation)),
            };
            let held = <[u8; 4]>::try_from(held).map_err(|_| DoorError::Malformed(operation))?;
            Ok(Call::Phase(phase, u32::from_le_bytes(held)))
        }
        (4, look) => Look::read(look).map(Call::Look).ok_or(DoorError::Malformed(operation)),
        (5, compiled) => Ok(Call::Compiled(compiled)),
        (1..=3, _) => Err(DoorError::Malformed(operation)),
        (unknown, _) => Err(DoorError::Unknown(unknown)),
    }
}

/// The reply to [`Call::Look`]: how long it is until the next one is wanted.
#[must_use]
pub fn next_look(after: std::time::Duration) -> Vec<u8> {
    u32::try_from(after.as_micros()).unwrap_or(u32::MAX).to_le_bytes().to_vec()
}

/// The reply to [`Call::Environment`]: each name and each value closed by a zero. What holds one is left out, as it would
/// be in any process's environment.
///
/// # Errors
/// If there is more than a reply may hold.
pub fn environment(variables: &[(String, String)]) -> Result<Vec<u8>, DoorError> {
    let mut reply = Vec::new();
    for (name, value) in variables {
        if name.contains('\0') || value.contains('\0') {
            continue;
        }
        for text in [name, value] {
            reply.extend_from_slice(text.as_bytes());
            reply.push(0);
        }
    }
    if reply.len() > REPLY_BYTES_MAX {
        return Err(DoorError::ReplyTooLong { bytes: reply.len() });
    }
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_of_each_operation_is_read_and_all_else_refused() {
        assert_eq!(read(1, b"\x02careful"), Ok(Call::Log(Level::Warn, b"careful")));
        assert_eq!(read(2, b""), Ok(Call::Environment));
        assert_eq!(read(1, b""), Err(DoorError::Malformed(1)));
        assert_eq!(read(1, b"\x04"), Err(DoorError::Malformed(1)));
        assert_eq!(read(2, b"x"), Err(DoorError::Malformed(2)));
        assert_eq!(read(3, b"\x02\0\0\0\0\x01\0\0"), Ok(Call::Phase(Phase::Ran, 256)));
        for malformed in [&b""[..], b"\x04\0\0\0\0\0\0\0", b"\0\x01\0\0\0\0\0\0", b"\0\0\0\0\0\0\0"] {
            assert_eq!(read(3, malformed), Err(DoorError::Malformed(3)), "{malformed:?}");
        }
        assert!(matches!(read(4, b"\x02\0\0\0"), Ok(Call::Look(_))));
        assert_eq!(read(4, b"\x03\0\0\0"), Err(DoorError::Malformed(4)));
        assert_eq!(read(0, b""), Err(DoorError::Unknown(0)));
        assert_eq!(read(5, b""), Ok(Call::Compiled(b"")));
        assert_eq!(read(5, b"\0"), Ok(Call::Compiled(b"\0")));
        assert_eq!(read(6, b""), Err(DoorError::Unknown(6)));
        let long = vec![0; REQUEST_BYTES_MAX + 1];
        assert_eq!(read(1, &long), Err(DoorError::TooLong { bytes: long.len() }));
    }

    #[test]
    fn environment_is_names_and_values_closed_by_zeros() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let reply = environment(&[pair("A", "1"), pair("B\0C", "2"), pair("D", "")]).unwrap();
        assert_eq!(reply, b"A\x001\0D\0\0");
        let long = [pair("A", &"x".repeat(REPLY_BYTES_MAX))];
        assert!(matches!(environment(&long), Err(DoorError::ReplyTooLong { .. })));
    }
}
