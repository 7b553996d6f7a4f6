//! How many workers are to stand ready for the jobs that come.
//!
//! Owns: the greatest number of jobs that came during one refill, lately, and the number of workers that follows from it.
//! Never: reads a clock, forks anything.
//!
//! A worker that was taken is replaced after a while, the time of a refill. What comes within that time is served by
//! those that stand ready, or waits for a fork of its own. So twice as many are to stand ready as came during one refill:
//! half of them may be gone when the refill begins, and the other half is for those who come meanwhile. A job that found
//! none says that the figures were too small, whatever they were.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// For this long the greatest rush counts in full; then it fades by half every such time.
const REMEMBERED: Duration = Duration::from_secs(10);

/// A refill is taken to last at least this long: an idle machine forks in less, one with many jobs does not.
const REFILL_MIN: Duration = Duration::from_millis(2);

/// And at most this long: a worker that took longer was held up by something else than the load.
const REFILL_MAX: Duration = Duration::from_secs(1);

/// Between how many there are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) least: usize,
    /// Where it is less than `least`, there are always `least`.
    pub(super) most: usize,
}

impl Bounds {
    fn hold(self, wanted: usize) -> usize {
        wanted.min(self.most).max(self.least)
    }
}

/// What is asked of one kind of worker.
#[derive(Debug)]
pub(super) struct Demand {
    bounds: Bounds,
    refill: Duration,
    /// When the jobs of the last refill came, as many as can matter.
    recent: VecDeque<Instant>,
    /// Most jobs of one refill, in this period.
    rush: usize,
    /// What is left of the periods before.
    faded: usize,
    period: Instant,
}

impl Demand {
    pub(super) fn new(bounds: Bounds, now: Instant) -> Self {
        Self { bounds, refill: REFILL_MIN, recent: VecDeque::new(), rush: 0, faded: 0, period: now }
    }

