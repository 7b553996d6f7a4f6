//! What a command that only reports prints and exits with.
//!
//! Owns: writing it out, once, and the one form of an error message.
//! Never: writes anything a guest made without its being made harmless first.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::observe::Causes;
use crate::supervisor::logs::display::safe_text;

/// Longest error message, bytes.
const MESSAGE_BYTES_MAX: usize = 2 << 10;

/// What a command that only reports prints and exits with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// For standard output; whole lines.
    pub stdout: String,
    /// For standard error; whole lines.
    pub stderr: String,
    /// Exit status.
    pub status: u8,
}

impl Output {
    /// All went well, and this is the answer.
    #[must_use]
    pub fn answer(stdout: String) -> Self {
        Self { stdout, ..Self::default() }
    }

    /// It did not go well.
    #[must_use]
    pub fn error(error: &dyn Error, status: u8) -> Self {
        Self { stderr: format!("{}\n", error_line(error)), status, ..Self::default() }
    }

    /// As [`Self::write`], as a process exits with it.
    #[must_use]
    pub fn print(self) -> ExitCode {
        ExitCode::from(self.write())
    }

    /// Writes it out and gives the status to exit with, which is another when it cannot be written. A reader who has
    /// gone away is no error: they have seen what they wanted.
    #[must_use]
    pub fn write(self) -> u8 {
        let stderr = io::stderr().write_all(self.stderr.as_bytes());
        let mut stdout = io::stdout().lock();
        let stdout = stdout.write_all(self.stdout.as_bytes()).and_then(|()| stdout.flush());
        match (stdout, stderr) {
            (Err(error), _) if error.kind() != io::ErrorKind::BrokenPipe => {
                let _ = writeln!(io::stderr(), "stockade: cannot write the answer: {error}");
                super::exit::OWN_FAILURE
            }
            _ => self.status,
        }
    }
}

/// One line for standard error: what, why and what to do, then the system's own words in parentheses.
#[must_use]
pub fn error_line(error: &dyn Error) -> String {
    format!("stockade: {}", message(error))
}

/// The same without saying who says it.
#[must_use]
pub fn message(error: &dyn Error) -> String {
    safe_text(&Causes(error).to_string(), MESSAGE_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::ArgsError;
    use super::*;

    #[test]
    fn error_line_ends_with_its_causes_and_is_harmless() {
        let error = ArgsError::Read {
            what: "the module",
            path: PathBuf::from("a\u{1b}[2J"),
            source: io::Error::from(io::ErrorKind::NotFound),
        };
        let line = error_line(&error);
        let expected = r"stockade: cannot read the module a\x1b[2J; check the name and your permissions (entity not found)";
        assert_eq!(line, expected);
    }
}
