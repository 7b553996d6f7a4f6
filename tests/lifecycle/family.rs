//! A process and its children, held by pidfd: whether they are gone is the kernel's answer.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use stockade_sys::pidfd;

use crate::rig::eventually;

/// Longest anything may take to be gone. What is usual is printed.
const GONE_MAX: Duration = Duration::from_secs(10);

pub struct Member {
    pub pid: u32,
    pub name: String,
    pidfd: OwnedFd,
}

/// What `/proc/PID/stat` says.
#[derive(Debug, Clone)]
pub struct Stat {
    pub pid: u32,
    pub name: String,
    pub state: char,
    parent: u32,
    group: u32,
    ticks: u64,
}

/// Every process there is.
pub fn all() -> Vec<Stat> {
    let names = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name());
    let pids = names.filter_map(|name| name.to_str()?.parse().ok());
    // One that is gone by now is not there.
    pids.filter_map(stat).collect()
}

fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (before, after) = text.rsplit_once(')')?;
    let name = before.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = after.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let small = |at: usize| u32::try_from(number(at)?).ok();
    Some(Stat {
        pid,
        name,
        state: fields.first()?.chars().next()?,
        parent: small(1)?,
        group: small(2)?,
        ticks: number(11)?,
    })
}

pub fn children_of(parent: u32) -> Vec<Stat> {
    all().into_iter().filter(|process| process.parent == parent).collect()
}

/// A process of ours with everything it has started.
pub struct Family {
    pub members: Vec<Member>,
    group: u32,
}

impl Family {
    /// The process `head` and its children as they are now: a zygote and `workers` processes of each of these names.
    pub fn of(head: u32, workers: &[(&str, usize)]) -> Self {
        let count = |name: &str| children_of(head).iter().filter(|child| child.name == name).count();
        eventually("the family to be complete", || {
            count("stockade:zygote") == 1 && workers.iter().all(|(name, wanted)| count(name) >= *wanted)
        });
        let mut found = children_of(head);
        let group = found.iter().find(|child| child.name == "stockade:zygote").unwrap().pid;
        found.extend(stat(head));
        let member = |stat: Stat| {
            // One that is gone by now is gone.
            Some(Member { pidfd: pidfd::open(stat.pid).ok()?, pid: stat.pid, name: stat.name })
        };
        Self { members: found.into_iter().filter_map(member).collect(), group }
    }

    /// Returns once the guests of so many workers have been at it for a while.
    pub fn wait_for_guests(&self, wanted: usize) {
        eventually("guests to run", || {
            let busy = self.members.iter().filter(|member| {
                member.name == "stockade:run" && stat(member.pid).is_some_and(|stat| stat.ticks > 3)
            });
            busy.count() >= wanted
        });
    }

    /// Those that live.
    pub fn living(&self) -> Vec<&Member> {
        self.members.iter().filter(|member| !is_gone(member, Duration::ZERO)).collect()
    }

    /// Asserts that all end, and that nothing is left in their group that was not there to be counted; how long it
    /// took.
    pub fn assert_gone(&self, how: &str) -> Duration {
        let since = Instant::now();
        for member in &self.members {
            let left = GONE_MAX.saturating_sub(since.elapsed());
            assert!(is_gone(member, left), "{how}: {} ({}) lives on", member.name, member.pid);
        }
        let took = since.elapsed();
        let in_group = || all().into_iter().filter(|process| process.group == self.group);
        eventually("the group to be empty", || in_group().all(|process| process.state == 'Z'));
        // What was ours is reaped by whoever adopts orphans.
        eventually("orphans to be reaped", || in_group().count() == 0);
        took
    }
}

fn is_gone(member: &Member, patience: Duration) -> bool {
    let mut polled = [PollFd::new(member.pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::try_from(patience).unwrap()).unwrap() == 1
}
