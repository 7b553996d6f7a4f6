//! When a worker's CPU time is looked at.
//!
//! Owns: how much of a job's CPU time is left, and what it means when that is not known.
//! Never: reads a clock, ends a worker.

use std::time::Duration;

use super::job::ladder::Cause;

/// Least time between two looks.
const CHECK_MIN: Duration = Duration::from_millis(1);

/// How long until a worker's CPU time is to be looked at again, or why it ends: its time is up, or not known, which must
/// not leave it without a limit.
pub(super) fn left(
    limit: Duration,
    then: Option<Duration>,
    now: Option<Duration>,
) -> Result<Duration, Cause> {
    let (Some(then), Some(now)) = (then, now) else { return Err(Cause::CpuClock) };
    let left = limit.saturating_sub(now.saturating_sub(then));
    // One thread uses at most one second a second: there is nothing to see before what is left is over.
    if left.is_zero() { Err(Cause::CpuTime) } else { Ok(left.max(CHECK_MIN)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_looked_at_until_it_is_up_and_not_without_a_clock() {
        let limit = Duration::from_millis(100);
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(left(limit, ms(5), ms(45)), Ok(Duration::from_millis(60)));
        assert_eq!(left(limit, ms(0), Some(limit - Duration::from_nanos(1))), Ok(CHECK_MIN));
        for used in [105, 106, 10_000] {
            assert_eq!(left(limit, ms(5), ms(used)), Err(Cause::CpuTime));
        }
        for (then, now) in [(None, None), (None, ms(0)), (ms(0), None)] {
            assert_eq!(left(limit, then, now), Err(Cause::CpuClock));
        }
    }
}
