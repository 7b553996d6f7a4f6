//! Workers: forked ahead of need, taken once, and never given back but by jobs that may share one.
//!
//! Owns: which kind of worker a job gets, and what happens when none can be had.
//! Never: runs a job.

mod circuit;
mod compile;
mod demand;
mod descriptors;
mod exchange;
mod growth;
mod heat;
mod memory;
mod ready;
mod scripts;
mod share;
mod stand;
mod template;
mod templates;
mod tenancy;
mod tenants;
mod trial;
mod waiting;

pub use self::descriptors::needed as descriptors_needed;
pub(crate) use self::scripts::Told;
pub(crate) use self::template::TemplateError;
pub(crate) use self::templates::{HoldError, Holder};
pub(crate) use self::tenants::{Lent, Stay};

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use stockade_wire::job::{DirectoryGrant, Layer, MissingLayer, Walls};
use stockade_wire::worker::Role;
use stockade_wire::zygote::{Identity, ProcessLimits};

use self::circuit::Circuit;
use self::ready::Ready;
use self::templates::Templates;
use self::tenants::Tenants;
use super::artifact::{Artifact, Key};
use super::cgroup::{Controller, LeafLimits, Tree};
use super::child::Graveyard;
use super::job::Caller;
use super::pressure::Pressure;
use super::worker::{Birth, Worker, WorkerError, layers_held};
use super::zygote::Zygote;
use crate::config::Config;
use crate::observe::Causes;

/// Workers tried for one need when zygotes or workers die on the way.
const MAKE_TRIES: u32 = 3;

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
    /// The module it runs, when it runs one.
    pub(crate) module: Option<(Key, &'a Rc<Artifact>)>,
    /// That is the JavaScript engine, for a script.
    pub(crate) engine: bool,
    /// Whose it is, when it may share a process with others of theirs.
    pub(crate) tenant: Option<&'a str>,
}

/// The pool.
pub(crate) struct Pool {
    config: Rc<Config>,
    zygote: Zygote,
    tree: Option<RefCell<Tree>>,
    controllers: Vec<Controller>,
    /// Callers have groups of their own in the tree. A worker is born in its caller's, so that none can be made before
    /// the caller is known, but by a template, which is one caller's.
    by_caller: bool,
    /// Why there are no leaves, when there are none.
    no_leaves: Option<MissingLayer>,
    identity: Option<Identity>,
    graveyard: Rc<Graveyard>,
    ready: Ready,
    circuit: RefCell<Circuit>,
    /// What the first worker had, and every later one must have.
    layers: RefCell<Vec<Layer>>,
    forks: Cell<u64>,
    last_worker: Cell<Option<Instant>>,
    starts: Starts,
    templates: Templates,
    pressure: Rc<Pressure>,
    tenants: Tenants,
    closed: Cell<bool>,
}

/// How many jobs got which kind of worker.
#[derive(Debug, Default)]
pub(crate) struct Starts {
    /// A tenant worker that had run jobs before.
    pub(crate) reused: Cell<u64>,
    /// One that had the job's module.
    pub(crate) prepared: Cell<u64>,
    /// One that was forked and locked ahead of need.
    pub(crate) warm: Cell<u64>,
    /// One that was forked for the job.
    pub(crate) cold: Cell<u64>,
}

fn count(one: &Cell<u64>) {
    one.set(one.get() + 1);
}

