//! A report as people read it.
//!
//! Owns: the tables, as text for a terminal and as Markdown.
//! Never: computes a figure.

use std::fmt::Write;

use crate::report::{Endurance, Figures, Ratio, Report, Row, ScalePoint};

/// For a terminal, or for a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Columns of spaces.
    Plain,
    /// Pipes.
    Markdown,
}

/// All of a report.
#[must_use]
pub fn render(report: &Report, style: Style) -> String {
    let mut parts = vec![heading(report, style)];
    if !report.rows.is_empty() {
        parts.push(table(
            style,
            2,
            &ROW_TITLES,
            report.rows.iter().filter(|row| row.figures.is_some()).map(|row| cells(report, row)),
        ));
        parts.extend(walls(report));
        parts.extend(extremes(report));
        parts.push(missing(report, style));
        parts.push(table(
            style,
            1,
            &["what", "found", "wanted", ""],
            report
                .ratios
                .iter()
                .filter(|ratio| ratio.value.is_some() || ratio.wanted.is_some())
                .map(ratio_cells),
        ));
    }
    if !report.scale.is_empty() {
        parts.push(table(style, 0, &SCALE_TITLES, report.scale.iter().map(scale_cells)));
    }
    parts.extend(report.endurance.as_ref().map(|long| endurance(long, style)));
    parts.retain(|part| !part.is_empty());
    parts.join("\n")
}

const ROW_TITLES: [&str; 7] = [
    "what",
    "a job has to itself",
    "median",
    "p99",
    "× two-hop echo",
    "jobs/s, 1 / 8 / 64 clients",
    "CPU a job",
];

const SCALE_TITLES: [&str; 8] = [
    "warm workers",
    "clients",
    "jobs/s",
    "median",
    "p99",
    "CPU a job",
    "idle worker, PSS",
    "all processes, PSS",
];

fn heading(report: &Report, style: Style) -> String {
    let machine = &report.machine;
    let mut text = String::new();
    // Writing to a String cannot fail.
    if report.quick {
        let _ = writeln!(text, "A smoke run: these figures mean nothing.\n");
    }
    let _ = writeln!(
        text,
        "{} processors ({}{}), {} MiB, {}, {}.",
        machine.processors,
        machine.processor,
        if machine.virtual_machine { ", virtual machine" } else { "" },
        machine.memory_mib,
        machine.kernel,
        machine.architecture,
    );
    let versions = report.versions.iter().filter_map(|entry| {
        let version = entry.version.as_ref()?;
        // Most programs say their name themselves.
        Some(if version.to_lowercase().contains(&entry.name) {
            version.clone()
        } else {
            format!("{} {version}", entry.name)
        })
    });
    let _ = writeln!(text, "{}.", versions.collect::<Vec<_>>().join(", "));
    let _ = writeln!(
        text,
        "Load {:.2} before, {:.2} after; {:.1} % of the processors' time kept by the host for others; medians of {} round{}; \
         {}.",
        report.load.before,
        report.load.after,
        report.load.stolen_percent,
        report.rounds,
        if report.rounds == 1 { "" } else { "s" },
        report.taken,
    );
    if style == Style::Plain { text } else { text.trim_end().replace('\n', "  \n") + "\n" }
}

fn cells(report: &Report, row: &Row) -> Vec<String> {
    let none = Figures::default();
    let figures = row.figures.as_ref().unwrap_or(&none);
    let echo = report.figures("floor.echo-two-hop").and_then(|echo| echo.p50_us);
    let ratio = figures.p50_us.zip(echo).map(|(p50, echo)| format!("{:.1}", p50 / echo));
    let clients = [1, 8, 64].map(|count| {
        let found = figures.clients.iter().find(|clients| clients.clients == count);
        found.map_or_else(|| "–".to_owned(), |clients| count_of(clients.per_second))
    });
    let clients = if figures.clients.is_empty() { String::new() } else { clients.join(" / ") };
    let isolation = row.isolation.as_deref().and_then(|text| text.split(':').next()).unwrap_or_default();
    vec![
        row.what.clone(),
        isolation.to_owned(),
        time(figures.p50_us),
        time(figures.p99_us),
        ratio.unwrap_or_default(),
        clients,
        time(figures.cpu_us),
    ]
}

/// The walls that results stated, each kind once.
fn walls(report: &Report) -> Option<String> {
    let mut said: Vec<&str> = report
        .rows
        .iter()
        .filter_map(|row| row.isolation.as_deref()?.split_once(": ").map(|(_, walls)| walls))
        .collect();
    said.sort_unstable();
    said.dedup();
    let longest = said.into_iter().max_by_key(|walls| walls.len())?;
    Some(format!("Walls of Stockade's jobs, as their results state them: {longest}.\n"))
}

/// What stands in single rows only.
fn extremes(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for row in &report.rows {
        let Some(figures) = &row.figures else { continue };
        if let Some(paced) = &figures.paced {
            lines.push(format!(
                "{}: sent by the clock, {} a second: median {}, p99 {} (the sender itself was late by {} at its p99).\n",
                row.what,
                count_of(paced.per_second),
                time(paced.p50_us),
                time(paced.p99_us),
                time(paced.sender_late_p99_us),
            ));
        }
        if let Some(long) = &figures.sustained {
            lines.push(format!(
                "{}: {} clients for {:.0} s: {} a second, {} in the worst second.\n",
                row.what,
                long.clients,
                long.seconds,
                count_of(long.per_second),
                count_of(long.worst_second),
            ));
        }
    }
    lines
}

