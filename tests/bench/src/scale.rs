//! Cost as warm workers and clients grow, and the supervisor's memory along a long run.
//!
//! Owns: both measurements.
//! Never: runs without a bound on jobs and time.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use stockade_wire::job::Isolation;

use crate::client::{Connection, Prepared};
use crate::daemon::{Daemon, Home};
use crate::jobs::Job;
use crate::load::{closed_loop, round};
use crate::procfs;
use crate::report::{Endurance, EnduranceSample, ScalePoint};
use crate::stockade::DEFAULTS;

/// Workers that stand ready with their module.
pub const WORKERS: [u64; 4] = [1, 10, 100, 1_000];

/// Clients in a closed loop.
pub const CLIENTS: [u64; 3] = [1, 8, 64];

/// Clients of the long run.
const ENDURANCE_CLIENTS: u64 = 8;

/// Points at which the supervisor is looked at in a long run.
const ENDURANCE_SAMPLES: u64 = 20;

/// Requests after which a module that has no template gets none.
const REQUESTS_MAX: u32 = 100;

/// Longest time for a long run.
const ENDURANCE_TIME_MAX: Duration = Duration::from_secs(3_600);

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Most workers.
    pub workers_max: u64,
    /// How long each number of clients runs.
    pub time: Duration,
}

impl Extent {
    /// For figures.
    pub const FULL: Self = Self { workers_max: 1_000, time: Duration::from_secs(4) };

    /// To see that it works.
    pub const QUICK: Self = Self { workers_max: 1, time: Duration::from_millis(50) };
}

/// Every number of workers with every number of clients.
///
/// # Errors
/// When workers do not stand ready in time, or a job does not end as it must.
pub fn scale(program: &Path, extent: Extent, tell: &dyn Fn(&str)) -> io::Result<Vec<ScalePoint>> {
    let mut points = Vec::new();
    for workers in WORKERS.into_iter().filter(|workers| *workers <= extent.workers_max) {
        let home = Home::new(program, &settings(program, workers)?)?;
        for clients in CLIENTS {
            let daemon = home.start()?;
            let point = point(&daemon, workers, clients, extent.time)?;
            tell(&format!("{workers} workers, {clients} clients: {:.0} jobs a second", point.per_second));
            points.push(point);
        }
    }
    Ok(points)
}

/// A daemon that keeps `workers` ready with the module that is asked for, and hardly any other.
fn settings(program: &Path, workers: u64) -> io::Result<Vec<(String, String)>> {
    let known = Command::new(program).args(["config", "check"]).env_clear().stdin(Stdio::null()).output()?;
    let known = String::from_utf8_lossy(&known.stdout).into_owned();
    let wanted = [
        ("pool.warm", 1),
        ("pool.template_ready", workers),
        ("pool.template_ready_max", workers),
        ("pool.ready_max", workers + 64),
        ("pool.ready_bytes_max", 16 << 30),
    ];
    // A daemon takes no setting that it does not know.
    let taken = wanted.into_iter().filter(|(key, _)| known.contains(key));
    Ok(taken.map(|(key, value)| (key.to_uppercase().replace('.', "_"), value.to_string())).collect())
}

fn point(daemon: &Daemon<'_>, workers: u64, clients: u64, time: Duration) -> io::Result<ScalePoint> {
    let mut client = Connection::open(daemon.socket())?;
    let submission = client.introduce(&Job::Noop.submission(Some(Isolation::Fresh)), &[])?;
    let job = Prepared::new(&submission, Vec::new())?;
    // Until it is asked for often enough to have a template, and not once more: that would take a ready worker.
    for _ in 0..REQUESTS_MAX {
        if client.statistics()?.templates > 0 {
            break;
        }
        client.run_prepared(&job)?;
    }
    daemon.wait_until_prepared(workers)?;
    let all_kib: u64 = procfs::family(daemon.pid()).into_iter().map(procfs::proportional_kib).sum();
    let worker_pss_kib = daemon.idle_worker().pss_kib;
    let before = daemon.cpu_time();
    let done = AtomicU64::new(0);
    let load = closed_loop(clients, time, || {
        let mut client = Connection::open(daemon.socket())?;
        let (job, done) = (&job, &done);
        Ok(move || {
            done.fetch_add(1, Ordering::Relaxed);
            client.run_prepared(job).map(drop)
        })
    })?;
    let used = daemon.cpu_time().saturating_sub(before).as_secs_f64() * 1e6;
    Ok(ScalePoint {
        workers,
        clients,
        per_second: load.per_second,
        p50_us: load.p50_us,
        p99_us: load.p99_us,
        cpu_us: Some(round(used / done.load(Ordering::Relaxed).max(1) as f64)),
        worker_pss_kib,
        all_pss_mib: round(all_kib as f64 / 1024.0),
        supervisor_mib: round(procfs::resident_kib(daemon.pid()) as f64 / 1024.0),
    })
}

/// Runs `jobs` jobs, and looks at the supervisor before the first, after the last and along the way.
///
/// # Errors
/// When a job does not end as it must, or it takes longer than an hour.
pub fn endurance(program: &Path, jobs: u64, tell: &dyn Fn(&str)) -> io::Result<Endurance> {
    let home = Home::new(program, DEFAULTS)?;
    let daemon = home.start()?;
    let mut client = Connection::open(daemon.socket())?;
    let submission = client.introduce(&Job::Noop.submission(Some(Isolation::Fresh)), &[])?;
    let job = Prepared::new(&submission, Vec::new())?;
    let (asked, done, broken) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let mut samples = vec![look(&daemon, 0)];
    let since = Instant::now();
    let one_client = || -> io::Result<()> {
        let mut client = Connection::open(daemon.socket())?;
        while asked.fetch_add(1, Ordering::Relaxed) < jobs && !broken.load(Ordering::Relaxed) {
            client.run_prepared(&job)?;
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let client = || one_client().inspect_err(|_| broken.store(true, Ordering::Relaxed));
        let threads: Vec<_> = (0..ENDURANCE_CLIENTS).map(|_| scope.spawn(client)).collect();
        let mut next = 1;
        while threads.iter().any(|thread| !thread.is_finished()) {
            let so_far = done.load(Ordering::Relaxed);
            if next < ENDURANCE_SAMPLES && so_far >= jobs * next / ENDURANCE_SAMPLES {
                next += 1;
                let sample = look(&daemon, so_far);
                tell(&format!("{so_far} jobs: supervisor {} KiB", sample.supervisor_kib));
                samples.push(sample);
            }
            if since.elapsed() > ENDURANCE_TIME_MAX {
                broken.store(true, Ordering::Relaxed);
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a client's thread panicked")))
        })
    })?;
    if broken.load(Ordering::Relaxed) {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "the jobs took longer than an hour"));
    }
    let (seconds, jobs) = (round(since.elapsed().as_secs_f64()), done.load(Ordering::Relaxed));
    samples.push(look(&daemon, jobs));
    Ok(Endurance { jobs, seconds, clients: ENDURANCE_CLIENTS, samples })
}

fn look(daemon: &Daemon<'_>, jobs: u64) -> EnduranceSample {
    EnduranceSample {
        jobs,
        supervisor_kib: procfs::resident_kib(daemon.pid()),
        supervisor_fds: procfs::descriptors(daemon.pid()),
        children: procfs::children(daemon.pid()).len() as u64,
    }
}
