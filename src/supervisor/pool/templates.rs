//! Modules held ready: a template for each, and the workers it forked ahead of need.
//!
//! Owns: the templates, what deserves one, and when each forks.
//! Never: gives one caller's template to another; lets a job wait until a template is made.
//!
//! A template serves one caller and one module. It has never seen a job, but it has parsed what a compiler that read
//! hostile bytes made of them; whatever came of that stays between that caller and its module. The JavaScript engine is
//! nobody's bytes, and its template serves all callers where the tree of cgroups does not tell them apart.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use stockade_wire::limits::{FORK_FDS_MAX, FORKS_MAX};
use stockade_wire::worker::{PrepareOrder, Role};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::demand::Bounds;
use super::heat::Heat;
use super::ready::Ready;
use super::stand::Stand;
use super::template::{Template, TemplateError};
use super::{Need, Pool, PoolError};
use crate::config::{self, Initialise};
use crate::observe::Causes;
use crate::supervisor::artifact::{Artifact, Key};
use crate::supervisor::child::Child;
use crate::supervisor::job::Caller;
use crate::supervisor::worker::{Birth, Ends, Kin, Worker, WorkerError};
use crate::supervisor::zygote::{ZygoteError, closed};

/// A template that was used this recently is not given up for another.
const SETTLED: Duration = Duration::from_secs(1);

/// Longest time that a job waits for its template. Its turn comes sooner, unless the template hangs: as many jobs as run at
/// once are before it at most, and a fork takes less than a millisecond.
pub(super) const NEXT_FORK_WAIT: Duration = Duration::from_millis(50);

/// The next template is made in the last part of this many of a template's forks. It is half of a zygote's, so that the
/// zygote it comes from is another by then.
const SOON_PART: u64 = 20;

/// Descriptors of a template beside those of the workers that it is to fork: what every worker has, its artifact, and two
/// that its fork makes for a moment.
const TEMPLATE_FDS: u64 = 9;

/// For so long no template is made of a module that none could hold; its jobs have processes that load it meanwhile. Not for
/// ever: what kept it from that may have been the machine's doing after all, and to find that out again costs one process.
/// No setting: a tenth of it would cost next to nothing either, and who mended the machine restarts the daemon.
const UNFIT_REST: Duration = Duration::from_secs(10 * 60);

/// Why a module is not held although the operator wants it to be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HoldError {
    /// No template at all.
    #[error("pool.templates_max is 0, or as many modules are held as it allows")]
    NoRoom,
    /// Templates cannot fork here.
    #[error(
        "the daemon is root and makes leaves, into which workers of another user cannot fork; run it as that user"
    )]
    OutOfReach,
    /// It was tried.
    #[error(transparent)]
    Failed(#[from] Box<PoolError>),
}

/// Whose module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Holder {
    pub(crate) uid: u32,
    pub(crate) key: Key,
    /// It is the JavaScript engine, and not what somebody submitted, be it the same module.
    pub(crate) engine: bool,
}

/// What is held, and how.
#[derive(Clone)]
struct Held {
    artifact: Rc<Artifact>,
    /// A function that it must export.
    entry: Option<String>,
    /// It is the JavaScript engine.
    engine: bool,
    /// The operator listed it.
    listed: bool,
}

/// What became of the template that is to take another's place.
enum Succession {
    /// It is not there.
    None,
    Made(Box<Template>),
    Failed(PoolError),
    /// There is to be none.
    GivenUp,
}

/// Every module that is held ready.
pub(super) struct Templates {
    heat: RefCell<Heat<Holder>>,
    stands: RefCell<HashMap<Holder, Rc<Stand>>>,
    pub(super) max: usize,
    bounds: Bounds,
}

impl Templates {
    pub(super) fn new(config: &config::Pool) -> Self {
        Self {
            heat: RefCell::new(Heat::new(config.template_after, config.template_idle)),
            stands: RefCell::default(),
            max: config.templates_max,
            bounds: Bounds { least: config.template_ready, most: config.template_ready_max },
        }
    }

    /// Modules held ready, and workers that have one.
    pub(super) fn count(&self) -> (usize, usize) {
        let stands = self.stands.borrow();
        (stands.len(), stands.values().map(|stand| stand.len()).sum())
    }

    /// Workers that have a module, or are being forked to have one.
    pub(super) fn prepared(&self) -> usize {
        self.stands.borrow().values().map(|stand| stand.len_soon()).sum()
    }

