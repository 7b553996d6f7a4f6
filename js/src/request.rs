//! What the engine is asked to do.
//!
//! Owns: the request's layout and its bounds.
//! Never: holds bytes that are not text, but for what the engine itself made: who makes a request has checked source and
//! input.
//!
//! ```text
//! version u32 │ form u32 │ 6 × length u32 │ name 0 │ source 0 │ entry 0 │ input 0 │ context 0 │ compiled 0
//! ```
//! Numbers are little-endian; a length leaves the closing zero out.

use crate::abi;

/// Parts of a request, each with a length in its heading.
const PARTS: usize = 6;

/// Length of the heading, bytes.
const HEADING_BYTES: usize = (2 + PARTS) * size_of::<u32>();

/// What a source is, and what is to be done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form<'a> {
    /// Run it: the global `input` in; the global `output`, or the value of the last expression, out.
    Script,
    /// Evaluate it and call the function it exports by this name with input and context.
    Module {
        /// Name of the export; `default` for `export default`.
        entry: &'a str,
    },
    /// Look only whether it is a script.
    CheckScript,
    /// Look only whether it is a module.
    CheckModule,
}

/// What a job may know about itself: `ctx` in a script.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Context<'a> {
    /// `ctx.job`.
    pub job: &'a str,
    /// `ctx.request`.
    pub request: Option<&'a str>,
    /// `ctx.tenant`.
    pub tenant: &'a str,
    /// `ctx.traceparent`: W3C trace context.
    pub traceparent: Option<&'a str>,
    /// `ctx.deadline`, milliseconds since the Unix epoch.
    pub deadline_ms: Option<u64>,
}

/// One job for the engine.
#[derive(Debug, Clone, PartialEq)]
pub struct Request<'a> {
    /// Name of the source in messages and stacks.
    pub name: &'a str,
    /// The source.
    pub source: &'a str,
    /// What to do with it.
    pub form: Form<'a>,
    /// The input, JSON; empty for `undefined`.
    pub input: &'a str,
    /// What the job may know about itself.
    pub context: Context<'a>,
    /// The host is to be told of each phase, see [`crate::door::Phase`], and stacks are to be as deep as they can be.
    pub debug: bool,
    /// The host is to be told where the script is, again and again, see [`crate::profile`].
    pub profile: bool,
    /// What the source compiled to before.
    pub compiled: Compiled<'a>,
}

/// What a source compiled to, for an engine that is to run it again. The engine believes it as it believes no source, and
/// what it is led to by it stays in its memory: it may go to none but the source it was made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compiled<'a> {
    /// Nobody knows, and nobody wants to.
    #[default]
    No,
    /// The host is to be told, see [`crate::door::Call::Compiled`].
    Wanted,
    /// This. The source must be the same byte for byte, and so must its name and whether it is a module.
    Kept(&'a [u8]),
}

/// Why a request cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The source is longer than an engine takes.
    #[error(
        "the source has {bytes} bytes; at most {} are taken: move data into the input",
        abi::SOURCE_BYTES_MAX
    )]
    SourceTooLong {
        /// Its length.
        bytes: usize,
    },
    /// The source's name cannot be shown in a stack.
    #[error(
        "a source's name has 1 to {} bytes, no control characters, and does not begin with `stockade:`",
        abi::NAME_BYTES_MAX
    )]
    BadName,
    /// A part other than source and input holds a zero.
    #[error("{part} holds a NUL")]
    Nul {
        /// Which.
        part: &'static str,
    },
    /// Source and input together do not fit into the engine's memory.
    #[error("the request has more bytes than there are addresses")]
    TooLong,
    /// The buffer it was to be written to has another length than the request.
    #[error("the request has {wanted} bytes, and the room for it {room}")]
    Room {
        /// Length of the request.
        wanted: usize,
        /// Length of the buffer.
        room: usize,
    },
}

/// A request that is known to be well-formed.
#[derive(Debug)]
pub struct Encoded<'a> {
    form: u32,
    parts: [&'a [u8]; PARTS],
    bytes: u32,
}

