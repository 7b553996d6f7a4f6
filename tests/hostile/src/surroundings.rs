//! Places a daemon may be started in, where a wall cannot be had.
//!
//! Owns: taking away from the calling process what a container, a service manager or an administrator may have.
//! Never: gives anything back: the process is to exec the daemon next.
//!
//! | name | what is gone |
//! |---|---|
//! | `no-seccomp` | the call `seccomp` is refused, by a filter that is already there |
//! | `no-unshare` | the call `unshare` is |
//! | `no-clone3` | the call `clone3`, whose argument a filter cannot look into, is answered with ENOSYS |
//! | `no-capability:NAME`, `no-capability:all` | that capability, and every way to it |
//! | `unprivileged` | root |
//! | `hidden-proc` | root, and the sight of every process that cannot be traced (`hidepid=2`) |

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};

use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use stockade_worker::jail::seccomp::syscall_number;

/// A user who is neither root nor whom workers run as.
pub const SOMEBODY: u32 = 47_114;

/// Takes away what the place `name` lacks.
///
/// # Errors
/// When there is no place of that name, or this process cannot make one.
pub fn enter(name: &str) -> Result<(), Error> {
    match name.split_once(':').unwrap_or((name, "")) {
        ("no-seccomp", _) => refuse("seccomp", Errno::EPERM),
        ("no-unshare", _) => refuse("unshare", Errno::EPERM),
        ("no-clone3", _) => refuse("clone3", Errno::ENOSYS),
        ("no-capability", "all") => caps::all().into_iter().try_for_each(lose),
        ("no-capability", name) => lose(name.parse().map_err(Error::other)?),
        ("unprivileged", _) => become_somebody(),
        ("hidden-proc", _) => hide_processes().and_then(|()| become_somebody()),
        _ => Err(ErrorKind::InvalidInput.into()),
    }
}

fn refuse(call: &str, errno: Errno) -> Result<(), Error> {
    let number = syscall_number(call).ok_or(ErrorKind::Unsupported)?;
    let answer = SeccompAction::Errno(errno as u32);
    let architecture = std::env::consts::ARCH.try_into().map_err(Error::other)?;
    let filter = SeccompFilter::new(
        BTreeMap::from([(i64::from(number), Vec::new())]),
        SeccompAction::Allow,
        answer,
        architecture,
    );
    let program: BpfProgram = filter.and_then(TryInto::try_into).map_err(Error::other)?;
    seccompiler::apply_filter(&program).map_err(Error::other)
}

/// What is not in the bounding set, root does not get by an exec.
fn lose(capability: Capability) -> Result<(), Error> {
    caps::drop(None, CapSet::Inheritable, capability).map_err(Error::other)?;
    caps::drop(None, CapSet::Bounding, capability).map_err(Error::other)
}

fn hide_processes() -> Result<(), Error> {
    let none: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), Some("hidepid=2"))?;
    Ok(())
}

fn become_somebody() -> Result<(), Error> {
    let (user, group) = (Uid::from_raw(SOMEBODY), Gid::from_raw(SOMEBODY));
    setgroups(&[])?;
    setresgid(group, group, group)?;
    Ok(setresuid(user, user, user)?)
}
