//! A host for one engine: what a worker is to it, without the jail.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use stockade_js::abi::{self, export, import};
use stockade_js::door::{self, Call, Level, Phase};
use stockade_js::profile::{CpuProfile, Looks};
use stockade_js::reply::{self, Failure, Fault, Reply};
use stockade_js::request::{Compiled, Context, Form, Request};
use wasmtime::{
    Caller, Config, Engine, Extern, Instance, Linker, Memory, Module, ResourceLimiter, Store, Trap,
};

/// Calls and turns of loops until a script asks again whether its time is over.
const TURNS: u32 = 500;

/// Longest that a script takes here which does not ask: it would never end.
const HUNG: Duration = Duration::from_secs(300);

/// A Tuesday.
pub(crate) const WALL_US: f64 = 1.8e15;

/// What came of a script.
pub(crate) struct Outcome {
    pub(crate) end: End,
    pub(crate) log: Vec<(Level, String)>,
    /// Phases it was told of, and what the engine held then, bytes.
    pub(crate) phases: Vec<(Phase, u32)>,
    pub(crate) growth_refused: bool,
    /// How long it slept, which took no time.
    pub(crate) slept_ms: f64,
    pub(crate) profile: CpuProfile,
    /// What the source compiled to, of a request that asked.
    pub(crate) compiled: Option<Vec<u8>>,
}

#[derive(Debug, PartialEq)]
pub(crate) enum End {
    Output(String),
    Failed(Failure),
    Trapped(Trap),
}

impl Outcome {
    #[track_caller]
    pub(crate) fn output(&self) -> &str {
        match &self.end {
            End::Output(text) => text,
            other => panic!("no output: {other:?}; log: {:?}", self.log),
        }
    }

    #[track_caller]
    pub(crate) fn failure(&self) -> &Failure {
        match &self.end {
            End::Failed(failure) => failure,
            other => panic!("no failure: {other:?}; log: {:?}", self.log),
        }
    }

    #[track_caller]
    pub(crate) fn fault(&self) -> Fault {
        self.failure().fault
    }

    pub(crate) fn lines(&self) -> Vec<&str> {
        self.log.iter().map(|(_, line)| line.as_str()).collect()
    }
}

/// A job to be.
pub(crate) struct Job<'a> {
    pub(crate) request: Request<'a>,
    pub(crate) memory_bytes_max: usize,
    pub(crate) deadline: Duration,
    pub(crate) environment: Vec<(String, String)>,
}

impl<'a> Job<'a> {
    pub(crate) fn new(source: &'a str, form: Form<'a>) -> Self {
        let context = Context { job: "J", request: Some("R"), tenant: "T", ..Context::default() };
        let request = Request {
            name: "script.js",
            source,
            form,
            input: "",
            context,
            debug: false,
            profile: false,
            compiled: Compiled::No,
        };
        Self {
            request,
            memory_bytes_max: 64 << 20,
            deadline: Duration::from_secs(60),
            environment: Vec::new(),
        }
    }

    pub(crate) fn input(mut self, input: &'a str) -> Self {
        self.request.input = input;
        self
    }

    pub(crate) fn memory(mut self, bytes: usize) -> Self {
        self.memory_bytes_max = bytes;
        self
    }

    pub(crate) fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// On a thread with as much stack as a guest may use, and some for the host.
    pub(crate) fn run(self) -> Outcome {
        let (_done, end) = std::sync::mpsc::channel::<()>();
        let about = format!("{:.200}", self.request.source);
        // What does not ask cannot be ended but with all tests.
        std::thread::spawn(move || {
            if end.recv_timeout(HUNG) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                eprintln!("neither ended nor asked within {HUNG:?}: {about}");
                std::process::abort();
            }
        });
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .stack_size(abi::WASM_STACK_BYTES + (4 << 20))
                .spawn_scoped(scope, || self.run_here())
                .unwrap()
                .join()
                .unwrap()
        })
    }

    fn run_here(self) -> Outcome {
        let mut engine = Live::new(self.memory_bytes_max);
        engine.store.data_mut().environment = self.environment;
        engine.store.data_mut().deadline = Some(Instant::now() + self.deadline);
        let end = engine.run(&self.request);
        let host = engine.store.into_data();
        Outcome {
            end,
            log: host.log,
            phases: host.phases,
            growth_refused: host.growth_refused,
            slept_ms: host.slept_us / 1000.0,
            compiled: host.compiled,
            profile: host.looks.profile(host.began.map_or(Duration::ZERO, |began| began.elapsed())),
        }
    }
}

