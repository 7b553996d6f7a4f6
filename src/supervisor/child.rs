//! Our child processes: signalled and reaped by pidfd, never lost.
//!
//! Owns: a child's pidfd and its leaf until the child is reaped. Nothing else reaps.
//! Never: knows what the child is for.
//!
//! A [`Child`] that is dropped before it was reaped is killed, and the [`Graveyard`] reaps it as soon as it has
//! exited: whoever stops waiting for one, at whatever point, leaves neither a process nor a zombie nor a leaf. A child
//! nobody was told of, because its zygote died before it could tell, is found by its process group and reaped too.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::time::ClockId;
use nix::unistd::Pid;
use stockade_sys::pidfd::{self, Ended, Exit};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::cgroup::{CgroupError, Leaf};
use super::places::Place;
use super::readiness::watch;
use crate::observe::Causes;

const SIGKILL: i32 = Signal::SIGKILL as i32;

/// How much more of its memory may have been resident at the end of a process than it said shortly before, bytes: the
/// kernel counts pages for each processor, and adds them up now and then.
const UNSAID_BYTES_MAX: u64 = 1 << 20;

/// Leaves that wait to be empty, because a process of theirs is stuck in the kernel; beyond, they are left to the next start.
/// Each costs one look a second.
const LINGERING_MAX: usize = 256;

/// A child process. Dropped before it was reaped, it is killed and buried.
pub(crate) struct Child {
    pid: u32,
    pidfd: Option<AsyncFd<OwnedFd>>,
    leaf: Option<Leaf>,
    /// Of its CPU time, once that was asked for.
    cpu_clock: Cell<Option<ClockId>>,
    said: Option<Said>,
    place: Option<Place>,
    graveyard: Rc<Graveyard>,
}

/// What a child said of itself, for which the kernel's word comes when it is reaped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Said {
    /// Peak resident set, bytes.
    pub(crate) resident_peak_bytes: u64,
}

impl Said {
    /// How the kernel contradicts it, if it does, for a child that had nothing left to do but exit.
    fn contradicted(self, ended: &Ended) -> Option<&'static str> {
        match ended.exit {
            // The second is how one is ended that is left alone.
            Exit::Code(0) | Exit::Signal(SIGKILL) => {}
            Exit::Code(_) | Exit::Signal(_) => return Some("it did not end as it should have"),
        }
        let most = self.resident_peak_bytes.saturating_add(UNSAID_BYTES_MAX);
        (ended.resident_peak_bytes > most).then_some("it held more memory than it had said")
    }
}

impl Child {
    /// Takes over the child with this pidfd. Needs a Tokio runtime.
    ///
    /// # Errors
    /// When the pidfd cannot be watched; the child is killed and reaped then.
    pub(crate) fn new(
        pid: u32,
        pidfd: OwnedFd,
        leaf: Option<Leaf>,
        graveyard: &Rc<Graveyard>,
    ) -> std::io::Result<Self> {
        // Should it fail, the descriptor goes with it, and the child is reached by its pid alone. That is still its
        // own: it is ours, and not reaped.
        let pidfd = watch(pidfd).inspect_err(|_| end_by_pid(pid))?;
        graveyard.unreaped.borrow_mut().insert(pid);
        Ok(Self {
            pid,
            pidfd: Some(pidfd),
            leaf,
            cpu_clock: Cell::new(None),
            said: None,
            place: None,
            graveyard: Rc::clone(graveyard),
        })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Its cgroup leaf, where there is one.
    pub(crate) fn leaf(&self) -> Option<&Leaf> {
        self.leaf.as_ref()
    }

    /// Removes its leaf. To be called once it is reaped and the leaf's figures are read.
    pub(crate) fn remove_leaf(&mut self) {
        if let Some(leaf) = self.leaf.take() {
            self.graveyard.remove(leaf);
        }
    }

    /// Whether it has already exited, seen without waiting.
    pub(crate) fn is_gone(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let Some(pidfd) = &self.pidfd else { return true };
        let mut polled = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::ZERO).map_or(true, |ready| ready > 0)
    }

