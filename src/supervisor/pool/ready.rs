//! Workers that stand ready for any job.
//!
//! Owns: the idle workers, how many there are to be, and the order in which forks are asked for.
//! Never: gives a worker to two jobs; lets a job that comes here wait for a fork while one stands ready.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use stockade_wire::client::Readiness;
use stockade_wire::worker::Role;
use tokio::sync::{Notify, oneshot};

use super::demand::{Bounds, Demand};
use super::share::{Room, Standing};
use super::{Pool, PoolError, descriptors, memory};
use crate::config;
use crate::observe::Causes;
use crate::supervisor::worker::{Birth, Worker, WorkerError};
use crate::supervisor::zygote::{ZygoteError, closed};

/// Idle workers made at once. More would wait for each other in the zygote and for processors.
pub(super) const REFILLS_AT_ONCE: usize = 4;

/// Every so many workers one is looked at for what it costs.
const LOOKED_AT: u64 = 16;

/// The idle workers.
pub(super) struct Ready {
    idle: RefCell<VecDeque<Worker>>,
    /// Idle workers being made.
    coming: Cell<usize>,
    /// Jobs that wait for a worker.
    waiting: Cell<usize>,
    /// There is another idle one.
    came: Notify,
    /// One of them came with the start and is nobody's yet: it stays for the first job.
    first: Cell<bool>,
    demand: RefCell<Demand>,
    room: Room,
    /// Memory is scarce: no more than the least.
    pressed: Cell<bool>,
    /// Workers that began to stand ready, of whatever kind.
    made: Cell<u64>,
    bytes_each: Cell<u64>,
}

impl Ready {
    pub(super) fn new(config: &config::Pool, now: Instant) -> Self {
        let bounds = Bounds { least: config.warm, most: config.warm_max };
        Self {
            idle: RefCell::default(),
            coming: Cell::new(0),
            waiting: Cell::new(0),
            came: Notify::new(),
            first: Cell::new(false),
            demand: RefCell::new(Demand::new(bounds, now)),
            room: Room {
                ready_max: descriptors::ready_max(config.ready_max),
                bytes_max: config.ready_bytes_max,
                blank_least: config.warm,
            },
            pressed: Cell::new(false),
            made: Cell::new(0),
            bytes_each: Cell::new(0),
        }
    }

    /// Idle workers.
    pub(super) fn len(&self) -> usize {
        self.idle.borrow().len()
    }

    /// How many there are to be.
    pub(super) fn target(&self, now: Instant) -> usize {
        self.bounded(&mut self.demand.borrow_mut(), now)
    }

    /// How many of a kind are to stand ready, as things are.
    pub(super) fn bounded(&self, demand: &mut Demand, now: Instant) -> usize {
        let target = if self.pressed.get() { demand.least() } else { demand.target(now) };
        target.min(self.room.most(self.bytes_each.get()))
    }

    /// Whether memory is scarce.
    pub(super) fn is_pressed(&self) -> bool {
        self.pressed.get()
    }

    /// Whether one more worker with a module may stand ready, beside these.
    pub(super) fn admits_prepared(&self, prepared: usize) -> bool {
        self.room.admits_prepared(self.standing(prepared))
    }

    fn standing(&self, prepared: usize) -> Standing {
        let blank = self.len().saturating_add(self.coming.get());
        Standing { blank, prepared, bytes_each: self.bytes_each.get() }
    }

    /// Notes a worker that begins to stand ready; now and then one is looked at.
    pub(super) fn note_made(&self, worker: &Worker) {
        let made = self.made.get();
        self.made.set(made.saturating_add(1));
        if made.is_multiple_of(LOOKED_AT)
            && let Some(bytes) = memory::private_bytes_at_most(worker.pid())
        {
            // Never less than the last: kinds differ, and the bound is to hold for the dearest.
            self.bytes_each.set(self.bytes_each.get().max(bytes));
        }
    }

    fn take(&self) -> Option<Worker> {
        self.first.set(false);
        let mut idle = self.idle.borrow_mut();
        // One that died while idle, or said something unasked, is dropped here, which ends and reaps it.
        std::iter::from_fn(|| idle.pop_front()).find(Worker::is_quiet)
    }

    /// Puts a worker that has had no order among the idle ones, unless there are enough, or as many as there may be beside
    /// those that have a module. A job that waits takes it at once.
    fn put(&self, worker: Worker, prepared: usize) {
        let wanted = self.len() < self.target(Instant::now());
        let fits = self.room.admits_blank(self.standing(prepared));
        if (wanted && fits) || self.waiting.get() > self.len() {
            self.idle.borrow_mut().push_back(worker);
            self.came.notify_one();
        }
    }

    /// Keeps the worker of the start for the first job, however few are to stand ready.
    pub(super) fn keep_first(&self, worker: Worker) {
        self.first.set(true);
        self.idle.borrow_mut().push_back(worker);
    }

