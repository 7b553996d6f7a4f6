//! The journal's file: appended to, flushed to the disk, rewritten when it has grown too large.
//!
//! Owns: the file, its lock, and that it never ends in half a record that anybody was told of.
//! Never: decides what is in it. Every call blocks on the disk: not for the supervisor's own thread.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::record::{self, Replay};

const FILE_NAME: &str = "journal";
const NEXT_NAME: &str = "journal.next";
const LOCK_NAME: &str = "journal.lock";

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another daemon has it.
    #[error("another daemon keeps its journal in {}: name another with durable.directory, or \"off\"", .0.display())]
    InUse(PathBuf),
    /// The kernel refused something.
    #[error("cannot {operation} the journal of durable jobs in {}: see that there is room and that it is this user's, or set durable.directory", directory.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Where.
        directory: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A record could not be made.
    #[error("the journal cannot say what happened")]
    Record(#[from] record::RecordError),
    /// An earlier write failed and could not be undone.
    #[error("the journal of durable jobs in {} is damaged by a write that failed; restart the daemon", .0.display())]
    Broken(PathBuf),
    /// A write that had this record in it failed.
    #[error("the journal of durable jobs could not be written; the log says why")]
    Unwritten,
    /// The task that writes has gone.
    #[error("nobody writes the journal any more")]
    Gone,
}

/// The right to keep a journal in a directory, which nobody else has while a clone of this is there. The kernel lets go of
/// it however the process ends.
#[derive(Debug, Clone)]
pub struct JournalLock {
    directory: PathBuf,
    _file: Arc<File>,
}

impl JournalLock {
    /// Takes the lock in `directory`, making that if it is missing. Blocks on the file system, not for whoever has it.
    ///
    /// # Errors
    /// When another process has it, or the file system refuses.
    pub fn take(directory: &Path) -> Result<Self, JournalError> {
        let failed = |operation| move |source| failure(operation, directory, source);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(failed("make the directory for"))?;
        let name = directory.join(LOCK_NAME);
        let file = options().create(true).truncate(false).open(name).map_err(failed("lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { directory: directory.to_owned(), _file: Arc::new(file) }),
            Err(TryLockError::WouldBlock) => Err(JournalError::InUse(directory.to_owned())),
            Err(TryLockError::Error(source)) => Err(failed("lock")(source)),
        }
    }
}

/// The file, open and locked.
#[derive(Debug)]
pub(super) struct JournalFile {
    file: File,
    length: u64,
    broken: bool,
    lock: JournalLock,
}

impl JournalFile {
    /// Opens it, making it if there is none, and reads it. What follows the last whole record is cut off: nobody was told
    /// of that.
    pub(super) fn open(lock: JournalLock) -> Result<(Self, Replay), JournalError> {
        let directory = lock.directory.as_path();
        let failed = |operation| move |source| failure(operation, directory, source);
        // What a rewrite did not get to finish.
        match fs::remove_file(directory.join(NEXT_NAME)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("clear up in")(error));
            }
            Ok(()) | Err(_) => {}
        }
        let mut file =
            options().create(true).truncate(false).open(directory.join(FILE_NAME)).map_err(failed("open"))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed("read"))?;
        let replay = record::replay(&bytes);
        if replay.whole < bytes.len() {
            let lost = bytes.len() - replay.whole;
            tracing::warn!(
                bytes = lost,
                "the journal of durable jobs ends in half a record, which nobody was told of"
            );
            file.set_len(replay.whole as u64).map_err(failed("cut"))?;
        }
        file.seek(SeekFrom::Start(replay.whole as u64)).map_err(failed("read"))?;
        file.sync_all().and_then(|()| sync_directory(directory)).map_err(failed("flush"))?;
        let length = replay.whole as u64;
        Ok((Self { file, length, broken: false, lock }, replay))
    }

    /// Bytes in it.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Appends whole records and returns once they are on the disk. On an error none of them is.
    pub(super) fn append(&mut self, records: &[u8]) -> Result<(), JournalError> {
        if self.broken {
            return Err(JournalError::Broken(self.lock.directory.clone()));
        }
        let written = self.file.write_all(records).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => {
                self.length += records.len() as u64;
                Ok(())
            }
            Err(source) => {
                // A record that may or may not be there is worse than none.
                let undone = self
                    .file
                    .set_len(self.length)
                    .and_then(|()| self.file.seek(SeekFrom::Start(self.length)))
                    .and_then(|_| self.file.sync_data());
                self.broken = undone.is_err();
                Err(failure("write to", &self.lock.directory, source))
            }
        }
    }

    /// Rewrites it without the records of jobs that are over and not among `kept`. A crash leaves the old one or the new.
    pub(super) fn keep_only(&mut self, kept: &BTreeSet<String>) -> Result<(), JournalError> {
        let directory = self.lock.directory.clone();
        let failed = |operation| move |source| failure(operation, &directory, source);
        let mut bytes = Vec::new();
        self.file.seek(SeekFrom::Start(0)).map_err(failed.clone()("read"))?;
        Read::by_ref(&mut self.file)
            .take(self.length)
            .read_to_end(&mut bytes)
            .map_err(failed.clone()("read"))?;
        let smaller = record::only(&bytes, kept);
        let next = self.lock.directory.join(NEXT_NAME);
        let rewritten = options().create(true).truncate(true).open(&next).and_then(|mut file| {
            file.write_all(&smaller)?;
            file.sync_all()?;
            fs::rename(&next, self.lock.directory.join(FILE_NAME))?;
            sync_directory(&self.lock.directory)?;
            Ok(file)
        });
        match rewritten {
            Ok(file) => {
                (self.file, self.length) = (file, smaller.len() as u64);
                Ok(())
            }
            Err(source) => {
                self.file.seek(SeekFrom::Start(self.length)).map_err(failed("read"))?;
                Err(failure("rewrite", &self.lock.directory, source))
            }
        }
    }
}

