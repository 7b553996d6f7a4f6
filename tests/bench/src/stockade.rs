//! Stockade's own rows.
//!
//! Owns: what is asked of a daemon, and which isolation its results say was given.
//! Never: labels a row with an isolation that was asked for and not given.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use stockade_wire::job::{Isolation, JobResult, Submission, Verdict, Walls};

use crate::beside;
use crate::client::{Connection, Prepared, completed, unexpected};
use crate::daemon::{Daemon, Home};
use crate::jobs::{ENDLESS, Job, of_text};
use crate::load::{Effort, closed_loop, one_at_a_time_from, round, sustained};
use crate::paced::{Pace, paced};
use crate::report::Figures;
use crate::rows::Measured;
use crate::samples::Samples;

/// Clients of the closed loops.
pub const CLIENTS: [u64; 3] = [1, 8, 64];

/// Clients of the sustained load.
pub const SUSTAINED_CLIENTS: u64 = 8;

/// No setting but the defaults.
pub const DEFAULTS: &[(&str, &str)] = &[];

/// The deadline of jobs that never end.
const DEADLINE: Duration = Duration::from_millis(20);

/// How much of a row is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// One at a time.
    Latency,
    /// Several clients, too.
    Clients,
    /// And by the clock.
    Paced,
    /// And for long.
    Sustained,
}

/// One row.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// The job.
    pub job: Job,
    /// The isolation asked for.
    pub isolation: Option<Isolation>,
    /// Settings of the daemon that are not its defaults.
    pub settings: &'static [(&'static str, &'static str)],
    /// How much is measured.
    pub depth: Depth,
}

/// Measures a row on a daemon of its own.
///
/// # Errors
/// When the daemon cannot be started, or a job does not end as it must.
pub fn measure(program: &Path, effort: &Effort, asked: &Asked) -> io::Result<Measured> {
    let home = Home::new(program, asked.settings)?;
    let daemon = home.start()?;
    let given = Given::default();
    let mut figures = latency(&daemon, effort, asked, &given)?;
    if asked.depth == Depth::Latency {
        return Ok(Measured { figures, isolation: Some(given.words()) });
    }
    let job = introduced(&daemon, asked)?;
    let prepared = Prepared::new(&job, asked.job.output())?;
    let connect = || {
        let mut client = Connection::open(daemon.socket())?;
        let prepared = &prepared;
        Ok(move || client.run_prepared(prepared).map(drop))
    };
    for clients in CLIENTS {
        figures.clients.push(closed_loop(clients, effort.closed_loop, connect)?);
    }
    if asked.depth != Depth::Clients
        && let Some(most) = figures.per_second_most()
    {
        figures.paced = Some(paced(daemon.socket(), &job, Pace::new(most / 2.0, effort.paced))?);
    }
    if asked.depth == Depth::Sustained && !effort.sustained.is_zero() {
        figures.sustained = Some(sustained(SUSTAINED_CLIENTS, effort.sustained, connect)?);
    }
    Ok(Measured { figures, isolation: Some(given.words()) })
}

fn introduced(daemon: &Daemon<'_>, asked: &Asked) -> io::Result<Submission> {
    introduce(&mut Connection::open(daemon.socket())?, asked)
}

/// Runs the job once, and gives back what names its module by its digest, if that can be.
fn introduce(client: &mut Connection, asked: &Asked) -> io::Result<Submission> {
    let (submission, expected) = (asked.job.submission(asked.isolation), asked.job.output());
    if asked.job.is_script() {
        completed(&*client.run(&submission)?, &expected)?;
        return Ok(submission);
    }
    client.introduce(&submission, &expected)
}

/// One at a time; what a job costs all of the daemon's processes, and what an idle worker takes meanwhile.
fn latency(daemon: &Daemon<'_>, effort: &Effort, asked: &Asked, given: &Given) -> io::Result<Figures> {
    let mut client = Connection::open(daemon.socket())?;
    let expected = asked.job.output();
    let before = Cell::new(Duration::ZERO);
    let begin = || {
        before.set(daemon.cpu_time());
        given.forget();
    };
    let samples = if asked.job == Job::Cold {
        let mut number = 0;
        let request = || {
            number += 1;
            let result = client.run(&of_text(&asked.job.module(number), None))?;
            completed(&result, &expected)?;
            given.note(&result);
            Ok(())
        };
        one_at_a_time_from(&effort.few(), request, begin)?
    } else if asked.job == Job::Upper1M {
        let input = asked.job.input();
        let job = introduce(&mut client, asked)?;
        let mut client = beside::Connection::open(daemon.socket())?;
        let request = || {
            given.note(&*client.run(&job, &input, &expected)?);
            Ok(())
        };
        one_at_a_time_from(effort, request, begin)?
    } else {
        let job = introduce(&mut client, asked)?;
        let prepared = Prepared::new(&job, expected)?;
        let request = || {
            given.note(&*client.run_prepared(&prepared)?);
            Ok(())
        };
        one_at_a_time_from(effort, request, begin)?
    };
    let used = daemon.cpu_time().saturating_sub(before.get());
    let cpu_us = round(used.as_secs_f64() * 1e6 / samples.len().max(1) as f64);
    let idle = daemon.idle_worker();
    Ok(Figures {
        cpu_us: Some(cpu_us),
        worker_private_kib: idle.private_kib,
        worker_pss_kib: idle.pss_kib,
        ready_private_kib: idle.ready_private_kib,
        ..one(&samples)
    })
}

