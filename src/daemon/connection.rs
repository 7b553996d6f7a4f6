//! One client's connection, from hello to the end.
//!
//! Owns: the order of a conversation, and the requests of one client that are not answered yet.
//! Never: trusts a message about who sent it, keeps a job from going on when its client leaves.
//!
//! ```text
//! accepted ── hello ──▶ conversing ──────── client ended its half ──▶ answering ── all answered ──▶ closed
//!     │                     │  │ the daemon stops ───────────────────────▲                            ▲
//!     └── late, not hello ──┴──┴─ broke the protocol ──▶ told so ──────────────────────────────────────┤
//!                               └ gone, or does not read ──────────────────────────────────────────────┘
//! ```

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use stockade_wire::client::{FromDaemon, ToDaemon};
use stockade_wire::job::Submission;
use stockade_wire::limits::{HELLO_FRAME_BYTES_MAX, LOG_CHUNK_BYTES_MAX, NAME_BYTES_MAX};
use stockade_wire::{CLIENT_PROTOCOL_VERSION, CLIENT_PROTOCOL_VERSION_WITHOUT_DESCRIPTORS};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::AGENT;
use super::brought::{self, Brought, Mismatch};
use super::census::{Census, Seat};
use super::inbound::{Inbound, InboundError, Received};
use super::jobs::{FollowLogs, Jobs};
use super::outbound::{self, Gone, Outbound};
use crate::config::Clients;
use crate::host::HostSampler;
use crate::job_end::JobEnd;
use crate::observe::Causes;
use crate::supervisor::logs::safe_text;
use crate::supervisor::{Caller, LogPiece, Lookup};
use crate::wire_end::WireEnd;

/// How often a client that is not being read from is looked at for having gone.
const HANGUP_INTERVAL: Duration = Duration::from_millis(500);

/// Time a client that has asked for nothing yet has to do so when the daemon stops: it connected while the daemon
/// served, and is told that it stops (`draining`) rather than left to guess what became of its request.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// What all connections of one daemon share.
pub(super) struct Shared<J> {
    pub(super) jobs: J,
    pub(super) limits: Clients,
    pub(super) census: Rc<Census>,
    pub(super) host: RefCell<HostSampler>,
    /// Becomes true when the daemon stops: no further request is read.
    pub(super) stopping: watch::Receiver<bool>,
}

/// Why a conversation ended early.
#[derive(Debug, thiserror::Error)]
enum Ending {
    #[error(transparent)]
    Inbound(#[from] InboundError),
    #[error("the first message has to be hello")]
    NoHello,
    #[error("hello was said before")]
    HelloTwice,
    #[error(
        "this daemon speaks versions {CLIENT_PROTOCOL_VERSION_WITHOUT_DESCRIPTORS} to {CLIENT_PROTOCOL_VERSION} of the \
         protocol, the client {0}; use a matching client"
    )]
    Version(u16),
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    #[error(transparent)]
    Gone(#[from] Gone),
}

/// Serves one client until either side ends the connection. Its jobs do not end with it.
pub(super) async fn attend<J: Jobs>(shared: Rc<Shared<J>>, socket: WireEnd, caller: Caller, seat: Seat) {
    let patience = shared.limits.frame_timeout;
    let (outbound, queue) = outbound::queue(socket.clone(), shared.limits.outbound_bytes_max);
    let inbound = Inbound::new(socket, seat, patience);
    let connection = Connection { shared, caller, outbound, requests: JoinSet::new() };
    let writing = queue.write_out(patience);
    tokio::pin!(writing);
    tokio::select! {
        biased;
        written = &mut writing => {
            if let Err(error) = written {
                tracing::debug!(uid = caller.uid, pid = caller.pid, error = %Causes(&error), "client lost");
            }
        }
        () = connection.converse(inbound) => {
            // What is left is bounded by the queue, and so is the time it may take.
            let _ = timeout(patience, writing).await;
        }
    }
}

/// Returns once the daemon has been stopping for so long.
async fn stopped(stopping: &mut watch::Receiver<bool>, patience: Duration) {
    let _ = stopping.wait_for(|stop| *stop).await;
    if !patience.is_zero() {
        sleep(patience).await;
    }
}

struct Connection<J> {
    shared: Rc<Shared<J>>,
    caller: Caller,
    outbound: Outbound,
    /// Requests that wait for something. Dropping the connection drops them, never the jobs.
    requests: JoinSet<()>,
}

