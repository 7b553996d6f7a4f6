//! The line of a source that an error is in.
//!
//! Owns: cutting it out so that it fits a terminal, and the caret under it.
//! Never: passes on a byte that a terminal might obey.

/// Columns of a long line that are shown, about the place that matters.
const WIDTH: usize = 100;

/// Two lines: the source's, and a caret under the place. `None` where the source has no such place. Line and column count
/// from 1, columns in characters.
#[must_use]
pub fn excerpt(source: &str, line: u32, column: u32) -> Option<String> {
    let text = source.lines().nth(line.checked_sub(1)? as usize)?;
    let characters = text.chars().count();
    // An error can be at the end of the line, behind its last character.
    let at = (column.checked_sub(1)? as usize).min(characters);
    let from = if characters <= WIDTH { 0 } else { at.saturating_sub(WIDTH / 2).min(characters - WIDTH) };
    let mut shown = String::new();
    let mut caret = String::new();
    for (nth, c) in text.chars().enumerate().skip(from).take(WIDTH) {
        shown.push(if c == '\t' || c.is_control() { ' ' } else { c });
        if nth < at {
            caret.push(' ');
        }
    }
    caret.push('^');
    Some(format!("{}\n{caret}", shown.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpt_is_the_line_and_a_caret_under_the_column() {
        assert_eq!(excerpt("a\n\tb = c;\n", 2, 6).unwrap(), " b = c;\n     ^");
        assert_eq!(excerpt("é + x", 1, 5).unwrap(), "é + x\n    ^");
        assert_eq!(excerpt("ab", 1, 9).unwrap(), "ab\n  ^");
    }

    #[test]
    fn excerpt_of_a_long_line_is_what_is_about_the_column() {
        let line = format!("{}X{}", "a".repeat(1000), "b".repeat(1000));
        let cut = excerpt(&line, 1, 1001).unwrap();
        let (shown, caret) = cut.split_once('\n').unwrap();
        assert_eq!(shown.chars().count(), WIDTH);
        assert_eq!(shown.chars().nth(caret.chars().count() - 1), Some('X'));
    }

    #[test]
    fn excerpt_of_a_place_that_is_not_there_is_none() {
        assert_eq!(excerpt("a", 2, 1), None);
        assert_eq!(excerpt("a", 0, 1), None);
        assert_eq!(excerpt("a", 1, 0), None);
    }

    #[test]
    fn excerpt_holds_nothing_a_terminal_obeys() {
        assert!(!excerpt("a\u{1b}[31mb", 1, 3).unwrap().contains('\u{1b}'));
    }
}
