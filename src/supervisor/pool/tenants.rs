//! Tenant workers: processes that run one job after another of one tenant with one module.
//!
//! Owns: how many there are and of whom, which of them gives way, and when one is made before a job is there for it.
//! Never: lends one to another user, tenant or module, or for another memory limit; lends one again that did or may have
//! done anything but run its jobs; lets a job wait for one without a bound.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use stockade_wire::worker::RunReport;

use super::exchange::Exchange;
use super::tenancy::{Tenancy, is_harmless};
use super::waiting::{Course, Standing, course};
use super::{Need, Pool, PoolError, count};
use crate::config;
use crate::observe::Causes;
use crate::supervisor::artifact::Key;
use crate::supervisor::job::Caller;
use crate::supervisor::worker::Worker;
use crate::supervisor::zygote::closed;

/// What jobs have in common that one process runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Sharing {
    uid: u32,
    tenant: String,
    key: Key,
    /// It is the JavaScript engine, and not what somebody submitted, be it the same module.
    engine: bool,
    memory_bytes: u64,
}

impl Sharing {
    fn of(need: &Need<'_>) -> Option<Self> {
        let (tenant, (key, _)) = (need.tenant?, need.module?);
        let Need { caller, engine, memory_bytes, .. } = *need;
        Some(Self { uid: caller.uid, tenant: tenant.to_owned(), key, engine, memory_bytes })
    }

    /// What a worker needs for them before it has a job.
    const fn need(&self) -> Need<'static> {
        Need {
            directories: &[],
            caller: Caller { uid: self.uid, ..Caller::NOBODY },
            memory_bytes: self.memory_bytes,
            module: None,
            engine: self.engine,
            tenant: None,
        }
    }
}

/// A worker that is lent out for one job.
pub(crate) struct Lent {
    pub(crate) worker: Worker,
    /// There is one when it is a tenant worker.
    pub(crate) stay: Option<Stay>,
}

impl Lent {
    const fn fresh(worker: Worker) -> Self {
        Self { worker, stay: None }
    }
}

/// What makes a worker a tenant worker.
pub(crate) struct Stay {
    tenancy: Tenancy,
    /// CPU time of the process that earlier jobs were billed for.
    cpu_billed: Duration,
    seat: Seat,
}

impl Stay {
    fn begun(seat: Seat) -> Self {
        Self { tenancy: Tenancy::begun(Instant::now()), cpu_billed: Duration::ZERO, seat }
    }

    /// Whether the worker has run a job of its tenant before.
    pub(crate) const fn is_used(&self) -> bool {
        self.tenancy.is_used()
    }

    /// What of the process's CPU time `used` is the last job's. To be asked once a job.
    pub(crate) fn bill(&mut self, used: Duration) -> Duration {
        let jobs = used.saturating_sub(self.cpu_billed);
        self.cpu_billed = self.cpu_billed.max(used);
        jobs
    }
}

/// A tenant worker without a job.
struct Resting {
    worker: Worker,
    stay: Stay,
}

impl Resting {
    fn lent(self) -> Lent {
        Lent { worker: self.worker, stay: Some(self.stay) }
    }

    /// Whether it may have another job: its time is not over, it lives, and has neither said nor written anything since
    /// its reply was taken.
    fn is_fit(&self, now: Instant, limits: &config::Pool) -> bool {
        !self.stay.tenancy.is_over(now, limits) && is_quiet(&self.worker)
    }
}

type Resters = Exchange<Rc<Sharing>, Resting>;

/// The tenant workers of one kind.
#[derive(Debug, Clone, Copy, Default)]
struct Crew {
    /// Lent, idle, or being made.
    workers: usize,
    /// Of those, the ones that are made before a job is there for them.
    coming: usize,
}

/// How many tenant workers there are.
#[derive(Debug, Default)]
struct Seats {
    all: Cell<usize>,
    /// By user; one who has none has no entry.
    by_uid: RefCell<BTreeMap<u32, usize>>,
    /// By what they share; what none shares has no entry.
    crews: RefCell<BTreeMap<Rc<Sharing>, Crew>>,
}

impl Seats {
    fn of(&self, uid: u32) -> usize {
        self.by_uid.borrow().get(&uid).copied().unwrap_or(0)
    }

    fn crew(&self, sharing: &Sharing) -> Crew {
        self.crews.borrow().get(sharing).copied().unwrap_or_default()
    }

