//! One worker's leaf: its limits, its kill, its figures.
//!
//! Owns: the directory of a leaf from its making to its removal.
//! Never: outlives the worker: a leaf is made for one and removed after it.
//!
//! A leaf is not used again for another worker, although making one is not free. What the last one left behind
//! (pages of the cache, of a memfd) stays charged to it and would eat into the next one's limit, and
//! `pids.peak` and, before Linux 6.12, `memory.peak` cannot be reset, so the next bill would be the last one's.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cgroups_rs::fs::MaxValue;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use super::{CgroupError, Controller, events};

/// No file of a leaf is longer: `cgroup.procs` of a thousand processes is 8 KiB.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// Period of `cpu.max`, µs; the kernel's own default.
const CPU_PERIOD_US: u64 = 100_000;
/// `cgroup.events` has two short lines; room for more to come.
const EVENTS_BYTES_MAX: usize = 512;

/// Limits of one leaf. Those whose controller is not in force are not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafLimits {
    /// `memory.max`, bytes; the kernel rounds down to a page. Swap is not allowed at all.
    pub memory_bytes: u64,
    /// `pids.max`: threads count.
    pub pids_max: u64,
    /// `cpu.weight`, 1 to 10000, against the other leaves of the same group.
    pub cpu_weight: u64,
    /// `cpu.max`, in hundredths of one processor; `None` leaves it at `max`.
    pub cpu_max_percent: Option<u64>,
    /// Whose group it is made in, where callers have groups; `None`: in the tree itself.
    pub caller: Option<u32>,
}

/// What a leaf used since it was made. A figure whose file is absent is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeafUsage {
    /// CPU time in user mode, µs. Needs no controller.
    pub cpu_user_us: Option<u64>,
    /// CPU time in the kernel, µs. Needs no controller.
    pub cpu_system_us: Option<u64>,
    /// Most memory charged at once, bytes; the kernel's own for the worker (page tables, sockets) included. Linux
    /// 5.19.
    pub memory_peak_bytes: Option<u64>,
    /// Processes the kernel killed for want of memory, whosever limit was reached.
    pub oom_kills: Option<u64>,
    /// Times the leaf was at its own `memory.max` and had nothing left to give. Where there were kills and this is 0, a
    /// limit above the leaf was reached.
    pub ooms: Option<u64>,
    /// Most threads at once. Linux 6.1.
    pub pids_peak: Option<u64>,
    /// Forks refused because the leaf was at `pids.max`.
    pub forks_refused: Option<u64>,
}

/// A leaf. Dropping it kills what is in it and removes it if it is empty by then; what cannot be removed is swept
/// when a supervisor next starts in the tree.
#[derive(Debug)]
pub struct Leaf {
    path: PathBuf,
    directory: File,
    controllers: Vec<Controller>,
    removed: bool,
}

impl Leaf {
    /// Makes the group at `path`, which must not exist, and sets its limits.
    pub(super) fn create(
        path: PathBuf,
        controllers: &[Controller],
        limits: &LeafLimits,
    ) -> Result<Self, CgroupError> {
        fs::create_dir(&path).map_err(|source| CgroupError::Create { directory: path.clone(), source })?;
        // From here on, dropping the leaf removes the directory.
        let leaf = match open_directory(&path) {
            Ok(directory) => Self { path, directory, controllers: controllers.to_vec(), removed: false },
            Err(source) => {
                // Nothing can be in it, and the first error is the one to tell.
                let _ = fs::remove_dir(&path);
                return Err(CgroupError::Read { file: path, source });
            }
        };
        leaf.set_limits(limits)?;
        Ok(leaf)
    }

    /// For `CLONE_INTO_CGROUP`. Close-on-exec.
    #[must_use]
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Controllers in force in it.
    #[must_use]
    pub fn controllers(&self) -> &[Controller] {
        &self.controllers
    }

    /// Whether the process is in this leaf. The kernel's own answer, unlike what a worker says of itself.
    ///
    /// # Errors
    /// When `cgroup.procs` cannot be read.
    pub fn contains(&self, pid: Pid) -> Result<bool, CgroupError> {
        let wanted = pid.as_raw().to_string();
        Ok(self.read("cgroup.procs")?.is_some_and(|text| text.lines().any(|line| line == wanted)))
    }

