//! One worker seen from the supervisor: forked, locked, checked from outside, killed, reaped.
//!
//! Owns: a worker's descriptors and its leaf, from the fork to the exit. It is the only one that reaps it.
//! Never: knows the job it runs.

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, pipe2};
use stockade_sys::link as packets;
use stockade_sys::pidfd::{self, Ended};
use stockade_wire::job::{DirectoryGrant, Layer, MissingLayer};
use stockade_wire::worker::{FromWorker, JailReport, Role, ToWorker};
use stockade_wire::zygote::{ForkOrder, Identity, ProcessLimits};
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe::Receiver;
use tokio::time::timeout;

use super::cgroup::{CgroupError, Controller, Leaf, LeafLimits, LeafUsage, Tree};
use super::inspect::{InspectError, inspect};
use super::link::{ExchangeError, Link};
use super::readiness::watch;
use super::zygote::{WorkerFds, Zygote, ZygoteError};

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
    /// It did not report within the allowed time.
    #[error("worker did not lock itself within {0:?}")]
    LockTimeout(Duration),
    /// It said something else, or went away.
    #[error("worker broke off before it was locked: {0}")]
    BrokeOff(String),
    /// The kernel contradicts it.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// The leaf does not contain it.
    #[error("worker is not in its cgroup leaf")]
    OutsideLeaf,
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
}

/// A locked, checked worker that has not had an order yet, or is at it.
pub(crate) struct Worker {
    pub(crate) link: Link<ToWorker, FromWorker>,
    pub(crate) output: Receiver,
    pub(crate) stdout: Receiver,
    pub(crate) stderr: Receiver,
    pub(crate) report: JailReport,
    process: Process,
}

/// The process itself. Dropped before it was reaped, it is killed and left to the [`Graveyard`].
struct Process {
    pid: u32,
    pidfd: Option<AsyncFd<OwnedFd>>,
    leaf: Option<Leaf>,
    graveyard: Rc<Graveyard>,
}

/// Where workers end that nobody waited for.
#[derive(Default)]
pub(crate) struct Graveyard {
    unreaped: RefCell<Vec<(OwnedFd, Option<Leaf>)>>,
}

impl Graveyard {
    /// Reaps what has exited by now. Called regularly; never blocks.
    pub(crate) fn sweep(&self) {
        let gone = |(pidfd, _): &mut (OwnedFd, Option<Leaf>)| match pidfd::reap(pidfd.as_fd()) {
            Ok(ended) => ended.is_some(),
            Err(errno) => {
                tracing::warn!(%errno, "worker could not be reaped");
                true
            }
        };
        for (_, leaf) in self.unreaped.borrow_mut().extract_if(.., gone) {
            if let Some(leaf) = leaf {
                remove(leaf);
            }
        }
    }

    /// How many are still to be reaped.
    pub(crate) fn waiting(&self) -> usize {
        self.unreaped.borrow().len()
    }
}

impl Worker {
    /// Forks a worker, waits until it reports that it is locked, and checks it from outside.
    ///
    /// # Errors
    /// When any of that fails; the worker is killed then, and its leaf removed.
    pub(crate) async fn born(
        birth: &Birth,
        zygote: &Zygote,
        tree: Option<&RefCell<Tree>>,
        graveyard: &Rc<Graveyard>,
    ) -> Result<Self, WorkerError> {
        let leaf = tree.map(|tree| tree.borrow_mut().create_leaf(&birth.leaf)).transpose()?;
        let (link, their_link) = packets::pair().map_err(ExchangeError::from)?;
        let (output, their_output) = pipe()?;
        let (stdout, their_stdout) = pipe()?;
        let (stderr, their_stderr) = pipe()?;
        let directory = leaf.as_ref().map(|leaf| leaf.directory().try_clone_to_owned()).transpose();
        let fds = WorkerFds {
            link: their_link,
            output: their_output,
            stdout: their_stdout,
            stderr: their_stderr,
            leaf: directory.map_err(WorkerError::Prepare)?,
        };
        let order = ForkOrder {
            role: birth.role,
            into_leaf: fds.leaf.is_some(),
            identity: birth.identity,
            directories: birth.directories.clone(),
            rlimits: birth.rlimits,
        };
        let forked = zygote.fork(order, fds).await?;
        let pidfd = watch(forked.pidfd).map_err(WorkerError::Prepare)?;
        let graveyard = Rc::clone(graveyard);
        let process = Process { pid: forked.pid, pidfd: Some(pidfd), leaf, graveyard };
        let link = Link::new(link)?;
        let report = timeout(birth.lock_timeout, locked(&link))
            .await
            .map_err(|_| WorkerError::LockTimeout(birth.lock_timeout))??;
        inspect(process.pid, birth.identity)?;
        if let Some(leaf) = &process.leaf
            && !leaf.contains(as_pid(process.pid))?
        {
            return Err(WorkerError::OutsideLeaf);
        }
        Ok(Self { link, output, stdout, stderr, report, process })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid
    }

    /// Its cgroup leaf, where there is one.
    pub(crate) fn leaf(&self) -> Option<&Leaf> {
        self.process.leaf.as_ref()
    }

