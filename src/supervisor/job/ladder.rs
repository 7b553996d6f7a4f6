//! The kill ladder: epoch, SIGTERM, SIGKILL.
//!
//! Owns: which rung a worker stands on and what the next one is.
//! Never: reads a clock, sends a signal, does anything: [`step`] says what is to be done.
//!
//! ```text
//!            deadline              head start              grace
//! Running ──────────────▶ EpochDue ───────────▶ TermSent ─────────▶ KillSent
//!    │ cancelled, output limit, CPU time (or clock) ▲                  ▲
//!    ├──────────────────────────────────────────────┘                  │
//!    │ reported                        exit allowance                  │
//!    └─────────▶ Leaving ──────────────────────────────────────────────┘
//! ```
//! From every state the worker's exit leads to `Gone`. No event moves the kill later: a reply buys no time.

use std::time::{Duration, Instant};

use stockade_wire::job::Stage;

/// Most time a worker has to exit after its reply. It has nothing left to do but `_exit`; what its own time and grace
/// leave it may be less.
pub(crate) const EXIT_ALLOWANCE: Duration = Duration::from_secs(1);

/// Why a job is being ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Cause {
    /// Its wall time is used up.
    Deadline,
    /// Its CPU time is used up.
    CpuTime,
    /// Its CPU time is limited and cannot be read.
    CpuClock,
    /// What it writes cannot be waited for.
    Unwatched,
    /// Somebody asked for it.
    Cancelled,
    /// It wrote more output than allowed.
    OutputLimit,
    /// The worker sent what it may not send.
    Protocol,
    /// The daemon is stopping.
    Drain,
}

/// Where a worker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rung {
    /// Working, until the deadline.
    Running { deadline: Instant },
    /// The deadline has passed; the guest has until `term_at` to trap.
    EpochDue { term_at: Instant },
    /// SIGTERM is sent; SIGKILL follows at `kill_at`.
    TermSent { cause: Cause, kill_at: Instant },
    /// SIGKILL is sent. There is no further rung: the kernel does the rest.
    KillSent { cause: Option<Cause> },
    /// It has replied and should exit by `kill_at`. `after` is the rung it replied on, when it was told to stop.
    Leaving { after: Option<(Cause, Stage)>, kill_at: Instant },
    /// It has exited. Holds why and on which rung, when it was told to stop.
    Gone { after: Option<(Cause, Stage)> },
}

/// What can happen to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// Time has passed.
    Tick,
    /// It is to end.
    Stop(Cause),
    /// It has sent its one reply.
    Reported,
    /// It has exited.
    Exited,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing.
    Nothing,
    /// SIGTERM, then SIGCONT so that a stopped process sees it.
    Terminate,
    /// SIGKILL by pidfd, and `cgroup.kill` where there is a leaf.
    Kill,
}

/// The two waits of the ladder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waits {
    /// From the deadline to SIGTERM.
    pub(crate) head_start: Duration,
    /// From SIGTERM to SIGKILL.
    pub(crate) grace: Duration,
}

/// The next rung and what to do on the way to it.
pub(crate) fn step(rung: Rung, event: Event, now: Instant, waits: Waits) -> (Rung, Effect) {
    match (rung, event) {
        (Rung::Running { deadline }, Event::Tick) if now >= deadline => {
            (Rung::EpochDue { term_at: deadline + waits.head_start }, Effect::Nothing)
        }
        (Rung::EpochDue { term_at }, Event::Tick) if now >= term_at => {
            terminate(Cause::Deadline, term_at, waits)
        }
        // A worker that broke the protocol gets no grace: it is either hijacked or broken.
        (
            Rung::Running { .. } | Rung::EpochDue { .. } | Rung::Leaving { .. },
            Event::Stop(cause @ Cause::Protocol),
        ) => (Rung::KillSent { cause: Some(cause) }, Effect::Kill),
        (Rung::Running { deadline }, Event::Stop(cause)) => {
            terminate(cause, now.min(deadline + waits.head_start), waits)
        }
        (Rung::EpochDue { term_at }, Event::Stop(_)) => terminate(Cause::Deadline, now.min(term_at), waits),
        (Rung::TermSent { cause, kill_at }, Event::Tick) if now >= kill_at => {
            (Rung::KillSent { cause: Some(cause) }, Effect::Kill)
        }
        (Rung::TermSent { cause, .. }, Event::Stop(Cause::Protocol)) => {
            (Rung::KillSent { cause: Some(cause) }, Effect::Kill)
        }
        (Rung::Leaving { after, kill_at }, Event::Tick) if now >= kill_at => {
            (Rung::KillSent { cause: after.map(|(cause, _)| cause) }, Effect::Kill)
        }
        (Rung::Running { .. } | Rung::EpochDue { .. } | Rung::TermSent { .. }, Event::Reported) => {
            let kill_at = kill_by(rung, waits).map_or(now, |by| by.min(now + EXIT_ALLOWANCE));
            (Rung::Leaving { after: stopped_on(rung), kill_at }, Effect::Nothing)
        }
        // It is ending already; all that whoever wants its end can have is that it does not take longer than its grace.
        (Rung::Leaving { after, kill_at }, Event::Stop(_)) => {
            (Rung::Leaving { after, kill_at: kill_at.min(now + waits.grace) }, Effect::Nothing)
        }
        (_, Event::Exited) => (Rung::Gone { after: stopped_on(rung) }, Effect::Nothing),
        // The first stop set the clock; later ones, replies and early ticks change nothing.
        (
            Rung::Running { .. }
            | Rung::EpochDue { .. }
            | Rung::TermSent { .. }
            | Rung::KillSent { .. }
            | Rung::Leaving { .. }
            | Rung::Gone { .. },
            Event::Tick | Event::Stop(_) | Event::Reported,
        ) => (rung, Effect::Nothing),
    }
}

