//! The supervisor.
//!
//! Owns: jobs from admission to result.
//! Never: forks, compiles or runs guest code itself.

pub mod logs;

use std::rc::Rc;

use stockade_wire::job::{JobResult, JobSummary, LogStream};

/// Who a client is, as the kernel says (`SO_PEERCRED`), never as it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Caller {
    /// User id at the time it connected.
    pub uid: u32,
    /// Group id at the time it connected.
    pub gid: u32,
    /// Process id at the time it connected; for logs alone, since pids are reused.
    pub pid: i32,
}

/// Where a job is.
#[derive(Debug, Clone)]
pub enum Lookup {
    /// Not over.
    Running(JobSummary),
    /// Over.
    Finished(Rc<JobResult>),
}

/// Part of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPiece {
    /// Which stream.
    pub stream: LogStream,
    /// Bytes lost between the last piece of this stream and this one.
    pub skipped_bytes: u64,
    /// The piece.
    pub bytes: Vec<u8>,
}
