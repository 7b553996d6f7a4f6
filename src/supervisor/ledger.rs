//! Every job there is: the live ones, and those that ended a while ago.
//!
//! Owns: the table of jobs, how long results are kept, and whose go first.
//! Never: holds more than its bounds, tells one caller of another's job.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Instant;

use super::beside::Weight;
use super::job::{Caller, Job};
use crate::config;

/// The table.
pub(crate) struct Ledger {
    bounds: config::Results,
    /// By id: ULIDs sort by time.
    jobs: BTreeMap<String, Entry>,
    /// Ended jobs by user; a user without one has no entry.
    ended: BTreeMap<u32, Ended>,
    /// All users' together.
    ended_jobs: usize,
    ended_bytes: u64,
    /// Whose job was the last to end, while it is kept.
    newest: Option<u32>,
    live: usize,
    /// Live jobs by user; a user without one has no entry.
    live_by_uid: BTreeMap<u32, Live>,
    held_bytes: u64,
    held_files: usize,
}

/// One user's live jobs.
#[derive(Default)]
struct Live {
    jobs: usize,
    files: usize,
}

/// One user's ended jobs.
#[derive(Default)]
struct Ended {
    /// The oldest first.
    jobs: VecDeque<EndedJob>,
    bytes: u64,
}

struct EndedJob {
    when: Instant,
    id: String,
    bytes: u64,
}

struct Entry {
    job: Rc<Job>,
    held: Weight,
    live: bool,
}

impl Ledger {
    pub(crate) fn new(bounds: config::Results) -> Self {
        Self {
            bounds,
            jobs: BTreeMap::new(),
            ended: BTreeMap::new(),
            ended_jobs: 0,
            ended_bytes: 0,
            newest: None,
            live: 0,
            live_by_uid: BTreeMap::new(),
            held_bytes: 0,
            held_files: 0,
        }
    }

    /// Has other bounds from now on.
    pub(crate) fn rebound(&mut self, bounds: config::Results, now: Instant) {
        self.bounds = bounds;
        self.forget(now);
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
        self.live_by_uid.get(&uid).map_or(0, |live| live.jobs)
    }

    /// Files in memory, modules and inputs, that the live jobs hold open.
    pub(crate) fn held_files(&self) -> usize {
        self.held_files
    }

    /// Of those, one user's.
    pub(crate) fn held_files_of(&self, uid: u32) -> usize {
        self.live_by_uid.get(&uid).map_or(0, |live| live.files)
    }

    pub(crate) fn add(&mut self, job: Rc<Job>, held: Weight) {
        self.live += 1;
        let live = self.live_by_uid.entry(job.admitted.caller.uid).or_default();
        live.jobs += 1;
        live.files += held.files;
        self.held_bytes += held.bytes();
        self.held_files += held.files;
        self.jobs.insert(job.id.clone(), Entry { job, held, live: true });
    }

    /// Forgets a live job as if it had never been.
    pub(crate) fn withdraw(&mut self, id: &str) {
        if self.jobs.get(id).is_some_and(|entry| entry.live) {
            self.leave(id);
            self.jobs.remove(id);
        }
    }

    /// The ids of all jobs that are known.
    pub(crate) fn ids(&self) -> BTreeSet<String> {
        self.jobs.keys().cloned().collect()
    }

    /// Notes that a job is over and keeps its result as long as there is room.
    pub(crate) fn end(&mut self, id: &str, result_bytes: u64, now: Instant) {
        let Some(uid) = self.leave(id) else { return };
        let ended = self.ended.entry(uid).or_default();
        ended.jobs.push_back(EndedJob { when: now, id: id.to_owned(), bytes: result_bytes });
        ended.bytes += result_bytes;
        self.ended_jobs += 1;
        self.ended_bytes += result_bytes;
        self.newest = Some(uid);
        self.forget(now);
    }

