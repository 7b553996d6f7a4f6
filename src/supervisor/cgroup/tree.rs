//! The tree: taking it over at the start, and making leaves in it.
//!
//! Owns: the `supervisor` leaf, `cgroup.subtree_control` of the tree, and the names of leaves.
//! Never: touches a group it does not know the name of, or a leaf of a supervisor that lives.
//!
//! Several supervisors may share a configured tree (two `stockade run` at once), so a leaf's name says whose it
//! is: the pid namespace, the pid in it, and when that process started, since pids are used again.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::caller::Groups;
use super::leaf::{self, Leaf, LeafLimits};
use super::{CgroupError, Controller, Delegation, SUPERVISOR_LEAF, events};
use crate::config::CallerLimits;
use crate::observe::Causes;

/// How long all of the sweep may wait for leftover processes to die.
const SWEEP_MS_MAX: u64 = 2_000;
/// Leftover leaves one start looks at; the next start goes on.
const SWEEP_LEAVES_MAX: usize = 4_096;
/// Names tried for a new leaf before giving up.
const NAMES_TRIED_MAX: u32 = 16;
/// Processes an error names.
const PIDS_NAMED_MAX: usize = 5;
const LEAF_PREFIX: &str = "worker";
const CALLER_PREFIX: &str = "caller";

/// A tree that is ours. Leaves can be made in it as long as it lives; dropping it touches nothing.
#[derive(Debug)]
pub struct Tree {
    directory: PathBuf,
    controllers: Vec<Controller>,
    owner: Owner,
    next_leaf: u64,
    swept: usize,
    /// Those of callers, where callers have limits.
    groups: Option<Groups>,
}

impl Tree {
    /// Directory of the group that leaves are made in.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Controllers in force in its leaves.
    #[must_use]
    pub fn controllers(&self) -> &[Controller] {
        &self.controllers
    }

    /// Leaves of dead supervisors that were removed at the start.
    #[must_use]
    pub fn swept(&self) -> usize {
        self.swept
    }

    /// The same tree in which each caller's leaves are made in a group of its own with `limits`, if there are any.
    #[must_use]
    pub fn with_callers(mut self, limits: CallerLimits) -> Self {
        self.groups = limits.any().then(|| Groups::new(limits));
        self
    }

    /// Whether callers have groups of their own.
    #[must_use]
    pub fn has_callers(&self) -> bool {
        self.groups.is_some()
    }

