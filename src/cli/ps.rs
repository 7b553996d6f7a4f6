//! `stockade ps`: the caller's jobs.
//!
//! Owns: the table.
//! Never: shows a name as its submitter wrote it without making it harmless.

use std::path::Path;

use stockade_wire::job::JobSummary;

use super::output::Output;
use super::{remote, render};
use crate::supervisor::logs::safe_text;

/// Longest cell, bytes.
const CELL_BYTES_MAX: usize = 60;

const HEAD: [&str; 6] = ["JOB", "PHASE", "VERDICT", "AGE", "TENANT", "NAME"];

/// Lists the jobs that the daemon on `path` shows to this user.
pub(super) fn ps(path: &Path, json: bool) -> Output {
    remote::output(remote::ask(path, async |client| {
        let jobs = client.list().await?;
        Ok(if json { format!("{}\n", render::line(&jobs)?) } else { table(&jobs) })
    }))
}

fn table(jobs: &[JobSummary]) -> String {
    let rows: Vec<_> = std::iter::once(HEAD.map(str::to_owned)).chain(jobs.iter().map(row)).collect();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn row(job: &JobSummary) -> [String; 6] {
    [
        safe_text(&job.job, CELL_BYTES_MAX),
        name(&job.phase),
        job.verdict.as_ref().map_or_else(|| "-".to_owned(), name),
        age(job.age_us),
        safe_text(&job.tenant, CELL_BYTES_MAX),
        safe_text(&job.name, CELL_BYTES_MAX),
    ]
}

/// The name a unit variant has in JSON.
fn name(variant: &impl serde::Serialize) -> String {
    match serde_json::to_value(variant) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(_) | Err(_) => "?".to_owned(),
    }
}

/// A time in its largest unit of which there is at least one.
fn age(us: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(86_400_000_000, "d"), (3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s")];
    let unit = UNITS.into_iter().find(|(unit, _)| us >= *unit);
    unit.map_or_else(|| format!("{}ms", us / 1000), |(unit, name)| format!("{}{name}", us / unit))
}

#[cfg(test)]
mod tests {
    use stockade_wire::job::{Phase, Verdict};

    use super::*;

    #[test]
    fn table_of_jobs_is_aligned_and_harmless() {
        let job = |name: &str, phase, verdict, age_us| JobSummary {
            job: "01JD8GQ0V7XJ5W3T9C0N4R6M2K".into(),
            tenant: "uid:1000".into(),
            name: name.into(),
            phase,
            verdict,
            age_us,
        };
        let jobs = [
            job("a\x1b[2J.wasm", Phase::Running, None, 1_999),
            job("b.wasm", Phase::Finished, Some(Verdict::Completed), 60_000_000),
        ];
        assert_eq!(
            table(&jobs),
            concat!(
                "JOB                         PHASE     VERDICT    AGE  TENANT    NAME\n",
                "01JD8GQ0V7XJ5W3T9C0N4R6M2K  running   -          1ms  uid:1000  a\\x1b[2J.wasm\n",
                "01JD8GQ0V7XJ5W3T9C0N4R6M2K  finished  completed  1m   uid:1000  b.wasm\n",
            )
        );
    }

    #[test]
    fn age_is_in_its_largest_whole_unit() {
        for (us, text) in [
            (0, "0ms"),
            (999_999, "999ms"),
            (1_000_000, "1s"),
            (7_199_999_999, "1h"),
            (u64::MAX, "213503982d"),
        ] {
            assert_eq!(age(us), text);
        }
    }
}
