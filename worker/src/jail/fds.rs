//! Layer: no open descriptor but the named ones, each at its fixed number.
//!
//! Owns: the numbers.
//! Never: keeps a descriptor the zygote had.

use std::os::fd::OwnedFd;

use stockade_sys::fds::FdsError;
use stockade_sys::solo::SingleThreaded;

use super::{Ledger, LockError, seccomp::announce_violations, solo::Alone};

/// The link's number. The allow-lists and the `SIGSYS` handler know it.
pub const LINK_FD: i32 = 3;

/// Numbers from 0 that are open in a locked worker: nothing, nothing, stderr log, link, output, stdout log.
pub const WORKER_FDS: u32 = 6;

/// What a worker keeps.
#[derive(Debug)]
pub struct WorkerFds {
    /// `/dev/null`, for descriptor 0: closed numbers would be given to the next descriptor to come.
    pub null_input: OwnedFd,
    /// `/dev/null`, for descriptor 1.
    pub null_output: OwnedFd,
    /// Standard error's log pipe, descriptor 2: what a library prints in despair belongs to the job's log.
    pub stderr_log: OwnedFd,
    /// The link, descriptor 3.
    pub link: OwnedFd,
    /// The output pipe, descriptor 4.
    pub output: OwnedFd,
    /// Standard output's log pipe, descriptor 5.
    pub stdout_log: OwnedFd,
}

/// Only the named descriptors are open.
#[derive(Debug)]
pub struct Bare {
    pub(super) ledger: Ledger,
    pub(super) solo: SingleThreaded,
}

/// Moves the named descriptors to their numbers and closes all others but `kept` above them, which belong to what the
/// process inherited.
///
/// # Errors
/// When the kernel refuses.
pub fn settle(alone: Alone, fds: WorkerFds, kept: u16) -> Result<(Bare, WorkerFds), LockError> {
    let WorkerFds { null_input, null_output, stderr_log, link, output, stdout_log } = fds;
    let wanted = vec![null_input, null_output, stderr_log, link, output, stdout_log];
    let (newborn, settled) = stockade_sys::fds::settle(alone.newborn, wanted, kept)?;
    let settled: [OwnedFd; WORKER_FDS as usize] =
        settled.try_into().map_err(|_| FdsError::Number { number: LINK_FD })?;
    let [null_input, null_output, stderr_log, link, output, stdout_log] = settled;
    let fds = WorkerFds { null_input, null_output, stderr_log, link, output, stdout_log };
    announce_violations()?;
    Ok((Bare { ledger: alone.ledger, solo: newborn.into_solo() }, fds))
}
