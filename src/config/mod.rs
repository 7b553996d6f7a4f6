//! What the operator decides: one file, embedded defaults, and an environment variable for every setting.
//!
//! Owns: [`Config`], validated once and never changed afterwards, in plain types with units.
//! Never: looks at the machine beyond reading the one file; whether a wall exists is `doctor`'s business.
//!
//! Precedence, weakest first: the defaults in `policies/stockade.toml` and `policies/profiles/`, the file,
//! the environment (`RUST_LOG` below all of `STOCKADE_*`). Every setting is described once, in `schema.rs`; the file reader, the environment reader
//! and `config check` all follow from that description.

mod build;
mod describe;
mod error;
mod layers;
mod limits;
mod load;
mod profile;
mod reload;
mod rules;
mod schema;
#[cfg(test)]
mod tests;
pub mod units;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use stockade_wire::job::Layer;
use stockade_wire::zygote::NamespacePolicy;

pub use describe::{Described, settings};
pub use error::{ConfigError, FileRole, Origin};
pub use limits::{LimitError, effective_limits};
pub use load::{Effective, Inspection, inspect};
pub use profile::{ProfileFile, ProfileFileError};
pub use reload::{InForce, Reload};
pub(crate) use schema::nearest as nearest_name;

/// The whole configuration. `docs/configuration.md` and `policies/stockade.toml` describe every setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Whether jobs run in jailed workers or, for developers, in the supervisor's own process.
    pub mode: Mode,
    /// The operator says that this is no developer's machine; refuses what is only for developers.
    pub production: bool,
    /// The daemon's socket; `None` takes the runtime directory.
    pub socket: Option<PathBuf>,
    /// Profile of jobs that name none; always a key of `profiles`.
    pub default_profile: String,
    /// Workers and the zygote.
    pub pool: Pool,
    /// When memory counts as scarce.
    pub pressure: Pressure,
    /// Jobs that wait.
    pub queue: Queue,
    /// The walls of every worker.
    pub jail: Jail,
    /// Leaves of the cgroup tree.
    pub cgroup: Cgroup,
    /// Limits above which no job may ask.
    pub ceilings: Ceilings,
    /// Limits of one compilation.
    pub compile: Compile,
    /// Compiled modules kept.
    pub cache: Cache,
    /// Results of ended jobs kept.
    pub results: Results,
    /// The journal of durable jobs.
    pub durable: Durable,
    /// Limits of the daemon's clients.
    pub clients: Clients,
    /// What clients may grant to their jobs.
    pub grants: Grants,
    /// The daemon's own log.
    pub log: Log,
    /// The kill ladder.
    pub kill: Kill,
    /// Job profiles by name.
    pub profiles: BTreeMap<String, Profile>,
    /// Modules held ready from the start, by name.
    pub warm_up: BTreeMap<String, WarmUp>,
}

/// Where jobs run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// In jailed worker processes.
    Jailed,
    /// In the supervisor's process, without a jail: for developers.
    InProcess,
}

