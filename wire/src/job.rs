//! What a job is on the way in and on the way out, as clients and supervisor exchange it.
//!
//! Owns: [`Submission`] and [`JobResult`] and the vocabulary both use.
//! Never: decides an outcome, fills in a default.

use serde::{Deserialize, Serialize};

use crate::bytes::ByteBuf;

/// SHA-256 of a module's bytes as they were submitted.
pub type Digest = [u8; 32];

/// One job as a client asks for it. Everything in it is a wish; the supervisor decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    /// The code to run.
    pub module: ModuleSource,
    /// What people call the module, usually its file name; shown, never opened.
    pub name: String,
    /// Exported function to call; `None` means `_start` or, without one, the only function there is.
    pub entry: Option<String>,
    /// Arguments after the program's name.
    pub arguments: Vec<String>,
    /// Standard input of a command, or the bytes handed to a function. Empty when it comes as a descriptor.
    pub input: ByteBuf,
    /// Environment variables granted to the guest; it gets no others.
    pub environment: Vec<(String, String)>,
    /// Directories granted to the guest; it sees no others.
    pub directories: Vec<DirectoryGrant>,
    /// Name of a job profile the daemon knows; `None` means its default one.
    pub profile: Option<String>,
    /// Limits asked for where they differ from the profile's.
    pub limits: LimitsWanted,
    /// Process reuse the client would accept; the operator's floor may be stricter.
    pub isolation: Option<Isolation>,
    /// Sub-tenant within the caller's identity; never a way to become another caller.
    pub tenant: Option<String>,
    /// Layers without which the client does not want the job run, on top of the operator's.
    pub require: Vec<Layer>,
    /// W3C `traceparent` value to carry into logs and the result.
    pub traceparent: Option<String>,
    /// The client's own id for what it asks, for a script to read; nothing follows from it.
    pub request_id: Option<String>,
    /// What is to be done with the code.
    pub purpose: Purpose,
}

/// What is to be done with a job's code.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// Run it.
    #[default]
    Run,
    /// Run it, and have a script's log say when each line was written, what took how long and what memory was held.
    Debug,
    /// Say whether it can be run, and run none of it: a module is compiled, a script's syntax looked at.
    Check,
    /// As [`Purpose::Debug`], and have a script looked at while it runs: its CPU profile is its standard output's log.
    Profile,
}

/// Where the module's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModuleSource {
    /// The bytes themselves.
    Bytes(ByteBuf),
    /// The digest of a module the daemon has compiled before.
    Digest(Digest),
    /// The first of the descriptors that came with the frame: a sealed file in memory that holds the bytes.
    Descriptor,
}

/// A directory of the host made visible to the guest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DirectoryGrant {
    /// Absolute path on the host, without `..` and with no symbolic link in any part.
    pub host: String,
    /// Path under which the guest sees it.
    pub guest: String,
    /// Whether the guest may change what is below it.
    pub writable: bool,
}

/// Limits a client asks for. `None` takes the profile's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsWanted {
    /// Wall time for waiting, for a compiler and for a worker, and running together; compiling itself has limits of its
    /// own, µs.
    pub timeout_us: Option<u64>,
    /// Time between SIGTERM and SIGKILL, µs.
    pub grace_us: Option<u64>,
    /// Sum of the guest's memories and tables, bytes.
    pub memory_bytes: Option<u64>,
    /// Wasm fuel: about one unit an instruction.
    pub fuel: Option<u64>,
    /// CPU time of the worker, user and system, µs.
    pub cpu_us: Option<u64>,
    /// Most bytes of output.
    pub output_bytes: Option<u64>,
    /// Size of each log ring, bytes.
    pub log_bytes: Option<u64>,
}

/// Whether the process that runs a job may have run, or may yet run, another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// A process that has never run a job and never runs another.
    Fresh,
    /// A process reused for the same tenant and module, a fresh instance each time.
    Tenant,
    /// The developer's mode: the supervisor's own process, no jail.
    #[serde(rename = "in-process")]
    InProcess,
}

/// A wall that can be required by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// Syscall allow-list, the process dies on anything else.
    Seccomp,
    /// Landlock at the configured ABI, all rights handled.
    Landlock,
    /// A cgroup v2 leaf with memory, pids and cpu controllers.
    Cgroup,
    /// Network, IPC and UTS namespaces apart from the host's.
    Namespaces,
    /// `PR_SET_NO_NEW_PRIVS`.
    NoNewPrivs,
    /// Resource limits.
    Rlimits,
    /// No capability in any set.
    Capabilities,
    /// `PR_SET_MDWE`: nothing becomes executable after loading, besides seccomp's refusal.
    Mdwe,
}

