//! The jail a worker locks itself into, one module a layer.
//!
//! Owns: the order of the layers and what becomes of one that is missing.
//! Never: undoes a layer, opens the way to guest code without [`Sealed`].
//!
//! Every layer takes the previous layer's witness and returns its own, so that leaving one out, going through
//! one twice or changing the order does not compile. Which layers may be missing is the operator's word,
//! carried in the [`Ledger`]; a missing one is refused or listed, never passed over.
//!
//! ```text
//! Newborn ─ solo ─ fds ─ namespaces ─ rlimits ─ capabilities::narrow ─ identity ─ capabilities::drop_all
//!         ─ privileges ─ landlock ─ mdwe::foresee ─ seccomp ─▶ Locked ── (load the artifact)
//!         ─ rlimits::fit ─ mdwe::refuse_executable ─ seccomp::seal ─▶ Sealed ── (guest code)
//! ```
//!
//! A template (`template`) is `Locked` like the others and never sealed: it runs no guest code. Its forks inherit
//! what it has; each settles its own descriptors, binds itself to the supervisor and puts the final filter on:
//!
//! ```text
//! Locked ── (load the artifact) ── template::take_root ─▶ Stem ── fork ─▶ template::branch ─▶ Branch ── fit ─▶ Sealed
//! ```
//!
//! The order is forced: descriptors first, because everything after could leak through one; the bounding set, which
//! the zygote empties, before the ids, because that takes a capability that changing ids loses; `no_new_privs` before
//! Landlock and seccomp, which demand it; the parent-death signal after the ids, which clear it; seccomp last,
//! because it forbids the calls of all the others.
//!
//! The whole chain:
//!
//! ```no_run
//! use stockade_worker::jail::{self, Ledger, LockError, Plan, WorkerFds};
//! use stockade_sys::fork::Newborn;
//!
//! fn lock(newborn: Newborn, fds: WorkerFds, plan: &Plan<'_>) -> Result<(), LockError> {
//!     let alone = jail::solo::begin(newborn, Ledger::new(plan.require));
//!     let (bare, _fds) = jail::fds::settle(alone, fds, 0)?;
//!     let apart = jail::namespaces::inherit(bare, plan.namespaces)?;
//!     let limited = jail::rlimits::lower(apart, &plan.limits, plan.data_baseline_bytes)?;
//!     let narrowed = jail::capabilities::narrow(limited, plan.bounding, plan.identity)?;
//!     let identified = jail::identity::assume(narrowed, plan.identity)?;
//!     let powerless = jail::capabilities::drop_all(identified)?;
//!     let unprivileged = jail::privileges::renounce(powerless, plan.supervisor_pid)?;
//!     let walled = jail::landlock::restrict(unprivileged, plan.directories, plan.landlock_abi_min)?;
//!     let foreseen = jail::mdwe::foresee(walled)?;
//!     let locked = jail::seccomp::install(foreseen, plan)?;
//!     // The artifact is loaded here.
//!     let fitted = jail::rlimits::fit(locked, 80 << 20)?;
//!     let inexecutable = jail::mdwe::refuse_executable(fitted)?;
//!     let _sealed = jail::seccomp::seal(inexecutable)?;
//!     Ok(())
//! }
//! ```
//!
//! Skipping a layer (here `rlimits`) does not compile:
//!
//! ```compile_fail
//! use stockade_worker::jail::{self, Ledger, LockError, Plan, WorkerFds};
//! use stockade_sys::fork::Newborn;
//!
//! fn lock(newborn: Newborn, fds: WorkerFds, plan: &Plan<'_>) -> Result<(), LockError> {
//!     let alone = jail::solo::begin(newborn, Ledger::new(plan.require));
//!     let (bare, _fds) = jail::fds::settle(alone, fds, 0)?;
//!     let apart = jail::namespaces::inherit(bare, plan.namespaces)?;
//!     let narrowed = jail::capabilities::narrow(apart, plan.bounding, plan.identity)?;
//!     Ok(())
//! }
//! ```
//!
//! Nor does leaving out what a layer has to say when it is not there, as namespaces may not be:
//!
//! ```compile_fail
//! use stockade_worker::jail::{self, Ledger, LockError, Plan, WorkerFds};
//! use stockade_sys::fork::Newborn;
//!
//! fn lock(newborn: Newborn, fds: WorkerFds, plan: &Plan<'_>) -> Result<(), LockError> {
//!     let alone = jail::solo::begin(newborn, Ledger::new(plan.require));
//!     let (bare, _fds) = jail::fds::settle(alone, fds, 0)?;
//!     let limited = jail::rlimits::lower(bare, &plan.limits, plan.data_baseline_bytes)?;
//!     Ok(())
//! }
//! ```
//!
//! Nor does sealing without the rule against executable memory:
//!
//! ```compile_fail
//! use stockade_worker::jail::{self, LockError, Locked};
//!
//! fn seal(locked: Locked) -> Result<(), LockError> {
//!     let fitted = jail::rlimits::fit(locked, 80 << 20)?;
//!     let _sealed = jail::seccomp::seal(fitted)?;
//!     Ok(())
//! }
//! ```
//!
//! Nor does using a witness twice:
//!
//! ```compile_fail
//! use stockade_worker::jail::{self, Ledger, LockError, Plan, WorkerFds};
//! use stockade_sys::fork::Newborn;
//!
//! fn lock(newborn: Newborn, fds: WorkerFds, plan: &Plan<'_>) -> Result<(), LockError> {
//!     let alone = jail::solo::begin(newborn, Ledger::new(plan.require));
//!     let (bare, _fds) = jail::fds::settle(alone, fds, 0)?;
//!     let apart = jail::namespaces::inherit(bare, plan.namespaces)?;
//!     let limited = jail::rlimits::lower(apart, &plan.limits, plan.data_baseline_bytes)?;
//!     let again = jail::rlimits::lower(apart, &plan.limits, plan.data_baseline_bytes)?;
//!     Ok(())
//! }
//! ```
//!
//! Nor does making one up:
//!
//! ```compile_fail
//! let sealed = stockade_worker::jail::Sealed { mdwe: true, filtered: true };
//! ```
//!
//! Nor does handing one to another thread, to which the layers do not reach:
//!
//! ```compile_fail
//! fn elsewhere(sealed: stockade_worker::jail::Sealed) {
//!     std::thread::spawn(move || drop(sealed));
//! }
//! ```