/// Workers and the zygote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Run workers that stand ready, forked and locked ahead of need, when nobody asks for any.
    pub warm: usize,
    /// Most of them when many are asked for; at most `warm`: there are never more than that.
    pub warm_max: usize,
    /// Most jobs that run at once.
    pub workers_max: usize,
    /// Memory, bytes, from which on a process that took it for its job is waited for before the result is given out.
    pub unawaited_bytes_max: u64,
    /// How long the supervisor looks for the end of a job, the only one that runs, before it sleeps.
    pub spin: Duration,
    /// Most compilations at once.
    pub compilers_max: usize,
    /// Most templates: processes that hold a module which is asked for often, to fork from. None: never make one.
    pub templates_max: usize,
    /// Workers that stand ready by each template when few are asked for.
    pub template_ready: usize,
    /// Most of them when many are asked for; at most `template_ready`: there are never more than that.
    pub template_ready_max: usize,
    /// Workers with the JavaScript engine that stand ready from the start; 0: it gets its template with the first script.
    pub script_ready: usize,
    /// Times a caller's module is asked for, each within `template_idle` of the last, before it gets a template.
    pub template_after: u32,
    /// Time after which a template nobody asked for is given up.
    pub template_idle: Duration,
    /// Most workers of all kinds together that stand ready.
    pub ready_max: usize,
    /// Most private memory of them together, bytes.
    pub ready_bytes_max: u64,
    /// Which of the modules that say that they may be are initialised in their templates.
    pub initialise: Initialise,
    /// Time such a module has for that.
    pub initialise_time: Duration,
    /// Most that its memories and tables may come to then, bytes.
    pub initialise_bytes: u64,
    /// The least isolation a job is given, whatever it would accept.
    pub isolation_floor: IsolationFloor,
    /// Most tenant workers: processes that run one job after another of one tenant with one module. None: never make
    /// one.
    pub tenant_workers_max: usize,
    /// Of those, one user's.
    pub tenant_workers_per_user_max: usize,
    /// Jobs after which a tenant worker is replaced.
    pub tenant_jobs_max: u64,
    /// Age at which a tenant worker is replaced.
    pub tenant_age: Duration,
    /// Time after which a tenant worker nobody asked for is given up.
    pub tenant_idle: Duration,
    /// How long a job waits for a worker of its tenant's that another job has.
    pub tenant_wait: Duration,
    /// Most memory that a tenant worker keeps scripts and what they compiled to in, bytes. None: it keeps none.
    pub tenant_scripts_bytes_max: u64,
    /// Time a worker has from its fork to its report that it is locked.
    pub lock_timeout: Duration,
    /// Of so many workers that are forked with their module one is looked at from outside.
    pub inspect_every: usize,
    /// Forks after which the zygote is exec'd afresh, for a new address layout.
    pub zygote_forks_max: u64,
    /// Most starts of the zygote in `restart_window` before the circuit opens.
    pub restart_burst: u32,
    /// Window in which restarts and lost workers are counted.
    pub restart_window: Duration,
    /// Workers lost before or while locking, in `restart_window`, that open the circuit.
    pub worker_failures_max: u32,
}

/// Which modules are initialised in their templates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Initialise {
    /// None.
    Never,
    /// Those that the operator lists in `warm_up`.
    Listed,
    /// Any.
    Any,
}

/// When memory counts as scarce, so that no more workers stand ready than must.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pressure {
    /// Where the kernel says it.
    pub file: PressureFile,
    /// How often it is read.
    pub interval: Duration,
    /// Share of time in hundredths, within an interval, in which some process waited for memory, from which it counts.
    pub high_percent: u64,
    /// The share down to which it is over.
    pub low_percent: u64,
    /// Time for which it must be over before more workers stand ready again.
    pub calm: Duration,
}

/// Where the kernel says how scarce memory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PressureFile {
    /// In the supervisor's own tree of cgroups, where it has one; else for the whole machine.
    Auto,
    /// Nowhere: it never counts as scarce.
    Off,
    /// In this file.
    Path(PathBuf),
}

/// A module held ready from the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarmUp {
    /// Where it is; absolute.
    pub module: PathBuf,
    /// A function it must export.
    pub entry: Option<String>,
    /// Whose jobs it is held for; none: the daemon's own user's.
    pub uids: BTreeSet<u32>,
    /// Workers that stand ready for each of them at least.
    pub ready: usize,
    /// Without it the daemon does not start.
    pub required: bool,
}

/// How little isolation a job may be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IsolationFloor {
    /// Every job has a process of its own.
    Fresh,
    /// A job that asks for it may share a process with others of its tenant and module, one after another.
    Tenant,
}

/// Jobs that wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Most jobs admitted and not over.
    pub jobs_max: usize,
    /// Most bytes of modules and inputs held for them.
    pub bytes_max: u64,
    /// Most jobs of one caller (uid) admitted and not over.
    pub jobs_per_caller_max: usize,
    /// Most files in memory that clients sent, modules and inputs, held open for them.
    pub files_max: usize,
    /// Of those, most of one caller (uid).
    pub files_per_caller_max: usize,
}

