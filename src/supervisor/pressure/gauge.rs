//! Whether memory is scarce, from what the kernel says of time lost for want of it.
//!
//! Owns: the reading of pressure stall information, and the two thresholds between calm and pressed.
//! Never: reads a clock or a file.
//!
//! ```text
//!            share of time stalled ≥ high
//!   calm ──────────────────────────────────▶ pressed
//!     ▲                                         │
//!     └───── ≤ low for the whole of `calm` ─────┘
//! ```
//! Between the two thresholds it stays as it is: a pool that shrinks relieves what made it shrink, and would grow again
//! at once.

use std::time::{Duration, Instant};

/// When memory counts as scarce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Thresholds {
    /// Share of time, in hundredths, in which some process waited for memory: from here on it is scarce.
    pub(super) high_percent: u64,
    /// And down to here it is over.
    pub(super) low_percent: u64,
    /// When it was over for so long.
    pub(super) calm: Duration,
}

/// One reading: time in which some process waited for memory, since the machine's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) at: Instant,
    pub(super) stalled: Duration,
}

/// What was made of the readings so far.
#[derive(Debug)]
pub(super) struct Gauge {
    thresholds: Thresholds,
    last: Option<Reading>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Calm,
    Pressed { quiet_since: Option<Instant> },
}

impl Gauge {
    pub(super) const fn new(thresholds: Thresholds) -> Self {
        Self { thresholds, last: None, state: State::Calm }
    }

    /// Takes a reading in and says whether memory is scarce.
    pub(super) fn read(&mut self, reading: Reading) -> bool {
        let share = self.last.replace(reading).and_then(|last| share_percent(last, reading));
        // The first reading has nothing to be compared with, and one at the same moment says nothing new.
        if let Some(share) = share {
            self.state = self.next(share, reading.at);
        }
        self.is_pressed()
    }

    /// The kernel says by itself that the high threshold was passed.
    pub(super) const fn alarm(&mut self) {
        self.state = State::Pressed { quiet_since: None };
    }

    pub(super) const fn is_pressed(&self) -> bool {
        matches!(self.state, State::Pressed { .. })
    }

    fn next(&self, share: u64, now: Instant) -> State {
        let Thresholds { high_percent, low_percent, calm } = self.thresholds;
        match self.state {
            _ if share >= high_percent => State::Pressed { quiet_since: None },
            State::Calm => State::Calm,
            State::Pressed { .. } if share > low_percent => State::Pressed { quiet_since: None },
            State::Pressed { quiet_since } => {
                let since = quiet_since.unwrap_or(now);
                if now.saturating_duration_since(since) >= calm {
                    State::Calm
                } else {
                    State::Pressed { quiet_since: Some(since) }
                }
            }
        }
    }
}

/// Share of the time between two readings that was stalled, in hundredths. `None` when no time passed, or the counter
/// went backwards: another file is in its place.
fn share_percent(last: Reading, reading: Reading) -> Option<u64> {
    let passed = reading.at.checked_duration_since(last.at)?.as_micros();
    let stalled = reading.stalled.checked_sub(last.stalled)?.as_micros();
    let share = stalled.saturating_mul(100).checked_div(passed)?;
    u64::try_from(share).ok()
}

/// Time in which some process waited, from the text of a pressure file. `None` when it is none.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let total = some.split_whitespace().find_map(|field| field.strip_prefix("total="))?;
    total.parse().ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const THRESHOLDS: Thresholds =
        Thresholds { high_percent: 10, low_percent: 2, calm: SECOND.saturating_mul(2) };

    /// Readings a second apart with these shares in hundredths, after a first; what the gauge says of each.
    fn said(shares: &[u64]) -> Vec<bool> {
        let mut at = Instant::now();
        let mut stalled = Duration::from_secs(7);
        let mut gauge = Gauge::new(THRESHOLDS);
        assert!(!gauge.read(Reading { at, stalled }));
        let read = |share: &u64| {
            at += SECOND;
            stalled += Duration::from_millis(10) * u32::try_from(*share).unwrap();
            gauge.read(Reading { at, stalled })
        };
        shares.iter().map(read).collect()
    }

    #[test]
    fn pressure_begins_at_the_high_threshold_and_ends_after_quiet_at_the_low_one() {
        let (yes, no) = (true, false);
        assert_eq!(said(&[0, 9, 10, 0, 0, 0, 9]), [no, no, yes, yes, yes, no, no]);
        // In between it stays as it is, and quiet begins anew.
        assert_eq!(said(&[50, 5, 5, 5, 2, 3, 2, 1, 2]), [yes, yes, yes, yes, yes, yes, yes, yes, no]);
    }

    /// Against a model that looks at the whole history: pressed since the last high share, unless three low ones in a
    /// row (two seconds of them) came after it.
    #[test]
    fn every_history_of_shares_agrees_with_the_rule() {
        const SHARES: [u64; 5] = [0, 2, 3, 9, 10];
        for number in 0..SHARES.len().pow(7) {
            let shares: Vec<u64> = (0..7).map(|digit| SHARES[number / SHARES.len().pow(digit) % 5]).collect();
            let expected = (0..7).map(|end| {
                let high = shares[..=end].iter().rposition(|share| *share >= 10);
                high.is_some_and(|high| {
                    !shares[high..=end].windows(3).any(|three| three.iter().all(|share| *share <= 2))
                })
            });
            assert_eq!(said(&shares), expected.collect::<Vec<_>>(), "{shares:?}");
        }
    }

    #[test]
    fn alarm_of_the_kernel_presses_at_once_and_ends_like_any_pressure() {
        let at = Instant::now();
        let reading = |seconds| Reading { at: at + SECOND * seconds, stalled: Duration::ZERO };
        let mut gauge = Gauge::new(THRESHOLDS);
        gauge.read(reading(0));
        gauge.alarm();
        let said: Vec<bool> = (1..5).map(|second| gauge.read(reading(second))).collect();
        assert_eq!(said, [true, true, false, false]);
    }

    #[test]
    fn readings_that_say_nothing_change_nothing() {
        let at = Instant::now();
        let mut gauge = Gauge::new(THRESHOLDS);
        let stalled = |us| Reading { at, stalled: Duration::from_micros(us) };
        assert!(!gauge.read(stalled(500)));
        assert!(!gauge.read(stalled(900)), "at the same moment");
        let back = Reading { at: at + SECOND, stalled: Duration::ZERO };
        assert!(!gauge.read(back), "counter went backwards");
    }

    #[test]
    fn text_of_the_kernel_is_read_and_another_is_not() {
        let text = "some avg10=0.12 avg60=0.03 avg300=0.00 total=39611790\nfull avg10=0.00 total=11692375\n";
        assert_eq!(parse(text), Some(Duration::from_micros(39_611_790)));
        for other in
            ["", "full total=3\n", "some avg10=0.00\n", "some total=-1\n", "some total=x\n", "something"]
        {
            assert_eq!(parse(other), None, "{other:?}");
        }
    }
}
