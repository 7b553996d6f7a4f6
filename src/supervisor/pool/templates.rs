//! Modules held ready: a template for each, and the workers it forked ahead of need.
//!
//! Owns: the templates, what deserves one, and when each forks.
//! Never: gives one caller's template to another; lets a job wait for one.
//!
//! A template serves one caller and one module. It has never seen a job, but it has parsed what a compiler that read
//! hostile bytes made of them; whatever came of that stays between that caller and its module.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use stockade_wire::worker::Role;
use tokio::sync::{Notify, watch};

use super::heat::Heat;
use super::template::{Template, TemplateError};
use super::{Need, Pool, PoolError};
use crate::config;
use crate::observe::Causes;
use crate::supervisor::artifact::{Artifact, Key};
use crate::supervisor::job::Caller;
use crate::supervisor::worker::{Birth, Ends, Worker, WorkerError};
use crate::supervisor::zygote::closed;

/// A template that was used this recently is not given up for another.
const SETTLED: Duration = Duration::from_secs(1);

/// Whose module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Holder {
    uid: u32,
    key: Key,
}

/// Every module that is held ready.
pub(super) struct Templates {
    heat: RefCell<Heat<Holder>>,
    stands: RefCell<HashMap<Holder, Rc<Stand>>>,
    max: usize,
}

/// One module that is held ready.
struct Stand {
    ready: RefCell<VecDeque<Worker>>,
    used: Cell<Instant>,
    taken: Notify,
    given_up: Notify,
}

impl Stand {
    fn take(&self, now: Instant) -> Option<Worker> {
        self.used.set(now);
        let mut ready = self.ready.borrow_mut();
        // One that died while idle, or said something unasked, is dropped here, which ends and buries it.
        let worker = std::iter::from_fn(|| ready.pop_front()).find(Worker::is_quiet);
        self.taken.notify_one();
        worker
    }
}

impl Templates {
    pub(super) fn new(config: &config::Pool) -> Self {
        Self {
            heat: RefCell::new(Heat::new(config.template_after, config.template_idle)),
            stands: RefCell::default(),
            max: config.templates_max,
        }
    }

    /// Modules held ready, and workers that have one.
    pub(super) fn count(&self) -> (usize, usize) {
        let stands = self.stands.borrow();
        (stands.len(), stands.values().map(|stand| stand.ready.borrow().len()).sum())
    }

    /// Gives all of them up.
    pub(super) fn close(&self) {
        for stand in self.stands.borrow().values() {
            stand.given_up.notify_one();
            stand.ready.borrow_mut().clear();
        }
    }

    fn stand(&self, holder: &Holder) -> Option<Rc<Stand>> {
        self.stands.borrow().get(holder).cloned()
    }

    /// A stand for a module that is hot, when there is room or another can make it.
    fn make_room_for(&self, holder: Holder, now: Instant) -> Option<Rc<Stand>> {
        let mut stands = self.stands.borrow_mut();
        if stands.len() >= self.max {
            let (oldest, stand) = stands.iter().min_by_key(|(_, stand)| stand.used.get())?;
            if now.saturating_duration_since(stand.used.get()) < SETTLED {
                return None;
            }
            stand.given_up.notify_one();
            let oldest = *oldest;
            stands.remove(&oldest);
        }
        let stand = Rc::new(Stand {
            ready: RefCell::default(),
            used: Cell::new(now),
            taken: Notify::new(),
            given_up: Notify::new(),
        });
        stands.insert(holder, Rc::clone(&stand));
        Some(stand)
    }

    /// Takes a stand out, unless another is in its place by now.
    fn remove(&self, holder: &Holder, stand: &Rc<Stand>) {
        let mut stands = self.stands.borrow_mut();
        if stands.get(holder).is_some_and(|there| Rc::ptr_eq(there, stand)) {
            stands.remove(holder);
        }
    }
}

impl Pool {
    /// A worker that has the module from its birth, when one stands ready. Otherwise the use is counted, and may make
    /// the module one that is held ready from then on. Never waits.
    pub(super) fn take_prepared(self: &Rc<Self>, need: &Need<'_>, now: Instant) -> Option<Worker> {
        let (key, artifact) = need.module?;
        // Code that counts fuel is of another engine.
        if key.metered || self.templates.max == 0 || !self.templates_reach_leaves() {
            return None;
        }
        let holder = Holder { uid: need.caller.uid, key };
        if let Some(stand) = self.templates.stand(&holder) {
            return stand.take(now);
        }
        if self.templates.heat.borrow_mut().used(holder, now)
            && let Some(stand) = self.templates.make_room_for(holder, now)
        {
            let (pool, artifact, closing) = (Rc::clone(self), Rc::clone(artifact), self.zygote.closing());
            tokio::task::spawn_local(pool.keep_ready(holder, stand, artifact, closing));
        }
        None
    }

