//! The journal of durable jobs: accepted means that there is exactly one final record, whatever crashes.
//!
//! Owns: that a durable job's acceptance and its end are on the disk before anybody is told of them.
//! Never: holds up the supervisor's thread: the disk is waited for on a blocking thread, for all who wait at once.
//!
//! ```text
//! submit ─▶ accepted on the disk ─▶ told ─▶ runs ─▶ end on the disk ─▶ told
//!              └───────── crash: the next start writes the end, `supervisor_restarted`
//! ```

mod file;
mod record;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use stockade_wire::job::{Blame, JobResult, Outcome, Verdict};
use tokio::sync::Mutex;

use self::file::JournalFile;
pub use self::file::{JournalError, JournalLock};
use self::record::BARE_END_BYTES_MAX;
pub(crate) use self::record::{Accepted, Known};
use super::job::outcome;
use crate::job_end::JobEnd;

/// Why a job that was accepted has no other end.
pub(crate) const RESTARTED: &str = "supervisor_restarted";

/// The journal.
pub(crate) struct Journal {
    bytes_max: u64,
    writer: Arc<Mutex<Writer>>,
    /// Records that nobody has begun to write.
    pending: RefCell<Vec<u8>>,
    /// Number of the last record among all there were.
    last: Cell<u64>,
    /// Bytes in the file and on their way.
    length: Cell<u64>,
    /// Durable jobs that are not over: for each, its end will find room.
    live: Cell<u64>,
}

struct Writer {
    file: JournalFile,
    /// Records up to this number have been dealt with.
    written: u64,
    /// Those from this number up to `written` could not be written.
    failed_from: Option<u64>,
}

impl Journal {
    /// Opens the journal in the directory of `lock`, ends what was not over when the last daemon was, and gives what it knows of every
    /// job. Blocks on the disk; at the start, before anything is accepted.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub(crate) fn open(lock: JournalLock, bytes_max: u64) -> Result<(Self, Vec<Known>), JournalError> {
        let (mut file, mut replay) = JournalFile::open(lock)?;
        let cut_off: Vec<String> = replay
            .jobs
            .values()
            .filter(|job| job.ended.is_none())
            .map(|job| job.accepted.job.clone())
            .collect();
        if !cut_off.is_empty() {
            let mut records = Vec::new();
            for job in cut_off.iter().filter_map(|job| replay.jobs.get(job)) {
                records.append(&mut record::ended(&restarted(&job.accepted), now_ms(), u64::MAX)?);
            }
            file.append(&records)?;
            tracing::warn!(jobs = cut_off.len(), "durable jobs were cut off when the last daemon ended");
            for known in replay.jobs.values_mut().filter(|job| job.ended.is_none()) {
                known.result = Some(Box::new(restarted(&known.accepted)));
            }
        }
        let length = file.length();
        let journal = Self {
            bytes_max,
            writer: Arc::new(Mutex::new(Writer { file, written: 0, failed_from: None })),
            pending: RefCell::default(),
            last: Cell::new(0),
            length: Cell::new(length),
            live: Cell::new(0),
        };
        Ok((journal, replay.jobs.into_values().collect()))
    }

    /// Whether another job's acceptance and end, without its output, have room.
    pub(crate) fn has_room(&self) -> bool {
        let ends = (self.live.get() + 2).saturating_mul(BARE_END_BYTES_MAX);
        self.length.get().saturating_add(ends) <= self.bytes_max
    }

    /// Whether it is time for [`Journal::keep_only`].
    pub(crate) fn is_full(&self) -> bool {
        let ends = (self.live.get() + 2).saturating_mul(BARE_END_BYTES_MAX);
        self.length.get().saturating_add(ends) > self.bytes_max / 2
    }

    /// Returns once it is on the disk that the job was accepted.
    ///
    /// # Errors
    /// When it is not.
    pub(crate) async fn accept(&self, job: Accepted) -> Result<(), JournalError> {
        let record = record::accepted(&job)?;
        self.live.set(self.live.get() + 1);
        let written = self.append(record).await;
        if written.is_err() {
            self.live.set(self.live.get().saturating_sub(1));
        }
        written
    }

    /// Returns once it is on the disk how the job ended; its result with it, if there is room for that.
    ///
    /// # Errors
    /// When it is not. The next start will then say something else of it.
    pub(crate) async fn end(&self, result: &JobResult) -> Result<(), JournalError> {
        let others = (self.live.get() + 1).saturating_mul(BARE_END_BYTES_MAX);
        let room = self.bytes_max.saturating_sub(self.length.get().saturating_add(others));
        self.live.set(self.live.get().saturating_sub(1));
        self.append(record::ended(result, now_ms(), room)?).await
    }

    /// Takes out what is over and not among `kept`.
    ///
    /// # Errors
    /// When it cannot be rewritten; it goes on as it was.
    pub(crate) async fn keep_only(&self, kept: BTreeSet<String>) -> Result<(), JournalError> {
        let mut writer = Arc::clone(&self.writer).lock_owned().await;
        let before = writer.file.length();
        let rewritten = tokio::task::spawn_blocking(move || {
            let done = writer.file.keep_only(&kept);
            (done, writer.file.length())
        });
        let (done, after) = rewritten.await.map_err(|_| JournalError::Gone)?;
        self.length.set(self.length.get().saturating_sub(before.saturating_sub(after)));
        done
    }

    /// Whoever comes first writes what all have brought by then, and waits for the disk once for all of them.
    async fn append(&self, mut record: Vec<u8>) -> Result<(), JournalError> {
        let number = self.last.get() + 1;
        self.last.set(number);
        self.length.set(self.length.get().saturating_add(record.len() as u64));
        self.pending.borrow_mut().append(&mut record);
        let mut writer = Arc::clone(&self.writer).lock_owned().await;
        if writer.written < number {
            let (records, upto) = (self.pending.take(), self.last.get());
            let written = tokio::task::spawn_blocking(move || {
                let done = writer.file.append(&records);
                writer.failed_from = done.is_err().then_some(writer.written + 1);
                writer.written = upto;
                (done, records.len() as u64)
            });
            let (done, bytes) = written.await.map_err(|_| JournalError::Gone)?;
            if done.is_err() {
                self.length.set(self.length.get().saturating_sub(bytes));
            }
            return done;
        }
        // Another's write had this one in it.
        match writer.failed_from {
            Some(from) if number >= from => Err(JournalError::Unwritten),
            Some(_) | None => Ok(()),
        }
    }
}