    /// Sets `memory.max`, bytes: a worker that was made ahead of need gets its job's limit when it gets its job.
    /// Without the memory controller nothing happens. A limit below what is already used makes the kernel reclaim,
    /// and kill if that is not enough.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn set_memory_max(&self, memory_bytes: u64) -> Result<(), CgroupError> {
        if !self.controllers.contains(&Controller::Memory) {
            return Ok(());
        }
        set_memory_max(&self.path, memory_bytes)
    }

    /// Sends SIGKILL to every process in the leaf at once; those that are being forked die too. Does not wait.
    ///
    /// # Errors
    /// When `cgroup.kill` (Linux 5.14) cannot be written.
    pub fn kill(&self) -> Result<(), CgroupError> {
        kill_all(&self.path)
    }

    /// Whether a process lives in the leaf; a zombie does not.
    ///
    /// # Errors
    /// When `cgroup.events` cannot be read.
    pub fn is_populated(&self) -> Result<bool, CgroupError> {
        is_populated(&self.path)
    }

    /// Waits, blocking, until no process lives in the leaf, for at most `bound`. False: some still does.
    ///
    /// # Errors
    /// When `cgroup.events` cannot be read or waited for.
    pub fn wait_empty(&self, bound: Duration) -> Result<bool, CgroupError> {
        wait_empty(&self.path, bound)
    }

    /// What was used so far. Call it after the worker was reaped and before [`Leaf::remove`].
    ///
    /// # Errors
    /// When a file that is there cannot be read.
    pub fn usage(&self) -> Result<LeafUsage, CgroupError> {
        let cpu = self.read("cpu.stat")?.map(|text| events::cpu_stat(&text)).unwrap_or_default();
        let memory = self.read("memory.events")?.map(|text| events::memory_events(&text)).unwrap_or_default();
        Ok(LeafUsage {
            cpu_user_us: cpu.user_us,
            cpu_system_us: cpu.system_us,
            memory_peak_bytes: self.read("memory.peak")?.and_then(|text| events::single_value(&text)),
            oom_kills: memory.oom_kill,
            ooms: memory.oom,
            pids_peak: self.read("pids.peak")?.and_then(|text| events::single_value(&text)),
            forks_refused: self.read("pids.events")?.and_then(|text| events::flat_value(&text, "max")),
        })
    }

    /// Removes the leaf. Call it after its processes were reaped; on an error it can be called again.
    ///
    /// # Errors
    /// [`CgroupError::StillPopulated`] while a process is in it; otherwise what the kernel says.
    pub fn remove(&mut self) -> Result<(), CgroupError> {
        if !self.removed {
            remove_group(&self.path)?;
            self.removed = true;
        }
        Ok(())
    }

    fn set_limits(&self, limits: &LeafLimits) -> Result<(), CgroupError> {
        if self.controllers.contains(&Controller::Memory) {
            self.set_memory_max(limits.memory_bytes)?;
            set_no_swap(&self.path)?;
            // A worker is one unit: half of one must not live on. cgroups-rs has no writer for this.
            write_file(&self.path.join("memory.oom.group"), "1")?;
        }
        if self.controllers.contains(&Controller::Pids) {
            set_pids_max(&self.path, limits.pids_max)?;
        }
        if self.controllers.contains(&Controller::Cpu) {
            set_cpu(&self.path, Some(limits.cpu_weight), limits.cpu_max_percent)?;
        }
        Ok(())
    }

    fn read(&self, name: &str) -> Result<Option<String>, CgroupError> {
        read_file(&self.path.join(name))
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        if self.removed {
            return;
        }
        // A worker whose leaf nobody holds is watched by nobody. There is no one left to tell of a failure, and
        // the next start sweeps.
        let _ = self.kill();
        let _ = remove_group(&self.path);
    }
}

