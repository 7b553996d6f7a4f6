//! One caller's group: what all jobs of one user together may use.
//!
//! Owns: the limits of such groups, making one, and removing it once nothing is in it.
//! Never: holds a process itself: those are in the leaves below.
//!
//! A worker is born below its caller's group. It cannot be brought there later: moving a process takes a lock of the
//! whole machine, milliseconds, and leaves the memory that it has already charged to where it was.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::leaf::{self, read_file};
use super::{CgroupError, Controller, events};
use crate::config::CallerLimits;

/// Groups of callers, beyond which empty ones are looked for before another is made. A group that is kept
/// costs the kernel some memory, and one that is not, a few system calls when its caller comes again.
const GROUPS_KEPT_MAX: usize = 64;

/// The groups of one tree.
#[derive(Debug)]
pub(super) struct Groups {
    /// Those whose controller is not in force are not set.
    limits: CallerLimits,
    /// By user.
    made: BTreeSet<u32>,
}

impl Groups {
    pub(super) const fn new(limits: CallerLimits) -> Self {
        Self { limits, made: BTreeSet::new() }
    }

    /// Makes the group of `uid` at `path`, if there is none.
    pub(super) fn ensure(
        &mut self,
        uid: u32,
        path: &Path,
        controllers: &[Controller],
    ) -> Result<(), CgroupError> {
        if self.made.contains(&uid) {
            return self.has_room(uid, path, controllers);
        }
        match fs::create_dir(path) {
            Ok(()) => {}
            // What an earlier try left, whose limits are set now.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(CgroupError::Create { directory: path.to_owned(), source }),
        }
        let set = self.set(path, controllers).and_then(|()| hand_down(path, controllers));
        if set.is_err() {
            // A group without its limits is no group.
            let _ = fs::remove_dir(path);
            return set;
        }
        self.made.insert(uid);
        Ok(())
    }

    /// Removes the groups that nothing is in.
    pub(super) fn tidy(&mut self, path_of: impl Fn(u32) -> PathBuf) {
        self.made.retain(|uid| fs::remove_dir(path_of(*uid)).is_err_and(|error| is_in_use(&error)));
    }

    /// Whether there are so many that the empty ones are better removed first.
    pub(super) fn are_many(&self) -> bool {
        self.made.len() >= GROUPS_KEPT_MAX
    }

    fn set(&self, path: &Path, controllers: &[Controller]) -> Result<(), CgroupError> {
        let limits = self.limits;
        if let Some(memory_bytes) = limits.memory_bytes
            && controllers.contains(&Controller::Memory)
        {
            leaf::set_memory_max(path, memory_bytes)?;
            leaf::set_no_swap(path)?;
        }
        if let Some(pids_max) = limits.pids_max
            && controllers.contains(&Controller::Pids)
        {
            leaf::set_pids_max(path, pids_max)?;
        }
        if controllers.contains(&Controller::Cpu) {
            leaf::set_cpu(path, limits.cpu_weight, limits.cpu_max_percent)?;
        }
        Ok(())
    }

    /// The kernel would refuse the fork, and a fork that fails looks like a fault of the platform's.
    fn has_room(&self, uid: u32, path: &Path, controllers: &[Controller]) -> Result<(), CgroupError> {
        let Some(pids_max) = self.limits.pids_max.filter(|_| controllers.contains(&Controller::Pids)) else {
            return Ok(());
        };
        let current = read_file(&path.join("pids.current"))?.and_then(|text| events::single_value(&text));
        match current {
            Some(current) if current >= pids_max => Err(CgroupError::CallerFull { uid, pids_max }),
            Some(_) | None => Ok(()),
        }
    }
}

fn is_in_use(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::EBUSY as i32)
}

fn hand_down(path: &Path, controllers: &[Controller]) -> Result<(), CgroupError> {
    let wanted: Vec<String> = controllers.iter().map(|one| format!("+{}", one.name())).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    leaf::write_file(&path.join("cgroup.subtree_control"), &wanted.join(" "))
}