    /// How many of those there are to be.
    pub(super) fn target(&self, all: &Ready, now: Instant) -> usize {
        self.stands.borrow().values().map(|stand| stand.target(all, now)).sum()
    }

    /// Templates whose instance has run its initialiser.
    pub(super) fn initialised(&self) -> usize {
        self.stands.borrow().values().filter(|stand| stand.initialised.get()).count()
    }

    /// Has the next worker of every stand looked at.
    pub(super) fn doubt(&self) {
        for stand in self.stands.borrow().values() {
            stand.doubt();
        }
    }

    /// Brings every stand to its size, now that something changed.
    pub(super) fn resize(&self, all: &Ready, now: Instant) {
        for stand in self.stands.borrow().values() {
            stand.resize(all, now);
        }
    }

    /// Gives all of them up.
    pub(super) fn close(&self) {
        for stand in self.stands.borrow().values() {
            stand.close();
        }
    }

    pub(super) fn stand(&self, holder: &Holder) -> Option<Rc<Stand>> {
        self.stands.borrow().get(holder).cloned()
    }

    /// Makes room for one more, if there is none, by giving up the one that nobody asked for the longest. `false` when
    /// they are all in use.
    fn make_room(&self, now: Instant) -> bool {
        let mut stands = self.stands.borrow_mut();
        if stands.len() < self.max {
            return true;
        }
        let idle = stands.iter().filter(|(_, stand)| !stand.is_pinned());
        let Some((oldest, stand)) = idle.min_by_key(|(_, stand)| stand.used()) else { return false };
        if now.saturating_duration_since(stand.used()) < SETTLED {
            return false;
        }
        stand.given_up.notify_one();
        let oldest = *oldest;
        stands.remove(&oldest);
        true
    }

    fn add(&self, holder: Holder, stand: Stand) -> Rc<Stand> {
        let stand = Rc::new(stand);
        self.stands.borrow_mut().insert(holder, Rc::clone(&stand));
        stand
    }

    /// Takes a stand out, unless another is in its place by now.
    fn remove(&self, holder: &Holder, stand: &Rc<Stand>) {
        if self.has(holder, stand) {
            self.stands.borrow_mut().remove(holder);
        }
    }

    fn has(&self, holder: &Holder, stand: &Rc<Stand>) -> bool {
        self.stands.borrow().get(holder).is_some_and(|there| Rc::ptr_eq(there, stand))
    }
}

impl Pool {
    /// A worker that has the module from its birth: one that stands ready, or where there is a template, the next that it has
    /// to spare. Under a load that it cannot keep up with, blank workers would take the time that forking needs. Otherwise the use is counted, and may make the
    /// module one that is held ready from then on.
    pub(super) async fn take_prepared(self: &Rc<Self>, need: &Need<'_>, now: Instant) -> Option<Worker> {
        let (key, artifact) = need.module?;
        // Code that counts fuel is of another engine.
        if key.metered || self.templates.max == 0 || !self.templates_reach_leaves() {
            return None;
        }
        let uid = if need.engine { self.engine_holder(need.caller.uid) } else { need.caller.uid };
        let holder = Holder { uid, key, engine: need.engine };
        if let Some(stand) = self.templates.stand(&holder) {
            if let Some(worker) = stand.take(now) {
                return Some(worker);
            }
            // Whoever would share a process found its tenant's all busy. A place that waits is one that they are kept from; but a
            // blank worker takes longer to set the JavaScript engine up than any fork takes to come.
            if need.tenant.is_some() && !need.engine {
                return None;
            }
            let coming = stand.wait()?;
            // Not kept: with the stand goes whoever waits for it.
            drop(stand);
            // Who gets none in time is no worse off than before there was a template.
            return timeout(NEXT_FORK_WAIT, coming).await.ok()?.ok();
        }
        let hot = {
            let mut heat = self.templates.heat.borrow_mut();
            // Whoever comes with one script comes with another, and the engine serves them all.
            if need.engine { heat.used_once(holder, now) } else { heat.used(holder, now) }
        };
        if hot && !self.ready.is_pressed() && self.templates.make_room(now) {
            let stand = self.templates.add(holder, Stand::hot(self.templates.bounds, now));
            let held =
                Held { artifact: Rc::clone(artifact), entry: None, engine: need.engine, listed: false };
            tokio::task::spawn_local(Rc::clone(self).keep_ready(holder, stand, held, self.zygote.closing()));
        }
        None
    }