use stockade_sys::fds::FdsError;
use stockade_sys::fork::Newborn;
use stockade_sys::solo::SingleThreaded;
use stockade_wire::job::{DirectoryGrant, Layer, MissingLayer};
use stockade_wire::limits::GUEST_TEXT_BYTES_MAX;
use stockade_wire::worker::{FromWorker, JailReport, Role};
use stockade_wire::zygote::{Identity, ProcessLimits};

use crate::grants::{GrantError, Grants};
use crate::run::cut;

pub mod capabilities;
pub mod fds;
pub mod identity;
pub mod landlock;
pub mod mdwe;
pub mod namespaces;
pub mod privileges;
pub mod report;
pub mod rlimits;
pub mod seccomp;
pub mod solo;
pub mod template;

pub use capabilities::BoundingSet;
pub use fds::WorkerFds;
pub use namespaces::Namespaces;

/// Everything that decides what one worker's jail looks like.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// What the worker is for; decides the syscall allow-lists.
    pub role: Role,
    /// Its resource limits.
    pub limits: ProcessLimits,
    /// Private writable memory the zygote already had, bytes; `RLIMIT_DATA` counts from there.
    pub data_baseline_bytes: u64,
    /// Ids to take on.
    pub identity: Option<Identity>,
    /// Directories the guest gets, and Landlock must admit.
    pub directories: &'a [DirectoryGrant],
    /// Layers whose absence is a refusal.
    pub require: &'a [Layer],
    /// Landlock ABI below which the worker refuses; 0 accepts none at all.
    pub landlock_abi_min: u32,
    /// The process that must be this one's parent.
    pub supervisor_pid: u32,
    /// The namespaces the zygote entered before the fork.
    pub namespaces: &'a Namespaces,
    /// The capability bounding set the zygote left.
    pub bounding: &'a BoundingSet,
}

