//! A job's logs on their way to the standard error of `stockade run`.
//!
//! Owns: what they look like there: as the guest wrote them, or, on a terminal, with nothing that could act on it.
//! Never: writes anything itself, touches the job's output.

use stockade_wire::job::LogStream;

use crate::supervisor::LogPiece;
use crate::supervisor::logs::TerminalText;

/// Both logs, in the order in which parts of them come.
pub(super) struct LogText {
    /// Standard output and standard error, each with a character of its own that may have come in part; `None`
    /// where nobody's terminal is at stake.
    terminal: Option<[TerminalText; 2]>,
}

impl LogText {
    pub(super) fn new(terminal: bool) -> Self {
        Self { terminal: terminal.then(Default::default) }
    }

    /// What to write for the next part.
    pub(super) fn next(&mut self, piece: LogPiece) -> Vec<u8> {
        let LogPiece { stream, skipped_bytes, bytes } = piece;
        let mut text = match &mut self.terminal {
            // What follows a gap completes nothing from before it.
            Some(terminal) if skipped_bytes > 0 => of(terminal, stream).finish().into_bytes(),
            _ => Vec::new(),
        };
        if skipped_bytes > 0 {
            let name = match stream {
                LogStream::Stdout => "standard output",
                LogStream::Stderr => "standard error",
            };
            text.extend(format!("[{skipped_bytes} bytes of {name} lost: --log-buffer]\n").into_bytes());
        }
        match &mut self.terminal {
            Some(terminal) => text.extend(of(terminal, stream).push(&bytes).into_bytes()),
            None => text.extend(bytes),
        }
        text
    }

    /// What was held back, now that nothing follows.
    pub(super) fn finish(self) -> Vec<u8> {
        let held_back = self.terminal.into_iter().flatten().map(|mut text| text.finish().into_bytes());
        held_back.flatten().collect()
    }
}

const fn of(terminal: &mut [TerminalText; 2], stream: LogStream) -> &mut TerminalText {
    let [stdout, stderr] = terminal;
    match stream {
        LogStream::Stdout => stdout,
        LogStream::Stderr => stderr,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(stream: LogStream, skipped_bytes: u64, bytes: &[u8]) -> LogPiece {
        LogPiece { stream, skipped_bytes, bytes: bytes.to_vec() }
    }

    #[test]
    fn log_for_a_terminal_is_made_harmless_and_each_streams_characters_stay_whole() {
        let mut text = LogText::new(true);
        let (out, err) = (LogStream::Stdout, LogStream::Stderr);
        assert_eq!(text.next(piece(err, 0, b"\x1b[2Jcaf\xc3")), b"\\x1b[2Jcaf");
        assert_eq!(text.next(piece(out, 0, b"\x07")), b"\\x07");
        assert_eq!(text.next(piece(err, 0, b"\xa9")), "é".as_bytes());
        assert_eq!(text.next(piece(out, 0, b"\xc3")), b"");
        assert_eq!(text.finish(), b"\\xc3");
    }

    #[test]
    fn log_with_a_gap_says_so_where_it_is() {
        let lost = "[7 bytes of standard error lost: --log-buffer]\n";
        let mut text = LogText::new(true);
        assert_eq!(text.next(piece(LogStream::Stderr, 0, b"a\xc3")), b"a");
        let shown = text.next(piece(LogStream::Stderr, 7, b"\xa9b"));
        assert_eq!(String::from_utf8(shown).unwrap(), format!("\\xc3{lost}\\xa9b"));
        let shown = LogText::new(false).next(piece(LogStream::Stderr, 7, b"\xa9"));
        assert_eq!(shown, [lost.as_bytes(), b"\xa9"].concat());
    }

    #[test]
    fn log_for_a_file_is_as_the_guest_wrote_it() {
        let mut text = LogText::new(false);
        assert_eq!(text.next(piece(LogStream::Stderr, 0, b"\x1b[2J\xff\xc3")), b"\x1b[2J\xff\xc3");
        assert_eq!(text.finish(), b"");
    }
}
