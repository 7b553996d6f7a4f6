//! A script with nothing around it but its engine.
//!
//! Owns: the engine's machine code, an instance of the engine, one job in it that came before.
//! Never: lets a script have anything: whatever the engine asks its host for is nothing.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use stockade_js::ENGINE_WASM;
use stockade_js::abi::{export, import};
use stockade_js::door::{self, Call};
use stockade_js::reply::{self, Reply};
use stockade_js::request::{Compiled, Context, Form, Request};
use stockade_sys::artifact::{LoadedArtifact, SealedArtifact};
use stockade_sys::solo::SingleThreaded;
use stockade_sys::{memfd, own_pages, populate};
use wasmtime::{Caller, Engine, Extern, Linker, Memory, Module, Store, TypedFunc};

use crate::jobs::Job;

/// Stack that the job uses, bytes: as much as a template's fork has ahead.
const STACK_BYTES: usize = 40 << 10;

/// How often the engine asks whether it is to go on, which it always is: as often as a quick script of the product's.
const TURNS: u32 = 500;

/// The engine compiled, in a sealed file in memory: for [`Ready::load`] in whatever process has it.
///
/// # Errors
/// When it cannot be compiled, or there is no such file to be had.
pub fn compiled() -> io::Result<File> {
    let artifact = Engine::default().precompile_module(ENGINE_WASM).map_err(io::Error::other)?;
    memfd::sealed("bench-engine", &artifact).map(File::from)
}

/// An instance of the engine that has run nothing, and the job that it is for: [`Job::Transform`].
pub struct Ready {
    store: Store<()>,
    memory: Memory,
    reserve: TypedFunc<u32, u32>,
    run: TypedFunc<(u32, u32), u32>,
    source: String,
    /// What it compiles to: it came before, as the product's has.
    form: Vec<u8>,
    input: String,
    output: Vec<u8>,
}

impl Ready {
    /// From what [`compiled`] made, on pages that this process's forks inherit, as a template's are.
    ///
    /// # Errors
    /// When it is something else, or there is too little memory.
    pub fn load(solo: &SingleThreaded, compiled: OwnedFd) -> io::Result<Self> {
        let engine = Engine::default();
        // The signal stack of the thread, which each fork would map for itself.
        Engine::tls_eager_initialize();
        let sealed = SealedArtifact::from_fd(compiled).map_err(io::Error::other)?;
        match sealed.load_to_fork(solo, &engine).map_err(io::Error::other)? {
            LoadedArtifact::Module(module) => Self::of(solo, &engine, &module).map_err(io::Error::other),
            LoadedArtifact::Component(_) => Err(io::Error::other("the engine is a component")),
        }
    }

    fn of(solo: &SingleThreaded, engine: &Engine, module: &Module) -> wasmtime::Result<Self> {
        let (job, form) = (Job::Transform, form(engine, module)?);
        let (mut store, mut linker) = (Store::new(engine, ()), Linker::new(engine));
        linker.func_wrap(import::MODULE, import::POLL, || TURNS)?;
        linker.define_unknown_imports_as_default_values(&mut store, module)?;
        let instance = linker.instantiate(&mut store, module)?;
        let memory = instance
            .get_memory(&mut store, export::MEMORY)
            .ok_or_else(|| wasmtime::Error::msg("the engine has no memory"))?;
        // Wasmtime finds each of its functions when it is first asked for.
        if let Some(table) = instance.get_table(&mut store, export::TABLE) {
            for index in 0..table.size(&store) {
                let _ = table.get(&mut store, index);
            }
        }
        own_pages::in_place(solo, memory.data_mut(&mut store))?;
        Ok(Self {
            memory,
            reserve: instance.get_typed_func(&mut store, export::RESERVE)?,
            run: instance.get_typed_func(&mut store, export::RUN)?,
            source: job.module(0),
            form,
            input: String::from_utf8(job.input())?,
            output: job.output(),
            store,
        })
    }

