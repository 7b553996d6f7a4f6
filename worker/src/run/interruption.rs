//! How a guest is stopped.
//!
//! Owns: what says that a guest is to end, and the waits that it ends.
//! Never: decides when a deadline is, or moves an epoch on, which is what stops a module that computes. A script in a worker
//! asks: see [`Alarm::look`].

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};
use stockade_sys::epoch;
use wasmtime::{Store, Trap, UpdateDeadline};

use super::Host;
use super::developer::{self, CpuLimit};

/// Longest sleep in the developer's mode before the guest is looked at again: no signal ends it there.
const NAP_MAX: Duration = developer::TICK.saturating_mul(10);

/// How a guest is stopped.
#[derive(Debug, Clone)]
pub(super) enum Interruption {
    /// The handlers of [`epoch`] move the epoch on, once.
    Signals,
    /// The ticker moves it on again and again, and the guest looks.
    Flag { stop: Arc<AtomicBool>, cpu: Option<CpuLimit> },
}

impl Interruption {
    /// Whether the guest is to end: the signal may have come before the store's epoch deadline was set, and would never be
    /// seen.
    pub(super) fn has_come(&self, deadline: Instant) -> bool {
        Instant::now() >= deadline
            || match self {
                Self::Signals => epoch::deadline_passed() || epoch::stopping(),
                Self::Flag { stop, .. } => stop.load(Ordering::Relaxed),
            }
    }

    /// Has `store` stop its guest at the next loop edge or call once the epoch has moved on, if its code looks at that. Before
    /// instantiating: start functions run there.
    pub(super) fn set(&self, store: &mut Store<Host>, deadline: Instant) {
        store.set_epoch_deadline(1);
        match self {
            Self::Signals => store.epoch_deadline_trap(),
            Self::Flag { stop, cpu } => {
                let stop = Arc::clone(stop);
                let cpu_is_up = cpu.clone().map(CpuLimit::begun);
                store.epoch_deadline_callback(move |_| {
                    let cpu_is_up = cpu_is_up.as_ref().is_some_and(|up| up());
                    if stop.load(Ordering::Relaxed) || Instant::now() >= deadline || cpu_is_up {
                        return Err(Trap::Interrupt.into());
                    }
                    Ok(UpdateDeadline::Continue(1))
                });
            }
        }
    }

    /// When a guest that waits is to be looked at, if not before.
    fn look(&self, deadline: Instant) -> Instant {
        match self {
            Self::Signals => deadline,
            Self::Flag { .. } => deadline.min(Instant::now() + NAP_MAX),
        }
    }
}

/// A script asks again within this time, as far as its calls and turns of loops have it in them.
const ASKS_WITHIN: Duration = Duration::from_micros(100);

/// Most calls and turns of loops between two questions: a quick script's take less than [`ASKS_WITHIN`], and a question less
/// than a hundredth of that.
const TURNS_MAX: u32 = 500;

/// How many calls and turns of loops a script may do until it asks again whether it is to end: more and more of them, unless the
/// last ones took long.
#[derive(Debug, Default)]
pub(super) struct Turns {
    last: u32,
    asked: Option<Instant>,
}

impl Turns {
    /// For a script that asks now.
    pub(super) fn next(&mut self, now: Instant) -> u32 {
        let quick = self.asked.replace(now).is_none_or(|before| now.duration_since(before) < ASKS_WITHIN);
        self.last = if quick { self.last.saturating_mul(2).clamp(1, TURNS_MAX) } else { 1 };
        self.last
    }
}

/// Waits for `work`; `None` when its time is over while it waits for something.
pub(super) async fn until<F: Future>(
    work: F,
    deadline: Instant,
    interruption: &Interruption,
) -> Option<F::Output> {
    let mut work = pin!(work);
    loop {
        let next = interruption.look(deadline);
        if let Ok(done) = tokio::time::timeout_at(next.into(), &mut work).await {
            return Some(done);
        }
        if interruption.has_come(deadline) {
            return None;
        }
    }
}

/// What ends a script: its sleep, and where it asks.
#[derive(Debug)]
pub(super) struct Alarm {
    pub(super) deadline: Instant,
    pub(super) interruption: Interruption,
}

