//! Supervisor ⇄ worker, over the worker's link: a `SOCK_SEQPACKET` pair, one frame a packet.
//!
//! Owns: the orders a worker takes and the reports it makes.
//! Never: carries a job, tenant or worker id that anything follows from. Whose message it is follows from the link it came
//! on; a script is told its own ids, as it is told its input.
//!
//! ```text
//! worker                          supervisor
//!   │ ── Locked(JailReport) ───────▶ │   checks from outside, then lends the worker out
//!   │ ◀──────────── Compile | Run ── │   exactly one order in a worker's life
//!   │ ── Compiled | Finished ──────▶ │   exactly one reply
//!   ✕ exits                          │   the exit status is what is believed
//!
//! of a script, ahead              supervisor
//!   │ ◀───────────────────────── Run │   to check it, and to tell what it compiles to
//!   │ ── CompiledScript ───────────▶ │   once; kept for jobs of that script and that user alone
//!   ✕ is killed                      │
//!
//! tenant worker                   supervisor
//!   │ ── Locked(JailReport) ───────▶ │
//!   │ ◀─────────────── RunAndStay ── │   once: the module it will have, and the first job
//!   │ ── Finished ─────────────────▶ │
//!   │ ◀────────────────────── Run ── │   any number of times, each after the reply to the one before
//!   │ ── Finished | Returned ──────▶ │   exactly one reply to each
//!   ✕ is killed                      │   when it is not to be used again
//!
//! template                        supervisor
//!   │ ── Locked(JailReport) ───────▶ │
//!   │ ◀──────────────────── Prepare │   once: the module its forks will have
//!   │ ── Prepared | NotPrepared ───▶ │
//!   │ ◀──────────────────────── Fork │   any number of times, with new workers' descriptors
//!   │ ── Forked | NotForked ───────▶ │   each is a worker like any other, with a link of its own, but that it
//!   │                                │   begins with its order where it is not to report
//! ```

use serde::{Deserialize, Serialize};

use crate::bytes::ByteBuf;
use crate::job::{Layer, MissingLayer, Purpose, ScriptError};

/// What a worker is forked for; decides its syscall allow-lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Runs one job without any file.
    Run,
    /// Runs one job with granted directories.
    RunFiles,
    /// Compiles one module.
    Compile,
    /// Loads one module, runs none of it, and forks run workers that have it.
    Template,
}

/// Supervisor to worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWorker {
    /// Compile. Descriptors: the module (readable), the artifact (an empty writable memfd).
    Compile(CompileOrder),
    /// Run. Descriptors: the artifact (sealed memfd), the input (readable); to a worker that has its module already
    /// (a template forked it, or it was told to stay) the input alone; to one that was told to stay not even that when
    /// [`RunLimits::input_bytes`] is 0 and it is for no script. For a script its source (readable) comes last. A script's input
    /// and source that are in the [`ScriptOrder`] come in no descriptor.
    Run(RunOrder),
    /// Run, and stay for further [`ToWorker::Run`]s of the same tenant with the same module and the same
    /// [`RunLimits::memory_bytes`] and [`RunLimits::data_bytes`]. Descriptors: the artifact (sealed memfd), the input
    /// (readable), a script's as for [`ToWorker::Run`]. Only to a worker of role [`Role::Run`], without a fuel limit.
    RunAndStay(RunOrder),
    /// To a template, once: load this module. Descriptor: the artifact (sealed memfd).
    Prepare(PrepareOrder),
    /// To a template: fork run workers. Descriptors as for [`crate::zygote::ToZygote::Fork`], for one after the other.
    Fork {
        /// How many, from 1 to [`FORKS_MAX`](crate::limits::FORKS_MAX).
        workers: u32,
        /// A leaf's directory is among the descriptors of each; it is born there.
        into_leaf: bool,
        /// Each looks at itself and sends [`FromWorker::Locked`] before it takes its order. One that is not to report what
        /// it cannot but inherit says nothing before its reply, unless it could not lock itself.
        reporting: bool,
    },
}