fn open_directory(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    // The standard library adds O_CLOEXEC, and ignores the access mode with O_PATH, as the kernel does.
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

pub(super) fn set_memory_max(group: &Path, memory_bytes: u64) -> Result<(), CgroupError> {
    let value = kernel_number("memory.max", memory_bytes)?;
    memory(group).set_limit(value).map_err(|source| refused(group, "memory.max", memory_bytes, source))
}

pub(super) fn set_no_swap(group: &Path) -> Result<(), CgroupError> {
    // Absent only in a kernel that cannot swap.
    if !group.join("memory.swap.max").exists() {
        return Ok(());
    }
    memory(group).set_memswap_limit(0).map_err(|source| refused(group, "memory.swap.max", 0, source))
}

pub(super) fn set_pids_max(group: &Path, pids_max: u64) -> Result<(), CgroupError> {
    let maximum = MaxValue::Value(kernel_number("pids.max", pids_max)?);
    PidController::new(group.to_owned(), group.to_owned(), true)
        .set_pid_max(maximum)
        .map_err(|source| refused(group, "pids.max", pids_max, source))
}

pub(super) fn set_cpu(
    group: &Path,
    weight: Option<u64>,
    max_percent: Option<u64>,
) -> Result<(), CgroupError> {
    if let Some(weight) = weight {
        CpuController::new(group.to_owned(), group.to_owned(), true)
            .set_shares(weight)
            .map_err(|source| refused(group, "cpu.weight", weight, source))?;
    }
    match max_percent {
        // cgroups-rs writes quota and period of cgroup v1.
        Some(percent) => {
            let quota_us = percent.saturating_mul(CPU_PERIOD_US) / 100;
            write_file(&group.join("cpu.max"), &format!("{quota_us} {CPU_PERIOD_US}"))
        }
        None => Ok(()),
    }
}

fn memory(group: &Path) -> MemController {
    MemController::new(group.to_owned(), group.to_owned(), true)
}

fn refused(
    group: &Path,
    file: &'static str,
    value: u64,
    source: cgroups_rs::fs::error::Error,
) -> CgroupError {
    CgroupError::Limit { directory: group.to_owned(), file, value, source }
}

/// The kernel's numbers are signed.
fn kernel_number(file: &'static str, value: u64) -> Result<i64, CgroupError> {
    i64::try_from(value).map_err(|_| CgroupError::LimitTooLarge { file, value })
}

/// Moves a process, with all its threads, into the group. Takes a lock of the whole machine: blocks for milliseconds.
///
/// # Errors
/// When the kernel refuses it: the process is gone, or somebody else's.
pub fn move_into(group: &Path, pid: Pid) -> Result<(), CgroupError> {
    write_file(&group.join("cgroup.procs"), &pid.as_raw().to_string())
}

pub(super) fn kill_all(group: &Path) -> Result<(), CgroupError> {
    write_file(&group.join("cgroup.kill"), "1")
}

pub(super) fn is_populated(group: &Path) -> Result<bool, CgroupError> {
    let text = read_file(&group.join("cgroup.events"))?;
    // A group that is gone is empty; one whose answer cannot be understood is not taken to be.
    Ok(text.is_some_and(|text| events::populated(&text) != Some(false)))
}

/// A poll for POLLPRI on `cgroup.events` returns when an answer in it has changed since it was last read through
/// the same descriptor: so each turn reads first and then waits, and no change is missed.
pub(super) fn wait_empty(group: &Path, bound: Duration) -> Result<bool, CgroupError> {
    let file = group.join("cgroup.events");
    let failed = |source| CgroupError::Read { file: file.clone(), source };
    let deadline = Instant::now() + bound;
    let watched = match File::open(&file) {
        Ok(watched) => watched,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(failed(error)),
    };
    loop {
        let mut text = [0; EVENTS_BYTES_MAX];
        let length = match watched.read_at(&mut text, 0) {
            Ok(length) => length,
            // The group was removed by somebody else.
            Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => return Ok(true),
            Err(error) => return Err(failed(error)),
        };
        let text = String::from_utf8_lossy(text.get(..length).unwrap_or_default());
        if events::populated(&text) == Some(false) {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(watched.as_fd(), PollFlags::POLLPRI)], timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(failed(error.into())),
        }
    }
}

pub(super) fn remove_group(group: &Path) -> Result<(), CgroupError> {
    match fs::remove_dir(group) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) => {
            Err(CgroupError::StillPopulated { directory: group.to_owned() })
        }
        Err(source) => Err(CgroupError::Remove { directory: group.to_owned(), source }),
    }
}

/// `None`: there is no such file, because its controller is not in force or the kernel is older.
pub(super) fn read_file(file: &Path) -> Result<Option<String>, CgroupError> {
    let failed = |source| CgroupError::Read { file: file.to_owned(), source };
    let opened = match File::open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut text = String::new();
    opened.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(Some(text))
}

/// One write(2): the kernel takes each as a command of its own. Never creates a file.
pub(super) fn write_file(file: &Path, value: &str) -> Result<(), CgroupError> {
    let written = OpenOptions::new().write(true).open(file).and_then(|mut opened| {
        use std::io::Write;
        opened.write_all(value.as_bytes())
    });
    written.map_err(|source| CgroupError::Write { file: file.to_owned(), value: value.to_owned(), source })
}