impl<J: Jobs> Connection<J> {
    async fn converse(mut self, mut inbound: Inbound) {
        let ended = match self.hello(&mut inbound).await {
            Ok(true) => self.requests(&mut inbound).await,
            Ok(false) => Ok(()),
            Err(ending) => Err(ending),
        };
        let Caller { uid, pid, .. } = self.caller;
        match ended {
            Ok(()) => self.answer_the_rest(&inbound).await,
            Err(Ending::Gone(_) | Ending::Inbound(InboundError::Read(_))) => {}
            Err(ending) => {
                tracing::info!(uid, pid, error = %ending, "closing a client's connection");
                self.requests.shutdown().await;
                let _ = self.outbound.send(&FromDaemon::Protocol { message: ending.to_string() }).await;
            }
        }
    }

    /// `false` when the client left without a word.
    async fn hello(&mut self, inbound: &mut Inbound) -> Result<bool, Ending> {
        let max = HELLO_FRAME_BYTES_MAX.min(self.frame_bytes_max());
        let (version, agent) = match inbound.first(max).await? {
            None => return Ok(false),
            Some((ToDaemon::Hello { version, agent }, _)) => (version, agent),
            Some(_) => return Err(Ending::NoHello),
        };
        if !(CLIENT_PROTOCOL_VERSION_WITHOUT_DESCRIPTORS..=CLIENT_PROTOCOL_VERSION).contains(&version) {
            return Err(Ending::Version(version));
        }
        if version > CLIENT_PROTOCOL_VERSION_WITHOUT_DESCRIPTORS {
            inbound.expect_fds();
            self.outbound.allow_fds();
        }
        let Caller { uid, pid, .. } = self.caller;
        tracing::debug!(uid, pid, agent = safe_text(&agent, NAME_BYTES_MAX), "client connected");
        let frame_bytes_max = self.frame_bytes_max() as u64;
        let answer = FromDaemon::Hello { version, agent: AGENT.into(), frame_bytes_max };
        self.outbound.send(&answer).await?;
        Ok(true)
    }

    /// Takes requests until the client ends its half or the daemon stops.
    async fn requests(&mut self, inbound: &mut Inbound) -> Result<(), Ending> {
        let mut stopping = self.shared.stopping.clone();
        let mut patience = FIRST_REQUEST_TIMEOUT;
        loop {
            self.make_room(inbound).await?;
            let message = tokio::select! {
                biased;
                () = stopped(&mut stopping, patience) => return Ok(()),
                message = inbound.next(self.frame_bytes_max()) => message?,
            };
            match message {
                None => return Ok(()),
                Some(received) => self.request(received).await?,
            }
            patience = Duration::ZERO;
            // A client whose requests are all there already must not keep the thread from the others.
            tokio::task::consume_budget().await;
        }
    }

    async fn request(&mut self, (message, fds): Received) -> Result<(), Ending> {
        let message = match message {
            ToDaemon::Submit { request, wait, durable, submission } => {
                return self.submit((request, wait, durable), *submission, fds).await;
            }
            message => message,
        };
        brought::none(&fds)?;
        match message {
            ToDaemon::Hello { .. } => return Err(Ending::HelloTwice),
            ToDaemon::Submit { .. } => {}
            ToDaemon::Result { request, job, wait } => self.result(request, job, wait).await?,
            ToDaemon::Logs { request, job, follow } => match self.shared.jobs.logs(&self.caller, &job) {
                None => self.send(FromDaemon::NotFound { request }).await?,
                Some(logs) => self.start(send_logs(self.outbound.clone(), request, logs, follow)),
            },
            ToDaemon::Cancel { request, job } => {
                let found = self.shared.jobs.cancel(&self.caller, &job);
                self.send(if found {
                    FromDaemon::Cancelling { request }
                } else {
                    FromDaemon::NotFound { request }
                })
                .await?;
            }
            ToDaemon::List { request } => {
                let jobs = self.shared.jobs.list(&self.caller);
                self.send(FromDaemon::Jobs { request, jobs }).await?;
            }
            ToDaemon::Statistics { request } => {
                let statistics = Box::new(self.shared.statistics(Instant::now()));
                self.send(FromDaemon::Statistics { request, statistics }).await?;
            }
        }
        Ok(())
    }

