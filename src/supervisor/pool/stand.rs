//! One module that is held ready, seen from the jobs that want it.
//!
//! Owns: the workers that have the module, and the demand for them.
//! Never: forks one.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::Instant;

use stockade_wire::limits::FORKS_MAX;
use tokio::sync::{Notify, oneshot};

use super::PoolError;
use super::demand::{Bounds, Demand};
use super::ready::Ready;
use crate::supervisor::worker::Worker;

/// Whoever waits for the first workers of a stand, or for the reason why there are none.
pub(super) type Answer = oneshot::Sender<Result<(), PoolError>>;

/// One module that is held ready.
pub(super) struct Stand {
    ready: RefCell<VecDeque<Worker>>,
    /// Workers that are being forked.
    coming: Cell<usize>,
    /// There is a template, and it forks whatever is missing.
    forking: Cell<bool>,
    /// Jobs that wait for a worker, in the order they came. There are only as many as may run at once.
    waiting: RefCell<VecDeque<oneshot::Sender<Worker>>>,
    demand: RefCell<Demand>,
    used: Cell<Instant>,
    /// One that stood ready was found dead, or had said something.
    doubted: Cell<bool>,
    /// The operator wants it held, whether it is used or not.
    pinned: bool,
    /// Its template's instance has run its initialiser.
    pub(super) initialised: Cell<bool>,
    answer: RefCell<Option<Answer>>,
    /// The number of ready workers changed, or how many there are to be.
    pub(super) changed: Notify,
    pub(super) given_up: Notify,
}

impl Stand {
    /// For a module that jobs ask for often.
    pub(super) fn hot(bounds: Bounds, now: Instant) -> Self {
        Self {
            ready: RefCell::default(),
            coming: Cell::new(0),
            forking: Cell::new(false),
            waiting: RefCell::default(),
            demand: RefCell::new(Demand::new(bounds, now)),
            used: Cell::new(now),
            doubted: Cell::new(false),
            pinned: false,
            initialised: Cell::new(false),
            answer: RefCell::default(),
            changed: Notify::new(),
            given_up: Notify::new(),
        }
    }

    /// For a module that the operator wants held. `answer` is told when it is, or why it is not.
    pub(super) fn pinned(bounds: Bounds, now: Instant, answer: Answer) -> Self {
        Self { pinned: true, answer: RefCell::new(Some(answer)), ..Self::hot(bounds, now) }
    }

    /// A worker was not as it should be.
    pub(super) fn doubt(&self) {
        self.doubted.set(true);
    }

    /// Whether a worker was not as it should be since this was last asked.
    pub(super) fn doubts(&self) -> bool {
        self.doubted.replace(false)
    }

    pub(super) const fn is_pinned(&self) -> bool {
        self.pinned
    }

    /// When a job last asked for it.
    pub(super) fn used(&self) -> Instant {
        self.used.get()
    }

    /// Workers that stand ready.
    pub(super) fn len(&self) -> usize {
        self.ready.borrow().len()
    }

    /// The same with those that are being forked.
    pub(super) fn len_soon(&self) -> usize {
        self.len().saturating_add(self.coming.get())
    }

    /// Notes how many are being forked.
    pub(super) fn expect(&self, coming: usize) {
        self.coming.set(coming);
    }

    /// How many are to be forked now: one for each job that waits, else what is missing once half of them are gone. They are
    /// made in portions, so that most jobs have the processors to themselves.
    pub(super) fn missing(&self, all: &Ready, prepared: usize, now: Instant) -> usize {
        let waiting = self.waiting().saturating_sub(self.coming.get());
        match waiting {
            0 => {}
            // It is taken at once, and is none of those that stand ready.
            1 => return waiting,
            // Where several wait, others are about to: forks of one order cost less than as many orders.
            _ => return waiting.max(FORKS_MAX),
        }
        let (target, there) = (self.target(all, now), self.len_soon());
        let due = there < target && there <= target / 2 && all.admits_prepared(prepared);
        if due { target.saturating_sub(there) } else { 0 }
    }

