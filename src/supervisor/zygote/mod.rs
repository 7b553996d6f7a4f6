//! The zygote seen from the supervisor: started, warmed, asked to fork, replaced.
//!
//! Owns: the zygote's process and the order of requests to it.
//! Never: decides what to fork or when; the pool does.
//!
//! One task owns the process. It must be started from the main thread and the runtime must stay there: a
//! worker's parent-death signal is bound to the thread that exec'd the zygote (`PR_SET_PDEATHSIG`).

mod budget;
mod process;

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use stockade_wire::zygote::{ForkOperation, ForkOrder, FromZygote, WarmReport, ZygoteConfig};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use self::budget::RestartBudget;
use self::process::Process;
use super::cgroup::Leaf;
use super::child::{Child, Graveyard};
use crate::observe::Causes;

/// Time the zygote has to build its engine, which takes it milliseconds: beyond this it hangs, on
/// whatever machine.
const WARM_TIMEOUT: Duration = Duration::from_secs(20);
/// Time the zygote has to answer a fork order. A fork takes a tenth of a millisecond.
const FORK_TIMEOUT: Duration = Duration::from_secs(5);
/// Time it has for the fork it is at when the supervisor stops.
const LAST_FORK_TIMEOUT: Duration = Duration::from_secs(1);
/// The next zygote is started in the last part of this many of its forks, so that nobody waits for it.
const SOON_PART: u64 = 10;
/// Fork orders that may wait for the zygote. Whoever has another waits to give it: this many keep it busy, and nothing is
/// refused for want of room.
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
    /// The worker was forked and cannot be watched; it was killed.
    #[error("a forked worker cannot be watched")]
    Unwatched(#[source] std::io::Error),
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
    /// Seccomp filters that already lie around the supervisor, which every process of it inherits.
    pub(crate) filters_around: u32,
    /// Most starts in a window.
    pub(crate) restart_burst: u32,
    /// That window.
    pub(crate) restart_window: Duration,
}

/// The worker's ends of what connects it with us, and the leaf it is to be born in.
pub(crate) struct WorkerEnds {
    pub(crate) link: OwnedFd,
    pub(crate) output: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    pub(crate) leaf: Option<Leaf>,
}

impl WorkerEnds {
    pub(crate) fn in_order(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = vec![self.link.as_fd(), self.output.as_fd(), self.stdout.as_fd(), self.stderr.as_fd()];
        fds.extend(self.leaf.as_ref().map(Leaf::directory));
        fds
    }
}

struct Request {
    order: ForkOrder,
    ends: WorkerEnds,
    reply: oneshot::Sender<Result<Child, ZygoteError>>,
}

/// Asks the zygote, whichever it is by then. When the last of these is dropped, the zygote ends.
#[derive(Clone)]
pub(crate) struct Zygote {
    urgent: mpsc::Sender<Request>,
    ahead: mpsc::Sender<Request>,
    closing: watch::Sender<bool>,
    report: Rc<WarmReport>,
    filters_around: u32,
    state: Rc<State>,
}

/// What the keeper lets others see.
#[derive(Default)]
struct State {
    starts: Cell<u64>,
    text_bytes: Cell<u64>,
    waits_until: Cell<Option<Instant>>,
    /// Forks of all templates since the last zygote was started. Those that are older than it have the layout of the zygote
    /// they came from until their own successors are made.
    branched: Cell<u64>,
    /// There were more of those.
    branching: Notify,
}

impl Zygote {
    /// Starts a zygote and waits until it is warm.
    ///
    /// # Errors
    /// When it cannot be started or warmed; it is in the graveyard then, if anywhere.
    pub(crate) async fn start(settings: Settings, graveyard: &Rc<Graveyard>) -> Result<Self, ZygoteError> {
        let (process, report) = Process::start(&settings, graveyard).await?;
        let (urgent, urgent_requests) = mpsc::channel(REQUESTS_MAX);
        let (ahead, ahead_requests) = mpsc::channel(REQUESTS_MAX);
        let (closing, closed) = watch::channel(false);
        let (report, state) = (Rc::new(report), Rc::new(State::default()));
        state.starts.set(1);
        state.text_bytes.set(report.text_bytes);
        let filters_around = settings.filters_around;
        let keeper = Keeper {
            budget: RestartBudget::new(settings.restart_burst, settings.restart_window),
            settings,
            report: Rc::clone(&report),
            state: Rc::clone(&state),
            urgent: urgent_requests,
            ahead: ahead_requests,
            graveyard: Rc::clone(graveyard),
            closing: closed,
        };
        tokio::task::spawn_local(keeper.keep(process));
        Ok(Self { urgent, ahead, closing, report, filters_around, state })
    }

    /// Forks one worker. Waits its turn, which for one that is made `ahead` of need comes after all others. A future
    /// that is dropped leaves nothing behind, whether the worker is forked by then or not.
    ///
    /// # Errors
    /// When the zygote refuses, is gone, hangs or may not be started again yet.
    pub(crate) async fn fork(
        &self,
        order: ForkOrder,
        ends: WorkerEnds,
        ahead: bool,
    ) -> Result<Child, ZygoteError> {
        let (reply, answer) = oneshot::channel();
        let request = Request { order, ends, reply };
        let requests = if ahead { &self.ahead } else { &self.urgent };
        requests.send(request).await.map_err(|_| ZygoteError::Stopping)?;
        answer.await.map_err(|_| ZygoteError::Stopping)?
    }

