//! How long a tenant worker stays.
//!
//! Owns: the rules by which one is replaced: its jobs, its age, its idleness, its growth, how its last job ended.
//! Never: reads a clock or a process, ends one.

use std::time::{Duration, Instant};

use stockade_wire::worker::{Ending, LinkFault, RunReport, ScriptFault, TrapCode};

use super::growth::Growth;
use crate::config;

/// The part of its time, at the end, in which a worker is about to be over.
const SOON_PART: u32 = 20;

/// Jobs from one sample of a process's memory to the next.
const SAMPLE_JOBS: u64 = 64;

/// The life of one tenant worker.
#[derive(Debug)]
pub(super) struct Tenancy {
    born: Instant,
    used: Instant,
    jobs: u64,
    growth: Growth,
}

impl Tenancy {
    pub(super) fn begun(now: Instant) -> Self {
        Self { born: now, used: now, jobs: 0, growth: Growth::default() }
    }

    /// When its last job ended.
    pub(super) const fn used(&self) -> Instant {
        self.used
    }

    /// Whether it has run a job.
    pub(super) const fn is_used(&self) -> bool {
        self.jobs > 0
    }

    /// Notes that a job ended. Whether its memory is to be sampled now.
    #[must_use]
    pub(super) fn ran(&mut self, now: Instant) -> bool {
        self.used = now;
        self.jobs += 1;
        self.jobs.is_multiple_of(SAMPLE_JOBS)
    }

    /// Takes a sample of its memory; `None` when there was none to be had. Whether it may stay.
    #[must_use]
    pub(super) fn sampled(&mut self, resident_bytes: Option<u64>) -> bool {
        resident_bytes.is_some_and(|bytes| !self.growth.keeps_on_after(bytes))
    }

    /// Whether its time is over, or the last of its jobs run.
    pub(super) fn is_over(&self, now: Instant, limits: &config::Pool) -> bool {
        let since = |then: Instant| now.saturating_duration_since(then);
        let (age, idle): (Duration, Duration) = (since(self.born), since(self.used));
        self.jobs >= limits.tenant_jobs_max || age >= limits.tenant_age || idle >= limits.tenant_idle
    }

    /// Whether it is in the last twentieth of its jobs or its age, and another may as well be made now.
    pub(super) fn is_over_soon(&self, now: Instant, limits: &config::Pool) -> bool {
        let (jobs, age) = (limits.tenant_jobs_max, limits.tenant_age);
        self.jobs >= jobs - jobs / u64::from(SOON_PART)
            || now.saturating_duration_since(self.born) >= age - age / SOON_PART
    }
}

