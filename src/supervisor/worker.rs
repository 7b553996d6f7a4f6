//! One worker seen from the supervisor: forked, locked, checked from outside, killed, reaped.
//!
//! Owns: a worker's link and pipes, from the fork to the exit.
//! Never: knows the job it runs.

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Once;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use stockade_sys::link as packets;
use stockade_sys::pidfd::Ended;
use stockade_wire::job::{DirectoryGrant, Layer, MissingLayer};
use stockade_wire::limits::GUEST_TEXT_BYTES_MAX;
use stockade_wire::worker::{FromWorker, JailReport, Role, ToWorker, Usage};
use stockade_wire::zygote::{ForkOrder, Identity, ProcessLimits};
use tokio::time::timeout;

use super::cgroup::{CgroupError, Controller, Leaf, LeafLimits, LeafUsage, Tree, move_into};
use super::child::{Child, Said, as_pid};
use super::guest_pipe::GuestPipe;
use super::inspect::{Expected, InspectError, NAMED_LIMITS, inspect};
use super::link::{ExchangeError, Link};
use super::places::Place;
use super::pool::TemplateError;
use super::zygote::{WorkerEnds, Zygote, ZygoteError};
use crate::observe::Causes;

/// That workers are moved is said once.
static MOVED: Once = Once::new();

