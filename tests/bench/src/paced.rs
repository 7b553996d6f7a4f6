//! Jobs sent by the clock, whether or not the ones before are over.
//!
//! Owns: the open loop.
//! Never: lets a slow answer delay the next job, but where the daemon would refuse it; and counts that wait too, from the
//! moment the job was due, as it does any other.

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

/// Sends `per_second` jobs a second for `time`, and takes for each how long after the moment it was due its result came.
///
/// # Errors
/// When a job did not complete, or the pace could not be held.
pub fn paced(
    socket: &std::path::Path,
    job: &Submission,
    per_second: f64,
    time: Duration,
) -> io::Result<Paced> {
    let interval = Duration::from_secs_f64(1.0 / per_second.max(1.0));
    let count = (time.as_secs_f64() / interval.as_secs_f64()) as u64 + 1;
    let mut connection = Connection::open(socket)?;
    let sender = connection.sender()?;
    let answered = AtomicU64::new(0);
    let broken = AtomicBool::new(false);
    let began = Instant::now() + interval;
    let due = |number: u64| began + interval.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX));
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let sent = send(sender, job, count, &due, &answered);
            broken.store(sent.is_err(), Ordering::Relaxed);
            sent
        });
        let received = receive(&mut connection, count, &due, &answered, &broken);
        let late = sending.join().unwrap_or_else(|_| Err(io::Error::other("the sender panicked")))?;
        let latencies = received?;
        Ok(Paced {
            per_second: round(1.0 / interval.as_secs_f64()),
            p50_us: latencies.p50(),
            p99_us: latencies.p99(),
            sender_late_p99_us: late.p99(),
        })
    })
}

/// Sends them, and says how late it was with each.
fn send(
    mut stream: UnixStream,
    job: &Submission,
    count: u64,
    due: &dyn Fn(u64) -> Instant,
    answered: &AtomicU64,
) -> io::Result<Samples> {
    // The kernel otherwise lets a sleep last 50 µs longer than it was asked to. Where it will not have this, the
    // sender is later, and its lateness is told.
    let _ = prctl::set_timerslack(1);
    let mut late = Samples::default();
    for number in 0..count {
        let frame = submit_frame(number, job)?;
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
    connection: &mut Connection,
    count: u64,
    due: &dyn Fn(u64) -> Instant,
    answered: &AtomicU64,
    broken: &AtomicBool,
) -> io::Result<Samples> {
    let mut latencies = Samples::default();
    while (latencies.len() as u64) < count && !broken.load(Ordering::Relaxed) {
        match connection.receive()? {
            FromDaemon::Accepted { .. } => {}
            FromDaemon::Finished { request, result } => {
                latencies.push(due(request).elapsed());
                completed(&result, &[])?;
                answered.fetch_add(1, Ordering::Relaxed);
            }
            other => return Err(unexpected("a job was not run", &other)),
        }
    }
    Ok(latencies)
}
