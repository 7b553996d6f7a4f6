//! A worker's life, from its birth to its exit.
//!
//! Owns: locking, the report, the first order, what is done when something goes wrong.
//! Never: takes a second order, returns.
//!
//! ```text
//! born ─ lock ─ Locked ─ one order ─┬─ compile ─ Compiled | NotCompiled ─┬─ exit 0
//!           │                       └─ load ─ seal ─ run ─ Finished ─────┘
//!           └─ LockFailed | NotGranted ─ exit
//! ```
//! A template goes on in [`crate::template`]; what it forks ends in [`run_prepared`]. A worker that is told to stay goes
//! on in [`crate::tenant`].

use std::convert::Infallible;
use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::socket::{MsgFlags, send};
use stockade_sys::fork::Newborn;
use stockade_sys::link::{self, Received};
use stockade_sys::prctl::exit_now;
use stockade_sys::{epoch, populate};
use stockade_wire::frame::{self, FrameError, HEADER_BYTES};
use stockade_wire::job::Purpose;
use stockade_wire::limits::{
    GUEST_TEXT_BYTES_MAX, LINK_FDS_MAX, LINK_MESSAGE_BYTES_MAX, MODULE_BYTES_MAX, SCRIPT_FORM_BYTES_MAX,
};
use stockade_wire::worker::{
    CompileOrder, CompiledForm, Ending, FromWorker, JailReport, Role, RunOrder, RunReport, ScriptSource,
    ToWorker,
};
use stockade_wire::zygote::{ForkOrder, ZygoteConfig};

use crate::engine::Warm;
use crate::jail::template::Branch;
use crate::jail::{self, BoundingSet, Locked, Namespaces, Plan, Refusal, WorkerFds};
use crate::run::{self, Confinement, Loaded, Prepared, Returned, Sink, Stdio};
use crate::template::{self, Grounds};
use crate::tenant::{self, First};
use crate::usage;

/// Exit status of a worker that could not lock itself; it has sent [`FromWorker::LockFailed`] or
/// [`FromWorker::NotGranted`] if it could.
pub const LOCK_FAILED_STATUS: i32 = 71;

/// Exit status of a worker whose order was not one.
pub const ORDER_STATUS: i32 = 72;

/// Exit status of a worker that could not send its reply.
pub const REPLY_STATUS: i32 = 73;

/// Exit status of a worker whose own code panicked; it has sent [`FromWorker::Panicked`] if it could.
pub const PANICKED_STATUS: i32 = 101;

/// The ends of a worker's link and pipes that came with the fork order.
#[derive(Debug)]
pub struct PipeEnds {
    /// The link.
    pub link: OwnedFd,
    /// The output pipe.
    pub output: OwnedFd,
    /// Standard output's log pipe.
    pub stdout_log: OwnedFd,
    /// Standard error's log pipe.
    pub stderr_log: OwnedFd,
}

impl PipeEnds {
    /// A fork order's descriptors by name, and the leaf's directory if it announces one: exactly these, or `None`.
    pub(crate) fn sort(fds: Vec<OwnedFd>, into_leaf: bool) -> Option<(Self, Option<OwnedFd>)> {
        let mut fds = fds.into_iter();
        let pipes =
            Self { link: fds.next()?, output: fds.next()?, stdout_log: fds.next()?, stderr_log: fds.next()? };
        let leaf = if into_leaf { Some(fds.next()?) } else { None };
        if fds.next().is_some() { None } else { Some((pipes, leaf)) }
    }
}

/// Everything a worker is born with.
pub(crate) struct Birth<'a> {
    pub(crate) order: ForkOrder,
    pub(crate) pipes: PipeEnds,
    pub(crate) config: &'a ZygoteConfig,
    pub(crate) namespaces: &'a Namespaces,
    pub(crate) bounding: &'a BoundingSet,
    pub(crate) data_baseline_bytes: u64,
    pub(crate) null: &'a File,
    pub(crate) warm: &'a Warm,
    pub(crate) behaviour: &'a Behaviour,
}

