//! Starting the supervisor: the walls are tried before the first job is taken.
//!
//! Owns: the order of the start and every reason to refuse it.
//! Never: degrades: a required layer that is missing is an error that names it, the reason and the fix.

use std::cell::{Cell, OnceCell, RefCell};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stockade_wire::job::{Isolation, Layer, MissingLayer, Walls};
use stockade_wire::zygote::ZygoteConfig;
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

use super::artifact::{Artifacts, DiskError};
use super::beside::Weight;
use super::cgroup::{CgroupError, Controller, Discovery, Tree};
use super::child::Graveyard;
use super::drive::Executor;
use super::in_process::{InProcess, InProcessError};
use super::inspect::filters_around;
use super::job::{Caller, Job};
use super::journal::{Journal, JournalError, JournalLock, Known};
use super::ledger::Ledger;
use super::looking::Looking;
use super::places::Places;
use super::pool::{Need, Pool, PoolError, has_other_ids};
use super::scripts::Scripts;
use super::warm_up::{Holding, WarmUpError, WarmUps};
use super::worker::Worker;
use super::zygote::{Settings, Zygote, ZygoteError};
use super::{CLOSE_TIMEOUT, Core, Counters, Supervisor};
use crate::config::{Config, Mode};
use crate::job_end::JobEnd;