fn failure(operation: &'static str, directory: &Path, source: io::Error) -> JournalError {
    JournalError::Io { operation, directory: directory.to_owned(), source }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits());
    options
}

/// A name is on the disk once its directory is.
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::blank_result;
    use crate::supervisor::job::Job;
    use crate::supervisor::journal::record::Accepted;

    fn begin(job: &str) -> Vec<u8> {
        let (tenant, name) = (String::new(), String::new());
        record::accepted(&Accepted { job: job.to_owned(), uid: 1, gid: 1, tenant, name, at_ms: 1 }).unwrap()
    }

    fn end(job: &str) -> Vec<u8> {
        record::ended(&blank_result(&Job::sample(job, 1)), 2, u64::MAX).unwrap()
    }

    fn opened(directory: &Path) -> (JournalFile, Replay) {
        JournalFile::open(JournalLock::take(directory).unwrap()).unwrap()
    }

    fn jobs(directory: &Path) -> Vec<String> {
        opened(directory).1.jobs.into_keys().collect()
    }

    #[test]
    fn journal_opened_again_has_what_was_appended_and_not_the_half_record_at_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, replay) = opened(&directory.path().join("deep/er"));
        assert!(replay.jobs.is_empty());
        journal.append(&begin("a")).unwrap();
        drop(journal);
        let place = directory.path().join("deep/er");
        let half = &begin("b")[..20];
        OpenOptions::new().append(true).open(place.join(FILE_NAME)).unwrap().write_all(half).unwrap();
        let (mut journal, replay) = opened(&place);
        assert_eq!(replay.jobs.keys().collect::<Vec<_>>(), ["a"]);
        journal.append(&begin("c")).unwrap();
        drop(journal);
        assert_eq!(jobs(&place), ["a", "c"]);
    }

    #[test]
    fn journal_of_a_daemon_that_lives_is_not_opened() {
        let directory = tempfile::tempdir().unwrap();
        let held = opened(directory.path());
        assert!(matches!(JournalLock::take(directory.path()), Err(JournalError::InUse(_))));
        drop(held);
        opened(directory.path());
    }

    #[test]
    fn journal_that_is_rewritten_forgets_what_is_over_and_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, _) = opened(directory.path());
        journal.append(&[begin("a"), begin("b"), end("a"), begin("c"), end("c")].concat()).unwrap();
        let before = journal.length();
        journal.keep_only(&BTreeSet::from(["c".to_owned()])).unwrap();
        assert!(journal.length() < before);
        journal.append(&end("b")).unwrap();
        drop(journal);
        let (_journal, replay) = opened(directory.path());
        let over: Vec<_> =
            replay.jobs.iter().map(|(job, known)| (job.as_str(), known.ended.is_some())).collect();
        assert_eq!(over, [("b", true), ("c", true)]);
    }

    #[test]
    fn write_that_fails_leaves_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, _) = opened(directory.path());
        journal.append(&begin("a")).unwrap();
        // A descriptor that may not write stands for a disk that cannot.
        let good =
            std::mem::replace(&mut journal.file, File::open(directory.path().join(FILE_NAME)).unwrap());
        assert!(matches!(journal.append(&begin("b")), Err(JournalError::Io { operation: "write to", .. })));
        // It could not be cut either, so nothing more is promised.
        assert!(matches!(journal.append(&begin("c")), Err(JournalError::Broken(_))));
        drop((journal, good));
        assert_eq!(jobs(directory.path()), ["a"]);
    }
}