/// Order to a compile worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompileOrder {
    /// Length of the module, bytes.
    pub module_bytes: u64,
    /// Most bytes the artifact may have.
    pub artifact_bytes_max: u64,
    /// Whether the module is WebAssembly text; seen from its first bytes.
    pub text: bool,
    /// Whether the artifact is to count fuel. Metered code is slower, so it is a variant of its own: a run
    /// with [`RunLimits::fuel`] needs a metered artifact and a run without it an unmetered one.
    pub fuel: bool,
    /// It is the JavaScript engine, whose artifact is of another engine than that of a module that somebody submitted.
    pub engine: bool,
}

/// Order to a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrepareOrder {
    /// A function the module must export; `None`: any module will do.
    pub entry: Option<String>,
    /// It is the JavaScript engine, of our own making, whose instances begin set up.
    pub engine: bool,
    /// Time a module that says that it may be initialised ahead has for that, µs; 0: it is not.
    pub initialise_us: u64,
    /// Most that its memories and tables may come to then, bytes.
    pub initialise_bytes: u64,
}

/// Order to a run worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunOrder {
    /// What the guest sees as its own name (`argv[0]`).
    pub name: String,
    /// Exported function to call; `None` means `_start` or the only function there is.
    pub entry: Option<String>,
    /// Arguments after the name.
    pub arguments: Vec<String>,
    /// Environment variables.
    pub environment: Vec<(String, String)>,
    /// What it may use.
    pub limits: RunLimits,
    /// The script to run, where the artifact is the JavaScript engine.
    pub script: Option<ScriptOrder>,
}

/// A script for the JavaScript engine. With [`RunOrder::entry`] it is a module and that is the export to call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptOrder {
    /// The source.
    pub source: ScriptSource,
    /// The input, where it came in the client's frame and is no longer than
    /// [`SCRIPT_TEXT_BYTES_MAX`](crate::limits::SCRIPT_TEXT_BYTES_MAX); otherwise it comes as a descriptor.
    pub input: Option<ByteBuf>,
    /// The job's id, for the script to read.
    pub job: String,
    /// The job's tenant, for the script to read.
    pub tenant: String,
    /// W3C trace context, for the script to read.
    pub traceparent: Option<String>,
    /// The client's own id for it, for the script to read.
    pub request_id: Option<String>,
    /// What is to be done with it.
    pub purpose: Purpose,
    /// What it compiles to. A worker that stays keeps that for itself, and looks at this no more than who debugs does.
    pub compiled: CompiledForm,
}

/// What is known of the form that the engine compiles a script to, which nobody else looks into.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CompiledForm {
    /// Nothing, and nobody asks.
    #[default]
    No,
    /// It is to be told, with [`FromWorker::CompiledScript`]: of a script that is looked at only ([`Purpose::Check`]), so that
    /// the process which makes it sees the source and nothing else.
    Wanted,
    /// This, for a script that is to be run: the engine made it of this very source, under this name, as a module or not. No
    /// longer than [`SCRIPT_FORM_BYTES_MAX`](crate::limits::SCRIPT_FORM_BYTES_MAX).
    Kept(ByteBuf),
}

/// Where a script's source is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScriptSource {
    /// Here: it is no longer than [`SCRIPT_TEXT_BYTES_MAX`](crate::limits::SCRIPT_TEXT_BYTES_MAX).
    Here(ByteBuf),
    /// In the last of the files that come with the order.
    File {
        /// Its length.
        bytes: u64,
    },
}

/// What one run may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunLimits {
    /// Time until the deadline, counted from the receipt of the order, µs.
    pub deadline_us: u64,
    /// Sum of the store's memories and tables, bytes.
    pub memory_bytes: u64,
    /// Private writable memory of the process above what its zygote has, bytes: `RLIMIT_DATA` is lowered to that.
    pub data_bytes: u64,
    /// Fuel; `None` leaves it unmetered.
    pub fuel: Option<u64>,
    /// Length of the input, bytes, when it is known (a function needs it; a stream has none).
    pub input_bytes: Option<u64>,
}