impl Alarm {
    /// Has the guest go on if it may.
    ///
    /// # Errors
    /// When it is to end.
    pub(super) fn look(&self) -> Result<(), Trap> {
        if self.interruption.has_come(self.deadline) { Err(Trap::Interrupt) } else { Ok(()) }
    }

    /// Waits with the thread.
    ///
    /// A signal that comes after the look at it and before the sleep does not end that; the deadline's own ends it all the
    /// same, by its time, and SIGTERM ends the process by its timer then: see [`epoch::TERM_PATIENCE`].
    ///
    /// # Errors
    /// When the guest is to end.
    pub(super) fn pause(&self, wait: Duration) -> Result<(), Trap> {
        let wake = Instant::now() + wait;
        loop {
            self.look()?;
            let left =
                self.interruption.look(self.deadline).min(wake).saturating_duration_since(Instant::now());
            if !left.is_zero() {
                // It ends early for a signal, which the next turn looks at.
                let _ = clock_nanosleep(
                    ClockId::CLOCK_MONOTONIC,
                    ClockNanosleepFlags::empty(),
                    &TimeSpec::from_duration(left),
                );
            }
            if Instant::now() >= wake {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flag(stop: bool) -> Interruption {
        Interruption::Flag { stop: Arc::new(AtomicBool::new(stop)), cpu: None }
    }

    #[test]
    fn guest_that_is_looked_at_goes_on_until_it_is_to_end() {
        let far = Instant::now() + Duration::from_hours(1);
        for (deadline, stop, ends) in [
            (far, false, false),
            (far, true, true),
            (Instant::now(), false, true),
            (Instant::now(), true, true),
        ] {
            let alarm = Alarm { deadline, interruption: flag(stop) };
            assert_eq!(alarm.look(), if ends { Err(Trap::Interrupt) } else { Ok(()) }, "{stop}");
        }
    }

    #[test]
    fn script_asks_less_and_less_often_until_its_turns_take_long() {
        let (mut turns, mut now) = (Turns::default(), Instant::now());
        let mut after = |took: Duration| {
            now += took;
            turns.next(now)
        };
        assert_eq!([1; 4].map(|us| after(Duration::from_micros(us))), [1, 2, 4, 8]);
        assert!((0..100).all(|_| after(ASKS_WITHIN / 2) <= TURNS_MAX));
        assert_eq!(after(ASKS_WITHIN / 2), TURNS_MAX);
        assert_eq!([after(ASKS_WITHIN), after(Duration::ZERO), after(Duration::from_hours(1))], [1, 2, 1]);
    }

    #[test]
    fn pause_is_as_long_as_it_is_to_be() {
        let alarm = Alarm { deadline: Instant::now() + Duration::from_mins(1), interruption: flag(false) };
        let (since, wait) = (Instant::now(), NAP_MAX + NAP_MAX / 2);
        assert!(alarm.pause(wait).is_ok());
        assert!(since.elapsed() >= wait);
    }

    #[test]
    fn pause_ends_at_the_deadline() {
        let deadline = Instant::now() + NAP_MAX / 2;
        for interruption in [flag(false), Interruption::Signals] {
            let alarm = Alarm { deadline, interruption };
            assert_eq!(alarm.pause(Duration::from_hours(1)), Err(Trap::Interrupt));
            assert!(Instant::now() >= deadline);
        }
    }

    #[test]
    fn pause_of_a_guest_that_is_to_end_does_not_begin() {
        let deadline = Instant::now() + Duration::from_hours(1);
        let alarm = Alarm { deadline, interruption: flag(true) };
        assert_eq!(alarm.pause(Duration::from_hours(1)), Err(Trap::Interrupt));
    }

    #[test]
    fn pause_ends_when_the_guest_is_told_to() {
        let stop = Arc::new(AtomicBool::new(false));
        let interruption = Interruption::Flag { stop: Arc::clone(&stop), cpu: None };
        let alarm = Alarm { deadline: Instant::now() + Duration::from_mins(1), interruption };
        let sleeping = std::thread::spawn(move || alarm.pause(Duration::from_mins(1)));
        stop.store(true, Ordering::Relaxed);
        assert_eq!(sleeping.join().unwrap(), Err(Trap::Interrupt));
    }
}