    /// Makes a leaf with these limits, in its caller's group where callers have groups.
    ///
    /// # Errors
    /// When the kernel refuses the group (`cgroup.max.descendants` of a parent, a tree that was taken away) or a
    /// limit, or when the caller has no process left to use. A leaf without its limits is not left behind.
    pub fn create_leaf(&mut self, limits: &LeafLimits) -> Result<Leaf, CgroupError> {
        let directory = self.directory_for(limits.caller)?;
        for _ in 0..NAMES_TRIED_MAX {
            let path = directory.join(self.owner.leaf_name(self.next_leaf));
            self.next_leaf = self.next_leaf.wrapping_add(1);
            match Leaf::create(path, &self.controllers, limits) {
                Err(CgroupError::Create { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {}
                result => return result,
            }
        }
        Err(CgroupError::NamesTaken { directory })
    }

    /// Removes callers' groups in which nothing is. To be called now and then, and at the end.
    pub fn tidy(&mut self) {
        let (directory, owner) = (&self.directory, &self.owner);
        if let Some(groups) = &mut self.groups {
            groups.tidy(|uid| directory.join(owner.caller_name(uid)));
        }
    }

    fn directory_for(&mut self, caller: Option<u32>) -> Result<PathBuf, CgroupError> {
        if self.groups.as_ref().is_some_and(Groups::are_many) {
            self.tidy();
        }
        let (Some(groups), Some(uid)) = (&mut self.groups, caller) else { return Ok(self.directory.clone()) };
        let path = self.directory.join(self.owner.caller_name(uid));
        groups.ensure(uid, &path, &self.controllers)?;
        Ok(path)
    }
}

pub(super) fn prepare(delegation: Delegation) -> Result<Tree, CgroupError> {
    let Delegation { directory, controllers, holds_us } = delegation;
    let owner = Owner::this_process()?;
    if holds_us {
        move_into_leaf(&directory)?;
    }
    let swept = sweep(&directory, &owner)?;
    enable(&directory, &controllers)?;
    Ok(Tree { directory, controllers, owner, next_leaf: 0, swept, groups: None })
}

/// The kernel hands controllers only to groups below one that holds no process itself.
fn move_into_leaf(directory: &Path) -> Result<(), CgroupError> {
    let group = directory.join(SUPERVISOR_LEAF);
    match fs::create_dir(&group) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(source) => return Err(CgroupError::Create { directory: group, source }),
    }
    // "0" is the writer, with all its threads.
    leaf::write_file(&group.join("cgroup.procs"), "0")
}

fn enable(directory: &Path, controllers: &[Controller]) -> Result<(), CgroupError> {
    let file = directory.join("cgroup.subtree_control");
    let enabled = leaf::read_file(&file)?.map(|text| events::controllers(&text)).unwrap_or_default();
    let wanted: Vec<String> = controllers
        .iter()
        .filter(|controller| !enabled.contains(controller))
        .map(|controller| format!("+{}", controller.name()))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    match leaf::write_file(&file, &wanted.join(" ")) {
        Err(CgroupError::Write { source, .. }) if source.raw_os_error() == Some(Errno::EBUSY as i32) => {
            Err(CgroupError::Crowded { directory: directory.to_owned(), pids: some_pids(directory)? })
        }
        result => result,
    }
}

fn some_pids(directory: &Path) -> Result<Vec<i32>, CgroupError> {
    let text = leaf::read_file(&directory.join("cgroup.procs"))?.unwrap_or_default();
    Ok(text.lines().filter_map(|line| line.parse().ok()).take(PIDS_NAMED_MAX).collect())
}

/// Kills and removes leaves whose supervisor is dead; says how many were removed. One that will not go is left for
/// the next start: it holds a process that cannot die, and that must not keep jobs from running.
fn sweep(directory: &Path, us: &Owner) -> Result<usize, CgroupError> {
    let failed = |source| CgroupError::Read { file: directory.to_owned(), source };
    let mut leftovers = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let owner = entry.file_name().to_str().and_then(Owner::of_group);
        if owner.is_some_and(|owner| owner.is_dead_for(us)) {
            leftovers.push(entry.path());
        }
        if leftovers.len() == SWEEP_LEAVES_MAX {
            break;
        }
    }
    // All are killed before the first is waited for.
    for leaf in &leftovers {
        if let Err(error) = leaf::kill_all(leaf) {
            tracing::warn!(leaf = %leaf.display(), error = %Causes(&error), "cannot kill what is in a leftover leaf");
        }
    }
    let deadline = Instant::now() + Duration::from_millis(SWEEP_MS_MAX);
    let mut removed = 0;
    for leaf in &leftovers {
        let left = deadline.saturating_duration_since(Instant::now());
        match leaf::wait_empty(leaf, left).and_then(|_| remove_with_leaves(leaf)) {
            Ok(()) => removed += 1,
            Err(error) => {
                tracing::warn!(leaf = %leaf.display(), error = %Causes(&error), "cannot remove a leftover leaf")
            }
        }
    }
    Ok(removed)
}

/// A caller's group goes after the leaves in it.
fn remove_with_leaves(group: &Path) -> Result<(), CgroupError> {
    let failed = |source| CgroupError::Read { file: group.to_owned(), source };
    for entry in fs::read_dir(group).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            leaf::remove_group(&entry.path())?;
        }
    }
    leaf::remove_group(group)
}

/// A supervisor, among all that ever ran on this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner {
    /// Inode of its pid namespace.
    pid_namespace: u64,
    pid: i32,
    /// Clock ticks after boot at which it started.
    started_ticks: u64,
}

impl Owner {
    fn this_process() -> Result<Self, CgroupError> {
        let namespace = Path::new("/proc/self/ns/pid");
        let stat = Path::new("/proc/self/stat");
        let pid_namespace = fs::metadata(namespace)
            .map_err(|source| CgroupError::Read { file: namespace.to_owned(), source })?
            .ino();
        let text = leaf::read_file(stat)?.unwrap_or_default();
        let started_ticks = started_ticks(&text).ok_or_else(|| CgroupError::Read {
            file: stat.to_owned(),
            source: io::ErrorKind::InvalidData.into(),
        })?;
        Ok(Self { pid_namespace, pid: Pid::this().as_raw(), started_ticks })
    }

