//! The run role: an artifact in, guest code run, a report out.
//!
//! Owns: loading an artifact, instantiating and calling a guest within its limits.
//! Never: runs guest code without a [`Confinement`]; speaks on the link; decides what an ending means.
//!
//! ```text
//! load ──▶ Loaded ──▶ (the process is sealed) ──▶ execute ──▶ RunReport
//!            └ no guest code has run            └ start functions run here too
//! ```

mod developer;
mod ending;
mod entry;
mod function;
mod host;
mod interruption;
mod kept;
mod known;
mod ledger;
mod link;
mod poll;
mod prepared;
mod script;
mod script_log;
mod sink;
mod stack;
mod streams;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use stockade_sys::epoch::{self, EpochError};
use stockade_wire::worker::{Ending, RunLimits, RunOrder, RunReport};
use tokio::runtime::Runtime;
use wasmtime::{Engine, Instance, InstancePre, ResourcesRequired, Store};
use wasmtime_wasi::p2::bindings::CommandPre;

pub use developer::{CpuLimit, DeveloperMode, Ticker, TickerError};
pub(crate) use ending::cut;
pub use host::HostError;
pub(crate) use host::{Host, link_component, link_core};
pub(crate) use kept::Kept;
pub(crate) use prepared::Prepared;
pub(crate) use script::link as link_script;
pub(crate) use sink::Returned;
pub use sink::Sink;
pub(crate) use stack::ThreadStack;
pub use stack::make_room_for_scripts;

use crate::engine::Warm;
use crate::grants::Grants;
use crate::jail::Sealed;
use ending::guest_text;
use entry::Entry;
use function::Input;
use host::Streams;
use interruption::{Alarm, Interruption, until};
use known::Known;
use ledger::Ledger;
use link::link;
use prepared::{Existing, Live};
use script::{Exports, Given, Script, Side};
use stack::{Stack, at_once};

/// A deadline further away than this is as good as none.
const DEADLINE_MAX: Duration = Duration::from_hours(24 * 365);

/// Size of a page of Wasm memory: custom page sizes are off.
const WASM_PAGE_BYTES: u64 = 64 << 10;

/// Names by which a component's only entry may be asked for.
const COMMAND_ENTRIES: [&str; 3] = ["run", "wasi:cli/run", entry::START];

/// The streams of a run.
#[derive(Debug)]
pub struct Stdio {
    /// Standard input of a command, the bytes handed to a function; `None` when there are none, and where a script's came with
    /// the order.
    pub input: Option<OwnedFd>,
    /// The source of a script, where it did not come with the order.
    pub source: Option<OwnedFd>,
    /// The job's output: a command's standard output, a function's result.
    pub output: Sink,
    /// A function's standard output.
    pub stdout: Sink,
    /// Standard error.
    pub stderr: Sink,
}

/// By what right guest code is run.
#[derive(Debug)]
pub enum Confinement {
    /// The process is jailed and can make no memory executable. Deadline and SIGTERM come as signals:
    /// [`Loaded::arm`] must have been called.
    Sealed(Sealed),
    /// The developer's mode.
    Developer(DeveloperMode),
}

/// A guest that is ready to be instantiated. Nothing of it has run.
pub struct Loaded {
    program: Program,
    /// None is needed where nothing waits.
    runtime: Option<Runtime>,
    deadline: Instant,
    memory_bytes_max: u64,
    largest_memory_bytes: u64,
    load: Duration,
    /// An instance that is there already: made before the fork, by a template.
    live: Option<Live>,
    /// The process runs further jobs: what is made for this one must go.
    stays: bool,
    /// A script that does not ask whether it is to end, ends with its process alone.
    expendable: bool,
}

enum Program {
    Core { pre: InstancePre<Host>, entry: Entry, stack: Stack },
    Component(CommandPre<Host>),
    Script { engine: InstancePre<Host>, script: Box<Script>, stack: Stack },
}

impl Program {
    fn engine(&self) -> &Engine {
        match self {
            Self::Core { pre, .. } | Self::Script { engine: pre, .. } => pre.module().engine(),
            Self::Component(command) => command.engine(),
        }
    }

