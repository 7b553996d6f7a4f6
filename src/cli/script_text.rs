//! Where in a script an error is, for a person at a terminal.
//!
//! Owns: the line with a caret, and the stack below it.
//! Never: passes on a control character of a guest's.

use stockade_js::excerpt::excerpt;
use stockade_wire::job::ScriptError;

use crate::supervisor::logs::display::safe_text;

/// Most frames that are shown: as many as the engine keeps for whoever debugs.
const FRAMES_MAX: usize = 64;

/// Longest frame that is shown, bytes.
const FRAME_BYTES_MAX: usize = 300;

/// The line of `source` that `error` is in, and the frames that led there; each line ended. Empty when nothing is known.
#[must_use]
pub(super) fn details(error: &ScriptError, source: Option<&[u8]>) -> String {
    let mut text = String::new();
    let source = source.map(String::from_utf8_lossy);
    let in_source = error.file.as_deref() != Some("input");
    if let (Some(source), Some(line), Some(column), true) = (source, error.line, error.column, in_source)
        && let Some(excerpt) = excerpt(&source, line, column)
    {
        let number = line.to_string();
        let margins = [format!("{number} | "), format!("{} | ", " ".repeat(number.len()))];
        for (margin, shown) in margins.iter().zip(excerpt.lines()) {
            text.push_str(&format!("  {margin}{}\n", safe_text(shown, FRAME_BYTES_MAX)));
        }
    }
    for frame in error.stack.lines().take(FRAMES_MAX) {
        text.push_str(&format!("    {}\n", safe_text(frame.trim(), FRAME_BYTES_MAX)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> ScriptError {
        ScriptError {
            name: "TypeError".to_owned(),
            message: "no".to_owned(),
            file: Some("a.js".to_owned()),
            line: Some(2),
            column: Some(3),
            stack: "    at f (a.js:2:3)\n    at \u{1b}[2J (a.js:4:1)\n".to_owned(),
        }
    }

    #[test]
    fn details_are_the_line_with_a_caret_and_the_frames() {
        let text = details(&error(), Some(b"first\n  null.x\n"));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..3], ["  2 |   null.x", "    |   ^", "    at f (a.js:2:3)"]);
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn details_without_the_source_or_of_the_input_have_no_line() {
        assert!(details(&error(), None).starts_with("    at f"));
        let input = ScriptError { file: Some("input".to_owned()), stack: String::new(), ..error() };
        assert_eq!(details(&input, Some(b"a\nb")), "");
        assert_eq!(details(&ScriptError::default(), Some(b"")), "");
    }
}