/// Why the supervisor does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A required layer is missing.
    #[error("required layer {} is missing: {}; {}", .0.layer, .0.reason, .0.fix)]
    LayerMissing(MissingLayer),
    /// The zygote did not start.
    #[error("no zygote")]
    Zygote(#[source] Box<dyn std::error::Error>),
    /// No worker could be locked.
    #[error("no worker")]
    Worker(#[source] Box<dyn std::error::Error>),
    /// The cgroup tree could not be prepared.
    #[error("the cgroup tree cannot be used; set cgroup.root to another, or to \"off\"")]
    Cgroup(#[from] CgroupError),
    /// The artifact cache cannot be used.
    #[error("the cache of compiled modules cannot be used")]
    Cache(#[from] DiskError),
    /// The journal of durable jobs cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A module without which the daemon is not to start is not held ready.
    #[error("warm_up.{name} is required and not ready; correct it, or set its required = false")]
    WarmUp {
        /// Its name in the configuration.
        name: String,
        /// Why.
        #[source]
        source: Box<WarmUpError>,
    },
    /// The developer's mode did not start.
    #[error(transparent)]
    InProcess(#[from] InProcessError),
}

/// What a supervisor is started from.
#[derive(Debug, Clone)]
pub struct Startup {
    /// The configuration.
    pub config: Config,
    /// The executable that is its own zygote; [`Startup::new`] takes this process's.
    pub executable: PathBuf,
    /// Files of whoever starts it, such as a socket: no job is granted a directory that holds one.
    pub own_files: Vec<PathBuf>,
    /// The lock on the journal of durable jobs, where it was taken before anything else; otherwise the start takes it.
    pub journal: Option<JournalLock>,
}

impl Startup {
    /// A start from this process's own executable.
    #[must_use]
    pub fn new(config: Config) -> Self {
        // Through /proc, so that it is the same file even when it has been replaced on disk since.
        Self { config, executable: PathBuf::from("/proc/self/exe"), own_files: Vec::new(), journal: None }
    }

    /// Starts it. To be called on the main thread, on a Tokio `LocalRuntime` or inside a `LocalSet`: workers die
    /// with the thread that started their zygote.
    ///
    /// # Errors
    /// When a required layer is missing or anything else it needs cannot be had. Nothing is left running then.
    pub async fn start(self) -> Result<Supervisor, StartError> {
        let config = Rc::new(self.config);
        let warm_ups = WarmUps::new(&config);
        let (executor, layers) = match config.mode {
            Mode::Jailed => jailed(&config, self.executable, &warm_ups).await?,
            Mode::InProcess => in_process(&config, &warm_ups)?,
        };
        warn_of_links(&config.grants.directories);
        let (journal, known) = journal(&config, self.journal)?.unzip();
        let core = Core {
            own_uid: Caller::own().uid,
            own_files: own_files(&config, &self.own_files),
            executor,
            warm_ups,
            places: Places::new(config.pool.workers_max),
            leaving: Rc::default(),
            ledger: RefCell::new(remembering(Ledger::new(config.results.clone()), known.unwrap_or_default())),
            journal,
            layers,
            counters: RefCell::new(Counters::default()),
            started: Instant::now(),
            draining: Cell::new(false),
            job_over: Notify::new(),
            no_input: OnceCell::new(),
            // One that cannot be counted is one.
            processors: std::thread::available_parallelism().map_or(1, NonZero::get),
            looking: Looking::default(),
            output_files: Arc::new(Semaphore::new(config.results.files_max)),
            config: RefCell::new(config),
        };
        Ok(Supervisor::new(core))
    }

    /// Starts a zygote and a first worker as [`Startup::start`] does, looks at the worker, and ends both. To be
    /// called where that is; returns when they are gone.
    ///
    /// # Errors
    /// With that which a start in the jailed mode would be refused for, but for the cache.
    pub async fn first_worker(self) -> Result<FirstWorker, StartError> {
        let config = Rc::new(self.config);
        let leaves = leaves(&config)?;
        let graveyard = Graveyard::open();
        let tried = async {
            let (pool, _) = pool_of(&config, self.executable, &graveyard, leaves).await?;
            let worker = pool.first(&any_job(&config)).await.map_err(worker_error);
            let seen = worker.and_then(|worker| try_walls(&pool, &worker, &config));
            pool.close(CLOSE_TIMEOUT).await;
            seen
        };
        let tried = tried.await;
        buried(&graveyard, true).await;
        tried
    }
}

/// What holds the first worker of a start.
#[derive(Debug, Clone)]
pub struct FirstWorker {
    /// The layers it has, checked from outside.
    pub layers: Vec<Layer>,
    /// The same as results list them, with what is missing.
    pub walls: Walls,
}

/// The journal of durable jobs, and what it knows, where one is kept.
fn journal(config: &Config, lock: Option<JournalLock>) -> Result<Option<(Journal, Vec<Known>)>, StartError> {
    let lock = match (lock, &config.durable.directory) {
        (Some(lock), _) => lock,
        (None, Some(directory)) => JournalLock::take(directory)?,
        (None, None) => return Ok(None),
    };
    Ok(Some(Journal::open(lock, config.durable.bytes_max)?))
}

/// The ledger with what the journal knows of jobs that ended before this start, as if they had just ended: whoever was
/// cut off has the same time to ask as always.
fn remembering(mut ledger: Ledger, known: Vec<Known>) -> Ledger {
    let now = Instant::now();
    for Known { accepted, ended, result, .. } in known {
        let result = result.map(|result| *result).or_else(|| {
            let ended = ended?;
            Some(super::journal::bare(&accepted, ended.outcome, ended.exit_code))
        });
        let Some(result) = result else { continue };
        let age = Duration::from_millis(super::journal::now_ms().saturating_sub(accepted.at_ms));
        let job = Rc::new(Job::remembered(&accepted, now.checked_sub(age).unwrap_or(now)));
        let id = job.id.clone();
        let end = JobEnd::of(result);
        let bytes = super::kept_bytes(&end);
        job.finish(end);
        ledger.add(job, Weight::default());
        ledger.end(&id, bytes, now);
    }
    ledger
}

/// What is no guest's business: the cache with its key, the journal, and `others`. Paths without links, as granted ones are.
fn own_files(config: &Config, others: &[PathBuf]) -> Rc<[PathBuf]> {
    let cache = config.cache.directory.as_deref();
    let key = cache.and(config.cache.key_file.as_deref());
    let journal = config.durable.directory.as_deref();
    let others = others.iter().map(PathBuf::as_path);
    cache.into_iter().chain(key).chain(journal).chain(others).map(resolved).collect()
}

/// The path without links; of a file that is not there yet, its directory's.
fn resolved(path: &Path) -> PathBuf {
    let by_parent = || Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
    path.canonicalize().ok().or_else(by_parent).unwrap_or_else(|| path.to_owned())
}

/// Grants are compared by paths without links, so that nothing lies below a listed one with a link in it.
fn warn_of_links(listed: &[PathBuf]) {
    for root in listed {
        let real = resolved(root);
        if real != *root {
            let (root, real) = (root.display(), real.display());
            tracing::warn!(
                "grants.directories lists {root}, which leads to {real}: list that, or it grants nothing"
            );
        }
    }
}

async fn jailed(
    config: &Rc<Config>,
    executable: PathBuf,
    warm_ups: &Rc<WarmUps>,
) -> Result<(Executor, Vec<Layer>), StartError> {
    let leaves = leaves(config)?;
    let graveyard = Graveyard::open();
    let started = async {
        let (holding, layers) = forked(config, executable, &graveyard, leaves).await?;
        if let Err((name, source)) = warm_ups.require(&holding).await {
            holding.pool.close(CLOSE_TIMEOUT).await;
            return Err(StartError::WarmUp { name, source: Box::new(source) });
        }
        let (pool, artifacts) = (Rc::clone(&holding.pool), Rc::clone(&holding.artifacts));
        tokio::task::spawn_local(Rc::clone(warm_ups).follow(holding));
        let scripts = Scripts::new(&config.cache, &pool);
        Ok((Executor::Jailed { pool, artifacts, scripts }, layers))
    };
    let started = started.await;
    buried(&graveyard, started.is_err()).await;
    started
}

/// Lets the graveyard close, once all are in it if nothing was started.
async fn buried(graveyard: &Graveyard, all: bool) {
    if all && timeout(CLOSE_TIMEOUT, graveyard.deserted()).await.is_err() {
        tracing::error!("processes are left that were killed; they go with this one");
    }
    graveyard.close();
}

async fn forked(
    config: &Rc<Config>,
    executable: PathBuf,
    graveyard: &Rc<Graveyard>,
    leaves: Leaves,
) -> Result<(Holding, Vec<Layer>), StartError> {
    let (pool, fingerprint) = pool_of(config, executable, graveyard, leaves).await?;
    let worker = pool.first(&any_job(config)).await.map_err(worker_error)?;
    let layers = try_walls(&pool, &worker, config)?.layers;
    pool.keep(worker);
    let compilers_max = config.pool.compilers_max;
    let artifacts = Artifacts::new(Rc::clone(&pool), compilers_max, &config.cache, &fingerprint)?;
    pool.refill();
    pool.watch_pressure();
    Ok((Holding { pool, artifacts: Rc::new(artifacts) }, layers))
}

/// A pool without a worker, and the fingerprint of its engine.
async fn pool_of(
    config: &Rc<Config>,
    executable: PathBuf,
    graveyard: &Rc<Graveyard>,
    (tree, no_leaves): Leaves,
) -> Result<(Rc<Pool>, String), StartError> {
    let settings = Settings {
        executable,
        config: ZygoteConfig {
            supervisor_pid: std::process::id(),
            memory_bytes_max: config.ceilings.memory_bytes,
            scripts_bytes_max: config.pool.tenant_scripts_bytes_max,
            landlock_abi_min: config.jail.landlock_abi_min,
            namespaces: config.jail.namespaces,
            other_ids: has_other_ids(),
            require: config.jail.require.iter().copied().collect(),
            // Where nothing is held ready there are a few forks and no more.
            huge_pages: config.pool.templates_max > 0,
        },
        forks_max: config.pool.zygote_forks_max,
        filters_around: filters_around().map_err(|error| StartError::Worker(Box::new(error)))?,
        restart_burst: config.pool.restart_burst,
        restart_window: config.pool.restart_window,
    };
    let zygote = Zygote::start(settings, graveyard).await.map_err(zygote_error)?;
    let fingerprint = zygote.report().engine_fingerprint.clone();
    let pool = Rc::new(Pool::new(Rc::clone(config), zygote, Rc::clone(graveyard), tree, no_leaves));
    Ok((pool, fingerprint))
}

/// What an idle worker is made for.
fn any_job(config: &Config) -> Need<'static> {
    Need {
        directories: &[],
        caller: Caller::NOBODY,
        memory_bytes: config.ceilings.memory_bytes,
        module: None,
        engine: false,
        tenant: None,
    }
}

fn in_process(config: &Rc<Config>, warm_ups: &WarmUps) -> Result<(Executor, Vec<Layer>), StartError> {
    let host = Rc::new(InProcess::start(config)?);
    let compilers_max = config.pool.compilers_max;
    let artifacts = Artifacts::new(Rc::clone(&host), compilers_max, &config.cache, &host.fingerprint())?;
    let off = Layer::ALL.map(Layer::name).join(", ");
    tracing::warn!("in-process mode: guests run in this process; off: {off}");
    warm_ups.pass_over("in-process mode has no workers");
    Ok((Executor::InProcess { host, artifacts: Rc::new(artifacts) }, Vec::new()))
}

/// The cgroup tree for leaves, or why there is none, or what it lacks.
type Leaves = (Option<Tree>, Option<MissingLayer>);

fn leaves(config: &Config) -> Result<Leaves, StartError> {
    let missing = |reason, fix: &str| MissingLayer {
        layer: Layer::Cgroup.name().to_owned(),
        reason,
        fix: fix.to_owned(),
    };
    match super::cgroup::discover(&config.cgroup.root) {
        Discovery::Delegated(delegation) => {
            let tree = delegation.prepare()?.with_callers(config.cgroup.callers);
            let lacking: Vec<&str> = Controller::ALL
                .iter()
                .filter(|one| !tree.controllers().contains(one))
                .map(|one| one.name())
                .collect();
            let reason = format!("{} has no controller {}", tree.directory().display(), lacking.join(", "));
            let fix = "delegate a tree with memory, pids and cpu (systemd: Delegate=yes)";
            Ok((Some(tree), (!lacking.is_empty()).then(|| missing(reason, fix))))
        }
        Discovery::Absent(absence) => {
            let missing = missing(absence.reason(), absence.fix());
            if config.jail.require.contains(&Layer::Cgroup) {
                return Err(StartError::LayerMissing(missing));
            }
            Ok((None, Some(missing)))
        }
    }
}

/// Looks at what holds the first worker.
fn try_walls(pool: &Pool, worker: &Worker, config: &Config) -> Result<FirstWorker, StartError> {
    let (layers, walls) = (pool.layers_held(worker), pool.walls(worker));
    match config.jail.require.iter().find(|layer| !layers.contains(layer)) {
        Some(layer) => Err(StartError::LayerMissing(why_missing(*layer, &walls))),
        None => Ok(FirstWorker { layers, walls }),
    }
}

fn why_missing(layer: Layer, walls: &Walls) -> MissingLayer {
    let told = walls.missing.iter().find(|missing| missing.layer == layer.name());
    told.cloned().unwrap_or_else(|| MissingLayer {
        layer: layer.name().to_owned(),
        reason: "a worker could not enter it".to_owned(),
        fix: "see `stockade doctor`".to_owned(),
    })
}

fn zygote_error(error: ZygoteError) -> StartError {
    StartError::Zygote(Box::new(error))
}

fn worker_error(error: PoolError) -> StartError {
    match error {
        PoolError::Worker(super::worker::WorkerError::LayerMissing(missing)) => {
            StartError::LayerMissing(missing)
        }
        error => StartError::Worker(Box::new(error)),
    }
}

impl Core {
    /// The isolation jobs get.
    pub(super) fn isolation(&self) -> Isolation {
        match self.executor {
            Executor::Jailed { .. } => Isolation::Fresh,
            Executor::InProcess { .. } => Isolation::InProcess,
        }
    }
}
