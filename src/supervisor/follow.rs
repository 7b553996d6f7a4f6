//! Reading a job's logs and output while it runs.
//!
//! Owns: how far one reader has come.
//! Never: holds a job up: a slow reader is told how much it missed.

use std::rc::Rc;

use stockade_wire::job::LogStream;
use stockade_wire::limits::LOG_CHUNK_BYTES_MAX;

use super::job::Job;

/// Part of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPiece {
    /// Which stream.
    pub stream: LogStream,
    /// Bytes of this stream that were lost before this part.
    pub skipped_bytes: u64,
    /// The part, at most [`LOG_CHUNK_BYTES_MAX`] bytes.
    pub bytes: Vec<u8>,
}

/// One reader of one job's logs.
pub struct LogFollower {
    job: Rc<Job>,
    next: [u64; 2],
}

const STREAMS: [LogStream; 2] = [LogStream::Stdout, LogStream::Stderr];

impl LogFollower {
    pub(super) fn new(job: Rc<Job>) -> Self {
        Self { job, next: [0; 2] }
    }

    /// The next part that is already there. Does not wait.
    pub fn now(&mut self) -> Option<LogPiece> {
        for (stream, next) in STREAMS.into_iter().zip(&mut self.next) {
            let chunk = self.job.ring(stream).borrow().read_from(*next, LOG_CHUNK_BYTES_MAX);
            *next = chunk.next;
            if !chunk.bytes.is_empty() || chunk.skipped_bytes > 0 {
                return Some(LogPiece { stream, skipped_bytes: chunk.skipped_bytes, bytes: chunk.bytes });
            }
        }
        None
    }

    /// The next part, when there is one; `None` once the job is over and everything was read. Dropping the
    /// future loses nothing.
    pub async fn next(&mut self) -> Option<LogPiece> {
        let job = Rc::clone(&self.job);
        loop {
            let progress = job.progress();
            if let Some(piece) = self.now() {
                return Some(piece);
            }
            if job.result().is_some() {
                return None;
            }
            progress.await;
        }
    }
}

/// Most bytes of output in one part.
const OUTPUT_PART_BYTES: usize = 64 << 10;

/// One reader of one job's output.
pub struct OutputFollower {
    job: Rc<Job>,
    read: usize,
}

impl OutputFollower {
    pub(super) fn new(job: Rc<Job>) -> Self {
        Self { job, read: 0 }
    }

    /// The next part, when there is one; `None` once the job is over and everything was read. Dropping the
    /// future loses nothing.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        let job = Rc::clone(&self.job);
        loop {
            let progress = job.progress();
            let part = job.output_from(self.read, OUTPUT_PART_BYTES);
            self.read += part.len();
            if !part.is_empty() {
                return Some(part);
            }
            if job.result().is_some() {
                return None;
            }
            progress.await;
        }
    }
}
