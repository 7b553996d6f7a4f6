//! Layer: no capability in any set.
//!
//! Owns: the five capability sets.
//! Never: keeps one back.

use caps::errors::CapsError;
use caps::{CapSet, Capability};
use stockade_sys::solo::SingleThreaded;
use stockade_wire::job::Layer;

use super::{Ledger, LockError, identity::Identified, rlimits::Limited};

/// The bounding set is empty, or the process had no right to empty it.
#[derive(Debug)]
pub struct Narrowed {
    pub(super) ledger: Ledger,
    pub(super) solo: SingleThreaded,
}

/// No capability is left.
#[derive(Debug)]
pub struct Powerless {
    pub(super) ledger: Ledger,
    pub(super) solo: SingleThreaded,
}

/// Empties the bounding set where the process may, which takes `CAP_SETPCAP`.
///
/// Without that right the set stays and grants nothing: it only bounds what an exec could gain, and a worker
/// has no capability, cannot gain one (`no_new_privs`) and cannot exec.
#[must_use]
pub fn narrow(limited: Limited) -> Narrowed {
    let Limited { ledger, solo } = limited;
    if may_narrow() {
        // What is left is seen when the sets are read back.
        let _ = caps::clear(None, CapSet::Bounding);
    }
    Narrowed { ledger, solo }
}

/// Empties the bounding set of the zygote, whose workers inherit the empty set and need not do it again.
pub fn narrow_before_forking(_solo: &SingleThreaded) {
    if may_narrow() {
        let _ = caps::clear(None, CapSet::Bounding);
    }
}

fn may_narrow() -> bool {
    caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).unwrap_or(false)
        && caps::has_cap(None, CapSet::Bounding, Capability::CAP_CHOWN).unwrap_or(true)
}

/// Empties the ambient, inheritable, permitted and effective sets.
///
/// # Errors
/// When the kernel refuses and the layer is required.
pub fn drop_all(identified: Identified) -> Result<Powerless, LockError> {
    let Identified { mut ledger, solo } = identified;
    if let Err(error) = clear_all() {
        ledger.lacks(Layer::Capabilities, format!("{error}"), "do not filter capset and prctl")?;
    }
    Ok(Powerless { ledger, solo })
}

fn clear_all() -> Result<(), CapsError> {
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    // Permitted takes effective with it.
    caps::clear(None, CapSet::Permitted)
}

/// Whether every set that could grant something is empty, as the kernel has it.
#[must_use]
pub fn all_empty() -> bool {
    stockade_sys::prctl::capabilities() == Ok([0; 3])
}