    fn leaf_name(&self, number: u64) -> String {
        format!("{LEAF_PREFIX}-{}-{}-{}-{number}", self.pid_namespace, self.pid, self.started_ticks)
    }

    fn caller_name(&self, uid: u32) -> String {
        format!("{CALLER_PREFIX}-{}-{}-{}-{uid}", self.pid_namespace, self.pid, self.started_ticks)
    }

    /// Whose a leaf or a caller's group of that name is.
    fn of_group(name: &str) -> Option<Self> {
        let mut parts = name.split('-');
        if ![LEAF_PREFIX, CALLER_PREFIX].contains(&parts.next()?) {
            return None;
        }
        let pid_namespace = parts.next()?.parse().ok()?;
        let pid: i32 = parts.next()?.parse().ok()?;
        let started_ticks = parts.next()?.parse().ok()?;
        let _number: u64 = parts.next()?.parse().ok()?;
        // Of a pid of 0 or less, kill(2) would understand something else.
        (parts.next().is_none() && pid > 0).then_some(Self { pid_namespace, pid, started_ticks })
    }

    /// Whether it is sure that this supervisor is dead. Of one in another pid namespace nothing can be known.
    fn is_dead_for(&self, us: &Self) -> bool {
        if self.pid_namespace != us.pid_namespace {
            return false;
        }
        // Asked of the kernel, not of /proc, in which other users' processes may be hidden.
        if kill(Pid::from_raw(self.pid), None) == Err(Errno::ESRCH) {
            return true;
        }
        match fs::read_to_string(format!("/proc/{}/stat", self.pid)) {
            Ok(text) => started_ticks(&text).is_some_and(|ticks| ticks != self.started_ticks),
            Err(_) => false,
        }
    }
}

/// Field 22 of `/proc/PID/stat`. The second field is the program's name in brackets, which may itself contain
/// brackets and blanks: fields are counted after the last bracket.
fn started_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaf_name_says_whose_it_is() {
        let owner = Owner { pid_namespace: 4_026_531_836, pid: 1234, started_ticks: 5678 };
        let name = owner.leaf_name(9);
        assert_eq!(name, "worker-4026531836-1234-5678-9");
        assert_eq!(Owner::of_group(&name), Some(owner));
        let name = owner.caller_name(1000);
        assert_eq!(name, "caller-4026531836-1234-5678-1000");
        assert_eq!(Owner::of_group(&name), Some(owner));
    }

    #[test]
    fn leaf_name_of_somebody_else_is_not_ours_to_sweep() {
        let names = [
            "supervisor",
            "worker-1-2-3",
            "worker-1-2-3-4-5",
            "worker-1--1-3-4",
            "worker-1-0-3-4",
            "x-1-2-3-4",
            "caller-1-2-3",
        ];
        for name in names {
            assert_eq!(Owner::of_group(name), None, "{name}");
        }
    }

    #[test]
    fn owner_that_lives_is_not_dead() {
        let us = Owner::this_process().unwrap();
        assert!(!us.is_dead_for(&us));
    }

    #[test]
    fn owner_whose_pid_was_used_again_is_dead() {
        let us = Owner::this_process().unwrap();
        let before = Owner { started_ticks: us.started_ticks.wrapping_sub(1), ..us };
        assert!(before.is_dead_for(&us));
    }

    #[test]
    fn owner_in_another_pid_namespace_is_never_taken_for_dead() {
        let us = Owner::this_process().unwrap();
        let elsewhere = Owner { pid_namespace: us.pid_namespace + 1, pid: i32::MAX, started_ticks: 1 };
        assert!(!elsewhere.is_dead_for(&us));
        assert!(Owner { pid_namespace: us.pid_namespace, ..elsewhere }.is_dead_for(&us));
    }

    #[test]
    fn started_ticks_are_counted_after_a_name_with_brackets() {
        let after = (3..=24).map(|field| field.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(started_ticks(&format!("17 (a) b (c) {after}")), Some(22));
        assert_eq!(started_ticks("17 (a) R 1"), None);
    }
}