    fn take(self: &Rc<Self>, sharing: &Rc<Sharing>, resters: &Rc<Resters>) -> Seat {
        self.all.set(self.all.get() + 1);
        *self.by_uid.borrow_mut().entry(sharing.uid).or_default() += 1;
        self.crews.borrow_mut().entry(Rc::clone(sharing)).or_default().workers += 1;
        let resters = Rc::downgrade(resters);
        Seat { seats: Rc::clone(self), sharing: Rc::clone(sharing), resters, comes: Cell::new(false) }
    }
}

/// One tenant worker's place among them, free again when this is dropped. Whoever waits for a worker, and for the last one
/// there was, is told then.
struct Seat {
    seats: Rc<Seats>,
    sharing: Rc<Sharing>,
    resters: Weak<Resters>,
    /// The worker is made before a job is there for it.
    comes: Cell<bool>,
}

impl Seat {
    fn comes(&self, comes: bool) {
        if self.comes.replace(comes) == comes {
            return;
        }
        if let Some(crew) = self.seats.crews.borrow_mut().get_mut(&self.sharing) {
            crew.coming = if comes { crew.coming + 1 } else { crew.coming - 1 };
        }
    }

    /// Counts it no more. Whether it was the last of its crew.
    fn vacate(&self) -> bool {
        self.comes(false);
        let Seats { all, by_uid, crews } = &*self.seats;
        all.set(all.get() - 1);
        let mut by_uid = by_uid.borrow_mut();
        if let Some(seats) = by_uid.get_mut(&self.sharing.uid) {
            *seats -= 1;
            if *seats == 0 {
                by_uid.remove(&self.sharing.uid);
            }
        }
        let mut crews = crews.borrow_mut();
        let Some(crew) = crews.get_mut(&self.sharing) else { return true };
        crew.workers -= 1;
        let last = crew.workers == 0;
        if last {
            crews.remove(&self.sharing);
        }
        last
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // The first who waits makes the next worker, which the others wait for then.
        if self.vacate()
            && let Some(resters) = self.resters.upgrade()
        {
            resters.send_next_away(&self.sharing);
        }
    }
}

/// The tenant workers.
pub(super) struct Tenants {
    resters: Rc<Resters>,
    seats: Rc<Seats>,
    /// Workers of one kind that get anything done at once: as many as there are processors.
    useful: usize,
}

impl Tenants {
    pub(super) fn new() -> Self {
        let useful = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { resters: Rc::new(Exchange::new()), seats: Rc::default(), useful }
    }

    /// How many there are, lent or idle.
    pub(super) fn count(&self) -> usize {
        self.seats.all.get()
    }

    /// Ends the idle ones. Nobody waits for one from then on.
    pub(super) fn close(&self) {
        self.resters.close();
    }

    /// Gives up the idle ones that are over, gone, or have said something unasked.
    pub(super) fn tidy(&self, now: Instant, limits: &config::Pool) {
        self.resters.weed(|one| one.is_fit(now, limits));
    }

    /// The one for this that was used last: what it needs is in the processor's caches, and those not needed get to be
    /// idle for long enough to be given up.
    fn take(&self, sharing: &Rc<Sharing>, now: Instant, limits: &config::Pool) -> Option<Lent> {
        // One that is not fit for use is dropped here, which kills and buries it.
        std::iter::from_fn(|| self.resters.take(sharing))
            .find(|one| one.is_fit(now, limits))
            .map(Resting::lent)
    }

    /// What becomes of a job that found none.
    fn course(&self, sharing: &Rc<Sharing>) -> Course {
        let Crew { workers, coming } = self.seats.crew(sharing);
        course(Standing { workers, coming, waiting: self.resters.waiting(sharing) }, self.useful)
    }

    /// A seat for a job's worker, for which an idle one may have to go: one of the same user, or, where there are too many
    /// of all users together, one of whoever has most. `None` when none can go.
    fn seat(&self, sharing: &Rc<Sharing>, limits: &config::Pool) -> Option<Seat> {
        let uid = sharing.uid;
        if self.seats.of(uid) >= limits.tenant_workers_per_user_max {
            self.give_up_one_of(uid)?;
        } else if self.seats.all.get() >= limits.tenant_workers_max {
            let idle = self.resters.idle_keys();
            let heaviest = idle.iter().map(|sharing| sharing.uid).max_by_key(|uid| self.seats.of(*uid))?;
            self.give_up_one_of(heaviest)?;
        }
        Some(self.seats.take(sharing, &self.resters))
    }

