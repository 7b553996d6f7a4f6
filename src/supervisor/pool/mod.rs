//! Workers: forked ahead of need, taken once, never given back.
//!
//! Owns: the idle workers, how many there are, and what happens when they cannot be had.
//! Never: runs a job, reuses a worker.

mod circuit;
mod compile;

pub(crate) use self::compile::is_text;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use stockade_wire::job::{DirectoryGrant, Layer, MissingLayer, Walls};
use stockade_wire::worker::Role;
use stockade_wire::zygote::{Identity, ProcessLimits};
use tokio::sync::{Semaphore, oneshot};

use self::circuit::Circuit;
use super::cgroup::{Controller, LeafLimits, Tree};
use super::job::Caller;
use super::worker::{Birth, Graveyard, Worker, WorkerError, layers_held};
use super::zygote::{Zygote, ZygoteError};
use crate::config::Config;

/// Why no worker could be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PoolError {
    /// Workers or zygotes failed too often.
    #[error("workers failed too often; none is started for {retry_after:?}")]
    CircuitOpen {
        /// Time until the next try.
        retry_after: Duration,
    },
    /// This one could not be made.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

/// What a job needs of its worker.
#[derive(Debug, Clone)]
pub(crate) struct Need<'a> {
    pub(crate) directories: &'a [DirectoryGrant],
    pub(crate) caller: Caller,
    pub(crate) memory_bytes: u64,
}

/// The pool.
pub(crate) struct Pool {
    config: Rc<Config>,
    zygote: Zygote,
    tree: Option<RefCell<Tree>>,
    controllers: Vec<Controller>,
    /// Why there are no leaves, when there are none.
    no_leaves: Option<MissingLayer>,
    identity: Option<Identity>,
    graveyard: Rc<Graveyard>,
    idle: RefCell<VecDeque<Worker>>,
    /// Idle workers being made.
    coming: Cell<usize>,
    compilers: Semaphore,
    circuit: RefCell<Circuit>,
    /// When the next zygote is started, if that has to wait.
    zygote_waits_until: Cell<Option<Instant>>,
    forks: Cell<u64>,
    closed: Cell<bool>,
}

impl Pool {
    pub(crate) fn new(
        config: Rc<Config>,
        zygote: Zygote,
        tree: Option<Tree>,
        no_leaves: Option<MissingLayer>,
    ) -> Self {
        let run_as = config.jail.run_as;
        let identity =
            nix::unistd::geteuid().is_root().then_some(Identity { uid: run_as.uid, gid: run_as.gid });
        let circuit = Circuit::new(config.pool.worker_failures_max, config.pool.restart_window);
        Self {
            zygote,
            controllers: tree.as_ref().map(|tree| tree.controllers().to_vec()).unwrap_or_default(),
            tree: tree.map(RefCell::new),
            no_leaves,
            identity,
            graveyard: Rc::default(),
            idle: RefCell::default(),
            coming: Cell::new(0),
            compilers: Semaphore::new(config.pool.compilers_max),
            circuit: RefCell::new(circuit),
            zygote_waits_until: Cell::new(None),
            forks: Cell::new(0),
            closed: Cell::new(false),
            config,
        }
    }

    /// Workers forked since start.
    pub(crate) fn forks(&self) -> u64 {
        self.forks.get()
    }

    /// Idle run workers.
    pub(crate) fn warm(&self) -> usize {
        self.idle.borrow().len()
    }

    /// Times a zygote was started.
    pub(crate) fn zygote_starts(&self) -> u64 {
        self.zygote.starts()
    }

    /// Time until the circuit closes, when it is open.
    pub(crate) fn unavailable(&self, now: Instant) -> Option<Duration> {
        let zygote = self.zygote_waits_until.get().and_then(|until| until.checked_duration_since(now));
        self.circuit.borrow().open_for(now).max(zygote.filter(|left| !left.is_zero()))
    }

    /// A locked worker for a job: an idle one, or one forked for it when the job has directories, since a jail
    /// cannot be widened once it is entered. Idle ones are replaced in the background.
    ///
    /// # Errors
    /// When none can be made.
    pub(crate) async fn take(self: &Rc<Self>, need: &Need<'_>) -> Result<Worker, PoolError> {
        if need.directories.is_empty() {
            if let Some(worker) = self.take_idle() {
                self.refill();
                self.fit(&worker, need.memory_bytes);
                return Ok(worker);
            }
            let worker = self.make(self.birth(Role::Run, need)).await?;
            self.refill();
            return Ok(worker);
        }
        self.make(self.birth(Role::RunFiles, need)).await
    }

