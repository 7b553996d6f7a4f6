//! Layer: resource limits.
//!
//! Owns: core, fsize, nofile and data.
//! Never: sets `RLIMIT_AS`: Wasmtime reserves address space by the gigabyte without using it; `RLIMIT_STACK`: whoever starts the
//! zygote does, see `run/stack.rs`. What is on the main thread's stack, 20 MiB at most, does not count as data.

use nix::sys::signal::Signal;
use rlimit::Resource;
use stockade_sys::signals::ignore;
use stockade_sys::solo::SingleThreaded;
use stockade_wire::job::Layer;
use stockade_wire::worker::Role;
use stockade_wire::zygote::ProcessLimits;

use super::{Ledger, LockError, Locked, namespaces::Apart};
use crate::grants::Grants;

/// The limits that are set, with the names reports use.
pub const NAMED: [(&str, Resource); 4] = [
    ("core", Resource::CORE),
    ("fsize", Resource::FSIZE),
    ("nofile", Resource::NOFILE),
    ("data", Resource::DATA),
];

/// Limits are lowered and cannot be raised again: hard equals soft.
#[derive(Debug)]
pub struct Limited {
    pub(super) ledger: Ledger,
    pub(super) solo: SingleThreaded,
}

/// Private memory is limited to what this job may have, where the worker was made for any.
#[derive(Debug)]
pub struct Fitted {
    pub(super) ledger: Ledger,
    pub(super) solo: SingleThreaded,
    pub(super) role: Role,
    pub(super) filtered: bool,
    pub(super) mdwe: bool,
    pub(super) grants: Grants,
}

/// Lowers the limits. `data_baseline_bytes` is what the process has before any job.
///
/// # Errors
/// When one cannot be set and limits are required.
pub fn lower(apart: Apart, limits: &ProcessLimits, data_baseline_bytes: u64) -> Result<Limited, LockError> {
    let Apart { mut ledger, solo } = apart;
    let data = data_baseline_bytes.saturating_add(limits.data_bytes);
    let wanted = [0, limits.file_bytes, limits.open_files, data];
    for ((name, resource), value) in NAMED.into_iter().zip(wanted) {
        if let Err(error) = lower_one(resource, value) {
            ledger.lacks(Layer::Rlimits, format!("{name} could not be limited to {value}: {error}"), FIX)?;
        }
    }
    // A file that reaches its limit is the guest's errno (EFBIG), not the worker's death.
    ignore(Signal::SIGXFSZ).map_err(|errno| LockError::Kernel { call: "rt_sigaction(SIGXFSZ)", errno })?;
    Ok(Limited { ledger, solo })
}

/// Lowers `RLIMIT_DATA` once more: to `data_bytes` above what the zygote had.
///
/// # Errors
/// When it cannot be set, unless limits could not be set before either and the operator does without.
pub fn fit(locked: Locked, data_bytes: u64) -> Result<Fitted, LockError> {
    let Locked { mut ledger, role, filtered, mdwe, data_baseline_bytes, solo, grants, .. } = locked;
    lower_data(&mut ledger, data_baseline_bytes.saturating_add(data_bytes))?;
    Ok(Fitted { ledger, solo, role, filtered, mdwe, grants })
}

/// Lowers `RLIMIT_DATA` of a process whose limits are set.
///
/// # Errors
/// As for [`fit`].
pub(super) fn lower_data(ledger: &mut Ledger, data: u64) -> Result<(), LockError> {
    if let Err(error) = lower_one(Resource::DATA, data)
        && !ledger.missing.iter().any(|missing| missing.layer == Layer::Rlimits.name())
    {
        // With the first limits set, a refused further one is not a missing feature: never go on without it.
        ledger.require.push(Layer::Rlimits);
        let reason = format!("data could not be limited to {data}: {error}");
        ledger.lacks(Layer::Rlimits, reason, FIX)?;
    }
    Ok(())
}

const FIX: &str = "do not filter prlimit64";

fn lower_one(resource: Resource, value: u64) -> std::io::Result<()> {
    let (_, hard) = resource.get()?;
    // A stricter limit the process was started with stays.
    let value = value.min(hard);
    resource.set(value, value)
}
