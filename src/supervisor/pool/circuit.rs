//! When making workers is given up for a while.
//!
//! Owns: the count of failures in a window.
//! Never: reads a clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Open, meaning that nothing is tried, while more than `failures_max` failures lie within `window`.
#[derive(Debug)]
pub(super) struct Circuit {
    failures_max: usize,
    window: Duration,
    failures: VecDeque<Instant>,
}

impl Circuit {
    pub(super) fn new(failures_max: u32, window: Duration) -> Self {
        Self { failures_max: failures_max.max(1) as usize, window, failures: VecDeque::new() }
    }

    /// Notes a failure.
    pub(super) fn failed(&mut self, now: Instant) {
        self.failures.push_back(now);
        while self.failures.len() > self.failures_max {
            self.failures.pop_front();
        }
    }

    /// How long it stays open; `None` when it is closed.
    pub(super) fn open_for(&self, now: Instant) -> Option<Duration> {
        let oldest = self.failures.front().filter(|_| self.failures.len() >= self.failures_max)?;
        (*oldest + self.window).checked_duration_since(now).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circuit_opens_at_its_count_and_closes_with_its_window() {
        let t = Instant::now();
        let window = Duration::from_secs(10);
        let mut circuit = Circuit::new(3, window);
        circuit.failed(t);
        circuit.failed(t);
        assert_eq!(circuit.open_for(t), None);
        circuit.failed(t);
        assert_eq!(circuit.open_for(t), Some(window));
        assert_eq!(circuit.open_for(t + window), None);
    }

    #[test]
    fn failures_far_apart_never_open_it() {
        let t = Instant::now();
        let mut circuit = Circuit::new(2, Duration::from_secs(10));
        for n in 0..100 {
            let now = t + Duration::from_secs(20 * n);
            circuit.failed(now);
            assert_eq!(circuit.open_for(now), None);
        }
    }
}
