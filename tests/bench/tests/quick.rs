//! That `scripts/bench` works here and now, and that its documents say what it does.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test says what broke by failing there")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use stockade_bench::publish::{MARKS, documents};
use stockade_bench::report::{Report, keys};
use stockade_bench::rows::all;
use tempfile::TempDir;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Where the executables of this build are, the daemon's among them: the workspace's tests build them all.
fn built() -> PathBuf {
    let directory = Path::new(env!("CARGO_BIN_EXE_stockade-bench")).parent().unwrap().to_owned();
    assert!(
        directory.join("stockade").is_file(),
        "no daemon in {}: test the whole workspace",
        directory.display()
    );
    directory
}

/// `scripts/bench` on what is built already, with whatever of the others is installed.
fn bench(flags: &[&str]) -> Output {
    Command::new(root().join("scripts/bench"))
        .arg("--built")
        .arg(built())
        .args(flags)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// A quick run with these flags, as it was written.
fn quick(flags: &[&str]) -> (Report, serde_json::Value, Output) {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("run.json");
    let output = bench(&[&["--quick", "--json", file.to_str().unwrap()], flags].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = fs::read_to_string(file).unwrap();
    (serde_json::from_str(&text).unwrap(), serde_json::from_str(&text).unwrap(), output)
}

/// The keys in the first column of the table below the heading `## Keys` of docs/performance.md.
fn documented() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("docs/performance.md")).unwrap();
    let section = text.split("\n## Keys\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    cells.map(|(key, _)| key.to_owned()).collect()
}

#[test]
fn quick_run_measures_every_row_or_says_what_is_missing() {
    let (report, document, output) = quick(&[]);
    assert!(report.quick);
    assert_eq!(report.rows.len(), all().len());
    for row in &report.rows {
        let why = row.missing.as_deref().unwrap_or_default();
        assert!(row.figures.is_some() != row.missing.is_some(), "{row:?}");
        assert!(row.figures.is_some() || row.id.starts_with("rival."), "{}: {why}", row.id);
        assert!(why.is_empty() || why.starts_with("not installed: "), "{}: {why}", row.id);
    }
    let given =
        report.rows.iter().find(|row| row.id == "stockade.fresh.noop").unwrap().isolation.clone().unwrap();
    assert!(given.starts_with("fresh: seccomp"), "{given}");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(report.rows.iter().all(|row| printed.contains(&row.what)), "{printed}");
    assert!(keys(&document).is_subset(&documented()));
}

#[test]
fn quick_scale_and_long_run_have_their_figures() {
    let (report, document, _) = quick(&["--scale", "--million"]);
    assert_eq!(report.scale.len(), 3);
    assert!(report.scale.iter().all(|point| point.per_second > 0.0 && point.all_pss_mib > 0.0), "{report:?}");
    let long = report.endurance.unwrap();
    assert_eq!(long.jobs, 200);
    assert_eq!(long.samples.last().unwrap().jobs, 200);
    assert!(keys(&document).is_subset(&documented()));
}

#[test]
fn row_that_does_not_exist_is_refused() {
    let output = bench(&["--quick", "--only", "no-such-row"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("names no row"));
}

#[test]
fn rows_that_are_named_are_the_only_ones() {
    let (report, ..) = quick(&["--only", "floor.echo-one-hop,stockade.start"]);
    let ids: Vec<&str> = report.rows.iter().map(|row| row.id.as_str()).collect();
    assert_eq!(ids, ["floor.echo-one-hop", "stockade.start"]);
}

#[test]
fn documented_keys_are_just_the_ones_produced() {
    let specimen = keys(&serde_json::to_value(Report::specimen()).unwrap());
    assert_eq!(documented(), specimen);
}

#[test]
fn published_figures_are_those_of_the_published_run_and_there_are_none_without_one() {
    let shown = |name: &str| {
        let text = fs::read_to_string(root().join(name)).unwrap();
        let (begin, end) = MARKS;
        let (_, rest) = text.split_once(begin).unwrap();
        rest.split_once(end).unwrap().0.trim().to_owned()
    };
    let Ok(run) = fs::read_to_string(root().join("docs/performance.json")) else {
        for (name, _) in documents(&Report::specimen()) {
            assert_eq!(shown(name), "", "{name} has figures of no run");
        }
        assert!(!root().join("docs/performance.svg").exists());
        return;
    };
    let report: Report = serde_json::from_str(&run).unwrap();
    assert!(!report.quick, "a smoke run is published");
    for (name, part) in documents(&report) {
        assert_eq!(shown(name), part.trim(), "{name} is not what scripts/bench --publish writes");
    }
    let picture = fs::read_to_string(root().join("docs/performance.svg")).unwrap();
    assert_eq!(picture, stockade_bench::plot::svg(&report.scale));
}
