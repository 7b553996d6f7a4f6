//! When a job's reply is looked for without sleeping.
//!
//! Owns: what says that others want the processors.
//! Never: looks itself, reads a clock.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Whoever looks gives its processor away at each turn. One that comes back later than this gave it to somebody with a lot to
/// do: a job that was worth looking for is over by then, and so is the end of another's process. No setting: the kernel lets
/// whoever computes have some milliseconds.
const TURN_MAX: Duration = Duration::from_millis(1);

/// For so long no job's reply is looked for then. No setting: a thousandth of what looking can cost is then the most that it does.
const REST: Duration = Duration::from_secs(1);

/// What was seen of that.
#[derive(Debug, Default)]
pub(super) struct Looking {
    rests_until: Cell<Option<Instant>>,
}

impl Looking {
    /// How long to look for the reply of a job that begins now, of which it is known whether it is the only one.
    pub(super) fn allowed(&self, alone: bool, most: Duration, now: Instant) -> Duration {
        let rests = self.rests_until.get().is_some_and(|until| now < until);
        if alone && !rests { most } else { Duration::ZERO }
    }

    /// Others want the processors.
    pub(super) fn rest(&self, now: Instant) {
        self.rests_until.set(Some(now + REST));
    }
}

/// Whether a turn took so long that others want the processor.
pub(super) fn is_crowded(turn: Duration) -> bool {
    turn > TURN_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_micros(400);

    #[test]
    fn reply_is_looked_for_where_the_job_is_alone_and_nobody_wanted_the_processor_lately() {
        let (looking, now) = (Looking::default(), Instant::now());
        assert_eq!([true, false].map(|alone| looking.allowed(alone, MOST, now)), [MOST, Duration::ZERO]);
        looking.rest(now);
        let after = |time| looking.allowed(true, MOST, now + time);
        let nearly = REST - Duration::from_nanos(1);
        assert_eq!([Duration::ZERO, nearly, REST].map(after), [Duration::ZERO, Duration::ZERO, MOST]);
        assert_eq!(looking.allowed(true, Duration::ZERO, now + REST), Duration::ZERO);
    }

    #[test]
    fn turn_is_crowded_when_it_took_longer_than_any_job_that_is_worth_looking_for() {
        assert!(!is_crowded(TURN_MAX) && is_crowded(TURN_MAX + Duration::from_nanos(1)));
    }
}