    /// Counts a job among the live no more. Whose it was.
    fn leave(&mut self, id: &str) -> Option<u32> {
        let entry = self.jobs.get_mut(id).filter(|entry| entry.live)?;
        entry.live = false;
        let uid = entry.job.admitted.caller.uid;
        if let Some(live) = self.live_by_uid.get_mut(&uid) {
            live.jobs -= 1;
            live.files -= entry.held.files;
            if live.jobs == 0 {
                self.live_by_uid.remove(&uid);
            }
        }
        self.live -= 1;
        self.held_bytes -= entry.held.bytes();
        self.held_files -= entry.held.files;
        Some(uid)
    }

    /// Forgets what is past its bounds: what is too old, and, where there is too much, the oldest of the user who has
    /// most of it, so that nobody's results drive out another's who has less. The newest of all stays: whoever waits
    /// for it is to get it. Called at every end and regularly.
    pub(crate) fn forget(&mut self, now: Instant) {
        while let Some(uid) = self.oldest(now).or_else(|| self.heaviest()) {
            self.forget_oldest_of(uid);
        }
    }

    /// Somebody who has a result that is too old.
    fn oldest(&self, now: Instant) -> Option<u32> {
        let old = |job: &EndedJob| now.saturating_duration_since(job.when) >= self.bounds.kept_for;
        self.ended.iter().find(|(_, ended)| ended.jobs.front().is_some_and(old)).map(|(uid, _)| *uid)
    }

    /// Whoever has most, if there is too much, and has something to give.
    fn heaviest(&self) -> Option<u32> {
        let many = self.ended_jobs > self.bounds.kept_max;
        if !many && self.ended_bytes <= self.bounds.bytes_max {
            return None;
        }
        let spare = usize::from(self.bounds.kept_max > 0);
        let can_give = |uid: u32, ended: &Ended| {
            let kept = if self.newest == Some(uid) { spare } else { 0 };
            ended.jobs.len() > kept
        };
        let has = |ended: &Ended| if many { ended.jobs.len() as u64 } else { ended.bytes };
        let all = self.ended.iter().filter(|(uid, ended)| can_give(**uid, ended));
        all.max_by_key(|(_, ended)| has(ended)).map(|(uid, _)| *uid)
    }