pub(crate) fn script(source: &str) -> Outcome {
    Job::new(source, Form::Script).run()
}

pub(crate) fn module(source: &str, entry: &str, input: &str) -> Outcome {
    Job::new(source, Form::Module { entry }).input(input).run()
}

/// Runs `expression` and gives what it comes to, as JSON.
#[track_caller]
pub(crate) fn value(expression: &str) -> String {
    script(expression).output().to_owned()
}

#[derive(Default)]
struct Host {
    memory_bytes_max: usize,
    growth_refused: bool,
    deadline: Option<Instant>,
    environment: Vec<(String, String)>,
    log: Vec<(Level, String)>,
    phases: Vec<(Phase, u32)>,
    reply: Vec<u8>,
    looks: Looks,
    began: Option<Instant>,
    slept_us: f64,
    chance: u64,
    compiled: Option<Vec<u8>>,
}

impl ResourceLimiter for Host {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let fits = desired <= self.memory_bytes_max;
        self.growth_refused |= !fits;
        Ok(fits)
    }

    fn table_growing(&mut self, _: usize, _: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(true)
    }
}

/// An engine before its job.
struct Live {
    store: Store<Host>,
    instance: Instance,
    memory: Memory,
}

impl Live {
    fn new(memory_bytes_max: usize) -> Self {
        let (engine, module) = compiled();
        let mut store = Store::new(engine, Host { memory_bytes_max, ..Host::default() });
        store.limiter(|host| host);
        let instance = linker(engine).instantiate(&mut store, module).unwrap();
        let memory = instance.get_memory(&mut store, export::MEMORY).unwrap();
        let mut live = Self { store, instance, memory };
        assert_eq!(live.call::<(), u32>(export::ABI, ()).unwrap(), abi::VERSION);
        live
    }

    fn call<A: wasmtime::WasmParams, R: wasmtime::WasmResults>(
        &mut self,
        name: &str,
        arguments: A,
    ) -> wasmtime::Result<R> {
        let function = self.instance.get_typed_func::<A, R>(&mut self.store, name).unwrap();
        function.call(&mut self.store, arguments)
    }

    fn run(&mut self, request: &Request<'_>) -> End {
        let context = request.context_text().unwrap();
        let encoded = request.encoded(&context).unwrap();
        let length = encoded.bytes();
        let address: u32 = self.call(export::RESERVE, length).unwrap();
        assert_ne!(address, 0, "no room for {length} bytes");
        let room = &mut self.memory.data_mut(&mut self.store)[address as usize..][..length as usize];
        encoded.write(room).unwrap();
        let replied = match self.call::<(u32, u32), u32>(export::RUN, (address, length)) {
            Ok(replied) => replied,
            Err(error) => return End::Trapped(*error.downcast_ref::<Trap>().expect("a trap")),
        };
        match reply::read(self.memory.data(&self.store), replied).unwrap() {
            Reply::Output(text) => End::Output(text.to_owned()),
            Reply::Failure(failure) => End::Failed(*failure),
        }
    }
}

