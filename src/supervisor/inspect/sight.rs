//! The files of `/proc/PID` that tell of a worker.
//!
//! Owns: reading them, and telling a hidden process from a `/proc` that is not there.
//! Never: judges what they say.

use std::fs::{self, File};
use std::io::{Error, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{InspectError, limits};

/// What can be seen of one process.
#[derive(Debug, Clone)]
pub(super) struct Sight {
    /// `/proc/PID/status`
    pub(super) status: String,
    /// Resource limits, in the order of [`limits::NAMED_LIMITS`].
    pub(super) limits: [limits::Pair; 4],
    /// Whose those files are.
    pub(super) owner: u32,
    /// How many descriptors are open, if that can be told.
    pub(super) open_fds: Option<u64>,
}

impl Sight {
    /// Looks at a process that has not been reaped.
    pub(super) fn of(pid: u32) -> Result<Self, InspectError> {
        let file = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
        let (status, owner) = read(&file("status"))?;
        Ok(Self { status, limits: limits::of(pid)?, owner, open_fds: open_fds(&file("fd")) })
    }
}

/// Whether a process has given up its memory: the first thing that goes when it ends, and all else goes after it.
pub(super) fn is_ending(pid: u32) -> bool {
    read(&PathBuf::from(format!("/proc/{pid}/status")))
        .is_ok_and(|(status, _)| is_without_memory(&Status::of(&status)))
}

fn is_without_memory(status: &Status<'_>) -> bool {
    status.field("Threads").is_ok() && status.field("VmSize").is_err()
}

/// Room for the lines of a status file; a few more than Linux 6.18 has.
const LINES: usize = 64;

/// Room for a whole file of `/proc/PID` that is looked at, bytes.
const READ_BYTES: usize = 4 << 10;

/// Most of a file that is read, bytes: no line that is looked at comes after that.
const READ_BYTES_MAX: u64 = 64 << 10;

/// The text of a file and its owner.
pub(super) fn read(path: &Path) -> Result<(String, u32), InspectError> {
    let read = || -> Result<(String, u32), Error> {
        let file = File::open(path)?;
        let owner = file.metadata()?.uid();
        // The kernel says no size, and the standard library would ask for one and feel its way up from 32 bytes.
        let mut text = String::with_capacity(READ_BYTES);
        file.take(READ_BYTES_MAX).read_to_string(&mut text)?;
        Ok((text, owner))
    };
    read().map_err(|source| unread(path, source))
}

/// A process that was not reaped is there: whoever does not find it, or may not look, is kept from seeing it.
pub(super) fn unread(path: &Path, source: Error) -> InspectError {
    let path = path.to_owned();
    let kept = matches!(source.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied);
    if kept && Path::new(OWN_STATUS).exists() {
        return InspectError::Hidden { path, source };
    }
    InspectError::Read { path, source }
}

/// The kernel counts for everybody since Linux 6.2, and lists for those who may trace.
fn open_fds(directory: &Path) -> Option<u64> {
    let counted = fs::metadata(directory).ok()?.size();
    if counted > 0 {
        return Some(counted);
    }
    u64::try_from(fs::read_dir(directory).ok()?.count()).ok()
}

/// Of the thread that starts zygotes: filters are a thread's.
const OWN_STATUS: &str = "/proc/thread-self/status";

/// Seccomp filters of the calling thread: a service manager's, a container's.
///
/// # Errors
/// When `/proc` is not there.
pub(crate) fn filters_around() -> Result<u32, InspectError> {
    let (status, _) = read(Path::new(OWN_STATUS))?;
    let status = Status::of(&status);
    match status.number("Seccomp_filters") {
        Ok(count) => u32::try_from(count).map_err(|_| InspectError::Field { field: "Seccomp_filters" }),
        // A kernel without seccomp has no such line.
        Err(_) if status.field("Seccomp").is_err() => Ok(0),
        Err(error) => Err(error),
    }
}

/// A status file, line by line. Splitting it once takes a tenth of what looking through it for each line did.
pub(super) struct Status<'s>(Vec<(&'s str, &'s str)>);

impl<'s> Status<'s> {
    /// Of the file's text.
    pub(super) fn of(text: &'s str) -> Self {
        let mut lines = Vec::with_capacity(LINES);
        lines.extend(text.split('\n').filter_map(|line| line.split_once(':')));
        Self(lines)
    }

    /// What follows `name:`.
    pub(super) fn field(&self, name: &'static str) -> Result<&'s str, InspectError> {
        let found = self.0.iter().find(|(named, _)| *named == name);
        found.map(|(_, value)| value.trim()).ok_or(InspectError::Field { field: name })
    }

    /// The number that follows `name:`, without a unit.
    pub(super) fn number(&self, name: &'static str) -> Result<u64, InspectError> {
        let text = self.field(name)?;
        text.trim_end_matches(" kB").parse().map_err(|_| InspectError::Field { field: name })
    }
}