    /// Every descriptor in `fds` is closed when this returns, unless the job has it.
    async fn submit(
        &mut self,
        (request, wait, durable): (u64, bool, bool),
        submission: Submission,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Ending> {
        let brought = Brought::sort(&submission, fds)?;
        let admitted = brought
            .examine()
            .inspect_err(|refusal| self.shared.jobs.refused(&self.caller, refusal))
            .and_then(|beside| match durable {
                false => self.shared.jobs.submit(&self.caller, submission, beside),
                true => self.shared.jobs.submit_durable(&self.caller, submission, beside),
            });
        match admitted {
            Err(refusal) => Ok(self.send(FromDaemon::Refused { request, refusal }).await?),
            Ok(job) => {
                // Taken hold of at once: by the time a slow client has taken the first answer, the job may be over and
                // forgotten.
                let end = if wait { self.shared.jobs.end_of(&self.caller, &job) } else { None };
                if let Err(refusal) = self.shared.jobs.recorded(&self.caller, &job).await {
                    return Ok(self.send(FromDaemon::Refused { request, refusal }).await?);
                }
                // Accepted goes out first: answers leave in the order in which they are passed on.
                let accepted = FromDaemon::Accepted { request, job };
                if wait {
                    self.outbound.send_ahead(&accepted).await?;
                } else {
                    self.outbound.send(&accepted).await?;
                }
                match end {
                    Some(end) => self.start_waiting(request, end),
                    None if wait => self.send(FromDaemon::NotFound { request }).await?,
                    None => {}
                }
                Ok(())
            }
        }
    }

    async fn result(&mut self, request: u64, job: String, wait: bool) -> Result<(), Gone> {
        match self.shared.jobs.result(&self.caller, &job) {
            None => self.send(FromDaemon::NotFound { request }).await,
            Some(Lookup::Finished(end)) => self.outbound.finished(request, end).await,
            Some(Lookup::Running(summary)) if !wait => {
                self.send(FromDaemon::Running { request, summary }).await
            }
            Some(Lookup::Running(_)) => match self.shared.jobs.end_of(&self.caller, &job) {
                None => self.send(FromDaemon::NotFound { request }).await,
                Some(end) => {
                    self.start_waiting(request, end);
                    Ok(())
                }
            },
        }
    }

    fn start_waiting(&mut self, request: u64, end: impl Future<Output = Rc<JobEnd>> + 'static) {
        let outbound = self.outbound.clone();
        self.start(async move {
            let end = end.await;
            outbound.finished(request, end).await
        });
    }

    fn start(&mut self, request: impl Future<Output = Result<(), Gone>> + 'static) {
        // Gone means that the writer stopped, which ends the connection; there is nothing to add here.
        self.requests.spawn_local(async move {
            let _ = request.await;
        });
    }

    async fn send(&self, message: FromDaemon) -> Result<(), Gone> {
        self.outbound.send(&message).await
    }

    /// Returns once another request may wait.
    async fn make_room(&mut self, inbound: &Inbound) -> Result<(), Ending> {
        while self.requests.try_join_next().is_some() {}
        while self.requests.len() >= self.shared.limits.requests_in_flight_max {
            self.one_done(inbound).await?;
        }
        Ok(())
    }

    /// Answers what was asked, then ends the connection; at once if the client is gone altogether.
    async fn answer_the_rest(&mut self, inbound: &Inbound) {
        while !self.requests.is_empty() {
            if self.one_done(inbound).await.is_err() {
                return;
            }
        }
    }

    async fn one_done(&mut self, inbound: &Inbound) -> Result<(), Gone> {
        loop {
            tokio::select! {
                biased;
                _ = self.requests.join_next() => return Ok(()),
                () = sleep(HANGUP_INTERVAL) => if inbound.hung_up() { return Err(Gone) },
            }
        }
    }

    fn frame_bytes_max(&self) -> usize {
        usize::try_from(self.shared.limits.frame_bytes_max).unwrap_or(usize::MAX)
    }
}

impl<J: Jobs> Shared<J> {
    fn statistics(&self, now: Instant) -> stockade_wire::client::Statistics {
        let mut statistics = self.jobs.statistics();
        let sample = self.host.borrow_mut().sample(now);
        statistics.connections = self.census.connections() as u64;
        statistics.supervisor_memory_bytes = sample.own_memory_bytes;
        statistics.host = sample.host;
        statistics
    }
}

/// Sends a job's logs at the client's pace: while it does not read, the ring forgets and the gap is told.
async fn send_logs(
    outbound: Outbound,
    request: u64,
    mut logs: impl FollowLogs,
    follow: bool,
) -> Result<(), Gone> {
    while let Some(piece) = if follow { logs.next().await } else { logs.now() } {
        let LogPiece { stream, mut skipped_bytes, bytes } = piece;
        let mut rest = bytes.as_slice();
        // Once even for a piece without bytes: that some were lost is news too.
        loop {
            let (part, after) = rest.split_at(rest.len().min(LOG_CHUNK_BYTES_MAX));
            let bytes = part.to_vec().into();
            outbound.send(&FromDaemon::Log { request, stream, skipped_bytes, bytes }).await?;
            (rest, skipped_bytes) = (after, 0);
            if rest.is_empty() {
                break;
            }
        }
    }
    outbound.send(&FromDaemon::LogEnd { request }).await
}
