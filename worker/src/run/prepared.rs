//! A module that is loaded before there is a job for it.
//!
//! Owns: what a template makes ahead of its forks, and how one of them takes it over.
//! Never: runs guest code ahead of a job, but for initialisers, and those without a [`Barred`]; holds anything of a job.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use stockade_sys::artifact::{LoadedArtifact, SealedArtifact};
use stockade_sys::solo::SingleThreaded;
use stockade_sys::{epoch, populate};
use stockade_wire::worker::{Ending, PrepareOrder, RunOrder, RunReport};
use tokio::runtime::Runtime;
use wasmtime::{Instance, InstancePre, Precompiled, Store};

use super::entry::{self, Entry};
use super::function;
use super::host::Streams;
use super::ledger::Ledger;
use super::link::{choose_entry, link_engine};
use super::script::{self, Script, Side};
use super::stack::{Stack, at_once};
use super::{DEADLINE_MAX, Host, Loaded, Program, largest_memory_bytes, not_loaded, runtime, setup};
use crate::engine::Warm;
use crate::grants::Grants;
use crate::jail::template::Barred;

/// Stack that a usual script uses, with the host's functions around it, bytes.
const STACK_BYTES: usize = 40 << 10;

/// A core module, linked, and an instance of it where that takes no guest code.
pub(crate) struct Prepared {
    pre: InstancePre<Host>,
    /// None where nothing waits.
    runtime: Option<Runtime>,
    memory_bytes_max: u64,
    largest_memory_bytes: u64,
    stack: Stack,
    /// It is the JavaScript engine.
    engine: Option<Pages>,
    /// What a job that names no entry and has no arguments gets: most do.
    usual_entry: Option<Entry>,
    live: Option<Live>,
}

/// Where the pages are that the JavaScript engine begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pages {
    /// In a file: a fork maps them.
    Mapped,
    /// In the template: a fork has them.
    Inherited,
}

/// An instance and its store.
pub(super) struct Live {
    store: Store<Host>,
    existing: Existing,
    /// Nothing of the host is ever seen from it.
    imports_nothing: bool,
}

/// An instance that is there before its job.
pub(super) struct Existing {
    pub(super) instance: Instance,
    /// It has run its initialiser.
    pub(super) initialised: bool,
    /// Of the JavaScript engine.
    pub(super) exports: Option<script::Exports>,
}

impl Prepared {
    /// Loads and links `artifact`, which must be a plain (unmetered) core module. Needs leave to make memory
    /// executable.
    ///
    /// # Errors
    /// With what is to be said about it.
    pub(crate) fn load(warm: &Warm, artifact: OwnedFd) -> Result<Self, String> {
        let variant = warm.variant(false);
        let artifact = SealedArtifact::from_fd(artifact).map_err(|error| error.to_string())?;
        if artifact.kind() != Precompiled::Module {
            return Err("components are loaded for each job".to_owned());
        }
        let LoadedArtifact::Module(module) =
            artifact.load(&variant.modules).map_err(|error| error.to_string())?
        else {
            return Err("components are loaded for each job".to_owned());
        };
        let pre = variant.core.instantiate_pre(&module).map_err(|error| format!("{error:#}"))?;
        let memory_bytes_max = warm.settings().memory_bytes_max;
        let largest_memory_bytes = largest_memory_bytes(Some(module.resources_required()));
        let runtime = Some(runtime().map_err(|error| error.to_string())?);
        let stack = Stack::of(&module, warm.thread_stack());
        epoch::install(module.engine()).map_err(|error| error.to_string())?;
        let usual_entry = entry::choose(&module, None, &[]).ok();
        let mut prepared = Self {
            pre,
            runtime,
            memory_bytes_max,
            largest_memory_bytes,
            stack,
            engine: None,
            usual_entry,
            live: None,
        };
        prepared.instantiate();
        Ok(prepared)
    }

    /// Loads and links `artifact`, which must be the JavaScript engine's. Needs leave to make memory executable. With proof
    /// that there is one thread, what it runs and begins with is put where this process's forks inherit it.
    ///
    /// # Errors
    /// With what is to be said about it.
    pub(crate) fn load_engine(
        warm: &Warm,
        artifact: OwnedFd,
        to_fork: Option<&SingleThreaded>,
    ) -> Result<Self, String> {
        let variant = warm.variant(false);
        let pre = link_engine((&variant.scripts, &variant.script), artifact, to_fork)
            .map_err(|ending| format!("{ending:?}"))?;
        let largest_memory_bytes = largest_memory_bytes(Some(pre.module().resources_required()));
        epoch::install(pre.module().engine()).map_err(|error| error.to_string())?;
        let mut prepared = Self {
            pre,
            runtime: None,
            memory_bytes_max: warm.settings().memory_bytes_max,
            largest_memory_bytes,
            stack: Stack::of_only_script(warm.thread_stack()),
            engine: Some(Pages::Mapped),
            usual_entry: None,
            live: None,
        };
        prepared.instantiate();
        if let Some(live) = &mut prepared.live {
            live.look_up_exports();
            let Live { store, existing, .. } = live;
            script::fill_table(store, existing.instance);
            if to_fork.is_some_and(|solo| script::take_pages(solo, store, existing.instance)) {
                prepared.engine = Some(Pages::Inherited);
            }
        }
        Ok(prepared)
    }

