//! Layer: resource limits.
//!
//! Owns: core, fsize, nofile and data.
//! Never: sets `RLIMIT_AS`: Wasmtime reserves address space by the gigabyte without using it.

use nix::sys::signal::Signal;
use rlimit::Resource;
use stockade_sys::signals::ignore;
use stockade_sys::solo::SingleThreaded;
use stockade_wire::job::Layer;
use stockade_wire::zygote::ProcessLimits;

use super::{Ledger, LockError, namespaces::Apart};

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
            ledger.lacks(
                Layer::Rlimits,
                format!("{name} could not be limited to {value}: {error}"),
                "do not filter prlimit64",
            )?;
        }
    }
    // A file that reaches its limit is the guest's errno (EFBIG), not the worker's death.
    ignore(Signal::SIGXFSZ).map_err(|errno| LockError::Kernel { call: "rt_sigaction(SIGXFSZ)", errno })?;
    Ok(Limited { ledger, solo })
}

fn lower_one(resource: Resource, value: u64) -> std::io::Result<()> {
    let (_, hard) = resource.get()?;
    // A stricter limit the process was started with stays.
    let value = value.min(hard);
    resource.set(value, value)
}