/// When SIGKILL is sent at the latest; `None` when it has been, or need not be.
fn kill_by(rung: Rung, waits: Waits) -> Option<Instant> {
    match rung {
        Rung::Running { deadline } => Some(deadline + waits.head_start + waits.grace),
        Rung::EpochDue { term_at } => Some(term_at + waits.grace),
        Rung::TermSent { kill_at, .. } | Rung::Leaving { kill_at, .. } => Some(kill_at),
        Rung::KillSent { .. } | Rung::Gone { .. } => None,
    }
}

/// When the next [`Event::Tick`] is due; `None` when only the worker's exit can change anything.
pub(crate) fn due(rung: Rung) -> Option<Instant> {
    match rung {
        Rung::Running { deadline } => Some(deadline),
        Rung::EpochDue { term_at } => Some(term_at),
        Rung::TermSent { kill_at, .. } | Rung::Leaving { kill_at, .. } => Some(kill_at),
        Rung::KillSent { .. } | Rung::Gone { .. } => None,
    }
}

fn terminate(cause: Cause, at: Instant, waits: Waits) -> (Rung, Effect) {
    (Rung::TermSent { cause, kill_at: at + waits.grace }, Effect::Terminate)
}

fn stopped_on(rung: Rung) -> Option<(Cause, Stage)> {
    match rung {
        Rung::Running { .. } => None,
        Rung::EpochDue { .. } => Some((Cause::Deadline, Stage::Epoch)),
        Rung::TermSent { cause, .. } => Some((cause, Stage::Sigterm)),
        Rung::KillSent { cause } => cause.map(|cause| (cause, Stage::Sigkill)),
        Rung::Leaving { after, .. } | Rung::Gone { after } => after,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAITS: Waits = Waits { head_start: Duration::from_millis(2), grace: Duration::from_millis(100) };
    const CAUSES: [Cause; 8] = [
        Cause::Deadline,
        Cause::CpuTime,
        Cause::CpuClock,
        Cause::Unwatched,
        Cause::Cancelled,
        Cause::OutputLimit,
        Cause::Protocol,
        Cause::Drain,
    ];

    fn rungs(t: Instant) -> Vec<Rung> {
        let mut all = vec![
            Rung::Running { deadline: t },
            Rung::EpochDue { term_at: t },
            Rung::KillSent { cause: None },
            Rung::Leaving { after: None, kill_at: t },
            Rung::Gone { after: None },
        ];
        for cause in CAUSES {
            all.push(Rung::TermSent { cause, kill_at: t });
            all.push(Rung::KillSent { cause: Some(cause) });
            all.push(Rung::Leaving { after: Some((cause, Stage::Sigterm)), kill_at: t });
            all.push(Rung::Gone { after: Some((cause, Stage::Sigkill)) });
        }
        all
    }

    fn events() -> Vec<Event> {
        let mut all = vec![Event::Tick, Event::Reported, Event::Exited];
        all.extend(CAUSES.map(Event::Stop));
        all
    }

    /// How far up the ladder; no event may lead down it.
    fn height(rung: Rung) -> u8 {
        match rung {
            Rung::Running { .. } => 0,
            Rung::EpochDue { .. } => 1,
            Rung::TermSent { .. } => 2,
            Rung::Leaving { .. } => 3,
            Rung::KillSent { .. } => 4,
            Rung::Gone { .. } => 5,
        }
    }

    #[test]
    fn every_rung_and_event_leads_up_or_nowhere() {
        let t = Instant::now();
        for rung in rungs(t) {
            for event in events() {
                for now in [t - Duration::from_secs(1), t, t + Duration::from_secs(1)] {
                    let (next, effect) = step(rung, event, now, WAITS);
                    assert!(height(next) >= height(rung), "{rung:?} {event:?} → {next:?}");
                    let signals = effect != Effect::Nothing;
                    let enters = matches!(next, Rung::TermSent { .. } | Rung::KillSent { .. })
                        && height(next) != height(rung);
                    assert_eq!(signals, enters, "{rung:?} {event:?} → {next:?} {effect:?}");
                    if event == Event::Exited {
                        assert!(matches!(next, Rung::Gone { .. }));
                    }
                    if matches!(rung, Rung::Gone { .. }) {
                        assert_eq!(next, rung, "nothing follows the exit");
                    }
                }
            }
        }
    }

    #[test]
    fn every_rung_but_the_last_ends_by_time_alone() {
        let t = Instant::now();
        for mut rung in rungs(t) {
            let mut ticks = 0;
            while let Some(at) = due(rung) {
                (rung, _) = step(rung, Event::Tick, at, WAITS);
                ticks += 1;
                assert!(ticks <= 3, "{rung:?} never ends");
            }
            assert!(matches!(rung, Rung::KillSent { .. } | Rung::Gone { .. }));
        }
    }

    #[test]
    fn deadline_climbs_every_rung_in_its_time() {
        let t = Instant::now();
        let (rung, effect) = step(Rung::Running { deadline: t }, Event::Tick, t, WAITS);
        assert_eq!((rung, effect), (Rung::EpochDue { term_at: t + WAITS.head_start }, Effect::Nothing));
        let term_at = t + WAITS.head_start;
        let (rung, effect) = step(rung, Event::Tick, term_at, WAITS);
        let kill_at = term_at + WAITS.grace;
        assert_eq!(effect, Effect::Terminate);
        assert_eq!(rung, Rung::TermSent { cause: Cause::Deadline, kill_at });
        let (rung, effect) = step(rung, Event::Tick, kill_at, WAITS);
        assert_eq!((rung, effect), (Rung::KillSent { cause: Some(Cause::Deadline) }, Effect::Kill));
        let (rung, _) = step(rung, Event::Exited, kill_at, WAITS);
        assert_eq!(rung, Rung::Gone { after: Some((Cause::Deadline, Stage::Sigkill)) });
    }

    #[test]
    fn second_stop_changes_neither_cause_nor_clock() {
        let t = Instant::now();
        let (first, _) =
            step(Rung::Running { deadline: t + WAITS.grace }, Event::Stop(Cause::Cancelled), t, WAITS);
        let later = t + Duration::from_millis(50);
        assert_eq!(step(first, Event::Stop(Cause::Drain), later, WAITS), (first, Effect::Nothing));
    }

    #[test]
    fn no_event_moves_the_kill_later() {
        let t = Instant::now();
        let second = Duration::from_secs(1);
        for rung in rungs(t) {
            for event in events() {
                for now in [t - 3 * second, t - second, t, t + second, t + 3 * second] {
                    let (next, _) = step(rung, event, now, WAITS);
                    match (kill_by(rung, WAITS), kill_by(next, WAITS)) {
                        (Some(before), Some(after)) => {
                            assert!(after <= before, "{rung:?} {event:?} → {next:?}");
                        }
                        (None, Some(_)) => panic!("{rung:?} {event:?} → {next:?}: a kill that was over"),
                        (_, None) => {}
                    }
                }
            }
        }
    }

    #[test]
    fn reply_leaves_what_was_left_and_never_more_than_the_allowance() {
        let t = Instant::now();
        let grace = WAITS.grace;
        let left = |rung, now| match step(rung, Event::Reported, now, WAITS) {
            (Rung::Leaving { kill_at, .. }, Effect::Nothing) => kill_at - now,
            other => panic!("{other:?}"),
        };
        assert_eq!(left(Rung::Running { deadline: t + 2 * EXIT_ALLOWANCE }, t), EXIT_ALLOWANCE);
        assert_eq!(left(Rung::Running { deadline: t }, t), WAITS.head_start + grace);
        assert_eq!(left(Rung::EpochDue { term_at: t }, t), grace);
        let kill_at = t + grace / 2;
        assert_eq!(left(Rung::TermSent { cause: Cause::Cancelled, kill_at }, t), grace / 2);
    }

    #[test]
    fn stop_after_the_reply_leaves_the_grace_and_does_not_change_why() {
        let t = Instant::now();
        for cause in CAUSES.into_iter().filter(|cause| *cause != Cause::Protocol) {
            let leaving = Rung::Leaving { after: None, kill_at: t + EXIT_ALLOWANCE };
            let sooner = Rung::Leaving { after: None, kill_at: t + WAITS.grace };
            assert_eq!(step(leaving, Event::Stop(cause), t, WAITS), (sooner, Effect::Nothing));
            assert_eq!(step(sooner, Event::Stop(cause), t + WAITS.grace, WAITS), (sooner, Effect::Nothing));
        }
    }

    #[test]
    fn reply_after_the_deadline_is_laid_to_the_epoch() {
        let t = Instant::now();
        let (rung, _) = step(Rung::EpochDue { term_at: t }, Event::Reported, t, WAITS);
        let (rung, _) = step(rung, Event::Exited, t, WAITS);
        assert_eq!(rung, Rung::Gone { after: Some((Cause::Deadline, Stage::Epoch)) });
    }
}