    /// Notes a job that wants such a worker.
    pub(super) fn came(&mut self, now: Instant) {
        self.pass_time(now);
        let since = now.checked_sub(self.refill);
        while self.recent.front().is_some_and(|came| since.is_some_and(|since| *came < since)) {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        if self.recent.len() > self.bounds.most.max(1) {
            self.recent.pop_front();
        }
        self.rush = self.rush.max(self.recent.len());
    }

    /// Notes that the job found none.
    pub(super) fn missed(&mut self, now: Instant) {
        self.pass_time(now);
        self.rush = self.rush.max(self.faded).saturating_add(1).min(self.bounds.most);
    }

    /// Notes how long a refill took.
    pub(super) fn refilled(&mut self, took: Duration) {
        let took = took.clamp(REFILL_MIN, REFILL_MAX);
        self.refill = (self.refill * 3 + took) / 4;
    }

    /// How many are to stand ready.
    pub(super) fn target(&mut self, now: Instant) -> usize {
        self.pass_time(now);
        self.bounds.hold(self.rush.max(self.faded).saturating_mul(2))
    }

    /// How many are to stand ready whatever is asked.
    pub(super) const fn least(&self) -> usize {
        self.bounds.least
    }

    fn pass_time(&mut self, now: Instant) {
        while now.saturating_duration_since(self.period) >= REMEMBERED {
            self.faded = self.rush.max(self.faded / 2);
            self.rush = 0;
            self.period += REMEMBERED;
            if self.faded == 0 {
                // However long it was: nothing is left to fade.
                self.period = self.period.max(now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { least: 2, most: 16 };

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Job,
        Miss,
        SlowRefill,
        Blink,
        Refill,
        Period,
    }

    const STEPS: [Step; 6] =
        [Step::Job, Step::Miss, Step::SlowRefill, Step::Blink, Step::Refill, Step::Period];

    /// Every sequence of `length` steps, in the order of counting.
    fn sequences(length: u32) -> impl Iterator<Item = Vec<Step>> {
        (0..STEPS.len().pow(length)).map(move |number| {
            (0..length).map(|digit| STEPS[number / STEPS.len().pow(digit) % STEPS.len()]).collect()
        })
    }

    fn take(demand: &mut Demand, now: &mut Instant, step: Step) {
        match step {
            Step::Job => demand.came(*now),
            Step::Miss => {
                demand.came(*now);
                demand.missed(*now);
            }
            Step::SlowRefill => demand.refilled(Duration::from_secs(60)),
            Step::Blink => *now += REFILL_MIN / 2,
            Step::Refill => *now += REFILL_MAX * 2,
            Step::Period => *now += REMEMBERED,
        }
    }

    #[test]
    fn target_of_any_history_is_within_bounds_and_covers_what_came_and_fades_to_the_least() {
        for steps in sequences(6) {
            let mut now = Instant::now();
            let mut demand = Demand::new(BOUNDS, now);
            for step in &steps {
                let before = demand.target(now);
                take(&mut demand, &mut now, *step);
                let after = demand.target(now);
                assert!((BOUNDS.least..=BOUNDS.most).contains(&after), "{steps:?}");
                let came = (2 * demand.recent.len()).min(BOUNDS.most);
                match step {
                    Step::Job => assert!(after >= before && after >= came, "{steps:?}"),
                    Step::Miss => assert!((after > before || after >= 4) && after >= came, "{steps:?}"),
                    Step::SlowRefill => assert_eq!(after, before, "{steps:?}"),
                    Step::Blink | Step::Refill | Step::Period => assert!(after <= before, "{steps:?}"),
                }
            }
            // 16 halves away in four periods, and the last rush in one more.
            now += REMEMBERED * 6;
            assert_eq!(demand.target(now), BOUNDS.least, "{steps:?}");
        }
    }

    #[test]
    fn steady_jobs_that_are_further_apart_than_a_refill_keep_the_least() {
        let mut now = Instant::now();
        let mut demand = Demand::new(BOUNDS, now);
        for _ in 0..1000 {
            demand.came(now);
            assert_eq!(demand.target(now), BOUNDS.least);
            now += REFILL_MIN * 2;
        }
    }

    #[test]
    fn rush_is_met_twice_over_and_remembered_for_a_while() {
        let mut now = Instant::now();
        let mut demand = Demand::new(BOUNDS, now);
        for _ in 0..5 {
            demand.came(now);
        }
        assert_eq!(demand.target(now), 10);
        now += REMEMBERED * 2 - Duration::from_millis(1);
        assert_eq!(demand.target(now), 10);
        let mut fades = Vec::new();
        for _ in 0..4 {
            now += REMEMBERED;
            fades.push(demand.target(now));
        }
        assert_eq!(fades, [4, 2, 2, 2]);
    }

    #[test]
    fn slow_refills_widen_what_counts_as_one_rush() {
        let now = Instant::now();
        let apart = Duration::from_millis(20);
        let target = |took: Duration| {
            let mut demand = Demand::new(BOUNDS, now);
            for _ in 0..20 {
                demand.refilled(took);
            }
            for nth in 0..6 {
                demand.came(now + apart * nth);
            }
            demand.target(now + apart * 6)
        };
        assert_eq!(target(Duration::from_millis(1)), BOUNDS.least);
        assert_eq!(target(Duration::from_millis(500)), 12);
    }

    #[test]
    fn jobs_that_find_none_raise_the_target_until_the_most() {
        let now = Instant::now();
        let mut demand = Demand::new(BOUNDS, now);
        let targets: Vec<usize> = (0..10)
            .map(|_| {
                demand.missed(now);
                demand.target(now)
            })
            .collect();
        assert_eq!(targets, [2, 4, 6, 8, 10, 12, 14, 16, 16, 16]);
    }

    #[test]
    fn most_below_the_least_keeps_the_least() {
        let now = Instant::now();
        let mut demand = Demand::new(Bounds { least: 3, most: 0 }, now);
        for _ in 0..10 {
            demand.came(now);
            demand.missed(now);
        }
        assert_eq!(demand.target(now), 3);
    }

    #[test]
    fn target_after_years_of_silence_is_found_at_once() {
        let now = Instant::now();
        let mut demand = Demand::new(BOUNDS, now);
        demand.came(now);
        let later = now + Duration::from_hours(24 * 365 * 10);
        assert_eq!(demand.target(later), BOUNDS.least);
        demand.came(later);
        assert_eq!(demand.recent.len(), 1);
    }
}
