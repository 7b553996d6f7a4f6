//! Stopping guests in the developer's mode, where there is a process with threads and no signal to use.
//!
//! Owns: the thread that moves the epoch on, and the CPU time a guest may use.
//! Never: is part of a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::time::ClockId;

use crate::engine::Warm;
use crate::grants::Grants;

/// How often guests are looked at.
pub(super) const TICK: Duration = Duration::from_millis(1);

/// Why there is no ticker.
#[derive(Debug, thiserror::Error)]
pub enum TickerError {
    /// The thread could not be started.
    #[error("thread for the developer's mode cannot be started")]
    Thread(#[source] std::io::Error),
}

/// The thread that moves the epoch of a [`Warm`] on: one a process, for as long as any guest may run.
#[derive(Debug)]
pub struct Ticker {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Starts it.
    ///
    /// # Errors
    /// When there can be no further thread.
    pub fn start(warm: Arc<Warm>) -> Result<Self, TickerError> {
        let done = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&done);
        let thread = std::thread::Builder::new()
            .name("epoch".to_owned())
            .spawn(move || {
                while !seen.load(Ordering::Relaxed) {
                    std::thread::sleep(TICK);
                    warm.increment_epochs();
                }
            })
            .map_err(TickerError::Thread)?;
        Ok(Self { done, thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It cannot panic, and there is nobody to tell if it did.
            let _ended = thread.join();
        }
    }
}

/// Leave to run a guest in a process that is not jailed.
#[derive(Debug)]
pub struct DeveloperMode {
    pub(super) stop: Arc<AtomicBool>,
    pub(super) cpu: Option<CpuLimit>,
    pub(super) grants: Grants,
    _ticker: Arc<Ticker>,
}

/// CPU time of the thread that runs a guest: there is no process of the guest's own whose time could be limited.
#[derive(Debug, Clone)]
pub struct CpuLimit {
    limit: Duration,
    reached: Arc<AtomicBool>,
}

impl CpuLimit {
    /// At most `limit` from the moment the guest is begun.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { limit, reached: Arc::default() }
    }

    /// Whether a guest was stopped for it.
    #[must_use]
    pub fn reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }

    /// What is to be asked on the guest's thread, which this is called on, whether its time is up.
    pub(super) fn begun(self) -> impl Fn() -> bool {
        let since = thread_time();
        move || {
            let used = thread_time().zip(since).map(|(now, then)| now.saturating_sub(then));
            // A clock that cannot be read ends the guest: its limit would hold no more.
            let up = used.is_none_or(|used| used >= self.limit);
            if up {
                self.reached.store(true, Ordering::Relaxed);
            }
            up
        }
    }
}

fn thread_time() -> Option<Duration> {
    ClockId::CLOCK_THREAD_CPUTIME_ID.now().map(Duration::from).ok()
}

impl DeveloperMode {
    /// `ticker` must be one of the [`Warm`] whose guest is run, else the guest has no deadline; setting `stop`
    /// ends the guest as SIGTERM does in a worker.
    #[must_use]
    pub fn new(ticker: Arc<Ticker>, stop: Arc<AtomicBool>) -> Self {
        Self { stop, cpu: None, grants: Grants::default(), _ticker: ticker }
    }

    /// Stops the guest when its CPU time is up, too.
    #[must_use]
    pub fn with_cpu(self, cpu: CpuLimit) -> Self {
        Self { cpu: Some(cpu), ..self }
    }

    /// Gives the guest these directories.
    #[must_use]
    pub fn with_grants(self, grants: Grants) -> Self {
        Self { grants, ..self }
    }
}
