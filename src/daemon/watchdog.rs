//! The watchdog: the service manager hears that the daemon is well for as long as a worker can be had.
//!
//! Owns: when that is proven, when it has to be tried, and that nothing is said when the trial fails.
//! Never: makes anything better. The pool replaces what fails; when it cannot, systemd replaces the daemon.
//!
//! ```text
//! each quarter of WatchdogSec= ── a worker was made since the last word, or draining ─────▶ a word
//!                              └─ neither ─▶ one is made ── within half of WatchdogSec= ──▶ a word
//!                                                       └── not, or it failed ───────────▶ none
//! ```

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::notify::ServiceManager;
use crate::observe::Causes;
use crate::supervisor::{Supervisor, Vitals};

/// How often it is looked, and how long a trial may take, for one setting of `WatchdogSec=`. The two together are less
/// than it: a word that was late because of a trial is not too late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pace {
    period: Duration,
    trial: Duration,
}

impl Pace {
    const fn of(watchdog: Duration) -> Self {
        Self {
            period: Duration::from_micros(us(watchdog) / 4),
            trial: Duration::from_micros(us(watchdog) / 2),
        }
    }
}

/// `WATCHDOG_USEC` is what it came from.
#[expect(clippy::cast_possible_truncation, reason = "half a million years of microseconds fit")]
const fn us(time: Duration) -> u64 {
    time.as_micros() as u64
}

/// What to do at a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Say that all is well.
    Word,
    /// Say it if a worker can be had.
    Try,
}

/// What the daemon's vital signs call for at `now`.
fn step(vitals: &Vitals, now: Instant, pace: Pace) -> Step {
    // What drains makes no workers any more; how long that may take is TimeoutStopSec='s to say.
    let proven = vitals.draining
        || !vitals.forks
        || vitals.last_worker.is_some_and(|made| now.saturating_duration_since(made) < pace.period);
    if proven { Step::Word } else { Step::Try }
}

/// Tells `manager` again and again that the daemon is well, for as long as it is, within `watchdog`. Never returns.
pub async fn watch(supervisor: Supervisor, manager: ServiceManager, watchdog: Duration) {
    let pace = Pace::of(watchdog);
    loop {
        let well = match step(&supervisor.vitals(), Instant::now(), pace) {
            Step::Word => true,
            Step::Try => worker_can_be_had(&supervisor, pace.trial).await,
        };
        if well {
            manager.well(&supervisor.statistics());
        }
        sleep(pace.period).await;
    }
}

async fn worker_can_be_had(supervisor: &Supervisor, within: Duration) -> bool {
    match timeout(within, supervisor.try_worker()).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::error!(error = %Causes(&error), "no worker can be had; the service manager is not told that all is well");
            false
        }
        Err(_) => {
            tracing::error!(
                ?within,
                "no worker could be had; the service manager is not told that all is well"
            );
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace::of(Duration::from_secs(20));

    fn vitals(now: Instant, made_s_ago: Option<u64>) -> Vitals {
        let last_worker = made_s_ago.map(|s| now.checked_sub(Duration::from_secs(s)).unwrap());
        Vitals { draining: false, forks: true, last_worker }
    }

    #[test]
    fn word_is_given_when_a_worker_was_made_since_the_last_one_and_else_tried_for() {
        let now = Instant::now() + Duration::from_secs(100);
        for (made_s_ago, expected) in [
            (Some(0), Step::Word),
            (Some(4), Step::Word),
            (Some(5), Step::Try),
            (Some(60), Step::Try),
            (None, Step::Try),
        ] {
            assert_eq!(step(&vitals(now, made_s_ago), now, PACE), expected, "{made_s_ago:?}");
            let draining = Vitals { draining: true, ..vitals(now, made_s_ago) };
            assert_eq!(step(&draining, now, PACE), Step::Word);
            let in_process = Vitals { forks: false, ..vitals(now, made_s_ago) };
            assert_eq!(step(&in_process, now, PACE), Step::Word);
        }
        let just_now = Vitals { last_worker: Some(now + Duration::from_secs(1)), ..vitals(now, None) };
        assert_eq!(step(&just_now, now, PACE), Step::Word, "made after the look was begun");
    }

    #[test]
    fn word_after_a_trial_that_took_all_its_time_is_not_too_late() {
        for watchdog in [1, 999, 1_000_000, 30_000_000, u64::from(u32::MAX)].map(Duration::from_micros) {
            let Pace { period, trial } = Pace::of(watchdog);
            assert!(period + trial < watchdog, "{watchdog:?}");
        }
    }
}