/// The end of a job that had none when the daemon that had it was over.
fn restarted(job: &Accepted) -> JobResult {
    let message =
        "the daemon ended before the job did, and was started again; submit it again if that does no harm";
    let outcome = Outcome {
        retriable: true,
        ..outcome::ended(Verdict::WorkerLost, RESTARTED, Blame::Platform, message)
    };
    bare(job, outcome, None)
}

/// A result of which nothing is known but the outcome.
pub(crate) fn bare(job: &Accepted, outcome: Outcome, exit_code: Option<i32>) -> JobResult {
    JobResult {
        job: job.job.clone(),
        tenant: job.tenant.clone(),
        module: [0; 32],
        isolation: stockade_wire::job::Isolation::Fresh,
        outcome,
        exit_code,
        error: None,
        output: Vec::new().into(),
        logs: stockade_wire::job::Logs::default(),
        bill: stockade_wire::job::Bill::default(),
        jail: stockade_wire::job::Walls::default(),
        trace_id: None,
    }
}

/// The result of a durable job with its output, for its record, and the end that clients are told. Of an output that cannot
/// be read back both say so: a record without it would say that there was none.
pub(crate) fn recordable(end: JobEnd) -> (JobResult, JobEnd) {
    match end.whole() {
        Ok(result) => (result, end),
        Err(error) => {
            tracing::error!(job = %end.result.job, %error, "the output of a durable job cannot be read back");
            let message = format!(
                "the output, of {} bytes, could not be read back to be recorded: {error}",
                end.output_bytes()
            );
            let result = JobResult { outcome: outcome::internal("output", message), ..end.result };
            (result.clone(), JobEnd::of(result))
        }
    }
}

