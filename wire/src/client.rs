//! Client ⇄ supervisor, over the daemon's socket: a byte stream of frames.
//!
//! Owns: requests and what answers them.
//! Never: carries identity. Who a client is comes from the kernel (`SO_PEERCRED`).
//!
//! A client says [`ToDaemon::Hello`] first, then any number of requests without waiting for answers. Every
//! request has a number of the client's choosing that its answers repeat; answers come in any order.

use serde::{Deserialize, Serialize};

use crate::bytes::ByteBuf;
use crate::job::{JobResult, JobSummary, LogStream, Submission};

/// Client to supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToDaemon {
    /// First on every connection.
    Hello {
        /// The version that the client speaks, [`crate::CLIENT_PROTOCOL_VERSION`] or an older one.
        version: u16,
        /// What the client calls itself; shown in logs.
        agent: String,
    },
    /// Submit a job. Answered by `Accepted` or `Refused`; with `wait`, later also by `Finished`. The only request that
    /// descriptors may come with: the module if it is [`crate::job::ModuleSource::Descriptor`], then the input if there
    /// is one more; [`Submission::input`] is empty then.
    Submit {
        /// Request number.
        request: u64,
        /// Send the result on this connection when it is there.
        wait: bool,
        /// Have exactly one final record of it, whatever crashes; `Accepted` then means that this is sure.
        durable: bool,
        /// What to run.
        submission: Box<Submission>,
    },
    /// Ask for a result: `Finished`, at once or, with `wait`, when it is there; else `Running`; or `NotFound`.
    Result {
        /// Request number.
        request: u64,
        /// The job.
        job: String,
        /// Wait for its end.
        wait: bool,
    },
    /// Ask for logs: any number of `Log`, then `LogEnd`; or `NotFound`.
    Logs {
        /// Request number.
        request: u64,
        /// The job.
        job: String,
        /// Go on until the job ends.
        follow: bool,
    },
    /// End a job: `Cancelling` or `NotFound`.
    Cancel {
        /// Request number.
        request: u64,
        /// The job.
        job: String,
    },
    /// List the caller's jobs (all jobs, for the daemon's own user and root): `Jobs`.
    List {
        /// Request number.
        request: u64,
    },
    /// Ask for statistics: `Statistics`.
    Statistics {
        /// Request number.
        request: u64,
    },
}

/// Supervisor to client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromDaemon {
    /// Answer to `Hello`.
    Hello {
        /// The version that both speak from now on: the client's.
        version: u16,
        /// Name and version of the daemon.
        agent: String,
        /// Largest frame body this daemon accepts, bytes.
        frame_bytes_max: u64,
    },
    /// The job is admitted.
    Accepted {
        /// Request number.
        request: u64,
        /// Its id.
        job: String,
    },
    /// The job is not admitted; nothing of it is kept.
    Refused {
        /// Request number.
        request: u64,
        /// Why, and whether to try again.
        refusal: Refusal,
    },
    /// The job is over. The only answer that a descriptor may come with: it is the output then, sealed against every
    /// change, and [`JobResult::output`] is empty.
    Finished {
        /// Request number.
        request: u64,
        /// Everything about it.
        result: Box<JobResult>,
    },
    /// The job is not over.
    Running {
        /// Request number.
        request: u64,
        /// Where it is.
        summary: JobSummary,
    },
    /// Part of a log.
    Log {
        /// Request number.
        request: u64,
        /// Which stream.
        stream: LogStream,
        /// Bytes that were lost between the last part of this stream and this one.
        skipped_bytes: u64,
        /// The part.
        bytes: ByteBuf,
    },
    /// No more parts follow.
    LogEnd {
        /// Request number.
        request: u64,
    },
    /// The job is being ended; its result will say how.
    Cancelling {
        /// Request number.
        request: u64,
    },
    /// Jobs, newest last.
    Jobs {
        /// Request number.
        request: u64,
        /// One each.
        jobs: Vec<JobSummary>,
    },
    /// Figures of the daemon and its host.
    Statistics {
        /// Request number.
        request: u64,
        /// The figures.
        statistics: Box<Statistics>,
    },
    /// No such job, or not the caller's: the answer is the same.
    NotFound {
        /// Request number.
        request: u64,
    },
    /// The client broke the protocol; the connection ends after this.
    Protocol {
        /// What it did.
        message: String,
    },
}

/// [`FromDaemon::Finished`] around a borrowed result: the same bytes without a copy of an output that many
/// may be waiting for.
#[derive(Debug, Serialize)]
pub struct FinishedRef<'a> {
    tag: u32,
    request: u64,
    result: &'a JobResult,
}