    const fn stack(&self) -> Stack {
        match self {
            Self::Core { stack, .. } | Self::Script { stack, .. } => *stack,
            Self::Component(_) => Stack::Fiber,
        }
    }

    /// Whether its host functions may wait, for which there must be a runtime.
    const fn waits(&self) -> bool {
        match self {
            Self::Core { stack, .. } => matches!(stack, Stack::Fiber),
            Self::Component(_) => true,
            // Scripts wait with their thread.
            Self::Script { .. } => false,
        }
    }

    const fn is_script(&self) -> bool {
        matches!(self, Self::Script { .. })
    }

    /// Whether nothing of the host is ever seen from its instances.
    fn imports_nothing(&self) -> bool {
        matches!(self, Self::Core { pre, .. } if pre.module().imports().len() == 0)
    }

    const fn is_command(&self) -> bool {
        matches!(self, Self::Core { entry: Entry::Start, .. } | Self::Component(_))
    }

    /// The most that one of its memories begins with, bytes.
    fn largest_memory_bytes(&self) -> u64 {
        largest_memory_bytes(match self {
            Self::Core { pre, .. } | Self::Script { engine: pre, .. } => {
                Some(pre.module().resources_required())
            }
            // Unknown for one that imports modules, and so cannot be linked here.
            Self::Component(pre) => pre.instance_pre().component().resources_required(),
        })
    }
}

fn largest_memory_bytes(required: Option<ResourcesRequired>) -> u64 {
    let pages = required.and_then(|required| required.max_initial_memory_size).unwrap_or(0);
    pages.saturating_mul(WASM_PAGE_BYTES)
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").field("command", &self.program.is_command()).finish_non_exhaustive()
    }
}

impl Loaded {
    /// Starts the job's deadline and makes SIGTERM end the guest. In a worker, once, before the last filter:
    /// see [`epoch`] for the system calls it makes and those its handlers need.
    ///
    /// # Errors
    /// When the kernel refuses a handler or the timer.
    pub fn arm(&self) -> Result<(), EpochError> {
        epoch::install(self.program.engine())?;
        epoch::arm(self.deadline.saturating_duration_since(Instant::now()))
    }
}

/// Loads `artifact` and resolves its imports and its entry, without running any of it. The deadline counts from
/// this call. Needs leave to make memory executable; blocks for the time of mapping.
///
/// # Errors
/// With the report that ends the job.
pub fn load(warm: &Warm, order: &RunOrder, artifact: OwnedFd) -> Result<Loaded, RunReport> {
    let received = Instant::now();
    let wanted = Duration::from_micros(order.limits.deadline_us).min(DEADLINE_MAX);
    let build = || -> Result<Loaded, Ending> {
        let deadline = received + wanted;
        let program = link(warm, order, artifact, deadline)?;
        let memory_bytes_max = order.limits.memory_bytes.min(warm.settings().memory_bytes_max);
        let largest_memory_bytes = program.largest_memory_bytes();
        // The pool makes a memory accessible before it asks the ledger, and the process's own limit may be in the
        // way of that.
        if largest_memory_bytes > memory_bytes_max {
            return Err(Ending::MemoryRefused(largest_memory_bytes));
        }
        let runtime = program.waits().then(runtime).transpose().map_err(|error| setup(&error))?;
        Ok(Loaded {
            program,
            runtime,
            deadline,
            memory_bytes_max,
            largest_memory_bytes,
            load: received.elapsed(),
            live: None,
            stays: false,
            expendable: warm.settings().expendable,
        })
    };
    build().map_err(|ending| not_loaded(ending, order, received))
}

/// With timers and without a driver for descriptors: it opens none and starts no thread.
fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_time().build()
}

/// The report of a job whose module, received at `received`, does not suit it.
pub(crate) fn not_loaded(ending: Ending, order: &RunOrder, received: Instant) -> RunReport {
    RunReport {
        ending,
        fuel: order.limits.fuel.map(|_| 0),
        wasm_memory_peak_bytes: 0,
        growth_refused: false,
        load_us: micros(received.elapsed()),
        run_us: 0,
        mdwe: false,
        command: false,
        usage: None,
    }
}

