//! Filters around a zygote, as container runtimes put them around a daemon.
//!
//! Owns: the choice, by the executable's file name.
//! Never: kills: what such a filter hides is answered with ENOSYS.
//!
//! | file name | what the kernel does not seem to have |
//! |---|---|
//! | `without-clone3` | `clone3`, whose argument a filter cannot look into |

use seccompiler::{SeccompAction, SeccompFilter, TargetArch};
use stockade_worker::jail::seccomp::syscall_number;

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub enum SurroundingsError {
    /// The call has no number here.
    #[error("there is no system call {0} on this architecture")]
    NoSuchCall(&'static str),
    /// The filter cannot be made.
    #[error("the filter cannot be made")]
    Filter(#[from] seccompiler::BackendError),
    /// The kernel does not take it.
    #[error("the filter cannot be installed")]
    Install(#[from] seccompiler::Error),
}

/// Puts on what a zygote of that name is surrounded by; nothing for most.
///
/// # Errors
/// When it cannot be put on.
pub fn put_on(name: &str) -> Result<(), SurroundingsError> {
    match name {
        "without-clone3" => hide("clone3"),
        _ => Ok(()),
    }
}

fn hide(call: &'static str) -> Result<(), SurroundingsError> {
    let number = syscall_number(call).ok_or(SurroundingsError::NoSuchCall(call))?;
    let enosys = SeccompAction::Errno(nix::errno::Errno::ENOSYS as u32);
    let rules = [(i64::from(number), Vec::new())].into();
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, enosys, architecture)?;
    let program: seccompiler::BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter(&program)?)
}