    /// Whose template the workers for a user's scripts come from. The JavaScript engine is our own module, and no script has
    /// been near its template: one serves all users, where they have no groups of their own in the tree.
    pub(crate) const fn engine_holder(&self, uid: u32) -> u32 {
        if self.by_caller { uid } else { Caller::NOBODY.uid }
    }

    /// Holds a module ready for as long as the pool lives, `least` workers of it at least, and returns once they stand.
    ///
    /// # Errors
    /// When it cannot be held now. One that was lost on the way is tried again and again all the same.
    pub(crate) async fn hold(
        self: &Rc<Self>,
        holder: Holder,
        artifact: &Rc<Artifact>,
        (least, entry): (usize, Option<String>),
    ) -> Result<(), HoldError> {
        if !self.templates_reach_leaves() {
            return Err(HoldError::OutOfReach);
        }
        let now = Instant::now();
        if let Some(stand) = self.templates.stand(&holder) {
            // A client was quicker.
            stand.given_up.notify_one();
            self.templates.remove(&holder, &stand);
        }
        if !self.templates.make_room(now) {
            return Err(HoldError::NoRoom);
        }
        let (answer, told) = oneshot::channel();
        let bounds = Bounds { least, ..self.templates.bounds };
        let stand = self.templates.add(holder, Stand::pinned(bounds, now, answer));
        let held = Held { artifact: Rc::clone(artifact), entry, engine: holder.engine, listed: true };
        tokio::task::spawn_local(Rc::clone(self).keep_ready(holder, stand, held, self.zygote.closing()));
        Ok(told.await.unwrap_or_else(|_| Err(stopping())).map_err(Box::new)?)
    }

    /// Whether a template may fork into a leaf: the kernel asks for leave to write to the leaf's `cgroup.procs`, which the
    /// supervisor's user has, and the one that root's workers become has not.
    pub(super) const fn templates_reach_leaves(&self) -> bool {
        self.tree.is_none() || self.identity.is_none()
    }

    /// Keeps one module ready until nobody asks for it any more, or it cannot be done. One that the operator wants held
    /// is tried again after a rest.
    async fn keep_ready(
        self: Rc<Self>,
        holder: Holder,
        stand: Rc<Stand>,
        held: Held,
        mut closing: watch::Receiver<bool>,
    ) {
        loop {
            let ended = self.tend(holder.uid, &stand, &held, &mut closing).await;
            stand.forks(false);
            let unfit = is_unfit(&ended);
            // One that is listed twice is held once.
            let replaced = !self.templates.has(&holder, &stand);
            if !stand.is_pinned() || replaced || unfit || *closing.borrow() {
                return self.give_up(&holder, &stand, ended);
            }
            if let Err(error) = ended {
                tracing::warn!(error = %Causes(&error), "template of a warm-up lost; it is made again");
                stand.answer(Err(error));
                tokio::select! {
                    biased;
                    () = closed(&mut closing) => return,
                    () = tokio::time::sleep(self.config.pool.restart_window) => {}
                }
            }
        }
    }

    fn give_up(&self, holder: &Holder, stand: &Rc<Stand>, ended: Result<(), PoolError>) {
        self.templates.remove(holder, stand);
        let mut heat = self.templates.heat.borrow_mut();
        heat.cool(holder);
        match &ended {
            Ok(()) => tracing::debug!("template given up"),
            Err(error) if is_unfit(&ended) => {
                tracing::debug!(error = %Causes(&error), "module is loaded for each job");
                heat.rest(holder, Instant::now() + UNFIT_REST);
            }
            Err(error) => {
                tracing::warn!(error = %Causes(&error), "template lost");
                heat.rest(holder, Instant::now() + self.config.pool.restart_window);
            }
        }
        stand.answer(ended);
    }

    /// Has one template after another fork what is missing. Returns when the module is to be held no more.
    async fn tend(
        self: &Rc<Self>,
        uid: u32,
        stand: &Stand,
        held: &Held,
        closing: &mut watch::Receiver<bool>,
    ) -> Result<(), PoolError> {
        let mut next = tokio::select! {
            biased;
            () = closed(closing) => return Ok(()),
            template = self.template(held, uid) => Some(template?),
        };
        while let Some(template) = next {
            stand.initialised.set(template.is_initialised());
            stand.forks(true);
            next = self.fork_from(&template, (uid, stand, held), closing).await?;
        }
        Ok(())
    }

