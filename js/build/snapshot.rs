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

use wasmi::{Caller, Engine, Instance, Linker, Memory, Module, Store, Val};

use crate::compile::{is_made_with, mark_made_with};
use crate::module::{self, Binary};

/// Exports that set the engine up, in the order in which they are called. The engine that is made has them no more.
const SET_UP: [&str; 2] = ["_initialize", "js_init"];

/// What the stack's pointer is exported as, for as long as the engine is set up.
const STACK_POINTER: &str = "stack_pointer";

/// A job that does a little of what most do, to see what is written to.
const USUAL: &str = "const lines = input.lines.filter((line) => line.n > 0).map(({ n, sku }) => ({ sku: sku.trim().toUpperCase(), \
    n: n * 2, at: new Date(0).toISOString() })); console.log(lines.length); ({ lines, net: Math.floor(lines.reduce((sum, \
    line) => sum + line.n, 0) * 1.19), text: JSON.stringify(Object.keys(lines[0])).replace(/k+/g, 'q') })";

/// Its input, before and after as many lines as follow.
const USUAL_INPUT: (&str, &str, usize) = (r#"{"lines":["#, r#"{"sku":" part ","n":-1}]}"#, 16);
const USUAL_LINE: &str = r#"{"sku":" a-part ","n":12},"#;

/// Bytes in which is told what is written to.
const HOT_PAGE_BYTES: usize = 4 << 10;

/// Makes the module, and the list of what is written to in its memory, unless they are there, beside `engine`.
pub(crate) fn take(engine: &Path, out: &Path) -> Result<(PathBuf, PathBuf), String> {
    let bytes = fs::read(engine).map_err(|error| format!("{}: {error}", engine.display()))?;
    let mut hasher = DefaultHasher::new();
    (&bytes, include_str!("snapshot.rs"), include_str!("module.rs")).hash(&mut hasher);
    let (path, list, key) = (out.join("engine-set-up.wasm"), out.join("hot.rs"), hasher.finish());
    if !is_made_with(&path, key) || !is_made_with(&list, key) {
        let (made, hot) =
            set_up(&bytes).map_err(|why| format!("the JavaScript engine cannot be set up: {why}"))?;
        for (file, bytes) in [(&path, made), (&list, hot.into_bytes())] {
            fs::write(file, bytes).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
            mark_made_with(file, key)?;
        }
    }
    Ok((path, list))
}

fn set_up(engine: &[u8]) -> Result<(Vec<u8>, String), String> {
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
    // The stack lies below everything else, and nothing is on it.
    let stack = running.memory.data_mut(&mut running.store).get_mut(..stack_top);
    stack.ok_or("the stack is not in its memory")?.fill(0);
    let memory = running.memory.data(&running.store).to_vec();
    running.run_usual()?;
    let hot = changed(&memory, running.memory.data(&running.store));
    Ok((binary.with_memory(&memory, &SET_UP)?, hot))
}

/// The ranges of pages that differ, as Rust. A page between two of them costs more than another range: it is copied.
fn changed(before: &[u8], after: &[u8]) -> String {
    let mut ranges: Vec<std::ops::Range<usize>> = Vec::new();
    let pages = before.chunks(HOT_PAGE_BYTES).zip(after.chunks(HOT_PAGE_BYTES)).enumerate();
    for (page, _) in pages.filter(|(_, (before, after))| before != after) {
        match ranges.last_mut() {
            Some(range) if page == range.end => range.end = page + 1,
            _ => ranges.push(page..page + 1),
        }
    }
    let line = |range: &std::ops::Range<usize>| {
        format!("({}, {}),", range.start * HOT_PAGE_BYTES, range.len() * HOT_PAGE_BYTES)
    };
    format!("&[{}]\n", ranges.iter().map(line).collect::<String>())
}

/// What the engine's host lets it have.
enum Hosted {
    /// The time, which stands still.
    SetUp,
    /// Everything, and nothing comes of it: that job's memory is not kept.
    Usual,
}

/// The engine in the interpreter.
struct Running {
    store: Store<Hosted>,
    instance: Instance,
    memory: Memory,
}

impl Running {
    fn start(module: &[u8]) -> Result<Self, String> {
        let engine = Engine::default();
        let module = Module::new(&engine, module).map_err(|error| error.to_string())?;
        let mut store = Store::new(&engine, Hosted::SetUp);
        let mut linker = Linker::new(&engine);
        let name = module::HOST;
        let asked = |caller: Caller<'_, Hosted>| match caller.data() {
            Hosted::SetUp => Err(wasmi::Error::new("it asked for more than the time")),
            Hosted::Usual => Ok(0),
        };
        linker
            .func_wrap(
                name,
                "call",
                move |caller: Caller<'_, Hosted>, _: u32, _: u32, _: u32, _: u32, _: u32| asked(caller),
            )
            .and_then(|linker| {
                linker.func_wrap(name, "random", move |caller: Caller<'_, Hosted>, _: u32, _: u32| {
                    asked(caller).map(drop)
                })
            })
            .and_then(|linker| {
                linker.func_wrap(name, "sleep", move |caller: Caller<'_, Hosted>, _: f64| {
                    asked(caller).map(drop)
                })
            })
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
        let function =
            self.instance.get_func(&self.store, name).ok_or_else(|| format!("there is no {name}"))?;
        let mut results = vec![Val::I32(0); function.ty(&self.store).results().len()];
        function.call(&mut self.store, &[], &mut results).map_err(|error| format!("{name}: {error}"))?;
        match results.first() {
            None | Some(Val::I32(0)) => Ok(()),
            Some(status) => Err(format!("{name} ended with {status:?}")),
        }
    }

    /// Runs [`USUAL`]. Must be the last that is done with it.
    fn run_usual(&mut self) -> Result<(), String> {
        *self.store.data_mut() = Hosted::Usual;
        let (before, after, lines) = USUAL_INPUT;
        let input = [before, &USUAL_LINE.repeat(lines), after].concat();
        let version = self.asked("js_abi", &[])?;
        let parts = ["usual.js", USUAL, "", &input, "job\0usual\0tenant\0usual\0", ""];
        let lengths = parts.iter().map(|part| u32::try_from(part.len()).unwrap_or(u32::MAX));
        let mut request: Vec<u8> =
            [version, 0].into_iter().chain(lengths).flat_map(u32::to_le_bytes).collect();
        for part in parts {
            request.extend(part.as_bytes());
            request.push(0);
        }
        let length = u32::try_from(request.len()).map_err(|error| error.to_string())?;
        let address = self.asked("js_reserve", &[length])?;
        let written = self.memory.write(&mut self.store, address as usize, &request);
        written.map_err(|error| error.to_string())?;
        let reply = self.asked("js_run", &[address, length])? as usize;
        let ending = self.memory.data(&self.store).get(reply..).and_then(|reply| reply.first_chunk::<4>());
        if ending != Some(&[0; 4]) {
            return Err(format!("a usual job ended with {ending:?}"));
        }
        Ok(())
    }

    /// Calls a function of numbers that returns one.
    fn asked(&mut self, name: &str, numbers: &[u32]) -> Result<u32, String> {
        let function =
            self.instance.get_func(&self.store, name).ok_or_else(|| format!("there is no {name}"))?;
        let numbers: Vec<Val> = numbers.iter().map(|number| Val::I32(number.cast_signed())).collect();
        let mut result = [Val::I32(0)];
        function.call(&mut self.store, &numbers, &mut result).map_err(|error| format!("{name}: {error}"))?;
        match result {
            [Val::I32(number)] => Ok(number.cast_unsigned()),
            other => Err(format!("{name} returned {other:?}")),
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