    /// Whether it lives and none of these descriptors has anything to be read, or is closed at its other end.
    pub(crate) fn is_quiet_with(&self, others: [BorrowedFd<'_>; 4]) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let Some(pidfd) = &self.pidfd else { return false };
        let [a, b, c, d] = others;
        let mut polled = [pidfd.as_fd(), a, b, c, d].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        poll(&mut polled, PollTimeout::ZERO).is_ok_and(|ready| ready == 0)
    }

    /// What of its memory is resident, from the kernel, bytes; shared pages are counted. `None` when it cannot be read.
    pub(crate) fn resident_bytes(&self) -> Option<u64> {
        // The pid is still its own: it is not reaped.
        let pages = std::fs::read_to_string(format!("/proc/{}/statm", self.pid)).ok()?;
        let pages: u64 = pages.split_whitespace().nth(1)?.parse().ok()?;
        let page_bytes = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
        pages.checked_mul(u64::try_from(page_bytes).ok()?)
    }

    /// Returns when it has exited. Dropping the future loses nothing.
    pub(crate) async fn exited(&self) {
        if let Some(pidfd) = &self.pidfd {
            // An error means that the descriptor is of no use any more, which is as good as gone.
            let _ = pidfd.readable().await;
        }
    }

    /// Whether it has exited; `context` is woken when it has. To be asked by one task at most.
    pub(crate) fn poll_exited(&self, context: &mut Context<'_>) -> Poll<()> {
        let Some(pidfd) = &self.pidfd else { return Poll::Ready(()) };
        pidfd.poll_read_ready(context).map(drop)
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let Some(pidfd) = &self.pidfd else { return };
        match pidfd::signal(pidfd.as_fd(), signal) {
            // ESRCH: it exited in the meantime.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => tracing::error!(%errno, pid = self.pid, %signal, "signal not sent"),
        }
    }

    /// CPU time it has used so far, user and system, from the kernel.
    pub(crate) fn cpu_time(&self) -> Option<Duration> {
        // The same for as long as its pid is its own, which is until it is reaped.
        let clock = match self.cpu_clock.get() {
            Some(clock) => clock,
            None => ClockId::pid_cpu_clock_id(as_pid(self.pid)).ok()?,
        };
        self.cpu_clock.set(Some(clock));
        Some(Duration::from(clock.now().ok()?))
    }

    /// Reaps it. To be called once [`Child::exited`] has returned.
    pub(crate) fn reap(&mut self) -> Option<Ended> {
        let ended = reap(self.pidfd.as_ref()?, self.pid)?;
        self.pidfd = None;
        self.graveyard.reaped(self.pid);
        ended
    }

    /// Whether it is reaped.
    pub(crate) fn is_reaped(&self) -> bool {
        self.pidfd.is_none()
    }

    /// Drops it before it is reaped: `place` is free again when it is, and the log tells it if the kernel contradicts what
    /// was `said` then.
    pub(crate) fn leave(&mut self, said: Option<Said>, place: Option<Place>) {
        (self.said, self.place) = (said, place);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        if let Some(pidfd) = self.pidfd.take() {
            let (leaf, said, place) = (self.leaf.take(), self.said, self.place.take());
            self.graveyard.bury(Buried { pid: self.pid, pidfd, leaf, said, place });
        }
    }
}

fn end_by_pid(pid: u32) {
    // 0 and below would be whole process groups.
    let Some(pid) = i32::try_from(pid).ok().filter(|pid| *pid > 1).map(Pid::from_raw) else { return };
    if nix::sys::signal::kill(pid, Signal::SIGKILL).is_ok() {
        let _ = nix::sys::wait::waitpid(pid, None);
    }
}

/// `None` while it lives. Inside, how it ended, unless the kernel does not say.
fn reap(pidfd: &AsyncFd<OwnedFd>, pid: u32) -> Option<Option<Ended>> {
    match pidfd::reap(pidfd.as_fd()) {
        Ok(Some(ended)) => Some(Some(ended)),
        Ok(None) => None,
        Err(errno) => {
            tracing::error!(%errno, pid, "child could not be reaped");
            Some(None)
        }
    }
}

/// Where children end that nobody waits for.
#[derive(Default)]
pub(crate) struct Graveyard {
    buried: RefCell<Vec<Buried>>,
    /// Children that are not reaped, buried or not, by their ids.
    unreaped: RefCell<BTreeSet<u32>>,
    /// Process groups in which there may be a child that is not among those. Each had a child when it was noted, and
    /// is forgotten with its last.
    suspected: RefCell<BTreeSet<u32>>,
    /// Leaves in which something was still alive when their worker was reaped. All in them was killed.
    lingering: RefCell<Vec<Leaf>>,
    sexton: RefCell<Option<Waker>>,
    deserted: Notify,
}

struct Buried {
    pid: u32,
    pidfd: AsyncFd<OwnedFd>,
    leaf: Option<Leaf>,
    said: Option<Said>,
    place: Option<Place>,
}

impl Graveyard {
    /// A graveyard and the task that tends it, which ends when nothing is left to bury or to be buried. To be called
    /// on a `LocalRuntime` or in a `LocalSet`.
    pub(crate) fn open() -> Rc<Self> {
        let graveyard = Rc::new(Self::default());
        let tended = Rc::clone(&graveyard);
        tokio::task::spawn_local(async move { poll_fn(|context| tended.tend(context)).await });
        graveyard
    }

