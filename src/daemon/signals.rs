//! The signals that ask the daemon to stop, or to read its configuration anew.
//!
//! Owns: SIGTERM, SIGINT and SIGHUP once listened for.
//! Never: decides what stopping or reading anew means.

use nix::sys::signal::{SigSet, Signal as Number};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listening is not possible.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for SIGTERM, SIGINT and SIGHUP")]
pub struct SignalError(#[source] std::io::Error);

/// SIGHUP, which tells a daemon without a terminal to read its configuration anew.
#[derive(Debug)]
pub struct ReloadSignal(Option<Signal>);

impl ReloadSignal {
    /// Begins to listen, where there is no terminal: in one, SIGHUP says that it is gone, and ends the process as ever. To
    /// be called on a runtime.
    ///
    /// # Errors
    /// When the handler cannot be installed.
    pub fn listen() -> Result<Self, SignalError> {
        // Opens for whoever has a controlling terminal, and for nobody else.
        if std::fs::File::open("/dev/tty").is_ok() {
            return Ok(Self(None));
        }
        signal(SignalKind::hangup()).map(|signal| Self(Some(signal))).map_err(SignalError)
    }

    /// Waits for the next one; for ever where none is listened for.
    pub async fn next(&mut self) {
        match &mut self.0 {
            Some(signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        }
    }
}

/// SIGTERM and SIGINT held back from this thread. Dropped, they are delivered, those that came meanwhile first; also
/// when whoever started this process had them blocked, since here is who waits for them.
struct HeldBack(SigSet);

impl HeldBack {
    fn begin() -> Result<Self, SignalError> {
        let both: SigSet = [Number::SIGTERM, Number::SIGINT].into_iter().collect();
        both.thread_block().map_err(|errno| SignalError(errno.into()))?;
        Ok(Self(both))
    }
}

impl Drop for HeldBack {
    fn drop(&mut self) {
        // Cannot fail: blocking the same ones did not.
        let _ = self.0.thread_unblock();
    }
}

/// SIGTERM and SIGINT from the moment it is made; until then they end the process.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Begins to listen. To be called on a runtime, before there is another thread or process: a signal that comes
    /// between the installation of a handler and the note of who wants to know would be lost, so that both are held
    /// back from this thread, which is then the only one they could come to.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn listen() -> Result<Self, SignalError> {
        let _until_both_are_there = HeldBack::begin()?;
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
