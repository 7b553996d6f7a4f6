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
use std::ops::Range;
use std::path::{Path, PathBuf};

use wasmi::{Caller, Engine, Extern, Func, Instance, Linker, Memory, Module, Store, Val};

use crate::compile::{is_made_with, mark_made_with};
use crate::module::{self, Binary};
use crate::usual;

/// Exports that set the engine up, in the order in which they are called. The engine that is made has them no more.
const SET_UP: [&str; 2] = ["_initialize", "js_init"];

/// What the stack's pointer is exported as, for as long as the engine is set up.
const STACK_POINTER: &str = "stack_pointer";

/// Calls and turns of loops until the engine asks its host again: any number will do here.
const TURNS: u32 = 500;

/// Makes the module, and the list of what is written to in its memory, unless they are there, beside `engine`.
pub(crate) fn take(engine: &Path, out: &Path) -> Result<(PathBuf, PathBuf), String> {
    let bytes = fs::read(engine).map_err(|error| format!("{}: {error}", engine.display()))?;
    let mut hasher = DefaultHasher::new();
    let makers = [include_str!("snapshot.rs"), include_str!("module.rs"), include_str!("usual.rs")];
    (&bytes, makers).hash(&mut hasher);
    let (path, list, key) = (out.join("engine-set-up.wasm"), out.join("hot.rs"), hasher.finish());
    if !is_made_with(&path, key) || !is_made_with(&list, key) {
        let made = set_up(&bytes).map_err(|why| format!("the JavaScript engine cannot be set up: {why}"))?;
        let hot = usual::written_to(&made)
            .map_err(|why| format!("the JavaScript engine does not run a usual job: {why}"))?;
        for (file, bytes) in [(&path, made), (&list, hot.into_bytes())] {
            fs::write(file, bytes).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
            mark_made_with(file, key)?;
        }
    }
    Ok((path, list))
}

fn set_up(engine: &[u8]) -> Result<Vec<u8>, String> {
    let binary = Binary::parse(engine)?;
    let [global] = binary.mutable_globals()?[..] else {
        return Err("it has other globals that change than the stack's pointer".to_owned());
    };
    let instrumented = binary.with_global_exported(STACK_POINTER, global)?;
    let module = Module::new(&Engine::default(), &instrumented).map_err(|error| error.to_string())?;
    let mut running = Running::start(&module, Hosted::SetUp)?;
    let stack_top = running.stack_pointer()?;
    for name in SET_UP {
        running.call(name)?;
    }
    if running.stack_pointer()? != stack_top {
        return Err("the stack's pointer is not back where it was".to_owned());
    }
    // The stack lies below everything else, and nothing is on it.
    let stack = running.memory.data_mut(&mut running.store).get_mut(..stack_top);
    stack.ok_or("the stack is not in its memory")?.fill(0);
    binary.with_memory(running.memory.data(&running.store), &SET_UP)
}

/// What the engine's host lets it have.
pub(crate) enum Hosted {
    /// The time, which stands still.
    SetUp,
    /// Everything, and nothing comes of it: that memory is not kept. With what it asked for first, the operation before the
    /// request.
    Usual(Vec<u8>),
}

/// Notes what a job asks for, if it is the first.
fn note(caller: &mut Caller<'_, Hosted>, operation: u32, request: Range<usize>) {
    let memory = caller.get_export("memory").and_then(Extern::into_memory);
    let bytes = memory.and_then(|memory| memory.data(&*caller).get(request)).unwrap_or_default().to_vec();
    if let Hosted::Usual(asked) = caller.data_mut()
        && asked.is_empty()
    {
        asked.extend(operation.to_le_bytes());
        asked.extend(bytes);
    }
}

/// The engine in the interpreter.
pub(crate) struct Running {
    pub(crate) store: Store<Hosted>,
    instance: Instance,
    pub(crate) memory: Memory,
}

impl Running {
    pub(crate) fn start(module: &Module, hosted: Hosted) -> Result<Self, String> {
        let mut store = Store::new(module.engine(), hosted);
        let mut linker = Linker::new(module.engine());
        let name = module::HOST;
        let asked = |caller: &Caller<'_, Hosted>| match caller.data() {
            Hosted::SetUp => Err(wasmi::Error::new("it asked for more than the time")),
            Hosted::Usual(_) => Ok(()),
        };
        linker
            .func_wrap(
                name,
                "call",
                move |mut caller: Caller<'_, Hosted>,
                      operation: u32,
                      at: u32,
                      length: u32,
                      _: u32,
                      _: u32| {
                    asked(&caller)?;
                    note(&mut caller, operation, at as usize..at as usize + length as usize);
                    Ok(0)
                },
            )
            .and_then(|linker| {
                linker.func_wrap(name, "random", move |caller: Caller<'_, Hosted>, _: u32, _: u32| {
                    asked(&caller)
                })
            })
            .and_then(|linker| {
                linker.func_wrap(name, "sleep", move |caller: Caller<'_, Hosted>, _: f64| asked(&caller))
            })
            .and_then(|linker| {
                linker
                    .func_wrap(name, "poll", move |caller: Caller<'_, Hosted>| asked(&caller).map(|()| TURNS))
            })
            // The engine seeds a generator of its own with it, which no script ever sees.
            .and_then(|linker| linker.func_wrap(name, "clock", |_: u32| 0.0_f64))
            .map_err(|error| error.to_string())?;
        let instance = linker.instantiate_and_start(&mut store, module).map_err(|error| error.to_string())?;
        let memory = instance.get_memory(&store, "memory").ok_or("it exports no memory")?;
        Ok(Self { store, instance, memory })
    }

    pub(crate) fn function(&self, name: &str) -> Result<Func, String> {
        self.instance.get_func(&self.store, name).ok_or_else(|| format!("there is no {name}"))
    }

    /// Calls one of [`SET_UP`]; what it returns, if anything, is 0 when it went well.
    fn call(&mut self, name: &str) -> Result<(), String> {
        let function = self.function(name)?;
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
