//! Every job there is: the live ones, and those that ended a while ago.
//!
//! Owns: the table of jobs and how long results are kept.
//! Never: holds more than its bounds, tells one caller of another's job.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Instant;

use super::job::{Caller, Job};
use crate::config;

/// The table.
pub(crate) struct Ledger {
    bounds: config::Results,
    /// By id: ULIDs sort by time.
    jobs: BTreeMap<String, Entry>,
    /// Ended jobs, the oldest first: when, which, how many bytes.
    ended: VecDeque<(Instant, String, u64)>,
    ended_bytes: u64,
    live: usize,
    /// Live jobs by user; a user without one has no entry.
    live_by_uid: BTreeMap<u32, usize>,
    held_bytes: u64,
}

struct Entry {
    job: Rc<Job>,
    held_bytes: u64,
    live: bool,
}

impl Ledger {
    pub(crate) fn new(bounds: config::Results) -> Self {
        Self {
            bounds,
            jobs: BTreeMap::new(),
            ended: VecDeque::new(),
            ended_bytes: 0,
            live: 0,
            live_by_uid: BTreeMap::new(),
            held_bytes: 0,
        }
    }

    /// Jobs admitted and not over.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// Bytes of modules and inputs held for them.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// Of the live jobs, those of one user.
    pub(crate) fn live_of(&self, uid: u32) -> usize {
        self.live_by_uid.get(&uid).copied().unwrap_or(0)
    }

    pub(crate) fn add(&mut self, job: Rc<Job>, held_bytes: u64) {
        self.live += 1;
        *self.live_by_uid.entry(job.admitted.caller.uid).or_default() += 1;
        self.held_bytes += held_bytes;
        self.jobs.insert(job.id.clone(), Entry { job, held_bytes, live: true });
    }

    /// Notes that a job is over and keeps its result as long as there is room.
    pub(crate) fn end(&mut self, id: &str, result_bytes: u64, now: Instant) {
        let Some(entry) = self.jobs.get_mut(id).filter(|entry| entry.live) else { return };
        entry.live = false;
        let uid = entry.job.admitted.caller.uid;
        if let Some(count) = self.live_by_uid.get_mut(&uid) {
            *count -= 1;
            if *count == 0 {
                self.live_by_uid.remove(&uid);
            }
        }
        self.live -= 1;
        self.held_bytes -= entry.held_bytes;
        self.ended.push_back((now, id.to_owned(), result_bytes));
        self.ended_bytes += result_bytes;
        self.forget(now);
    }

    /// Forgets what is past its bounds. Called at every end and regularly.
    pub(crate) fn forget(&mut self, now: Instant) {
        while let Some((when, _, _)) = self.ended.front() {
            let old = now.saturating_duration_since(*when) >= self.bounds.kept_for;
            let many = self.ended.len() > self.bounds.kept_max;
            let heavy = self.ended_bytes > self.bounds.bytes_max;
            if !(old || many || heavy) {
                return;
            }
            if let Some((_, id, bytes)) = self.ended.pop_front() {
                self.ended_bytes -= bytes;
                self.jobs.remove(&id);
            }
        }
    }

    /// A job, if `caller` may know of it.
    pub(crate) fn get(&self, id: &str, caller: Caller, own_uid: u32) -> Option<Rc<Job>> {
        let entry = self.jobs.get(id).filter(|entry| may_see(&entry.job, caller, own_uid))?;
        Some(Rc::clone(&entry.job))
    }

    /// Every job `caller` may know of, the oldest first.
    pub(crate) fn visible(&self, caller: Caller, own_uid: u32) -> Vec<Rc<Job>> {
        let jobs = self.jobs.values().map(|entry| &entry.job);
        jobs.filter(|job| may_see(job, caller, own_uid)).map(Rc::clone).collect()
    }

    /// The live jobs.
    pub(crate) fn live_jobs(&self) -> Vec<Rc<Job>> {
        self.jobs.values().filter(|entry| entry.live).map(|entry| Rc::clone(&entry.job)).collect()
    }
}

fn may_see(job: &Job, caller: Caller, own_uid: u32) -> bool {
    caller.uid == job.admitted.caller.uid || caller.uid == 0 || caller.uid == own_uid
}