/// The walls of every worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jail {
    /// Layers whose absence is a refusal to start.
    pub require: BTreeSet<Layer>,
    /// Landlock ABI below which a worker refuses to lock; 0 accepts a kernel without Landlock.
    pub landlock_abi_min: u32,
    /// Whether to enter namespaces.
    pub namespaces: NamespacePolicy,
    /// `RLIMIT_NOFILE` of a worker.
    pub open_files: u64,
    /// `RLIMIT_FSIZE` of a worker, bytes.
    pub file_bytes: u64,
    /// Ids a worker takes on when the supervisor runs as root.
    pub run_as: RunAs,
    /// Added to a job's memory limit for `RLIMIT_DATA`, bytes.
    pub data_headroom_bytes: u64,
}

impl Jail {
    /// Private memory of a worker with a job of that memory limit, above what it has before any job, bytes.
    #[must_use]
    pub const fn data_bytes(&self, memory_bytes: u64) -> u64 {
        memory_bytes.saturating_add(self.data_headroom_bytes)
    }
}

/// Ids of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunAs {
    /// User id; never 0.
    pub uid: u32,
    /// Group id; never 0.
    pub gid: u32,
}

/// Leaves of the cgroup tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    /// Where leaves are made.
    pub root: CgroupRoot,
    /// `pids.max` of a leaf.
    pub pids_max: u64,
    /// Added to a job's memory limit for `memory.max`, bytes.
    pub memory_headroom_bytes: u64,
    /// `cpu.weight` of a leaf, 1 to 10000.
    pub cpu_weight: u64,
    /// `cpu.max` of a leaf, in hundredths of one processor; `None` sets none.
    pub cpu_max_percent: Option<u64>,
    /// Limits of all jobs of one caller together.
    pub callers: CallerLimits,
}

/// Limits of all jobs of one caller together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CallerLimits {
    /// `memory.max`, bytes. Swap is not allowed at all.
    pub memory_bytes: Option<u64>,
    /// `pids.max`: threads count.
    pub pids_max: Option<u64>,
    /// `cpu.max`, in hundredths of one processor.
    pub cpu_max_percent: Option<u64>,
    /// `cpu.weight`, 1 to 10000, against the other callers.
    pub cpu_weight: Option<u64>,
}

impl CallerLimits {
    /// Whether there is any, and with it a group for each caller.
    #[must_use]
    pub fn any(&self) -> bool {
        *self != Self::default()
    }
}

/// Where cgroup leaves are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupRoot {
    /// In the supervisor's own delegated group, if it is one.
    Auto,
    /// Nowhere.
    Off,
    /// Below this directory.
    Path(PathBuf),
}

/// Limits above which no job may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ceilings {
    /// Wall time.
    pub timeout: Duration,
    /// Time between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// Sum of the guest's memories and tables, bytes.
    pub memory_bytes: u64,
    /// Output, bytes.
    pub output_bytes: u64,
    /// Each log ring, bytes.
    pub log_bytes: u64,
    /// Module, bytes.
    pub module_bytes: u64,
    /// Input, bytes.
    pub input_bytes: u64,
    /// CPU time, user and system.
    pub cpu: Duration,
    /// Wasm fuel.
    pub fuel: u64,
}

impl Ceilings {
    /// Most bytes that the result of one job takes while it is kept: its output, and its two logs twice, since they can
    /// still be followed.
    #[must_use]
    pub const fn kept_bytes_max(&self) -> u64 {
        self.output_bytes.saturating_add(self.log_bytes.saturating_mul(4))
    }
}

/// Limits of one compilation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compile {
    /// Wall time.
    pub timeout: Duration,
    /// CPU time, user and system.
    pub cpu: Duration,
    /// Memory of the compile worker, bytes.
    pub memory_bytes: u64,
    /// Largest artifact, bytes.
    pub artifact_bytes: u64,
}

