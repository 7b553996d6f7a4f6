//! `stockade serve`: the daemon.
//!
//! Owns: the order of its start: log, socket, walls, then clients.
//! Never: serves a client before the walls were tried.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::timeout;

use super::output::Output;
use super::signals::{InheritedSignalsError, begin_afresh};
use super::{exit, socket};
use crate::config::Config;
use crate::daemon::{
    self, ActivationError, DaemonError, Listener, ServiceManager, SignalError, SocketError, StopSignals,
    handed,
};
use crate::observe::{self, ObserveError};
use crate::supervisor::{StartError, Startup};

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
    #[error(transparent)]
    Activation(#[from] ActivationError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Daemon(#[from] DaemonError),
}

/// Runs the daemon until it is told to stop.
pub(super) fn serve(config: Config, socket_flag: Option<&Path>) -> ExitCode {
    match try_serve(config, socket_flag) {
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

fn try_serve(config: Config, socket_flag: Option<&Path>) -> Result<(), ServeError> {
    begin_afresh()?;
    observe::to_stderr(&config.log)?;
    raise_open_files();
    super::run::on_this_thread(async {
        let mut stop = StopSignals::listen()?;
        // Before the zygote: a second daemon is refused without having started anything.
        let listener = listen(&config, socket_flag)?;
        let path = listener.path().to_owned();
        let clients = config.clients.clone();
        let startup = Startup { own_files: listener.files(), ..Startup::new(config) };
        let supervisor = startup.start().await?;
        tracing::info!(socket = %path.display(), "ready");
        let manager = ServiceManager::of_this_process();
        manager.ready(&path);
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

/// On the socket this process was started with, else on one of its own.
fn listen(config: &Config, socket_flag: Option<&Path>) -> Result<Listener, ServeError> {
    let configured = socket_flag.or(config.socket.as_deref());
    if let Some(listener) = Listener::among(handed()?, configured)? {
        tracing::info!(socket = %listener.path().display(), "serving on the socket this was started with");
        return Ok(listener);
    }
    let path = socket::for_daemon(socket_flag, config.socket.as_deref());
    Ok(Listener::bind(&path, config.clients.socket_mode)?)
}
