//! The daemon: clients on a Unix socket.
//!
//! Owns: the socket, the connections, and the order in which both end.
//! Never: runs a job or knows what one is beyond its messages.
//!
//! ```text
//! serving ── stop ──▶ draining: no socket, no new job, clients still answered ── all over ──▶ closing ──▶ end
//!                        └────────────── stop again: jobs are ended now ───────────────────────▲
//! ```

mod activation;
mod brought;
mod census;
mod connection;
mod inbound;
mod jobs;
mod notify;
mod outbound;
mod signals;
mod socket;
mod watchdog;

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use stockade_wire::client::FromDaemon;
use stockade_wire::frame;
use stockade_wire::limits::HELLO_FRAME_BYTES_MAX;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

pub use self::activation::{ActivationError, Handed, handed};
pub use self::jobs::{FollowLogs, Jobs};
pub use self::notify::ServiceManager;
pub use self::signals::{ReloadSignal, SignalError, StopSignals};
pub use self::socket::{Claim, Listener, SocketError};
pub use self::watchdog::watch;

use self::census::Census;
use self::connection::{Shared, attend};
use crate::config::Clients;
use crate::host::HostSampler;
use crate::observe::Causes;
use crate::supervisor::Caller;
use crate::wire_end::WireEnd;

/// What the daemon calls itself to its clients.
const AGENT: &str = concat!("stockade/", env!("CARGO_PKG_VERSION"));

/// Pause after a connection could not be taken for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Time jobs have to be gone once they are ended without grace. They are killed: it is the kernel that is waited for.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Time clients have to read their last answers when the daemon stops. Their jobs are over by then: how long those may take is
/// `clients.drain_timeout`.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Why the daemon cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The socket cannot be watched for connections.
    #[error("cannot watch the socket for connections")]
    Watch(#[source] io::Error),
}

/// Serves clients until `stop` resolves for the first time, then drains: no new connection or job, running
/// jobs have `limits.drain_timeout` to end, and clients get their results. When `stop` resolves again jobs
/// are ended at once. A socket that was made here is gone from the file system when draining begins, its lock when
/// this returns; one that was handed to this process is only let go of.
///
/// To be called on a [`tokio::runtime::LocalRuntime`] or within a [`tokio::task::LocalSet`].
///
/// # Errors
/// When the socket cannot be watched. Errors of single connections are logged and end those alone.
pub async fn serve<J: Jobs>(
    jobs: J,
    listener: Listener,
    limits: &Clients,
    mut stop: impl AsyncFnMut(),
) -> Result<(), DaemonError> {
    let (socket, file, _lock) = listener.into_parts();
    let socket = UnixListener::from_std(socket).map_err(DaemonError::Watch)?;
    let (closing, stopping) = watch::channel(false);
    let census = Census::new(limits);
    let host = RefCell::new(HostSampler::new());
    let shared = Rc::new(Shared { jobs, limits: limits.clone(), census, host, stopping });
    let mut connections = JoinSet::new();
    tokio::select! {
        () = stop() => {}
        () = accept(&socket, &shared, &mut connections) => {}
    }
    drop(socket);
    drop(file);
    drain(&shared.jobs, limits.drain_timeout, stop).await;
    closing.send_replace(true);
    let flushed = timeout(FLUSH_TIMEOUT, async { while connections.join_next().await.is_some() {} }).await;
    if flushed.is_err() {
        tracing::warn!(connections = connections.len(), "closing connections whose clients do not read");
    }
    connections.shutdown().await;
    Ok(())
}

async fn drain<J: Jobs>(jobs: &J, within: Duration, mut stop: impl AsyncFnMut()) {
    tracing::info!(?within, "stopping: no new jobs, waiting for running ones");
    tokio::select! {
        () = jobs.drain(within) => return,
        () = stop() => {}
    }
    tracing::warn!("told to stop again: ending all jobs now");
    if timeout(END_TIMEOUT, jobs.drain(Duration::ZERO)).await.is_err() {
        tracing::error!("jobs did not end in time; they go with this process");
    }
}

/// Takes connections for ever.
async fn accept<J: Jobs>(socket: &UnixListener, shared: &Rc<Shared<J>>, connections: &mut JoinSet<()>) {
    loop {
        tokio::select! {
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(error = %Causes(&error), "serving a client failed");
                }
            }
            accepted = socket.accept() => match accepted {
                Ok((stream, _)) => welcome(shared, stream, connections),
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection; trying again soon");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

/// Gives the connection a place, or a word and the door.
fn welcome<J: Jobs>(shared: &Rc<Shared<J>>, stream: UnixStream, connections: &mut JoinSet<()>) {
    let caller = match stream.peer_cred() {
        // Without a process id the peer is out of sight of this process id namespace; it is for logs alone.
        Ok(peer) => Caller { uid: peer.uid(), gid: peer.gid(), pid: peer.pid().unwrap_or(0) },
        Err(error) => return tracing::warn!(%error, "closing a client that the kernel does not name"),
    };
    match shared.census.admit(caller.uid) {
        Ok(seat) => match WireEnd::new(stream) {
            Ok(socket) => drop(connections.spawn_local(attend(Rc::clone(shared), socket, caller, seat))),
            Err(error) => tracing::warn!(%error, "closing a client whose connection cannot be watched"),
        },
        Err(full) => {
            tracing::debug!(uid = caller.uid, pid = caller.pid, "{full}");
            let refusal = FromDaemon::Protocol { message: full.to_string() };
            if let Ok(frame) = frame::encode(&refusal, HELLO_FRAME_BYTES_MAX) {
                // A new connection's buffer is empty; if it does not fit all the same, closing says enough.
                let _ = stream.try_write(&frame);
            }
        }
    }
}
