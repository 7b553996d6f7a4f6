//! A job's output while it comes, and once it is there.
//!
//! Owns: how much of it is kept, and whether in memory of the supervisor's own or in a file in memory.
//! Never: lets a worker have the file: it is written here, from the worker's pipe, and sealed before anybody gets it.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use stockade_sys::memfd;
use stockade_wire::bytes::ByteBuf;
use stockade_wire::job::JobResult;
use stockade_wire::limits::BESIDE_BYTES_MIN;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::job_end::JobEnd;
use crate::sealed::SealedFile;

/// The output of one job, which begins without any.
pub(super) struct Output {
    kept: Kept,
    bytes: u64,
    /// Places of files, of all jobs together.
    files: Arc<Semaphore>,
}

enum Kept {
    Memory(Vec<u8>),
    File {
        file: File,
        place: OwnedSemaphorePermit,
    },
    /// It could not be kept.
    Lost(io::Error),
    /// It was handed on.
    Taken,
}

impl Output {
    pub(super) const fn new(files: Arc<Semaphore>) -> Self {
        Self { kept: Kept::Memory(Vec::new()), bytes: 0, files }
    }

    /// Adds `bytes` as far as `most` bytes in all; `false` when that was not far enough.
    pub(super) fn add(&mut self, bytes: &[u8], most: u64) -> bool {
        let room = usize::try_from(most.saturating_sub(self.bytes)).unwrap_or(usize::MAX);
        let added = bytes.get(..room).unwrap_or(bytes);
        self.bytes += added.len() as u64;
        if let Kept::Memory(held) = &mut self.kept
            && self.bytes >= BESIDE_BYTES_MIN as u64
            && let Some((file, place)) = moved(held, &self.files)
        {
            self.kept = Kept::File { file, place };
        }
        let written = match &mut self.kept {
            Kept::Memory(held) => {
                held.extend_from_slice(added);
                Ok(())
            }
            Kept::File { file, .. } => file.write_all(added),
            Kept::Lost(_) | Kept::Taken => Ok(()),
        };
        if let Err(error) = written {
            self.kept = Kept::Lost(error);
        }
        added.len() == bytes.len()
    }

    /// What came from `offset` on, at most `most` bytes.
    pub(super) fn part(&self, offset: usize, most: usize) -> Vec<u8> {
        match &self.kept {
            Kept::Memory(held) => part_of(held, offset, most),
            Kept::File { file, .. } => {
                part_of_file(offset, most, |buffer, offset| file.read_at(buffer, offset))
            }
            Kept::Lost(_) | Kept::Taken => Vec::new(),
        }
    }

    /// Hands it on.
    ///
    /// # Errors
    /// When it could not be kept.
    pub(super) fn take(&mut self) -> io::Result<Unsealed> {
        match std::mem::replace(&mut self.kept, Kept::Taken) {
            Kept::Memory(held) => Ok(Unsealed::Bytes(held)),
            Kept::File { file, place } => Ok(Unsealed::File(file, place)),
            Kept::Lost(error) => Err(error),
            Kept::Taken => Ok(Unsealed::Bytes(Vec::new())),
        }
    }