/// Compiled once, for all tests of the process.
fn compiled() -> &'static (Engine, Module) {
    static COMPILED: OnceLock<(Engine, Module)> = OnceLock::new();
    COMPILED.get_or_init(|| {
        let mut config = Config::new();
        // Without epochs, as where the process ends with a script that does not: what ends one here is what it asks.
        config.max_wasm_stack(abi::WASM_STACK_BYTES).async_stack_size(abi::WASM_STACK_BYTES + (2 << 20));
        let engine = Engine::new(&config).unwrap();
        let module = Module::new(&engine, stockade_js::ENGINE_WASM).unwrap();
        (engine, module)
    })
}

pub(crate) fn imports() -> Vec<String> {
    compiled().1.imports().map(|import| format!("{}.{}", import.module(), import.name())).collect()
}

fn linker(engine: &Engine) -> Linker<Host> {
    let mut linker = Linker::new(engine);
    linker.func_wrap(import::MODULE, import::CALL, call).unwrap();
    linker
        .func_wrap(import::MODULE, import::RANDOM, |mut caller: Caller<'_, Host>, start: u32, length: u32| {
            let (memory, host) = memory(&mut caller);
            for byte in &mut memory[start as usize..][..length as usize] {
                host.chance = host
                    .chance
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                *byte = host.chance.to_le_bytes()[7];
            }
        })
        .unwrap();
    linker
        .func_wrap(import::MODULE, import::CLOCK, |caller: Caller<'_, Host>, clock: u32| {
            let host = caller.data();
            let since = if clock == abi::CLOCK_WALL { WALL_US } else { 1e6 };
            // Time stands still, but for who is looked at.
            let passed = host.began.map_or(0.0, |began| began.elapsed().as_secs_f64() * 1e6);
            since + host.slept_us + passed
        })
        .unwrap();
    linker
        .func_wrap(
            import::MODULE,
            import::SLEEP,
            |mut caller: Caller<'_, Host>, ms: f64| -> wasmtime::Result<()> {
                caller.data_mut().slept_us += ms * 1000.0;
                look(&caller)
            },
        )
        .unwrap();
    linker
        .func_wrap(import::MODULE, import::POLL, |caller: Caller<'_, Host>| look(&caller).map(|()| TURNS))
        .unwrap();
    linker
}

/// Whether a script may go on.
fn look(caller: &Caller<'_, Host>) -> wasmtime::Result<()> {
    match caller.data().deadline {
        Some(deadline) if Instant::now() >= deadline => Err(Trap::Interrupt.into()),
        _ => Ok(()),
    }
}

fn memory<'c>(caller: &'c mut Caller<'_, Host>) -> (&'c mut [u8], &'c mut Host) {
    let Some(Extern::Memory(memory)) = caller.get_export(export::MEMORY) else { panic!("no memory") };
    memory.data_and_store_mut(caller)
}

fn call(
    mut caller: Caller<'_, Host>,
    operation: u32,
    request: u32,
    request_bytes: u32,
    reply: u32,
    room: u32,
) -> i32 {
    let (memory, host) = memory(&mut caller);
    if request_bytes > 0 || operation == 2 && host.reply.is_empty() {
        match door::read(operation, &memory[request as usize..][..request_bytes as usize]) {
            Ok(Call::Log(level, text)) => {
                host.log.push((level, String::from_utf8_lossy(text).into_owned()));
                host.reply.clear();
            }
            Ok(Call::Environment) => host.reply = door::environment(&host.environment).unwrap(),
            Ok(Call::Phase(phase, held_bytes)) => host.phases.push((phase, held_bytes)),
            Ok(Call::Look(look)) => {
                let at = host.began.get_or_insert_with(Instant::now).elapsed();
                host.reply = door::next_look(host.looks.take(look, at));
            }
            Ok(Call::Compiled(compiled)) => host.compiled = Some(compiled.to_vec()),
            Err(_) => return door::REFUSED,
        }
    }
    let given = host.reply.len().min(room as usize);
    memory[reply as usize..][..given].copy_from_slice(&host.reply[..given]);
    i32::try_from(host.reply.len()).unwrap()
}