    /// A locked worker for any job that has no directories, made now and not replaced once it is taken.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) async fn make_idle(self: &Rc<Self>) -> Result<Worker, PoolError> {
        self.make(self.birth(Role::Run, &self.any_job())).await
    }

    fn any_job(&self) -> Need<'static> {
        Need { directories: &[], caller: Caller::NOBODY, memory_bytes: self.config.ceilings.memory_bytes }
    }

    fn take_idle(&self) -> Option<Worker> {
        let mut idle = self.idle.borrow_mut();
        // One that died while idle is dropped here, which reaps it.
        std::iter::from_fn(|| idle.pop_front()).find(|worker| !worker.is_gone())
    }

    /// Puts a worker that has had no order back among the idle ones.
    pub(crate) fn keep(&self, worker: Worker) {
        self.idle.borrow_mut().push_back(worker);
    }

    /// The layers this worker has.
    pub(crate) fn layers_held(&self, worker: &Worker) -> Vec<Layer> {
        layers_held(&worker.report, self.controllers_of(worker))
    }

    /// Makes as many idle workers as are missing, in the background.
    pub(crate) fn refill(self: &Rc<Self>) {
        let wanted = self.config.pool.warm;
        while !self.closed.get() && self.warm() + self.coming.get() < wanted {
            if self.unavailable(Instant::now()).is_some() {
                return;
            }
            self.coming.set(self.coming.get() + 1);
            let pool = Rc::clone(self);
            tokio::task::spawn_local(async move {
                let made = pool.make_idle().await;
                pool.coming.set(pool.coming.get() - 1);
                match made {
                    Ok(worker) if !pool.closed.get() => pool.idle.borrow_mut().push_back(worker),
                    Ok(_) => {}
                    Err(error) => tracing::warn!(%error, "no idle worker"),
                }
            });
        }
    }

    /// Drops idle workers that died, reaps what is left to be reaped, and refills. Called regularly.
    pub(crate) fn housekeep(self: &Rc<Self>) {
        self.idle.borrow_mut().retain(|worker| !worker.is_gone());
        self.graveyard.sweep();
        self.refill();
    }

    /// Ends the zygote and every idle worker, and returns when they and the last worker nobody waited for are reaped,
    /// or `within` is over.
    pub(crate) async fn close(&self, within: Duration) {
        self.closed.set(true);
        self.idle.borrow_mut().clear();
        let by = Instant::now() + within;
        if tokio::time::timeout(within, self.zygote.end()).await.is_err() {
            tracing::warn!("the zygote does not end; it goes with this process");
        }
        while self.graveyard.waiting() > 0 && Instant::now() < by {
            self.graveyard.sweep();
            // The kernel needs a moment for each; there is no event that covers them all.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Makes a worker in a task of its own: whoever asked may stop waiting at any point, and what was forked by then
    /// still has somebody to reap it.
    async fn make(self: &Rc<Self>, birth: Birth) -> Result<Worker, PoolError> {
        if let Some(retry_after) = self.unavailable(Instant::now()) {
            return Err(PoolError::CircuitOpen { retry_after });
        }
        self.forks.set(self.forks.get() + 1);
        let (asker, answer) = oneshot::channel();
        let pool = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let born = Worker::born(&birth, &pool.zygote, pool.tree.as_ref(), &pool.graveyard).await;
            pool.note(&birth, &born);
            // Unwanted by now, it is dropped here, and goes to the graveyard.
            let _ = asker.send(born);
        });
        let born =
            answer.await.unwrap_or_else(|_| Err(WorkerError::BrokeOff("it was not waited for".to_owned())));
        Ok(born?)
    }

    /// Counts failures. A directory that cannot be granted is its submitter's, and must not stop everybody else; a
    /// zygote that waits has been counted where it failed.
    fn note(&self, birth: &Birth, born: &Result<Worker, WorkerError>) {
        match born {
            Err(WorkerError::Zygote(ZygoteError::CircuitOpen { retry_after })) => {
                self.zygote_waits_until.set(Some(Instant::now() + *retry_after));
            }
            Err(_) if birth.directories.is_empty() => self.circuit.borrow_mut().failed(Instant::now()),
            Ok(_) | Err(_) => {}
        }
    }

    fn birth(&self, role: Role, need: &Need<'_>) -> Birth {
        let config = &self.config;
        let memory_bytes = need.memory_bytes.saturating_add(config.cgroup.memory_headroom_bytes);
        Birth {
            role,
            identity: self.identity_for(need),
            directories: need.directories.to_vec(),
            rlimits: ProcessLimits {
                open_files: config.jail.open_files,
                file_bytes: config.jail.file_bytes,
                data_bytes: need.memory_bytes.saturating_add(config.jail.data_headroom_bytes),
            },
            leaf: LeafLimits {
                memory_bytes,
                pids_max: config.cgroup.pids_max,
                cpu_weight: config.cgroup.cpu_weight,
            },
            lock_timeout: config.pool.lock_timeout,
        }
    }

    /// Granted directories are entered as whoever granted them: a job reaches nothing its submitter could not.
    fn identity_for(&self, need: &Need<'_>) -> Option<Identity> {
        let own = self.identity?;
        if need.directories.is_empty() {
            return Some(own);
        }
        Some(Identity { uid: need.caller.uid, gid: need.caller.gid })
    }

    /// Narrows an idle worker, made for any job, to this one.
    fn fit(&self, worker: &Worker, memory_bytes: u64) {
        let limit = memory_bytes.saturating_add(self.config.cgroup.memory_headroom_bytes);
        if let Some(Err(error)) = worker.leaf().map(|leaf| leaf.set_memory_max(limit)) {
            tracing::warn!(%error, pid = worker.pid(), "leaf keeps the memory limit of the largest job");
        }
    }

    fn controllers_of(&self, worker: &Worker) -> &[Controller] {
        if worker.leaf().is_some() { &self.controllers } else { &[] }
    }

    /// The walls a worker with this report stands behind.
    pub(crate) fn walls(&self, worker: &Worker) -> Walls {
        let report = &worker.report;
        let mut missing = report.missing.clone();
        missing.extend(self.no_leaves.clone());
        let controllers = self.controllers_of(worker).iter().map(|one| one.name().to_owned());
        Walls {
            seccomp: (report.seccomp_mode == 2).then(|| "kill".to_owned()),
            landlock_abi: (report.landlock_abi > 0).then_some(report.landlock_abi),
            cgroup: controllers.collect(),
            namespaces: report.namespaces.clone(),
            no_new_privs: report.no_new_privs,
            capabilities_dropped: report.capabilities_empty,
            rlimits: report.rlimits.iter().map(|(name, _)| name.clone()).collect(),
            mdwe: false,
            uid: Some(report.uid),
            fresh_process: true,
            missing,
        }
    }
}
