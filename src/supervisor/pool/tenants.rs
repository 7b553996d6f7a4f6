//! Tenant workers: processes that run one job after another of one tenant with one module.
//!
//! Owns: the idle ones, how many there are and of whom, and which of them gives way.
//! Never: lets a job wait for one; lends one to another user, tenant or module, or for another memory limit; lends one
//! again that did or may have done anything but run its jobs.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use stockade_wire::worker::RunReport;

use super::tenancy::{Tenancy, is_harmless};
use super::{Need, Pool, PoolError, count};
use crate::config;
use crate::supervisor::artifact::Key;
use crate::supervisor::worker::Worker;

/// What jobs have in common that one process runs.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    sharing: Sharing,
    tenancy: Tenancy,
    /// CPU time of the process that earlier jobs were billed for.
    cpu_billed: Duration,
    _seat: Seat,
}

impl Stay {
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

/// How many tenant workers there are, lent or idle.
#[derive(Debug, Default)]
struct Seats {
    all: Cell<usize>,
    /// By user; one who has none has no entry.
    by_uid: RefCell<BTreeMap<u32, usize>>,
}

impl Seats {
    fn of(&self, uid: u32) -> usize {
        self.by_uid.borrow().get(&uid).copied().unwrap_or(0)
    }

    fn take(self: &Rc<Self>, uid: u32) -> Seat {
        self.all.set(self.all.get() + 1);
        *self.by_uid.borrow_mut().entry(uid).or_default() += 1;
        Seat { seats: Rc::clone(self), uid }
    }
}

/// One tenant worker's place among them, free again when this is dropped.
#[derive(Debug)]
struct Seat {
    seats: Rc<Seats>,
    uid: u32,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Seats { all, by_uid } = &*self.seats;
        all.set(all.get() - 1);
        let mut by_uid = by_uid.borrow_mut();
        if let Some(seats) = by_uid.get_mut(&self.uid) {
            *seats -= 1;
            if *seats == 0 {
                by_uid.remove(&self.uid);
            }
        }
    }
}

/// An idle tenant worker.
struct Idle {
    worker: Worker,
    stay: Stay,
}

/// The tenant workers.
pub(super) struct Tenants {
    /// The one used last is last.
    idle: RefCell<Vec<Idle>>,
    seats: Rc<Seats>,
}

impl Tenants {
    pub(super) fn new() -> Self {
        Self { idle: RefCell::default(), seats: Rc::default() }
    }

    /// How many there are, lent or idle.
    pub(super) fn count(&self) -> usize {
        self.seats.all.get()
    }

    /// Ends the idle ones.
    pub(super) fn close(&self) {
        self.idle.take();
    }

    /// Gives up the idle ones that are over, gone, or have said something unasked.
    pub(super) fn tidy(&self, now: Instant, limits: &config::Pool) {
        self.idle.borrow_mut().retain(|one| !one.stay.tenancy.is_over(now, limits) && is_quiet(&one.worker));
    }

    /// The one for this that was used last: what it needs is in the processor's caches, and those not needed get to be
    /// idle for long enough to be given up.
    fn take(&self, sharing: &Sharing, now: Instant, limits: &config::Pool) -> Option<Lent> {
        loop {
            let one = {
                let mut idle = self.idle.borrow_mut();
                let place = idle.iter().rposition(|one| one.stay.sharing == *sharing)?;
                idle.remove(place)
            };
            // One that is not fit for use is dropped here, which kills and buries it.
            if !one.stay.tenancy.is_over(now, limits) && is_quiet(&one.worker) {
                return Some(Lent { worker: one.worker, stay: Some(one.stay) });
            }
        }
    }

    /// A seat for a user's next one, for which an idle one may have to go: the user's own, or, where there are too many
    /// of all users together, one of whoever has most. `None` when none can go.
    fn seat(&self, uid: u32, limits: &config::Pool) -> Option<Seat> {
        if self.seats.of(uid) >= limits.tenant_workers_per_user_max {
            self.give_up_one_of(uid)?;
        } else if self.seats.all.get() >= limits.tenant_workers_max {
            let idle = self.idle.borrow().iter().map(|one| one.stay.sharing.uid).collect::<Vec<_>>();
            let heaviest = idle.into_iter().max_by_key(|uid| self.seats.of(*uid))?;
            self.give_up_one_of(heaviest)?;
        }
        Some(self.seats.take(uid))
    }

    /// Ends the idle one of that user which was used longest ago.
    fn give_up_one_of(&self, uid: u32) -> Option<()> {
        let mut idle = self.idle.borrow_mut();
        let own = idle.iter().enumerate().filter(|(_, one)| one.stay.sharing.uid == uid);
        let (place, _) = own.min_by_key(|(_, one)| one.stay.tenancy.used())?;
        idle.remove(place);
        Some(())
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
    /// [`Pool::take`] gives it.
    ///
    /// # Errors
    /// When none can be made.
    pub(crate) async fn lend(self: &Rc<Self>, need: &Need<'_>) -> Result<Lent, PoolError> {
        let Some(sharing) = Sharing::of(need) else { return Ok(Lent::fresh(self.take(need).await?)) };
        let limits = &self.config.pool;
        let now = Instant::now();
        if let Some(lent) = self.tenants.take(&sharing, now, limits) {
            count(&self.starts.reused);
            return Ok(lent);
        }
        let Some(seat) = self.tenants.seat(sharing.uid, limits) else {
            return Ok(Lent::fresh(self.take(need).await?));
        };
        let worker = self.take_blank(need).await?;
        let tenancy = Tenancy::begun(now);
        let stay = Stay { sharing, tenancy, cpu_billed: Duration::ZERO, _seat: seat };
        Ok(Lent { worker, stay: Some(stay) })
    }

    /// Takes a tenant worker back after a job whose reply was `report`, and which nobody had to stop. It is ended
    /// unless it is fit for another.
    pub(crate) fn give_back(&self, worker: Worker, mut stay: Stay, report: &RunReport) {
        let now = Instant::now();
        let sampled = stay.tenancy.ran(now);
        let level = !sampled || stay.tenancy.sampled(worker.resident_bytes());
        let fit = level && is_harmless(report) && !self.closed.get();
        if fit && !stay.tenancy.is_over(now, &self.config.pool) {
            self.tenants.idle.borrow_mut().push(Idle { worker, stay });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_counted_by_user_until_they_are_given_back() {
        let seats = Rc::new(Seats::default());
        let taken = [1, 1, 2].map(|uid| seats.take(uid));
        assert_eq!((seats.all.get(), seats.of(1), seats.of(2), seats.of(3)), (3, 2, 1, 0));
        drop(taken);
        assert_eq!((seats.all.get(), seats.of(1)), (0, 0));
        assert!(seats.by_uid.borrow().is_empty());
    }

    #[test]
    fn jobs_share_a_process_only_when_everything_that_makes_it_is_the_same() {
        let key = |byte, metered| Key { digest: [byte; 32], metered };
        let sharing = |uid, tenant: &str, key, memory_bytes| Sharing {
            uid,
            tenant: tenant.to_owned(),
            key,
            engine: false,
            memory_bytes,
        };
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