    /// What the first zygote found; every later one found the same.
    pub(crate) fn report(&self) -> &WarmReport {
        &self.report
    }

    /// Seccomp filters that a worker has from outside, before any of its zygote's or its own.
    pub(crate) fn filters_around(&self) -> u32 {
        self.filters_around
    }

    /// Times a zygote was started.
    pub(crate) fn starts(&self) -> u64 {
        self.state.starts.get()
    }

    /// Bytes of the program itself that whatever the last zygote forks has resident from its birth, see
    /// [`WarmReport::text_bytes`].
    pub(crate) fn text_bytes(&self) -> u64 {
        self.state.text_bytes.get()
    }

    /// Notes that templates have forked so many workers: they count towards what a zygote forks before it is replaced.
    pub(crate) fn note_branched(&self, forks: u64) {
        self.state.branched.set(self.state.branched.get().saturating_add(forks));
        self.state.branching.notify_one();
    }

    /// When the next zygote is started, if that has to wait.
    pub(crate) fn waits_until(&self) -> Option<Instant> {
        self.state.waits_until.get()
    }

    /// Becomes true when the zygote is to end, and with it everything that could want a worker.
    pub(crate) fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Ends the zygote, and returns when it is in the graveyard and everything that watches
    /// [`Zygote::closing`] has ended as well.
    pub(crate) async fn close(&self) {
        self.closing.send_replace(true);
        self.closing.closed().await;
    }
}

/// Returns when `closing` says so, or there is nobody left who could.
pub(crate) async fn closed(closing: &mut watch::Receiver<bool>) {
    let _ = closing.wait_for(|closing| *closing).await;
}

/// The task that owns the process.
struct Keeper {
    settings: Settings,
    budget: RestartBudget,
    report: Rc<WarmReport>,
    state: Rc<State>,
    urgent: mpsc::Receiver<Request>,
    ahead: mpsc::Receiver<Request>,
    graveyard: Rc<Graveyard>,
    closing: watch::Receiver<bool>,
}

/// Why one zygote's time was over.
enum Over {
    /// The supervisor wants no more workers.
    Stopping,
    /// It served its number of forks, and this is the next.
    Retired(Result<Box<(Process, WarmReport)>, ZygoteError>),
    /// It died, hung or misbehaved.
    Failed,
}

impl Keeper {
    async fn keep(mut self, first: Process) {
        let mut process = first;
        loop {
            let group = process.pid();
            match self.serve(process).await {
                Over::Stopping => return,
                Over::Retired(next) => {
                    tracing::debug!("zygote retired; a fresh one has a new address layout");
                    if let Some(next) = self.admitted(next.map(|next| *next)) {
                        process = next;
                        continue;
                    }
                }
                Over::Failed => {
                    tracing::warn!("zygote lost; starting another");
                    self.graveyard.suspect(group);
                }
            }
            self.budget.failed(Instant::now());
            let Some(next) = self.start_again().await else { return };
            process = next;
        }
    }

    /// Serves requests with one zygote until it is over, the next being started meanwhile. It is killed then, if it lives,
    /// and buried.
    async fn serve(&mut self, process: Process) -> Over {
        let most = self.settings.forks_max;
        let mut soon = most.saturating_sub(most / SOON_PART);
        let mut served = 0_u64;
        self.state.branched.set(0);
        // Ended when this returns.
        let mut starting = JoinSet::new();
        loop {
            let forks = served.saturating_add(self.state.branched.get());
            if forks >= soon && starting.is_empty() {
                self.state.starts.set(self.state.starts.get() + 1);
                let (settings, graveyard) = (self.settings.clone(), Rc::clone(&self.graveyard));
                starting
                    .spawn_local(async move { Process::start(&settings, &graveyard).await.map(Box::new) });
            }
            let request = tokio::select! {
                biased;
                () = closed(&mut self.closing) => return Over::Stopping,
                () = process.exited() => return Over::Failed,
                Some(started) = starting.join_next() => {
                    // A task that panicked took the program with it; none is aborted before this returns.
                    match started.unwrap_or(Err(ZygoteError::Stopping)) {
                        Err(error) if forks < most => {
                            tracing::error!(error = %Causes(&error), "no other zygote yet; this one goes on");
                            self.budget.failed(Instant::now());
                            soon = forks.saturating_add((most - forks).div_ceil(2));
                            continue;
                        }
                        started => return Over::Retired(started),
                    }
                }
                () = self.state.branching.notified() => continue,
                request = next(&mut self.urgent, &mut self.ahead), if forks < most => request,
            };
            let Some(Request { order, ends, reply }) = request else { return Over::Stopping };
            served += 1;
            if reply.is_closed() {
                continue;
            }
            let outcome = self.fork(&process, &order, ends).await;
            let broken = matches!(outcome, Err(ZygoteError::Broken(_) | ZygoteError::Hung(_)));
            if let Err(error) = &outcome {
                tracing::warn!(error = %Causes(error), "fork failed");
            }
            // Who asked may have given up by now: then the child is dropped here, which ends and buries it.
            let _ = reply.send(outcome);
            if broken {
                return Over::Failed;
            }
        }
    }