/// Runs what was loaded, to its end or its deadline, on the calling thread, which must not be one that drives
/// a tokio runtime. [`RunReport::mdwe`] is left `false`: the jail knows.
#[must_use]
pub fn execute(loaded: Loaded, confinement: Confinement, stdio: Stdio, order: &RunOrder) -> RunReport {
    if matches!(confinement, Confinement::Developer(_)) && loaded.expendable && loaded.program.is_script() {
        let why = "scripts of an engine that looks at no epoch run in processes that can be ended";
        return not_loaded(Ending::SetupFailed(why.to_owned()), order, Instant::now());
    }
    let (interruption, grants) = match confinement {
        Confinement::Sealed(sealed) => (Interruption::Signals, sealed.into_grants()),
        Confinement::Developer(mode) => (Interruption::Flag { stop: mode.stop, cpu: mode.cpu }, mode.grants),
    };
    let (report, _) = run(loaded, interruption, (stdio, grants), order);
    report
}

/// What is left of a script in a process that stays, to be taken apart when nobody waits for it: the engine's memory. Of the
/// job's own descriptors, streams and texts there is none.
struct Remains {
    /// Its memory is put back to what it began as when this is dropped.
    store: Store<Host>,
    /// The script that ran, and those before it.
    known: Option<Known>,
}

fn run(
    loaded: Loaded,
    interruption: Interruption,
    given: (Stdio, Grants),
    order: &RunOrder,
) -> (RunReport, Option<Remains>) {
    let mut report = RunReport {
        ending: Ending::Interrupted,
        fuel: None,
        wasm_memory_peak_bytes: 0,
        growth_refused: false,
        load_us: micros(loaded.load),
        run_us: 0,
        mdwe: false,
        command: loaded.program.is_command(),
        usage: None,
    };
    let remains = perform(loaded, &interruption, given, order, &mut report);
    (report, remains)
}

/// Everything between the start of the deadline and its end. What it says goes into `report`.
fn perform(
    mut loaded: Loaded,
    interruption: &Interruption,
    given: (Stdio, Grants),
    order: &RunOrder,
    report: &mut RunReport,
) -> Option<Remains> {
    let began = Instant::now();
    let live = loaded.live.take();
    let (mut store, instance, mut exchange) = match furnish(&loaded, live, interruption, given, order) {
        Ok(furnished) => furnished,
        Err(ending) => {
            report.ending = ending;
            stop_clock(interruption, report);
            return None;
        }
    };
    let mut instantiated = None;
    if !interruption.has_come(loaded.deadline) {
        let Loaded { program, runtime, deadline, .. } = &mut loaded;
        let stack = program.stack();
        let work = drive(program, &mut store, instance, &mut exchange, &mut instantiated);
        let done = match (stack, interruption, runtime) {
            // Nothing waits, so only the guest has to be stopped, and its epoch, or what it asks, does that.
            (Stack::Thread, Interruption::Signals, _) | (_, _, None) => at_once(work),
            (_, _, Some(runtime)) => runtime.block_on(until(work, *deadline, interruption)),
        };
        report.ending = match done {
            Some(Ok(ending)) => ending,
            Some(Err(error)) => ending::of_error(&error, &store.data().ledger),
            None => Ending::Interrupted,
        };
    }
    store.data_mut().script.end();
    let ended = Instant::now();
    stop_clock(interruption, report);
    let called = instantiated.unwrap_or(ended);
    report.load_us = micros(loaded.load.saturating_add(called.duration_since(began)));
    report.run_us = micros(ended.duration_since(called));
    report.fuel = order.limits.fuel.map(|given| given.saturating_sub(store.get_fuel().unwrap_or_default()));
    report.wasm_memory_peak_bytes = store.data().ledger.peak_bytes();
    report.growth_refused = store.data().ledger.growth_refused();
    match (interruption, &mut loaded.program) {
        // This process ends next, and the kernel takes all of it back at once: taking it apart here first would copy
        // page after page that it shares with its zygote.
        (Interruption::Signals, _) if !loaded.stays => {
            std::mem::forget((store, exchange, loaded));
            None
        }
        (Interruption::Signals, Program::Script { script, .. }) => {
            store.data_mut().script = Side::default();
            Some(Remains { store, known: script.known.take() })
        }
        _ => None,
    }
}

