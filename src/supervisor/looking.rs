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

/// For so long no job's reply is looked for then; twice as long each further time, up to [`REST_MAX`]. No settings: beside
/// somebody who computes all the time that is some milliseconds of delay in a thousand.
const REST_MIN: Duration = Duration::from_millis(10);
const REST_MAX: Duration = Duration::from_secs(2);

/// How it went for one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Looked {
    /// Nobody looked.
    Not,
    /// Nobody else wanted the processor for long.
    Alone,
    /// Somebody did.
    Crowded,
}

impl Looked {
    /// With one turn more, which took so long.
    pub(super) fn and(self, turn: Duration) -> Self {
        if self == Self::Crowded || turn > TURN_MAX { Self::Crowded } else { Self::Alone }
    }
}

/// What was seen of that.
#[derive(Debug, Default)]
pub(super) struct Looking {
    rests_until: Cell<Option<Instant>>,
    rest: Cell<Duration>,
}

impl Looking {
    /// How long to look for the reply of a job that begins now, of which it is known whether it is the only one.
    pub(super) fn allowed(&self, alone: bool, most: Duration, now: Instant) -> Duration {
        let rests = self.rests_until.get().is_some_and(|until| now < until);
        if alone && !rests { most } else { Duration::ZERO }
    }

    /// Notes how it went.
    pub(super) fn note(&self, looked: Looked, now: Instant) {
        match looked {
            Looked::Not => {}
            Looked::Alone => self.rest.set(Duration::ZERO),
            Looked::Crowded => {
                let rest = self.rest.get().saturating_mul(2).clamp(REST_MIN, REST_MAX);
                self.rest.set(rest);
                self.rests_until.set(Some(now + rest));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_micros(400);

    #[test]
    fn reply_is_looked_for_where_the_job_is_alone_and_nobody_wants_the_processor() {
        let (looking, now) = (Looking::default(), Instant::now());
        assert_eq!([true, false].map(|alone| looking.allowed(alone, MOST, now)), [MOST, Duration::ZERO]);
        looking.note(Looked::Crowded, now);
        let after = |time| looking.allowed(true, MOST, now + time);
        let nearly = REST_MIN - Duration::from_nanos(1);
        assert_eq!([Duration::ZERO, nearly, REST_MIN].map(after), [Duration::ZERO, Duration::ZERO, MOST]);
        assert_eq!(looking.allowed(true, Duration::ZERO, now + REST_MIN), Duration::ZERO);
    }

    #[test]
    fn rest_is_longer_each_time_until_nobody_wanted_the_processor() {
        let (looking, mut now) = (Looking::default(), Instant::now());
        let mut crowded = |noted: Looked| {
            looking.note(noted, now);
            looking.note(Looked::Crowded, now);
            let since = now;
            while looking.allowed(true, MOST, now).is_zero() {
                now += REST_MIN;
            }
            now - since
        };
        for times in [1, 2, 4] {
            assert_eq!(crowded(Looked::Not), REST_MIN * times);
        }
        assert_eq!([(); 9].map(|()| crowded(Looked::Not)).last(), Some(&REST_MAX));
        assert_eq!(crowded(Looked::Alone), REST_MIN);
    }

    #[test]
    fn one_long_turn_is_enough_to_be_crowded() {
        let (short, long) = (TURN_MAX, TURN_MAX + Duration::from_nanos(1));
        assert_eq!(Looked::Not.and(short), Looked::Alone);
        assert_eq!(Looked::Alone.and(short), Looked::Alone);
        assert_eq!(Looked::Not.and(long), Looked::Crowded);
        assert_eq!(Looked::Alone.and(long).and(short), Looked::Crowded);
    }
}