    /// Returns when every child there was is reaped.
    pub(crate) async fn deserted(&self) {
        loop {
            let deserted = self.deserted.notified();
            if self.unreaped.borrow().is_empty() {
                return;
            }
            deserted.await;
        }
    }

    /// Lets the tending task end once nothing is left; to be called by whoever opened it, and no more children.
    pub(crate) fn close(&self) {
        self.wake();
    }

    fn bury(&self, one: Buried) {
        self.buried.borrow_mut().push(one);
        self.wake();
    }

    fn wake(&self) {
        if let Some(sexton) = self.sexton.borrow().as_ref() {
            sexton.wake_by_ref();
        }
    }

    fn reaped(&self, pid: u32) {
        let mut unreaped = self.unreaped.borrow_mut();
        unreaped.remove(&pid);
        if unreaped.is_empty() {
            self.deserted.notify_waiters();
        }
    }

    /// Notes that the leader of process group `group`, a child of ours that has not been reaped, may have had others
    /// that nobody was told of. They end by themselves, having nobody to speak with.
    pub(crate) fn suspect(&self, group: u32) {
        self.suspected.borrow_mut().insert(group);
    }

    /// Removes the leaf of a worker that is reaped. What the worker may have left in it is killed, and the leaf removed
    /// at a later [`Graveyard::sweep`].
    fn remove(&self, mut leaf: Leaf) {
        match leaf.remove() {
            Ok(()) => {}
            Err(CgroupError::StillPopulated { .. }) if self.lingering.borrow().len() < LINGERING_MAX => {
                if let Err(error) = leaf.kill() {
                    tracing::warn!(error = %Causes(&error), "cannot kill what a worker left in its leaf");
                }
                self.lingering.borrow_mut().push(leaf);
            }
            Err(error) => {
                tracing::warn!(error = %Causes(&error), "cgroup leaf not removed; the next start sweeps it");
            }
        }
    }

    /// Reaps the dead that nobody knows of, and removes the leaves that are empty by now. To be called now and then.
    pub(crate) fn sweep(&self) {
        let in_use = |leaf: &mut Leaf| matches!(leaf.remove(), Err(CgroupError::StillPopulated { .. }));
        self.lingering.borrow_mut().retain_mut(in_use);
        self.suspected.borrow_mut().retain(|group| self.may_hold_strangers(as_pid(*group)));
    }

