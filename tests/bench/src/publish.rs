//! A run as the repository's documents show it.
//!
//! Owns: which document shows what, and the marks between which it stands.
//! Never: changes a word outside of the marks.

use std::fs;
use std::io;
use std::path::Path;

use crate::plot::svg;
use crate::report::Report;
use crate::table::{Style, render};

/// What figures stand between.
pub const MARKS: (&str, &str) =
    ("<!-- figures: made by scripts/bench --publish -->", "<!-- end of figures -->");

/// The documents and what each has between the marks.
#[must_use]
pub fn documents(report: &Report) -> [(&'static str, String); 2] {
    let rows = Report { scale: Vec::new(), endurance: None, ..report.clone() };
    let growth = Report { rows: Vec::new(), ratios: Vec::new(), ..report.clone() };
    [("README.md", render(&rows, Style::Markdown)), ("docs/performance.md", render(&growth, Style::Markdown))]
}

/// Writes a run and everything that shows it into the repository at `root`.
///
/// # Errors
/// When it is a smoke run, a document has no marks, or a file cannot be written.
pub fn publish(report: &Report, root: &Path) -> io::Result<()> {
    if report.quick {
        return Err(io::Error::other("the figures of a smoke run mean nothing"));
    }
    for (name, figures) in documents(report) {
        let path = root.join(name);
        let text = replaced(&fs::read_to_string(&path)?, &figures).ok_or_else(|| {
            io::Error::other(format!("{name} has no place for figures: put {} there", MARKS.0))
        })?;
        fs::write(path, text)?;
    }
    fs::write(root.join("docs/performance.svg"), svg(&report.scale))?;
    let run = serde_json::to_string_pretty(report).map_err(io::Error::other)? + "\n";
    fs::write(root.join("docs/performance.json"), run)
}

/// `text` with `figures` between the marks.
fn replaced(text: &str, figures: &str) -> Option<String> {
    let (before, rest) = text.split_once(MARKS.0)?;
    let (_, after) = rest.split_once(MARKS.1)?;
    Some(format!("{before}{}\n\n{}\n\n{}{after}", MARKS.0, figures.trim(), MARKS.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_go_between_the_marks_and_nowhere_else() {
        let (begin, end) = MARKS;
        let text = format!("before\n{begin}\nold\n{end}\nafter\n");
        let once = replaced(&text, "new\n").unwrap();
        assert_eq!(once, format!("before\n{begin}\n\nnew\n\n{end}\nafter\n"));
        assert_eq!(replaced(&once, "new\n"), Some(once));
        assert_eq!(replaced("no marks", "new"), None);
    }

    #[test]
    fn smoke_run_is_not_published() {
        assert!(publish(&Report::specimen(), Path::new("/nonexistent")).is_err());
    }
}
