//! Layer: the ids a worker runs under, where the supervisor has others to give.
//!
//! Owns: real, effective and saved ids and supplementary groups.
//! Never: chooses an id.

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use stockade_sys::solo::SingleThreaded;
use stockade_wire::zygote::Identity;

use super::{Ledger, LockError, capabilities::Narrowed};

/// The process has the ids it will keep.
#[derive(Debug)]
pub struct Identified {
    pub(super) ledger: Ledger,
    pub(super) solo: SingleThreaded,
}

/// Takes on `identity`, groups first: afterwards the right to change them is gone.
///
/// # Errors
/// When the kernel refuses. There is no going on with ids that were not asked for.
pub fn assume(narrowed: Narrowed, identity: Option<Identity>) -> Result<Identified, LockError> {
    let Narrowed { ledger, solo } = narrowed;
    if let Some(Identity { uid, gid }) = identity {
        let failed = |call| move |errno: Errno| LockError::Identity { uid, gid, call, errno };
        let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
        setgroups(&[]).map_err(failed("setgroups"))?;
        setresgid(group, group, group).map_err(failed("setresgid"))?;
        setresuid(user, user, user).map_err(failed("setresuid"))?;
    }
    Ok(Identified { ledger, solo })
}
