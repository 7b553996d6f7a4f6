//! Layer: network, IPC and UTS namespaces apart from the host's. Entered once by the zygote; workers inherit.
//!
//! Owns: the one `unshare`, the identity map of an unprivileged user namespace, why it did not work.
//! Never: is needed: seccomp and Landlock must hold without it.
//!
//! Who enters a user namespace of its own has every capability in it, and memory that belongs to the namespace before. An
//! exec sets both right: the capabilities go, without `capset`, which a service manager's filter may refuse; and the new
//! program's memory is the new namespace's, whose owner, the daemon's user, may see the process in `/proc` although it is not
//! dumpable and others' processes are hidden there (`hidepid=`, `ProtectProc=`). So [`Namespaces::want_an_exec`].

use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};
use stockade_sys::solo::SingleThreaded;
use stockade_wire::job::Layer;
use stockade_wire::zygote::NamespacePolicy;

use super::{Ledger, LockError, fds::Bare};

/// What was entered, and why not the rest.
#[derive(Debug, Clone)]
pub struct Namespaces {
    entered: &'static [&'static str],
    missing: Option<Missing>,
}

#[derive(Debug, Clone)]
struct Missing {
    reason: String,
    fix: &'static str,
}

/// Why the zygote cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum NamespacesError {
    /// The new user namespace has no map: the process would be nobody in it.
    #[error("a user namespace was entered but {file} could not be written; set namespaces to off")]
    Map {
        /// The file.
        file: &'static str,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
}

const FIX: &str = "allow unprivileged user namespaces, run the daemon as root, or do not require namespaces";

/// Why a root that lacks the capability for it does not enter them.
pub const ROOT_WITHOUT_PRIVILEGE: &str = "the daemon is root without CAP_SYS_ADMIN: entering them would take a user \
     namespace, in which workers could not take on ids of their own";

/// What to do where a filter, of a container or a service manager, is in the way of somebody who may.
const FIX_OF_PRIVILEGED: &str =
    "allow the daemon's unit or container the unshare call, or do not require namespaces";

/// What to do about a root that may not.
pub const FIX_OF_ROOT: &str =
    "give the daemon CAP_SYS_ADMIN, run it as another user than root, or do not require namespaces";

impl Namespaces {
    /// Those that an unprivileged process entered before it exec'd itself.
    #[must_use]
    pub const fn entered_before_the_exec() -> Self {
        Self { entered: WITH_USER, missing: None }
    }

    /// Whether they were entered by way of a user namespace.
    #[must_use]
    pub fn want_an_exec(&self) -> bool {
        self.entered == WITH_USER
    }

    /// Names of those entered.
    #[must_use]
    pub fn entered(&self) -> Vec<String> {
        self.entered.iter().map(|name| (*name).to_owned()).collect()
    }

    /// Why they were not entered.
    #[must_use]
    pub fn missing(&self) -> Option<&str> {
        self.missing.as_ref().map(|missing| missing.reason.as_str())
    }
}

/// What an unprivileged process enters.
const WITH_USER: &[&str] = &["net", "ipc", "uts", "user"];

/// The process is in the namespaces its zygote entered, and those it did not enter are put down.
#[derive(Debug)]
pub struct Apart {
    pub(super) ledger: Ledger,
    pub(super) solo: SingleThreaded,
}

/// Puts down what the zygote could not enter.
///
/// # Errors
/// When there is such a thing and namespaces are required.
pub fn inherit(bare: Bare, namespaces: &Namespaces) -> Result<Apart, LockError> {
    let Bare { mut ledger, solo } = bare;
    if let Some(Missing { reason, fix }) = &namespaces.missing {
        ledger.lacks(Layer::Namespaces, reason.clone(), fix)?;
    }
    Ok(Apart { ledger, solo })
}

/// Enters them all in one call, or none. Where workers are to take on `other_ids` than this process's, a user
/// namespace is not for them: a process without privilege maps its own ids into one, and no others are there then.
///
/// # Errors
/// When a user namespace was entered that cannot be used. The process must exit.
pub fn enter(
    _solo: &SingleThreaded,
    policy: NamespacePolicy,
    other_ids: bool,
) -> Result<Namespaces, NamespacesError> {
    let without = |reason, fix| Ok(Namespaces { entered: &[], missing: Some(Missing { reason, fix }) });
    match policy {
        NamespacePolicy::Off => {
            let reason = "namespaces are switched off by the configuration".to_owned();
            return without(reason, "set jail.namespaces to \"auto\", or do not require namespaces");
        }
        NamespacePolicy::Auto => {}
    }
    let (uid, gid) = (geteuid(), getegid());
    let privileged = is_privileged();
    if !privileged && other_ids {
        return without(ROOT_WITHOUT_PRIVILEGE.to_owned(), FIX_OF_ROOT);
    }
    let mut flags = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    if !privileged {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    if let Err(errno) = unshare(flags) {
        return without(refusal(errno, privileged), if privileged { FIX_OF_PRIVILEGED } else { FIX });
    }
    if privileged {
        return Ok(Namespaces { entered: &["net", "ipc", "uts"], missing: None });
    }
    // A process may map its own ids only, and only once it cannot drop groups that are held against it.
    write_map("/proc/self/setgroups", "deny")?;
    write_map("/proc/self/uid_map", &format!("{uid} {uid} 1"))?;
    write_map("/proc/self/gid_map", &format!("{gid} {gid} 1"))?;
    Ok(Namespaces { entered: WITH_USER, missing: None })
}

/// Whether the calling process may enter namespaces without a user namespace of its own.
#[must_use]
pub fn is_privileged() -> bool {
    caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).unwrap_or(false)
}

fn write_map(file: &'static str, text: &str) -> Result<(), NamespacesError> {
    std::fs::write(file, text).map_err(|source| NamespacesError::Map { file, source })
}

fn refusal(errno: Errno, privileged: bool) -> String {
    let cause = if privileged { None } else { known_obstacle() };
    let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("unshare failed: {errno}{cause}")
}

/// What on this host is known to stand in the way of an unprivileged process; `None` if nothing is seen.
#[must_use]
pub fn known_obstacle() -> Option<&'static str> {
    const OBSTACLES: [(&str, &str, &str); 4] = [
        ("/proc/sys/user/max_user_namespaces", "0", "the sysctl user.max_user_namespaces is 0"),
        ("/proc/sys/user/max_net_namespaces", "0", "the sysctl user.max_net_namespaces is 0"),
        (
            "/proc/sys/kernel/unprivileged_userns_clone",
            "0",
            "the sysctl kernel.unprivileged_userns_clone is 0",
        ),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "AppArmor restricts unprivileged user namespaces (kernel.apparmor_restrict_unprivileged_userns is 1)",
        ),
    ];
    OBSTACLES
        .into_iter()
        .find(|(file, bad, _)| std::fs::read_to_string(file).is_ok_and(|text| text.trim() == *bad))
        .map(|(_, _, words)| words)
}