impl Pool {
    pub(crate) fn new(
        config: Rc<Config>,
        zygote: Zygote,
        graveyard: Rc<Graveyard>,
        tree: Option<Tree>,
        no_leaves: Option<MissingLayer>,
    ) -> Self {
        let run_as = config.jail.run_as;
        let identity = has_other_ids().then_some(Identity { uid: run_as.uid, gid: run_as.gid });
        let circuit = Circuit::new(config.pool.worker_failures_max, config.pool.restart_window);
        Self {
            zygote,
            controllers: tree.as_ref().map(|tree| tree.controllers().to_vec()).unwrap_or_default(),
            by_caller: tree.as_ref().is_some_and(Tree::has_callers),
            no_leaves,
            identity,
            graveyard,
            ready: Ready::new(&config.pool, Instant::now()),
            circuit: RefCell::new(circuit),
            layers: RefCell::default(),
            forks: Cell::new(0),
            last_worker: Cell::new(None),
            starts: Starts::default(),
            templates: Templates::new(&config.pool),
            pressure: Pressure::of(&config.pressure, tree.as_ref().map(Tree::directory)),
            tree: tree.map(RefCell::new),
            tenants: Tenants::new(),
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
        self.ready.len()
    }

    /// How many jobs got which kind of worker.
    pub(crate) fn starts(&self) -> &Starts {
        &self.starts
    }

    /// Modules held ready, and workers that have one.
    pub(crate) fn templates(&self) -> (usize, usize) {
        self.templates.count()
    }

    /// What is known of how scarce memory is.
    pub(crate) fn pressure(&self) -> &Pressure {
        &self.pressure
    }

    /// Watches how scarce memory is, for as long as there are workers. To be called once.
    pub(crate) fn watch_pressure(self: &Rc<Self>) {
        let (pressure, closing, pool) =
            (Rc::clone(&self.pressure), self.zygote.closing(), Rc::downgrade(self));
        let tell = move |pressed| {
            if let Some(pool) = pool.upgrade() {
                pool.press(pressed);
            }
        };
        tokio::task::spawn_local(pressure.watch(self.config.pressure.clone(), closing, tell));
    }

    /// Tenant workers.
    pub(crate) fn tenant_workers(&self) -> usize {
        self.tenants.count()
    }

    /// A worker was not as it should be: of each kind that is not looked at one by one, the next is.
    pub(crate) fn doubt(&self) {
        self.templates.doubt();
    }

    /// Times a zygote was started.
    pub(crate) fn zygote_starts(&self) -> u64 {
        self.zygote.starts()
    }

    /// Time until the circuit closes, when it is open.
    pub(crate) fn unavailable(&self, now: Instant) -> Option<Duration> {
        let zygote = self.zygote.waits_until().and_then(|until| until.checked_duration_since(now));
        self.circuit.borrow().open_for(now).max(zygote.filter(|left| !left.is_zero()))
    }

    /// A locked worker for a job: one that has its module, for which it waits where a template forks such, else an idle one, or one forked for it when the job has
    /// directories, since a jail cannot be widened once it is entered. Idle ones are replaced in the background.
    ///
    /// # Errors
    /// When none can be made.
    pub(crate) async fn take(self: &Rc<Self>, need: &Need<'_>) -> Result<Worker, PoolError> {
        if !need.directories.is_empty() {
            count(&self.starts.cold);
            return self.make(&self.birth(Role::RunFiles, need)).await;
        }
        if let Some(worker) = self.take_prepared(need, Instant::now()).await {
            count(&self.starts.prepared);
            self.fit(&worker, need.memory_bytes)?;
            return Ok(worker);
        }
        self.take_blank(need).await
    }

    /// An idle worker without a module, or one forked now.
    async fn take_blank(self: &Rc<Self>, need: &Need<'_>) -> Result<Worker, PoolError> {
        if let Some(worker) = self.take_idle() {
            count(&self.starts.warm);
            self.fit(&worker, need.memory_bytes)?;
            return Ok(worker);
        }
        count(&self.starts.cold);
        if self.by_caller {
            return self.make(&self.birth(Role::Run, need)).await;
        }
        let worker = self.next_blank().await?;
        self.fit(&worker, need.memory_bytes)?;
        Ok(worker)
    }

    /// The first worker, to look at and then to [`Pool::keep`].
    ///
    /// # Errors
    /// When none can be made.
    pub(crate) async fn first(&self, need: &Need<'_>) -> Result<Worker, PoolError> {
        let worker = self.make(&self.birth(Role::Run, need)).await?;
        *self.layers.borrow_mut() = self.layers_held(&worker);
        Ok(worker)
    }

    /// Keeps the first worker for the first job, if it can be of use to anybody.
    pub(crate) fn keep(&self, worker: Worker) {
        if !self.by_caller {
            self.ready.keep_first(worker);
        }
    }

    /// The layers this worker has.
    pub(crate) fn layers_held(&self, worker: &Worker) -> Vec<Layer> {
        layers_held(&worker.report, self.controllers_of(worker))
    }

    /// Drops idle workers that died or are too many, refills, and reaps children nobody was told of. Called regularly.
    pub(crate) fn housekeep(self: &Rc<Self>) {
        self.tenants.tidy(Instant::now(), &self.config.pool);
        self.graveyard.sweep();
        self.tidy_leaves();
        self.resize();
    }

    /// Ends the zygote and every worker, and returns when the last is reaped, or `within` is over.
    pub(crate) async fn close(&self, within: Duration) {
        self.closed.set(true);
        self.ready.clear();
        self.templates.close();
        self.tenants.close();
        let gone = async {
            self.zygote.close().await;
            self.graveyard.deserted().await;
        };
        if tokio::time::timeout(within, gone).await.is_err() {
            tracing::error!("processes are left that were killed; they go with this one");
        }
        self.graveyard.sweep();
        self.tidy_leaves();
    }

    fn tidy_leaves(&self) {
        if let Some(tree) = &self.tree {
            tree.borrow_mut().tidy();
        }
    }

    async fn make(&self, birth: &Birth) -> Result<Worker, PoolError> {
        let mut tries = 1;
        loop {
            match self.try_to_make(birth).await {
                Err(PoolError::Worker(error)) if error.may_pass() && tries < MAKE_TRIES => {
                    tracing::warn!(error = %Causes(&error), "no worker; trying again");
                    tries += 1;
                }
                made => return made,
            }
        }
    }

    async fn try_to_make(&self, birth: &Birth) -> Result<Worker, PoolError> {
        if let Some(retry_after) = self.unavailable(Instant::now()) {
            return Err(PoolError::CircuitOpen { retry_after });
        }
        self.forks.set(self.forks.get() + 1);
        let born = Worker::born(birth, &self.zygote, self.tree.as_ref()).await;
        let born = born.and_then(|worker| self.no_weaker(worker));
        if let Err(error) = &born
            && error.counts(birth)
        {
            self.circuit.borrow_mut().failed(Instant::now());
        }
        let worker = born?;
        if !birth.with_module {
            self.last_worker.set(Some(Instant::now()));
        }
        Ok(worker)
    }

    /// What the first worker had, every one must have.
    fn no_weaker(&self, worker: Worker) -> Result<Worker, WorkerError> {
        let held = self.layers_held(&worker);
        match self.layers.borrow().iter().find(|layer| !held.contains(layer)) {
            Some(layer) => Err(WorkerError::Weaker(*layer)),
            None => Ok(worker),
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
                data_bytes: config.jail.data_bytes(need.memory_bytes),
            },
            leaf: LeafLimits {
                memory_bytes,
                pids_max: config.cgroup.pids_max,
                cpu_weight: config.cgroup.cpu_weight,
                cpu_max_percent: config.cgroup.cpu_max_percent,
                caller: (need.caller != Caller::NOBODY).then_some(need.caller.uid),
            },
            lock_timeout: config.pool.lock_timeout,
            with_module: false,
            ahead: false,
        }
    }

