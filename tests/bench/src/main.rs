//! `stockade-bench`: what `scripts/bench` calls once everything is built and installed.
//!
//! Owns: the flags, the order of things, the exit status.
//! Never: builds or installs.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use stockade_bench::jobs::Job;
use stockade_bench::load::Effort;
use stockade_bench::plot::svg;
use stockade_bench::procfs::{self, Processors};
use stockade_bench::publish::publish;
use stockade_bench::report::{Load, Report, SCHEMA};
use stockade_bench::rivals::Tools;
use stockade_bench::rows::{Bench, all, failed, is_asked_for, run};
use stockade_bench::scale::Extent;
use stockade_bench::table::{Style, render};
use stockade_bench::{builds, drive, floors, machine, ratios, scale};
use stockade_wire::job::Isolation;

/// The repository that this was built in.
const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// How often everything is measured where nothing else is asked for.
const ROUNDS: u32 = 3;

/// Jobs of `--million`.
const MILLION: u64 = 1_000_000;

/// And with `--quick`.
const MILLION_QUICK: u64 = 200;

#[derive(Debug, Parser)]
#[command(
    name = "scripts/bench",
    about = "Measures what a job costs, beside what the machine and others take"
)]
struct Arguments {
    /// Only that it works, in seconds: the figures mean nothing
    #[arg(long)]
    quick: bool,
    /// How often everything is measured, in turn; figures are medians of these
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// Only these rows, by their ids or the beginnings of them up to a dot
    #[arg(long, value_name = "ROWS", value_delimiter = ',')]
    only: Vec<String>,
    /// Prints the ids of all rows and ends
    #[arg(long)]
    list: bool,
    /// Measures cost as warm workers and clients grow, and no row
    #[arg(long)]
    scale: bool,
    /// Runs a million jobs and looks at the supervisor's memory along the way, and measures no row
    #[arg(long)]
    million: bool,
    /// Measures everything: all rows, --scale and --million
    #[arg(long, conflicts_with_all = ["only", "scale", "million"])]
    all: bool,
    /// Writes the run into the repository's documents; measures everything, or takes the run of --render
    #[arg(long, conflicts_with_all = ["only", "scale", "million", "quick"])]
    publish: bool,
    /// Writes the run as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draws the scale as SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Prints Markdown
    #[arg(long)]
    markdown: bool,
    /// Measures nothing and prints a run that was written with --json
    #[arg(long, value_name = "FILE")]
    render: Option<PathBuf>,
    /// The daemon's executable
    #[arg(long, value_name = "FILE")]
    stockade: PathBuf,
    /// Where others' programs are installed
    #[arg(long, value_name = "DIRECTORY")]
    tools: PathBuf,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["fork-parent", kind, rounds] => floors::fork_parent(kind, rounds).map(|()| true),
        ["fork", kind, rounds] => rounds
            .parse()
            .map_err(io::Error::other)
            .and_then(|rounds| floors::forks(kind, rounds))
            .map(|()| true),
        ["echo"] => floors::echo_neighbour(false).map(|()| true),
        ["echo", "onward"] => floors::echo_neighbour(true).map(|()| true),
        ["drive", program, isolation, clients, seconds] => {
            load(program, isolation, (clients, seconds), Job::Noop)
        }
        ["drive", program, isolation, clients, seconds, "script"] => {
            load(program, isolation, (clients, seconds), Job::Transform)
        }
        ["builds", isolation, seconds, "script", programs @ ..] => {
            compare(isolation, seconds, Job::Transform, programs)
        }
        ["builds", isolation, seconds, programs @ ..] => compare(isolation, seconds, Job::Noop, programs),
        _ => bench(&Arguments::parse()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `stockade-bench drive EXECUTABLE fresh|tenant CLIENTS SECONDS [script]`: something to look at with a profiler.
fn load(program: &str, isolation: &str, (clients, seconds): (&str, &str), job: Job) -> io::Result<bool> {
    let isolation = isolation_of(isolation);
    let number = |text: &str| text.parse().map_err(io::Error::other);
    let seen = drive::drive(Path::new(program), (job, isolation), number(clients)?, number(seconds)?)?;
    io::stdout().write_all(seen.as_bytes())?;
    Ok(true)
}

/// `stockade-bench builds fresh|tenant SECONDS [script] EXECUTABLE...`: which of several is quicker.
fn compare(isolation: &str, seconds: &str, job: Job, programs: &[&str]) -> io::Result<bool> {
    let time = Duration::from_secs(seconds.parse().map_err(io::Error::other)?);
    let seen = builds::builds(programs, (job, isolation_of(isolation)), time, &Effort::FULL)?;
    io::stdout().write_all(seen.as_bytes())?;
    Ok(true)
}

fn isolation_of(word: &str) -> Isolation {
    if word == "tenant" { Isolation::Tenant } else { Isolation::Fresh }
}

/// Whether everything that was tried worked.
fn bench(arguments: &Arguments) -> io::Result<bool> {
    let style = if arguments.markdown { Style::Markdown } else { Style::Plain };
    if arguments.list {
        let ids: Vec<String> = all().into_iter().map(|row| row.id + "\n").collect();
        io::stdout().write_all(ids.concat().as_bytes())?;
        return Ok(true);
    }
    if let Some(file) = &arguments.render {
        let report = read(file)?;
        if arguments.publish {
            publish(&report, Path::new(REPOSITORY))?;
        }
        io::stdout().write_all(render(&report, style).as_bytes())?;
        return Ok(true);
    }
    let report = measure(arguments)?;
    if let Some(file) = &arguments.json {
        std::fs::write(file, serde_json::to_string_pretty(&report).map_err(io::Error::other)? + "\n")?;
    }
    if arguments.publish {
        publish(&report, Path::new(REPOSITORY))?;
    }
    if let Some(file) = &arguments.svg {
        std::fs::write(file, svg(&report.scale))?;
    }
    io::stdout().write_all(render(&report, style).as_bytes())?;
    Ok(!failed(&report.rows))
}

fn read(file: &Path) -> io::Result<Report> {
    serde_json::from_str(&std::fs::read_to_string(file)?).map_err(io::Error::other)
}

fn measure(arguments: &Arguments) -> io::Result<Report> {
    let rows: Vec<_> = all().into_iter().filter(|row| is_asked_for(&row.id, &arguments.only)).collect();
    if rows.is_empty() {
        return Err(io::Error::other("--only names no row; --list shows their ids"));
    }
    let quick = arguments.quick;
    let bench = Bench {
        effort: if quick { Effort::QUICK } else { Effort::FULL },
        rounds: arguments.rounds.unwrap_or(if quick { 1 } else { ROUNDS }).max(1),
        stockade: arguments.stockade.clone(),
        tools: Tools::find(&arguments.tools),
    };
    let tell = |line: &str| eprintln!("bench: {line}");
    let everything = arguments.all || arguments.publish;
    let parts = arguments.scale || arguments.million;
    let taken = machine::now();
    let (before, processors) = (procfs::load(), Processors::now());
    let rows = if parts { Vec::new() } else { run(&bench, &rows, &tell) };
    let scale = if arguments.scale || everything {
        scale::scale(&bench.stockade, if quick { Extent::QUICK } else { Extent::FULL }, &tell)?
    } else {
        Vec::new()
    };
    let endurance = if arguments.million || everything {
        Some(scale::endurance(&bench.stockade, if quick { MILLION_QUICK } else { MILLION }, &tell)?)
    } else {
        None
    };
    Ok(Report {
        schema: SCHEMA,
        taken,
        quick,
        rounds: bench.rounds,
        machine: machine::machine(),
        load: Load {
            before,
            after: procfs::load(),
            stolen_percent: Processors::now().stolen_percent_since(processors),
        },
        versions: machine::versions(&bench.stockade, &bench.tools),
        ratios: if parts { Vec::new() } else { ratios::of(&rows) },
        rows,
        scale,
        endurance,
    })
}
