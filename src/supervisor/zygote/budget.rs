//! How often a zygote may be started.
//!
//! Owns: the count of starts in a window.
//! Never: reads a clock, starts anything.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// At most `burst` starts in any `window`; further ones wait, so that a crash loop costs a bounded amount.
#[derive(Debug)]
pub(super) struct RestartBudget {
    burst: usize,
    window: Duration,
    starts: VecDeque<Instant>,
}

impl RestartBudget {
    /// A budget with nothing spent. `burst` is at least 1.
    pub(super) fn new(burst: u32, window: Duration) -> Self {
        Self { burst: burst.max(1) as usize, window, starts: VecDeque::new() }
    }

    /// Notes a start.
    pub(super) fn started(&mut self, now: Instant) {
        self.starts.push_back(now);
        while self.starts.len() > self.burst {
            self.starts.pop_front();
        }
    }

    /// When the next start is allowed: `now`, or later when the window is full.
    pub(super) fn next_start(&self, now: Instant) -> Instant {
        match self.starts.front() {
            Some(oldest) if self.starts.len() >= self.burst => now.max(*oldest + self.window),
            Some(_) | None => now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_within_the_burst_are_allowed_at_once() {
        let t = Instant::now();
        let mut budget = RestartBudget::new(3, Duration::from_secs(10));
        for _ in 0..2 {
            budget.started(t);
        }
        assert_eq!(budget.next_start(t), t);
    }

    #[test]
    fn start_beyond_the_burst_waits_for_the_window_to_move() {
        let t = Instant::now();
        let window = Duration::from_secs(10);
        let mut budget = RestartBudget::new(3, window);
        for second in 0..3 {
            budget.started(t + Duration::from_secs(second));
        }
        let now = t + Duration::from_secs(3);
        assert_eq!(budget.next_start(now), t + window);
        budget.started(t + window);
        assert_eq!(budget.next_start(t + window), t + Duration::from_secs(1) + window);
    }
}
