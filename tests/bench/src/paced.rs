//! Requests sent by the clock, whether or not the ones before are over.
//!
//! Owns: the open loop.
//! Never: lets a slow answer delay the next request, but where the daemon would refuse it; and counts that wait too, from the
//! moment the request was due, as it does any other.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};
use stockade_wire::client::FromDaemon;
use stockade_wire::job::Submission;

use crate::client::{Connection, completed, submit_frame, unexpected};
use crate::load::round;
use crate::report::Paced;
use crate::samples::Samples;

/// Most jobs under way: a daemon takes no more from one caller.
const UNDER_WAY_MAX: u64 = 190;

/// A daemon that has so many for so long is overloaded, and not held up by its machine for a moment.
const BEHIND_MAX: Duration = Duration::from_secs(1);

/// How long the sender looks away when there are so many.
const BEHIND_GLANCE: Duration = Duration::from_micros(50);

/// How often something is asked, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    interval: Duration,
    count: u64,
}

impl Pace {
    /// So many a second for `time`.
    #[must_use]
    pub fn new(per_second: f64, time: Duration) -> Self {
        let interval = Duration::from_secs_f64(1.0 / per_second.max(1.0));
        Self { interval, count: (time.as_secs_f64() / interval.as_secs_f64()) as u64 + 1 }
    }
}

/// How long after they were due requests were answered, and sent.
#[derive(Debug, Default)]
pub struct Sent {
    latencies: Samples,
    late: Samples,
}

impl Sent {
    /// Adds what was found at the same pace.
    pub fn append(&mut self, other: Self) {
        self.latencies.append(other.latencies);
        self.late.append(other.late);
    }

    /// As figures.
    #[must_use]
    pub fn figures(&self, pace: Pace) -> Paced {
        Paced {
            per_second: round(1.0 / pace.interval.as_secs_f64()),
            p50_us: self.latencies.p50(),
            p99_us: self.latencies.p99(),
            sender_late_p99_us: self.late.p99(),
        }
    }
}

/// Sends jobs at a pace, and takes for each how long after the moment it was due its result came.
///
/// # Errors
/// When a job did not complete, or the pace could not be held.
pub fn paced(socket: &std::path::Path, job: &Submission, pace: Pace) -> io::Result<Paced> {
    let mut connection = Connection::open(socket)?;
    let sender = connection.sender()?;
    let answer = || loop {
        match connection.receive()? {
            FromDaemon::Accepted { .. } => {}
            FromDaemon::Finished { request, result } => return completed(&result, &[]).map(|()| request),
            other => return Err(unexpected("a job was not run", &other)),
        }
    };
    Ok(exchange(sender, pace, &|number| submit_frame(number, job), answer)?.figures(pace))
}

/// Sends what `frame` makes of each request's number, and has `answer` wait for the number of one that is answered.
///
/// # Errors
/// What they failed with, or when the pace could not be held.
pub fn exchange(
    sender: UnixStream,
    pace: Pace,
    frame: &(dyn Fn(u64) -> io::Result<Vec<u8>> + Sync),
    answer: impl FnMut() -> io::Result<u64>,
) -> io::Result<Sent> {
    let Pace { interval, count } = pace;
    let answered = AtomicU64::new(0);
    let broken = AtomicBool::new(false);
    let began = Instant::now() + interval;
    let due = |number: u64| began + interval.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX));
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let sent = send(sender, frame, count, &due, &answered);
            broken.store(sent.is_err(), Ordering::Relaxed);
            sent
        });
        let received = receive(answer, count, &due, &answered, &broken);
        let late = sending.join().unwrap_or_else(|_| Err(io::Error::other("the sender panicked")))?;
        Ok(Sent { latencies: received?, late })
    })
}

/// Sends them, and says how late it was with each.
fn send(
    mut stream: UnixStream,
    frame: &dyn Fn(u64) -> io::Result<Vec<u8>>,
    count: u64,
    due: &dyn Fn(u64) -> Instant,
    answered: &AtomicU64,
) -> io::Result<Samples> {
    // The kernel otherwise lets a sleep last 50 µs longer than it was asked to. Where it will not have this, the
    // sender is later, and its lateness is told.
    let _ = prctl::set_timerslack(1);
    let mut late = Samples::default();
    for number in 0..count {
        let frame = frame(number)?;
        let left = due(number).saturating_duration_since(Instant::now());
        if !left.is_zero() {
            clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::empty(), &left.into())?;
        }
        late.push(due(number).elapsed());
        let behind = Instant::now();
        while number - answered.load(Ordering::Relaxed) >= UNDER_WAY_MAX {
            if behind.elapsed() >= BEHIND_MAX {
                stream.shutdown(std::net::Shutdown::Both)?;
                let message = format!("{UNDER_WAY_MAX} jobs were under way for {BEHIND_MAX:?}");
                return Err(io::Error::other(message));
            }
            clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::empty(), &BEHIND_GLANCE.into())?;
        }
        stream.write_all(&frame)?;
    }
    Ok(late)
}

fn receive(
    mut answer: impl FnMut() -> io::Result<u64>,
    count: u64,
    due: &dyn Fn(u64) -> Instant,
    answered: &AtomicU64,
    broken: &AtomicBool,
) -> io::Result<Samples> {
    let mut latencies = Samples::default();
    while (latencies.len() as u64) < count && !broken.load(Ordering::Relaxed) {
        let number = answer()?;
        latencies.push(due(number).elapsed());
        answered.fetch_add(1, Ordering::Relaxed);
    }
    Ok(latencies)
}