    /// Bytes that were kept.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// An output that is complete. Nobody but this process has its file.
pub(super) enum Unsealed {
    Bytes(Vec<u8>),
    File(File, OwnedSemaphorePermit),
}

impl Unsealed {
    /// Makes it one that nobody can change. A file is sealed on another thread, see [`memfd::seal`]: a client may ask the
    /// kernel, and may send it on as an input, for which less than all of the seals is not enough.
    ///
    /// # Errors
    /// When it could not be sealed.
    pub(super) async fn seal(self) -> io::Result<Taken> {
        match self {
            Self::Bytes(bytes) => Ok(Taken::Bytes(bytes)),
            Self::File(file, place) => {
                let sealed = tokio::task::spawn_blocking(move || SealedFile::seal(&file));
                Ok(Taken::File(sealed.await.map_err(io::Error::other)??, place))
            }
        }
    }
}

/// An output that is there for good.
pub(crate) enum Taken {
    Bytes(Vec<u8>),
    File(SealedFile, OwnedSemaphorePermit),
}

impl Taken {
    /// The end of its job, with it in `result` or beside it.
    pub(crate) fn with(self, result: JobResult) -> JobEnd {
        match self {
            Self::Bytes(bytes) => JobEnd::of(JobResult { output: ByteBuf(bytes), ..result }),
            Self::File(file, place) => JobEnd::with_output(result, file, Some(place)),
        }
    }
}

/// A file with what was held in memory so far. `None` when it has to stay there, for want of a place or a descriptor.
fn moved(held: &[u8], files: &Arc<Semaphore>) -> Option<(File, OwnedSemaphorePermit)> {
    let place = Arc::clone(files).try_acquire_owned().ok()?;
    let mut file = memfd::create("stockade-output").ok()?;
    file.write_all(held).ok()?;
    Some((file, place))
}

fn part_of(bytes: &[u8], offset: usize, most: usize) -> Vec<u8> {
    let rest = bytes.get(offset..).unwrap_or_default();
    rest.get(..most).unwrap_or(rest).to_vec()
}

/// What is there of a file. One that cannot be read ends: whoever takes it over fails to as well, and says so.
fn part_of_file(
    offset: usize,
    most: usize,
    read: impl FnOnce(&mut [u8], u64) -> io::Result<usize>,
) -> Vec<u8> {
    let mut part = vec![0; most];
    let length = read(&mut part, offset as u64).unwrap_or(0);
    part.truncate(length);
    part
}

/// The part of an output that is there for good.
pub(super) fn part_of_end(end: &JobEnd, offset: usize, most: usize) -> Vec<u8> {
    match &end.output {
        Some(file) => part_of_file(offset, most, |buffer, offset| file.read_at(buffer, offset)),
        None => part_of(&end.result.output.0, offset, most),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::job::sample_result;

    const LARGE: usize = BESIDE_BYTES_MIN;

    fn files(places: usize) -> Arc<Semaphore> {
        Arc::new(Semaphore::new(places))
    }

    fn counting(length: usize) -> Vec<u8> {
        (0..=255).cycle().take(length).collect()
    }

    fn added(parts: &[usize], files: &Arc<Semaphore>) -> (Output, Vec<u8>) {
        let content = counting(parts.iter().sum());
        let mut output = Output::new(Arc::clone(files));
        let mut rest = content.as_slice();
        for length in parts {
            let (part, after) = rest.split_at(*length);
            assert!(output.add(part, u64::MAX));
            rest = after;
        }
        (output, content)
    }

    async fn taken(output: &mut Output) -> Taken {
        output.take().unwrap().seal().await.unwrap()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn output_is_in_a_file_from_its_threshold_on_and_sealed_when_it_is_handed_on() {
        let files = files(10);
        for (parts, in_file) in [
            (&[][..], false),
            (&[LARGE - 1], false),
            (&[LARGE], true),
            (&[LARGE - 1, 1], true),
            (&[1, LARGE, 3], true),
            (&[100; 1000], true),
        ] {
            let (mut output, content) = added(parts, &files);
            assert_eq!(output.part(0, usize::MAX >> 40), content[..content.len().min(usize::MAX >> 40)]);
            let end = taken(&mut output).await.with(sample_result());
            assert_eq!(end.output.is_some(), in_file, "{parts:?}");
            assert_eq!(end.result.output.0.is_empty(), in_file || content.is_empty());
            assert_eq!(end.output_bytes(), content.len() as u64);
            assert_eq!(end.whole().unwrap().output.0, content);
            assert_eq!(part_of_end(&end, 1, 5), part_of(&content, 1, 5));
            if let Some(file) = &end.output {
                assert!(memfd::is_sealed(file).unwrap());
                assert_eq!(files.available_permits(), 9);
            }
            drop(end);
            assert_eq!(files.available_permits(), 10);
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn output_above_its_limit_is_cut_there() {
        let files = files(1);
        for limit in [0, 5, LARGE - 1, LARGE, LARGE + 5] {
            let content = counting(2 * LARGE);
            let mut output = Output::new(Arc::clone(&files));
            let (first, second) = content.split_at(limit / 2);
            assert!(output.add(first, limit as u64));
            assert!(!output.add(second, limit as u64));
            assert!(!output.add(b"more", limit as u64));
            assert_eq!(output.bytes(), limit as u64);
            assert_eq!(
                taken(&mut output).await.with(sample_result()).whole().unwrap().output.0,
                content[..limit]
            );
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn output_stays_in_memory_when_all_files_are_taken() {
        let files = files(1);
        let (mut first, _) = added(&[LARGE], &files);
        let (mut second, content) = added(&[LARGE, LARGE], &files);
        let first = taken(&mut first).await.with(sample_result());
        assert!(first.output.is_some());
        let second = taken(&mut second).await.with(sample_result());
        assert!(second.output.is_none());
        assert_eq!(second.result.output.0, content);
        drop(first);
        assert!(matches!(taken(&mut added(&[LARGE], &files).0).await, Taken::File(..)));
    }

    #[test]
    fn output_that_could_not_be_kept_is_no_result() {
        let files = files(1);
        let (mut output, _) = added(&[LARGE], &files);
        let Kept::File { file, .. } = &output.kept else { panic!("it is not in a file") };
        // As when memory runs out: nothing more can be written.
        memfd::seal(file).unwrap();
        assert!(output.add(b"more", u64::MAX));
        assert!(output.take().is_err());
    }
}
