//! The zygote seen from the supervisor: started, warmed, asked to fork, replaced.
//!
//! Owns: the zygote's process and the order of requests to it.
//! Never: decides what to fork or when; the pool does.
//!
//! One task owns the process. It must be started from the main thread and the runtime must stay there: a
//! worker's parent-death signal is bound to the thread that exec'd the zygote (`PR_SET_PDEATHSIG`).

mod budget;
mod process;

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use stockade_wire::zygote::{ForkOperation, ForkOrder, FromZygote, WarmReport, ZygoteConfig};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

use budget::RestartBudget;
use process::Process;

/// Time the zygote has to build its engine.
const WARM_TIMEOUT: Duration = Duration::from_secs(20);
/// Time the zygote has to answer a fork order. A fork takes a tenth of a millisecond.
const FORK_TIMEOUT: Duration = Duration::from_secs(5);
/// Fork orders that may wait for the zygote.
const REQUESTS_MAX: usize = 64;

/// Why there is no new worker.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ZygoteError {
    /// The executable could not be started.
    #[error("cannot start the zygote from {path}")]
    Start {
        /// The executable.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its socket failed, or it said what it may not say.
    #[error("the zygote broke off: {0}")]
    Broken(String),
    /// It did not answer in time and was killed.
    #[error("the zygote did not answer within {0:?}")]
    Hung(Duration),
    /// It could not warm up.
    #[error("the zygote cannot warm up: {0}")]
    NotWarm(String),
    /// It refused this fork.
    #[error("the zygote could not fork ({operation:?}): {source}")]
    NotForked {
        /// What failed.
        operation: ForkOperation,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It was started too often; wait.
    #[error("the zygote failed too often; it is started again in {retry_after:?}")]
    CircuitOpen {
        /// Time until then.
        retry_after: Duration,
    },
    /// The supervisor is stopping.
    #[error("the supervisor is stopping")]
    Stopping,
}

/// How to start zygotes.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The executable; `/proc/self/exe` but in tests of hostile workers.
    pub(crate) executable: PathBuf,
    /// What it is told.
    pub(crate) config: ZygoteConfig,
    /// Forks after which it is replaced.
    pub(crate) forks_max: u64,
    /// Most starts in a window.
    pub(crate) restart_burst: u32,
    /// That window.
    pub(crate) restart_window: Duration,
}

/// A worker as it comes from the fork.
#[derive(Debug)]
pub(crate) struct Forked {
    /// Its process id.
    pub(crate) pid: u32,
    /// Its descriptor; readable when it has exited.
    pub(crate) pidfd: OwnedFd,
}

/// The descriptors of a new worker.
#[derive(Debug)]
pub(crate) struct WorkerFds {
    pub(crate) link: OwnedFd,
    pub(crate) output: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    /// Directory of the leaf to be born in.
    pub(crate) leaf: Option<OwnedFd>,
}

impl WorkerFds {
    fn in_order(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = vec![self.link.as_fd(), self.output.as_fd(), self.stdout.as_fd(), self.stderr.as_fd()];
        fds.extend(self.leaf.as_ref().map(AsFd::as_fd));
        fds
    }
}

struct Request {
    order: ForkOrder,
    fds: WorkerFds,
    reply: oneshot::Sender<Result<Forked, ZygoteError>>,
}

/// Asks the zygote, whichever it is by then.
#[derive(Debug)]
pub(crate) struct Zygote {
    requests: mpsc::Sender<Request>,
    starts: Rc<Cell<u64>>,
    stop: Rc<Notify>,
    keeper: RefCell<Option<JoinHandle<()>>>,
}

impl Zygote {
    /// Starts a zygote and waits until it is warm.
    ///
    /// # Errors
    /// When it cannot be started or warmed; nothing is left running then.
    pub(crate) async fn start(settings: Settings) -> Result<(Self, WarmReport), ZygoteError> {
        let budget = RestartBudget::new(settings.restart_burst, settings.restart_window);
        let (process, report) = Process::start(&settings).await?;
        let (sender, receiver) = mpsc::channel(REQUESTS_MAX);
        let starts = Rc::new(Cell::new(1));
        let stop = Rc::new(Notify::new());
        let fingerprint = report.engine_fingerprint.clone();
        let keeper = Keeper {
            settings,
            budget,
            fingerprint,
            starts: Rc::clone(&starts),
            stop: Rc::clone(&stop),
            requests: receiver,
        };
        let keeper = RefCell::new(Some(tokio::task::spawn_local(keeper.keep(process))));
        Ok((Self { requests: sender, starts, stop, keeper }, report))
    }

    /// Ends it and returns when it is reaped. Nothing can be forked afterwards.
    pub(crate) async fn end(&self) {
        self.stop.notify_one();
        let keeper = self.keeper.take();
        let Some(keeper) = keeper else { return };
        if let Err(error) = keeper.await {
            tracing::error!(%error, "keeping the zygote failed");
        }
    }