    /// How many there are to be.
    pub(super) fn target(&self, all: &Ready, now: Instant) -> usize {
        all.bounded(&mut self.demand.borrow_mut(), now)
    }

    /// A worker for a job that comes now, if one stands ready.
    pub(super) fn take(&self, now: Instant) -> Option<Worker> {
        self.used.set(now);
        let worker = self.take_quiet();
        let mut demand = self.demand.borrow_mut();
        demand.came(now);
        if worker.is_none() {
            demand.missed(now);
        }
        self.changed.notify_one();
        worker
    }

    /// A worker for something that no job waits for, if one stands ready. It is no job's demand.
    pub(super) fn spare(&self) -> Option<Worker> {
        let worker = self.take_quiet();
        self.changed.notify_one();
        worker
    }

    fn take_quiet(&self) -> Option<Worker> {
        let mut ready = self.ready.borrow_mut();
        // One that died while idle, or said something unasked, is dropped here, which ends and buries it.
        std::iter::from_fn(|| ready.pop_front()).find(|worker| {
            let quiet = worker.is_quiet();
            if !quiet {
                self.doubt();
            }
            quiet
        })
    }

    /// A worker for a job that found none ready: the next that is forked for nobody else. `None` when the template does not
    /// fork.
    pub(super) fn wait(&self) -> Option<oneshot::Receiver<Worker>> {
        if !self.forking.get() {
            return None;
        }
        let (sender, coming) = oneshot::channel();
        self.waiting.borrow_mut().push_back(sender);
        Some(coming)
    }

    /// How many jobs wait.
    pub(super) fn waiting(&self) -> usize {
        let mut waiting = self.waiting.borrow_mut();
        // Whoever stopped waiting needs none.
        waiting.retain(|job| !job.is_closed());
        waiting.len()
    }

    /// Notes whether there is a template that forks. Where there is none, nobody waits for it.
    pub(super) fn forks(&self, forking: bool) {
        self.forking.set(forking);
        if !forking {
            self.coming.set(0);
            self.waiting.borrow_mut().clear();
        }
    }

    /// Its template forks no more; nobody waits for the next.
    pub(super) fn forks_no_more(&self) {
        self.forking.set(false);
    }

    /// Gives a worker to the job that has waited the longest, or has it stand ready.
    pub(super) fn put(&self, mut worker: Worker) {
        loop {
            let Some(job) = self.waiting.borrow_mut().pop_front() else { break };
            match job.send(worker) {
                Ok(()) => return self.answer(Ok(())),
                Err(back) => worker = back,
            }
        }
        self.ready.borrow_mut().push_back(worker);
        if self.len() >= self.demand.borrow().least() {
            self.answer(Ok(()));
        }
    }

    /// Notes that a portion of workers is complete, which was begun at `since`.
    pub(super) fn refilled(&self, since: Instant) {
        self.demand.borrow_mut().refilled(since.elapsed());
        self.answer(Ok(()));
    }

    /// Tells whoever waits for the first workers, once.
    pub(super) fn answer(&self, result: Result<(), PoolError>) {
        if let Some(answer) = self.answer.borrow_mut().take() {
            // Who asked may have stopped waiting.
            let _ = answer.send(result);
        }
    }

    /// Gives up what died and what is too many, and has whoever fills it look again.
    pub(super) fn resize(&self, all: &Ready, now: Instant) {
        let target = self.target(all, now);
        {
            let mut ready = self.ready.borrow_mut();
            let there = ready.len();
            ready.retain(|worker| !worker.is_gone());
            if ready.len() < there {
                self.doubt();
            }
            ready.truncate(target);
        }
        self.changed.notify_one();
    }

    /// Gives all of it up.
    pub(super) fn close(&self) {
        self.given_up.notify_one();
        self.ready.borrow_mut().clear();
    }
}
