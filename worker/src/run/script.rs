//! Running a script in the JavaScript engine.
//!
//! Owns: the engine's host functions, and one job's way through an engine.
//! Never: believes what the engine says of a script beyond its bounds; loads an engine.

use std::fs::File;
use std::io::Read;
use std::mem;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use stockade_js::abi::{self, export, import};
use stockade_js::door::{self, Call};
use stockade_js::profile::Looks;
use stockade_js::reply::{self, Failure, Fault, Reply};
use stockade_js::request::{Compiled, Context, Form, Request, RequestError};
use stockade_sys::solo::SingleThreaded;
use stockade_sys::{own_pages, populate};
use stockade_wire::job::{Purpose, ScriptError};
use stockade_wire::limits::{INPUT_BYTES_MAX, SCRIPT_FORM_BYTES_MAX};
use stockade_wire::worker::{CompiledForm, Ending, RunOrder, ScriptFault, ScriptOrder, ScriptSource};
use wasmtime::{Caller, Engine, Extern, Instance, InstancePre, Linker, Memory, Store, Trap, TypedFunc};

use super::ending::guest_text;
use super::function::{Input, deliver};
use super::host::HostError;
use super::interruption::{Alarm, Turns};
use super::known::{Found, Known};
use super::prepared::Existing;
use super::script_log::ScriptLog;
use super::stack::Stack;
use super::{Host, Sink};

/// What a script is called in its errors when its own name cannot be: see [`RequestError::BadName`].
const NAMELESS: &str = "script.js";

/// A longer sleep is as good as none: every job's deadline is before its end.
const SLEEP_MAX: Duration = Duration::from_hours(24 * 365);

/// What the host functions need of a job.
#[derive(Default)]
pub(crate) struct Side {
    log: Option<ScriptLog>,
    /// What ends it, asleep or where it asks.
    alarm: Option<Alarm>,
    turns: Turns,
    environment: Vec<(String, String)>,
    /// What was seen of the script, and since when, if anybody wants to know.
    looks: Option<(Looks, Instant)>,
    /// The last reply, for a script that had too little room for it.
    reply: Vec<u8>,
    /// What the source compiled to is to be kept, once.
    wants_compiled: bool,
    compiled: Option<Vec<u8>>,
}

impl Side {
    /// With standard output and standard error, and what ends a sleep.
    pub(super) fn new(order: &RunOrder, (stdout, stderr): (Sink, Sink), alarm: Alarm) -> Self {
        let (purpose, now) = (order.script.as_ref().map(|script| script.purpose), Instant::now());
        let debugs = matches!(purpose, Some(Purpose::Debug | Purpose::Profile));
        let log = ScriptLog::new(stdout, stderr, debugs.then_some(now));
        let looks = (purpose == Some(Purpose::Profile)).then(|| (Looks::default(), now));
        let (log, alarm) = (Some(log), Some(alarm));
        Self { log, alarm, environment: order.environment.clone(), looks, ..Self::default() }
    }

    /// Writes what there is to say of a script once it is over, however it ended.
    pub(super) fn end(&mut self) {
        if let (Some((looks, since)), Some(log)) = (self.looks.take(), &mut self.log) {
            log.profile(&looks.profile(since.elapsed()));
        }
    }

    /// Does what was asked by an engine with a memory of so many bytes; the length of the reply, or a refusal.
    fn answer(&mut self, operation: u32, request: &[u8], memory_bytes: usize) -> i32 {
        let reply = match door::read(operation, request) {
            Ok(Call::Log(level, text)) => {
                if let Some(log) = &mut self.log {
                    log.line(level, text);
                }
                Vec::new()
            }
            Ok(Call::Phase(phase, held_bytes)) => {
                if let Some(log) = &mut self.log {
                    log.phase(phase, held_bytes, memory_bytes);
                }
                Vec::new()
            }
            Ok(Call::Look(look)) => match &mut self.looks {
                Some((looks, since)) => door::next_look(looks.take(look, since.elapsed())),
                None => return door::REFUSED,
            },
            Ok(Call::Environment) => match door::environment(&self.environment) {
                Ok(reply) => reply,
                Err(_) => return door::REFUSED,
            },
            Ok(Call::Compiled(compiled)) => {
                if !mem::take(&mut self.wants_compiled) {
                    return door::REFUSED;
                }
                // Empty is the engine's word that there is nothing to keep.
                self.compiled = Some(compiled.to_vec()).filter(|compiled| !compiled.is_empty());
                Vec::new()
            }
            Err(_) => return door::REFUSED,
        };
        self.reply = reply;
        i32::try_from(self.reply.len()).unwrap_or(door::REFUSED)
    }
}