/// Ends the job's deadline, whatever way the job ended: its report is not to be cut off, and the process may have a next
/// job, which is not to be ended by it.
fn stop_clock(interruption: &Interruption, report: &mut RunReport) {
    if matches!(interruption, Interruption::Signals)
        && let Err(error) = epoch::disarm()
    {
        report.ending = setup(&error);
    }
}

/// What a function reads and writes besides its standard streams.
#[derive(Default)]
struct Exchange {
    input: Option<Input>,
    output: Option<Sink>,
    source: Option<File>,
    /// Of the engine that runs a script. Here, for what they hold is forgotten with the rest where the process ends: counting
    /// it back would copy three pages.
    exports: Option<Exports>,
}

/// Makes the store with its limits, or takes over the one that is there, and gives each stream to whom it belongs.
fn furnish(
    loaded: &Loaded,
    live: Option<Live>,
    interruption: &Interruption,
    (stdio, grants): (Stdio, Grants),
    order: &RunOrder,
) -> Result<(Store<Host>, Option<Existing>, Exchange), Ending> {
    let Stdio { input, source, output, stdout, stderr } = stdio;
    let input = input.map(File::from);
    let with_bytes = |file| Input { file, bytes: order.limits.input_bytes };
    if let Program::Script { .. } = &loaded.program {
        let alarm = Alarm { deadline: loaded.deadline, interruption: interruption.clone() };
        let side = Side::new(order, (stdout, stderr), alarm);
        let (store, existing) = furnish_engine(loaded, live, interruption, side, order)?;
        let (input, source) = (input.map(with_bytes), source.map(File::from));
        return Ok((store, existing, Exchange { input, output: Some(output), source, exports: None }));
    }
    let (streams, exchange) = match &loaded.program {
        Program::Component(_) | Program::Core { entry: Entry::Start, .. } => {
            (Streams { stdin: input, stdout: output, stderr }, Exchange::default())
        }
        Program::Core { entry: Entry::Bytes { .. }, .. } => {
            let streams = Streams { stdin: None, stdout, stderr };
            let input = input.map(with_bytes);
            (streams, Exchange { input, output: Some(output), ..Exchange::default() })
        }
        Program::Core { entry: Entry::Numbers { .. }, .. } => {
            let streams = Streams { stdin: input, stdout, stderr };
            (streams, Exchange { output: Some(output), ..Exchange::default() })
        }
        Program::Script { .. } => return Err(Ending::SetupFailed("a script is no module".to_owned())),
    };
    let (mut store, instance) = match live {
        Some(live) => {
            let (store, instance) = live.adopt(order, loaded.memory_bytes_max, streams, grants)?;
            (store, Some(instance))
        }
        None => {
            let ledger = Ledger::new(loaded.memory_bytes_max, loaded.largest_memory_bytes);
            let seen = !loaded.program.imports_nothing();
            // In the developer's mode the guest is over when its streams close; a worker's end is seen by itself.
            let host = if !seen && matches!(interruption, Interruption::Signals) {
                // Nothing of it is ever seen, and so nothing is drawn for it.
                Host::of_nobody(ledger)
            } else {
                Host::new(order, ledger, streams, grants).map_err(|error| setup(&error))?
            };
            let mut store = Store::new(loaded.program.engine(), host);
            store.limiter(|host| &mut host.ledger);
            (store, None)
        }
    };
    limit(&mut store, loaded, interruption, order)?;
    Ok((store, instance, exchange))
}

/// The same for a script: the engine needs nothing of WASI.
fn furnish_engine(
    loaded: &Loaded,
    live: Option<Live>,
    interruption: &Interruption,
    side: Side,
    order: &RunOrder,
) -> Result<(Store<Host>, Option<Existing>), Ending> {
    let (mut store, existing) = match live {
        Some(live) => {
            let (store, existing) = live.adopt_engine(loaded.memory_bytes_max, side)?;
            (store, Some(existing))
        }
        None => {
            let ledger = Ledger::new(loaded.memory_bytes_max, loaded.largest_memory_bytes);
            let mut store = Store::new(loaded.program.engine(), Host::of_script(ledger, side));
            store.limiter(|host| &mut host.ledger);
            (store, None)
        }
    };
    limit(&mut store, loaded, interruption, order)?;
    Ok((store, existing))
}

