//! A module that stays loaded for the jobs of one tenant.
//!
//! Owns: loading it once, and a store, an instance and, where something may wait, a runtime for each job.
//! Never: keeps anything of a job: whatever was made for one is gone before its report is sent, but for the JavaScript
//! engine's memory, which is put back to what it began as, and belongs to a new instance, before the next order is looked at;
//! and but for what the last few scripts were and compiled to, see [`super::known`].

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use stockade_sys::artifact::LoadedArtifact;
use stockade_sys::epoch;
use stockade_wire::worker::{Ending, RunOrder, RunReport};
use wasmtime::{Engine, InstancePre};
use wasmtime_wasi::p2::bindings::CommandPre;

use super::entry::{self, Entry};
use super::known::Known;
use super::link::{choose_entry, command_may_be_entered, link_command, link_engine, link_module, open};
use super::prepared::Live;
use super::script::Script;
use super::stack::{Stack, at_once};
use super::{
    DEADLINE_MAX, Host, Interruption, Loaded, Program, Remains, Stdio, largest_memory_bytes, not_loaded, run,
    runtime, setup,
};
use crate::engine::{Staying, Warm};
use crate::grants::Grants;
use crate::jail::Sealed;

/// The module, linked.
pub(crate) struct Kept {
    held: Held,
    /// What every job's order must say.
    memory_limit_bytes: u64,
    memory_bytes_max: u64,
    largest_memory_bytes: u64,
    /// What the last script left.
    remains: Option<Remains>,
    /// What the next one finds: an engine that has run nothing.
    next: Option<Live>,
    /// The scripts that ran here, unless there is one that has them. With a job that could not be set up they are lost: no
    /// other comes after that one, see `supervisor/pool/tenancy.rs`.
    known: Option<Known>,
}

enum Held {
    Core {
        pre: InstancePre<Host>,
        stack: Stack,
        usual_entry: Option<Entry>,
    },
    Component(CommandPre<Host>),
    /// The JavaScript engine.
    Engine(InstancePre<Host>),
}

impl Held {
    fn link(warm: &Warm, order: &RunOrder, artifact: OwnedFd) -> Result<Self, Ending> {
        if order.script.is_some() {
            let Staying { engine, linker } = warm.staying();
            return Ok(Self::Engine(link_engine((engine, linker), artifact, None)?));
        }
        let variant = warm.variant(false);
        match open(variant, artifact)? {
            LoadedArtifact::Module(module) => {
                let stack = Stack::of(&module, warm.thread_stack());
                let usual_entry = entry::choose(&module, None, &[]).ok();
                Ok(Self::Core { pre: link_module(variant, &module)?, stack, usual_entry })
            }
            LoadedArtifact::Component(component) => Ok(Self::Component(link_command(variant, &component)?)),
        }
    }

    fn program(&self, order: &RunOrder, deadline: Instant) -> Result<Program, Ending> {
        match (self, &order.script) {
            (Self::Engine(pre), Some(script)) => Ok(Program::Script {
                engine: pre.clone(),
                script: Box::new(Script::new(order, script, deadline)),
                stack: Stack::Fiber,
            }),
            (Self::Engine(_), None) | (Self::Core { .. } | Self::Component(_), Some(_)) => {
                Err(Ending::SetupFailed("the job is not for what the worker that stays has".to_owned()))
            }
            (Self::Core { pre, stack, usual_entry }, None) => {
                let entry = match usual_entry {
                    Some(entry) if order.entry.is_none() && order.arguments.is_empty() => entry.clone(),
                    _ => choose_entry(pre.module(), order)?,
                };
                Ok(Program::Core { pre: pre.clone(), entry, stack: *stack })
            }
            (Self::Component(pre), None) => {
                command_may_be_entered(order)?;
                Ok(Program::Component(pre.clone()))
            }
        }
    }

    fn largest_memory_bytes(&self) -> u64 {
        largest_memory_bytes(match self {
            Self::Core { pre, .. } | Self::Engine(pre) => Some(pre.module().resources_required()),
            Self::Component(pre) => pre.instance_pre().component().resources_required(),
        })
    }
}

