//! Layer: syscall allow-lists, made from `policies/seccomp/` at build time.
//!
//! Owns: which filter is installed when, and the notice that goes out before a worker dies of one.
//! Never: a filter of its own making; what the files do not allow kills.
//!
//! Filters stack and the strictest answer counts: a run worker gets `lock` first, which still lets it load its
//! artifact, and `run`, `tenant-run` or `run-files` on top when it is sealed. A compile worker gets `compile` alone. A
//! template gets `template`, which its forks inherit and put `forked-run` on; `initialise` comes between where the module
//! is initialised.

use seccompiler::sock_filter;
use stockade_sys::sigsys::{self, FRAME_BYTES};
use stockade_sys::solo::SingleThreaded;
use stockade_wire::frame;
use stockade_wire::job::Layer;
use stockade_wire::worker::{FromWorker, Role};

use super::mdwe::{Foreseen, Inexecutable};
use super::{Ledger, LockError, Locked, Plan, Sealed, fds::LINK_FD};

mod made {
    use super::{Condition, Rule};
    include!(concat!(env!("OUT_DIR"), "/seccomp.rs"));
}

/// One allowed call, as its policy file has it.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Its name.
    pub syscall: &'static str,
    /// Its number on this architecture.
    pub number: u32,
    /// Which code needs it.
    pub reason: &'static str,
    /// What its arguments must be; all of them.
    pub when: &'static [Condition],
}

/// One condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Number of the argument, from 0.
    pub argument: u8,
    /// What the manual page calls it.
    pub name: &'static str,
    /// Whether all 64 bits are compared, or the lower 32.
    pub wide: bool,
    /// Bits that are compared; `None`: all.
    pub mask: Option<u64>,
    /// What they must be.
    pub value: u64,
}

/// The policies, in the order they can be met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Policy {
    /// In the zygote, before its first fork.
    Zygote,
    /// In run and run-files workers, when they are locked.
    Lock,
    /// In run workers, when they are sealed.
    Run,
    /// In run workers that stay for further jobs, when they are sealed.
    TenantRun,
    /// In run-files workers, when they are sealed.
    RunFiles,
    /// In compile workers, when they are locked.
    Compile,
    /// In templates, when they are locked.
    Template,
    /// In templates that initialise their module, before any of it runs.
    Initialise,
    /// In run workers that a template forked, before they take their order.
    ForkedRun,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Self; 9] = [
        Self::Zygote,
        Self::Lock,
        Self::Run,
        Self::TenantRun,
        Self::RunFiles,
        Self::Compile,
        Self::Template,
        Self::Initialise,
        Self::ForkedRun,
    ];

    /// Its rules. The tests are made from these, and `explain` shows them.
    #[must_use]
    pub const fn rules(self) -> &'static [Rule] {
        match self {
            Self::Zygote => made::ZYGOTE_RULES,
            Self::Lock => made::LOCK_RULES,
            Self::Run => made::RUN_RULES,
            Self::TenantRun => made::TENANT_RUN_RULES,
            Self::RunFiles => made::RUN_FILES_RULES,
            Self::Compile => made::COMPILE_RULES,
            Self::Template => made::TEMPLATE_RULES,
            Self::Initialise => made::INITIALISE_RULES,
            Self::ForkedRun => made::FORKED_RUN_RULES,
        }
    }

    const fn program(self) -> &'static [sock_filter] {
        match self {
            Self::Zygote => made::ZYGOTE,
            Self::Lock => made::LOCK,
            Self::Run => made::RUN,
            Self::TenantRun => made::TENANT_RUN,
            Self::RunFiles => made::RUN_FILES,
            Self::Compile => made::COMPILE,
            Self::Template => made::TEMPLATE,
            Self::Initialise => made::INITIALISE,
            Self::ForkedRun => made::FORKED_RUN,
        }
    }

    const fn of_lock(role: Role) -> Self {
        match role {
            Role::Run | Role::RunFiles => Self::Lock,
            Role::Compile => Self::Compile,
            Role::Template => Self::Template,
        }
    }

    const fn of_seal(role: Role) -> Self {
        match role {
            Role::Run => Self::Run,
            Role::RunFiles => Self::RunFiles,
            Role::Compile => Self::Compile,
            Role::Template => Self::ForkedRun,
        }
    }
}

/// Name of a system call of this architecture, as in the reason `seccomp:NAME`.
#[must_use]
pub fn syscall_name(number: u32) -> Option<&'static str> {
    let index = made::NAMES.binary_search_by_key(&number, |(number, _)| *number).ok()?;
    made::NAMES.get(index).map(|(_, name)| *name)
}

/// Whether `number` is the call with which the C library's `abort` begins.
///
/// It is not allowed, because what `abort` needs next could signal other processes; so a worker that aborts (an
/// allocation that fails, a native stack overflow) ends as if it had tried to escape, and this tells the two apart.
/// An attacker who makes the same call is taken for a crash, and is as dead.
#[must_use]
pub fn is_abort(number: u32) -> bool {
    syscall_name(number) == Some("rt_sigprocmask")
}