/// What a worker does at the points where a test may have it misbehave inside the real jail.
#[derive(Debug, Clone, Copy)]
pub struct Behaviour {
    /// Right after the fork, before any layer.
    pub born: fn(Role),
    /// After the lock: may change what is reported.
    pub announce: fn(&mut JailReport),
    /// With an order to run, locked.
    pub run: fn(Locked, RunOrder, RunFds, &Warm) -> Infallible,
    /// In a template, once its module is initialised: whether the instance is kept, of a module that has called the host
    /// or not. The product keeps one that has not.
    pub keep: fn(bool) -> bool,
    /// With an order to run, sealed, in a fork of a template or a worker that stays. The product goes on to run it.
    pub ordered: fn(&RunOrder, Link),
    /// In a worker that stays, before it replies: may change what is reported.
    pub reported: fn(&RunOrder, &mut RunReport),
    /// In a worker that stays, after the reply. The product waits for the next order.
    pub stayed: fn(&RunOrder, Link),
    /// With an order to compile, locked.
    pub compile: fn(Locked, CompileOrder, CompileFds, &Warm) -> Infallible,
}

impl Behaviour {
    /// What the product does.
    #[must_use]
    pub fn standard() -> Self {
        Self {
            born: |_| {},
            announce: |_| {},
            run: run_order,
            keep: |called_the_host| !called_the_host,
            ordered: |_, _| {},
            reported: |_, _| {},
            stayed: |_, _| {},
            compile: compile_order,
        }
    }
}

/// The worker's link, for the rest of the process's life.
#[derive(Debug, Clone, Copy)]
pub struct Link(BorrowedFd<'static>);

/// Why a message did not go out.
#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    /// It is too large.
    #[error("message does not fit a link packet")]
    Frame(#[from] FrameError),
    /// The socket did not take it.
    #[error("link does not take the message; the supervisor is gone")]
    Send(#[from] Errno),
}

impl Link {
    /// To wait on and to send descriptors with, in a template.
    pub(crate) fn as_fd(self) -> BorrowedFd<'static> {
        self.0
    }

    fn keep(link: OwnedFd) -> Self {
        // Leaked on purpose: descriptor 3 stays what it is until the process ends.
        let link: &'static OwnedFd = Box::leak(Box::new(link));
        Self(link.as_fd())
    }

    /// Sends one message. Blocks while the supervisor does not read.
    ///
    /// # Errors
    /// When it does not fit or the supervisor is gone.
    pub fn send(self, message: &FromWorker) -> Result<(), ReplyError> {
        Ok(self.send_bytes(&frame::encode(message, LINK_MESSAGE_BYTES_MAX)?)?)
    }

    /// Sends `packet` as it is: by `sendto` without descriptors, all that the allow-lists leave of sending.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn send_bytes(self, packet: &[u8]) -> Result<(), Errno> {
        loop {
            match send(self.0.as_raw_fd(), packet, MsgFlags::MSG_NOSIGNAL) {
                Err(Errno::EINTR) => {}
                other => return other.map(drop),
            }
        }
    }
}

/// What a run works with.
#[derive(Debug)]
pub struct RunFds {
    /// The link, for the reply.
    pub link: Link,
    /// The output pipe.
    pub output: OwnedFd,
    /// Standard output's log pipe.
    pub stdout_log: OwnedFd,
    /// Standard error's log pipe.
    pub stderr_log: OwnedFd,
    /// The artifact: a sealed memfd.
    pub artifact: OwnedFd,
    /// The input; `None` where it came with the order.
    pub input: Option<OwnedFd>,
    /// The source of a script, where it did not come with the order.
    pub source: Option<OwnedFd>,
}

/// What a compilation works with.
#[derive(Debug)]
pub struct CompileFds {
    /// The link, for the reply.
    pub link: Link,
    /// The module.
    pub module: OwnedFd,
    /// Where the artifact goes: an empty memfd.
    pub artifact: OwnedFd,
}

/// Lives a worker's life. Called in the child of a fork, never returns.
pub(crate) fn live(newborn: Newborn, birth: Birth<'_>) -> Infallible {
    let role = birth.order.role;
    (birth.behaviour.born)(role);
    // The name is for people who look at process lists; without it all works as well.
    let _ = prctl::set_name(name_of(role));
    let (behaviour, warm, namespaces) = (birth.behaviour, birth.warm, birth.namespaces);
    let config = birth.config;
    let (locked, fds) = lock(newborn, birth);
    let link = fds.link;
    announce_panics(link);
    let mut report = locked.report(namespaces);
    (behaviour.announce)(&mut report);
    reply(link, &FromWorker::Locked(report));
    match (take_order(link), role) {
        ((ToWorker::Run(order), given), Role::Run | Role::RunFiles) => {
            let ([artifact], input, source) = sorted(given, &order);
            let Settled { output, stdout_log, stderr_log, .. } = fds;
            let fds = RunFds { link, output, stdout_log, stderr_log, artifact, input, source };
            (behaviour.run)(locked, order, fds, warm)
        }
        ((ToWorker::Compile(order), given), Role::Compile) => {
            let [module, artifact] = exactly(given);
            (behaviour.compile)(locked, order, CompileFds { link, module, artifact }, warm)
        }
        ((ToWorker::Prepare(order), given), Role::Template) => {
            let [artifact] = exactly(given);
            template::serve(locked, fds, (order, artifact), &Grounds { config, namespaces, warm, behaviour })
        }
        ((ToWorker::RunAndStay(order), given), Role::Run) => {
            let received = Instant::now();
            let ([artifact], input, source) = sorted(given, &order);
            tenant::serve(locked, fds, First { order, artifact, input, source, received }, warm, behaviour)
        }
        (
            (
                ToWorker::Run(_)
                | ToWorker::RunAndStay(_)
                | ToWorker::Compile(_)
                | ToWorker::Prepare(_)
                | ToWorker::Fork { .. },
                _,
            ),
            Role::Run | Role::RunFiles | Role::Compile | Role::Template,
        ) => exit_now(ORDER_STATUS),
    }
}