/// Whether a process whose guest ended so may run another's.
///
/// A guest that ends by itself, fails in its own words, or reaches `unreachable` or an arithmetic fault, as every
/// compiler's panics and assertions do, has done nothing to its process. Whoever looks for a hole in the engine shows
/// first in the other traps: memory and tables out of bounds, calls of the wrong thing, no stack left. Nothing runs in a
/// process that saw one of those, or the end of its time.
pub(super) fn is_harmless(report: &RunReport) -> bool {
    match &report.ending {
        Ending::Exited(_) | Ending::Failed(_) => true,
        Ending::Trapped(code, _) => match code {
            TrapCode::Unreachable
            | TrapCode::IntegerOverflow
            | TrapCode::DivisionByZero
            | TrapCode::BadConversionToInteger => true,
            TrapCode::StackOverflow
            | TrapCode::MemoryOutOfBounds
            | TrapCode::TableOutOfBounds
            | TrapCode::IndirectCallToNull
            | TrapCode::BadSignature
            | TrapCode::Other => false,
        },
        // Seen before anything of the guest ran.
        Ending::Unlinkable(LinkFault::NoEntry | LinkFault::EntrySignature | LinkFault::Arguments, _) => true,
        Ending::Unlinkable(LinkFault::UnknownImport | LinkFault::TooLarge, _)
        | Ending::Interrupted
        | Ending::OutOfFuel
        | Ending::MemoryRefused(_)
        | Ending::SetupFailed(_) => false,
        // The engine's own word, which ends a script in order; not where it was at the end of its stack or memory.
        Ending::Script(fault, _) => !matches!(fault, ScriptFault::OutOfMemory | ScriptFault::StackOverflow),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> config::Pool {
        let mut limits = config::Config::defaults().unwrap().pool;
        limits.tenant_jobs_max = 3;
        limits.tenant_age = Duration::from_secs(100);
        limits.tenant_idle = Duration::from_secs(10);
        limits
    }

    #[test]
    fn worker_is_over_after_its_jobs_its_age_or_its_idleness_whichever_comes_first() {
        let (t, limits) = (Instant::now(), limits());
        let second = Duration::from_secs(1);
        let mut tenancy = Tenancy::begun(t);
        assert!(!tenancy.is_used() && !tenancy.is_over(t, &limits));
        assert!(tenancy.is_over(t + 10 * second, &limits), "idle");
        for _ in 0..2 {
            let _ = tenancy.ran(t + 9 * second);
        }
        assert!(tenancy.is_used() && !tenancy.is_over(t + 18 * second, &limits));
        assert!(tenancy.is_over(t + 19 * second, &limits), "idle since its last job");
        let _ = tenancy.ran(t + 9 * second);
        assert!(tenancy.is_over(t + 9 * second, &limits), "its jobs");
        let mut old = Tenancy::begun(t);
        let _ = old.ran(t + 99 * second);
        assert!(!old.is_over(t + 99 * second, &limits));
        let _ = old.ran(t + 100 * second);
        assert!(old.is_over(t + 100 * second, &limits), "its age");
    }

    #[test]
    fn worker_is_over_soon_in_the_last_twentieth_of_its_jobs_or_its_age() {
        let (t, second) = (Instant::now(), Duration::from_secs(1));
        let limits = config::Pool { tenant_jobs_max: 100, tenant_idle: second * 1000, ..limits() };
        let mut tenancy = Tenancy::begun(t);
        let soon: Vec<u64> = (1..=100)
            .filter(|_| {
                let _ = tenancy.ran(t);
                tenancy.is_over_soon(t, &limits)
            })
            .collect();
        assert_eq!(soon, (95..=100).collect::<Vec<_>>());
        let young = Tenancy::begun(t);
        assert!(!young.is_over_soon(t + second * 94, &limits));
        assert!(young.is_over_soon(t + second * 95, &limits) && !young.is_over(t + second * 95, &limits));
    }

    #[test]
    fn memory_is_sampled_now_and_then_and_a_worker_without_a_sample_does_not_stay() {
        let t = Instant::now();
        let mut tenancy = Tenancy::begun(t);
        let sampled: Vec<bool> = (0..2 * SAMPLE_JOBS).map(|_| tenancy.ran(t)).collect();
        assert_eq!(sampled.iter().filter(|sampled| **sampled).count(), 2);
        assert!(tenancy.sampled(Some(1)));
        assert!(!tenancy.sampled(None));
        let stays: Vec<bool> = (2..=10).map(|bytes| tenancy.sampled(Some(bytes))).collect();
        assert_eq!(stays, [true, true, true, true, true, true, true, true, false]);
    }

    #[test]
    fn process_stays_only_after_what_does_it_no_harm() {
        let text = String::new;
        let trap = |code| Ending::Trapped(code, text());
        let fault = |fault| Ending::Unlinkable(fault, text());
        for (ending, harmless) in [
            (Ending::Exited(0), true),
            (Ending::Exited(1), true),
            (Ending::Failed(text()), true),
            (trap(TrapCode::Unreachable), true),
            (trap(TrapCode::IntegerOverflow), true),
            (trap(TrapCode::DivisionByZero), true),
            (trap(TrapCode::BadConversionToInteger), true),
            (trap(TrapCode::StackOverflow), false),
            (trap(TrapCode::MemoryOutOfBounds), false),
            (trap(TrapCode::TableOutOfBounds), false),
            (trap(TrapCode::IndirectCallToNull), false),
            (trap(TrapCode::BadSignature), false),
            (trap(TrapCode::Other), false),
            (fault(LinkFault::NoEntry), true),
            (fault(LinkFault::EntrySignature), true),
            (fault(LinkFault::Arguments), true),
            (fault(LinkFault::UnknownImport), false),
            (fault(LinkFault::TooLarge), false),
            (Ending::Interrupted, false),
            (Ending::OutOfFuel, false),
            (Ending::MemoryRefused(1), false),
            (Ending::SetupFailed(text()), false),
            (Ending::Script(ScriptFault::Thrown, Box::default()), true),
            (Ending::Script(ScriptFault::Syntax, Box::default()), true),
            (Ending::Script(ScriptFault::OutOfMemory, Box::default()), false),
            (Ending::Script(ScriptFault::StackOverflow, Box::default()), false),
        ] {
            let report = RunReport {
                ending: ending.clone(),
                fuel: None,
                wasm_memory_peak_bytes: 0,
                growth_refused: false,
                load_us: 0,
                run_us: 0,
                mdwe: true,
                command: true,
                usage: None,
            };
            assert_eq!(is_harmless(&report), harmless, "{ending:?}");
        }
    }
}