/// What a script is compiled to is kept and used where it may have so much more memory, bytes, and this many times its source's
/// length on top. Several times what either takes.
const KNOWN_ROOM_BYTES: u64 = 4 << 20;
const KNOWN_ROOM_FACTOR: u64 = 32;

/// A script that is to be run.
#[derive(Debug)]
pub(super) struct Script {
    name: String,
    entry: Option<String>,
    order: ScriptOrder,
    memory_bytes: u64,
    deadline: Instant,
    /// What ran before in a process that stays.
    pub(super) known: Option<Known>,
}

/// What goes into one, where it is not in its order, and where its value goes.
pub(super) struct Given<'a> {
    pub(super) source: Option<File>,
    pub(super) input: Option<Input>,
    pub(super) output: &'a mut Sink,
}

impl Script {
    pub(super) fn new(order: &RunOrder, script: &ScriptOrder, deadline: Instant) -> Self {
        Self {
            name: order.name.clone(),
            entry: order.entry.clone(),
            order: script.clone(),
            memory_bytes: order.limits.memory_bytes,
            deadline,
            known: None,
        }
    }

    /// Runs it in an engine that has run nothing yet. Its instances begin set up.
    pub(super) async fn run(
        &mut self,
        (store, stack): (&mut Store<Host>, Stack),
        exports: &Exports,
        given: Given<'_>,
    ) -> wasmtime::Result<Ending> {
        let (source, input) = match (self.source(given.source), self.input(given.input)) {
            (Ok(source), Ok(input)) => (source, input),
            (Err(ending), _) | (_, Err(ending)) => return Ok(ending),
        };
        let memory = exports.memory;
        let room = self.memory_bytes.saturating_sub(memory.data_size(&*store) as u64);
        // What is compiled takes memory to hand over and to read: no script that needs its own is to notice.
        let has_room =
            room >= KNOWN_ROOM_BYTES.saturating_add(KNOWN_ROOM_FACTOR.saturating_mul(source.len() as u64));
        let found = match &mut self.known {
            Some(known) if self.order.purpose == Purpose::Run && has_room => {
                known.look(&self.name, self.entry.is_some(), &source)
            }
            None if has_room => ordered(self.order.purpose, mem::take(&mut self.order.compiled)),
            Some(_) | None => Found::Nothing,
        };
        store.data_mut().script.wants_compiled = found == Found::Again;
        let request = Request {
            compiled: match &found {
                Found::Nothing => Compiled::No,
                Found::Again => Compiled::Wanted,
                Found::Compiled(compiled) => Compiled::Kept(compiled),
            },
            ..self.request(&source, &input)
        };
        let handed = self.hand_over((store, stack), exports, request).await?;
        // The engine has its own copy, and the process may hold only so much.
        drop((source, input));
        let asked = match handed {
            Ok(asked) => asked,
            Err(ending) => return Ok(ending),
        };
        let replied = stack.call(&exports.run, store, asked).await?;
        let wanted = match (&mut self.known, store.data_mut().script.compiled.take()) {
            (Some(known), Some(compiled)) => {
                known.keep(compiled);
                None
            }
            // A longer one would not go with the reply.
            (_, compiled) => compiled.filter(|form| form.len() <= SCRIPT_FORM_BYTES_MAX),
        };
        Ok(match reply::read(memory.data(&*store), replied) {
            // A script that was only looked at has no value but what it compiled to.
            Ok(Reply::Output(text)) => deliver(given.output, wanted.as_deref().unwrap_or(text.as_bytes())),
            Ok(Reply::Failure(failure)) => ended(*failure),
            Err(error) => Ending::Failed(error.to_string()),
        })
    }