/// Why there is no locked worker.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkerError {
    /// No descriptors left, or the like.
    #[error("cannot prepare a worker's descriptors")]
    Prepare(#[source] std::io::Error),
    /// The link could not be made or used.
    #[error("worker's link")]
    Link(#[from] ExchangeError),
    /// The leaf could not be made.
    #[error("worker's cgroup leaf")]
    Leaf(#[from] CgroupError),
    /// The zygote did not fork it.
    #[error(transparent)]
    Zygote(#[from] ZygoteError),
    /// A layer that is required could not be entered.
    #[error("required layer {} is missing: {}; {}", .0.layer, .0.reason, .0.fix)]
    LayerMissing(MissingLayer),
    /// A directory it was to have cannot be had.
    #[error("{0}")]
    NotGranted(String),
    /// It did not report within the allowed time.
    #[error("worker did not lock itself within {0:?}")]
    LockTimeout(Duration),
    /// It said something else, or went away.
    #[error("worker broke off before it was locked: {0}")]
    BrokeOff(String),
    /// The kernel contradicts it.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// It has less than the first one, by which jobs are admitted.
    #[error("worker has no {}, which the first one had; was the host's configuration changed? restart the daemon", .0.name())]
    Weaker(Layer),
    /// The leaf does not contain it.
    #[error("worker is not in its cgroup leaf")]
    OutsideLeaf,
    /// The template did not fork it.
    #[error(transparent)]
    Template(#[from] TemplateError),
}

impl WorkerError {
    /// Whether another try may well go better: the zygote or the worker died of something that is not what the
    /// worker was to be.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Zygote(ZygoteError::Broken(_) | ZygoteError::Hung(_))
            | Self::Link(_)
            | Self::BrokeOff(_)
            | Self::Inspect(InspectError::Ended) => true,
            Self::Zygote(_)
            | Self::Prepare(_)
            | Self::Leaf(_)
            | Self::LayerMissing(_)
            | Self::NotGranted(_)
            | Self::LockTimeout(_)
            | Self::Inspect(_)
            | Self::Weaker(_)
            | Self::OutsideLeaf
            | Self::Template(_) => false,
        }
    }

    /// Whether it is a worker's failure. A zygote's is counted where it is replaced; a directory that cannot be granted
    /// is its submitter's, which must not stop everybody else; and one that was locked and ended has done its part.
    pub(crate) fn counts(&self, birth: &Birth) -> bool {
        match self {
            Self::Zygote(error) => {
                matches!(error, ZygoteError::NotForked { .. } | ZygoteError::Unwatched(_))
            }
            // What cannot be forked from a template is forked from the zygote.
            Self::Inspect(InspectError::Ended) | Self::Template(_) => false,
            // Its caller's own doing.
            Self::Leaf(CgroupError::CallerFull { .. }) => false,
            Self::Prepare(_)
            | Self::Link(_)
            | Self::Leaf(_)
            | Self::LayerMissing(_)
            | Self::NotGranted(_)
            | Self::LockTimeout(_)
            | Self::BrokeOff(_)
            | Self::Inspect(_)
            | Self::Weaker(_)
            | Self::OutsideLeaf => birth.directories.is_empty(),
        }
    }
}

/// What a worker is to be.
#[derive(Debug, Clone)]
pub(crate) struct Birth {
    pub(crate) role: Role,
    pub(crate) identity: Option<Identity>,
    pub(crate) directories: Vec<DirectoryGrant>,
    pub(crate) rlimits: ProcessLimits,
    pub(crate) leaf: LeafLimits,
    pub(crate) lock_timeout: Duration,
    /// A template is to fork it, with its module.
    pub(crate) with_module: bool,
    /// Nobody waits for it: it comes after those that somebody waits for.
    pub(crate) ahead: bool,
}

impl Birth {
    /// Descriptors above those that every worker has: its directories, and the artifact of a module it is born with.
    fn further_fds(&self) -> u32 {
        u32::try_from(self.directories.len()).unwrap_or(u32::MAX).saturating_add(u32::from(self.with_module))
    }
}

/// A worker that has not had an order yet, or is at it: locked and checked, or of such a one's kin, which locks itself before
/// it reads its order.
pub(crate) struct Worker {
    pub(crate) link: Link<ToWorker, FromWorker>,
    pub(crate) output: GuestPipe,
    pub(crate) stdout: GuestPipe,
    pub(crate) stderr: GuestPipe,
    pub(crate) report: Rc<JailReport>,
    /// Its job's module is there already: a template forked it, or it stays.
    pub(crate) has_module: bool,
    /// The program's own pages, which every worker of its zygote has resident from its birth.
    pub(crate) text_bytes: u64,
    /// What it had resident when it was looked at, before its job.
    pub(crate) born_bytes: u64,
    child: Child,
}

/// What the forks of one template have in common, as it was seen of one of them from outside.
///
/// All that is looked at is inherited across a fork, by the kernel's rules, and cannot be shed: filters (`seccomp(2)`),
/// `no_new_privs` and not being dumpable (`prctl(2)`), ids and capabilities, limits (`setrlimit(2)`; nobody in there may
/// raise one), namespaces, Landlock's domain. The descriptors are the exception: each fork closes all but its own, and the one that is looked
/// at does it by the same code from the same state.
#[derive(Debug, Clone)]
pub(crate) struct Kin {
    report: Rc<JailReport>,
    born_bytes: u64,
}

/// Our ends of what connects us with a worker that is being forked.
pub(crate) struct Ends {
    link: OwnedFd,
    output: GuestPipe,
    stdout: GuestPipe,
    stderr: GuestPipe,
}

impl Ends {
    /// Makes both ends of everything, and the leaf.
    pub(crate) fn make(
        limits: &LeafLimits,
        tree: Option<&RefCell<Tree>>,
    ) -> Result<(Self, WorkerEnds), WorkerError> {
        let leaf = tree.map(|tree| tree.borrow_mut().create_leaf(limits)).transpose()?;
        let (link, their_link) = packets::pair().map_err(ExchangeError::from)?;
        let (output, their_output) = GuestPipe::make().map_err(WorkerError::Prepare)?;
        let (stdout, their_stdout) = GuestPipe::make().map_err(WorkerError::Prepare)?;
        let (stderr, their_stderr) = GuestPipe::make().map_err(WorkerError::Prepare)?;
        let theirs = WorkerEnds {
            link: their_link,
            output: their_output,
            stdout: their_stdout,
            stderr: their_stderr,
            leaf,
        };
        Ok((Self { link, output, stdout, stderr }, theirs))
    }
}

impl Worker {
    /// Forks a worker, waits until it reports that it is locked, and checks it from outside. A future that is
    /// dropped midway leaves nothing behind.
    ///
    /// # Errors
    /// When any of that fails; the worker is killed then, and its leaf removed.
    pub(crate) async fn born(
        birth: &Birth,
        zygote: &Zygote,
        tree: Option<&RefCell<Tree>>,
    ) -> Result<Self, WorkerError> {
        let (ours, theirs) = Ends::make(&birth.leaf, tree)?;
        let order = ForkOrder {
            role: birth.role,
            into_leaf: theirs.leaf.is_some(),
            identity: birth.identity,
            directories: birth.directories.clone(),
            rlimits: birth.rlimits,
        };
        let child = zygote.fork(order, theirs, birth.ahead).await?;
        Self::locked(birth, ours, (child, zygote.text_bytes()), zygote).await
    }

    /// Takes over a child that was just forked, with so much of the program on huge pages: waits until it reports that it is locked, and checks it from outside.
    ///
    /// # Errors
    /// As for [`Worker::born`].
    pub(crate) async fn locked(
        birth: &Birth,
        ours: Ends,
        (child, text_bytes): (Child, u64),
        zygote: &Zygote,
    ) -> Result<Self, WorkerError> {
        let Ends { link, output, stdout, stderr } = ours;
        let link = Link::new(link)?;
        let report = timeout(birth.lock_timeout, locked(&link))
            .await
            .map_err(|_| WorkerError::LockTimeout(birth.lock_timeout))??;
        let expected = Expected {
            identity: birth.identity,
            rlimits: birth.rlimits,
            further_fds: birth.further_fds(),
            zygote: zygote.report(),
            filters_around: zygote.filters_around(),
        };
        let born_bytes = inspect(child.pid(), &expected, &report)?.resident_bytes;
        let child = in_leaf(child).await?;
        let (has_module, report) = (birth.with_module, Rc::new(report));
        Ok(Self { link, output, stdout, stderr, report, has_module, text_bytes, born_bytes, child })
    }

    /// Takes over a child that a template has just forked and that inherits what one of its siblings, which was looked at, was
    /// found to have: see [`Kin`].
    ///
    /// # Errors
    /// When its link cannot be watched, or it is not in its leaf.
    pub(crate) async fn of_kin(
        kin: &Kin,
        ours: Ends,
        (child, text_bytes): (Child, u64),
    ) -> Result<Self, WorkerError> {
        let Ends { link, output, stdout, stderr } = ours;
        let link = Link::new(link)?;
        let child = in_leaf(child).await?;
        let (report, born_bytes) = (Rc::clone(&kin.report), kin.born_bytes);
        Ok(Self { link, output, stdout, stderr, report, has_module: true, text_bytes, born_bytes, child })
    }

    /// What it has in common with what its template forks from now on.
    pub(crate) fn kin(&self) -> Kin {
        Kin { report: Rc::clone(&self.report), born_bytes: self.born_bytes }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Its cgroup leaf, where there is one.
    pub(crate) fn leaf(&self) -> Option<&Leaf> {
        self.child.leaf()
    }

    /// What its leaf says it used; `None` without a leaf.
    pub(crate) fn leaf_usage(&self) -> Option<LeafUsage> {
        self.leaf()?
            .usage()
            .inspect_err(|error| tracing::warn!(error = %Causes(&error), "leaf's figures not read"))
            .ok()
    }

    /// Removes its leaf. To be called once it is reaped and the leaf's figures are read.
    pub(crate) fn remove_leaf(&mut self) {
        self.child.remove_leaf();
    }

    /// Whether it has already exited, seen without waiting.
    pub(crate) fn is_gone(&self) -> bool {
        self.child.is_gone()
    }

    /// Whether it lives, and there is nothing to be read from it. Seen without waiting, as it is now: past Tokio, which
    /// knows only what the kernel had told it by the last turn.
    pub(crate) fn is_quiet(&self) -> bool {
        let (output, stdout, stderr) = (self.output.as_fd(), self.stdout.as_fd(), self.stderr.as_fd());
        let quiet = self.child.is_quiet_with([self.link.as_fd(), output, stdout, stderr]);
        if quiet {
            self.link.is_empty_now();
        }
        quiet
    }

    /// What of its memory is resident, from the kernel, bytes. Not to be asked once it is reaped.
    pub(crate) fn resident_bytes(&self) -> Option<u64> {
        self.child.resident_bytes()
    }

    /// Returns when it has exited. Dropping the future loses nothing.
    pub(crate) async fn exited(&self) {
        self.child.exited().await;
    }

    /// Whether it has exited; `context` is woken when it has. To be asked by one task at most.
    pub(crate) fn poll_exited(&self, context: &mut Context<'_>) -> Poll<()> {
        self.child.poll_exited(context)
    }

    /// SIGTERM, and SIGCONT so that a stopped process gets to see it.
    pub(crate) fn terminate(&self) {
        self.child.signal(Signal::SIGTERM);
        self.child.signal(Signal::SIGCONT);
    }

    /// SIGKILL through the pidfd, and `cgroup.kill` where there is a leaf.
    pub(crate) fn kill(&self) {
        self.child.signal(Signal::SIGKILL);
        if let Some(Err(error)) = self.leaf().map(Leaf::kill) {
            tracing::warn!(error = %Causes(&error), pid = self.pid(), "cgroup.kill failed; SIGKILL was sent by pidfd");
        }
    }

    /// CPU time it has used so far, user and system, from the kernel.
    pub(crate) fn cpu_time(&self) -> Option<Duration> {
        self.child.cpu_time()
    }

    /// Reaps it. To be called once [`Worker::exited`] has returned. Its peak is without the program's own pages.
    pub(crate) fn reap(&mut self) -> Option<Ended> {
        let ended = self.child.reap()?;
        Some(Ended {
            resident_peak_bytes: ended.resident_peak_bytes.saturating_sub(self.text_bytes),
            ..ended
        })
    }

    /// Whether [`Worker::reap`] has been called, with success.
    pub(crate) fn is_reaped(&self) -> bool {
        self.child.is_reaped()
    }

    /// Leaves a worker that has replied to its end, which is SIGKILL: it has nothing left to do but exit. Its place is
    /// free again when it is reaped, and it is held against what it said of itself then.
    pub(crate) fn leave(self, said: Option<Usage>, place: Option<Place>) {
        let said = said.map(|usage| Said { resident_peak_bytes: usage.resident_peak_bytes });
        let Self { mut child, link, .. } = self;
        child.leave(said, place);
        // Before its link is closed, by which it would be woken too.
        drop(child);
        drop(link);
    }
}

/// The child, in its leaf. It was born there, unless a filter around the daemon hides `clone3`: then it is moved there now,
/// without an order yet. Costs milliseconds, for a lock of the whole machine's.
async fn in_leaf(child: Child) -> Result<Child, WorkerError> {
    let pid = as_pid(child.pid());
    let Some(leaf) = child.leaf() else { return Ok(child) };
    if leaf.contains(pid)? {
        return Ok(child);
    }
    MOVED.call_once(|| {
        tracing::warn!(
            "workers are moved into their leaves after their birth, which takes milliseconds: a system call filter \
             around the daemon (RestrictNamespaces=, a container's) hides clone3"
        );
    });
    let group = leaf.path().to_owned();
    // In a task of its own, which the child goes with: should nobody wait any more, it is not to be reaped, and its id
    // another's, before the move is over.
    let moving = tokio::task::spawn_local(async move {
        let moved = tokio::task::spawn_blocking(move || move_into(&group, pid)).await;
        (child, moved)
    });
    let Ok((child, Ok(moved))) = moving.await else { return Err(WorkerError::OutsideLeaf) };
    moved?;
    match child.leaf() {
        Some(leaf) if leaf.contains(pid)? => Ok(child),
        _ => Err(WorkerError::OutsideLeaf),
    }
}

async fn locked(link: &Link<ToWorker, FromWorker>) -> Result<JailReport, WorkerError> {
    match link.receive(0).await? {
        Some((FromWorker::Locked(report), _)) => Ok(report),
        Some((FromWorker::LockFailed(missing), _)) => Err(WorkerError::LayerMissing(missing)),
        Some((FromWorker::NotGranted(why), _)) => {
            Err(WorkerError::NotGranted(super::logs::display::safe_text(&why, GUEST_TEXT_BYTES_MAX)))
        }
        Some((FromWorker::Panicked(text), _)) => {
            Err(WorkerError::BrokeOff(super::logs::display::safe_text(&text, 512)))
        }
        Some((FromWorker::Forbidden(number), _)) => {
            let call = super::job::outcome::syscall_name(number);
            Err(WorkerError::BrokeOff(format!("it made the system call {call}, which its own jail forbids")))
        }
        Some(_) => Err(WorkerError::BrokeOff("it reported on a job it does not have".to_owned())),
        None => Err(WorkerError::BrokeOff("it went away without a word".to_owned())),
    }
}

/// The layers that a worker with this report has, seen together with its leaf.
pub(crate) fn layers_held(report: &JailReport, controllers: &[Controller]) -> Vec<Layer> {
    Layer::ALL
        .into_iter()
        .filter(|layer| !report.lacks(*layer))
        .filter(|layer| match layer {
            Layer::Seccomp => report.seccomp_filtered,
            Layer::Landlock => report.landlock_abi > 0,
            Layer::Cgroup => Controller::ALL.iter().all(|one| controllers.contains(one)),
            Layer::Namespaces => report.namespaces.iter().any(|one| one == "net"),
            Layer::NoNewPrivs => report.no_new_privs,
            Layer::Rlimits => {
                NAMED_LIMITS.iter().all(|(name, ..)| report.rlimits.iter().any(|(read, _)| read == name))
            }
            Layer::Capabilities => report.capabilities_empty,
            // Known only after the module is loaded; whoever has no kernel for it is told at the lock.
            Layer::Mdwe => true,
        })
        .collect()
}

/// Now, as microseconds since `start`, for the bill.
pub(crate) fn micros_since(start: Instant, now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(start).as_micros()).unwrap_or(u64::MAX)
}