    /// A seat for a worker that no job needs yet: one that is free.
    fn spare_seat(&self, sharing: &Rc<Sharing>, limits: &config::Pool) -> Option<Seat> {
        let free = self.seats.of(sharing.uid) < limits.tenant_workers_per_user_max
            && self.seats.all.get() < limits.tenant_workers_max;
        free.then(|| self.seats.take(sharing, &self.resters))
    }

    /// Ends the idle one of that user which was used longest ago.
    fn give_up_one_of(&self, uid: u32) -> Option<()> {
        let used =
            |sharing: &Rc<Sharing>, one: &Resting| (sharing.uid == uid).then(|| one.stay.tenancy.used());
        self.resters.remove_least(used).map(drop)
    }

    /// Whether another worker is there, or coming, that has not run anything yet.
    fn has_successor(&self, sharing: &Rc<Sharing>) -> bool {
        let unused = |other: &Rc<Sharing>, one: &Resting| other == sharing && !one.stay.is_used();
        self.seats.crew(sharing).coming > 0 || self.resters.has_idle(unused)
    }
}

/// Whether an idle worker lives, and has neither said nor written anything since its reply was taken.
fn is_quiet(worker: &Worker) -> bool {
    let quiet = worker.is_quiet();
    if !quiet {
        tracing::debug!(pid = worker.pid(), gone = worker.is_gone(), "a tenant worker is not used again");
    }
    quiet
}

impl Pool {
    /// A locked worker for one job: a tenant worker, where the job may share one and there may be one, else as
    /// [`Pool::take`] gives it. A job whose tenant's workers all have jobs waits for one of them for a while.
    ///
    /// # Errors
    /// When none can be made.
    pub(crate) async fn lend(self: &Rc<Self>, need: &Need<'_>) -> Result<Lent, PoolError> {
        let Some(sharing) = Sharing::of(need).map(Rc::new) else {
            return Ok(Lent::fresh(self.take(need).await?));
        };
        let (tenants, limits) = (&self.tenants, &self.config.pool);
        if let Some(lent) = tenants.take(&sharing, Instant::now(), limits) {
            return Ok(self.counted(lent));
        }
        if let Some(lent) = self.wait_for_tenant_worker(&sharing).await {
            return Ok(self.counted(lent));
        }
        let Some(seat) = tenants.seat(&sharing, limits) else {
            if tenants.seats.crew(&sharing).workers == 0 {
                tenants.resters.send_all_away(&sharing);
            }
            return Ok(Lent::fresh(self.take(need).await?));
        };
        let worker = self.take_blank(need).await?;
        Ok(Lent { worker, stay: Some(Stay::begun(seat)) })
    }

    fn counted(&self, lent: Lent) -> Lent {
        if lent.stay.as_ref().is_some_and(Stay::is_used) {
            count(&self.starts.reused);
        }
        lent
    }

    /// `None` for a job that is to have a process of its own.
    async fn wait_for_tenant_worker(self: &Rc<Self>, sharing: &Rc<Sharing>) -> Option<Lent> {
        let (tenants, limits) = (&self.tenants, &self.config.pool);
        let course = tenants.course(sharing);
        if course == Course::Own || limits.tenant_wait.is_zero() {
            return None;
        }
        if course == Course::WaitForMore {
            self.make_tenant_worker(sharing);
        }
        let given = tenants.resters.wait(sharing, limits.tenant_wait).await?;
        // One that is not fit for use is dropped here, which kills and buries it.
        Some(given).filter(|one| one.is_fit(Instant::now(), limits)).map(Resting::lent)
    }

    /// Makes one for jobs that wait or will come, in the background, if there is room for it.
    fn make_tenant_worker(self: &Rc<Self>, sharing: &Rc<Sharing>) {
        if self.ready.is_pressed() || self.closed.get() {
            return;
        }
        let Some(seat) = self.tenants.spare_seat(sharing, &self.config.pool) else { return };
        seat.comes(true);
        let (pool, sharing, mut closing) = (Rc::clone(self), Rc::clone(sharing), self.zygote.closing());
        tokio::task::spawn_local(async move {
            let need = sharing.need();
            let made = tokio::select! {
                biased;
                () = closed(&mut closing) => return,
                made = pool.take_blank(&need) => made,
            };
            match made {
                Ok(worker) if !pool.closed.get() => {
                    seat.comes(false);
                    let stay = Stay::begun(seat);
                    pool.tenants.resters.give_spare(sharing, Resting { worker, stay });
                }
                Ok(_) => {}
                // Whoever waits for it has a process of its own made, and says so if that fails.
                Err(error) => tracing::debug!(error = %Causes(&error), "no tenant worker made ahead"),
            }
        });
    }