    /// In a fork that has no order yet: has the pages that its script is going to use, so that the job does not wait for
    /// them one by one. Only the JavaScript engine's are known, of a module that is nobody's. Before
    /// its own, last filter; what its template has on must allow it.
    pub(crate) fn populate(&mut self) {
        let Some(pages) = self.engine else { return };
        if self.stack == Stack::Thread {
            let _ = populate::stack(STACK_BYTES);
        }
        // What is not had now is had when it is used.
        if pages == Pages::Mapped {
            let _ = populate::for_reading(self.pre.module().text());
        }
        if let Some(Live { store, existing, .. }) = &mut self.live {
            // Both are written again for the job, which has their pages then.
            store.set_epoch_deadline(0);
            store.data_mut().script = Side::default();
            script::populate(store, existing.instance, pages == Pages::Mapped);
        }
    }

    fn instantiate(&mut self) {
        if self.largest_memory_bytes <= self.memory_bytes_max {
            let live = Live::new(&self.pre, self.stack, self.memory_bytes_max, self.largest_memory_bytes);
            // It never waits: a start function traps first.
            self.live = at_once(live).flatten();
        }
    }

    /// Runs the module's initialisers in an instance of their own, within the order's time and memory, and keeps that
    /// instance for the forks if `keep` says so of one that has called the host or has not. Otherwise everything is as if
    /// it had not been tried: the forks run the initialisers themselves.
    ///
    /// What is kept depends on nothing but the module's bytes: the guest was given no input, argument, variable or
    /// directory, and whatever could have told it more (clocks, random numbers) is the host's to tell.
    pub(crate) fn initialise(&mut self, _barred: &Barred<'_>, order: &PrepareOrder, keep: fn(bool) -> bool) {
        let memory_bytes_max = order.initialise_bytes.min(self.memory_bytes_max);
        if self.largest_memory_bytes > memory_bytes_max {
            return;
        }
        // The pool has room for one.
        self.live = None;
        let live = self.try_to_initialise(memory_bytes_max, Duration::from_micros(order.initialise_us));
        let disarmed = epoch::disarm();
        self.live = live.filter(|live| disarmed.is_ok() && keep(live.store.data().called));
        if self.live.is_none() {
            self.instantiate();
        }
    }

    /// `None` when the initialisers, or a start function before them, did not come to their end in time and memory.
    fn try_to_initialise(&self, memory_bytes_max: u64, within: Duration) -> Option<Live> {
        let (pre, stack, runtime) = (&self.pre, self.stack, self.runtime.as_ref()?);
        let mut store = Live::store(pre, memory_bytes_max, self.largest_memory_bytes);
        store.set_epoch_deadline(1);
        epoch::arm(within).ok()?;
        let run = async {
            let instance = stack.instantiate(pre, &mut store).await?;
            store.data_mut().ledger.instantiated();
            function::initialise(&mut store, stack, instance).await.map(|()| instance)
        };
        // A guest that computes is stopped by its epoch, one that waits by this.
        let instance = runtime.block_on(async { tokio::time::timeout(within, run).await });
        let instance = instance.ok()?.ok()?;
        // In a job with more memory it would not have been refused.
        if store.data().ledger.growth_refused() {
            return None;
        }
        Some(Live::of(store, Existing { instance, initialised: true, exports: None }, pre))
    }

    /// Whether it is the JavaScript engine.
    pub(crate) const fn is_engine(&self) -> bool {
        self.engine.is_some()
    }

    /// Whether the module says that it may be initialised before there is a job for it.
    pub(crate) fn has_initialiser(&self) -> bool {
        entry::has_initialiser(self.pre.module())
    }

    /// Whether the module exports a function of that name.
    pub(crate) fn exports_function(&self, name: &str) -> bool {
        entry::exports_function(self.pre.module(), name)
    }