impl Kept {
    /// Loads and links `artifact` for jobs with the limits of `order`, without running any of it. Needs leave to make
    /// memory executable.
    ///
    /// # Errors
    /// With what ends the first job, and is to be the only one.
    pub(crate) fn load(warm: &Warm, order: &RunOrder, artifact: OwnedFd) -> Result<Self, Ending> {
        if order.limits.fuel.is_some() {
            return Err(Ending::SetupFailed("a module that counts fuel does not stay".to_owned()));
        }
        let held = Held::link(warm, order, artifact)?;
        let memory_bytes_max = order.limits.memory_bytes.min(warm.settings().memory_bytes_max);
        let largest_memory_bytes = held.largest_memory_bytes();
        if largest_memory_bytes > memory_bytes_max {
            return Err(Ending::MemoryRefused(largest_memory_bytes));
        }
        let memory_limit_bytes = order.limits.memory_bytes;
        Ok(Self {
            held,
            memory_limit_bytes,
            memory_bytes_max,
            largest_memory_bytes,
            remains: None,
            next: None,
            known: Some(Known::new(usize::try_from(warm.settings().scripts_bytes_max).unwrap_or(0))),
        })
    }

    /// The engine whose epoch is moved on to end its guests.
    pub(crate) fn engine(&self) -> &Engine {
        match &self.held {
            Held::Core { pre, .. } | Held::Engine(pre) => pre.module().engine(),
            Held::Component(pre) => pre.engine(),
        }
    }

    /// Runs one job that was ordered at `received`. Its deadline counts from then.
    pub(crate) fn run(
        &mut self,
        _sealed: &Sealed,
        order: &RunOrder,
        received: Instant,
        stdio: Stdio,
    ) -> RunReport {
        match self.loaded(order, received) {
            Ok(loaded) => {
                let (report, remains) = run(loaded, Interruption::Signals, (stdio, Grants::default()), order);
                self.remains = remains;
                report
            }
            Err(ending) => not_loaded(ending, order, received),
        }
    }

    /// Makes ready for the next order, after the report on the last: takes apart what a script left, and has an instance
    /// of the engine for the next one. Runs no guest code.
    pub(crate) fn renew(&mut self) {
        let Some(Remains { store, known }) = self.remains.take() else { return };
        // First whoever waits on this processor for the report: all of this was between that and its reader.
        std::thread::yield_now();
        drop(store);
        self.known = known;
        if let Held::Engine(pre) = &self.held {
            let made = Live::new(pre, Stack::Fiber, self.memory_bytes_max, self.largest_memory_bytes);
            // Without it the next script makes its own, or says why it cannot.
            self.next = at_once(made).flatten().map(|mut live| {
                live.look_up_exports();
                live
            });
        }
    }

    fn loaded(&mut self, order: &RunOrder, received: Instant) -> Result<Loaded, Ending> {
        if order.limits.fuel.is_some() || order.limits.memory_bytes != self.memory_limit_bytes {
            let message = "the job's limits are not those of the worker that stays";
            return Err(Ending::SetupFailed(message.to_owned()));
        }
        let wanted = Duration::from_micros(order.limits.deadline_us).min(DEADLINE_MAX);
        let deadline = received + wanted;
        let mut program = self.held.program(order, deadline)?;
        let runtime = program.waits().then(runtime).transpose().map_err(|error| setup(&error))?;
        epoch::arm(deadline.saturating_duration_since(Instant::now())).map_err(|error| setup(&error))?;
        if let Program::Script { script, .. } = &mut program {
            script.known = self.known.take();
        }
        Ok(Loaded {
            program,
            runtime,
            deadline,
            memory_bytes_max: self.memory_bytes_max,
            largest_memory_bytes: self.largest_memory_bytes,
            load: received.elapsed(),
            live: self.next.take(),
            stays: true,
            expendable: true,
        })
    }
}