/// Whether `number` is the call by which a native crash shows: that of [`is_abort`], or the one by which a handler
/// of SIGSEGV and its like, having found that the fault is not the guest's, lets it take its course. That one is not
/// allowed either: whoever may set handlers may replace the one that tells of forbidden calls.
#[must_use]
pub fn is_crash(number: u32) -> bool {
    is_abort(number) || syscall_name(number) == Some("rt_sigaction")
}

/// Number of the system call `name` on this architecture.
#[must_use]
pub fn syscall_number(name: &str) -> Option<u32> {
    made::NAMES.iter().find(|(_, known)| *known == name).map(|(number, _)| *number)
}

/// Adds `policy` to the calling thread's filters.
///
/// # Errors
/// When the kernel has no seccomp or refuses the filter.
pub fn apply(policy: Policy, _solo: &SingleThreaded) -> Result<(), seccompiler::Error> {
    seccompiler::apply_filter(policy.program())
}

/// Arranges for a forbidden call to be named on the link before it kills. Done as soon as the link is at its
/// number: the zygote's filter is in force already.
///
/// # Errors
/// When the kernel refuses the handler.
pub(super) fn announce_violations() -> Result<(), LockError> {
    sigsys::install(LINK_FD, notice())
        .map_err(|errno| LockError::Kernel { call: "rt_sigaction(SIGSYS)", errno })
}

/// The notice with number 0; the handler writes the number over its last four bytes.
fn notice() -> [u8; FRAME_BYTES] {
    frame::encode(&FromWorker::Forbidden(0), FRAME_BYTES)
        .ok()
        .and_then(|frame| frame.try_into().ok())
        // All zero announces an empty body, which the supervisor takes for what it is: a broken worker.
        .unwrap_or([0; FRAME_BYTES])
}

/// What to do about seccomp that is missing.
pub const FIX: &str =
    "boot a kernel with CONFIG_SECCOMP_FILTER; in a systemd unit, add seccomp to SystemCallFilter=";

/// Installs the first filter.
///
/// # Errors
/// When it cannot be installed and seccomp is required, or the handler cannot.
pub fn install(foreseen: Foreseen, plan: &Plan<'_>) -> Result<Locked, LockError> {
    let Foreseen { mut ledger, solo, landlock_abi, grants, mdwe } = foreseen;
    let Plan { role, data_baseline_bytes, .. } = *plan;
    let filtered = match apply(Policy::of_lock(role), &solo) {
        Ok(()) => true,
        Err(error) => {
            ledger.lacks(Layer::Seccomp, error.to_string(), FIX)?;
            false
        }
    };
    Ok(Locked { ledger, role, landlock_abi, filtered, mdwe, data_baseline_bytes, solo, grants })
}

/// Installs the final filter.
///
/// # Errors
/// When it cannot be installed although the first one could, or although seccomp is required.
pub fn seal(inexecutable: Inexecutable) -> Result<Sealed, LockError> {
    let policy = Policy::of_seal(inexecutable.role);
    seal_with(policy, inexecutable)
}

/// Installs the final filter of a run worker that stays.
///
/// # Errors
/// As for [`seal`].
pub fn seal_to_stay(inexecutable: Inexecutable) -> Result<Sealed, LockError> {
    seal_with(Policy::TenantRun, inexecutable)
}

fn seal_with(policy: Policy, inexecutable: Inexecutable) -> Result<Sealed, LockError> {
    let Inexecutable { mut ledger, solo, filtered, mdwe, grants, .. } = inexecutable;
    let filtered = narrow(&mut ledger, policy, filtered, &solo)?;
    Ok(Sealed { mdwe, filtered, grants, _solo: solo })
}

/// Puts a final filter on top of the first one.
///
/// # Errors
/// When it is refused although the first one was not.
pub(super) fn narrow(
    ledger: &mut Ledger,
    policy: Policy,
    was_filtered: bool,
    solo: &SingleThreaded,
) -> Result<bool, LockError> {
    match apply(policy, solo) {
        Ok(()) => Ok(true),
        // With the first filter on, a refused second one is not a missing feature: never go on without it.
        Err(error) if was_filtered => {
            ledger.require.push(Layer::Seccomp);
            ledger.lacks(Layer::Seccomp, error.to_string(), FIX)?;
            Ok(false)
        }
        Err(_) => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notice_with_any_number_is_the_message_with_that_number() {
        let mut packet = notice();
        packet[FRAME_BYTES - 4..].copy_from_slice(&41u32.to_le_bytes());
        let message: FromWorker = frame::decode_packet(&packet, FRAME_BYTES).unwrap();
        assert_eq!(message, FromWorker::Forbidden(41));
    }

    #[test]
    fn names_are_sorted_so_that_the_search_finds_them() {
        assert!(made::NAMES.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(syscall_number("execve").and_then(syscall_name), Some("execve"));
        assert_eq!(syscall_name(u32::MAX), None);
    }
}
