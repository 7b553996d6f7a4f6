//! Compiled modules: made once, kept in memory and on disk, handed out as sealed descriptors.
//!
//! Owns: the table of artifacts, the single flight of each compilation, and the compilers' places.
//! Never: compiles, parses an artifact, hands out bytes that were not authenticated or made here just now, goes on with
//! a compilation that nobody waits for.
//!
//! ```text
//! Looking ── on disk ─────────────────────────────────────────▶ Landed
//!    │ not on disk      a job that waits has a compiler's place    ▲
//!    └───────▶ Waiting ──────────────────────────────▶ Compiling ──┘
//! ```
//! Every job that waits for a flight asks for a place in its own user's turn, and the first to have one gives it to the
//! flight: nobody waits behind the user who happened to come first. A flight for which no job waits any more is not
//! compiled, or not any further, and gives back its place and its module.

mod disk;
mod key;
mod memory;
mod module;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stockade_sys::memfd;
use stockade_wire::job::{Digest, Outcome, Phase};
use tokio::sync::{Notify, watch};

use self::disk::Disk;
pub use self::disk::DiskError;
pub use self::key::KeyError;
use self::memory::Memory;
pub(crate) use self::module::Module;
use super::job::ladder::Cause;
use super::job::{Job, outcome};
use super::places::{Place, Places};
use crate::config;
use crate::observe::Causes;

/// What an artifact was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// Of the module as it was submitted.
    pub(crate) digest: Digest,
    /// Whether its code counts fuel.
    pub(crate) metered: bool,
}

/// A compiled module in a sealed file in memory.
#[derive(Debug)]
pub(crate) struct Artifact {
    file: OwnedFd,
    bytes: u64,
}

impl Artifact {
    /// Seals `file`, which nobody may have mapped writably any more. Blocks as [`memfd::seal`] does.
    ///
    /// # Errors
    /// When it cannot be sealed or its size not be read.
    pub(crate) fn sealed(file: File) -> std::io::Result<Self> {
        memfd::seal(&file)?;
        let bytes = file.metadata()?.len();
        Ok(Self { file: file.into(), bytes })
    }

    /// The sealed file.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// An artifact, or the outcome of the job that wanted one.
pub(crate) type Landed = Result<Rc<Artifact>, Rc<Outcome>>;

/// What makes artifacts.
pub(crate) trait Compile {
    /// Compiles `module` into an unsealed file in memory that nothing else has open for writing. Has `place` until no
    /// compiler is at it any more. Dropping the future ends the compilation.
    async fn compile(&self, module: &Arc<Module>, metered: bool, place: Place) -> Result<File, Outcome>;
}

/// A job that wants an artifact, and how long it can wait for a compiler.
pub(crate) struct Wanted<'a> {
    pub(crate) job: &'a Job,
    /// What is left of the job's time. Waiting for a compiler's place takes from it; compiling does not.
    pub(crate) left: Duration,
}

/// One artifact on its way.
struct Flight {
    stage: watch::Sender<Stage>,
    /// What it would be compiled from, once anybody who wants it has brought it.
    module: RefCell<Option<Arc<Module>>>,
    place: Cell<Option<Place>>,
    place_given: Notify,
}

#[derive(Clone)]
enum Stage {
    /// Whether it is on disk is being found out.
    Looking,
    /// It has to be compiled, and has no place for that.
    Waiting,
    Compiling,
    Landed(Landed),
}

impl Flight {
    /// Gives it a place to be compiled at. One that it does not need any more is free again.
    fn give(&self, place: Place) {
        let waits = self.stage.send_if_modified(|stage| {
            let waits = matches!(stage, Stage::Waiting);
            if waits {
                *stage = Stage::Compiling;
            }
            waits
        });
        if waits {
            self.place.set(Some(place));
            self.place_given.notify_one();
        }
    }

    async fn place(&self) -> Place {
        self.stage.send_replace(Stage::Waiting);
        loop {
            if let Some(place) = self.place.take() {
                return place;
            }
            self.place_given.notified().await;
        }
    }
}