    /// A supervisor that is root has granted directories entered as whoever granted them: a job reaches nothing its
    /// submitter could not. Any other has no ids but its own to give, and lends its own rights; admission sees to it
    /// that others are lent them below listed directories alone.
    fn identity_for(&self, need: &Need<'_>) -> Option<Identity> {
        let own = self.identity?;
        if need.directories.is_empty() {
            return Some(own);
        }
        Some(Identity { uid: need.caller.uid, gid: need.caller.gid })
    }

    /// Narrows the leaf of an idle worker, made for any job, to this one. Its own limits the worker lowers itself,
    /// by its order: another process may only with a privilege that a daemon need not have.
    ///
    /// # Errors
    /// When the kernel refuses: a job does not run with the limits of the largest one.
    fn fit(&self, worker: &Worker, memory_bytes: u64) -> Result<(), WorkerError> {
        let limit = memory_bytes.saturating_add(self.config.cgroup.memory_headroom_bytes);
        Ok(worker.leaf().map_or(Ok(()), |leaf| leaf.set_memory_max(limit))?)
    }

    fn controllers_of(&self, worker: &Worker) -> &[Controller] {
        if worker.leaf().is_some() { &self.controllers } else { &[] }
    }

    /// The walls a worker with this report stands behind.
    pub(crate) fn walls(&self, worker: &Worker) -> Walls {
        let report = &worker.report;
        let layers = self.layers_held(worker);
        let held = |layer| layers.contains(&layer);
        let mut missing = report.missing.clone();
        missing.extend(self.no_leaves.clone());
        let controllers = self.controllers_of(worker).iter().map(|one| one.name().to_owned());
        Walls {
            seccomp: held(Layer::Seccomp).then(|| "kill".to_owned()),
            landlock_abi: held(Layer::Landlock).then_some(report.landlock_abi),
            cgroup: controllers.collect(),
            namespaces: report.namespaces.clone(),
            no_new_privs: held(Layer::NoNewPrivs),
            capabilities_dropped: held(Layer::Capabilities),
            rlimits: report.rlimits.iter().map(|(name, _)| name.clone()).collect(),
            mdwe: false,
            uid: Some(report.uid),
            fresh_process: true,
            missing,
        }
    }
}

/// Only root has ids to give other than its own.
pub(crate) fn has_other_ids() -> bool {
    nix::unistd::geteuid().is_root()
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.graveyard.close();
    }
}
