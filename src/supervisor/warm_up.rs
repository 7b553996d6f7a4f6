//! Modules held ready from the start.
//!
//! Owns: reading, compiling and holding what the configuration lists, and what became of each.
//! Never: decides whose a module is: the configuration does.
//!
//! Those that are required are held before the daemon is ready, one after the other; the others follow when it is. A
//! template serves one user, so a module of several users is held once for each.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::artifact::{Artifact, Artifacts, Key, Module};
use super::job::Caller;
use super::pool::{HoldError, Holder, Pool};
use super::script;
use crate::config::WarmUp;
use crate::observe::Causes;

/// Time the first workers of a module have once it is compiled, beside the time it may take to initialise itself. Each of the
/// steps has a shorter one of its own; this is for a start that is never to hang, however they come together.
const HOLD_TIMEOUT: Duration = Duration::from_secs(30);

/// What a module is that is not tried yet.
const COMING: &str = "coming";

/// What a module is that is held.
const READY: &str = "ready";

/// Why a module is not held.
#[derive(Debug, thiserror::Error)]
pub enum WarmUpError {
    /// Its file.
    #[error("{path} cannot be read")]
    Read {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Something else is there.
    #[error("{path} is not a file")]
    NotAFile {
        /// Where it is.
        path: PathBuf,
    },
    /// More than a module may have.
    #[error("{path} has more than {max} bytes, see ceilings.module_bytes")]
    TooLarge {
        /// Where it is.
        path: PathBuf,
        /// The most, bytes.
        max: u64,
    },
    /// It does not compile.
    #[error("{path} does not compile: {why}")]
    NotCompiled {
        /// Where it is.
        path: PathBuf,
        /// The compiler's words.
        why: String,
    },
    /// No template holds it, or not for this user.
    #[error("{path} is not held for uid {uid}")]
    NotHeld {
        /// Where it is.
        path: PathBuf,
        /// The user.
        uid: u32,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It took too long.
    #[error("{path} was not held for uid {uid} within {within:?}")]
    Late {
        /// Where it is.
        path: PathBuf,
        /// The user.
        uid: u32,
        /// How long it had.
        within: Duration,
    },
}

/// What the JavaScript engine is called among them: the setting that has it held.
const ENGINE: &str = "pool.script_ready";

/// Everything that is to be held.
pub(super) struct WarmUps {
    listed: BTreeMap<String, WarmUp>,
    /// Workers with the JavaScript engine; 0: it is not held from the start.
    script_ready: usize,
    states: RefCell<BTreeMap<String, String>>,
    module_bytes_max: u64,
    hold_timeout: Duration,
}

/// What makes and holds them.
pub(super) struct Holding {
    pub(super) pool: Rc<Pool>,
    pub(super) artifacts: Rc<Artifacts<Rc<Pool>>>,
}

impl WarmUps {
    pub(super) fn new(config: &crate::config::Config) -> Rc<Self> {
        let listed = config.warm_up.clone();
        let script_ready = config.pool.script_ready;
        let engine = (script_ready > 0).then(|| ENGINE.to_owned());
        let states = listed.keys().cloned().chain(engine).map(|name| (name, COMING.to_owned())).collect();
        Rc::new(Self {
            listed,
            script_ready,
            states: RefCell::new(states),
            module_bytes_max: config.ceilings.module_bytes,
            hold_timeout: HOLD_TIMEOUT.saturating_add(config.pool.initialise_time),
        })
    }

    /// Names with what became of each: `coming`, `ready` or why it is not held.
    pub(super) fn states(&self) -> Vec<(String, String)> {
        self.states.borrow().iter().map(|(name, state)| (name.clone(), state.clone())).collect()
    }

    /// Says that none is held, and why.
    pub(super) fn pass_over(&self, why: &str) {
        for (name, state) in self.states.borrow_mut().iter_mut() {
            tracing::warn!(name, "warm-up is passed over: {why}");
            why.clone_into(state);
        }
    }

    /// Holds those without which the daemon is not to start.
    ///
    /// # Errors
    /// With the name of the first that cannot be held.
    pub(super) async fn require(&self, holding: &Holding) -> Result<(), (String, WarmUpError)> {
        for (name, warm_up) in self.listed.iter().filter(|(_, warm_up)| warm_up.required) {
            self.hold(name, warm_up, holding).await.map_err(|error| (name.clone(), error))?;
        }
        Ok(())
    }

    /// Holds the others and the JavaScript engine, one after the other. To be spawned.
    pub(super) async fn follow(self: Rc<Self>, holding: Holding) {
        if self.script_ready > 0 {
            let held = self.try_to_hold_engine(&holding).await;
            self.note(ENGINE, &held);
            if let Err(error) = held {
                tracing::warn!(error = %Causes(&error), "the JavaScript engine is not held ready from the start");
            }
        }
        for (name, warm_up) in self.listed.iter().filter(|(_, warm_up)| !warm_up.required) {
            if let Err(error) = self.hold(name, warm_up, &holding).await {
                tracing::warn!(name, error = %Causes(&error), "module is not held ready from the start");
            }
        }
    }

    async fn hold(&self, name: &str, warm_up: &WarmUp, holding: &Holding) -> Result<(), WarmUpError> {
        let held = self.try_to_hold(warm_up, holding).await;
        self.note(name, &held);
        held
    }

    fn note(&self, name: &str, held: &Result<(), WarmUpError>) {
        let state = held.as_ref().map_or_else(|error| Causes(error).to_string(), |()| READY.to_owned());
        tracing::info!(name, state, "warm-up");
        self.states.borrow_mut().insert(name.to_owned(), state);
    }

    async fn try_to_hold_engine(&self, holding: &Holding) -> Result<(), WarmUpError> {
        let engine = script::engine();
        let key = Key { digest: engine.digest, metered: false };
        let path = PathBuf::from("the JavaScript engine");
        let own = Caller::own().uid;
        let artifact = compiled(&path, key, Arc::clone(&engine.module), holding).await?;
        let holder = Holder { uid: holding.pool.engine_holder(own), key, engine: true };
        self.hold_for(&path, holder, (self.script_ready, None), &artifact, &holding.pool).await
    }

    async fn try_to_hold(&self, warm_up: &WarmUp, holding: &Holding) -> Result<(), WarmUpError> {
        let path = &warm_up.module;
        let module = Arc::new(Module::Bytes(read(path.clone(), self.module_bytes_max).await?));
        let unread = |source| WarmUpError::Read { path: path.clone(), source };
        let key = Key { digest: module.digest().await.map_err(unread)?, metered: false };
        let artifact = compiled(path, key, module, holding).await?;
        let own = Caller::own().uid;
        let users = if warm_up.uids.is_empty() { vec![own] } else { warm_up.uids.iter().copied().collect() };
        for uid in users {
            let (holder, least) =
                (Holder { uid, key, engine: false }, (warm_up.ready, warm_up.entry.clone()));
            self.hold_for(path, holder, least, &artifact, &holding.pool).await?;
        }
        Ok(())
    }

    async fn hold_for(
        &self,
        path: &Path,
        holder: Holder,
        least: (usize, Option<String>),
        artifact: &Rc<Artifact>,
        pool: &Rc<Pool>,
    ) -> Result<(), WarmUpError> {
        // The engine is held for everybody or for this user, and nobody has a number that means the former.
        let uid = if holder.engine { Caller::own().uid } else { holder.uid };
        let (path, within) = (path.to_owned(), self.hold_timeout);
        let held: Result<(), HoldError> = timeout(within, pool.hold(holder, artifact, least))
            .await
            .map_err(|_| WarmUpError::Late { path: path.clone(), uid, within })?;
        held.map_err(|source| WarmUpError::NotHeld { path, uid, source: Box::new(source) })
    }
}

async fn compiled(
    path: &Path,
    key: Key,
    module: Arc<Module>,
    holding: &Holding,
) -> Result<Rc<Artifact>, WarmUpError> {
    let landed = holding.artifacts.get_ahead(key, module, Caller::own().uid).await;
    landed.map_err(|outcome| WarmUpError::NotCompiled {
        path: path.to_owned(),
        why: outcome.message.clone().unwrap_or_else(|| super::serde_name(&outcome.verdict)),
    })
}

/// The bytes of a module's file, on a thread that may block.
async fn read(path: PathBuf, bytes_max: u64) -> Result<Vec<u8>, WarmUpError> {
    let at = path.clone();
    let read = tokio::task::spawn_blocking(move || read_now(&at, bytes_max)).await;
    read.unwrap_or_else(|lost| Err(WarmUpError::Read { path, source: std::io::Error::other(lost) }))
}

fn read_now(path: &Path, bytes_max: u64) -> Result<Vec<u8>, WarmUpError> {
    let failed = |source| WarmUpError::Read { path: path.to_owned(), source };
    // Looked at before it is opened: opening a FIFO would wait for a writer.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(WarmUpError::NotAFile { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > bytes_max {
        return Err(WarmUpError::TooLarge { path: path.to_owned(), max: bytes_max });
    }
    Ok(bytes)
}
