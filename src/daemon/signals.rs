//! The signals that ask the daemon to stop.
//!
//! Owns: SIGTERM and SIGINT once listened for.
//! Never: decides what stopping means.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listening is not possible.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for SIGTERM and SIGINT")]
pub struct SignalError(#[source] std::io::Error);

/// SIGTERM and SIGINT from the moment it is made; until then they end the process.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Begins to listen. To be called on a runtime.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn listen() -> Result<Self, SignalError> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(SignalError)?,
            interrupt: signal(SignalKind::interrupt()).map_err(SignalError)?,
        })
    }

    /// Waits for the next of the two.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
