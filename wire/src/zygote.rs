//! Supervisor ⇄ zygote, over the zygote's control socket: a `SOCK_SEQPACKET` pair, one frame a packet.
//!
//! Owns: the order to fork and what comes back.
//! Never: carries a byte a client or a guest wrote, other than the paths of granted directories that the
//! supervisor has approved.

use serde::{Deserialize, Serialize};

use crate::job::{DirectoryGrant, Layer};
use crate::worker::Role;

/// Supervisor to zygote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToZygote {
    /// First message, once: how to warm up and what every jail must have.
    Configure(ZygoteConfig),
    /// Fork a worker. Descriptors, in order: link, output, stdout log, stderr log, then the leaf's
    /// directory when [`ForkOrder::into_leaf`].
    Fork(ForkOrder),
}

/// How the zygote warms up. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZygoteConfig {
    /// Process id of the supervisor: a worker whose parent is another one exits.
    pub supervisor_pid: u32,
    /// Largest memory limit any job may get, bytes; sizes the engine's reservations.
    pub memory_bytes_max: u64,
    /// Most memory that a worker which stays keeps scripts in, bytes.
    pub scripts_bytes_max: u64,
    /// Landlock ABI below which a worker refuses to lock (0: none is acceptable).
    pub landlock_abi_min: u32,
    /// Namespaces: try them, leave them, or fail without them.
    pub namespaces: NamespacePolicy,
    /// Workers take on other ids than the zygote's, see [`ForkOrder::identity`].
    pub other_ids: bool,
    /// Layers whose absence is a refusal.
    pub require: Vec<Layer>,
    /// Put the program on huge pages, which takes some ten milliseconds: it is to fork often.
    pub huge_pages: bool,
}

/// What to do about namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamespacePolicy {
    /// Enter them where the kernel allows it.
    Auto,
    /// Stay in the host's.
    Off,
}

/// One fork.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkOrder {
    /// What for.
    pub role: Role,
    /// A leaf's directory comes with the message; the child is born in it.
    pub into_leaf: bool,
    /// Ids to take on, when the supervisor has others to give.
    pub identity: Option<Identity>,
    /// Directories the jail must admit.
    pub directories: Vec<DirectoryGrant>,
    /// Limits of the new process.
    pub rlimits: ProcessLimits,
}

/// User and group a worker becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User id, real, effective and saved.
    pub uid: u32,
    /// Group id, real, effective and saved; no supplementary group is kept.
    pub gid: u32,
}

/// Resource limits of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessLimits {
    /// `RLIMIT_NOFILE`.
    pub open_files: u64,
    /// `RLIMIT_FSIZE`, bytes.
    pub file_bytes: u64,
    /// Private writable memory above what the zygote has, bytes; becomes `RLIMIT_DATA`.
    pub data_bytes: u64,
}

/// Zygote to supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromZygote {
    /// Warm; forks may be ordered.
    Warm(WarmReport),
    /// It cannot become warm and exits.
    Failed(String),
    /// Forked. One descriptor: the worker's pidfd. The worker is the supervisor's child.
    Forked {
        /// Its process id.
        pid: u32,
    },
    /// Not forked; the zygote lives.
    NotForked {
        /// The system call that failed.
        operation: ForkOperation,
        /// Its error number.
        errno: i32,
    },
}

/// What can fail in a fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ForkOperation {
    /// `clone3` itself.
    Clone,
    /// The order was not one, or came with the wrong descriptors.
    Order,
}

/// A warm zygote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmReport {
    /// Fingerprint of the engine: artifacts of another one do not load here. Lower-case hex.
    pub engine_fingerprint: String,
    /// Threads of the zygote; always 1.
    pub threads: u32,
    /// Landlock ABI of the kernel; 0 without Landlock.
    pub landlock_abi: u32,
    /// Namespaces entered.
    pub namespaces: Vec<String>,
    /// Why some were not entered.
    pub namespaces_missing: Option<String>,
    /// The zygote's own allow-list is in force; every worker inherits it.
    pub filtered: bool,
    /// Bytes of the program itself that are on huge pages of the zygote's own, which every worker inherits. 0: none could be
    /// had.
    pub text_bytes: u64,
}