    /// Forks one worker. Waits its turn.
    ///
    /// # Errors
    /// When the zygote refuses, is gone, hangs or may not be started again yet.
    pub(crate) async fn fork(&self, order: ForkOrder, fds: WorkerFds) -> Result<Forked, ZygoteError> {
        let (reply, answer) = oneshot::channel();
        let request = Request { order, fds, reply };
        self.requests.send(request).await.map_err(|_| ZygoteError::Stopping)?;
        answer.await.map_err(|_| ZygoteError::Broken("it died while it was asked to fork".to_owned()))?
    }

    /// Times a zygote was started.
    pub(crate) fn starts(&self) -> u64 {
        self.starts.get()
    }
}

/// The task that owns the process.
struct Keeper {
    settings: Settings,
    budget: RestartBudget,
    fingerprint: String,
    starts: Rc<Cell<u64>>,
    stop: Rc<Notify>,
    requests: mpsc::Receiver<Request>,
}

/// Why one zygote's time was over.
enum Over {
    /// The supervisor wants no more workers.
    Stopping,
    /// It served its number of forks.
    Retired,
    /// It died, hung or misbehaved.
    Failed,
}

impl Keeper {
    async fn keep(mut self, first: Process) {
        let mut process = first;
        loop {
            match self.serve(process).await {
                Over::Stopping => return,
                Over::Retired => tracing::debug!("zygote retired; a fresh one gets a new address layout"),
                Over::Failed => {
                    tracing::warn!("zygote lost; starting another");
                    self.budget.failed(Instant::now());
                }
            }
            let Some(next) = self.start_again().await else { return };
            process = next;
        }
    }

    /// Serves requests with one zygote until it is over, and reaps it.
    async fn serve(&mut self, mut process: Process) -> Over {
        let mut forks = 0;
        let over = loop {
            if forks >= self.settings.forks_max {
                break Over::Retired;
            }
            let request = tokio::select! {
                biased;
                () = process.exited() => break Over::Failed,
                () = self.stop.notified() => break Over::Stopping,
                request = self.requests.recv() => request,
            };
            let Some(Request { order, fds, reply }) = request else { break Over::Stopping };
            forks += 1;
            let outcome = process.fork(&order, &fds.in_order()).await;
            let broken = matches!(
                outcome,
                Err(ZygoteError::Broken(_) | ZygoteError::Hung(_) | ZygoteError::NotWarm(_))
            );
            if let Err(error) = &outcome {
                tracing::warn!(%error, "fork failed");
            }
            // Who asked may have given up; a worker nobody wants dies with its link.
            let _ = reply.send(outcome);
            if broken {
                break Over::Failed;
            }
        };
        process.end().await;
        over
    }

    /// Starts the next zygote. Requests wait for it, unless the budget makes it wait itself: then they are refused.
    async fn start_again(&mut self) -> Option<Process> {
        loop {
            let now = Instant::now();
            let at = self.budget.next_start(now);
            if at > now {
                self.refuse_until(at).await?;
            }
            self.starts.set(self.starts.get() + 1);
            match Process::start(&self.settings).await {
                Ok((process, report)) if report.engine_fingerprint == self.fingerprint => {
                    return Some(process);
                }
                Ok((process, _)) => {
                    tracing::error!("the new zygote has another engine; was the executable replaced?");
                    process.end().await;
                }
                Err(error) => tracing::error!(%error, "zygote does not start"),
            }
            self.budget.failed(Instant::now());
        }
    }

    /// Refuses requests for a while; `None` when the supervisor wants no more workers.
    async fn refuse_until(&mut self, at: Instant) -> Option<()> {
        loop {
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(at.into()) => return Some(()),
                request = self.requests.recv() => {
                    let retry_after = at.saturating_duration_since(Instant::now());
                    let _ = request?.reply.send(Err(ZygoteError::CircuitOpen { retry_after }));
                }
            }
        }
    }
}

/// What the zygote may say in answer to a fork order.
fn forked(answer: FromZygote, mut fds: Vec<OwnedFd>) -> Result<Forked, ZygoteError> {
    match answer {
        FromZygote::Forked { pid } => match fds.pop() {
            Some(pidfd) if fds.is_empty() => Ok(Forked { pid, pidfd }),
            _ => Err(ZygoteError::Broken("it forked and sent no pidfd".to_owned())),
        },
        FromZygote::NotForked { operation, errno } => {
            Err(ZygoteError::NotForked { operation, source: std::io::Error::from_raw_os_error(errno) })
        }
        FromZygote::Warm(_) | FromZygote::Failed(_) => {
            Err(ZygoteError::Broken("it answered a fork order with something else".to_owned()))
        }
    }
}
