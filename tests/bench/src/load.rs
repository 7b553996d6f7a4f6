//! Ways to put a load on something: one at a time, several in a closed loop, by the clock, for long.
//!
//! Owns: when a request is sent, and which durations are taken.
//! Never: knows what a request is.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::report::{Clients, Sustained};
use crate::samples::{P99_SAMPLES_MIN, Samples};

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Most samples one at a time.
    pub samples: usize,
    /// Time after which fewer will do, if there are enough for a 99th percentile.
    pub one_at_a_time: Duration,
    /// How long clients run in a closed loop.
    pub closed_loop: Duration,
    /// How long jobs are sent by the clock.
    pub paced: Duration,
    /// How long the sustained load is held.
    pub sustained: Duration,
    /// Requests that are made before anything is measured.
    pub warm_up: usize,
    /// Between an answer and the next request, one at a time: whoever asks has something else to do, and what stands ready
    /// can be replaced. Clients in a closed loop make no pause.
    pub pause: Duration,
}

impl Effort {
    /// For figures.
    pub const FULL: Self = Self {
        samples: 3_000,
        one_at_a_time: Duration::from_secs(4),
        closed_loop: Duration::from_secs(3),
        paced: Duration::from_secs(5),
        sustained: Duration::from_secs(60),
        warm_up: 200,
        pause: Duration::from_millis(2),
    };

    /// To see that it works.
    pub const QUICK: Self = Self {
        samples: 10,
        one_at_a_time: Duration::from_millis(200),
        closed_loop: Duration::from_millis(100),
        paced: Duration::from_millis(200),
        sustained: Duration::from_millis(1_100),
        warm_up: 5,
        pause: Duration::ZERO,
    };

    /// Lets the pause between an answer and the next request pass. Blocks for it.
    pub fn pause(&self) {
        std::thread::sleep(self.pause);
    }

    /// The same with no sustained load.
    #[must_use]
    pub const fn without_sustained(self) -> Self {
        Self { sustained: Duration::ZERO, ..self }
    }

    /// The same for what takes long.
    #[must_use]
    pub fn few(self) -> Self {
        Self { samples: self.samples.min(200), warm_up: self.warm_up.min(5), ..self }
    }

    /// Whether it is enough to stop, with so many samples since then.
    fn enough(&self, samples: usize, since: Instant) -> bool {
        let hundred = P99_SAMPLES_MIN.min(self.samples);
        samples >= self.samples || (since.elapsed() >= self.one_at_a_time && samples >= hundred)
    }
}

/// Makes `request` one at a time, after warming up, with a pause before each.
///
/// # Errors
/// What a request failed with.
pub fn one_at_a_time(effort: &Effort, request: impl FnMut() -> io::Result<()>) -> io::Result<Samples> {
    one_at_a_time_from(effort, request, || {})
}

/// The same, and calls `begin` between the warm-up and what is measured.
///
/// # Errors
/// What a request failed with.
pub fn one_at_a_time_from(
    effort: &Effort,
    mut request: impl FnMut() -> io::Result<()>,
    begin: impl FnOnce(),
) -> io::Result<Samples> {
    let warming = Instant::now();
    for _ in 0..effort.warm_up {
        request()?;
        if warming.elapsed() >= effort.one_at_a_time {
            break;
        }
    }
    begin();
    let mut samples = Samples::default();
    let began = Instant::now();
    while !effort.enough(samples.len(), began) {
        effort.pause();
        let since = Instant::now();
        request()?;
        samples.push(since.elapsed());
    }
    Ok(samples)
}

/// Has `clients` threads make requests for `time`, each as soon as its last is answered. `connect` makes what a thread
/// asks.
///
/// # Errors
/// The first that any of them had.
pub fn closed_loop<C, R>(clients: u64, time: Duration, connect: C) -> io::Result<Clients>
where
    C: Fn() -> io::Result<R> + Sync,
    R: FnMut() -> io::Result<()>,
{
    let (all, elapsed, _) = run_clients(clients, time, &connect)?;
    let per_second = round(all.len() as f64 / elapsed.as_secs_f64());
    Ok(Clients { clients, per_second, p50_us: all.p50(), p99_us: all.p99() })
}

