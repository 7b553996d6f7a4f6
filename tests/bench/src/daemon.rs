//! A daemon of the bench's own, with nothing cached but what the run makes.
//!
//! Owns: its start, its end, and what its processes use.
//! Never: touches a daemon that was there before.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::client::Connection;
use crate::procfs;
use crate::samples::median;

/// Longest wait for a daemon to listen, for workers to stand ready, or for it to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two looks at something that has no event.
const GLANCE: Duration = Duration::from_millis(10);

/// The name that idle run workers go by.
const RUN_WORKER: &str = "stockade:run";

/// The name of the file that a worker has mapped whose module is loaded: all of it, or what is no code where that was copied.
const ARTIFACT: &str = "stockade-artifact";

/// Settings that every daemon of the bench has, beside where it is.
const SETTINGS: [(&str, &str); 2] = [("LOG_FILTER", "warn"), ("CLIENTS_CONNECTIONS_PER_UID_MAX", "128")];

/// A directory for daemons that follow each other, with a cache that outlives them.
#[derive(Debug)]
pub struct Home {
    directory: TempDir,
    program: PathBuf,
    settings: Vec<(String, String)>,
}

/// A running daemon; its home has to outlive it.
#[derive(Debug)]
pub struct Daemon<'home> {
    _home: &'home Home,
    child: Child,
    socket: PathBuf,
    started: Duration,
}

impl Home {
    /// For this executable, with these settings by their environment variables without the prefix.
    ///
    /// # Errors
    /// When no temporary directory can be made.
    pub fn new<K: AsRef<str>, V: AsRef<str>>(program: &Path, settings: &[(K, V)]) -> io::Result<Self> {
        let directory = TempDir::with_prefix("stockade-bench-")?;
        // What the machine's own configuration says is not what is measured.
        File::create(directory.path().join("stockade.toml"))?;
        let path = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
        let own = [
            ("CONFIG", path("stockade.toml")),
            ("SOCKET", path("socket")),
            ("CACHE_DIRECTORY", path("cache")),
        ];
        let named = |name: &str, value: &str| (format!("STOCKADE_{name}"), value.to_owned());
        let always = SETTINGS.iter().map(|(name, value)| named(name, value));
        let settings =
            always.chain(settings.iter().map(|(name, value)| named(name.as_ref(), value.as_ref())));
        let own = own.into_iter().map(|(name, value)| (format!("STOCKADE_{name}"), value));
        let settings = settings.chain(own).collect();
        Ok(Self { program: program.to_owned(), settings, directory })
    }

    /// Starts a daemon and waits until it has answered.
    ///
    /// # Errors
    /// When it ends, or does not answer in time.
    pub fn start(&self) -> io::Result<Daemon<'_>> {
        let socket = self.directory.path().join("socket");
        let since = Instant::now();
        let child = Command::new(&self.program)
            .arg("serve")
            .env_clear()
            .envs(self.settings.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let mut daemon = Daemon { _home: self, child, socket, started: Duration::ZERO };
        while UnixStream::connect(&daemon.socket).is_err() {
            if let Some(status) = daemon.child.try_wait()? {
                return Err(io::Error::other(format!("the daemon ended: {status}")));
            }
            patient(since, "the daemon to listen")?;
            std::thread::yield_now();
        }
        // It listens before it has tried its walls, and answers after.
        Connection::open(&daemon.socket)?;
        daemon.started = since.elapsed();
        Ok(daemon)
    }
}

impl Daemon<'_> {
    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The supervisor.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// From its execution to its first answer.
    #[must_use]
    pub const fn started(&self) -> Duration {
        self.started
    }

    /// CPU time of all its processes so far, dead ones included.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        procfs::cpu_time(self.pid())
    }

    /// Its run workers; while no job runs these are the idle ones.
    #[must_use]
    pub fn run_workers(&self) -> Vec<u32> {
        procfs::children(self.pid()).into_iter().filter(|pid| procfs::name(*pid) == RUN_WORKER).collect()
    }

    /// What an idle worker takes.
    #[must_use]
    pub fn idle_worker(&self) -> IdleWorker {
        let workers = self.run_workers();
        let ready: Vec<u32> =
            workers.iter().copied().filter(|pid| procfs::has_mapped(*pid, ARTIFACT)).collect();
        IdleWorker {
            private_kib: kib_of(&workers, procfs::private_kib),
            pss_kib: kib_of(&workers, procfs::proportional_kib),
            ready_private_kib: kib_of(&ready, procfs::private_kib),
        }
    }

    /// Waits until as many workers stand ready with their module.
    ///
    /// # Errors
    /// When they do not in time.
    pub fn wait_until_prepared(&self, workers: u64) -> io::Result<()> {
        let since = Instant::now();
        let mut client = Connection::open(&self.socket)?;
        while client.statistics()?.prepared < workers {
            patient(since, "workers to stand ready")?;
            std::thread::park_timeout(GLANCE);
        }
        Ok(())
    }
}

/// Memory of an idle worker, KiB: medians.
#[derive(Debug, Clone, Copy)]
pub struct IdleWorker {
    /// What no other process has; of all idle workers.
    pub private_kib: Option<f64>,
    /// Proportional share; of all idle workers.
    pub pss_kib: Option<f64>,
    /// What no other process has; of those alone that stand ready with a module, as a template's forks do.
    pub ready_private_kib: Option<f64>,
}

/// The median of a figure; a worker that ended in between has none.
fn kib_of(workers: &[u32], figure: fn(u32) -> u64) -> Option<f64> {
    median(workers.iter().map(|pid| figure(*pid) as f64).filter(|kib| *kib > 0.0))
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        // Workers and zygote end with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn patient(since: Instant, what: &str) -> io::Result<()> {
    if since.elapsed() > PATIENCE {
        return Err(io::Error::new(io::ErrorKind::TimedOut, format!("waited too long for {what}")));
    }
    Ok(())
}
