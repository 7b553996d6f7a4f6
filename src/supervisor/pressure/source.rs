//! Where the kernel says how scarce memory is.
//!
//! Owns: the choice of the file, its reading, and the trigger that has the kernel speak up by itself.
//! Never: judges what it says.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, PROC_SUPER_MAGIC, fstatfs};
use tokio::io::unix::AsyncFd;

use super::gauge;
use crate::config::PressureFile;
use crate::supervisor::readiness;

/// Of the whole machine.
const MACHINE: &str = "/proc/pressure/memory";

/// Of one group, in its directory.
const OF_GROUP: &str = "memory.pressure";

/// Room for the whole of such a file, bytes.
const READ_BYTES: u64 = 4 << 10;

/// Windows that the kernel takes, psi_trigger_create(); a trigger of whoever lacks CAP_SYS_RESOURCE must have a window of
/// whole multiples of two seconds (Linux 6.4 and later; before that it may have none).
const WINDOW_MIN: Duration = Duration::from_millis(500);
const WINDOW_MAX: Duration = Duration::from_secs(10);
const UNPRIVILEGED_WINDOW: Duration = Duration::from_secs(2);

/// Why nothing is known of pressure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPressure {
    /// Switched off.
    #[error("switched off by pressure.file")]
    Off,
    /// It cannot be read.
    #[error(
        "{path} cannot be read: {why}; boot a kernel with CONFIG_PSI (and psi=1, where it is off by default), or set pressure.file"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        why: String,
    },
    /// It holds something else.
    #[error("{path} holds no pressure stall information; set pressure.file to a file that does")]
    Nonsense {
        /// The file.
        path: PathBuf,
    },
}

/// The file that is read, which was readable just now. `group` is the supervisor's own tree of cgroups.
///
/// # Errors
/// When there is none, with the reason.
pub fn choose(file: &PressureFile, group: Option<&Path>) -> Result<PathBuf, NoPressure> {
    let path = match file {
        PressureFile::Off => return Err(NoPressure::Off),
        PressureFile::Path(path) => path.clone(),
        PressureFile::Auto => {
            let of_group = group.map(|group| group.join(OF_GROUP)).filter(|path| read(path).is_ok());
            of_group.unwrap_or_else(|| MACHINE.into())
        }
    };
    read(&path).map(|_| path)
}

/// Time in which some process waited for memory, by that file.
///
/// # Errors
/// When it cannot be read or holds something else.
pub(super) fn read(path: &Path) -> Result<Duration, NoPressure> {
    let text = text(path)
        .map_err(|error| NoPressure::Unreadable { path: path.to_owned(), why: error.to_string() })?;
    gauge::parse(&text).ok_or_else(|| NoPressure::Nonsense { path: path.to_owned() })
}

fn text(path: &Path) -> io::Result<String> {
    // Looked at before it is opened: opening a FIFO would wait for a writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a file"));
    }
    let mut text = String::new();
    File::open(path)?.take(READ_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// Has the kernel report by itself that `high_percent` of some `interval` was lost. `None` where it does not: the file is
/// none of its own, or this process may not ask.
pub(super) fn trigger(path: &Path, interval: Duration, high_percent: u64) -> Option<AsyncFd<OwnedFd>> {
    let windows = [interval.clamp(WINDOW_MIN, WINDOW_MAX), UNPRIVILEGED_WINDOW];
    windows.into_iter().find_map(|window| {
        let mut file = OpenOptions::new().read(true).write(true).open(path).ok()?;
        let kind = fstatfs(&file).ok()?.filesystem_type();
        // Anything else would be written into.
        if kind != PROC_SUPER_MAGIC && kind != CGROUP2_SUPER_MAGIC {
            return None;
        }
        let window_us = u64::try_from(window.as_micros()).ok()?;
        let stall_us = window_us.saturating_mul(high_percent) / 100;
        file.write_all(format!("some {stall_us} {window_us}\0").as_bytes()).ok()?;
        readiness::watch_priority(file.into()).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "some avg10=0.00 avg60=0.00 avg300=0.00 total=5\nfull avg10=0.00 total=1\n";

    #[test]
    fn own_group_is_read_where_it_says_something_and_the_machine_otherwise() {
        let directory = tempfile::tempdir().unwrap();
        let of_group = directory.path().join(OF_GROUP);
        let chosen = || choose(&PressureFile::Auto, Some(directory.path()));
        match choose(&PressureFile::Auto, None) {
            Ok(path) => {
                assert_eq!(path, Path::new(MACHINE));
                assert_eq!(chosen().unwrap(), Path::new(MACHINE));
            }
            Err(why) => {
                println!("not run: pressure stall information ({why})");
                assert_eq!(chosen(), Err(why));
            }
        }
        std::fs::write(&of_group, TEXT).unwrap();
        assert_eq!(chosen().unwrap(), of_group);
        assert_eq!(read(&of_group), Ok(Duration::from_micros(5)));
    }

    #[test]
    fn file_that_says_nothing_is_refused_with_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pressure");
        let chosen = || choose(&PressureFile::Path(path.clone()), None).map_err(|why| why.to_string());
        assert!(chosen().unwrap_err().contains("CONFIG_PSI"));
        std::fs::write(&path, "nothing").unwrap();
        assert!(chosen().unwrap_err().contains("holds no pressure"));
        nix::unistd::unlink(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(chosen().unwrap_err().contains("not a file"));
        assert_eq!(choose(&PressureFile::Off, None), Err(NoPressure::Off));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn file_that_is_not_the_kernels_is_never_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pressure");
        std::fs::write(&path, TEXT).unwrap();
        assert!(trigger(&path, Duration::from_secs(1), 10).is_none());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), TEXT);
    }
}
