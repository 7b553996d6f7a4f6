//! From an artifact to a program.
//!
//! Owns: loading an artifact with the engine it was made for, resolving its imports and its entry.
//! Never: instantiates, runs any of it.

use std::os::fd::OwnedFd;
use std::time::Instant;

use stockade_sys::artifact::{ArtifactError, LoadedArtifact, SealedArtifact};
use stockade_sys::solo::SingleThreaded;
use stockade_wire::worker::{Ending, LinkFault, RunOrder};
use wasmtime::component::Component;
use wasmtime::{Engine, InstancePre, Linker, Module, Precompiled};
use wasmtime_wasi::p2::bindings::CommandPre;

use super::ending::{self, guest_text};
use super::entry::{self, Entry, NoEntry};
use super::script::Script;
use super::stack::Stack;
use super::{COMMAND_ENTRIES, Host, Program, setup};
use crate::engine::{Variant, Warm};

pub(super) fn link(
    warm: &Warm,
    order: &RunOrder,
    artifact: OwnedFd,
    deadline: Instant,
) -> Result<Program, Ending> {
    let variant = warm.variant(order.limits.fuel.is_some());
    if let Some(script) = &order.script {
        let engine = link_engine((&variant.scripts, &variant.script), artifact, None)?;
        let script = Box::new(Script::new(order, script, deadline));
        // A thread of the developer's mode, which comes here too, has no room for the engine's stack.
        return Ok(Program::Script { engine, script, stack: Stack::Fiber });
    }
    match open(variant, artifact)? {
        LoadedArtifact::Module(module) => {
            let (entry, stack) = (choose_entry(&module, order)?, Stack::of(&module, warm.thread_stack()));
            Ok(Program::Core { pre: link_module(variant, &module)?, entry, stack })
        }
        LoadedArtifact::Component(component) => {
            command_may_be_entered(order)?;
            Ok(Program::Component(link_command(variant, &component)?))
        }
    }
}

pub(super) fn open(variant: &Variant, artifact: OwnedFd) -> Result<LoadedArtifact, Ending> {
    let artifact = SealedArtifact::from_fd(artifact).map_err(|error| setup(&error))?;
    let engine = match artifact.kind() {
        Precompiled::Module => &variant.modules,
        Precompiled::Component => &variant.components,
    };
    artifact.load(engine).map_err(|error| match error {
        ArtifactError::Load(error) if ending::beyond_the_pool(&error) => {
            Ending::Unlinkable(LinkFault::TooLarge, guest_text(&format!("{error:#}")))
        }
        error => setup(&error),
    })
}

/// The JavaScript engine, whose artifact this is: our own module, however it came here.
///
/// With proof that there is one thread, it is loaded for the forks that are to come.
pub(super) fn link_engine(
    (engine, linker): (&Engine, &Linker<Host>),
    artifact: OwnedFd,
    to_fork: Option<&SingleThreaded>,
) -> Result<InstancePre<Host>, Ending> {
    let artifact = SealedArtifact::from_fd(artifact).map_err(|error| setup(&error))?;
    let loaded = match to_fork {
        Some(solo) => artifact.load_to_fork(solo, engine),
        None => artifact.load(engine),
    };
    match loaded.map_err(|error| setup(&error))? {
        LoadedArtifact::Module(module) => {
            linker.instantiate_pre(&module).map_err(|error| unknown_import(&error))
        }
        LoadedArtifact::Component(_) => {
            Err(Ending::SetupFailed("the JavaScript engine is no component".to_owned()))
        }
    }
}

pub(super) fn choose_entry(module: &Module, order: &RunOrder) -> Result<Entry, Ending> {
    entry::choose(module, order.entry.as_deref(), &order.arguments)
        .map_err(|NoEntry { fault, message }| Ending::Unlinkable(fault, guest_text(&message)))
}

pub(super) fn link_module(variant: &Variant, module: &Module) -> Result<InstancePre<Host>, Ending> {
    variant.core.instantiate_pre(module).map_err(|error| unknown_import(&error))
}

pub(super) fn command_may_be_entered(order: &RunOrder) -> Result<(), Ending> {
    match &order.entry {
        Some(wanted) if !COMMAND_ENTRIES.contains(&wanted.as_str()) => {
            let message = format!("a component is entered by wasi:cli/run, not by {wanted:?}");
            Err(Ending::Unlinkable(LinkFault::NoEntry, guest_text(&message)))
        }
        Some(_) | None => Ok(()),
    }
}

pub(super) fn link_command(variant: &Variant, component: &Component) -> Result<CommandPre<Host>, Ending> {
    let pre = variant.component.instantiate_pre(component).map_err(|error| unknown_import(&error))?;
    CommandPre::new(pre).map_err(|error| {
        let message = format!("the component does not export wasi:cli/run: {error:#}");
        Ending::Unlinkable(LinkFault::NoEntry, guest_text(&message))
    })
}

fn unknown_import(error: &wasmtime::Error) -> Ending {
    Ending::Unlinkable(LinkFault::UnknownImport, guest_text(&format!("{error:#}")))
}
