//! Cgroup v2 leaves, one for each worker.
//!
//! Owns: the tree leaves are made in, from taking it over at the start to sweeping what a dead supervisor left.
//! Never: decides when a worker dies, or what a limit should be.
//!
//! ```text
//!   discover ──► Delegation ──prepare──► Tree ──create_leaf──► Leaf ──kill, remove──► gone
//!
//!   DIRECTORY (delegated)             subtree_control: +memory +pids +cpu
//!   ├── supervisor                    the supervisor and the zygote
//!   ├── worker-NS-PID-START-0         one worker, cloned into it
//!   └── caller-NS-PID-START-UID       where callers have limits: all of one user's jobs
//!       └── worker-NS-PID-START-1
//! ```
//!
//! Every call here is a few operations on small files of a filesystem in memory, tens of microseconds each, and
//! is fine on the supervisor's thread; those that wait say so and take a bound. The one that is slow,
//! moving the supervisor itself (milliseconds, a lock of the whole machine), happens once at start.
//!
//! From cgroups-rs come the writers of limits (`MemController`, `PidController`, `CpuController`): they take any
//! directory and report failures. Its `Cgroup` is not used: it reads the controllers of `/sys/fs/cgroup`
//! whatever hierarchy it is given, and `Cgroup::apply` passes over a memory limit that could not be set, which
//! for us would be a wall that is not there.

mod caller;
mod discover;
mod events;
mod leaf;
mod tree;

use std::io;
use std::path::{Path, PathBuf};

pub use discover::{Absence, Discovery, NotAGroup, controllers_on_v1, discover, own_group};
pub use events::{CpuStat, MemoryEvents, cpu_stat, memory_events, populated};
pub use leaf::{Leaf, LeafLimits, LeafUsage, move_into};
pub use tree::Tree;

/// The group, below the delegated one, that the supervisor and its zygote live in. A unit that has systemd put
/// them there (`DelegateSubgroup=`, systemd 254) must use this name.
pub const SUPERVISOR_LEAF: &str = "supervisor";

/// A controller that Stockade uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controller {
    /// `memory.max` and its kin.
    Memory,
    /// `pids.max`.
    Pids,
    /// `cpu.weight`.
    Cpu,
}

impl Controller {
    /// All of them; a leaf that has them all is a whole wall.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Pids, Self::Cpu];

    /// The kernel's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
        }
    }
}

/// A tree that may be taken over, as yet untouched. [`Delegation::prepare`] takes it over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegation {
    directory: PathBuf,
    controllers: Vec<Controller>,
    /// This process sits in `directory` itself, and has to leave it before controllers can be handed down.
    holds_us: bool,
}

impl Delegation {
    /// Directory of the delegated group.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Controllers that leaves would have: all of [`Controller::ALL`] in a tree that was found, any subset in one
    /// that was configured.
    #[must_use]
    pub fn controllers(&self) -> &[Controller] {
        &self.controllers
    }

    /// Takes the tree over: moves this process into its `supervisor` leaf, hands the controllers down, and
    /// removes leaves of supervisors that are dead. Call once at start, before there is a zygote. Blocks for some
    /// milliseconds, and at most 2 s longer if leftover processes are slow to die.
    ///
    /// # Errors
    /// When the kernel refuses a step; the message says which and what to do. The process may then be in the
    /// `supervisor` leaf, which harms nothing.
    pub fn prepare(self) -> Result<Tree, CgroupError> {
        tree::prepare(self)
    }
}

/// A step with a cgroup failed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A group could not be made.
    #[error("cannot make the cgroup {}; check that it was delegated to this user", directory.display())]
    Create {
        /// The group.
        directory: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A group could not be removed.
    #[error("cannot remove the cgroup {}", directory.display())]
    Remove {
        /// The group.
        directory: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A process is still in the group.
    #[error("the cgroup {} still has processes; reap them first", directory.display())]
    StillPopulated {
        /// The group.
        directory: PathBuf,
    },
    /// A file of a group could not be opened or read.
    #[error("cannot read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of a group could not be written.
    #[error("cannot write \"{value}\" to {}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// What was to be written.
        value: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A limit could not be set.
    #[error("cannot set the limit {file} of the cgroup {} to {value}", directory.display())]
    Limit {
        /// The group.
        directory: PathBuf,
        /// The limit's file.
        file: &'static str,
        /// What it was to be, in the file's own unit.
        value: u64,
        /// Why.
        #[source]
        source: cgroups_rs::fs::error::Error,
    },
    /// A limit is larger than the kernel takes.
    #[error("the limit {file} cannot be {value}: it must be below 2^63")]
    LimitTooLarge {
        /// The limit's file.
        file: &'static str,
        /// What it was to be.
        value: u64,
    },
    /// Controllers cannot be handed down while processes sit in the group itself.
    #[error(
        "other processes ({pids:?}) sit in the cgroup {}, so it cannot have leaves with limits; start stockade as a unit \
         of its own, not from a shell inside the unit",
        directory.display()
    )]
    Crowded {
        /// The group.
        directory: PathBuf,
        /// Some of the processes.
        pids: Vec<i32>,
    },
    /// A caller has as many processes as its group may.
    #[error(
        "the jobs of user {uid}, and what stands ready for them, have as many processes as cgroup.caller_pids_max allows, \
         {pids_max}; let some end"
    )]
    CallerFull {
        /// The user.
        uid: u32,
        /// The limit.
        pids_max: u64,
    },
    /// Names for leaves ran out, which can only be when something else makes them.
    #[error("every name tried for a leaf of {} is taken; something else makes groups there", directory.display())]
    NamesTaken {
        /// The tree.
        directory: PathBuf,
    },
}