fn missing(report: &Report, style: Style) -> String {
    let absent: Vec<_> = report.rows.iter().filter_map(|row| Some((row, row.missing.as_ref()?))).collect();
    let mut text = String::new();
    for (row, why) in absent {
        let _ = writeln!(
            text,
            "{}missing: {}: {why}",
            if style == Style::Markdown { "- " } else { "" },
            row.what
        );
    }
    text
}

fn ratio_cells(ratio: &Ratio) -> Vec<String> {
    let number = |value: f64| {
        if value >= 1000.0 {
            count_of(value)
        } else {
            format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    };
    let wanted =
        ratio.wanted.map(|wanted| format!("{} {}", if ratio.at_most { "≤" } else { "≥" }, number(wanted)));
    let met = match ratio.met {
        Some(true) => "yes",
        Some(false) => "no",
        None => "",
    };
    vec![
        ratio.what.clone(),
        ratio.value.map_or_else(|| "not measured".to_owned(), number),
        wanted.unwrap_or_default(),
        met.to_owned(),
    ]
}

fn scale_cells(point: &ScalePoint) -> Vec<String> {
    vec![
        point.workers.to_string(),
        point.clients.to_string(),
        count_of(point.per_second),
        time(point.p50_us),
        time(point.p99_us),
        time(point.cpu_us),
        point.worker_pss_kib.map_or_else(String::new, |kib| format!("{kib:.0} KiB")),
        format!("{:.0} MiB", point.all_pss_mib),
    ]
}

fn endurance(long: &Endurance, style: Style) -> String {
    let mut text = format!(
        "{} jobs by {} clients in {:.0} s:\n\n",
        count_of(long.jobs as f64),
        long.clients,
        long.seconds
    );
    let rows = long.samples.iter().map(|sample| {
        vec![
            count_of(sample.jobs as f64),
            format!("{:.1} MiB", sample.supervisor_kib as f64 / 1024.0),
            sample.supervisor_fds.to_string(),
            sample.children.to_string(),
        ]
    });
    text.push_str(&table(
        style,
        0,
        &["jobs so far", "supervisor, resident", "its descriptors", "its children"],
        rows,
    ));
    text
}

/// A duration in the unit that suits it; nothing for none.
fn time(us: Option<f64>) -> String {
    match us {
        None => String::new(),
        Some(us) if us < 9.95 => format!("{us:.1} µs"),
        Some(us) if us < 1e3 => format!("{us:.0} µs"),
        Some(us) if us < 9.95e3 => format!("{:.2} ms", us / 1e3),
        Some(us) if us < 1e6 => format!("{:.1} ms", us / 1e3),
        Some(us) => format!("{:.2} s", us / 1e6),
    }
}

/// A whole number with its thousands apart.
fn count_of(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// With so many columns of words first; the others are figures.
fn table(style: Style, words: usize, titles: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let rows: Vec<Vec<String>> = rows.collect();
    let mut text = String::new();
    if style == Style::Markdown {
        let _ = writeln!(text, "| {} |", titles.join(" | "));
        let rule = titles.iter().enumerate().map(|(column, _)| if column < words { "---" } else { "--:" });
        let _ = writeln!(text, "|{}|", rule.collect::<Vec<_>>().join("|"));
        for row in rows {
            let _ = writeln!(text, "| {} |", row.join(" | "));
        }
        return text;
    }
    let titles: Vec<String> = titles.iter().map(|title| (*title).to_owned()).collect();
    let width = |column: usize| {
        let cells = rows.iter().chain([&titles]).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    for row in std::iter::once(&titles).chain(&rows) {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = match column {
                0 => write!(line, "{cell:<width$}"),
                _ if column < words => write!(line, "  {cell:<width$}"),
                _ => write!(line, "  {cell:>width$}"),
            };
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_told_in_the_unit_that_suits_them() {
        let told = [4.21, 99.6, 999.4, 1_234.0, 59_400.0, 2_500_000.0].map(|us| time(Some(us)));
        assert_eq!(told, ["4.2 µs", "100 µs", "999 µs", "1.23 ms", "59.4 ms", "2.50 s"]);
        assert_eq!(time(None), "");
    }

    #[test]
    fn counts_have_their_thousands_apart() {
        assert_eq!(
            [0.4, 999.0, 1000.0, 25_600.0, 1_000_000.0].map(count_of),
            ["0", "999", "1,000", "25,600", "1,000,000"]
        );
    }

    #[test]
    fn rendering_in_both_styles_names_every_row_and_what_is_missing() {
        let mut report = Report::specimen();
        let mut gone = report.rows[0].clone();
        (gone.what, gone.figures, gone.missing) =
            ("another".to_owned(), None, Some("not installed: bwrap".to_owned()));
        report.rows.push(gone);
        for style in [Style::Plain, Style::Markdown] {
            let text = render(&report, style);
            for part in [
                "specimen",
                "missing: another: not installed: bwrap",
                "smoke run",
                "warm workers",
                "jobs so far",
            ] {
                assert!(text.contains(part), "{part} is not in:\n{text}");
            }
        }
    }
}