/// The table.
pub(crate) struct Artifacts<C> {
    compiler: C,
    memory: RefCell<Memory>,
    disk: Option<Arc<Disk>>,
    compilers: Places,
    flights: RefCell<HashMap<Key, Rc<Flight>>>,
    compiled: Cell<u64>,
    hits: Cell<u64>,
}

impl<C: Compile + 'static> Artifacts<C> {
    /// A table for artifacts of the engine with this fingerprint.
    ///
    /// # Errors
    /// When the cache directory or its key cannot be used.
    pub(crate) fn new(
        compiler: C,
        compilers_max: usize,
        settings: &config::Cache,
        fingerprint: &str,
    ) -> Result<Self, DiskError> {
        let disk = match &settings.directory {
            Some(directory) => Some(Arc::new(Disk::open(
                directory,
                settings.key_file.as_deref(),
                fingerprint,
                settings.disk_bytes,
            )?)),
            None => None,
        };
        Ok(Self {
            compiler,
            memory: RefCell::new(Memory::new(settings.memory_bytes, settings.files_max)),
            disk,
            compilers: Places::new(compilers_max),
            flights: RefCell::default(),
            compiled: Cell::new(0),
            hits: Cell::new(0),
        })
    }

    /// Modules compiled since start.
    pub(crate) fn compiled(&self) -> u64 {
        self.compiled.get()
    }

    /// Times an artifact was already there.
    pub(crate) fn hits(&self) -> u64 {
        self.hits.get()
    }

    /// Whether an artifact for `key` is at hand without its module.
    pub(crate) fn has(&self, key: Key) -> bool {
        self.memory.borrow().has(key) || self.disk.as_ref().is_some_and(|disk| disk.has(key))
    }

    /// The artifact for `key`, compiled from `module` when there is none. Any number of jobs that want the same one wait
    /// for one compilation, which ends when the last of them stops waiting.
    pub(crate) async fn get(
        self: &Rc<Self>,
        key: Key,
        module: Option<Arc<Module>>,
        wanted: &mut Wanted<'_>,
    ) -> Landed {
        if let Some(artifact) = self.memory.borrow_mut().get(key) {
            self.hits.set(self.hits.get() + 1);
            return Ok(artifact);
        }
        let (flight, mut stage) = self.board(key, module);
        loop {
            let now = stage.borrow_and_update().clone();
            match now {
                Stage::Landed(landed) => return landed,
                Stage::Waiting => self.wait_for_place(&flight, &mut stage, wanted).await?,
                Stage::Looking | Stage::Compiling => {
                    // It lands before it is gone.
                    let _ = stage.changed().await;
                }
            }
        }
    }

    /// The artifact for `key` before any job wants it, compiled in `uid`'s turn when there is none.
    pub(crate) async fn get_ahead(self: &Rc<Self>, key: Key, module: Arc<Module>, uid: u32) -> Landed {
        if let Some(artifact) = self.memory.borrow_mut().get(key) {
            return Ok(artifact);
        }
        let (flight, mut stage) = self.board(key, Some(module));
        loop {
            let now = stage.borrow_and_update().clone();
            match now {
                Stage::Landed(landed) => return landed,
                Stage::Waiting => tokio::select! {
                    biased;
                    _ = stage.changed() => {}
                    place = self.compilers.take(uid) => flight.give(place),
                },
                Stage::Looking | Stage::Compiling => {
                    // It lands before it is gone.
                    let _ = stage.changed().await;
                }
            }
        }
    }

    /// The flight for `key`, and what keeps it going.
    fn board(self: &Rc<Self>, key: Key, module: Option<Arc<Module>>) -> (Rc<Flight>, watch::Receiver<Stage>) {
        if let Some(flight) = self.flights.borrow().get(&key) {
            let mut held = flight.module.borrow_mut();
            // One is enough.
            *held = held.take().or(module);
            return (Rc::clone(flight), flight.stage.subscribe());
        }
        let (sender, stage) = watch::channel(Stage::Looking);
        let flight = Rc::new(Flight {
            stage: sender,
            module: RefCell::new(module),
            place: Cell::new(None),
            place_given: Notify::new(),
        });
        self.flights.borrow_mut().insert(key, Rc::clone(&flight));
        let (table, flying) = (Rc::clone(self), Rc::clone(&flight));
        tokio::task::spawn_local(async move {
            let landed = match table.load_kept(key).await {
                Some(artifact) => {
                    table.hits.set(table.hits.get() + 1);
                    Ok(artifact)
                }
                None => tokio::select! {
                    biased;
                    landed = table.compile(key, &flying) => landed.map_err(Rc::new),
                    () = flying.stage.closed() => {
                        tracing::debug!("a module is not compiled: nobody waits for it any more");
                        Err(Rc::new(abandoned()))
                    }
                },
            };
            if let Ok(artifact) = &landed {
                table.memory.borrow_mut().insert(key, Rc::clone(artifact), artifact.bytes);
            }
            table.flights.borrow_mut().remove(&key);
            flying.stage.send_replace(Stage::Landed(landed));
        });
        (flight, stage)
    }

    /// Waits for a place in the job's own turn, until the flight has one, the job's or another's.
    async fn wait_for_place(
        &self,
        flight: &Flight,
        stage: &mut watch::Receiver<Stage>,
        wanted: &mut Wanted<'_>,
    ) -> Result<(), Rc<Outcome>> {
        let job = wanted.job;
        let since = Instant::now();
        let by = since + wanted.left;
        job.enter(Phase::Queued);
        let in_time = tokio::select! {
            biased;
            _ = stage.changed() => true,
            place = self.compilers.take(job.admitted.caller.uid) => {
                flight.give(place);
                true
            }
            () = tokio::time::sleep_until(by.into()) => false,
        };
        wanted.left = wanted.left.saturating_sub(since.elapsed());
        if !in_time {
            return Err(Rc::new(outcome::stopped_waiting(Cause::Deadline)));
        }
        job.enter(Phase::Compiling);
        Ok(())
    }

    async fn compile(&self, key: Key, flight: &Flight) -> Result<Rc<Artifact>, Outcome> {
        let module = flight.module.borrow().clone();
        let Some(module) = module else {
            let message = "the module is no longer cached; submit its bytes".to_owned();
            return Err(outcome::internal("module_evicted", message));
        };
        let place = flight.place().await;
        let file = self.compiler.compile(&module, key.metered, place).await?;
        self.compiled.set(self.compiled.get() + 1);
        let unsealed = |error: &dyn std::fmt::Display| {
            outcome::internal("artifact_not_sealed", format!("the artifact could not be sealed: {error}"))
        };
        let sealed = tokio::task::spawn_blocking(move || Artifact::sealed(file)).await;
        let artifact = sealed.map_err(|error| unsealed(&error))?.map_err(|error| unsealed(&error))?;
        self.keep(key, &artifact);
        Ok(Rc::new(artifact))
    }

    async fn load_kept(&self, key: Key) -> Option<Rc<Artifact>> {
        let disk = Arc::clone(self.disk.as_ref()?);
        let loaded =
            tokio::task::spawn_blocking(move || disk.load(key).map(|file| file.map(Artifact::sealed)));
        match loaded.await.ok()? {
            Ok(artifact) => artifact?
                .inspect_err(|error| tracing::warn!(%error, "cached artifact not sealed; compiling again"))
                .ok()
                .map(Rc::new),
            Err(error) => {
                tracing::warn!(error = %Causes(&error), "cached artifact not used; compiling again");
                None
            }
        }
    }

    /// Keeps an artifact for the next start, in the background: the job that wanted it does not wait.
    fn keep(&self, key: Key, artifact: &Artifact) {
        let Some(disk) = self.disk.clone() else { return };
        let Ok(file) = artifact.file.try_clone() else { return };
        tokio::task::spawn_blocking(move || {
            if let Err(error) = disk.store(key, &File::from(file)) {
                tracing::warn!(error = %Causes(&error), "artifact not kept on disk");
            }
        });
    }
}

/// Of a flight that nobody waits for; nobody reads it.
fn abandoned() -> Outcome {
    outcome::internal("compile_lost", "the compilation was abandoned".to_owned())
}

/// Whether a start with these settings would find its cache usable, and whether it is there already. Makes nothing;
/// looks at a few files, so it may block.
///
/// # Errors
/// As the start would.
pub fn examine(directory: &Path, key_file: Option<&Path>) -> Result<bool, DiskError> {
    Disk::examine(directory, key_file)
}