/// Worker to supervisor. Believed only as far as the kernel cannot contradict it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromWorker {
    /// The jail is on; ready for an order.
    Locked(JailReport),
    /// The jail could not be put on; the worker exits.
    LockFailed(MissingLayer),
    /// A directory it was to be locked with cannot be had, and why; the worker exits.
    NotGranted(String),
    /// The artifact is in its memfd.
    Compiled(CompileReport),
    /// The module cannot be compiled.
    NotCompiled(CompileFailure),
    /// The run is over.
    Finished(RunReport),
    /// The same from a worker that stays, with what the function it ran returned: at most
    /// [`RETURNED_BYTES_MAX`](crate::limits::RETURNED_BYTES_MAX) bytes, which are not in the output pipe.
    Returned(RunReport, ByteBuf),
    /// The same from a worker that was to tell what its script compiles to ([`CompiledForm::Wanted`]): at most
    /// [`SCRIPT_FORM_BYTES_MAX`](crate::limits::SCRIPT_FORM_BYTES_MAX) bytes; `None` where there is nothing to keep.
    CompiledScript(RunReport, Option<ByteBuf>),
    /// The allow-list was hit; the kernel kills the worker next. Syscall number, this architecture's.
    Forbidden(u32),
    /// The worker's own code panicked.
    Panicked(String),
    /// The template has its module and may be told to fork.
    Prepared {
        /// There is an instance already. Without one (the module has a start function, which is guest code) each
        /// fork makes its own.
        live: bool,
        /// The instance has run its initialiser.
        initialised: bool,
    },
    /// The template cannot load this module; why. It exits.
    NotPrepared(String),
    /// Forked. One descriptor for each: its pidfd. The workers are the supervisor's children.
    Forked {
        /// Their process ids; fewer than ordered when the next could not be forked.
        pids: Vec<u32>,
    },
    /// Not one was forked; the template lives.
    NotForked {
        /// Error number of what failed.
        errno: i32,
    },
}

/// What a worker found when it looked at itself after locking.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JailReport {
    /// Landlock ABI whose rights are all handled; 0 when Landlock is not in force.
    pub landlock_abi: u32,
    /// Namespaces entered (`net`, `ipc`, `uts`, `user`).
    pub namespaces: Vec<String>,
    /// Resource limits read back: name and value.
    pub rlimits: Vec<(String, u64)>,
    /// `PR_GET_NO_NEW_PRIVS`.
    pub no_new_privs: bool,
    /// `PR_GET_DUMPABLE` is 0.
    pub not_dumpable: bool,
    /// `PR_GET_SECCOMP`: 2 is a filter, whoever installed it.
    pub seccomp_mode: u32,
    /// Its own allow-list is among the filters.
    pub seccomp_filtered: bool,
    /// All capability sets are empty.
    pub capabilities_empty: bool,
    /// Open descriptors.
    pub open_fds: Vec<u32>,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Layers that are not in force and were not required.
    pub missing: Vec<MissingLayer>,
}

impl JailReport {
    /// Whether it lists `layer` as missing.
    #[must_use]
    pub fn lacks(&self, layer: Layer) -> bool {
        self.missing.iter().any(|missing| missing.layer == layer.name())
    }
}

/// What kind of guest an artifact holds, as the compile worker saw it. Shown, never relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestKind {
    /// A core module with `_start`.
    WasiCommand,
    /// A core module without one.
    CoreModule,
    /// A component.
    Component,
}

/// A compilation that worked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompileReport {
    /// What it is.
    pub kind: GuestKind,
    /// Bytes written to the artifact.
    pub artifact_bytes: u64,
}

/// A compilation that did not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompileFailure {
    /// Whose limit or rule.
    pub kind: CompileFailureKind,
    /// Stable code, such as `malformed`, `unsupported_feature`, `artifact_too_large`.
    pub reason: CompileReason,
    /// The compiler's words; guest text.
    pub message: String,
}

/// Which verdict a failed compilation becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CompileFailureKind {
    /// `invalid_module`
    Invalid,
    /// `compile_limit`
    Limit,
}

