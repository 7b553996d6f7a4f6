//! The one home of unsafe code.
//!
//! Owns: system calls that `nix` does not wrap and the Wasmtime entry points that are `unsafe`, each behind a
//! safe function or a function whose contract is a type.
//! Never: policy, loops, retries, logging. Every other crate of the workspace forbids unsafe code.

pub mod artifact;
pub mod epoch;
pub mod fds;
pub mod fork;
pub mod link;
pub mod memfd;
pub mod own_pages;
pub mod pidfd;
pub mod populate;
pub mod prctl;
pub mod probe;
pub mod rights;
pub mod signals;
pub mod sigsys;
pub mod solo;
pub mod text;
pub mod xattr;

/// Size of a page of memory.
pub(crate) fn page_bytes() -> Result<usize, nix::errno::Errno> {
    match nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE) {
        Ok(Some(bytes)) => usize::try_from(bytes).map_err(|_| nix::errno::Errno::EINVAL),
        Ok(None) | Err(_) => Err(nix::errno::Errno::EINVAL),
    }
}
