//! Layer: Landlock, every right the kernel and the crate know handled, rules for granted directories only.
//!
//! Owns: the ruleset.
//! Never: lets the crate weaken it: every right of the ABI in force is a hard requirement.

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, RestrictionStatus,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags,
};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use stockade_sys::prctl::landlock_abi;
use stockade_sys::solo::SingleThreaded;
use stockade_wire::job::{DirectoryGrant, Layer};

use super::{Ledger, LockError, privileges::Unprivileged};
use crate::grants::Grants;

/// The newest ABI whose rights the crate knows; a newer kernel's further rights are not handled.
const ABI_KNOWN_MAX: u32 = ABI::V9 as u32;

/// The file system is out of reach but for the grants.
#[derive(Debug)]
pub struct Walled {
    pub(super) ledger: Ledger,
    pub(super) solo: SingleThreaded,
    pub(super) landlock_abi: u32,
    pub(super) grants: Grants,
}

/// The ABI that would be enforced on this kernel: 0 without Landlock.
#[must_use]
pub fn abi_in_force() -> u32 {
    landlock_abi().map_or(0, |abi| abi.min(ABI_KNOWN_MAX))
}

/// Opens `directories` and restricts the process to them, with all rights of the ABI in force handled.
///
/// # Errors
/// When the ABI is below `abi_min` or the ruleset cannot be enforced, and Landlock is required or `abi_min` is
/// not 0; when a granted directory cannot be opened; when the wall turns out not to be there.
pub fn restrict(
    unprivileged: Unprivileged,
    directories: &[DirectoryGrant],
    abi_min: u32,
) -> Result<Walled, LockError> {
    let Unprivileged { mut ledger, solo } = unprivileged;
    // Whether or not there will be a wall: the guest gets what is opened here.
    let grants = Grants::open(directories)?;
    let abi = abi_in_force();
    if abi < abi_min || abi == 0 {
        if abi_min > 0 {
            // A minimum is a requirement by another name.
            ledger.require.push(Layer::Landlock);
        }
        let (reason, fix) = shortfall(landlock_abi(), abi_min);
        ledger.lacks(Layer::Landlock, reason, fix)?;
        return Ok(Walled { ledger, solo, landlock_abi: 0, grants });
    }
    match enforce(&grants, abi) {
        Ok(RestrictionStatus { ruleset: RulesetStatus::FullyEnforced, no_new_privs: true, .. }) => {}
        Ok(status) => {
            let reason = format!("the ruleset is {:?}, not fully enforced", status.ruleset);
            ledger.lacks(Layer::Landlock, reason, UPDATE)?;
            return Ok(Walled { ledger, solo, landlock_abi: 0, grants });
        }
        Err(error) => {
            ledger.lacks(Layer::Landlock, with_source(&error), UPDATE)?;
            return Ok(Walled { ledger, solo, landlock_abi: 0, grants });
        }
    }
    if !directories.iter().any(|grant| grant.host == "/") {
        look_at_root()?;
    }
    Ok(Walled { ledger, solo, landlock_abi: abi, grants })
}

/// What to do where the kernel has none, or whoever started this process keeps it from it.
pub const FIX: &str = "boot a kernel with CONFIG_SECURITY_LANDLOCK (Linux 5.13 or later); in a systemd unit, add the \
                       landlock_ calls to SystemCallFilter=";

/// What to do where the kernel has it and does not use it.
pub const FIX_AT_BOOT: &str = "add landlock to the lsm= list of the kernel command line";

/// For a kernel that has Landlock and does not do what its ABI says.
const UPDATE: &str = "boot a kernel with a later update";

/// Why the ABI that was `found` is not enough, and what to do about it.
fn shortfall(found: Result<u32, Errno>, abi_min: u32) -> (String, &'static str) {
    match found {
        Ok(abi) => (
            format!("the kernel has Landlock ABI {abi}, and jail.landlock_abi_min asks for {abi_min}"),
            "boot a newer kernel, or lower jail.landlock_abi_min",
        ),
        Err(Errno::EOPNOTSUPP) => {
            ("the kernel has Landlock but it was not enabled at boot".to_owned(), FIX_AT_BOOT)
        }
        Err(errno) => (format!("landlock_create_ruleset failed: {errno}"), FIX),
    }
}

fn with_source(error: &RulesetError) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    format!("{error}{source}")
}

/// What a guest may do below a granted directory. Never: execute, devices, sockets, pipes.
fn rights(writable: bool, abi: u32) -> BitFlags<AccessFs> {
    let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let change = make_bitflags!(AccessFs::{
        WriteFile | RemoveDir | RemoveFile | MakeDir | MakeReg | MakeSym | Refer | Truncate
    });
    let wanted = if writable { read | change } else { read };
    // Refer came with ABI 2 and Truncate with 3; before, the kernel denies the one and cannot deny the other.
    wanted & AccessFs::from_all(version(abi))
}

fn version(abi: u32) -> ABI {
    ABI::from(i32::try_from(abi).unwrap_or(i32::MAX))
}

fn enforce(grants: &Grants, abi: u32) -> Result<RestrictionStatus, RulesetError> {
    let (number, abi) = (abi, version(abi));
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(abi))?;
    // Asking for none at all is an error to the crate.
    if !AccessNet::from_all(abi).is_empty() {
        ruleset = ruleset.handle_access(AccessNet::from_all(abi))?;
    }
    if !Scope::from_all(abi).is_empty() {
        ruleset = ruleset.scope(Scope::from_all(abi))?;
    }
    let mut created = ruleset.create()?;
    for grant in grants.iter() {
        created = created.add_rule(PathBeneath::new(grant.directory(), rights(grant.writable(), number)))?;
    }
    created.restrict_self()
}

fn look_at_root() -> Result<(), LockError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    match open("/", flags, Mode::empty()) {
        Err(_) => Ok(()),
        Ok(_) => Err(LockError::LandlockHollow),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortfall_says_what_is_short_and_what_helps() {
        let (reason, fix) = shortfall(Ok(7), 9);
        assert_eq!(reason, "the kernel has Landlock ABI 7, and jail.landlock_abi_min asks for 9");
        assert_eq!(fix, "boot a newer kernel, or lower jail.landlock_abi_min");
        let (reason, fix) = shortfall(Err(Errno::EOPNOTSUPP), 1);
        assert!(reason.contains("not enabled at boot") && fix.contains("lsm="), "{reason}; {fix}");
        let (reason, fix) = shortfall(Err(Errno::ENOSYS), 1);
        assert!(reason.contains("ENOSYS") && fix.contains("5.13"), "{reason}; {fix}");
    }
}