/// Why a module was not compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompileReason {
    /// Not well-formed or not valid Wasm.
    Malformed,
    /// Not well-formed WebAssembly text.
    MalformedText,
    /// A compiled artifact was offered where Wasm belongs.
    Precompiled,
    /// Neither Wasm nor WebAssembly text.
    Unrecognised,
    /// Valid Wasm of a proposal that is switched off (threads, 64-bit memory, garbage collection…).
    UnsupportedFeature,
    /// More functions, locals, types or code than the compiler takes.
    TooComplex,
    /// The artifact would be larger than allowed.
    ArtifactTooLarge,
}

/// How a run ended, as the worker saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunReport {
    /// How it ended.
    pub ending: Ending,
    /// Fuel used, when it was metered.
    pub fuel: Option<u64>,
    /// Peak of the store's memories and tables, bytes.
    pub wasm_memory_peak_bytes: u64,
    /// A growth was refused by the memory limit.
    pub growth_refused: bool,
    /// Mapping the artifact and instantiating, µs.
    pub load_us: u64,
    /// Running guest code, µs.
    pub run_us: u64,
    /// `PR_SET_MDWE` took hold after loading.
    pub mdwe: bool,
    /// Whether the standard output was the job's output (a command) or a log (a function).
    pub command: bool,
    /// What the kernel told the worker that it had used when it replied; `None` where it runs further jobs.
    pub usage: Option<Usage>,
}

/// What a process has used since its birth, as `getrusage(2)` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time in user mode, µs.
    pub cpu_user_us: u64,
    /// CPU time in the kernel, µs.
    pub cpu_system_us: u64,
    /// Peak resident set, bytes.
    pub resident_peak_bytes: u64,
    /// Page faults, minor and major.
    pub page_faults: u64,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// A command exited, or a function returned (then 0).
    Exited(i32),
    /// A function said it failed; its own words, guest text.
    Failed(String),
    /// A script failed, or is none.
    Script(ScriptFault, Box<ScriptError>),
    /// Wasm trapped. The code is [`TrapCode`]; the text is guest text (function names).
    Trapped(TrapCode, String),
    /// The epoch deadline or SIGTERM stopped it.
    Interrupted,
    /// Fuel used up.
    OutOfFuel,
    /// The declared minimum of its memories or tables is above the limit; bytes wanted.
    MemoryRefused(u64),
    /// It cannot be linked or has no such entry; guest text.
    Unlinkable(LinkFault, String),
    /// The run could not be set up for a reason that is not the guest's.
    SetupFailed(String),
}

/// Why a script did not end well, as a stable code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScriptFault {
    /// The source is not UTF-8, or larger than any may be.
    Source,
    /// It threw, or a promise was rejected and nobody looked.
    Thrown,
    /// It is not JavaScript of the form that was asked for.
    Syntax,
    /// The module exports no such function.
    NoEntry,
    /// The result is a promise that nothing is left to settle.
    NeverSettled,
    /// The result is not JSON.
    OutputNotJson,
    /// The input is not JSON.
    InputNotJson,
    /// It asked for a module to import.
    ImportRefused,
    /// It needed more memory than it may have.
    OutOfMemory,
    /// It called too deep.
    StackOverflow,
}

/// What about a module does not fit its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkFault {
    /// An import that is not offered, or with another signature.
    UnknownImport,
    /// No such export, or no way to choose one.
    NoEntry,
    /// The entry's signature is not one that can be called.
    EntrySignature,
    /// Arguments that do not fit the entry's signature.
    Arguments,
    /// More instances, memories or tables than a job may have.
    TooLarge,
}

/// A Wasm trap, as a stable code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrapCode {
    /// `unreachable` executed.
    Unreachable,
    /// Call stack exhausted.
    StackOverflow,
    /// Memory access out of bounds.
    MemoryOutOfBounds,
    /// Table access out of bounds.
    TableOutOfBounds,
    /// Indirect call through a null entry.
    IndirectCallToNull,
    /// Indirect call with another signature.
    BadSignature,
    /// Integer overflow.
    IntegerOverflow,
    /// Division by zero.
    DivisionByZero,
    /// Float to integer conversion out of range.
    BadConversionToInteger,
    /// Misaligned or otherwise.
    Other,
}
