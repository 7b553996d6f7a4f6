//! Guest text made safe to show.
//!
//! Owns: which bytes may reach a terminal or a one-line message as they are.
//! Never: changes what is stored or sent as data; this is for eyes only.
//!
//! A guest that prints can otherwise move the cursor, retitle the window, answer the terminal's queries or
//! reorder what is read. Everything that could is spelt out: bytes as `\xNN`, characters as `\u{NNNN}`.

use std::fmt::Write;

/// Longest UTF-8 sequence, bytes.
const SEQUENCE_BYTES_MAX: usize = 4;

/// Turns a stream of log bytes into text for a terminal, piece by piece: a character cut in two by the end
/// of a piece is shown whole.
#[derive(Debug, Default)]
pub struct TerminalText {
    /// The start of a character or of a line ending whose rest may yet come; shorter than
    /// [`SEQUENCE_BYTES_MAX`].
    pending: Vec<u8>,
}

impl TerminalText {
    /// The text for `bytes`, and for what was held back before; at most 4 times as long.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        let mut all = std::mem::take(&mut self.pending);
        all.extend_from_slice(bytes);
        let whole = all.len() - unfinished(&all);
        let (now, later) = all.split_at(whole);
        self.pending.extend_from_slice(later);
        render(now)
    }

    /// The text for what was held back, now that nothing follows.
    pub fn finish(&mut self) -> String {
        render(&std::mem::take(&mut self.pending))
    }
}

/// `bytes` as text for a terminal: newline, tab and printable characters as they are, a carriage return
/// before a newline left out, and everything else that a terminal might act on spelt out. At most 4 times
/// as long as `bytes`.
#[must_use]
pub fn safe_for_terminal(bytes: &[u8]) -> String {
    render(bytes)
}

/// `text` as one line of at most `max` bytes: control characters spelt out, newline and tab too, and cut
/// with an ellipsis where it is too long.
#[must_use]
pub fn safe_text(text: &str, max: usize) -> String {
    const CUT: &str = "…";
    let mut line = String::new();
    // Where to cut should the text turn out too long: the last place that leaves room for the ellipsis.
    let mut cut_at = 0;
    for character in text.chars() {
        let before = line.len();
        if before + CUT.len() <= max {
            cut_at = before;
        }
        put(&mut line, character, is_harmless(character));
        if line.len() > max {
            line.truncate(cut_at);
            if cut_at + CUT.len() <= max {
                line.push_str(CUT);
            }
            return line;
        }
    }
    line
}

fn render(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        let mut characters = chunk.valid().chars().peekable();
        while let Some(character) = characters.next() {
            if character == '\r' && characters.peek() == Some(&'\n') {
                continue;
            }
            put(&mut text, character, matches!(character, '\n' | '\t') || is_harmless(character));
        }
        for byte in chunk.invalid() {
            put_byte(&mut text, *byte);
        }
    }
    text
}

fn put(text: &mut String, character: char, as_is: bool) {
    match character {
        _ if as_is => text.push(character),
        '\n' | '\r' | '\t' => text.extend(character.escape_default()),
        '\0'..='\x7f' => put_byte(text, character as u8),
        _ => text.extend(character.escape_unicode()),
    }
}

fn put_byte(text: &mut String, byte: u8) {
    // Writing to a String cannot fail.
    let _ = write!(text, "\\x{byte:02x}");
}

/// Whether a terminal merely draws `character`. Newline and tab are not among these.
fn is_harmless(character: char) -> bool {
    let invisible = matches!(character,
        '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{feff}'
        | '\u{200e}'..='\u{200f}' // marks of direction
        | '\u{2028}'..='\u{202e}' // line and paragraph separators, embeddings and overrides of direction
        | '\u{2060}'..='\u{206f}' // joiners, isolates, deprecated formatting
        | '\u{fff9}'..='\u{fffb}' // interlinear annotation
        | '\u{e0000}'..='\u{e007f}' // tags
    );
    !character.is_control() && !invisible
}