/// The wall clock, ms since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::sealed::SealedFile;

    #[test]
    fn end_whose_output_cannot_be_read_back_is_recorded_and_told_as_that() {
        let whole = bare(&begin("a"), outcome::internal("unfinished", String::new()), Some(0));
        let (result, end) = recordable(JobEnd::of(whole.clone()));
        assert_eq!((&result, &end.result), (&whole, &whole));
        let (result, end) = recordable(JobEnd::with_output(whole, SealedFile::unreadable(7), None));
        assert_eq!((&result, 0), (&end.result, end.output_bytes()));
        assert_eq!(
            (result.outcome.verdict, result.outcome.reason.as_deref()),
            (Verdict::Internal, Some("output"))
        );
        assert!(result.outcome.message.unwrap().contains("of 7 bytes"));
    }

    fn opened(directory: &Path, bytes_max: u64) -> (Journal, Vec<Known>) {
        Journal::open(JournalLock::take(directory).unwrap(), bytes_max).unwrap()
    }

    fn begin(job: &str) -> Accepted {
        Accepted {
            job: job.to_owned(),
            uid: 1,
            gid: 1,
            tenant: "uid:1".to_owned(),
            name: "guest".to_owned(),
            at_ms: 1,
        }
    }

    fn done(job: &str, output: usize) -> JobResult {
        let outcome = outcome::internal("done", "it is".to_owned());
        JobResult { output: vec![7; output].into(), ..bare(&begin(job), outcome, None) }
    }

    fn reasons(directory: &Path) -> Vec<(String, String)> {
        let (_journal, known) = opened(directory, 1 << 30);
        let reason = |known: Known| {
            let whole = known.result.map(|result| result.outcome);
            let outcome = whole.or(known.ended.map(|ended| ended.outcome)).unwrap();
            (known.accepted.job, outcome.reason.unwrap())
        };
        known.into_iter().map(reason).collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(job, reason)| ((*job).to_owned(), (*reason).to_owned())).collect()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn job_cut_off_gets_one_end_that_stays() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, known) = opened(directory.path(), 1 << 30);
        assert!(known.is_empty());
        for job in ["a", "b"] {
            journal.accept(begin(job)).await.unwrap();
        }
        journal.end(&done("a", 10)).await.unwrap();
        drop(journal);
        let expected = pairs(&[("a", "done"), ("b", RESTARTED)]);
        for _ in 0..2 {
            assert_eq!(reasons(directory.path()), expected);
        }
        let bytes = std::fs::read(directory.path().join("journal")).unwrap();
        assert_eq!(bytes.windows(RESTARTED.len()).filter(|part| *part == RESTARTED.as_bytes()).count(), 2);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn many_at_once_are_all_on_the_disk_when_they_are_told_so() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, _) = opened(directory.path(), 1 << 30);
        let jobs: Vec<String> = (0..50).map(|number| format!("job{number:02}")).collect();
        let local = tokio::task::LocalSet::new();
        let journal = std::rc::Rc::new(journal);
        local
            .run_until(async {
                let all = jobs.iter().map(|job| {
                    let (journal, job) = (std::rc::Rc::clone(&journal), begin(job));
                    tokio::task::spawn_local(async move { journal.accept(job).await })
                });
                for one in all.collect::<Vec<_>>() {
                    one.await.unwrap().unwrap();
                }
            })
            .await;
        drop((local, journal));
        assert_eq!(reasons(directory.path()).into_iter().map(|(job, _)| job).collect::<Vec<_>>(), jobs);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn journal_without_room_keeps_ends_and_drops_output_until_it_is_rewritten() {
        let directory = tempfile::tempdir().unwrap();
        let room = 6 * BARE_END_BYTES_MAX;
        let (journal, _) = opened(directory.path(), room);
        let mut number = 0;
        while journal.has_room() {
            let job = format!("{number:03}");
            journal.accept(begin(&job)).await.unwrap();
            journal.end(&done(&job, 20_000)).await.unwrap();
            number += 1;
            assert!(number < 100, "never full");
        }
        assert!(number > 3 && journal.is_full());
        assert!(std::fs::metadata(directory.path().join("journal")).unwrap().len() <= room);
        journal.keep_only(BTreeSet::from([format!("{:03}", number - 1)])).await.unwrap();
        assert!(journal.has_room());
        drop(journal);
        assert_eq!(reasons(directory.path()).len(), 1);
    }
}
