//! What this kernel and this process's surroundings offer the jail, for `doctor` and `explain`.
//!
//! Owns: one finding a layer, with what to do about a missing one.
//! Never: changes the calling process; the cgroup layer, which is the supervisor's to look at.

use caps::CapSet;
use nix::errno::Errno;
use nix::sys::utsname::uname;
use nix::unistd::geteuid;
use stockade_sys::prctl::{landlock_abi, mdwe, seccomp_mode, seccomp_traps};
use stockade_wire::job::Layer;

use crate::jail::landlock::{FIX, FIX_AT_BOOT, abi_in_force};
use crate::jail::namespaces::{FIX_OF_ROOT, ROOT_WITHOUT_PRIVILEGE, is_privileged, known_obstacle};
use crate::jail::seccomp;

/// One layer on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub layer: Layer,
    /// Whether it is offered; what a worker gets is seen when one is started.
    pub present: bool,
    /// Version or kind, where there are several.
    pub version: Option<String>,
    /// Why it is absent or less than it could be.
    pub reason: Option<String>,
    /// What to do about that.
    pub fix: Option<String>,
}

impl Finding {
    fn present(layer: Layer, version: Option<String>) -> Self {
        Self { layer, present: true, version, reason: None, fix: None }
    }

    fn absent(layer: Layer, reason: String, fix: &str) -> Self {
        Self { layer, present: false, version: None, reason: Some(reason), fix: Some(fix.to_owned()) }
    }
}

/// Looks at every layer but the cgroup. Reads a few files and asks the kernel; blocks on nothing else.
#[must_use]
pub fn survey() -> Vec<Finding> {
    vec![filters(), landlock(), namespaces(), no_new_privs(), rlimits(), capabilities(), executable_memory()]
}

/// Release of the running kernel, as `uname -r` has it.
#[must_use]
pub fn kernel_release() -> Option<String> {
    Some(uname().ok()?.release().to_string_lossy().into_owned())
}

fn filters() -> Finding {
    match seccomp_traps() {
        Ok(()) => Finding::present(Layer::Seccomp, Some("filter, trap then kill".to_owned())),
        Err(errno) => Finding::absent(
            Layer::Seccomp,
            format!("seccomp(SECCOMP_GET_ACTION_AVAIL) failed: {errno}"),
            seccomp::FIX,
        ),
    }
}

fn landlock() -> Finding {
    match landlock_abi() {
        Ok(abi) => {
            let used = abi_in_force();
            let mut finding = Finding::present(Layer::Landlock, Some(format!("ABI {used}")));
            if used < abi {
                finding.reason =
                    Some(format!("the kernel has ABI {abi}, of which this release handles {used}"));
            }
            finding
        }
        Err(Errno::EOPNOTSUPP) => Finding::absent(
            Layer::Landlock,
            "the kernel has Landlock but it was not enabled at boot".to_owned(),
            FIX_AT_BOOT,
        ),
        Err(errno) => {
            Finding::absent(Layer::Landlock, format!("landlock_create_ruleset failed: {errno}"), FIX)
        }
    }
}

fn namespaces() -> Finding {
    if is_privileged() {
        return Finding::present(Layer::Namespaces, Some("net, ipc, uts".to_owned()));
    }
    if geteuid().is_root() {
        return Finding::absent(Layer::Namespaces, ROOT_WITHOUT_PRIVILEGE.to_owned(), FIX_OF_ROOT);
    }
    if let Some(obstacle) = known_obstacle() {
        return Finding::absent(
            Layer::Namespaces,
            format!("user {} has no CAP_SYS_ADMIN, and {obstacle}", geteuid()),
            "lift that restriction or run the daemon as root; the other layers do not need it",
        );
    }
    if !std::path::Path::new("/proc/self/ns/user").exists() {
        return Finding::absent(
            Layer::Namespaces,
            "the kernel has no user namespaces, or procfs is not mounted".to_owned(),
            "boot a kernel with CONFIG_USER_NS, or run the daemon as root; the other layers do not need it",
        );
    }
    Finding::present(Layer::Namespaces, Some("net, ipc, uts, user".to_owned()))
}

fn no_new_privs() -> Finding {
    match nix::sys::prctl::get_no_new_privs() {
        Ok(_) => Finding::present(Layer::NoNewPrivs, None),
        Err(errno) => Finding::absent(
            Layer::NoNewPrivs,
            format!("prctl(PR_GET_NO_NEW_PRIVS) failed: {errno}"),
            "do not filter prctl",
        ),
    }
}

fn rlimits() -> Finding {
    match rlimit::Resource::DATA.get() {
        Ok(_) => Finding::present(Layer::Rlimits, None),
        Err(error) => Finding::absent(
            Layer::Rlimits,
            format!("limits cannot be read: {error}"),
            "do not filter prlimit64",
        ),
    }
}

fn capabilities() -> Finding {
    match caps::read(None, CapSet::Permitted) {
        Ok(_) => Finding::present(Layer::Capabilities, None),
        Err(error) => {
            Finding::absent(Layer::Capabilities, error.to_string(), "do not filter capget and capset")
        }
    }
}

fn executable_memory() -> Finding {
    match mdwe() {
        Ok(_) => Finding::present(Layer::Mdwe, None),
        Err(errno) => Finding::absent(
            Layer::Mdwe,
            format!("prctl(PR_GET_MDWE) failed: {errno}"),
            "boot Linux 6.3 or later; seccomp refuses executable memory as well",
        ),
    }
}

/// Mode of the calling process, `PR_GET_SECCOMP`: 2 means a service manager's filter lies around this one's.
#[must_use]
pub fn surrounding_filter() -> bool {
    seccomp_mode().is_ok_and(|mode| mode == 2)
}