    fn source(&mut self, file: Option<File>) -> Result<String, Ending> {
        let bytes = match (&mut self.order.source, file) {
            (ScriptSource::Here(bytes), _) => mem::take(&mut bytes.0),
            (ScriptSource::File { bytes }, Some(file)) => read_source(file, *bytes)?,
            (ScriptSource::File { .. }, None) => {
                return Err(Ending::SetupFailed("a script came without its source".to_owned()));
            }
        };
        String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let before = error.as_bytes().get(..at).unwrap_or_default();
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            no_source(format!("the source is not UTF-8: see byte {at}"), u32::try_from(line).ok())
        })
    }

    fn input(&mut self, input: Option<Input>) -> Result<String, Ending> {
        let bytes = match self.order.input.take() {
            Some(bytes) => bytes.0,
            None => read_input(input)?,
        };
        String::from_utf8(bytes).map_err(|error| no_input(format!("the input is not UTF-8: {error}")))
    }

    fn request<'a>(&'a self, source: &'a str, input: &'a str) -> Request<'a> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let deadline = SystemTime::now() + left.min(SLEEP_MAX);
        let deadline_ms = deadline.duration_since(UNIX_EPOCH).ok().map(|since| since.as_millis());
        Request {
            name: &self.name,
            source,
            form: match (self.order.purpose, self.entry.as_deref()) {
                (Purpose::Check, None) => Form::CheckScript,
                (Purpose::Check, Some(_)) => Form::CheckModule,
                (Purpose::Run | Purpose::Debug | Purpose::Profile, None) => Form::Script,
                (Purpose::Run | Purpose::Debug | Purpose::Profile, Some(entry)) => Form::Module { entry },
            },
            input,
            context: Context {
                job: &self.order.job,
                request: self.order.request_id.as_deref(),
                tenant: &self.order.tenant,
                traceparent: self.order.traceparent.as_deref(),
                deadline_ms: deadline_ms.and_then(|ms| u64::try_from(ms).ok()),
            },
            debug: matches!(self.order.purpose, Purpose::Debug | Purpose::Profile),
            profile: self.order.purpose == Purpose::Profile,
            compiled: Compiled::No,
        }
    }

    /// Hands the request over; its address and its length.
    async fn hand_over(
        &self,
        (store, stack): (&mut Store<Host>, Stack),
        exports: &Exports,
        request: Request<'_>,
    ) -> wasmtime::Result<Result<(u32, u32), Ending>> {
        let context = match request.context_text() {
            Ok(context) => context,
            Err(error) => return Ok(Err(unasked(&error))),
        };
        let named = match request.encoded(&context) {
            Err(RequestError::BadName) => Request { name: NAMELESS, ..request.clone() },
            _ => request,
        };
        let encoded = match named.encoded(&context) {
            Ok(encoded) => encoded,
            Err(error) => return Ok(Err(unasked(&error))),
        };
        let length = encoded.bytes();
        let address = stack.call(&exports.reserve, store, length).await?;
        if address == 0 {
            return Ok(Err(out_of_memory(length)));
        }
        let (from, length_bytes) = (address as usize, length as usize);
        let room = exports.memory.data_mut(&mut *store).get_mut(from..from.saturating_add(length_bytes));
        if let Err(error) = encoded.write(room.unwrap_or_default()) {
            return Ok(Err(unasked(&error)));
        }
        Ok(Ok((address, length)))
    }
}

/// An engine's exports that every script needs, looked up.
#[derive(Clone)]
pub(super) struct Exports {
    memory: Memory,
    reserve: TypedFunc<u32, u32>,
    run: TypedFunc<(u32, u32), u32>,
}

impl Exports {
    pub(super) fn of(store: &mut Store<Host>, instance: Instance) -> wasmtime::Result<Self> {
        Ok(Self {
            memory: memory(store, instance)?,
            reserve: instance.get_typed_func(&mut *store, export::RESERVE)?,
            run: instance.get_typed_func(store, export::RUN)?,
        })
    }

    /// Those of the engine that there is, or of one that is made.
    pub(super) async fn of_any(
        existing: Option<Existing>,
        (engine, stack): (&InstancePre<Host>, Stack),
        store: &mut Store<Host>,
    ) -> wasmtime::Result<Self> {
        let instance = match existing {
            Some(Existing { exports: Some(exports), .. }) => return Ok(exports),
            Some(existing) => existing.instance,
            None => stack.instantiate(engine, &mut *store).await?,
        };
        Self::of(store, instance)
    }
}

/// Has Wasmtime find every function in a new engine's table, which it does for each when it is first called. It runs none.
pub(super) fn fill_table(store: &mut Store<Host>, instance: Instance) {
    let Some(table) = instance.get_table(&mut *store, export::TABLE) else { return };
    for index in 0..table.size(&*store) {
        let _ = table.get(&mut *store, index);
    }
}