impl Layer {
    /// Every layer, in the order `doctor` and messages list them.
    pub const ALL: [Self; 8] = [
        Self::Seccomp,
        Self::Landlock,
        Self::Cgroup,
        Self::Namespaces,
        Self::NoNewPrivs,
        Self::Rlimits,
        Self::Capabilities,
        Self::Mdwe,
    ];

    /// The name used in configuration, on the command line and in results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Seccomp => "seccomp",
            Self::Landlock => "landlock",
            Self::Cgroup => "cgroup",
            Self::Namespaces => "namespaces",
            Self::NoNewPrivs => "no-new-privs",
            Self::Rlimits => "rlimits",
            Self::Capabilities => "capabilities",
            Self::Mdwe => "mdwe",
        }
    }
}

/// How a job ended, in one word. Documented in `docs/result.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The guest ran to its end and said all is well.
    Completed,
    /// The guest ran to its end and said it failed.
    GuestError,
    /// Wasm trapped.
    Trapped,
    /// Deadline or CPU time reached.
    TimedOut,
    /// Fuel used up.
    OutOfFuel,
    /// Memory limit reached, Wasm's or the kernel's.
    OutOfMemory,
    /// More output than allowed.
    OutputLimit,
    /// Somebody asked for it.
    Cancelled,
    /// The worker did what the jail forbids.
    JailViolation,
    /// Not a module that can run here.
    InvalidModule,
    /// Compiling it exceeded a limit.
    CompileLimit,
    /// Refused before it ran.
    Denied,
    /// The worker went away without a reason of its own.
    WorkerLost,
    /// Stockade failed.
    Internal,
}

/// Which rung of the kill ladder ended the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The trap inside the guest: by the epoch, or where a script asked.
    Epoch,
    /// SIGTERM, with SIGCONT so that a stopped worker sees it.
    Sigterm,
    /// SIGKILL by pidfd, and `cgroup.kill` where there is a leaf.
    Sigkill,
}

/// Who has to act for it not to happen again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Blame {
    /// The code that was run, or what it was given.
    Guest,
    /// Who configures or runs the daemon, or submitted the job.
    Operator,
    /// Stockade.
    Platform,
    /// The evidence fits more than one.
    Ambiguous,
}

/// How a job ended and why. Set once; the first cause wins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// In one word.
    pub verdict: Verdict,
    /// A finer, stable code, such as `unreachable`, `epoch_deadline` or `seccomp:socket`.
    pub reason: Option<String>,
    /// Set when Stockade ended the job.
    pub stage: Option<Stage>,
    /// Set when it did not complete.
    pub blame: Option<Blame>,
    /// Whether the same submission may well succeed if made again.
    pub retriable: bool,
    /// One sentence for a person. May hold guest text, with control characters made harmless.
    pub message: Option<String>,
}

/// The error a script ended with. All of it is guest text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptError {
    /// The error's name, such as `TypeError`; `Uncaught` for a thrown value that is no error.
    pub name: String,
    /// The error's message.
    pub message: String,
    /// What `line` and `column` are places in: the script's name, or `input`.
    pub file: Option<String>,
    /// Line, counted from 1.
    pub line: Option<u32>,
    /// Column, counted from 1.
    pub column: Option<u32>,
    /// The script's own frames, innermost first, one a line.
    pub stack: String,
}

