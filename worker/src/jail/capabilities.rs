//! Layer: no capability in any set.
//!
//! Owns: the five capability sets.
//! Never: keeps one back.

use caps::errors::CapsError;
use caps::{CapSet, Capability};
use stockade_sys::solo::SingleThreaded;
use stockade_wire::job::Layer;
use stockade_wire::zygote::Identity;

use super::{Ledger, LockError, identity::Identified, rlimits::Limited};

const FIX: &str = "give the daemon CAP_SETPCAP, or do not require capabilities";

/// What became of the bounding set in the zygote, whose workers inherit it.
#[derive(Debug, Clone)]
pub struct BoundingSet {
    /// Why it is not empty.
    kept: Option<String>,
}

/// The bounding set is empty, or put down as missing, or of no use to anybody.
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

/// Empties the bounding set of the zygote where it may, which takes `CAP_SETPCAP`.
#[must_use]
pub fn narrow_before_forking(_solo: &SingleThreaded) -> BoundingSet {
    if is_narrow() {
        return BoundingSet { kept: None };
    }
    let cleared = match caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP) {
        Ok(true) => caps::clear(None, CapSet::Bounding).map_err(|error| error.to_string()),
        Ok(false) => Err("the daemon has no CAP_SETPCAP".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    let why = cleared.err().unwrap_or_else(|| "the kernel kept some of it".to_owned());
    let kept = (!is_narrow()).then(|| format!("the bounding set cannot be emptied: {why}"));
    BoundingSet { kept }
}

fn is_narrow() -> bool {
    caps::read(None, CapSet::Bounding).is_ok_and(|left| left.is_empty())
}

/// Puts down a bounding set that a process of root's has kept.
///
/// Of one that takes on no other ids it is left alone: it only bounds what an exec could gain, and a worker has no
/// capability, cannot gain one (`no_new_privs`) and cannot exec.
///
/// # Errors
/// When it was kept and capabilities are required.
pub fn narrow(
    limited: Limited,
    bounding: &BoundingSet,
    identity: Option<Identity>,
) -> Result<Narrowed, LockError> {
    let Limited { mut ledger, solo } = limited;
    if let (Some(reason), Some(_)) = (&bounding.kept, identity) {
        ledger.lacks(Layer::Capabilities, reason.clone(), FIX)?;
    }
    Ok(Narrowed { ledger, solo })
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
    // Asked first: nobody needs `capset` who has none, and a service manager may refuse it.
    if all_empty() {
        return Ok(());
    }
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