impl<'a> FinishedRef<'a> {
    /// The message that answers `request` with `result`.
    #[must_use]
    pub const fn new(request: u64, result: &'a JobResult) -> Self {
        Self { tag: 3, request, result }
    }
}

/// Why a job was refused before it ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Stable code.
    pub reason: RefusalReason,
    /// One sentence: what, why, what to do.
    pub message: String,
    /// When to try again, ms; `None`: not before something else changes.
    pub retry_after_ms: Option<u64>,
}

/// Why a job was refused, as a stable code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalReason {
    /// The queue is full.
    QueueFull,
    /// The caller has as many jobs as it may have.
    TooManyJobs,
    /// The daemon is stopping.
    Draining,
    /// A limit is above what the operator allows, or makes no sense.
    Limit,
    /// Module or input too large, or too many strings.
    TooLarge,
    /// A directory the caller may not grant.
    Directory,
    /// No such profile.
    UnknownProfile,
    /// The digest names no module the daemon knows.
    UnknownModule,
    /// A required layer is missing.
    MissingLayer,
    /// A name or string that cannot be used.
    Malformed,
    /// The pool is broken and not taking jobs.
    Unavailable,
    /// A descriptor that is no sealed file in memory.
    Descriptor,
    /// It was to be durable, and there is no journal, or it cannot be written.
    NotDurable,
}

/// Figures of a running daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// Since start, ms.
    pub uptime_ms: u64,
    /// Jobs waiting.
    pub queued: u64,
    /// Jobs on a worker.
    pub running: u64,
    /// Warm run workers without a job.
    pub warm: u64,
    /// Jobs admitted since start.
    pub accepted: u64,
    /// Jobs refused since start.
    pub refused: u64,
    /// Ended jobs by verdict, since start.
    pub verdicts: Vec<(String, u64)>,
    /// Workers forked since start.
    pub forks: u64,
    /// Modules held ready by a template.
    pub templates: u64,
    /// Idle workers that have such a module.
    pub prepared: u64,
    /// Tenant workers, idle or with a job.
    pub tenant_workers: u64,
    /// Jobs whose worker was a tenant worker that had run others.
    pub starts_reused: u64,
    /// Jobs whose worker had their module from its birth.
    pub starts_prepared: u64,
    /// Jobs whose worker was forked and locked ahead of need.
    pub starts_warm: u64,
    /// Jobs whose worker was forked for them.
    pub starts_cold: u64,
    /// Times the zygote was started.
    pub zygote_starts: u64,
    /// Modules compiled since start.
    pub compiled: u64,
    /// Jobs whose module was in the cache.
    pub cache_hits: u64,
    /// Scripts compiled ahead, for jobs in fresh processes, since start.
    pub scripts_compiled: u64,
    /// Jobs in fresh processes that were given what their script compiles to.
    pub script_hits: u64,
    /// Wall time of ended jobs, µs: median and 99th percentile of the last 1,024.
    pub wall_p50_us: Option<u64>,
    /// See `wall_p50_us`.
    pub wall_p99_us: Option<u64>,
    /// Open client connections.
    pub connections: u64,
    /// The supervisor's resident memory, bytes.
    pub supervisor_memory_bytes: Option<u64>,
    /// How many workers stand ready, and why.
    pub readiness: Readiness,
    /// The host.
    pub host: HostFigures,
}

/// How many workers are to stand ready, and what decides it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Blank workers that are to stand ready now.
    pub warm_target: u64,
    /// Workers that have a module, of all templates together, that are to stand ready now.
    pub prepared_target: u64,
    /// Templates whose instance has run its initialiser.
    pub initialised: u64,
    /// Private memory of a ready worker at most, bytes, of those that were looked at.
    pub worker_bytes: Option<u64>,
    /// Whether memory is scarce; `None` when that is not known.
    pub memory_pressed: Option<bool>,
    /// The file that is known from, or why it is not.
    pub memory_pressure_source: String,
    /// Times memory became scarce since start.
    pub memory_pressure_periods: u64,
    /// Modules held ready from the start, by name: `coming`, `ready`, or why one is not held.
    pub warm_ups: Vec<(String, String)>,
}

/// Figures of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFigures {
    /// Processors.
    pub cpus: u64,
    /// Load averages times 100: 1, 5 and 15 minutes.
    pub load_hundredths: [u64; 3],
    /// Memory, bytes.
    pub memory_total_bytes: u64,
    /// Memory that could be given out, bytes.
    pub memory_available_bytes: u64,
    /// Swap in use, bytes.
    pub swap_used_bytes: u64,
}