/// Lives the life of a template's fork, from its jail to its exit.
pub(crate) fn run_prepared(
    branch: Branch,
    fds: Settled,
    (prepared, mut orders): (Prepared, Orders),
    behaviour: &Behaviour,
) -> Infallible {
    let Settled { link, output, stdout_log, stderr_log, .. } = fds;
    let (ToWorker::Run(order), given) = orders.take(link) else { exit_now(ORDER_STATUS) };
    let ([], input, source) = sorted(given, &order);
    (behaviour.ordered)(&order, link);
    let compiled = wants_compiled(&order).then(Returned::default);
    let output = match &compiled {
        Some(place) => Sink::from(output).returning(place),
        None => output.into(),
    };
    let stdio = Stdio { input, source, output, stdout: stdout_log.into(), stderr: stderr_log.into() };
    let report = match (prepared.adopt(&order), branch.fit(order.limits.data_bytes)) {
        (Ok(loaded), Ok(sealed)) => {
            let mdwe = sealed.mdwe();
            let report = run::execute(loaded, Confinement::Sealed(sealed), stdio, &order);
            RunReport { mdwe, ..report }
        }
        (Err(report), _) => report,
        (_, Err(error)) => set_up_failed(&error),
    };
    match compiled {
        Some(compiled) => tell_compiled(link, report, &compiled),
        None => finish(link, report),
    }
}

/// Whether it is to be told what its script, which does not run, compiles to.
fn wants_compiled(order: &RunOrder) -> bool {
    let script = order.script.as_ref();
    script.is_some_and(|script| script.purpose == Purpose::Check && script.compiled == CompiledForm::Wanted)
}

/// Replies with what a script compiled to. Nobody waits for this process's end.
fn tell_compiled(link: Link, report: RunReport, compiled: &Returned) -> ! {
    let fits = |form: &&Vec<u8>| (1..=SCRIPT_FORM_BYTES_MAX).contains(&form.len());
    let form = compiled.get().filter(fits).map(|form| form.clone().into());
    reply(link, &FromWorker::CompiledScript(report, form));
    exit_now(0)
}

/// How long a worker stays after its reply, where nobody waits for its end: several times what it takes to pass the reply on,
/// and what the next short job takes if it follows at once. No setting: its memory is all that it costs, and the supervisor ends
/// it sooner where many reply.
const LINGER: Duration = Duration::from_millis(1);

/// Replies, and ends the process a little later; at once where the supervisor hangs up, who waits for its end then, and else
/// kills whatever lingers for longer.
///
/// The kernel takes longer to take a process apart than the supervisor to pass the result on, and whoever is woken on this
/// processor may have to wait for it: 100 to 200 µs of a job's 400, in nearly half of all jobs.
fn finish(link: Link, report: RunReport) -> ! {
    reply(link, &FromWorker::Finished(RunReport { usage: usage::so_far(), ..report }));
    if epoch::exit_after(LINGER).is_ok_and(|will| will) {
        let _ = nix::unistd::read(link.as_fd(), &mut [0]);
    }
    exit_now(0)
}

const fn name_of(role: Role) -> &'static std::ffi::CStr {
    // At most 15 bytes.
    match role {
        Role::Run => c"stockade:run",
        Role::RunFiles => c"stockade:files",
        Role::Compile => c"stockade:wasmc",
        Role::Template => c"stockade:templ",
    }
}