fn limit(
    store: &mut Store<Host>,
    loaded: &Loaded,
    interruption: &Interruption,
    order: &RunOrder,
) -> Result<(), Ending> {
    set_limits(store, &order.limits, interruption, loaded.deadline)
        .map_err(|error| Ending::SetupFailed(guest_text(&format!("limits cannot be set: {error:#}"))))
}

fn set_limits(
    store: &mut Store<Host>,
    limits: &RunLimits,
    interruption: &Interruption,
    deadline: Instant,
) -> wasmtime::Result<()> {
    if let Some(fuel) = limits.fuel {
        store.set_fuel(fuel)?;
    }
    interruption.set(store, deadline);
    Ok(())
}

/// Instantiates, unless there is an instance, and calls. The moment between the two is written to `instantiated`.
async fn drive(
    program: &mut Program,
    store: &mut Store<Host>,
    existing: Option<Existing>,
    exchange: &mut Exchange,
    instantiated: &mut Option<Instant>,
) -> wasmtime::Result<Ending> {
    match program {
        Program::Component(pre) => {
            let command = pre.instantiate_async(&mut *store).await?;
            store.data_mut().ledger.instantiated();
            *instantiated = Some(Instant::now());
            let result = command.wasi_cli_run().call_run(store).await?;
            Ok(Ending::Exited(i32::from(result.is_err())))
        }
        Program::Script { engine, script, stack } => {
            let exports = Exports::of_any(existing, (engine, *stack), store).await?;
            let exports = exchange.exports.insert(exports);
            store.data_mut().ledger.instantiated();
            *instantiated = Some(Instant::now());
            let (source, input) = (exchange.source.take(), exchange.input.take());
            match exchange.output.as_mut() {
                Some(output) => script.run((store, *stack), exports, Given { source, input, output }).await,
                None => Ok(Ending::SetupFailed("a script came without an output".to_owned())),
            }
        }
        Program::Core { pre, entry, stack } => {
            let Existing { instance, initialised, .. } = match existing {
                Some(existing) => existing,
                None => {
                    let instance = stack.instantiate(pre, &mut *store).await?;
                    Existing { instance, initialised: false, exports: None }
                }
            };
            store.data_mut().ledger.instantiated();
            let has_initialiser = entry::has_initialiser(pre.module());
            if has_initialiser && !initialised {
                function::initialise(store, *stack, instance).await?;
            }
            *instantiated = Some(Instant::now());
            if !has_initialiser && !matches!(entry, Entry::Start) {
                function::initialize(store, *stack, instance).await?;
            }
            enter(entry, store, (*stack, instance), exchange).await
        }
    }
}

async fn enter(
    entry: &Entry,
    store: &mut Store<Host>,
    (stack, instance): (Stack, Instance),
    exchange: &mut Exchange,
) -> wasmtime::Result<Ending> {
    match (entry, exchange) {
        (Entry::Start, _) => {
            let start = instance.get_typed_func::<(), ()>(&mut *store, entry::START)?;
            stack.call(&start, store, ()).await?;
            Ok(Ending::Exited(0))
        }
        (Entry::Bytes { name }, Exchange { input, output: Some(output), .. }) => {
            function::call_bytes(store, stack, instance, name, input.as_mut(), output).await
        }
        (Entry::Numbers { name, arguments, results }, Exchange { output: Some(output), .. }) => {
            let text = function::call_numbers(store, stack, instance, name, arguments, *results).await?;
            Ok(function::deliver(output, text.as_bytes()))
        }
        (Entry::Bytes { .. } | Entry::Numbers { .. }, _) => {
            Ok(Ending::SetupFailed("a function was given no output".to_owned()))
        }
    }
}

/// What went wrong and why, for a fault that is not the guest's.
fn setup(error: &dyn std::error::Error) -> Ending {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    Ending::SetupFailed(guest_text(&text))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
