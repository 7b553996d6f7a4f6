//! The scale of a report as a picture.
//!
//! Owns: an SVG file that needs nothing else, readable on light and on dark ground.
//! Never: computes a figure.

use std::fmt::Write;

use crate::report::ScalePoint;
use crate::scale::CLIENTS;

const PANEL_WIDTH: f64 = 300.0;
const PANEL_HEIGHT: f64 = 190.0;
const LEFT: f64 = 62.0;
const TOP: f64 = 56.0;
const GAP: f64 = 84.0;
const BELOW: f64 = 74.0;

/// Colours by number of clients, on light ground and on dark.
const SERIES: [(&str, &str); CLIENTS.len()] =
    [("#0969da", "#58a6ff"), ("#bc4c00", "#f0883e"), ("#1a7f37", "#3fb950")];

type Figure = fn(&ScalePoint) -> Option<f64>;

struct Panel {
    title: &'static str,
    unit: fn(f64) -> String,
    /// Lines, each with whether it is dashed.
    figures: &'static [(Figure, bool)],
    /// Whether the number of clients makes a difference.
    by_clients: bool,
}

const PANELS: [Panel; 3] = [
    Panel {
        title: "latency: median, p99 dashed",
        unit: |us| if us < 1e3 { format!("{us:.0} µs") } else { format!("{:.0} ms", us / 1e3) },
        figures: &[(|point| point.p50_us, false), (|point| point.p99_us, true)],
        by_clients: true,
    },
    Panel {
        title: "jobs a second",
        unit: |count| format!("{count:.0}"),
        figures: &[(|point| Some(point.per_second), false)],
        by_clients: true,
    },
    Panel {
        title: "memory of all processes, PSS",
        unit: |mib| format!("{mib:.0} MiB"),
        figures: &[(|point| Some(point.all_pss_mib), false)],
        by_clients: false,
    },
];

/// The picture; nothing for no points.
#[must_use]
pub fn svg(points: &[ScalePoint]) -> String {
    if points.is_empty() {
        return String::new();
    }
    let width = LEFT + PANELS.len() as f64 * (PANEL_WIDTH + GAP) - GAP + 24.0;
    let height = TOP + PANEL_HEIGHT + BELOW;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\" role=\"img\">\n\
         <title>Cost as warm workers and clients grow</title>\n{}",
        style()
    );
    let _ = writeln!(text, "<rect class=\"ground\" width=\"{width}\" height=\"{height}\"/>");
    for (number, panel) in PANELS.iter().enumerate() {
        let left = LEFT + number as f64 * (PANEL_WIDTH + GAP);
        panel.draw(points, left, &mut text);
    }
    legend(height, &mut text);
    text.push_str("</svg>\n");
    text
}

fn style() -> String {
    let colours = |dark: bool| {
        let series =
            SERIES.iter().enumerate().fold(String::new(), |mut text, (at, (light_colour, dark_colour))| {
                let colour = if dark { dark_colour } else { light_colour };
                let _ = write!(text, " .s{at} {{ stroke: {colour}; }} .f{at} {{ fill: {colour}; }}");
                text
            });
        let [ground, ink, rule] =
            if dark { ["#0d1117", "#e6edf3", "#30363d"] } else { ["#ffffff", "#1f2328", "#d0d7de"] };
        format!(" .ground {{ fill: {ground}; }} text {{ fill: {ink}; }} .rule {{ stroke: {rule}; }}{series}")
    };
    format!(
        "<style>.line {{ fill: none; stroke-width: 2; }} .dashed {{ stroke-dasharray: 5 4; }}{}\n\
         @media (prefers-color-scheme: dark) {{{} }}</style>\n",
        colours(false),
        colours(true)
    )
}

