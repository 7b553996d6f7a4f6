//! Compiled modules: made once, kept in memory and on disk, handed out as sealed descriptors.
//!
//! Owns: the table of artifacts and the single flight of each compilation.
//! Never: compiles, parses an artifact, hands out bytes that were not authenticated or made here just now.

mod disk;
mod key;
mod memory;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use stockade_sys::memfd;
use stockade_wire::job::{Digest, Outcome};
use tokio::sync::watch;

use self::disk::Disk;
pub use self::disk::DiskError;
pub use self::key::KeyError;
use self::memory::Memory;
use super::job::outcome;
use crate::config;

/// Modules above this many bytes are hashed on another thread: SHA-256 takes about a millisecond for them.
const HASH_INLINE_BYTES: usize = 512 << 10;

/// What an artifact was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    /// Seals `file`, which nobody may have mapped writably any more.
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
    /// Compiles `module` into an unsealed file in memory that nothing else has open for writing.
    async fn compile(&self, module: &[u8], metered: bool) -> Result<File, Outcome>;
}

/// The table.
pub(crate) struct Artifacts<C> {
    compiler: C,
    memory: RefCell<Memory>,
    disk: Option<Arc<Disk>>,
    flights: RefCell<HashMap<Key, watch::Receiver<Option<Landed>>>>,
    compiled: Cell<u64>,
    hits: Cell<u64>,
}

impl<C: Compile + 'static> Artifacts<C> {
    /// A table for artifacts of the engine with this fingerprint.
    ///
    /// # Errors
    /// When the cache directory or its key cannot be used.
    pub(crate) fn new(compiler: C, settings: &config::Cache, fingerprint: &str) -> Result<Self, DiskError> {
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
            memory: RefCell::new(Memory::new(settings.memory_bytes)),
            disk,
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

    /// The artifact for `key`, compiled from `module` when there is none. Any number of jobs that want the same
    /// one wait for one compilation, which goes on when they stop waiting.
    pub(crate) async fn get(self: &Rc<Self>, key: Key, module: Option<Rc<Vec<u8>>>) -> Landed {
        if let Some(artifact) = self.memory.borrow_mut().get(key) {
            self.hits.set(self.hits.get() + 1);
            return Ok(artifact);
        }
        let flying = self.flights.borrow().get(&key).cloned();
        let mut landed = match flying {
            Some(flight) => flight,
            None => self.take_off(key, module),
        };
        let landed = landed.wait_for(Option::is_some).await.map(|landed| landed.clone());
        landed.ok().flatten().unwrap_or_else(|| {
            Err(Rc::new(outcome::internal("compile_lost", "the compilation was abandoned".to_owned())))
        })
    }

    fn take_off(self: &Rc<Self>, key: Key, module: Option<Rc<Vec<u8>>>) -> watch::Receiver<Option<Landed>> {
        let (sender, receiver) = watch::channel(None);
        self.flights.borrow_mut().insert(key, receiver.clone());
        let table = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let landed = table.fly(key, module).await.map_err(Rc::new);
            if let Ok(artifact) = &landed {
                table.memory.borrow_mut().insert(key, Rc::clone(artifact), artifact.bytes);
            }
            table.flights.borrow_mut().remove(&key);
            let _ = sender.send(Some(landed));
        });
        receiver
    }

    async fn fly(&self, key: Key, module: Option<Rc<Vec<u8>>>) -> Result<Rc<Artifact>, Outcome> {
        if let Some(artifact) = self.load_kept(key).await {
            self.hits.set(self.hits.get() + 1);
            return Ok(artifact);
        }
        let Some(module) = module else {
            let message = "the module is no longer cached; submit its bytes".to_owned();
            return Err(outcome::internal("module_evicted", message));
        };
        let file = self.compiler.compile(&module, key.metered).await?;
        self.compiled.set(self.compiled.get() + 1);
        let artifact = Artifact::sealed(file).map_err(|error| {
            outcome::internal("artifact_not_sealed", format!("the artifact could not be sealed: {error}"))
        })?;
        self.keep(key, &artifact);
        Ok(Rc::new(artifact))
    }

    async fn load_kept(&self, key: Key) -> Option<Rc<Artifact>> {
        let disk = Arc::clone(self.disk.as_ref()?);
        let loaded = tokio::task::spawn_blocking(move || disk.load(key)).await.ok()?;
        match loaded {
            Ok(file) => file.and_then(|file| Artifact::sealed(file).ok()).map(Rc::new),
            Err(error) => {
                tracing::warn!(%error, "cached artifact not used; compiling again");
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
                tracing::warn!(%error, "artifact not kept on disk");
            }
        });
    }
}

/// SHA-256 of a module.
pub(crate) async fn digest(module: &Rc<Vec<u8>>) -> Digest {
    if module.len() <= HASH_INLINE_BYTES {
        return Sha256::digest(module.as_slice()).into();
    }
    let copy = module.as_slice().to_vec();
    let hashed = tokio::task::spawn_blocking(move || Sha256::digest(copy).into()).await;
    hashed.unwrap_or_else(|_| Sha256::digest(module.as_slice()).into())
}
