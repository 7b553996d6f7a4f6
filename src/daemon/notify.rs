//! Words to the service manager (sd_notify(3)).
//!
//! Owns: what is said, and that it is a word on the way, not a condition: where nobody listens, nothing is said.
//! Never: waits for an answer, believes that there is a service manager.

use std::path::Path;
use std::time::Duration;

use sd_notify::NotifyState;
use stockade_wire::client::Statistics;

/// The service manager, if this process has one (`NOTIFY_SOCKET`). Telling it something takes a system call or three
/// and never blocks for long: systemd's socket holds thousands of words.
#[derive(Debug, Clone, Copy, Default)]
pub struct ServiceManager(());

impl ServiceManager {
    /// The service manager of this process.
    #[must_use]
    pub const fn of_this_process() -> Self {
        Self(())
    }

    /// Jobs are taken at `socket`.
    pub fn ready(self, socket: &Path) {
        let status = format!("taking jobs at {}", socket.display());
        tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
    }

    /// No more jobs are taken.
    pub fn stopping(self) {
        tell(&[NotifyState::Stopping, NotifyState::Status("stopping: jobs that were taken are finished")]);
    }

    /// This process is well, and these are its figures.
    pub fn well(self, figures: &Statistics) {
        let Statistics { running, queued, .. } = figures;
        let status =
            format!("{running} jobs running, {queued} waiting, {} accepted so far", figures.accepted);
        tell(&[NotifyState::Watchdog, NotifyState::Status(&status)]);
    }

    /// Within what time it wants to hear again and again that this process is well (`WatchdogSec=`), if it does.
    #[must_use]
    pub fn watchdog(self) -> Option<Duration> {
        sd_notify::watchdog_enabled().filter(|within| !within.is_zero())
    }
}

fn tell(words: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(words) {
        tracing::warn!(%error, "the service manager cannot be told how this daemon is");
    }
}