impl Request<'_> {
    /// What goes into the part for the context; to be handed to [`Request::encoded`].
    ///
    /// # Errors
    /// If a value holds a NUL.
    pub fn context_text(&self) -> Result<String, RequestError> {
        let deadline = self.context.deadline_ms.map(|ms| ms.to_string());
        let pairs = [
            ("job", Some(self.context.job)),
            ("request", self.context.request),
            ("tenant", Some(self.context.tenant)),
            ("traceparent", self.context.traceparent),
            ("deadline", deadline.as_deref()),
        ];
        let mut text = String::new();
        for (name, value) in pairs {
            let Some(value) = value else { continue };
            if value.contains('\0') {
                return Err(RequestError::Nul { part: name });
            }
            for part in [name, "\0", value, "\0"] {
                text.push_str(part);
            }
        }
        Ok(text)
    }

    /// The request, ready to be written. `context` is what [`Request::context_text`] gave.
    ///
    /// # Errors
    /// If the engine would not take it.
    pub fn encoded<'a>(&'a self, context: &'a str) -> Result<Encoded<'a>, RequestError> {
        if self.source.len() > abi::SOURCE_BYTES_MAX {
            return Err(RequestError::SourceTooLong { bytes: self.source.len() });
        }
        let in_bounds = (1..=abi::NAME_BYTES_MAX).contains(&self.name.len());
        if !in_bounds || self.name.chars().any(char::is_control) || self.name.starts_with("stockade:") {
            return Err(RequestError::BadName);
        }
        let (form, entry) = match self.form {
            Form::Script => (0, ""),
            Form::Module { entry } => (1, entry),
            Form::CheckScript => (2, ""),
            Form::CheckModule => (3, ""),
        };
        if entry.contains('\0') {
            return Err(RequestError::Nul { part: "entry" });
        }
        let form = if self.debug { form | abi::FORM_DEBUG } else { form };
        let form = if self.profile { form | abi::FORM_PROFILE } else { form };
        let (form, compiled) = match self.compiled {
            Compiled::No => (form, &[][..]),
            Compiled::Wanted => (form | abi::FORM_KEEP, &[][..]),
            Compiled::Kept(compiled) => (form, compiled),
        };
        let [name, source, entry, input, context] =
            [self.name, self.source, entry, self.input, context].map(str::as_bytes);
        let parts = [name, source, entry, input, context, compiled];
        let bytes = parts
            .iter()
            .try_fold(HEADING_BYTES, |sum, part| sum.checked_add(part.len())?.checked_add(1))
            .and_then(|sum| u32::try_from(sum).ok())
            .ok_or(RequestError::TooLong)?;
        Ok(Encoded { form, parts, bytes })
    }
}

impl Encoded<'_> {
    /// Its length, bytes.
    #[must_use]
    pub const fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Writes it to `room`, which must be as long as it is.
    ///
    /// # Errors
    /// If it is not.
    pub fn write(&self, room: &mut [u8]) -> Result<(), RequestError> {
        let length = room.len();
        let wanted = self.bytes as usize;
        if length != wanted {
            return Err(RequestError::Room { wanted, room: length });
        }
        let mut rest = room;
        let mut put = |bytes: &[u8]| {
            // Lengths were added up above; nothing is cut off here.
            let (here, after) =
                std::mem::take(&mut rest).split_at_mut_checked(bytes.len()).unwrap_or_default();
            here.copy_from_slice(bytes.get(..here.len()).unwrap_or_default());
            rest = after;
        };
        put(&abi::VERSION.to_le_bytes());
        put(&self.form.to_le_bytes());
        for part in self.parts {
            // Each is shorter than the whole, which has a length of 32 bits.
            put(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
        }
        for part in self.parts {
            put(part);
            put(&[0]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request<'static> {
        Request {
            name: "a.js",
            source: "1",
            form: Form::Module { entry: "f" },
            input: "[]",
            context: Context { job: "j", tenant: "t", deadline_ms: Some(7), ..Context::default() },
            debug: false,
            profile: false,
            compiled: Compiled::Kept(b"\x01\0"),
        }
    }

    #[test]
    fn request_is_its_heading_and_its_parts_each_closed_by_a_zero() {
        let request = request();
        let context = request.context_text().unwrap();
        let encoded = request.encoded(&context).unwrap();
        let mut bytes = vec![0xff; encoded.bytes() as usize];
        encoded.write(&mut bytes).unwrap();
        let mut expected = Vec::new();
        for number in [4u32, 1, 4, 1, 1, 2, 26, 2] {
            expected.extend(number.to_le_bytes());
        }
        expected.extend(b"a.js\x001\0f\0[]\0job\0j\0tenant\0t\0deadline\x007\0\0\x01\0\0");
        assert_eq!(bytes, expected);
        let wanted = Request { compiled: Compiled::Wanted, ..request.clone() };
        assert_eq!(wanted.encoded(&context).unwrap().form, 0x401);
        assert!(matches!(encoded.write(&mut bytes[1..]), Err(RequestError::Room { .. })));
    }

    #[test]
    fn request_the_engine_would_not_take_is_refused() {
        let long = "n".repeat(abi::NAME_BYTES_MAX + 1);
        for name in ["", "a\nb", "stockade:url.js", long.as_str()] {
            assert_eq!(
                Request { name, ..request() }.encoded("").unwrap_err(),
                RequestError::BadName,
                "{name:?}"
            );
        }
        let source = " ".repeat(abi::SOURCE_BYTES_MAX + 1);
        let too_long = Request { source: &source, ..request() };
        assert!(matches!(too_long.encoded("").unwrap_err(), RequestError::SourceTooLong { .. }));
        let entry = Request { form: Form::Module { entry: "a\0b" }, ..request() };
        assert_eq!(entry.encoded("").unwrap_err(), RequestError::Nul { part: "entry" });
        let context = Context { tenant: "a\0admin", ..Context::default() };
        let tenant = Request { context, ..request() };
        assert_eq!(tenant.context_text().unwrap_err(), RequestError::Nul { part: "tenant" });
    }
}