    /// Runs the job, once; whether what came out is right.
    ///
    /// # Errors
    /// When the engine does not take it, or traps.
    pub fn run(&mut self) -> wasmtime::Result<bool> {
        let request = request((&self.source, &self.input), Compiled::Kept(&self.form));
        let context = request.context_text()?;
        let encoded = request.encoded(&context)?;
        let (length, store) = (encoded.bytes(), &mut self.store);
        let address = self.reserve.call(&mut *store, length)?;
        let (start, bytes) = (address as usize, length as usize);
        let room = self.memory.data_mut(&mut *store).get_mut(start..start.saturating_add(bytes));
        encoded.write(room.unwrap_or_default())?;
        let replied = self.run.call(&mut *store, (address, length))?;
        let reply = reply::read(self.memory.data(&*store), replied)?;
        Ok(matches!(reply, Reply::Output(text) if text.as_bytes() == self.output))
    }

    /// Has the pages that it is going to write to, as a template's fork has.
    pub fn populate(&mut self) {
        let _ = populate::stack(STACK_BYTES);
        let bytes = self.memory.data_mut(&mut self.store);
        for (start, length) in stockade_js::HOT {
            let range = *start as usize..start.saturating_add(*length) as usize;
            let _ = populate::for_writing(bytes.get_mut(range).unwrap_or_default());
        }
    }
}

fn request<'a>((source, input): (&'a str, &'a str), compiled: Compiled<'a>) -> Request<'a> {
    Request {
        name: "script.js",
        source,
        form: Form::Script,
        input,
        context: Context { job: "floor", tenant: "bench", ..Context::default() },
        debug: false,
        profile: false,
        compiled,
    }
}

/// What the job's source compiles to, of an instance of its own.
fn form(engine: &Engine, module: &Module) -> wasmtime::Result<Vec<u8>> {
    let (mut store, mut linker) = (Store::new(engine, Vec::new()), Linker::new(engine));
    linker.func_wrap(import::MODULE, import::CALL, told)?;
    linker.func_wrap(import::MODULE, import::POLL, || TURNS)?;
    linker.define_unknown_imports_as_default_values(&mut store, module)?;
    let instance = linker.instantiate(&mut store, module)?;
    let (source, input) = (Job::Transform.module(0), String::from_utf8(Job::Transform.input())?);
    let request = request((&source, &input), Compiled::Wanted);
    let context = request.context_text()?;
    let encoded = request.encoded(&context)?;
    let reserve = instance.get_typed_func::<u32, u32>(&mut store, export::RESERVE)?;
    let run = instance.get_typed_func::<(u32, u32), u32>(&mut store, export::RUN)?;
    let (length, address) = (encoded.bytes(), reserve.call(&mut store, encoded.bytes())?);
    let memory = instance.get_memory(&mut store, export::MEMORY);
    let bytes = memory.map(|memory| memory.data_mut(&mut store)).unwrap_or_default();
    encoded.write(
        bytes
            .get_mut(address as usize..)
            .and_then(|room| room.get_mut(..length as usize))
            .unwrap_or_default(),
    )?;
    run.call(&mut store, (address, length))?;
    Some(store.into_data())
        .filter(|form| !form.is_empty())
        .ok_or_else(|| wasmtime::Error::msg("it told no form"))
}

/// Keeps what the engine tells of a source's form.
fn told(mut caller: Caller<'_, Vec<u8>>, operation: u32, at: u32, length: u32, _: u32, _: u32) -> i32 {
    let Some(Extern::Memory(memory)) = caller.get_export(export::MEMORY) else { return door::REFUSED };
    let (bytes, form) = memory.data_and_store_mut(&mut caller);
    let asked = bytes.get(at as usize..).and_then(|rest| rest.get(..length as usize)).unwrap_or_default();
    match door::read(operation, asked) {
        Ok(Call::Compiled(compiled)) => {
            form.extend_from_slice(compiled);
            0
        }
        Ok(_) | Err(_) => door::REFUSED,
    }
}