    fn forget_oldest_of(&mut self, uid: u32) {
        let Some(ended) = self.ended.get_mut(&uid) else { return };
        if let Some(job) = ended.jobs.pop_front() {
            ended.bytes -= job.bytes;
            self.ended_jobs -= 1;
            self.ended_bytes -= job.bytes;
            self.jobs.remove(&job.id);
        }
        if ended.jobs.is_empty() {
            self.ended.remove(&uid);
            self.newest = self.newest.filter(|newest| *newest != uid);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn ledger(kept_max: usize, bytes_max: u64) -> Ledger {
        Ledger::new(config::Results { kept_max, bytes_max, kept_for: MINUTE, files_max: 1 })
    }

    impl Ledger {
        fn begins(&mut self, id: &str, uid: u32) {
            self.add(Rc::new(Job::sample(id, uid)), Weight { module_bytes: 7, input_bytes: 3, files: 2 });
        }

        fn ran(&mut self, id: &str, uid: u32, bytes: u64, now: Instant) {
            self.begins(id, uid);
            self.end(id, bytes, now);
        }

        /// What is kept, as root sees it.
        fn kept(&self) -> Vec<String> {
            let root = Caller { uid: 0, gid: 0, pid: 1 };
            self.visible(root, 0).iter().map(|job| job.id.clone()).collect()
        }
    }

    #[test]
    fn live_jobs_and_what_they_hold_are_counted_until_they_end_once() {
        let mut ledger = ledger(10, 100);
        ledger.begins("a", 1);
        ledger.begins("b", 2);
        assert_eq!((ledger.live(), ledger.held_bytes(), ledger.live_of(1)), (2, 20, 1));
        assert_eq!((ledger.held_files(), ledger.held_files_of(1)), (4, 2));
        for _ in 0..2 {
            ledger.end("a", 1, Instant::now());
            assert_eq!((ledger.live(), ledger.held_bytes(), ledger.live_of(1)), (1, 10, 0));
            assert_eq!((ledger.held_files(), ledger.held_files_of(1), ledger.held_files_of(2)), (2, 0, 2));
            assert_eq!(ledger.live_by_uid.len(), 1);
        }
    }

    #[test]
    fn result_is_kept_for_its_time_and_no_longer() {
        let now = Instant::now();
        let mut ledger = ledger(10, 100);
        ledger.ran("a", 1, 1, now);
        ledger.ran("b", 2, 1, now + MINUTE / 2);
        ledger.forget(now + MINUTE - Duration::from_nanos(1));
        assert_eq!(ledger.kept(), ["a", "b"]);
        ledger.forget(now + MINUTE);
        assert_eq!(ledger.kept(), ["b"]);
        ledger.forget(now + 2 * MINUTE);
        assert!(ledger.kept().is_empty());
        assert_eq!((ledger.ended_jobs, ledger.ended_bytes, ledger.newest), (0, 0, None));
        assert!(ledger.ended.is_empty());
    }

    #[test]
    fn live_job_is_never_forgotten() {
        let now = Instant::now();
        let mut ledger = ledger(1, 1);
        ledger.begins("live", 1);
        ledger.ran("a", 1, 1, now);
        ledger.ran("b", 1, 1, now);
        ledger.forget(now + 2 * MINUTE);
        assert_eq!(ledger.kept(), ["live"]);
    }

    #[test]
    fn newest_result_is_kept_although_it_is_alone_too_much() {
        let now = Instant::now();
        let mut ledger = ledger(10, 100);
        ledger.ran("a", 1, 101, now);
        assert_eq!(ledger.kept(), ["a"]);
        ledger.ran("b", 2, 1, now);
        assert_eq!(ledger.kept(), ["b"], "it makes way for the next");
    }

    #[test]
    fn heavy_results_drive_out_their_own_users_and_nobody_elses() {
        let now = Instant::now();
        let mut ledger = ledger(100, 100);
        ledger.ran("a1", 1, 10, now);
        ledger.ran("b1", 2, 30, now);
        ledger.ran("b2", 2, 30, now);
        ledger.ran("b3", 2, 31, now);
        assert_eq!(ledger.kept(), ["a1", "b2", "b3"]);
        // The newest is the heaviest user's only one by now: the others give, the heaviest of them first.
        ledger.ran("b4", 2, 95, now);
        assert_eq!(ledger.kept(), ["b4"]);
        assert_eq!(ledger.ended_bytes, 95);
    }

    #[test]
    fn many_results_drive_out_their_own_users_and_nobody_elses() {
        let now = Instant::now();
        let mut ledger = ledger(4, 100);
        ledger.ran("a1", 1, 90, now);
        for id in ["b1", "b2", "b3", "b4", "b5"] {
            ledger.ran(id, 2, 1, now);
        }
        assert_eq!(ledger.kept(), ["a1", "b3", "b4", "b5"]);
    }

    #[test]
    fn nothing_is_kept_where_no_result_may_be() {
        let mut ledger = ledger(0, 100);
        ledger.ran("a", 1, 1, Instant::now());
        assert!(ledger.kept().is_empty());
        assert_eq!((ledger.ended_jobs, ledger.ended_bytes), (0, 0));
    }

    #[test]
    fn job_is_its_users_roots_and_the_daemons() {
        let mut ledger = ledger(10, 100);
        ledger.begins("a", 1);
        let sees = |uid| ledger.get("a", Caller { uid, gid: uid, pid: 1 }, 7).is_some();
        assert_eq!([1, 0, 7, 2].map(sees), [true, true, true, false]);
    }
}