/// Compiled modules kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// Where artifacts are kept; `None` keeps none on disk.
    pub directory: Option<PathBuf>,
    /// Most bytes on disk.
    pub disk_bytes: u64,
    /// Most bytes in memory.
    pub memory_bytes: u64,
    /// Most of them in memory, each an open file.
    pub files_max: usize,
    /// Most scripts of jobs in fresh processes that are known, compiled or not. None: none is compiled ahead.
    pub scripts_max: usize,
    /// Most bytes of their names and of what they compiled to. None: none is compiled ahead.
    pub scripts_bytes_max: u64,
    /// The host-local key that authenticates artifacts; `None` keeps one beside the cache.
    pub key_file: Option<PathBuf>,
}

/// Results of ended jobs kept for those who ask later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Results {
    /// Most results; 0 keeps none.
    pub kept_max: usize,
    /// Most bytes of all results together; at least [`Ceilings::kept_bytes_max`].
    pub bytes_max: u64,
    /// Longest time.
    pub kept_for: Duration,
    /// Most large outputs kept as files in memory; further ones are kept in the supervisor's own.
    pub files_max: usize,
}

/// The journal of durable jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Durable {
    /// Where it is kept; `None` keeps none, and refuses durable jobs.
    pub directory: Option<PathBuf>,
    /// Most bytes of it.
    pub bytes_max: u64,
}

/// Limits of the daemon's clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clients {
    /// Most connections.
    pub connections_max: usize,
    /// Most connections of one uid.
    pub connections_per_uid_max: usize,
    /// Time a client has to send a frame it has begun.
    pub frame_timeout: Duration,
    /// Largest frame body, bytes; at most [`stockade_wire::limits::FRAME_BODY_BYTES_MAX`].
    pub frame_bytes_max: u64,
    /// Most bytes of request bodies being read, all connections together.
    pub buffered_bytes_max: u64,
    /// Most bytes waiting to be read by one client.
    pub outbound_bytes_max: u64,
    /// Most unanswered requests of one connection.
    pub requests_in_flight_max: usize,
    /// Time running jobs have when the daemon is told to stop.
    pub drain_timeout: Duration,
    /// Permission bits of the socket.
    pub socket_mode: u32,
}

/// What clients may grant to their jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grants {
    /// Roots, without links in their paths, below which other users may grant directories; the daemon's own user and
    /// root may grant any but those with its cache, key or socket.
    pub directories: Vec<PathBuf>,
}

/// The daemon's own log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Filter in the syntax of `RUST_LOG`; validated.
    pub filter: String,
    /// How lines look.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The kill ladder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    /// Time from the epoch deadline to SIGTERM.
    pub epoch_head_start: Duration,
}

/// Limits of a kind of job, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Wall time for waiting, for a compiler and for a worker, and running together; compiling itself has limits of its
    /// own.
    pub timeout: Duration,
    /// Time between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// Sum of the guest's memories and tables, bytes.
    pub memory_bytes: u64,
    /// Wasm fuel; `None` is unmetered.
    pub fuel: Option<u64>,
    /// CPU time, user and system; `None` leaves it to `timeout`.
    pub cpu: Option<Duration>,
    /// Output, bytes.
    pub output_bytes: u64,
    /// Each log ring, bytes.
    pub log_bytes: u64,
    /// Most lines of each log ring.
    pub log_lines: u64,
}

/// What one job may use: its profile, what it asked for, within the ceilings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Wall time for waiting, for a compiler and for a worker, and running together; compiling itself has limits of its
    /// own.
    pub timeout: Duration,
    /// Time between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// Sum of the guest's memories and tables, bytes.
    pub memory_bytes: u64,
    /// Wasm fuel; `None` is unmetered.
    pub fuel: Option<u64>,
    /// CPU time, user and system; `None` leaves it to `timeout`.
    pub cpu: Option<Duration>,
    /// Output, bytes.
    pub output_bytes: u64,
    /// Each log ring, bytes.
    pub log_bytes: u64,
    /// Most lines of each log ring.
    pub log_lines: u64,
}