    /// Has a template fork whatever is missing, until another takes its place, which has another address layout: that is
    /// made in the last part of its forks. `None` when the module is to be held no more.
    async fn fork_from(
        self: &Rc<Self>,
        template: &Template,
        (uid, stand, held): (u32, &Stand, &Held),
        closing: &mut watch::Receiver<bool>,
    ) -> Result<Option<Template>, PoolError> {
        let most = self.config.pool.zygote_forks_max;
        let mut soon = most.saturating_sub(most / SOON_PART);
        // Ended when this returns.
        let mut making = JoinSet::new();
        let (mut kin, mut kin_forks): (Option<Kin>, usize) = (None, 0);
        let (mut portion, mut since, mut forks) = (0, Instant::now(), 0);
        loop {
            if forks >= soon && making.is_empty() {
                let (pool, held) = (Rc::clone(self), held.clone());
                making.spawn_local(async move { pool.template(&held, uid).await });
            }
            match self.successor(stand, &mut making, forks < most, closing).await {
                Succession::None => {}
                Succession::GivenUp => return Ok(None),
                Succession::Made(next) => return Ok(Some(*next)),
                Succession::Failed(error) if forks < most => {
                    tracing::warn!(error = %Causes(&error), "no other template yet; this one goes on");
                    soon = forks.saturating_add((most - forks).div_ceil(2));
                }
                Succession::Failed(error) => return Err(error),
            }
            if portion == 0 {
                let Some(missing) = self.wait_for_need(stand, template, closing).await? else {
                    return Ok(None);
                };
                (portion, since) = (missing, Instant::now());
            }
            if *closing.borrow() {
                return Ok(None);
            }
            let unseen_max = self.config.pool.inspect_every.saturating_sub(kin_forks);
            if stand.doubts() || unseen_max == 0 {
                kin = None;
            }
            // Guest code may have run in it, which would know the forks that are looked at.
            let known = kin.clone().filter(|_| !template.may_have_run_its_module());
            let most_at_once = if kin.is_none() { 1 } else { portion.min(unseen_max) };
            let workers = self.at_once(stand, most_at_once);
            if workers == 0 {
                // Others have taken the room since the portion was begun.
                portion = 0;
                continue;
            }
            stand.expect(workers);
            let born = self.branches(template, uid, workers, known.is_none()).await?;
            let born_count = born.len();
            for (ours, child) in born {
                let child = (child, template.text_bytes());
                let worker = tokio::select! {
                    biased;
                    () = closed(closing) => return Ok(None),
                    worker = self.branch(uid, known.as_ref(), ours, child) => worker?,
                };
                if kin.is_none() {
                    (kin, kin_forks) = (Some(worker.kin()), 0);
                }
                self.ready.note_made(&worker);
                stand.put(worker);
            }
            stand.expect(0);
            (portion, forks) = (portion.saturating_sub(born_count), forks + born_count as u64);
            kin_forks += born_count;
            if portion == 0 {
                stand.refilled(since);
            }
        }
    }

    /// The template that takes this one's place, if it is there. One that `may_fork_on` is not waited for.
    async fn successor(
        &self,
        stand: &Stand,
        making: &mut JoinSet<Result<Template, PoolError>>,
        may_fork_on: bool,
        closing: &mut watch::Receiver<bool>,
    ) -> Succession {
        let made = if may_fork_on {
            making.try_join_next()
        } else {
            stand.forks_no_more();
            tokio::select! {
                biased;
                () = closed(closing) => return Succession::GivenUp,
                () = stand.given_up.notified() => return Succession::GivenUp,
                made = making.join_next() => made,
            }
        };
        // A task that panicked took the program with it; what was aborted is not joined.
        match made.map(|made| made.unwrap_or_else(|_| Err(stopping()))) {
            None => Succession::None,
            Some(Ok(next)) => Succession::Made(Box::new(next)),
            Some(Err(error)) => Succession::Failed(error),
        }
    }

    /// How many of so many are forked at once: no more than there is room for, beside those that jobs wait for, which take them
    /// at once, and no more than the template may have the descriptors of.
    fn at_once(&self, stand: &Stand, most: usize) -> usize {
        let open = self.config.jail.open_files.saturating_sub(TEMPLATE_FDS) / FORK_FDS_MAX as u64;
        let most = most.min(usize::try_from(open).unwrap_or(FORKS_MAX).clamp(1, FORKS_MAX));
        let prepared = self.templates.prepared();
        let room =
            (0..most).take_while(|more| self.ready.admits_prepared(prepared.saturating_add(*more))).count();
        room.max(stand.waiting().min(most))
    }

