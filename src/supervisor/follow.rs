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
    /// Whose turn it is comes first.
    places: [Place; 2],
}

/// How far one stream was read.
struct Place {
    stream: LogStream,
    /// Offset of the next byte.
    next: u64,
    /// Where the stream ended when its reader was made.
    end: u64,
}

impl Place {
    /// The next part. With `to_end`, of what was there when the reader was made.
    fn read(&mut self, job: &Job, to_end: bool) -> Option<LogPiece> {
        let chunk = job.ring(self.stream).borrow().read_from(self.next, LOG_CHUNK_BYTES_MAX);
        let (mut skipped_bytes, mut bytes) = (chunk.skipped_bytes, chunk.bytes);
        if to_end {
            let left = self.end.saturating_sub(self.next);
            skipped_bytes = skipped_bytes.min(left);
            bytes.truncate(usize::try_from(left - skipped_bytes).unwrap_or(usize::MAX));
        }
        self.next += skipped_bytes + bytes.len() as u64;
        let nothing = bytes.is_empty() && skipped_bytes == 0;
        (!nothing).then_some(LogPiece { stream: self.stream, skipped_bytes, bytes })
    }
}

impl LogFollower {
    pub(super) fn new(job: Rc<Job>) -> Self {
        let places = [LogStream::Stdout, LogStream::Stderr].map(|stream| {
            let end = job.ring(stream).borrow().total_bytes();
            Place { stream, next: 0, end }
        });
        Self { job, places }
    }

    /// The next part of what was there when this reader was made: comes to an end however fast the guest writes. Does
    /// not wait.
    pub fn now(&mut self) -> Option<LogPiece> {
        self.part(true)
    }

    /// The streams take turns, so that a flood of one does not hide the other.
    fn part(&mut self, to_end: bool) -> Option<LogPiece> {
        let [first, second] = &mut self.places;
        if let Some(part) = first.read(&self.job, to_end) {
            self.places.reverse();
            return Some(part);
        }
        second.read(&self.job, to_end)
    }

    /// The next part, when there is one; `None` once the job is over and everything was read. Dropping the
    /// future loses nothing.
    pub async fn next(&mut self) -> Option<LogPiece> {
        let job = Rc::clone(&self.job);
        loop {
            let progress = job.progress();
            if let Some(piece) = self.part(false) {
                return Some(piece);
            }
            if job.end().is_some() {
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
            if job.end().is_some() {
                return None;
            }
            progress.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PART: usize = LOG_CHUNK_BYTES_MAX;

    fn job() -> Rc<Job> {
        Rc::new(Job::sample("job", 1))
    }

    fn part(stream: LogStream, skipped_bytes: u64, bytes: &[u8]) -> LogPiece {
        LogPiece { stream, skipped_bytes, bytes: bytes.to_vec() }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn flood_of_one_stream_does_not_hide_the_other() {
        let job = job();
        let flood = [b'f'; PART];
        let mut logs = LogFollower::new(Rc::clone(&job));
        job.log(LogStream::Stderr, b"help");
        for round in 0..3 {
            job.log(LogStream::Stdout, &flood);
            assert_eq!(logs.next().await.unwrap().stream, LogStream::Stdout);
            job.log(LogStream::Stdout, &flood);
            let found = logs.next().await.unwrap();
            let expected = part(LogStream::Stderr, 0, b"help");
            assert_eq!(found, expected, "round {round}: there is more of the flood all the while");
            job.log(LogStream::Stderr, b"help");
        }
    }

    #[test]
    fn what_is_there_ends_where_the_logs_ended_when_they_were_asked_for() {
        let job = job();
        job.log(LogStream::Stdout, b"one");
        job.log(LogStream::Stderr, b"two");
        let mut logs = LogFollower::new(Rc::clone(&job));
        let mut found = Vec::new();
        while let Some(part) = logs.now() {
            found.push(part);
            // It writes as fast as it is read.
            job.log(LogStream::Stdout, b"more");
            job.log(LogStream::Stderr, &[b'f'; PART]);
            assert!(found.len() < 10, "it does not end");
        }
        assert_eq!(found.first(), Some(&part(LogStream::Stdout, 0, b"one")));
        // What fell out of the ring in the meantime is told, and nothing that came instead of it.
        assert_eq!(found.get(1..), Some(&[part(LogStream::Stderr, 3, b"")][..]));
    }

    #[test]
    fn what_was_cut_short_is_told_up_to_the_end_and_not_beyond() {
        let job = job();
        let ring_bytes = usize::try_from(job.admitted.limits.log_bytes).unwrap();
        job.log(LogStream::Stdout, &vec![b'a'; ring_bytes]);
        let mut logs = LogFollower::new(Rc::clone(&job));
        job.log(LogStream::Stdout, &vec![b'b'; ring_bytes - 5]);
        let found = logs.now().unwrap();
        assert_eq!((found.skipped_bytes, found.bytes.as_slice()), (ring_bytes as u64 - 5, &b"aaaaa"[..]));
        assert_eq!(logs.now(), None);
    }
}