    /// Whether there is an instance that has run its initialisers.
    pub(crate) fn is_initialised(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.existing.initialised)
    }

    /// Whether there is an instance.
    pub(crate) const fn is_live(&self) -> bool {
        self.live.is_some()
    }

    /// Takes it over for a job, in a fork. The deadline counts from this call, and is started.
    ///
    /// # Errors
    /// With the report that ends the job.
    pub(crate) fn adopt(self, order: &RunOrder) -> Result<Loaded, RunReport> {
        let received = Instant::now();
        let wanted = Duration::from_micros(order.limits.deadline_us).min(DEADLINE_MAX);
        self.fit(order, received, received + wanted).map_err(|ending| not_loaded(ending, order, received))
    }

    fn fit(self, order: &RunOrder, received: Instant, deadline: Instant) -> Result<Loaded, Ending> {
        let Self { pre, runtime, memory_bytes_max, largest_memory_bytes, stack, engine, usual_entry, live } =
            self;
        if order.limits.fuel.is_some() {
            return Err(Ending::SetupFailed("a template's module does not count fuel".to_owned()));
        }
        let program = match (&order.script, usual_entry) {
            (Some(script), _) if engine.is_some() => {
                Program::Script { engine: pre, script: Box::new(Script::new(order, script, deadline)), stack }
            }
            (None, Some(entry)) if order.entry.is_none() && order.arguments.is_empty() => {
                Program::Core { pre, entry, stack }
            }
            (None, _) if engine.is_none() => {
                let entry = choose_entry(pre.module(), order)?;
                Program::Core { pre, entry, stack }
            }
            (Some(_) | None, _) => {
                return Err(Ending::SetupFailed("the job is not for this template's module".to_owned()));
            }
        };
        let memory_bytes_max = order.limits.memory_bytes.min(memory_bytes_max);
        if largest_memory_bytes > memory_bytes_max {
            return Err(Ending::MemoryRefused(largest_memory_bytes));
        }
        // A job that may hold less than the initialisers took sees them fail, as it would without a template.
        let live = live.filter(|live| !live.existing.initialised || live.held_bytes() <= memory_bytes_max);
        epoch::arm(deadline.saturating_duration_since(Instant::now())).map_err(|error| setup(&error))?;
        Ok(Loaded {
            program,
            runtime,
            deadline,
            memory_bytes_max,
            largest_memory_bytes,
            load: received.elapsed(),
            live,
            stays: false,
            expendable: true,
        })
    }
}

impl Live {
    /// `None` when an instance cannot be had without running guest code, or at all: each job makes its own then, and
    /// is told what is wrong.
    pub(super) async fn new(
        pre: &InstancePre<Host>,
        stack: Stack,
        memory_bytes_max: u64,
        largest_memory_bytes: u64,
    ) -> Option<Self> {
        let mut store = Self::store(pre, memory_bytes_max, largest_memory_bytes);
        // The deadline is past before it begins: a start function, which is guest code, traps at its first step. The JavaScript
        // engine, which looks at no epoch, has none: its build refuses one.
        store.set_epoch_deadline(0);
        let instance = stack.instantiate(pre, &mut store).await.ok()?;
        store.data_mut().ledger.instantiated();
        Some(Self::of(store, Existing { instance, initialised: false, exports: None }, pre))
    }

    /// With nothing of a job behind it.
    fn store(pre: &InstancePre<Host>, memory_bytes_max: u64, largest_memory_bytes: u64) -> Store<Host> {
        let host = Host::of_nobody(Ledger::new(memory_bytes_max, largest_memory_bytes));
        let mut store = Store::new(pre.module().engine(), host);
        store.limiter(|host| &mut host.ledger);
        store.epoch_deadline_trap();
        store
    }

    fn of(store: Store<Host>, existing: Existing, pre: &InstancePre<Host>) -> Self {
        Self { store, existing, imports_nothing: pre.module().imports().len() == 0 }
    }

    /// Of the JavaScript engine. What is not there its job looks for, and is told.
    pub(super) fn look_up_exports(&mut self) {
        self.existing.exports = script::Exports::of(&mut self.store, self.existing.instance).ok();
    }

    fn held_bytes(&self) -> u64 {
        self.store.data().ledger.held_bytes()
    }

    /// The engine becomes a job's.
    pub(super) fn adopt_engine(
        self,
        memory_bytes_max: u64,
        side: Side,
    ) -> Result<(Store<Host>, Existing), Ending> {
        let Self { mut store, existing, .. } = self;
        let host = store.data_mut();
        let nobodys = std::mem::replace(&mut host.ledger, Ledger::new(0, 0));
        let held_bytes = nobodys.held_bytes();
        host.ledger = nobodys.with_limit(memory_bytes_max).ok_or(Ending::MemoryRefused(held_bytes))?;
        host.script = side;
        Ok((store, existing))
    }

    /// Everything around the instance becomes the job's.
    pub(super) fn adopt(
        self,
        order: &RunOrder,
        memory_bytes_max: u64,
        streams: Streams,
        grants: Grants,
    ) -> Result<(Store<Host>, Existing), Ending> {
        let Self { mut store, existing, imports_nothing } = self;
        let nobodys = std::mem::replace(&mut store.data_mut().ledger, Ledger::new(0, 0));
        let held_bytes = nobodys.held_bytes();
        let ledger = nobodys.with_limit(memory_bytes_max).ok_or(Ending::MemoryRefused(held_bytes))?;
        if imports_nothing {
            store.data_mut().ledger = ledger;
            // Open until the process ends: the ends of the pipes are not to be seen one by one.
            std::mem::forget(streams);
        } else {
            *store.data_mut() = Host::new(order, ledger, streams, grants).map_err(|error| setup(&error))?;
        }
        Ok((store, existing))
    }
}