impl Panel {
    fn draw(&self, points: &[ScalePoint], left: f64, text: &mut String) {
        let values =
            points.iter().flat_map(|point| self.figures.iter().filter_map(move |(figure, _)| figure(point)));
        let (low, high) = decades(values);
        let bottom = TOP + PANEL_HEIGHT;
        let workers_most = points.iter().map(|point| point.workers).max().unwrap_or(1).max(10) as f64;
        let x = |workers: u64| left + PANEL_WIDTH * (workers.max(1) as f64).log10() / workers_most.log10();
        let y = |value: f64| bottom - PANEL_HEIGHT * (value.log10() - low) / (high - low);
        let _ = writeln!(
            text,
            "<text x=\"{left}\" y=\"{:.0}\" font-weight=\"600\">{}</text>",
            TOP - 16.0,
            self.title
        );
        let mut decade = low;
        while decade <= high {
            let (at, label) = (y(10_f64.powf(decade)), (self.unit)(10_f64.powf(decade)));
            let right = left + PANEL_WIDTH;
            let _ = writeln!(
                text,
                "<line class=\"rule\" x1=\"{left}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>"
            );
            let _ = writeln!(
                text,
                "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                left - 6.0,
                at + 4.0
            );
            decade += 1.0;
        }
        let mut workers: Vec<u64> = points.iter().map(|point| point.workers).collect();
        workers.dedup();
        for count in workers {
            let _ = writeln!(
                text,
                "<text x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{count}</text>",
                x(count),
                bottom + 18.0
            );
        }
        let middle = left + PANEL_WIDTH / 2.0;
        let _ = writeln!(
            text,
            "<text x=\"{middle:.1}\" y=\"{:.0}\" text-anchor=\"middle\">warm workers</text>",
            bottom + 36.0
        );
        let series = if self.by_clients { CLIENTS.len() } else { 1 };
        for (at, clients) in CLIENTS.iter().enumerate().take(series) {
            for (figure, dashed) in self.figures {
                let mut line = String::new();
                for point in points.iter().filter(|point| point.clients == *clients) {
                    let Some(value) = figure(point) else { continue };
                    let (x, y) = (x(point.workers), y(value));
                    let _ = write!(line, "{x:.1},{y:.1} ");
                    let _ = writeln!(text, "<circle class=\"f{at}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>");
                }
                let class = if *dashed { " dashed" } else { "" };
                let _ =
                    writeln!(text, "<polyline class=\"line s{at}{class}\" points=\"{}\"/>", line.trim_end());
            }
        }
    }
}

/// What client count has which colour.
fn legend(height: f64, text: &mut String) {
    for (at, clients) in CLIENTS.iter().enumerate() {
        let (x, y) = (LEFT + at as f64 * 110.0, height - 14.0);
        let _ =
            writeln!(text, "<circle class=\"f{at}\" cx=\"{:.0}\" cy=\"{:.0}\" r=\"5\"/>", x + 5.0, y - 4.0);
        let words = if *clients == 1 { "1 client".to_owned() } else { format!("{clients} clients") };
        let _ = writeln!(text, "<text x=\"{:.0}\" y=\"{y:.0}\">{words}</text>", x + 16.0);
    }
}

/// Whole decades around all values, as logarithms; never none.
fn decades(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let logarithms: Vec<f64> = values.filter(|value| *value > 0.0).map(f64::log10).collect();
    let low = logarithms.iter().copied().reduce(f64::min).unwrap_or(0.0).floor();
    let high = logarithms.iter().copied().reduce(f64::max).unwrap_or(1.0).ceil();
    if high > low { (low, high) } else { (low, low + 1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Report;

    #[test]
    fn picture_of_points_has_their_lines_for_both_grounds() {
        let mut points = Vec::new();
        for workers in [1, 10] {
            for clients in CLIENTS {
                let point = Report::specimen().scale.remove(0);
                points.push(ScalePoint {
                    workers,
                    clients,
                    p50_us: Some(500.0),
                    p99_us: Some(2_000.0),
                    ..point
                });
            }
        }
        let picture = svg(&points);
        assert_eq!(picture.matches("<polyline").count(), 3 * 2 + 3 + 1);
        assert!(picture.contains("prefers-color-scheme: dark") && picture.ends_with("</svg>\n"));
        assert!(!picture.contains("NaN") && !picture.contains("inf"));
    }

    #[test]
    fn picture_of_nothing_is_nothing() {
        assert_eq!(svg(&[]), "");
    }

    #[test]
    fn decades_hold_all_values_and_are_never_none() {
        assert_eq!(decades([3.0, 450.0].into_iter()), (0.0, 3.0));
        assert_eq!(decades([100.0].into_iter()), (2.0, 3.0));
        assert_eq!(decades([].into_iter()), (0.0, 1.0));
    }
}