/// Length of the end of `bytes` that more bytes could still make into something else: the start of a UTF-8
/// sequence, or a carriage return.
fn unfinished(bytes: &[u8]) -> usize {
    if bytes.last() == Some(&b'\r') {
        return 1;
    }
    let from = bytes.len().saturating_sub(SEQUENCE_BYTES_MAX - 1);
    let end = bytes.get(from..).unwrap_or_default();
    // `error_len` is `None` exactly when the input ends within a sequence that has been valid so far.
    (0..end.len())
        .filter_map(|start| end.get(start..))
        .find(|rest| {
            rest.first().is_some_and(|byte| *byte >= 0xc0)
                && std::str::from_utf8(rest).is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none())
        })
        .map_or(0, <[u8]>::len)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn terminal_text_with_ordinary_text_is_unchanged() {
        let text = "héllo\twörld 日本 🙂\nnext\n";
        assert_eq!(safe_for_terminal(text.as_bytes()), text);
    }

    #[test]
    fn terminal_text_with_hostile_bytes_spells_them_out() {
        for (bytes, shown) in [
            (&b"\x1b[2J\x1b]0;pwned\x07"[..], "\\x1b[2J\\x1b]0;pwned\\x07"),
            (b"a\0b\x7f\x08", "a\\x00b\\x7f\\x08"),
            (b"\xff\xfe\xc3(", "\\xff\\xfe\\xc3("),
            ("\u{9b}31m".as_bytes(), "\\u{9b}31m"),
            ("\u{202e}gpj.exe\u{2066}".as_bytes(), "\\u{202e}gpj.exe\\u{2066}"),
            (b"100%\rok\r\n", "100%\\rok\n"),
            (b"\xed\xa0\x80", "\\xed\\xa0\\x80"),
        ] {
            assert_eq!(safe_for_terminal(bytes), shown);
        }
    }

    #[test]
    fn one_line_text_with_newlines_stays_one_line() {
        assert_eq!(safe_text("a\nb\tc\x1b[0m", 100), "a\\nb\\tc\\x1b[0m");
    }

    #[test]
    fn one_line_text_too_long_is_cut_between_characters() {
        assert_eq!(safe_text("abcdef", 6), "abcdef");
        assert_eq!(safe_text("abcdefg", 6), "abc…");
        assert_eq!(safe_text("ééééé", 6), "é…");
        assert_eq!(safe_text("abc\x1bdefg", 6), "abc…");
        assert_eq!(safe_text("abc", 2), "");
        assert_eq!(safe_text("", 0), "");
    }

    proptest! {
        #[test]
        fn terminal_text_of_any_bytes_is_harmless_and_bounded(bytes in vec(any::<u8>(), 0..200)) {
            let text = safe_for_terminal(&bytes);
            prop_assert!(text.chars().all(|c| c == '\n' || c == '\t' || is_harmless(c)));
            prop_assert!(text.len() <= 4 * bytes.len());
        }

        #[test]
        fn terminal_text_in_pieces_equals_the_whole(
            text in ".{0,40}", noise in vec(any::<u8>(), 0..20), cut in 1_usize..7,
        ) {
            let bytes = [text.as_bytes(), b"\r\n", &noise, text.as_bytes()].concat();
            let mut pieces = TerminalText::default();
            let mut shown: String = bytes.chunks(cut).map(|piece| pieces.push(piece)).collect();
            prop_assert!(pieces.pending.len() < SEQUENCE_BYTES_MAX);
            shown.push_str(&pieces.finish());
            prop_assert_eq!(shown, safe_for_terminal(&bytes));
        }

        #[test]
        fn one_line_text_of_anything_fits(text in any::<String>(), max in 0_usize..60) {
            let line = safe_text(&text, max);
            prop_assert!(line.len() <= max);
            prop_assert!(line.chars().all(is_harmless));
        }
    }
}
