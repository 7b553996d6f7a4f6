//! A module that is loaded before there is a job for it.
//!
//! Owns: what a template makes ahead of its forks, and how one of them takes it over.
//! Never: runs guest code ahead of a job; holds anything of a job.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use stockade_sys::artifact::{LoadedArtifact, SealedArtifact};
use stockade_sys::epoch;
use stockade_wire::worker::{Ending, RunOrder, RunReport};
use tokio::runtime::Runtime;
use wasmtime::{Instance, InstancePre, Precompiled, Store};

use super::entry::{self, Entry};
use super::host::Streams;
use super::ledger::Ledger;
use super::stack::Stack;
use super::{
    DEADLINE_MAX, Host, Loaded, Program, choose_entry, largest_memory_bytes, not_loaded, runtime, setup,
};
use crate::engine::Warm;
use crate::grants::Grants;

/// A core module, linked, and an instance of it where that takes no guest code.
pub(crate) struct Prepared {
    pre: InstancePre<Host>,
    runtime: Runtime,
    memory_bytes_max: u64,
    largest_memory_bytes: u64,
    stack: Stack,
    /// What a job that names no entry and has no arguments gets: most do.
    usual_entry: Option<Entry>,
    live: Option<Live>,
}

/// An instance and its store.
pub(super) struct Live {
    store: Store<Host>,
    instance: Instance,
    /// Nothing of the host is ever seen from it.
    imports_nothing: bool,
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
        let runtime = runtime().map_err(|error| error.to_string())?;
        let stack = Stack::of(&module, warm.thread_has_room());
        let live = if largest_memory_bytes <= memory_bytes_max {
            runtime.block_on(Live::new(&pre, stack, memory_bytes_max, largest_memory_bytes))
        } else {
            None
        };
        epoch::install(module.engine()).map_err(|error| error.to_string())?;
        let usual_entry = entry::choose(&module, None, &[]).ok();
        Ok(Self { pre, runtime, memory_bytes_max, largest_memory_bytes, stack, usual_entry, live })
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
        let Self { pre, runtime, memory_bytes_max, largest_memory_bytes, stack, usual_entry, live } = self;
        if order.limits.fuel.is_some() {
            return Err(Ending::SetupFailed("a template's module does not count fuel".to_owned()));
        }
        let entry = match usual_entry {
            Some(entry) if order.entry.is_none() && order.arguments.is_empty() => entry,
            _ => choose_entry(pre.module(), order)?,
        };
        let memory_bytes_max = order.limits.memory_bytes.min(memory_bytes_max);
        if largest_memory_bytes > memory_bytes_max {
            return Err(Ending::MemoryRefused(largest_memory_bytes));
        }
        epoch::arm(deadline.saturating_duration_since(Instant::now())).map_err(|error| setup(&error))?;
        Ok(Loaded {
            engine: pre.module().engine().clone(),
            program: Program::Core { pre, entry, stack },
            runtime: Some(runtime),
            deadline,
            memory_bytes_max,
            largest_memory_bytes,
            load: received.elapsed(),
            live,
            stays: false,
        })
    }
}

impl Live {
    /// `None` when an instance cannot be had without running guest code, or at all: each job makes its own then, and
    /// is told what is wrong.
    async fn new(
        pre: &InstancePre<Host>,
        stack: Stack,
        memory_bytes_max: u64,
        largest_memory_bytes: u64,
    ) -> Option<Self> {
        let host = Host::of_nobody(Ledger::new(memory_bytes_max, largest_memory_bytes));
        let mut store = Store::new(pre.module().engine(), host);
        store.limiter(|host| &mut host.ledger);
        // The deadline is past before it begins: a start function, which is guest code, traps at its first step.
        store.set_epoch_deadline(0);
        store.epoch_deadline_trap();
        let instance = stack.instantiate(pre, &mut store).await.ok()?;
        store.data_mut().ledger.instantiated();
        let imports_nothing = pre.module().imports().len() == 0;
        Some(Self { store, instance, imports_nothing })
    }

    /// Everything around the instance becomes the job's.
    pub(super) fn adopt(
        self,
        order: &RunOrder,
        memory_bytes_max: u64,
        streams: Streams,
        grants: Grants,
    ) -> Result<(Store<Host>, Instance), Ending> {
        let Self { mut store, instance, imports_nothing } = self;
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
        Ok((store, instance))
    }
}