    async fn fork(
        &mut self,
        process: &Process,
        order: &ForkOrder,
        ends: WorkerEnds,
    ) -> Result<Child, ZygoteError> {
        let fds = ends.in_order();
        let (pid, pidfd) = tokio::select! {
            biased;
            // Also when closing: an answer that nobody took would be a child that nobody reaps.
            forked = process.fork(order, &fds) => forked?,
            () = patience(&mut self.closing) => return Err(ZygoteError::Hung(LAST_FORK_TIMEOUT)),
        };
        drop(fds);
        Child::new(pid, pidfd, ends.leaf, &self.graveyard).map_err(ZygoteError::Unwatched)
    }

    /// Starts the next zygote. Requests wait for it, unless the budget makes it wait itself: then they are refused.
    /// `None` when the supervisor wants no more workers.
    async fn start_again(&mut self) -> Option<Process> {
        loop {
            let now = Instant::now();
            let at = self.budget.next_start(now);
            if at > now {
                self.refuse_until(at).await?;
            }
            self.state.starts.set(self.state.starts.get() + 1);
            let started = tokio::select! {
                biased;
                () = closed(&mut self.closing) => return None,
                started = Process::start(&self.settings, &self.graveyard) => started,
            };
            if let Some(process) = self.admitted(started) {
                return Some(process);
            }
            self.budget.failed(Instant::now());
        }
    }

    /// A zygote that was started, if it is of use.
    fn admitted(&self, started: Result<(Process, WarmReport), ZygoteError>) -> Option<Process> {
        match started {
            Ok((process, report)) if self.is_like_the_first(&report) => {
                self.state.text_bytes.set(report.text_bytes);
                return Some(process);
            }
            Ok(_) => tracing::error!(
                "the new zygote has another engine or other walls than the first; was the executable replaced \
                 or the kernel's configuration changed? restart the daemon"
            ),
            Err(error) => tracing::error!(error = %Causes(&error), "zygote does not start"),
        }
        None
    }

    /// What was admitted and cached relies on what the first one found.
    fn is_like_the_first(&self, report: &WarmReport) -> bool {
        let first = &self.report;
        report.engine_fingerprint == first.engine_fingerprint
            && report.namespaces == first.namespaces
            && report.landlock_abi == first.landlock_abi
            && report.filtered == first.filtered
    }

    /// Refuses requests for a while; `None` when the supervisor wants no more workers.
    async fn refuse_until(&mut self, at: Instant) -> Option<()> {
        self.state.waits_until.set(Some(at));
        loop {
            tokio::select! {
                biased;
                () = closed(&mut self.closing) => return None,
                () = tokio::time::sleep_until(at.into()) => return Some(()),
                request = next(&mut self.urgent, &mut self.ahead) => {
                    let retry_after = at.saturating_duration_since(Instant::now());
                    let _ = request?.reply.send(Err(ZygoteError::CircuitOpen { retry_after }));
                }
            }
        }
    }
}

/// The next request: one that somebody waits for, if there is any. `None` when nobody is left who could ask.
async fn next<T>(urgent: &mut mpsc::Receiver<T>, ahead: &mut mpsc::Receiver<T>) -> Option<T> {
    tokio::select! {
        biased;
        Some(request) = urgent.recv() => Some(request),
        Some(request) = ahead.recv() => Some(request),
        else => None,
    }
}

/// Returns when a fork may not take any longer because the supervisor is stopping.
async fn patience(closing: &mut watch::Receiver<bool>) {
    closed(closing).await;
    tokio::time::sleep(LAST_FORK_TIMEOUT).await;
}

/// What the zygote may say in answer to a fork order.
fn forked(answer: FromZygote, mut fds: Vec<OwnedFd>) -> Result<(u32, OwnedFd), ZygoteError> {
    match answer {
        FromZygote::Forked { pid } => match fds.pop() {
            Some(pidfd) if fds.is_empty() => Ok((pid, pidfd)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn request_that_somebody_waits_for_comes_before_all_that_are_ahead_of_need() {
        let (urgent, mut waited_for) = mpsc::channel(8);
        let (ahead, mut background) = mpsc::channel(8);
        for number in 0..3 {
            ahead.send(("ahead", number)).await.unwrap();
        }
        let mut order = vec![next(&mut waited_for, &mut background).await.unwrap()];
        for number in 0..2 {
            urgent.send(("urgent", number)).await.unwrap();
        }
        drop((urgent, ahead));
        while let Some(one) = next(&mut waited_for, &mut background).await {
            order.push(one);
        }
        assert_eq!(order, [("ahead", 0), ("urgent", 0), ("urgent", 1), ("ahead", 1), ("ahead", 2)]);
    }
}