/// The same for long, counted second by second.
///
/// # Errors
/// The first that any of them had.
pub fn sustained<C, R>(clients: u64, time: Duration, connect: C) -> io::Result<Sustained>
where
    C: Fn() -> io::Result<R> + Sync,
    R: FnMut() -> io::Result<()>,
{
    let (all, elapsed, mut ends) = run_clients(clients, time, &connect)?;
    ends.sort_unstable();
    let whole_seconds = elapsed.as_secs();
    let in_second = |second: u64| {
        let (from, to) = (Duration::from_secs(second), Duration::from_secs(second + 1));
        ends.partition_point(|end| *end < to) - ends.partition_point(|end| *end < from)
    };
    Ok(Sustained {
        seconds: round(elapsed.as_secs_f64()),
        clients,
        per_second: round(all.len() as f64 / elapsed.as_secs_f64()),
        worst_second: (0..whole_seconds).map(in_second).min().unwrap_or_default() as f64,
    })
}

/// One decimal is all that any figure here is good for.
#[must_use]
pub fn round(figure: f64) -> f64 {
    (figure * 10.0).round() / 10.0
}

/// Latencies, the time it took, and when, since the beginning, each request was over.
fn run_clients<C, R>(
    clients: u64,
    time: Duration,
    connect: &C,
) -> io::Result<(Samples, Duration, Vec<Duration>)>
where
    C: Fn() -> io::Result<R> + Sync,
    R: FnMut() -> io::Result<()>,
{
    let broken = AtomicBool::new(false);
    let gate = std::sync::Barrier::new(usize::try_from(clients).map_err(io::Error::other)? + 1);
    let answers = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients)
            .map(|_| {
                scope.spawn(|| {
                    let connected = connect();
                    gate.wait();
                    let answer = connected.and_then(|request| one_client(request, time, &broken));
                    if answer.is_err() {
                        broken.store(true, Ordering::Relaxed);
                    }
                    answer
                })
            })
            .collect();
        gate.wait();
        let joined = threads.into_iter().map(|thread| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a client's thread panicked")))
        });
        joined.collect::<io::Result<Vec<_>>>()
    });
    let (mut all, mut ends) = (Samples::default(), Vec::new());
    for (samples, mut own) in answers? {
        all.append(samples);
        ends.append(&mut own);
    }
    // Until the last answer: how soon this thread then runs is no part of it.
    let elapsed = ends.iter().max().copied().unwrap_or(time);
    Ok((all, elapsed, ends))
}

fn one_client(
    mut request: impl FnMut() -> io::Result<()>,
    time: Duration,
    broken: &AtomicBool,
) -> io::Result<(Samples, Vec<Duration>)> {
    let (mut samples, mut ends) = (Samples::default(), Vec::new());
    let began = Instant::now();
    while began.elapsed() < time && !broken.load(Ordering::Relaxed) {
        let since = Instant::now();
        request()?;
        samples.push(since.elapsed());
        ends.push(began.elapsed());
    }
    Ok((samples, ends))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_of_slow_requests_stops_at_a_hundred() {
        let effort = Effort { one_at_a_time: Duration::ZERO, ..Effort::FULL };
        assert_eq!(one_at_a_time(&effort, || Ok(())).unwrap().len(), P99_SAMPLES_MIN);
    }

    #[test]
    fn closed_loop_with_a_broken_client_fails() {
        let broken = || Ok(|| Err(io::Error::other("broken")));
        assert!(closed_loop(3, Duration::from_secs(60), broken).is_err());
        assert!(
            closed_loop(2, Duration::from_secs(60), || -> io::Result<fn() -> io::Result<()>> {
                Err(io::Error::other("nobody listens"))
            })
            .is_err()
        );
    }

    #[test]
    fn sustained_counts_what_was_done() {
        let found = sustained(2, Duration::from_millis(20), || Ok(|| Ok(()))).unwrap();
        assert!(found.per_second > 0.0 && found.clients == 2);
    }
}
