//! What the engine says of a job.
//!
//! Owns: reading a reply out of the engine's memory, within bounds.
//! Never: believes it: the engine ran a stranger's script, and all of this may be that script's word.

use crate::abi;

/// Most bytes of an error's name that are kept.
pub const ERROR_NAME_BYTES_MAX: usize = 256;

/// Most bytes of an error's message that are kept.
pub const ERROR_MESSAGE_BYTES_MAX: usize = 8 << 10;

/// Most bytes of an error's stack that are kept.
pub const ERROR_STACK_BYTES_MAX: usize = 16 << 10;

/// Words of a reply: ending, line, column, and address and length of four texts.
const WORDS: usize = 11;

/// Why a job did not end well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The script threw, or a promise was rejected and nobody looked.
    Thrown,
    /// It is not JavaScript of the form that was asked for.
    Syntax,
    /// The module exports no such function.
    NoEntry,
    /// The result is a promise that nothing is left to settle.
    NeverSettled,
    /// The result is not JSON.
    OutputNotJson,
    /// The input is not JSON.
    InputNotJson,
    /// It asked for a module.
    ImportRefused,
    /// It needed more memory than it may have.
    OutOfMemory,
    /// It called too deep.
    StackOverflow,
    /// The engine did not understand the host: they are of two versions.
    BadRequest,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply<'m> {
    /// The output, JSON as far as the engine was not led astray; empty if the source was only checked.
    Output(&'m str),
    /// It did not end well.
    Failure(Box<Failure>),
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Of what kind it is.
    pub fault: Fault,
    /// The error's name: `TypeError`; `Uncaught` for a thrown value that is no error.
    pub name: String,
    /// The error's message.
    pub message: String,
    /// What `place` is a place in: the source's name, or `input`. Empty where there is no place.
    pub file: String,
    /// Line and column, counted from 1.
    pub place: Option<(u32, u32)>,
    /// The script's own frames, innermost first, one a line.
    pub stack: String,
}

/// Why what the engine returned is no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// An address or a length leads out of the engine's memory.
    #[error("the engine's reply lies outside its memory")]
    OutOfBounds,
    /// An ending that there is not.
    #[error("the engine's reply names an ending that is not known: {0}")]
    UnknownEnding(u32),
    /// The output is not UTF-8.
    #[error("the engine's output is not UTF-8")]
    NotText,
}

/// Reads the reply at `address` of the engine's `memory`.
///
/// # Errors
/// If it is none.
pub fn read(memory: &[u8], address: u32) -> Result<Reply<'_>, ReplyError> {
    let [ending, line, column, texts @ ..] = words(memory, address)?;
    let [value, message, file, stack] = {
        let (pairs, _) = texts.as_chunks::<2>();
        let mut found = [&[][..]; 4];
        for (text, [start, length]) in found.iter_mut().zip(pairs) {
            *text = within(memory, *start, *length)?;
        }
        found
    };
    let Some(fault) = fault(ending)? else {
        return std::str::from_utf8(value).map(Reply::Output).map_err(|_| ReplyError::NotText);
    };
    Ok(Reply::Failure(Box::new(Failure {
        fault,
        name: text(value, ERROR_NAME_BYTES_MAX),
        message: text(message, ERROR_MESSAGE_BYTES_MAX),
        file: text(file, abi::NAME_BYTES_MAX),
        place: (line > 0).then_some((line, column)),
        stack: text(stack, ERROR_STACK_BYTES_MAX),
    })))
}

fn words(memory: &[u8], address: u32) -> Result<[u32; WORDS], ReplyError> {
    let bytes = within(memory, address, u32::try_from(WORDS * size_of::<u32>()).unwrap_or(u32::MAX))?;
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    Ok(words)
}

const fn fault(ending: u32) -> Result<Option<Fault>, ReplyError> {
    Ok(Some(match ending {
        0 => return Ok(None),
        1 => Fault::Thrown,
        2 => Fault::Syntax,
        3 => Fault::NoEntry,
        4 => Fault::NeverSettled,
        5 => Fault::OutputNotJson,
        6 => Fault::InputNotJson,
        7 => Fault::ImportRefused,
        8 => Fault::OutOfMemory,
        9 => Fault::StackOverflow,
        10 => Fault::BadRequest,
        unknown => return Err(ReplyError::UnknownEnding(unknown)),
    }))
}

fn within(memory: &[u8], start: u32, length: u32) -> Result<&[u8], ReplyError> {
    if length == 0 {
        return Ok(&[]);
    }
    let start = start as usize;
    let end = start.checked_add(length as usize).ok_or(ReplyError::OutOfBounds)?;
    memory.get(start..end).ok_or(ReplyError::OutOfBounds)
}

/// The beginning of a text. Halves of surrogate pairs, which JavaScript has and UTF-8 has not, are replaced.
fn text(bytes: &[u8], bytes_max: usize) -> String {
    let bytes = bytes.get(..bytes_max).unwrap_or(bytes);
    let mut text = String::from_utf8_lossy(bytes).into_owned();
    text.truncate(text.floor_char_boundary(bytes_max));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A memory that holds a reply of these words at its beginning and `text` at 64.
    fn memory(words: [u32; WORDS], text: &[u8]) -> Vec<u8> {
        let mut memory: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        memory.resize(64, 0);
        memory.extend(text);
        memory
    }

    #[test]
    fn reply_of_a_failure_has_its_texts_and_its_place() {
        let memory = memory([1, 2, 9, 64, 9, 73, 3, 76, 4, 80, 2], b"TypeErrorfoo.a.jsat");
        let Reply::Failure(failure) = read(&memory, 0).unwrap() else { panic!("no failure") };
        assert_eq!(failure.fault, Fault::Thrown);
        assert_eq!((failure.name.as_str(), failure.message.as_str()), ("TypeError", "foo"));
        assert_eq!((failure.file.as_str(), failure.place), (".a.j", Some((2, 9))));
    }

    #[test]
    fn reply_whose_parts_lie_outside_memory_is_refused() {
        let good = [0, 0, 0, 64, 2, 0, 0, 0, 0, 0, 0];
        assert_eq!(read(&memory(good, b"[]"), 0), Ok(Reply::Output("[]")));
        assert_eq!(read(&memory(good, b"["), 0), Err(ReplyError::OutOfBounds));
        assert_eq!(read(&memory(good, b"[]"), 60), Err(ReplyError::OutOfBounds));
        assert_eq!(read(&memory(good, b"[]"), u32::MAX), Err(ReplyError::OutOfBounds));
        let huge = [0, 0, 0, u32::MAX, u32::MAX, 0, 0, 0, 0, 0, 0];
        assert_eq!(read(&memory(huge, b"[]"), 0), Err(ReplyError::OutOfBounds));
        assert_eq!(read(&[], 0), Err(ReplyError::OutOfBounds));
    }

    #[test]
    fn reply_with_an_unknown_ending_or_an_output_that_is_no_text_is_refused() {
        let mut words = [0, 0, 0, 64, 2, 0, 0, 0, 0, 0, 0];
        assert_eq!(read(&memory(words, b"\xff\xfe"), 0), Err(ReplyError::NotText));
        words[0] = 11;
        assert_eq!(read(&memory(words, b"[]"), 0), Err(ReplyError::UnknownEnding(11)));
    }

    #[test]
    fn text_that_is_too_long_or_no_unicode_is_cut_and_mended() {
        assert_eq!(text("é".repeat(4).as_bytes(), 5), "éé");
        assert_eq!(text(b"\xed\xa0\x80", 9), "\u{fffd}\u{fffd}\u{fffd}");
    }
}