/// A worker's descriptors once they are at their numbers.
pub(crate) struct Settled {
    pub(crate) link: Link,
    /// `/dev/null`, at 1. Never closed, and neither is 0: the next descriptors to be opened would take their numbers.
    pub(crate) null: BorrowedFd<'static>,
    pub(crate) output: OwnedFd,
    pub(crate) stdout_log: OwnedFd,
    pub(crate) stderr_log: OwnedFd,
}

impl Settled {
    pub(crate) fn of(fds: WorkerFds) -> Self {
        let WorkerFds { null_input, null_output, stderr_log, link, output, stdout_log } = fds;
        // Leaked on purpose, see above.
        let _ = null_input.into_raw_fd();
        let null: &'static OwnedFd = Box::leak(Box::new(null_output));
        Self { link: Link::keep(link), null: null.as_fd(), output, stdout_log, stderr_log }
    }
}

fn lock(newborn: Newborn, birth: Birth<'_>) -> (Locked, Settled) {
    let Birth { order, pipes, config, namespaces, bounding, data_baseline_bytes, null, .. } = birth;
    let plan = Plan {
        role: order.role,
        limits: order.rlimits,
        data_baseline_bytes,
        identity: order.identity,
        directories: &order.directories,
        require: &config.require,
        landlock_abi_min: config.landlock_abi_min,
        supervisor_pid: config.supervisor_pid,
        namespaces,
        bounding,
    };
    let Some(fds) = worker_fds(pipes, null.as_fd()) else { exit_now(LOCK_FAILED_STATUS) };
    match jail::enter(newborn, fds, &plan) {
        Ok((locked, fds)) => (locked, Settled::of(fds)),
        Err(Refusal { error, fds }) => {
            if let Some(fds) = fds {
                // If it cannot be told, the exit status still says it.
                let _ = Settled::of(fds).link.send(&error.into_message());
            }
            exit_now(LOCK_FAILED_STATUS)
        }
    }
}

pub(crate) fn worker_fds(pipes: PipeEnds, null: BorrowedFd<'_>) -> Option<WorkerFds> {
    let PipeEnds { link, output, stdout_log, stderr_log } = pipes;
    let null_input = null.try_clone_to_owned().ok()?;
    let null_output = null.try_clone_to_owned().ok()?;
    Some(WorkerFds { null_input, null_output, stderr_log, link, output, stdout_log })
}

fn announce_panics(link: Link) {
    std::panic::set_hook(Box::new(move |info| {
        let mut text = info.to_string();
        text.truncate(text.floor_char_boundary(GUEST_TEXT_BYTES_MAX));
        // A panic must not become an abort: the calls of one are forbidden and would look like an escape.
        let _ = link.send(&FromWorker::Panicked(text));
        exit_now(PANICKED_STATUS)
    }));
}

/// Waits for the one order. Without one the worker was not needed, and ends.
fn take_order(link: Link) -> (ToWorker, Vec<OwnedFd>) {
    Orders::new().take(link)
}

/// What a usual order has, source and input of a script included, bytes.
const USUAL_ORDER_BYTES: usize = 4 << 10;

/// Where orders are received.
pub(crate) struct Orders {
    buffer: &'static mut [u8],
}

impl Orders {
    pub(crate) fn new() -> Self {
        // Never given back: that would be a system call in the way of the job.
        Self { buffer: Box::leak(vec![0; HEADER_BYTES + LINK_MESSAGE_BYTES_MAX].into_boxed_slice()) }
    }

    /// In a process that has nothing to do yet: does what each order makes it do first, to no effect, so that the job does not
    /// wait for the pages that this takes. Before its own, last filter; what its template has on must allow it.
    pub(crate) fn rehearse(&mut self) {
        // What is not had now is had when it is used.
        let _ = populate::for_writing(self.buffer.get_mut(..USUAL_ORDER_BYTES).unwrap_or_default());
        // Each length has its own place in the heap's books. Zeroes would be had without writing any.
        for bytes in [USUAL_ORDER_BYTES, USUAL_ORDER_BYTES / 4, USUAL_ORDER_BYTES / 64] {
            drop(black_box(vec![b' '; bytes]));
        }
        let _ = black_box((Instant::now(), str::from_utf8(black_box(&[0xc3, 0xa4]))));
        // Nothing of it is used.
        let _ = getrandom::fill(&mut [0]);
        // SIGTERM's timer is not to be stopped.
        if !epoch::stopping() {
            let _ = epoch::disarm();
        }
    }

    /// Waits for the next order. Ends the process when the supervisor has closed the link, or sent something else.
    pub(crate) fn take(&mut self, link: Link) -> (ToWorker, Vec<OwnedFd>) {
        self.take_with(link, LINK_FDS_MAX)
    }

