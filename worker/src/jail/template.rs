//! The jail of a template and of what it forks.
//!
//! Owns: which layers a fork inherits and which it must enter itself.
//! Never: lets a fork get by with fewer layers than a worker that the zygote forked.
//!
//! Inherited across a fork, by the kernel's rules: Landlock's domain, the filters, `no_new_privs`, ids and
//! capabilities, resource limits, not being dumpable, MDWE, namespaces. Not inherited: the parent-death signal, and
//! descriptors are inherited too well. So each fork closes all descriptors but its own and the artifact, which the
//! module it inherited is mapped from, binds itself to the
//! supervisor, and gives up with the final filter what its template needed to fork. What is inherited the first fork
//! reports, as every worker does, and then one now and then: that the others have it too is the same rule.

use stockade_sys::fork::Newborn;
use stockade_sys::solo::SingleThreaded;
use stockade_wire::worker::JailReport;

use super::seccomp::{Policy, narrow};
use super::{
    Ledger, LockError, Locked, Namespaces, Refusal, Sealed, WorkerFds, fds, mdwe, privileges, report,
    rlimits, solo,
};
use crate::grants::Grants;

/// A locked process that has its module, can make no more memory executable, and may fork. It runs no guest code but,
/// once it is [`Barred`], its module's initialiser.
#[derive(Debug)]
pub struct Stem {
    ledger: Ledger,
    landlock_abi: u32,
    filtered: bool,
    mdwe: bool,
    data_baseline_bytes: u64,
    solo: SingleThreaded,
}

impl Stem {
    /// The proof that there is one thread to fork from.
    #[must_use]
    pub const fn solo(&self) -> &SingleThreaded {
        &self.solo
    }

    /// Gives up every call that makes memory executable, and those that only loading needed. Its forks inherit that.
    ///
    /// # Errors
    /// When the filter is refused although the first one was not. The process must exit.
    pub fn bar(&mut self) -> Result<Barred<'_>, LockError> {
        self.filtered = narrow(&mut self.ledger, Policy::Initialise, self.filtered, &self.solo)?;
        Ok(Barred { _stem: self })
    }
}

/// Proof that this template makes no memory executable by any call. A module's initialiser is reached with a reference to
/// this only.
///
/// It is less than [`Sealed`]: the calls that fork are open, since the forks are what it is for.
#[derive(Debug)]
pub struct Barred<'a> {
    _stem: &'a Stem,
}

/// The number a template's artifact must be at: the first that is free in a locked worker.
pub const ARTIFACT_FD: u32 = fds::WORKER_FDS;

/// Ends loading: from here on the process and its forks make no memory executable.
///
/// # Errors
/// When a required part of it is missing. The process must exit.
pub fn take_root(locked: Locked) -> Result<Stem, LockError> {
    let Locked { mut ledger, landlock_abi, filtered, mdwe: there, data_baseline_bytes, solo, .. } = locked;
    let mdwe = mdwe::set(&mut ledger, there)?;
    Ok(Stem { ledger, landlock_abi, filtered, mdwe, data_baseline_bytes, solo })
}

/// A fork of a template with every layer on but the one that its job decides.
#[derive(Debug)]
pub struct Branch {
    ledger: Ledger,
    filtered: bool,
    mdwe: bool,
    data_baseline_bytes: u64,
    solo: SingleThreaded,
}

impl Branch {
    /// Lowers the process's private memory to `data_bytes` above what the zygote had. To be called once the job is
    /// there, which may have asked for less than the template was made for.
    ///
    /// # Errors
    /// When the kernel refuses although limits are set. The worker must exit.
    pub fn fit(self, data_bytes: u64) -> Result<Sealed, LockError> {
        let Self { mut ledger, filtered, mdwe, data_baseline_bytes, solo } = self;
        rlimits::lower_data(&mut ledger, data_baseline_bytes.saturating_add(data_bytes))?;
        Ok(Sealed { mdwe, filtered, grants: Grants::default(), _solo: solo })
    }
}

/// Makes a newborn fork of a template a locked worker that can run nothing but its module. With `namespaces`, which are
/// its zygote's, it looks at itself: the report is what the kernel said of it before the final filter.
///
/// # Errors
/// As for [`super::enter`].
pub fn branch(
    newborn: Newborn,
    fds: WorkerFds,
    stem: &Stem,
    supervisor_pid: u32,
    namespaces: Option<&Namespaces>,
) -> Result<(Branch, Option<JailReport>, WorkerFds), Refusal> {
    let alone = solo::begin(newborn, stem.ledger.clone());
    let (bare, fds) = fds::settle(alone, fds, 1).map_err(|error| Refusal { error, fds: None })?;
    match wall_in(bare, stem, supervisor_pid, namespaces) {
        Ok((branch, report)) => Ok((branch, report, fds)),
        Err(error) => Err(Refusal { error, fds: Some(fds) }),
    }
}

fn wall_in(
    bare: fds::Bare,
    stem: &Stem,
    supervisor_pid: u32,
    namespaces: Option<&Namespaces>,
) -> Result<(Branch, Option<JailReport>), LockError> {
    let fds::Bare { mut ledger, solo } = bare;
    privileges::die_with(supervisor_pid)?;
    let report =
        namespaces.map(|namespaces| report::read_back(&ledger, stem.landlock_abi, stem.filtered, namespaces));
    let filtered = narrow(&mut ledger, Policy::ForkedRun, stem.filtered, &solo)?;
    let Stem { mdwe, data_baseline_bytes, .. } = *stem;
    Ok((Branch { ledger, filtered, mdwe, data_baseline_bytes, solo }, report))
}