    /// Gives up what died and what is too many.
    pub(super) fn trim(&self, now: Instant) {
        let target = self.target(now).max(usize::from(self.first.get()));
        let mut idle = self.idle.borrow_mut();
        idle.retain(|worker| !worker.is_gone());
        idle.truncate(target);
    }

    pub(super) fn clear(&self) {
        self.idle.borrow_mut().clear();
    }
}

/// A job that waits for a worker, for as long as it does.
struct Waiting<'a>(&'a Cell<usize>);

impl<'a> Waiting<'a> {
    fn begin(waiting: &'a Cell<usize>) -> Self {
        waiting.set(waiting.get().saturating_add(1));
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl Pool {
    /// An idle worker for a job that comes now, if one stands ready. Another is made in its place.
    pub(super) fn take_idle(self: &Rc<Self>) -> Option<Worker> {
        let now = Instant::now();
        self.ready.demand.borrow_mut().came(now);
        let taken = self.ready.take();
        if taken.is_none() {
            self.ready.demand.borrow_mut().missed(now);
        }
        self.refill();
        taken
    }

    /// A worker for a job that found none: the one that is forked for it, or another that stands ready before that one
    /// does. What is forked then stands ready for the next.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) async fn next_blank(self: &Rc<Self>) -> Result<Worker, PoolError> {
        let _waiting = Waiting::begin(&self.ready.waiting);
        let (sender, mut made) = oneshot::channel();
        let (pool, mut closing) = (Rc::clone(self), self.zygote.closing());
        tokio::task::spawn_local(async move {
            let birth = pool.birth_of_any(Role::Run, None);
            let made = tokio::select! {
                biased;
                () = closed(&mut closing) => return,
                made = pool.make(&birth) => made,
            };
            // That none is made while too many fail is told by what failed.
            if let Err(error @ PoolError::Worker(_)) = &made {
                tracing::warn!(error = %Causes(error), "no worker for a job");
            }
            if let Err(Ok(worker)) = sender.send(made) {
                pool.ready.put(worker, pool.templates.prepared());
            }
        });
        loop {
            let came = self.ready.came.notified();
            if let Some(worker) = self.ready.take() {
                return Ok(worker);
            }
            tokio::select! {
                biased;
                made = &mut made => {
                    return made.unwrap_or_else(|_| Err(WorkerError::from(ZygoteError::Stopping).into()));
                }
                () = came => {}
            }
        }
    }

    /// Makes as many idle workers as are missing, in the background, after every fork that a job waits for.
    pub(crate) fn refill(self: &Rc<Self>) {
        let (ready, now) = (&self.ready, Instant::now());
        // Nobody knows yet whose group the next job's worker is to be born in.
        let target = if self.by_caller { 0 } else { ready.target(now) };
        while !self.closed.get()
            && ready.len() + ready.coming.get() < target
            && ready.coming.get() < REFILLS_AT_ONCE
            && ready.room.admits_blank(ready.standing(self.templates.prepared()))
        {
            if self.unavailable(now).is_some() {
                return;
            }
            ready.coming.set(ready.coming.get() + 1);
            let (pool, mut closing) = (Rc::clone(self), self.zygote.closing());
            tokio::task::spawn_local(async move {
                let birth = Birth { ahead: true, ..pool.birth_of_any(Role::Run, None) };
                let made = tokio::select! {
                    biased;
                    () = closed(&mut closing) => return,
                    made = pool.make(&birth) => made,
                };
                pool.ready.coming.set(pool.ready.coming.get().saturating_sub(1));
                match made {
                    Ok(worker) => {
                        pool.ready.demand.borrow_mut().refilled(now.elapsed());
                        pool.ready.note_made(&worker);
                        pool.ready.put(worker, pool.templates.prepared());
                        pool.refill();
                    }
                    Err(error) => tracing::warn!(error = %Causes(&error), "no idle worker"),
                }
            });
        }
    }

    /// Brings the number of ready workers to what it is to be, now that something changed.
    pub(super) fn resize(self: &Rc<Self>) {
        let now = Instant::now();
        self.ready.trim(now);
        self.templates.resize(&self.ready, now);
        self.refill();
    }

    /// Memory is scarce, or is so no longer.
    pub(crate) fn press(self: &Rc<Self>, pressed: bool) {
        if self.ready.pressed.replace(pressed) != pressed {
            self.resize();
        }
    }

    /// How many workers are to stand ready, and what decides it.
    pub(crate) fn readiness(&self) -> Readiness {
        let now = Instant::now();
        let pressure = self.pressure();
        Readiness {
            warm_target: self.ready.target(now) as u64,
            prepared_target: self.templates.target(&self.ready, now) as u64,
            initialised: self.templates.initialised() as u64,
            worker_bytes: Some(self.ready.bytes_each.get()).filter(|bytes| *bytes > 0),
            memory_pressed: pressure.is_pressed(),
            memory_pressure_source: pressure.source(),
            memory_pressure_periods: pressure.periods(),
            warm_ups: Vec::new(),
        }
    }
}