/// What the job used. A figure that could not be measured is `None`, never 0.
///
/// The worker's figures are what the kernel said of its process, or of its leaf, at its end. Of a process whose end the result
/// did not wait for they go to its reply: CPU time in all is what the kernel's clock of that process says, and its split, its
/// peak memory and its page faults are what the kernel had told the process (`getrusage`), by the process's own word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bill {
    /// Submission to the end of the job, µs.
    pub wall_us: Option<u64>,
    /// Waiting for a compiler, if one was needed, and for a place, µs.
    pub queue_us: Option<u64>,
    /// Having the module compiled, or finding it compiled, µs; near 0 when it was cached.
    pub compile_us: Option<u64>,
    /// Getting a locked worker, µs; near 0 when one was warm.
    pub fork_us: Option<u64>,
    /// Mapping the compiled module and instantiating it, µs.
    pub load_us: Option<u64>,
    /// Running guest code, µs.
    pub run_us: Option<u64>,
    /// End of the run to the worker's exit, µs; `None` where the result did not wait for that.
    pub teardown_us: Option<u64>,
    /// The worker's CPU time in user mode, µs: with `cpu_system_us` the kernel's count, split by the kernel, or by what it told
    /// a process that was not waited for. Of a tenant worker, all that it used for the job, in user mode and in the kernel.
    pub cpu_user_us: Option<u64>,
    /// The worker's CPU time in the kernel, µs, as `cpu_user_us`; `None` of a tenant worker.
    pub cpu_system_us: Option<u64>,
    /// The worker's peak memory, bytes: the leaf's `memory.peak`, else its peak resident set, by its own word where it was not
    /// waited for.
    pub memory_peak_bytes: Option<u64>,
    /// Peak of the guest's memories and tables together, bytes.
    pub wasm_memory_peak_bytes: Option<u64>,
    /// The worker's page faults, minor and major; by its own word where it was not waited for.
    pub page_faults: Option<u64>,
    /// Fuel used; `None` unless a fuel limit was set.
    pub fuel: Option<u64>,
    /// Calls out of the sandbox that were answered by the broker.
    pub host_calls: Option<u64>,
    /// Bytes of input handed over.
    pub input_bytes: Option<u64>,
    /// Bytes of output received.
    pub output_bytes: Option<u64>,
    /// Bytes written to the logs, kept or dropped.
    pub log_bytes: Option<u64>,
}

/// The guest's logs as they were kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logs {
    /// Tail of standard output; empty for a command, whose standard output is the job's output.
    pub stdout: ByteBuf,
    /// Tail of standard error.
    pub stderr: ByteBuf,
    /// Bytes that fell off, both streams.
    pub dropped_bytes: u64,
    /// Lines that fell off whole or in part, both streams.
    pub dropped_lines: u64,
}

/// A layer that did not hold, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingLayer {
    /// Its name, as in [`Layer::name`].
    pub layer: String,
    /// Why it is missing.
    pub reason: String,
    /// How to get it.
    pub fix: String,
}

/// The walls that held while the job ran.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walls {
    /// `kill` when the syscall allow-list was in force.
    pub seccomp: Option<String>,
    /// Landlock ABI in force.
    pub landlock_abi: Option<u32>,
    /// Controllers of the job's own cgroup leaf.
    pub cgroup: Vec<String>,
    /// Namespaces apart from the host's.
    pub namespaces: Vec<String>,
    /// `PR_SET_NO_NEW_PRIVS` was set.
    pub no_new_privs: bool,
    /// No capability was left in any set.
    pub capabilities_dropped: bool,
    /// Resource limits in force, by name.
    pub rlimits: Vec<String>,
    /// Memory could not be made executable after loading: `PR_SET_MDWE` was set.
    pub mdwe: bool,
    /// User id the worker ran as.
    pub uid: Option<u32>,
    /// The process had never run another job, and runs no other: not a tenant worker.
    pub fresh_process: bool,
    /// What did not hold.
    pub missing: Vec<MissingLayer>,
}

/// Everything there is to say about a job that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobResult {
    /// The job's id, a ULID.
    pub job: String,
    /// Whose it was.
    pub tenant: String,
    /// Digest of the module; all zero when the job was denied before one was known.
    pub module: Digest,
    /// Isolation it got.
    pub isolation: Isolation,
    /// How it ended.
    pub outcome: Outcome,
    /// The guest's own exit status, where it had one.
    pub exit_code: Option<i32>,
    /// The error a script ended with.
    pub error: Option<ScriptError>,
    /// A command's standard output, or a function's returned value.
    pub output: ByteBuf,
    /// The guest's logs.
    pub logs: Logs,
    /// What it used.
    pub bill: Bill,
    /// What confined it.
    pub jail: Walls,
    /// Trace id of the submission's `traceparent`.
    pub trace_id: Option<String>,
}

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Admitted, waiting for a compiler or for a place.
    Queued,
    /// Its module is being compiled, or looked for.
    Compiling,
    /// On a worker.
    Running,
    /// Told to end, not gone yet.
    Stopping,
    /// Over; its result is kept for a while.
    Finished,
}

/// One line of `stockade ps`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSummary {
    /// The job's id.
    pub job: String,
    /// Whose it is.
    pub tenant: String,
    /// What people call its module.
    pub name: String,
    /// Where it is.
    pub phase: Phase,
    /// How it ended, once it has.
    pub verdict: Option<Verdict>,
    /// Time since it was admitted, µs.
    pub age_us: u64,
}

/// One of the guest's two log streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}