    /// Whether a template may fork into a leaf: the kernel asks for leave to write to the leaf's `cgroup.procs`, which the
    /// supervisor's user has, and the one that root's workers become has not.
    const fn templates_reach_leaves(&self) -> bool {
        self.tree.is_none() || self.identity.is_none()
    }

    /// Keeps one module ready until nobody asks for it any more, or it cannot be done.
    async fn keep_ready(
        self: Rc<Self>,
        holder: Holder,
        stand: Rc<Stand>,
        artifact: Rc<Artifact>,
        mut closing: watch::Receiver<bool>,
    ) {
        let ended = self.tend(holder.uid, &stand, &artifact, &mut closing).await;
        self.templates.remove(&holder, &stand);
        let mut heat = self.templates.heat.borrow_mut();
        heat.cool(&holder);
        match ended {
            Ok(()) => tracing::debug!("template given up"),
            Err(PoolError::Worker(WorkerError::Template(
                error @ (TemplateError::NotPrepared(_) | TemplateError::NotForked(_)),
            ))) => {
                tracing::debug!(error = %Causes(&error), "module is loaded for each job");
                heat.refuse(&holder);
            }
            Err(error) => {
                tracing::warn!(error = %Causes(&error), "template lost");
                heat.rest(&holder, Instant::now() + self.config.pool.restart_window);
            }
        }
    }

    async fn tend(
        &self,
        uid: u32,
        stand: &Stand,
        artifact: &Artifact,
        closing: &mut watch::Receiver<bool>,
    ) -> Result<(), PoolError> {
        let group = self.zygote.group();
        let template = tokio::select! {
            biased;
            () = closed(closing) => return Ok(()),
            template = self.template(artifact, uid) => template?,
        };
        let ready_max = self.config.pool.template_ready;
        let mut portion = ready_max;
        for _ in 0..self.config.pool.zygote_forks_max {
            if portion == 0 {
                if !self.wait_for_need(stand, &template, closing).await? {
                    return Ok(());
                }
                portion = ready_max.saturating_sub(stand.ready.borrow().len());
            }
            if *closing.borrow() {
                return Ok(());
            }
            let worker = self.branch(&template, group, uid).await?;
            stand.ready.borrow_mut().push_back(worker);
            portion = portion.saturating_sub(1);
        }
        // The next one has another address layout.
        Ok(())
    }

    /// Returns `true` once half of the ready workers are gone: they are made in portions, so that most jobs have the
    /// processors to themselves. `false` when the template is to be given up.
    async fn wait_for_need(
        &self,
        stand: &Stand,
        template: &Template,
        closing: &mut watch::Receiver<bool>,
    ) -> Result<bool, PoolError> {
        let (enough, idle) = (self.config.pool.template_ready / 2, self.config.pool.template_idle);
        while stand.ready.borrow().len() > enough {
            tokio::select! {
                biased;
                () = closed(closing) => return Ok(false),
                () = stand.given_up.notified() => return Ok(false),
                () = template.exited() => {
                    return Err(WorkerError::from(TemplateError::Broken("it exited".to_owned())).into());
                }
                () = stand.taken.notified() => {}
                () = tokio::time::sleep_until((stand.used.get() + idle).into()) => {
                    if stand.used.get().elapsed() >= idle {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    async fn template(&self, artifact: &Artifact, uid: u32) -> Result<Template, PoolError> {
        let worker = self.make(&self.birth_of_any(Role::Template, Some(uid))).await?;
        Ok(Template::prepare(worker, artifact.fd()).await.map_err(WorkerError::from)?)
    }

    /// Forks a worker from a template.
    async fn branch(&self, template: &Template, group: u32, uid: u32) -> Result<Worker, PoolError> {
        self.forks.set(self.forks.get() + 1);
        let birth = Birth { with_module: true, ..self.birth_of_any(Role::Run, Some(uid)) };
        let (ours, theirs) = Ends::make(&birth.leaf, self.tree.as_ref())?;
        let forked = template.fork(theirs, &self.graveyard).await;
        if forked.is_err() {
            // It may have forked all the same, and not lived to tell.
            self.graveyard.suspect(group);
        }
        let child = forked.map_err(WorkerError::from)?;
        Ok(self.no_weaker(Worker::locked(&birth, ours, child, &self.zygote).await?)?)
    }

    /// A birth for whatever job may come, of that user if it is known whose.
    pub(super) fn birth_of_any(&self, role: Role, uid: Option<u32>) -> Birth {
        let need = Need {
            directories: &[],
            // Whose group it is that counts here; for the rest it is nobody's.
            caller: uid.map_or(Caller::NOBODY, |uid| Caller { uid, ..Caller::NOBODY }),
            memory_bytes: self.config.ceilings.memory_bytes,
            module: None,
            tenant: None,
        };
        self.birth(role, &need)
    }
}