/// Gives a new engine's memory pages of its own, which forks inherit; whether it has them.
pub(super) fn take_pages(solo: &SingleThreaded, store: &mut Store<Host>, instance: Instance) -> bool {
    memory(store, instance).is_ok_and(|memory| own_pages::in_place(solo, memory.data_mut(store)).is_ok())
}

/// Has the pages of a new engine's memory that its script is going to write to, and if `mapped` to read.
pub(super) fn populate(store: &mut Store<Host>, instance: Instance, mapped: bool) {
    let Ok(memory) = memory(store, instance) else { return };
    let bytes = memory.data_mut(&mut *store);
    let ranges = stockade_js::HOT.iter().map(|(start, length)| {
        let start = *start as usize;
        start..start.saturating_add(*length as usize)
    });
    // What is not had now is had when it is used.
    for range in ranges.clone() {
        let _ = populate::for_writing(bytes.get_mut(range).unwrap_or_default());
    }
    if !mapped {
        return;
    }
    let (first, last) =
        (ranges.clone().next().unwrap_or_default(), ranges.clone().next_back().unwrap_or_default());
    let _ = populate::for_reading(bytes.get(first.start..last.end).unwrap_or_default());
}

fn memory(store: &mut Store<Host>, instance: Instance) -> wasmtime::Result<Memory> {
    instance.get_memory(store, export::MEMORY).ok_or_else(|| wasmtime::Error::msg("the engine has no memory"))
}

/// What the order of a process that runs one script says of its compiled form. What a script compiled to where it ran, with
/// an input, is not asked for, and whoever debugs sees it compiled.
fn ordered(purpose: Purpose, compiled: CompiledForm) -> Found {
    match (purpose, compiled) {
        (Purpose::Run, CompiledForm::Kept(compiled)) => Found::Compiled(compiled.0.into()),
        (Purpose::Check, CompiledForm::Wanted) => Found::Again,
        (Purpose::Run | Purpose::Debug | Purpose::Profile | Purpose::Check, _) => Found::Nothing,
    }
}

