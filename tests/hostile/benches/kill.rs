//! How late a job that does not want to end is gone, beside how late a bare timer of the same run is.
//!
//! Owns: the figures of kills: `cargo bench --workspace --bench kill` makes them again, in less than a minute.
//! Never: asserts a time; a noisy machine is no reason to fail.
//!
//! Lateness is what passes from the moment a job should be over to its result being there: the supervisor's timer, its
//! signal, the worker's death in the kernel, and its being reaped.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a measurement that cannot go on says so by panicking, and nothing is exported"
)]

#[path = "../tests/supervisor/rig.rs"]
#[expect(dead_code, reason = "the tests use the rest of it")]
mod rig;

use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};
use stockade_wire::job::{JobResult, Submission, Verdict};
use tokio::task::LocalSet;

use crate::rig::{Rig, SPIN, config, eventually, hostile, limited, submission};

/// Samples of each kind.
const ROUNDS: usize = 100;

const TIMEOUT: Duration = Duration::from_millis(50);
const GRACE: Duration = Duration::from_millis(20);

/// What the bare timers are set to.
const NAP: Duration = Duration::from_millis(20);

/// Jobs that compute all the time beside the second half of the run, and when they would end by themselves.
const BURNERS: usize = 2;
const BURNT_OUT: Duration = Duration::from_secs(300);

fn main() {
    // `cargo bench` says that it is one; whoever else starts this wants to see that it works.
    let rounds = if std::env::args().any(|argument| argument == "--bench") { ROUNDS } else { 3 };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, measure(rounds));
}

async fn measure(rounds: usize) {
    let rig = Rig::start().await;
    // With its module compiled from here on.
    rig.run(spinning()).await;
    println!("{:<58}{:>10}{:>10}{:>10}", "late by", "p50", "p99", "max");
    println!("alone");
    Late::measure(&rig, rounds).await.print();
    let burners = [(); BURNERS].map(|()| rig.submit(limited(submission(SPIN), BURNT_OUT, GRACE)));
    for burner in &burners {
        rig.running(burner).await;
    }
    println!("beside {BURNERS} jobs that compute all the time");
    Late::measure(&rig, rounds).await.print();
    for burner in &burners {
        rig.cancel(burner);
        rig.result(burner).await;
    }
    rig.end().await;
}

fn spinning() -> Submission {
    limited(submission(SPIN), TIMEOUT, GRACE)
}

/// Samples of one stretch, taken in turn so that all see the same machine.
#[derive(Default)]
struct Late {
    nanosleep: Vec<Duration>,
    tokio: Vec<Duration>,
    guest: Vec<Duration>,
    /// Guests that did not see their epoch before SIGTERM.
    guests_terminated: usize,
    native: Vec<Duration>,
    /// Workers whose SIGTERM came before they had begun to ignore it.
    natives_not_begun: usize,
}

impl Late {
    async fn measure(rig: &Rig, rounds: usize) -> Self {
        let mut late = Self::default();
        for _ in 0..rounds {
            // On a thread of its own: the supervisor's is not to sleep.
            late.nanosleep.push(tokio::task::spawn_blocking(nanosleep).await.unwrap());
            let since = Instant::now();
            tokio::time::sleep(NAP).await;
            late.tokio.push(since.elapsed().saturating_sub(NAP));
            late.guest(rig).await;
            late.native(rig, rounds).await;
        }
        late
    }

    async fn guest(&mut self, rig: &Rig) {
        let (after_deadline, result) = timed_out(rig, spinning()).await;
        self.guest.push(after_deadline);
        self.guests_terminated += usize::from(reason(&result) != "epoch_deadline");
    }

    async fn native(&mut self, rig: &Rig, attempts_max: usize) {
        loop {
            let job = limited(hostile("ignore-sigterm"), TIMEOUT, GRACE);
            let (after_deadline, result) = timed_out(rig, job).await;
            if reason(&result) == "sigkill_after_grace" {
                let spared = config().kill.epoch_head_start + GRACE;
                self.native.push(after_deadline.saturating_sub(spared));
                return;
            }
            self.natives_not_begun += 1;
            assert!(
                self.natives_not_begun <= attempts_max,
                "they do not begin in time: {:?}",
                result.outcome
            );
        }
    }

    fn print(&self) {
        line("  bare timer, clock_nanosleep", &self.nanosleep);
        line("  bare timer, tokio::time::sleep", &self.tokio);
        line("  guest that spins, after its deadline", &self.guest);
        line("  worker that ignores SIGTERM, after its grace", &self.native);
        println!(
            "  {} of {} guests took SIGTERM; {} workers had not begun to ignore it and are not counted",
            self.guests_terminated,
            self.guest.len(),
            self.natives_not_begun
        );
    }
}

/// Runs a job to its deadline and beyond: how long after the deadline its result was there, and the result.
async fn timed_out(rig: &Rig, job: Submission) -> (Duration, JobResult) {
    eventually("a warm worker", || rig.supervisor.statistics().warm > 0).await;
    let since = Instant::now();
    let id = rig.submit(job);
    let result = rig.result(&id).await;
    let took = since.elapsed();
    assert_eq!(result.outcome.verdict, Verdict::TimedOut, "{:?}", result.outcome);
    // The clock of the deadline stands still while the compiled module is looked for.
    let stood_still = Duration::from_micros(result.bill.compile_us.unwrap());
    (took.saturating_sub(TIMEOUT + stood_still), JobResult::clone(&result))
}

fn reason(result: &JobResult) -> &str {
    result.outcome.reason.as_deref().unwrap_or_default()
}

fn nanosleep() -> Duration {
    let since = Instant::now();
    clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::empty(), &TimeSpec::from_duration(NAP))
        .unwrap();
    since.elapsed().saturating_sub(NAP)
}

fn line(what: &str, samples: &[Duration]) {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let percentile = |hundredth: usize| sorted[(sorted.len() - 1) * hundredth / 100].as_secs_f64() * 1e3;
    let [p50, p99, max] = [50, 99, 100].map(percentile);
    println!("{what:<58}{p50:>7.2} ms{p99:>7.2} ms{max:>7.2} ms");
}