    /// Returns how many workers are missing, once some are. `None` when the template is to be given up.
    async fn wait_for_need(
        &self,
        stand: &Stand,
        template: &Template,
        closing: &mut watch::Receiver<bool>,
    ) -> Result<Option<usize>, PoolError> {
        let idle = self.config.pool.template_idle;
        loop {
            let missing = stand.missing(&self.ready, self.templates.prepared(), Instant::now());
            if missing > 0 {
                return Ok(Some(missing));
            }
            tokio::select! {
                biased;
                () = closed(closing) => return Ok(None),
                () = stand.given_up.notified() => return Ok(None),
                () = template.exited() => {
                    return Err(WorkerError::from(TemplateError::Broken("it exited".to_owned())).into());
                }
                () = stand.changed.notified() => {}
                () = tokio::time::sleep_until((stand.used() + idle).into()), if !stand.is_pinned() => {
                    if stand.used().elapsed() >= idle {
                        return Ok(None);
                    }
                }
            }
        }
    }

    async fn template(&self, held: &Held, uid: u32) -> Result<Template, PoolError> {
        let birth = Birth { ahead: true, ..self.birth_of_any(Role::Template, Some(uid)) };
        let worker = self.make(&birth).await?;
        let pool = &self.config.pool;
        // An initialiser is guest code in a process that may fork: whose, is the operator's word.
        let initialises = match pool.initialise {
            Initialise::Never => false,
            Initialise::Listed => held.listed,
            Initialise::Any => true,
        };
        let time = if initialises { pool.initialise_time } else { Duration::ZERO };
        let order = PrepareOrder {
            entry: held.entry.clone(),
            engine: held.engine,
            initialise_us: u64::try_from(time.as_micros()).unwrap_or(u64::MAX),
            initialise_bytes: pool.initialise_bytes,
        };
        let made = Template::prepare(worker, order, held.artifact.fd()).await;
        Ok(made.map_err(WorkerError::from)?)
    }

    /// Forks workers from a template. They are not locked yet.
    async fn branches(
        &self,
        template: &Template,
        uid: u32,
        workers: usize,
        reporting: bool,
    ) -> Result<Vec<(Ends, Child)>, PoolError> {
        let leaf = self.birth_of_branch(uid).leaf;
        let (mut ours, mut theirs) = (Vec::with_capacity(workers), Vec::with_capacity(workers));
        for _ in 0..workers {
            let (our, their) = Ends::make(&leaf, self.tree.as_ref())?;
            ours.push(our);
            theirs.push(their);
        }
        let forked = template.fork(theirs, reporting, &self.graveyard).await;
        let forks = forked.as_ref().map_or(1, Vec::len) as u64;
        self.forks.set(self.forks.get() + forks);
        self.zygote.note_branched(forks);
        if forked.is_err() {
            // It may have forked all the same, and not lived to tell.
            template.suspect(&self.graveyard);
        }
        Ok(ours.into_iter().zip(forked.map_err(WorkerError::from)?).collect())
    }

    /// Takes over one of them: as the others of its kin, or once it is locked and was looked at.
    async fn branch(
        &self,
        uid: u32,
        kin: Option<&Kin>,
        ours: Ends,
        child: (Child, u64),
    ) -> Result<Worker, PoolError> {
        let worker = match kin {
            Some(kin) => Worker::of_kin(kin, ours, child).await?,
            None => Worker::locked(&self.birth_of_branch(uid), ours, child, &self.zygote).await?,
        };
        Ok(self.no_weaker(worker)?)
    }

    fn birth_of_branch(&self, uid: u32) -> Birth {
        Birth { with_module: true, ..self.birth_of_any(Role::Run, Some(uid)) }
    }

    /// A birth for whatever job may come, of that user if it is known whose.
    pub(super) fn birth_of_any(&self, role: Role, uid: Option<u32>) -> Birth {
        let need = Need {
            directories: &[],
            // Whose group it is that counts here; for the rest it is nobody's.
            caller: uid.map_or(Caller::NOBODY, |uid| Caller { uid, ..Caller::NOBODY }),
            memory_bytes: self.config.ceilings.memory_bytes,
            module: None,
            engine: false,
            tenant: None,
        };
        self.birth(role, &need)
    }
}

fn stopping() -> PoolError {
    WorkerError::from(ZygoteError::Stopping).into()
}

/// Whether it is the module that no template can hold.
fn is_unfit(ended: &Result<(), PoolError>) -> bool {
    matches!(ended, Err(PoolError::Worker(WorkerError::Template(error))) if error.is_of_the_module())
}
