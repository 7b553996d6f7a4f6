//! Every row there is, in the order of the table, and the run over them.
//!
//! Owns: the list, the rounds, what becomes of a row that cannot be measured.
//! Never: leaves a row out without a word.

use std::io;
use std::path::PathBuf;

use stockade_wire::job::Isolation;

use crate::floors::{self, Holding};
use crate::jobs::Job;
use crate::load::Effort;
use crate::report::{Figures, Row};
use crate::rivals::{self, Tools};
use crate::stockade::{self, Asked, Depth, one};

/// What a run is made with.
#[derive(Debug)]
pub struct Bench {
    /// How much is measured.
    pub effort: Effort,
    /// How often all rows are, in turn.
    pub rounds: u32,
    /// The daemon's executable.
    pub stockade: PathBuf,
    /// What others' rows need.
    pub tools: Tools,
}

/// What one row gave in one round.
#[derive(Debug, Clone)]
pub struct Measured {
    /// The figures.
    pub figures: Figures,
    /// What keeps one job from the next and from the host.
    pub isolation: Option<String>,
}

/// Why a row has no figures.
#[derive(Debug, thiserror::Error)]
pub enum Absent {
    /// Something it needs is not installed.
    #[error("not installed: {0}")]
    NotInstalled(String),
    /// It was tried.
    #[error("failed: {0}")]
    Failed(#[from] io::Error),
}

type Measure = Box<dyn Fn(&Bench) -> Result<Measured, Absent>>;

/// One row.
pub struct Planned {
    /// Stable name.
    pub id: String,
    /// In words.
    pub what: String,
    measure: Measure,
}

impl Planned {
    /// A row of this name that is measured so.
    pub fn new(
        id: impl Into<String>,
        what: impl Into<String>,
        measure: impl Fn(&Bench) -> Result<Measured, Absent> + 'static,
    ) -> Self {
        Self { id: id.into(), what: what.into(), measure: Box::new(measure) }
    }
}

/// All rows, in the order of the table.
#[must_use]
pub fn all() -> Vec<Planned> {
    let mut rows = floors();
    rows.extend(of_stockade());
    rows.extend(rivals::rows());
    rows
}

fn floors() -> Vec<Planned> {
    let floor = |figures| Ok(Measured { figures, isolation: None });
    let echo = move |bench: &Bench, hops| {
        let back_to_back = floors::echo_back_to_back(&bench.effort, hops)?;
        let paced = floors::echo_paced(&bench.effort, hops, &back_to_back)?;
        let apart = one(&floors::echo(&bench.effort, hops)?);
        floor(Figures { clients: vec![back_to_back], paced: Some(paced), ..apart })
    };
    let fork = move |bench: &Bench, holding| {
        let (samples, cpu_us) = floors::fork(&bench.effort, holding)?;
        floor(Figures { cpu_us, ..one(&samples) })
    };
    vec![
        Planned::new("floor.echo-one-hop", "Unix socket echo, 256 B, one hop", move |bench| echo(bench, 1)),
        Planned::new("floor.echo-two-hop", "Unix socket echo, 256 B, two hops", move |bench| echo(bench, 2)),
        Planned::new("floor.fork", "fork of a small process, to the child's first byte", move |bench| {
            fork(bench, Holding::Nothing)
        }),
        Planned::new("floor.fork-engine", "fork of a process with warm engines", move |bench| {
            fork(bench, Holding::Engines)
        }),
        Planned::new(
            "floor.fork-script",
            "fork of a process with the JavaScript engine, to the end of 1 KiB of JSON transformed",
            move |bench| fork(bench, Holding::Script),
        ),
        Planned::new(
            "floor.ready-script",
            "the same in a fork that stood ready, from a byte that asks for it",
            move |bench| fork(bench, Holding::ReadyScript),
        ),
        Planned::new(
            "floor.instantiate",
            "fresh instance in one process, pooled, copy-on-write",
            move |bench| floor(one(&floors::instantiate(&bench.effort).map_err(io::Error::other)?)),
        ),
    ]
}

const IN_PROCESS: &[(&str, &str)] = &[("MODE", "in-process")];

fn of_stockade() -> Vec<Planned> {
    let mut rows = Vec::new();
    let kinds = [
        ("fresh", Some(Isolation::Fresh), [].as_slice()),
        ("tenant", Some(Isolation::Tenant), [].as_slice()),
        ("in-process", None, IN_PROCESS),
    ];
    for (kind, isolation, settings) in kinds {
        for job in [Job::Noop, Job::Upper1K, Job::Upper1M, Job::Spin, Job::Cold, Job::Transform] {
            // The same module twice is what tenants' processes are kept for.
            if job == Job::Cold && isolation == Some(Isolation::Tenant) {
                continue;
            }
            let depth = match job {
                Job::Noop if settings.is_empty() => Depth::Sustained,
                Job::Noop | Job::Upper1K | Job::Transform => Depth::Clients,
                _ => Depth::Latency,
            };
            let asked = Asked { job, isolation, settings, depth };
            let what = format!("Stockade, {kind}: {}", job.words());
            rows.push(asked_row(format!("stockade.{kind}.{}", job.id()), what, asked));
        }
    }
    let compute =
        Asked { job: Job::Compute, isolation: Some(Isolation::Fresh), settings: &[], depth: Depth::Latency };
    let what = format!("Stockade, fresh: {}", Job::Compute.words());
    rows.push(asked_row("stockade.fresh.js-compute", what, compute));
    let noop = |settings| Asked {
        job: Job::Noop,
        isolation: Some(Isolation::Fresh),
        settings,
        depth: Depth::Clients,
    };
    rows.push(asked_row(
        "stockade.fresh.noop-without-namespaces",
        "Stockade, fresh: no-op, no namespaces",
        noop(&[("JAIL_NAMESPACES", "off")]),
    ));
    rows.push(asked_row(
        "stockade.fresh.noop-without-templates",
        "Stockade, fresh: no-op, no templates",
        noop(&[("POOL_TEMPLATES_MAX", "0")]),
    ));
    rows.push(Planned::new("stockade.start", "Stockade: start to first answer, warm cache", |bench| {
        Ok(stockade::start(&bench.stockade, &bench.effort)?)
    }));
    rows.push(Planned::new(
        "stockade.lateness",
        "Stockade: deadline of a spinning guest to its result",
        |bench| Ok(stockade::lateness(&bench.stockade, &bench.effort)?),
    ));
    rows
}

fn asked_row(id: impl Into<String>, what: impl Into<String>, asked: Asked) -> Planned {
    Planned::new(id, what, move |bench| Ok(stockade::measure(&bench.stockade, &bench.effort, &asked)?))
}

/// Whether a row is asked for: its id, or the beginning of it up to a dot.
#[must_use]
pub fn is_asked_for(id: &str, only: &[String]) -> bool {
    let begins = |asked: &String| {
        id == asked || id.strip_prefix(asked.as_str()).is_some_and(|rest| rest.starts_with('.'))
    };
    only.is_empty() || only.iter().any(begins)
}

/// Measures these rows, all once a round, and tells of each as it goes.
pub fn run(bench: &Bench, rows: &[Planned], tell: &dyn Fn(&str)) -> Vec<Row> {
    let mut found: Vec<(Vec<Measured>, Option<Absent>)> = rows.iter().map(|_| (Vec::new(), None)).collect();
    for number in 1..=bench.rounds {
        for (row, (measured, absent)) in rows.iter().zip(&mut found) {
            if absent.is_some() {
                continue;
            }
            // A minute of load in one round says what there is to say.
            let effort = if number == 1 { bench.effort } else { bench.effort.without_sustained() };
            let this_round =
                Bench { effort, tools: bench.tools.clone(), stockade: bench.stockade.clone(), ..*bench };
            match (row.measure)(&this_round) {
                Ok(figures) => {
                    let p50 = figures.figures.p50_us.unwrap_or_default();
                    tell(&format!("round {number} of {}: {}: {p50:.1} µs", bench.rounds, row.id));
                    measured.push(figures);
                }
                Err(why) => {
                    tell(&format!("round {number} of {}: {}: {why}", bench.rounds, row.id));
                    *absent = Some(why);
                }
            }
        }
    }
    rows.iter()
        .zip(found)
        .map(|(row, (measured, absent))| summed_up(row, &measured, absent.as_ref()))
        .collect()
}

fn summed_up(row: &Planned, measured: &[Measured], absent: Option<&Absent>) -> Row {
    let rounds: Vec<Figures> = measured.iter().map(|round| round.figures.clone()).collect();
    Row {
        id: row.id.clone(),
        what: named_as_given(row, measured),
        isolation: measured.iter().find_map(|round| round.isolation.clone()),
        missing: absent.map(ToString::to_string),
        figures: (absent.is_none() && !rounds.is_empty()).then(|| Figures::median_of(&rounds)),
    }
}

/// The row's name, which does not call by an isolation what was given another.
fn named_as_given(row: &Planned, measured: &[Measured]) -> String {
    let asked =
        row.id.strip_prefix("stockade.").and_then(|rest| rest.split_once('.')).map(|(asked, _)| asked);
    let given = measured.iter().find_map(|round| round.isolation.as_deref()?.split(':').next());
    match asked.zip(given) {
        Some((asked, given)) if asked != given => {
            row.what.replacen(&format!("{asked}:"), &format!("{asked} asked for, {given} given:"), 1)
        }
        _ => row.what.clone(),
    }
}

/// Whether any row was tried and failed.
#[must_use]
pub fn failed(rows: &[Row]) -> bool {
    rows.iter().any(|row| row.missing.as_ref().is_some_and(|why| why.starts_with("failed: ")))
}