/// The figures of a latency alone.
#[must_use]
pub fn one(samples: &Samples) -> Figures {
    Figures {
        samples: samples.len() as u64,
        p50_us: samples.p50(),
        p99_us: samples.p99(),
        ..Figures::default()
    }
}

/// From execution to first answer, with a cache that an earlier daemon left.
///
/// # Errors
/// When a daemon cannot be started.
pub fn start(program: &Path, effort: &Effort) -> io::Result<Measured> {
    let home = Home::new(program, DEFAULTS)?;
    // The first leaves its key, its probes and a compiled module.
    Connection::open(home.start()?.socket())?.introduce(&Job::Noop.submission(None), &[])?;
    let mut samples = Samples::default();
    for _ in 0..effort.samples.min(20) {
        samples.push(home.start()?.started());
    }
    Ok(Measured { figures: one(&samples), isolation: None })
}

/// How long after its deadline a job that never ends is over and its client knows.
///
/// # Errors
/// When such a job ends otherwise.
pub fn lateness(program: &Path, effort: &Effort) -> io::Result<Measured> {
    let home = Home::new(program, DEFAULTS)?;
    let daemon = home.start()?;
    let mut client = Connection::open(daemon.socket())?;
    let endless = of_text(ENDLESS, Some(DEADLINE));
    let given = Given::default();
    let mut samples = Samples::default();
    for _ in 0..effort.samples.min(150) {
        let since = std::time::Instant::now();
        let result = client.run(&endless)?;
        let took = since.elapsed();
        if result.outcome.verdict != Verdict::TimedOut {
            return Err(unexpected("a job that never ends ended", &result.outcome));
        }
        // The deadline stands still while the compiled module is made or looked for.
        let compiling = Duration::from_micros(result.bill.compile_us.unwrap_or(0));
        samples.push(took.saturating_sub(DEADLINE + compiling));
        given.note(&result);
    }
    Ok(Measured { figures: one(&samples), isolation: Some(given.words()) })
}

/// Which isolation results said they had.
#[derive(Debug, Default)]
struct Given {
    counts: RefCell<BTreeMap<&'static str, u64>>,
    walls: RefCell<Option<Walls>>,
}

impl Given {
    fn note(&self, result: &JobResult) {
        *self.counts.borrow_mut().entry(isolation_name(result.isolation)).or_default() += 1;
        self.walls.borrow_mut().get_or_insert_with(|| result.jail.clone());
    }

    fn forget(&self) {
        self.counts.borrow_mut().clear();
    }

    fn words(&self) -> String {
        let counts = self.counts.borrow();
        let all: u64 = counts.values().sum();
        let part = |(name, count): (&&str, &u64)| {
            if *count == all { (*name).to_owned() } else { format!("{count} of {all} {name}") }
        };
        let names: Vec<String> = counts.iter().map(part).collect();
        let walls = self.walls.borrow().as_ref().map(walls).unwrap_or_default();
        if walls.is_empty() { names.join(", ") } else { format!("{}: {walls}", names.join(", ")) }
    }
}

/// The word for an isolation, as in results.
#[must_use]
pub const fn isolation_name(isolation: Isolation) -> &'static str {
    match isolation {
        Isolation::Fresh => "fresh",
        Isolation::Tenant => "tenant",
        Isolation::InProcess => "in-process",
    }
}

fn walls(walls: &Walls) -> String {
    let mut held = Vec::new();
    held.extend(walls.seccomp.as_ref().map(|_| "seccomp".to_owned()));
    held.extend(walls.landlock_abi.map(|abi| format!("landlock {abi}")));
    if !walls.cgroup.is_empty() {
        held.push(format!("cgroup {}", walls.cgroup.join("+")));
    }
    if !walls.namespaces.is_empty() {
        held.push(format!("namespaces {}", walls.namespaces.join("+")));
    }
    if walls.capabilities_dropped {
        held.push("no capabilities".to_owned());
    }
    held.extend(walls.mdwe.then(|| "mdwe".to_owned()));
    held.join(", ")
}