    /// The same with another number of descriptors at most.
    pub(crate) fn take_with(&mut self, link: Link, fds_max: usize) -> (ToWorker, Vec<OwnedFd>) {
        let Ok(Received { length, fds }) = link::receive(link.0, self.buffer, fds_max) else {
            exit_now(ORDER_STATUS)
        };
        if length == 0 {
            exit_now(0)
        }
        let packet = self.buffer.get_mut(..length).unwrap_or_default();
        let order = frame::decode_packet(packet, LINK_MESSAGE_BYTES_MAX);
        // Of a job that is over nothing is to be found.
        packet.fill(0);
        match order {
            Ok(order) => (order, fds),
            Err(_) => exit_now(ORDER_STATUS),
        }
    }
}

/// What came with an order: first of all so many others, then the input and the source of a script, where they are not in it.
pub(crate) fn sorted<const N: usize>(
    mut given: Vec<OwnedFd>,
    order: &RunOrder,
) -> ([OwnedFd; N], Option<OwnedFd>, Option<OwnedFd>) {
    let script = order.script.as_ref();
    let taken = |given: &mut Vec<OwnedFd>, comes: bool| {
        comes.then(|| given.pop().unwrap_or_else(|| exit_now(ORDER_STATUS)))
    };
    let source =
        taken(&mut given, script.is_some_and(|script| matches!(script.source, ScriptSource::File { .. })));
    let input = taken(&mut given, script.is_none_or(|script| script.input.is_none()));
    (exactly(given), input, source)
}

pub(crate) fn exactly<const N: usize>(given: Vec<OwnedFd>) -> [OwnedFd; N] {
    given.try_into().unwrap_or_else(|_| exit_now(ORDER_STATUS))
}

pub(crate) fn reply(link: Link, message: &FromWorker) {
    if link.send(message).is_err() {
        exit_now(REPLY_STATUS)
    }
}

fn run_order(locked: Locked, order: RunOrder, fds: RunFds, warm: &Warm) -> Infallible {
    let RunFds { link, output, stdout_log, stderr_log, artifact, input, source } = fds;
    let stdio =
        Stdio { input, source, output: output.into(), stdout: stdout_log.into(), stderr: stderr_log.into() };
    let report = match run::load(warm, &order, artifact) {
        Ok(loaded) => run_sealed(locked, loaded, stdio, &order),
        Err(report) => report,
    };
    finish(link, report)
}

fn run_sealed(locked: Locked, loaded: Loaded, stdio: Stdio, order: &RunOrder) -> RunReport {
    if let Err(error) = loaded.arm() {
        return set_up_failed(&error);
    }
    match locked.seal(order.limits.data_bytes) {
        Ok(sealed) => {
            let mdwe = sealed.mdwe();
            let report = run::execute(loaded, Confinement::Sealed(sealed), stdio, order);
            RunReport { mdwe, ..report }
        }
        Err(error) => set_up_failed(&error),
    }
}

pub(crate) fn set_up_failed(error: &dyn std::error::Error) -> RunReport {
    let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    let mut text = format!("{error}{source}");
    text.truncate(text.floor_char_boundary(GUEST_TEXT_BYTES_MAX));
    RunReport {
        ending: Ending::SetupFailed(text),
        fuel: None,
        wasm_memory_peak_bytes: 0,
        growth_refused: false,
        load_us: 0,
        run_us: 0,
        mdwe: false,
        command: false,
        usage: None,
    }
}

fn compile_order(_locked: Locked, order: CompileOrder, fds: CompileFds, warm: &Warm) -> Infallible {
    let Some(module) = read_module(fds.module, order.module_bytes) else { exit_now(ORDER_STATUS) };
    let message = match crate::compile::compile(warm, &module, &order) {
        Ok((report, artifact)) => match File::from(fds.artifact).write_all(&artifact) {
            Ok(()) => FromWorker::Compiled(report),
            Err(_) => exit_now(ORDER_STATUS),
        },
        Err(failure) => FromWorker::NotCompiled(failure),
    };
    reply(fds.link, &message);
    exit_now(0)
}

/// Exactly `length` bytes; `None` when there are fewer, or more than any module has.
fn read_module(module: OwnedFd, length: u64) -> Option<Vec<u8>> {
    let length = usize::try_from(length).ok().filter(|length| *length <= MODULE_BYTES_MAX)?;
    let mut bytes = vec![0; length];
    File::from(module).read_exact(&mut bytes).ok()?;
    Some(bytes)
}