    /// Whether there may be strangers left in a group once the dead ones that the kernel shows are reaped. It shows one
    /// at a time, so that a child somebody is about to reap hides what comes after it until the next time.
    fn may_hold_strangers(&self, group: Pid) -> bool {
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        loop {
            let dead = match waitid(Id::PGid(group), look) {
                Ok(status) => status.pid(),
                Err(Errno::ECHILD) => return false,
                Err(errno) => {
                    tracing::error!(%errno, %group, "children nobody knows of cannot be looked for");
                    return false;
                }
            };
            let known =
                |pid: Pid| u32::try_from(pid.as_raw()).is_ok_and(|pid| self.unreaped.borrow().contains(&pid));
            let Some(stranger) = dead.filter(|pid| !known(*pid)) else { return true };
            let reaped = waitid(Id::Pid(stranger), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG);
            tracing::debug!(pid = %stranger, ok = reaped.is_ok(), "reaped a child whose zygote died before it could tell");
            if reaped.is_err() {
                return true;
            }
        }
    }

    fn tend(self: &Rc<Self>, context: &mut Context<'_>) -> Poll<()> {
        *self.sexton.borrow_mut() = Some(context.waker().clone());
        let gone: Vec<Buried> = self.buried.borrow_mut().extract_if(.., |one| one.is_gone(context)).collect();
        for one in gone {
            if let Some(leaf) = one.leaf {
                self.remove(leaf);
            }
            self.reaped(one.pid);
            // Whoever waits for it finds room in the leaf's group too.
            drop(one.place);
        }
        // The only one who knows of it is this task: nothing will be buried any more.
        let over = self.unreaped.borrow().is_empty() && Rc::strong_count(self) == 1;
        if over { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Buried {
    /// Whether it is reaped; if not, `context` is woken when it can be.
    fn is_gone(&self, context: &mut Context<'_>) -> bool {
        loop {
            let mut ready = match self.pidfd.poll_read_ready(context) {
                Poll::Pending => return false,
                Poll::Ready(Ok(ready)) => ready,
                // The runtime is ending, and this task with it.
                Poll::Ready(Err(_)) => return reap(&self.pidfd, self.pid).is_some(),
            };
            if let Some(ended) = reap(&self.pidfd, self.pid) {
                if let Some(contradiction) =
                    self.said.zip(ended).and_then(|(said, ended)| said.contradicted(&ended))
                {
                    tracing::warn!(pid = self.pid, ?ended, said = ?self.said, "a worker's result was given out, and {contradiction}");
                }
                return true;
            }
            ready.clear_ready();
        }
    }
}

/// As the kernel's calls take it.
pub(crate) fn as_pid(pid: u32) -> Pid {
    // The kernel's own limit on pids, 2²², is far below where this would matter; 0 names no other process.
    Pid::from_raw(i32::try_from(pid).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_child_said_is_contradicted_by_a_bad_end_and_by_memory_it_kept_quiet_about() {
        let said = Said { resident_peak_bytes: 5 << 20 };
        let ended = |exit, resident_peak_bytes| Ended {
            exit,
            cpu_user: Duration::ZERO,
            cpu_system: Duration::ZERO,
            resident_peak_bytes,
            page_faults: 0,
        };
        for (exit, peak, believed) in [
            (Exit::Code(0), 5 << 20, true),
            (Exit::Code(0), 0, true),
            (Exit::Code(0), (5 << 20) + UNSAID_BYTES_MAX, true),
            (Exit::Code(0), (5 << 20) + UNSAID_BYTES_MAX + 1, false),
            (Exit::Signal(SIGKILL), 5 << 20, true),
            (Exit::Code(1), 5 << 20, false),
            (Exit::Signal(Signal::SIGSYS as i32), 5 << 20, false),
        ] {
            assert_eq!(said.contradicted(&ended(exit, peak)).is_none(), believed, "{exit:?} {peak}");
        }
    }
}
