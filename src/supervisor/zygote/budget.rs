//! How often a zygote may fail before the next one has to wait.
//!
//! Owns: the count of failures in a window.
//! Never: reads a clock, starts anything.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// At most `burst` failures in any `window`; after that the next start waits, so that a crash loop costs a bounded
/// amount. A zygote that is replaced in its turn has not failed.
#[derive(Debug)]
pub(super) struct RestartBudget {
    burst: usize,
    window: Duration,
    failures: VecDeque<Instant>,
}

impl RestartBudget {
    /// A budget with nothing spent. `burst` is at least 1.
    pub(super) fn new(burst: u32, window: Duration) -> Self {
        Self { burst: burst.max(1) as usize, window, failures: VecDeque::new() }
    }

    /// Notes a failure.
    pub(super) fn failed(&mut self, now: Instant) {
        self.failures.push_back(now);
        while self.failures.len() > self.burst {
            self.failures.pop_front();
        }
    }

    /// When the next start is allowed: `now`, or later when the window is full.
    pub(super) fn next_start(&self, now: Instant) -> Instant {
        match self.failures.front() {
            Some(oldest) if self.failures.len() >= self.burst => now.max(*oldest + self.window),
            Some(_) | None => now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_after_few_failures_is_allowed_at_once() {
        let t = Instant::now();
        let mut budget = RestartBudget::new(3, Duration::from_secs(10));
        for _ in 0..2 {
            budget.failed(t);
        }
        assert_eq!(budget.next_start(t), t);
    }

    #[test]
    fn start_beyond_the_burst_waits_for_the_window_to_move() {
        let t = Instant::now();
        let window = Duration::from_secs(10);
        let mut budget = RestartBudget::new(3, window);
        for second in 0..3 {
            budget.failed(t + Duration::from_secs(second));
        }
        let now = t + Duration::from_secs(3);
        assert_eq!(budget.next_start(now), t + window);
        budget.failed(t + window);
        assert_eq!(budget.next_start(t + window), t + Duration::from_secs(1) + window);
    }
}