    /// What its leaf says it used; `None` without a leaf.
    pub(crate) fn leaf_usage(&self) -> Option<LeafUsage> {
        self.leaf()?.usage().inspect_err(|error| tracing::warn!(%error, "leaf's figures not read")).ok()
    }

    /// Removes its leaf. To be called once it is reaped and the leaf's figures are read.
    pub(crate) fn remove_leaf(&mut self) {
        if let Some(leaf) = self.process.leaf.take() {
            remove(leaf);
        }
    }

    /// Whether it has already exited, seen without waiting.
    pub(crate) fn is_gone(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let Some(pidfd) = &self.process.pidfd else { return true };
        let mut polled = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::ZERO).map_or(true, |ready| ready > 0)
    }

    /// Returns when it has exited. Dropping the future loses nothing.
    pub(crate) async fn exited(&self) {
        if let Some(pidfd) = &self.process.pidfd {
            // An error means that the descriptor is of no use any more, which is as good as gone.
            let _ = pidfd.readable().await;
        }
    }

    /// SIGTERM, and SIGCONT so that a stopped process gets to see it.
    pub(crate) fn terminate(&self) {
        self.process.signal(Signal::SIGTERM);
        self.process.signal(Signal::SIGCONT);
    }

    /// SIGKILL through the pidfd, and `cgroup.kill` where there is a leaf.
    pub(crate) fn kill(&self) {
        self.process.signal(Signal::SIGKILL);
        if let Some(Err(error)) = self.leaf().map(Leaf::kill) {
            tracing::warn!(%error, pid = self.pid(), "cgroup.kill failed; SIGKILL was sent by pidfd");
        }
    }

    /// CPU time it has used so far, user and system, from the kernel.
    pub(crate) fn cpu_time(&self) -> Option<Duration> {
        let clock = nix::time::ClockId::pid_cpu_clock_id(as_pid(self.pid())).ok()?;
        let time = clock.now().ok()?;
        Some(Duration::from(time))
    }

    /// Reaps it. To be called once [`Worker::exited`] has returned.
    pub(crate) fn reap(&mut self) -> Option<Ended> {
        let pidfd = self.process.pidfd.as_ref()?;
        match pidfd::reap(pidfd.as_fd()) {
            Ok(Some(ended)) => {
                self.process.pidfd = None;
                Some(ended)
            }
            Ok(None) => None,
            Err(errno) => {
                tracing::error!(%errno, pid = self.pid(), "worker could not be reaped");
                self.process.pidfd = None;
                None
            }
        }
    }
}

impl Process {
    fn signal(&self, signal: Signal) {
        let Some(pidfd) = &self.pidfd else { return };
        match pidfd::signal(pidfd.as_fd(), signal) {
            // ESRCH: it exited in the meantime.
            Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
            Err(errno) => tracing::error!(%errno, pid = self.pid, %signal, "signal not sent"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        if let Some(pidfd) = self.pidfd.take() {
            self.graveyard.unreaped.borrow_mut().push((pidfd.into_inner(), self.leaf.take()));
        }
    }
}

fn as_pid(pid: u32) -> Pid {
    // The kernel's own limit on pids, 2²², is far below where this would matter; 0 names no other process.
    Pid::from_raw(i32::try_from(pid).unwrap_or(0))
}

fn remove(mut leaf: Leaf) {
    if let Err(error) = leaf.remove() {
        tracing::warn!(%error, "cgroup leaf not removed; the next start sweeps it");
    }
}

async fn locked(link: &Link<ToWorker, FromWorker>) -> Result<JailReport, WorkerError> {
    match link.receive(0).await? {
        Some((FromWorker::Locked(report), _)) => Ok(report),
        Some((FromWorker::LockFailed(missing), _)) => Err(WorkerError::LayerMissing(missing)),
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

/// A pipe: our non-blocking end, and the worker's blocking one.
fn pipe() -> Result<(Receiver, OwnedFd), WorkerError> {
    let (ours, theirs) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| WorkerError::Prepare(errno.into()))?;
    let ours = Receiver::from_owned_fd(ours).map_err(WorkerError::Prepare)?;
    Ok((ours, theirs))
}

/// The layers that a worker with this report has, seen together with its leaf.
pub(crate) fn layers_held(report: &JailReport, controllers: &[Controller]) -> Vec<Layer> {
    Layer::ALL
        .into_iter()
        .filter(|layer| match layer {
            Layer::Seccomp => report.seccomp_mode == 2,
            Layer::Landlock => report.landlock_abi > 0,
            Layer::Cgroup => Controller::ALL.iter().all(|one| controllers.contains(one)),
            Layer::Namespaces => report.namespaces.iter().any(|one| one == "net"),
            Layer::NoNewPrivs => report.no_new_privs,
            Layer::Rlimits => !report.rlimits.is_empty(),
            Layer::Capabilities => report.capabilities_empty,
            // Known only after the module is loaded; whoever has no kernel for it is told at the lock.
            Layer::Mdwe => !report.missing.iter().any(|missing| missing.layer == Layer::Mdwe.name()),
        })
        .collect()
}

/// Now, as microseconds since `start`, for the bill.
pub(crate) fn micros_since(start: Instant, now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(start).as_micros()).unwrap_or(u64::MAX)
}