/// Why a worker did not lock itself. It must exit.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// A required layer is missing.
    #[error("required layer {} is missing: {}; {}", .0.layer, .0.reason, .0.fix)]
    Missing(MissingLayer),
    /// The descriptor table could not be put in order.
    #[error("descriptors could not be put in order")]
    Fds(#[from] FdsError),
    /// The ids could not be taken on.
    #[error("user {uid} and group {gid} could not be taken on: {call} failed")]
    Identity {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
        /// The call that failed.
        call: &'static str,
        /// What the kernel said.
        #[source]
        errno: nix::errno::Errno,
    },
    /// The supervisor is not the parent (any more).
    #[error("parent is process {found}, not the supervisor {wanted}; whoever asked for this worker is gone")]
    Orphan {
        /// The supervisor.
        wanted: u32,
        /// The parent there is.
        found: u32,
    },
    /// A call that cannot fail on a supported kernel did.
    #[error("{call} failed; Linux 5.14 or later is needed")]
    Kernel {
        /// The call.
        call: &'static str,
        /// What the kernel said.
        #[source]
        errno: nix::errno::Errno,
    },
    /// A granted directory cannot be had.
    #[error(transparent)]
    Grant(#[from] GrantError),
    /// Landlock said yes and a look at `/` was still allowed.
    #[error("Landlock reports full enforcement, yet / could be opened")]
    LandlockHollow,
}

impl LockError {
    /// The refusal as it travels to the supervisor: a missing layer, or a grant that cannot be had.
    #[must_use]
    pub fn into_message(self) -> FromWorker {
        let source = std::error::Error::source(&self).map(|cause| format!(": {cause}")).unwrap_or_default();
        let (layer, fix) = match self {
            Self::Missing(missing) => return FromWorker::LockFailed(missing),
            Self::Grant(error) => {
                return FromWorker::NotGranted(cut(error.to_string(), GUEST_TEXT_BYTES_MAX));
            }
            Self::Fds(_) => ("descriptors", "run on Linux 5.14 or later"),
            Self::Identity { .. } => {
                ("identity", "give the daemon CAP_SETUID and CAP_SETGID, or run it as another user than root")
            }
            Self::Orphan { .. } => ("parent", "none is needed: the worker is ending with its supervisor"),
            Self::Kernel { .. } => ("no-new-privs", "run on Linux 5.14 or later, and do not filter prctl"),
            Self::LandlockHollow => ("landlock", "report this kernel: its Landlock does not do what it says"),
        };
        let reason = format!("{self}{source}");
        FromWorker::LockFailed(MissingLayer { layer: layer.to_owned(), reason, fix: fix.to_owned() })
    }
}

/// Which layers must be there, and which are not.
#[derive(Debug, Clone)]
pub struct Ledger {
    require: Vec<Layer>,
    missing: Vec<MissingLayer>,
}

impl Ledger {
    /// Nothing is missing yet.
    #[must_use]
    pub fn new(require: &[Layer]) -> Self {
        Self { require: require.to_vec(), missing: Vec::new() }
    }

    /// Notes that `layer` is not in force.
    ///
    /// # Errors
    /// When it is required.
    fn lacks(&mut self, layer: Layer, reason: String, fix: &str) -> Result<(), LockError> {
        let missing = MissingLayer { layer: layer.name().to_owned(), reason, fix: fix.to_owned() };
        if self.require.contains(&layer) {
            return Err(LockError::Missing(missing));
        }
        self.missing.push(missing);
        Ok(())
    }
}

/// A worker with every layer on that can be on before its artifact is loaded.
#[derive(Debug)]
pub struct Locked {
    ledger: Ledger,
    role: Role,
    landlock_abi: u32,
    filtered: bool,
    mdwe: bool,
    data_baseline_bytes: u64,
    solo: SingleThreaded,
    grants: Grants,
}

/// A worker that can no longer make memory executable. Guest code is reached with a reference to this only.
#[derive(Debug)]
pub struct Sealed {
    mdwe: bool,
    filtered: bool,
    grants: Grants,
    _solo: SingleThreaded,
}

/// A refusal to lock, with the descriptors if they were settled by then, so that it can be told on the link.
#[derive(Debug)]
pub struct Refusal {
    /// Why.
    pub error: LockError,
    /// The worker's descriptors at their numbers.
    pub fds: Option<WorkerFds>,
}

/// Goes through all layers. Takes a fraction of a millisecond; blocks on nothing but the kernel.
///
/// # Errors
/// When a layer that is required is missing, or one that cannot be done without fails. The process is then
/// half locked and must exit.
pub fn enter(newborn: Newborn, fds: WorkerFds, plan: &Plan<'_>) -> Result<(Locked, WorkerFds), Refusal> {
    let alone = solo::begin(newborn, Ledger::new(plan.require));
    let (bare, fds) = fds::settle(alone, fds, 0).map_err(|error| Refusal { error, fds: None })?;
    match wall_in(bare, plan) {
        Ok(locked) => Ok((locked, fds)),
        Err(error) => Err(Refusal { error, fds: Some(fds) }),
    }
}

fn wall_in(bare: fds::Bare, plan: &Plan<'_>) -> Result<Locked, LockError> {
    let apart = namespaces::inherit(bare, plan.namespaces)?;
    let limited = rlimits::lower(apart, &plan.limits, plan.data_baseline_bytes)?;
    let narrowed = capabilities::narrow(limited, plan.bounding, plan.identity)?;
    let identified = identity::assume(narrowed, plan.identity)?;
    let powerless = capabilities::drop_all(identified)?;
    let unprivileged = privileges::renounce(powerless, plan.supervisor_pid)?;
    let walled = landlock::restrict(unprivileged, plan.directories, plan.landlock_abi_min)?;
    let foreseen = mdwe::foresee(walled)?;
    seccomp::install(foreseen, plan)
}

impl Locked {
    /// The proof that the process has one thread.
    #[must_use]
    pub const fn solo(&self) -> &SingleThreaded {
        &self.solo
    }

    /// What the kernel says about this process, layer by layer.
    #[must_use]
    pub fn report(&self, namespaces: &Namespaces) -> JailReport {
        report::read_back(&self.ledger, self.landlock_abi, self.filtered, namespaces)
    }

    /// Lowers the process's private memory to `data_bytes` above what the zygote had, and gives up making memory
    /// executable and every call that loading needed and running does not. To be called once the job is loaded: the
    /// worker was locked for any job, and this one may have asked for less.
    ///
    /// A compile worker never runs guest code and is not sealed.
    ///
    /// # Errors
    /// When a required part of it is missing. The worker must exit.
    pub fn seal(self, data_bytes: u64) -> Result<Sealed, LockError> {
        let fitted = rlimits::fit(self, data_bytes)?;
        seccomp::seal(mdwe::refuse_executable(fitted)?)
    }

    /// As [`Locked::seal`], for a worker that stays for further jobs: it keeps the call that takes orders.
    ///
    /// # Errors
    /// As [`Locked::seal`].
    pub fn seal_to_stay(self, data_bytes: u64) -> Result<Sealed, LockError> {
        let fitted = rlimits::fit(self, data_bytes)?;
        seccomp::seal_to_stay(mdwe::refuse_executable(fitted)?)
    }
}

impl Sealed {
    /// `PR_SET_MDWE` took hold.
    #[must_use]
    pub const fn mdwe(&self) -> bool {
        self.mdwe
    }

    /// The granted directories, those the wall admits.
    pub(crate) fn into_grants(self) -> Grants {
        self.grants
    }

    /// The final filter is in force.
    #[must_use]
    pub const fn filtered(&self) -> bool {
        self.filtered
    }
}