fn read_source(mut file: File, length: u64) -> Result<Vec<u8>, Ending> {
    let most = abi::SOURCE_BYTES_MAX as u64;
    if length > most {
        return Err(no_source(format!("the source has {length} bytes; at most {most} are taken"), None));
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
    file.read_exact(&mut bytes)
        .map_err(|error| Ending::SetupFailed(format!("the source cannot be read: {error}")))?;
    Ok(bytes)
}

fn read_input(input: Option<Input>) -> Result<Vec<u8>, Ending> {
    let mut bytes = Vec::new();
    let most = INPUT_BYTES_MAX as u64;
    let Some(Input { file, bytes: length }) = input else { return Ok(bytes) };
    // What is too long is not read to its end.
    let length = length.unwrap_or_default().min(most);
    bytes.reserve(usize::try_from(length).unwrap_or_default());
    file.take(most.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| Ending::SetupFailed(format!("input cannot be read: {error}")))?;
    if bytes.len() > INPUT_BYTES_MAX {
        return Err(no_input(format!("a script takes at most {most} bytes of input")));
    }
    Ok(bytes)
}

fn no_input(message: String) -> Ending {
    let (name, file) = ("TypeError".to_owned(), Some("input".to_owned()));
    let error = ScriptError { name, message, file, ..ScriptError::default() };
    Ending::Script(ScriptFault::InputNotJson, Box::new(error))
}

fn no_source(message: String, line: Option<u32>) -> Ending {
    let error = ScriptError { name: "SyntaxError".to_owned(), message, line, ..ScriptError::default() };
    Ending::Script(ScriptFault::Source, Box::new(error))
}

fn out_of_memory(bytes: u32) -> Ending {
    let message = format!("source and input, {bytes} bytes, do not fit into the job's memory");
    let error = ScriptError { name: "InternalError".to_owned(), message, ..ScriptError::default() };
    Ending::Script(ScriptFault::OutOfMemory, Box::new(error))
}

fn unasked(error: &RequestError) -> Ending {
    Ending::SetupFailed(format!("the engine cannot be asked: {error}"))
}

fn ended(failure: Failure) -> Ending {
    let fault = match failure.fault {
        Fault::Thrown => ScriptFault::Thrown,
        Fault::Syntax => ScriptFault::Syntax,
        Fault::NoEntry => ScriptFault::NoEntry,
        Fault::NeverSettled => ScriptFault::NeverSettled,
        Fault::OutputNotJson => ScriptFault::OutputNotJson,
        Fault::InputNotJson => ScriptFault::InputNotJson,
        Fault::ImportRefused => ScriptFault::ImportRefused,
        Fault::OutOfMemory => ScriptFault::OutOfMemory,
        Fault::StackOverflow => ScriptFault::StackOverflow,
        Fault::BadRequest => return Ending::SetupFailed(guest_text(&failure.message)),
    };
    let (line, column) = failure.place.unzip();
    let error = ScriptError {
        name: guest_text(&failure.name),
        message: guest_text(&failure.message),
        file: (!failure.file.is_empty()).then(|| guest_text(&failure.file)),
        line,
        column,
        stack: guest_text(&failure.stack),
    };
    Ending::Script(fault, Box::new(error))
}

/// Links the engine's host functions.
pub(crate) fn link(engine: &Engine) -> Result<Linker<Host>, HostError> {
    let mut linker = Linker::new(engine);
    define(&mut linker).map_err(HostError::Define)?;
    Ok(linker)
}

fn define(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.func_wrap(import::MODULE, import::CALL, answer)?;
    linker.func_wrap(
        import::MODULE,
        import::RANDOM,
        |mut caller: Caller<'_, Host>, start: u32, length: u32| {
            let (memory, _) = memory_of(&mut caller)?;
            getrandom::fill(part(memory, start, length)?).map_err(wasmtime::Error::from)
        },
    )?;
    linker.func_wrap(import::MODULE, import::CLOCK, |caller: Caller<'_, Host>, clock: u32| {
        let time = if clock == abi::CLOCK_WALL {
            SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
        } else {
            caller.data().clock_start.elapsed()
        };
        // Whole microseconds, which a double holds exactly; with seconds of 32 bits it goes until February 2106.
        f64::from(u32::try_from(time.as_secs()).unwrap_or(u32::MAX)) * 1e6 + f64::from(time.subsec_micros())
    })?;
    linker.func_wrap(import::MODULE, import::SLEEP, |caller: Caller<'_, Host>, ms: f64| {
        let wait = Duration::try_from_secs_f64(ms / 1000.0).unwrap_or_default().min(SLEEP_MAX);
        // Before there is a job nobody sleeps.
        let alarm = caller.data().script.alarm.as_ref().ok_or(Trap::Interrupt)?;
        Ok(alarm.pause(wait)?)
    })?;
    linker.func_wrap(import::MODULE, import::POLL, |mut caller: Caller<'_, Host>| {
        let side = &mut caller.data_mut().script;
        // Before there is a job nobody asks.
        side.alarm.as_ref().ok_or(Trap::Interrupt)?.look()?;
        Ok(side.turns.next(Instant::now()))
    })?;
    Ok(())
}

fn answer(
    mut caller: Caller<'_, Host>,
    operation: u32,
    request: u32,
    request_bytes: u32,
    reply: u32,
    room: u32,
) -> wasmtime::Result<i32> {
    let (memory, host) = memory_of(&mut caller)?;
    if let Some(alarm) = &host.script.alarm {
        alarm.look()?;
    }
    // With the reply of a call before it still there, an empty request asks for that.
    let again = request_bytes == 0 && !host.script.reply.is_empty();
    let length = if again {
        i32::try_from(host.script.reply.len()).unwrap_or(door::REFUSED)
    } else {
        let memory_bytes = memory.len();
        host.script.answer(operation, part(memory, request, request_bytes)?, memory_bytes)
    };
    let given = host.script.reply.len().min(room as usize);
    let place = part(memory, reply, u32::try_from(given).unwrap_or_default())?;
    place.copy_from_slice(host.script.reply.get(..given).unwrap_or_default());
    if given == host.script.reply.len() {
        host.script.reply.clear();
    }
    Ok(length)
}

fn memory_of<'c>(caller: &'c mut Caller<'_, Host>) -> Result<(&'c mut [u8], &'c mut Host), Trap> {
    match caller.get_export(export::MEMORY) {
        Some(Extern::Memory(memory)) => Ok(memory.data_and_store_mut(caller)),
        _ => Err(Trap::MemoryOutOfBounds),
    }
}

fn part(memory: &mut [u8], start: u32, length: u32) -> Result<&mut [u8], Trap> {
    let start = start as usize;
    memory.get_mut(start..start.saturating_add(length as usize)).ok_or(Trap::MemoryOutOfBounds)
}
