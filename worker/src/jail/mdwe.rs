//! Layer: no memory becomes executable that was not, by the kernel's own rule (`PR_SET_MDWE`).
//!
//! Owns: asking for it when the process locks itself, setting it when it is sealed.
//! Never: sets it before the artifact is loaded, which makes memory executable.

use stockade_sys::prctl::{mdwe, set_mdwe};
use stockade_sys::solo::SingleThreaded;
use stockade_wire::job::Layer;
use stockade_wire::worker::Role;

use super::{Ledger, LockError, landlock::Walled, rlimits::Fitted};
use crate::grants::Grants;

/// Whether the kernel can refuse executable memory is known, and put down where it cannot.
#[derive(Debug)]
pub struct Foreseen {
    pub(super) ledger: Ledger,
    pub(super) solo: SingleThreaded,
    pub(super) landlock_abi: u32,
    pub(super) grants: Grants,
    pub(super) mdwe: bool,
}

/// The kernel refuses executable memory, or the operator does without that.
#[derive(Debug)]
pub struct Inexecutable {
    pub(super) ledger: Ledger,
    pub(super) solo: SingleThreaded,
    pub(super) role: Role,
    pub(super) filtered: bool,
    pub(super) mdwe: bool,
    pub(super) grants: Grants,
}

/// Asks whether it can be set later, while there is still somebody to tell.
///
/// # Errors
/// When it cannot and it is required.
pub fn foresee(walled: Walled) -> Result<Foreseen, LockError> {
    let Walled { mut ledger, solo, landlock_abi, grants } = walled;
    let there = mdwe();
    if let Err(errno) = there {
        let reason = format!("the kernel has no PR_SET_MDWE: {errno}");
        ledger.lacks(Layer::Mdwe, reason, "boot Linux 6.3 or later, or do not require mdwe")?;
    }
    Ok(Foreseen { ledger, solo, landlock_abi, grants, mdwe: there.is_ok() })
}

/// Sets it, where the kernel has it.
///
/// # Errors
/// When the kernel has it, refuses it, and it is required.
pub fn refuse_executable(fitted: Fitted) -> Result<Inexecutable, LockError> {
    let Fitted { mut ledger, role, filtered, mdwe: there, solo, grants } = fitted;
    let mdwe = set(&mut ledger, there)?;
    Ok(Inexecutable { ledger, solo, role, filtered, mdwe, grants })
}

/// Sets it where it is `there`, for this process and its forks. Whether it holds.
///
/// # Errors
/// As for [`refuse_executable`].
pub(super) fn set(ledger: &mut Ledger, there: bool) -> Result<bool, LockError> {
    let set = there && set_mdwe().is_ok() && mdwe().unwrap_or(false);
    if there && !set {
        ledger.lacks(Layer::Mdwe, "PR_SET_MDWE was refused".to_owned(), "do not require mdwe")?;
    }
    Ok(set)
}