    /// Takes a tenant worker back after a job whose reply was `report`, and which nobody had to stop. It is ended
    /// unless it is fit for another.
    pub(crate) fn give_back(self: &Rc<Self>, worker: Worker, mut stay: Stay, report: &RunReport) {
        let (now, limits) = (Instant::now(), &self.config.pool);
        let sampled = stay.tenancy.ran(now);
        let level = !sampled || stay.tenancy.sampled(worker.resident_bytes());
        let fit = level && is_harmless(report) && !self.closed.get();
        if !fit || stay.tenancy.is_over(now, limits) {
            return;
        }
        let sharing = Rc::clone(&stay.seat.sharing);
        if stay.tenancy.is_over_soon(now, limits) && !self.tenants.has_successor(&sharing) {
            self.make_tenant_worker(&sharing);
        }
        self.tenants.resters.give(sharing, Resting { worker, stay });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8, metered: bool) -> Key {
        Key { digest: [byte; 32], metered }
    }

    fn sharing(uid: u32, tenant: &str, key: Key, memory_bytes: u64) -> Sharing {
        Sharing { uid, tenant: tenant.to_owned(), key, engine: false, memory_bytes }
    }

    #[test]
    fn seats_are_counted_by_user_until_they_are_given_back() {
        let (seats, resters) = (Rc::new(Seats::default()), Rc::new(Exchange::new()));
        let of = |uid, tenant| Rc::new(sharing(uid, tenant, key(1, false), 1 << 20));
        let (one, other, third) = (of(1, "a"), of(1, "b"), of(2, "a"));
        let taken = [&one, &one, &other, &third].map(|sharing| seats.take(sharing, &resters));
        assert_eq!((seats.all.get(), seats.of(1), seats.of(2), seats.of(3)), (4, 3, 1, 0));
        let crew = |sharing| (seats.crew(sharing).workers, seats.crew(sharing).coming);
        assert_eq!((crew(&one), crew(&other)), ((2, 0), (1, 0)));
        for comes in [true, true, false, false, true] {
            taken[0].comes(comes);
            assert_eq!(crew(&one), (2, usize::from(comes)));
        }
        let [coming, rest @ ..] = taken;
        drop(coming);
        assert_eq!(crew(&one), (1, 0));
        drop(rest);
        assert_eq!((seats.all.get(), seats.of(1), crew(&one)), (0, 0, (0, 0)));
        assert!(seats.by_uid.borrow().is_empty() && seats.crews.borrow().is_empty());
    }

    #[test]
    fn whoever_waits_is_told_when_the_last_worker_there_was_is_gone() {
        let (seats, resters) = (Rc::new(Seats::default()), Rc::new(Exchange::new()));
        let sharing = Rc::new(sharing(1, "a", key(1, false), 1 << 20));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let [first, last] = [(); 2].map(|()| seats.take(&sharing, &resters));
            let mut waits = std::pin::pin!(resters.wait(&sharing, Duration::from_secs(3600)));
            let mut told = || {
                let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                waits.as_mut().poll(&mut context).is_ready()
            };
            assert!(!told());
            drop(first);
            assert!(!told());
            drop(last);
            assert!(told());
        });
    }

    #[test]
    fn jobs_share_a_process_only_when_everything_that_makes_it_is_the_same() {
        let one = sharing(1, "uid:1", key(1, false), 1 << 20);
        assert_eq!(one, one.clone());
        for other in [
            sharing(2, "uid:1", key(1, false), 1 << 20),
            sharing(1, "uid:1/a", key(1, false), 1 << 20),
            sharing(1, "uid:1", key(2, false), 1 << 20),
            sharing(1, "uid:1", key(1, true), 1 << 20),
            sharing(1, "uid:1", key(1, false), 2 << 20),
        ] {
            assert_ne!(one, other);
        }
        assert_ne!(one, Sharing { engine: true, ..one.clone() });
    }
}
