//! This process's children and what it has open, as the kernel says.

use std::os::fd::AsFd;

use nix::sys::signal::Signal;
use stockade_sys::pidfd;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    pub pid: u32,
    pub name: String,
    /// As in `/proc/PID/stat`; `Z` is one that was not reaped.
    pub state: char,
}

/// Every child, the zombies too.
pub fn children() -> Vec<Child> {
    let own = std::process::id();
    let pids = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    // One that is gone by now is no child.
    pids.filter_map(|pid| child_of(own, pid)).collect()
}

fn child_of(parent: u32, pid: u32) -> Option<Child> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (before, after) = stat.rsplit_once(')')?;
    let name = before.split_once('(')?.1.to_owned();
    let mut fields = after.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let ppid: u32 = fields.next()?.parse().ok()?;
    (ppid == parent).then_some(Child { pid, name, state })
}

pub fn zombies() -> Vec<Child> {
    children().into_iter().filter(|child| child.state == 'Z').collect()
}

/// Living children of this name.
pub fn named(name: &str) -> Vec<u32> {
    let living = children().into_iter().filter(|child| child.state != 'Z' && child.name == name);
    living.map(|child| child.pid).collect()
}

/// Run workers, idle or not.
pub fn workers() -> Vec<u32> {
    named("stockade:run")
}

/// Compile workers.
pub fn compilers() -> Vec<u32> {
    named("stockade:wasmc")
}

/// The zygote; `None` while there is none.
pub fn zygote() -> Option<u32> {
    named("stockade:zygote").first().copied()
}

pub fn signal(pid: u32, signal: Signal) {
    let pidfd = pidfd::open(pid).unwrap();
    pidfd::signal(pidfd.as_fd(), signal).unwrap();
}

/// Descriptors this process has open, the one that lists them aside.
pub fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count() - 1
}

/// Private memory this process has resident, KiB.
pub fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}
