//! `stockade serve`: the daemon.
//!
//! Owns: the order of its start: log, locks, socket, walls, then clients.
//! Never: serves a client before the walls were tried.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::timeout;

use super::output::Output;
use super::signals::{InheritedSignalsError, begin_afresh};
use super::{exit, socket};
use crate::config::{Config, InForce, Reload};
use crate::daemon::{
    self, ActivationError, Claim, DaemonError, Listener, ReloadSignal, ServiceManager, SignalError,
    SocketError, StopSignals, handed,
};
use crate::observe::{self, Causes, LogControl, ObserveError};
use crate::supervisor::{JournalError, JournalLock, StartError, Startup, Supervisor, descriptors_needed};

/// Time what is left has to be gone once the daemon has closed. Nothing is, unless it was told twice to stop.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    InheritedSignals(#[from] InheritedSignalsError),
    #[error(transparent)]
    Observe(#[from] ObserveError),
    #[error("no event loop")]
    Runtime(#[source] std::io::Error),
    #[error(transparent)]
    Signals(#[from] SignalError),
    #[error(
        "{has} open files are too few: workers, queue, cache, results and clients may come to {needed}; raise LimitNOFILE= \
         of the unit (ulimit -Hn), or lower pool.ready_max, queue.files_max, cache.files_max, results.files_max or \
         clients.connections_max"
    )]
    OpenFiles { has: u64, needed: u64 },
    #[error(transparent)]
    Activation(#[from] ActivationError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Daemon(#[from] DaemonError),
}

/// Runs the daemon until it is told to stop.
pub(super) fn serve(in_force: InForce, socket_flag: Option<&Path>) -> ExitCode {
    match try_serve(in_force, socket_flag) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => Output::error(&error, exit::OWN_FAILURE).print(),
    }
}

/// Takes as many open files as it may: service managers give a low limit to whoever asks for no more, for the sake of
/// programs that use select(2), which this one does not.
fn raise_open_files() {
    let raised =
        rlimit::Resource::NOFILE.get_hard().and_then(|hard| rlimit::Resource::NOFILE.set(hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
}

/// What the configuration may come to need, where that is above the limit on open files.
fn short_of_open_files(config: &Config) -> Option<ServeError> {
    let needed = descriptors_needed(config);
    match rlimit::Resource::NOFILE.get_soft() {
        Ok(has) => (has < needed).then_some(ServeError::OpenFiles { has, needed }),
        Err(error) => {
            tracing::warn!(%error, "the limit on open files cannot be read");
            None
        }
    }
}

fn try_serve(in_force: InForce, socket_flag: Option<&Path>) -> Result<(), ServeError> {
    begin_afresh()?;
    let config = in_force.config().clone();
    let log = observe::to_stderr(&config.log)?;
    raise_open_files();
    match short_of_open_files(&config) {
        // It would run into the limit under load, when that can least be had.
        Some(short) if config.production => return Err(short),
        Some(short) => tracing::warn!("{short}"),
        None => {}
    }
    super::run::on_this_thread(async {
        let mut stop = StopSignals::listen()?;
        let reload = ReloadSignal::listen()?;
        // Before the zygote: a second daemon is refused without having started anything.
        let (listener, journal) = listen(&config, socket_flag)?;
        let path = listener.path().to_owned();
        let clients = config.clients.clone();
        let startup = Startup { own_files: listener.files(), journal, ..Startup::new(config) };
        let supervisor = startup.start().await?;
        tracing::info!(socket = %path.display(), "ready");
        let manager = ServiceManager::of_this_process();
        manager.ready(&path);
        let reloads = Reloads { in_force, log, supervisor: supervisor.clone(), manager, socket: path };
        tokio::task::spawn_local(reloads.serve(reload));
        if let Some(watchdog) = manager.watchdog() {
            // To the end of this process: it is watched while it drains, too.
            tokio::task::spawn_local(daemon::watch(supervisor.clone(), manager, watchdog));
        }
        let told_to_stop = async || {
            stop.next().await;
            manager.stopping();
        };
        daemon::serve(supervisor.clone(), listener, &clients, told_to_stop).await?;
        if timeout(END_TIMEOUT, supervisor.end()).await.is_err() {
            tracing::error!("workers did not end in time; they go with this process");
        }
        tracing::info!("stopped");
        Ok(())
    })
    .map_err(ServeError::Runtime)?
}

/// What it takes to read the configuration anew.
struct Reloads {
    in_force: InForce,
    log: LogControl,
    supervisor: Supervisor,
    manager: ServiceManager,
    socket: PathBuf,
}

impl Reloads {
    /// Reads it anew whenever it is told to, to the end of this process.
    async fn serve(mut self, mut signal: ReloadSignal) {
        loop {
            signal.next().await;
            self.manager.reloading();
            self.reload();
            self.manager.ready(&self.socket);
        }
    }

    fn reload(&mut self) {
        let Reload { config, applied, at_restart } = match self.in_force.reload(std::env::vars_os()) {
            Ok(reload) => reload,
            Err(error) => {
                return tracing::error!(error = %Causes(&error), "configuration not reloaded: the old one stays in force");
            }
        };
        if let Err(error) = self.log.set_filter(&config.log.filter) {
            tracing::error!(error = %Causes(&error), "log.filter stays as it was");
        }
        if let Some(short) = short_of_open_files(&config) {
            tracing::warn!("{short}");
        }
        self.supervisor.reconfigure(config);
        tracing::info!(changed = applied.join(", "), "configuration reloaded");
        if !at_restart.is_empty() {
            tracing::warn!(changed = at_restart.join(", "), "these settings take effect at the next start");
        }
    }
}

/// On the socket this process was started with, else on one of its own. The lock on the journal comes first, where one is
/// kept: nobody is to connect to a daemon that then ends because another has its journal.
fn listen(
    config: &Config,
    socket_flag: Option<&Path>,
) -> Result<(Listener, Option<JournalLock>), ServeError> {
    let journal = || config.durable.directory.as_deref().map(JournalLock::take).transpose();
    let configured = socket_flag.or(config.socket.as_deref());
    if let Some(listener) = Listener::among(handed()?, configured)? {
        tracing::info!(socket = %listener.path().display(), "serving on the socket this was started with");
        return Ok((listener, journal()?));
    }
    // The socket's lock before the journal's: whoever starts the same daemon twice is told that it is running.
    let claim = Claim::take(&socket::for_daemon(socket_flag, config.socket.as_deref()))?;
    let journal = journal()?;
    Ok((claim.listen(config.clients.socket_mode)?, journal))
}
