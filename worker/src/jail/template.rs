//! The jail of a template and of what it forks.
//!
//! Owns: which layers a fork inherits and which it must enter itself.
//! Never: lets a fork get by with fewer layers than a worker that the zygote forked.
//!
//! Inherited across a fork, by the kernel's rules: Landlock's domain, the filters, `no_new_privs`, ids and
//! capabilities, resource limits, not being dumpable, MDWE, namespaces. Not inherited: the parent-death signal, and
//! descriptors are inherited too well. So each fork closes all descriptors but its own and the artifact, which the
//! module it inherited is mapped from, binds itself to the
//! supervisor, looks at itself as every worker does, and gives up with the final filter what its template needed to
//! fork.

use stockade_sys::fork::Newborn;
use stockade_sys::solo::SingleThreaded;
use stockade_wire::worker::JailReport;

use super::seccomp::{Policy, narrow, refuse_code};
use super::{Ledger, LockError, Locked, Namespaces, Refusal, Sealed, WorkerFds, fds, privileges, report, solo};

/// A locked process that has its module, can make no more memory executable, and may fork. It runs no guest code.
#[derive(Debug)]
pub struct Stem {
    ledger: Ledger,
    landlock_abi: u32,
    filtered: bool,
    mdwe: bool,
    solo: SingleThreaded,
}

impl Stem {
    /// The proof that there is one thread to fork from.
    #[must_use]
    pub const fn solo(&self) -> &SingleThreaded {
        &self.solo
    }
}

/// The number a template's artifact must be at: the first that is free in a locked worker.
pub const ARTIFACT_FD: u32 = fds::WORKER_FDS;

/// Ends loading: from here on the process and its forks make no memory executable.
///
/// # Errors
/// When a required part of it is missing. The process must exit.
pub fn take_root(locked: Locked) -> Result<Stem, LockError> {
    let Locked { mut ledger, landlock_abi, filtered, solo, .. } = locked;
    let mdwe = refuse_code(&mut ledger)?;
    Ok(Stem { ledger, landlock_abi, filtered, mdwe, solo })
}

/// A fork of a template with every layer on.
#[derive(Debug)]
pub struct Branch {
    /// What the kernel said of it before the final filter.
    pub report: JailReport,
    /// The right to run guest code.
    pub sealed: Sealed,
}

/// Makes a newborn fork of a template a sealed worker.
///
/// # Errors
/// As for [`super::enter`].
pub fn branch(
    newborn: Newborn,
    fds: WorkerFds,
    stem: &Stem,
    supervisor_pid: u32,
    namespaces: &Namespaces,
) -> Result<(Branch, WorkerFds), Refusal> {
    let alone = solo::begin(newborn, stem.ledger.clone());
    let (bare, fds) = fds::settle(alone, fds, 1).map_err(|error| Refusal { error, fds: None })?;
    match wall_in(bare, stem, supervisor_pid, namespaces) {
        Ok(branch) => Ok((branch, fds)),
        Err(error) => Err(Refusal { error, fds: Some(fds) }),
    }
}

fn wall_in(
    bare: fds::Bare,
    stem: &Stem,
    supervisor_pid: u32,
    namespaces: &Namespaces,
) -> Result<Branch, LockError> {
    let fds::Bare { mut ledger, solo } = bare;
    privileges::die_with(supervisor_pid)?;
    let report = report::read_back(&ledger, stem.landlock_abi, namespaces);
    let filtered = narrow(&mut ledger, Policy::ForkedRun, stem.filtered, &solo)?;
    Ok(Branch { report, sealed: Sealed { mdwe: stem.mdwe, filtered, _solo: solo } })
}
