//! Stopping guests in the developer's mode, where there is a process with threads and no signal to use.
//!
//! Owns: the thread that moves the epoch on.
//! Never: is part of a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::engine::Warm;

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
#[derive(Debug, Clone)]
pub struct DeveloperMode {
    pub(super) stop: Arc<AtomicBool>,
    _ticker: Arc<Ticker>,
}

impl DeveloperMode {
    /// `ticker` must be one of the [`Warm`] whose guest is run, else the guest has no deadline; setting `stop`
    /// ends the guest as SIGTERM does in a worker.
    #[must_use]
    pub const fn new(ticker: Arc<Ticker>, stop: Arc<AtomicBool>) -> Self {
        Self { stop, _ticker: ticker }
    }
}
