//! The engine as setting it up leaves it.
//!
//! Owns: setting the engine up, in an interpreter, and the module whose instances begin where that ended.
//! Never: leaves anything of this machine or this moment in the result: the engine that is set up finds no chance and no
//! time, and the same engine makes the same bytes.
//!
//! All that setting up changes is the engine's memory: the table is filled by the linker, and the one global that ever
//! changes is the stack's pointer, which is back where it was when a call returns. Both are looked at here.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use wasmi::{Engine, Instance, Linker, Memory, Module, Store, Val};

use crate::compile::{is_made_with, mark_made_with};
use crate::module::{self, Binary};

/// Exports that set the engine up, in the order in which they are called. The engine that is made has them no more.
const SET_UP: [&str; 2] = ["_initialize", "js_init"];

/// What the stack's pointer is exported as, for as long as the engine is set up.
const STACK_POINTER: &str = "stack_pointer";

/// Makes the module, unless it is there, beside `engine`.
pub(crate) fn take(engine: &Path, out: &Path) -> Result<PathBuf, String> {
    let bytes = fs::read(engine).map_err(|error| format!("{}: {error}", engine.display()))?;
    let mut hasher = DefaultHasher::new();
    (&bytes, include_str!("snapshot.rs"), include_str!("module.rs")).hash(&mut hasher);
    let (path, key) = (out.join("engine-set-up.wasm"), hasher.finish());
    if !is_made_with(&path, key) {
        let made = set_up(&bytes).map_err(|why| format!("the JavaScript engine cannot be set up: {why}"))?;
        fs::write(&path, made).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        mark_made_with(&path, key)?;
    }
    Ok(path)
}

fn set_up(engine: &[u8]) -> Result<Vec<u8>, String> {
    let binary = Binary::parse(engine)?;
    let [global] = binary.mutable_globals()?[..] else {
        return Err("it has other globals that change than the stack's pointer".to_owned());
    };
    let instrumented = binary.with_global_exported(STACK_POINTER, global)?;
    let mut running = Running::start(&instrumented)?;
    let stack_top = running.stack_pointer()?;
    for name in SET_UP {
        running.call(name)?;
    }
    if running.stack_pointer()? != stack_top {
        return Err("the stack's pointer is not back where it was".to_owned());
    }
    let mut memory = running.memory.data(&running.store).to_vec();
    // The stack lies below everything else, and nothing is on it.
    memory.get_mut(..stack_top).ok_or("the stack is not in its memory")?.fill(0);
    binary.with_memory(&memory, &SET_UP)
}

/// The engine in the interpreter.
struct Running {
    store: Store<()>,
    instance: Instance,
    memory: Memory,
}

impl Running {
    fn start(module: &[u8]) -> Result<Self, String> {
        let engine = Engine::default();
        let module = Module::new(&engine, module).map_err(|error| error.to_string())?;
        let mut store = Store::new(&engine, ());
        let mut linker = Linker::new(&engine);
        let name = module::HOST;
        let refused = || -> Result<i32, wasmi::Error> { Err(wasmi::Error::new("it asked for more than the time")) };
        linker
            .func_wrap(name, "call", move |_: u32, _: u32, _: u32, _: u32, _: u32| refused())
            .and_then(|linker| linker.func_wrap(name, "random", move |_: u32, _: u32| refused().map(drop)))
            .and_then(|linker| linker.func_wrap(name, "sleep", move |_: f64| refused().map(drop)))
            // The engine seeds a generator of its own with it, which no script ever sees.
            .and_then(|linker| linker.func_wrap(name, "clock", |_: u32| 0.0_f64))
            .map_err(|error| error.to_string())?;
        let instance =
            linker.instantiate_and_start(&mut store, &module).map_err(|error| error.to_string())?;
        let memory = instance.get_memory(&store, "memory").ok_or("it exports no memory")?;
        Ok(Self { store, instance, memory })
    }

    /// Calls one of [`SET_UP`]; what it returns, if anything, is 0 when it went well.
    fn call(&mut self, name: &str) -> Result<(), String> {
        let function = self.instance.get_func(&self.store, name).ok_or_else(|| format!("there is no {name}"))?;
        let mut results = vec![Val::I32(0); function.ty(&self.store).results().len()];
        function.call(&mut self.store, &[], &mut results).map_err(|error| format!("{name}: {error}"))?;
        match results.first() {
            None | Some(Val::I32(0)) => Ok(()),
            Some(status) => Err(format!("{name} ended with {status:?}")),
        }
    }

    fn stack_pointer(&self) -> Result<usize, String> {
        let global = self.instance.get_global(&self.store, STACK_POINTER);
        match global.map(|global| global.get(&self.store)) {
            Some(Val::I32(pointer)) => usize::try_from(pointer).map_err(|error| error.to_string()),
            other => Err(format!("the stack's pointer is {other:?}")),
        }
    }
}
