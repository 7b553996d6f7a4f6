//! The template: a locked process that holds one module and forks run workers that have it.
//!
//! Owns: the loop over fork orders of one template, and what a fork does before it is a worker.
//! Never: runs guest code but, where it is told that it may, the initialiser of its module; sees an order to run, an input
//! or an output: those go to the forks, over links of their own.
//!
//! ```text
//! lock ─ Prepare ─ load, link, instantiate ─ no more code ─ (initialise) ─ Prepared ─┬─ Fork ─ clone3 ─ Forked ─┐
//!                                                                                    └──────────────────────────┘
//! ```
//! What a fork inherits is the module and, where making one runs no guest code, an instance of it as the module's own
//! bytes describe it, or as the module's initialiser left it that had nothing but those bytes. No job has been near any of
//! them.

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::prctl;
use stockade_sys::fork::{Forked, Newborn, sibling};
use stockade_sys::link::{self, LinkError};
use stockade_sys::prctl::exit_now;
use stockade_wire::frame;
use stockade_wire::limits::{FORK_FDS_MAX, FORKS_MAX, GUEST_TEXT_BYTES_MAX, LINK_MESSAGE_BYTES_MAX};
use stockade_wire::worker::{FromWorker, PrepareOrder, ToWorker};
use stockade_wire::zygote::ZygoteConfig;

use crate::engine::Warm;
use crate::jail::template::{ARTIFACT_FD, Stem, branch, take_root};
use crate::jail::{Locked, Namespaces, Refusal};
use crate::role::{
    Behaviour, LOCK_FAILED_STATUS, Link, ORDER_STATUS, Orders, PipeEnds, REPLY_STATUS, Settled, reply,
    run_prepared, worker_fds,
};
use crate::run::Prepared;

/// What a template has from its zygote.
pub(crate) struct Grounds<'a> {
    pub(crate) config: &'a ZygoteConfig,
    pub(crate) namespaces: &'a Namespaces,
    pub(crate) warm: &'a Warm,
    pub(crate) behaviour: &'a Behaviour,
}

/// Loads the module and forks workers until the supervisor closes the link.
pub(crate) fn serve(
    locked: Locked,
    fds: Settled,
    (order, artifact): (PrepareOrder, OwnedFd),
    grounds: &Grounds<'_>,
) -> Infallible {
    let link = fds.link;
    if u32::try_from(artifact.as_raw_fd()) != Ok(ARTIFACT_FD) {
        give_up(link, format!("the artifact came as descriptor {}", artifact.as_raw_fd()));
    }
    let loaded = if order.engine {
        let solo = grounds.config.huge_pages.then(|| locked.solo());
        Prepared::load_engine(grounds.warm, artifact, solo)
    } else {
        Prepared::load(grounds.warm, artifact)
    };
    let mut prepared = match loaded {
        Ok(prepared) => prepared,
        Err(why) => give_up(link, why),
    };
    if let Some(entry) = order.entry.as_deref().filter(|entry| !prepared.exports_function(entry)) {
        give_up(link, format!("there is no exported function {entry:?}"));
    }
    let mut stem = match take_root(locked) {
        Ok(stem) => stem,
        Err(error) => give_up(link, error.to_string()),
    };
    if !order.engine && order.initialise_us > 0 && prepared.has_initialiser() {
        match stem.bar() {
            Ok(barred) => prepared.initialise(&barred, &order, grounds.behaviour.keep),
            Err(error) => give_up(link, error.to_string()),
        }
    }
    let (live, initialised) = (prepared.is_live(), prepared.is_initialised());
    reply(link, &FromWorker::Prepared { live, initialised });
    let mut seed = Seed { stem, prepared: Some(prepared), orders: Some(Orders::new()), fds, grounds };
    loop {
        let births = next_births(link, &mut seed);
        let born = fork_all(births, &mut seed);
        if answer(link, born).is_err() {
            exit_now(REPLY_STATUS)
        }
    }
}

/// What each fork of a template has a copy of.
struct Seed<'a> {
    stem: Stem,
    /// Taken by a fork, never by the template; and so with the next.
    prepared: Option<Prepared>,
    orders: Option<Orders>,
    fds: Settled,
    grounds: &'a Grounds<'a>,
}

/// A worker that is to be forked.
struct Birth {
    pipes: PipeEnds,
    leaf: Option<OwnedFd>,
    /// It is to report what it finds when it looks at itself.
    reporting: bool,
}

/// Waits for the next order to fork. Ends the process when the supervisor has closed the link, or sent something else.
fn next_births(link: Link, seed: &mut Seed<'_>) -> Vec<Birth> {
    let Some(orders) = &mut seed.orders else { exit_now(ORDER_STATUS) };
    let (ToWorker::Fork { workers, into_leaf, reporting }, fds) =
        orders.take_with(link, FORKS_MAX * FORK_FDS_MAX)
    else {
        exit_now(ORDER_STATUS)
    };
    let workers = usize::try_from(workers).ok().filter(|workers| (1..=FORKS_MAX).contains(workers));
    workers
        .and_then(|workers| sorted(fds, workers, into_leaf, reporting))
        .unwrap_or_else(|| exit_now(ORDER_STATUS))
}

/// The descriptors of so many workers: exactly these, or `None`.
fn sorted(fds: Vec<OwnedFd>, workers: usize, into_leaf: bool, reporting: bool) -> Option<Vec<Birth>> {
    let each = fds.len() / workers;
    let mut fds = fds.into_iter();
    let mut births = Vec::with_capacity(workers);
    for _ in 0..workers {
        let (pipes, leaf) = PipeEnds::sort(fds.by_ref().take(each).collect(), into_leaf)?;
        births.push(Birth { pipes, leaf, reporting });
    }
    if fds.next().is_some() { None } else { Some(births) }
}

/// Forks them one after the other, until one cannot be forked.
fn fork_all(births: Vec<Birth>, seed: &mut Seed<'_>) -> Result<Vec<Forked>, Errno> {
    let mut forked = Vec::with_capacity(births.len());
    for Birth { pipes, leaf, reporting } in births {
        let born = sibling(seed.stem.solo(), leaf.as_ref().map(AsFd::as_fd), |newborn| {
            let inherited = (seed.prepared.take(), seed.orders.take());
            grow((newborn, pipes, reporting), inherited, &seed.stem, &seed.fds, seed.grounds)
        });
        match born {
            Ok(born) => forked.push(born),
            Err(errno) if forked.is_empty() => return Err(errno),
            Err(_) => break,
        }
    }
    Ok(forked)
}

/// In the fork: the jail, then the job. Never returns.
fn grow(
    (newborn, pipes, reporting): (Newborn, PipeEnds, bool),
    inherited: (Option<Prepared>, Option<Orders>),
    stem: &Stem,
    templates: &Settled,
    grounds: &Grounds<'_>,
) -> Infallible {
    // The name is for people who look at process lists; without it all works as well.
    let _ = prctl::set_name(c"stockade:run");
    let ((Some(mut prepared), Some(mut orders)), Some(fds)) = (inherited, worker_fds(pipes, templates.null))
    else {
        exit_now(LOCK_FAILED_STATUS)
    };
    if prepared.is_engine() {
        // Of a module that was initialised not even this is allowed.
        prepared.populate();
        orders.rehearse();
    }
    let namespaces = Some(grounds.namespaces).filter(|_| reporting);
    match branch(newborn, fds, stem, grounds.config.supervisor_pid, namespaces) {
        Ok((branch, report, fds)) => {
            let fds = Settled::of(fds);
            if let Some(report) = report {
                reply(fds.link, &FromWorker::Locked(report));
            }
            run_prepared(branch, fds, (prepared, orders), grounds.behaviour)
        }
        Err(Refusal { error, fds }) => {
            if let Some(fds) = fds {
                // If it cannot be told, the exit status still says it.
                let _ = Settled::of(fds).link.send(&error.into_message());
            }
            exit_now(LOCK_FAILED_STATUS)
        }
    }
}

fn answer(link: Link, born: Result<Vec<Forked>, Errno>) -> Result<(), LinkError> {
    let (message, pidfds) = match born {
        Ok(forked) => {
            let (pids, pidfds) = forked.into_iter().map(|Forked { pid, pidfd }| (pid, pidfd)).unzip();
            (FromWorker::Forked { pids }, pidfds)
        }
        Err(errno) => (FromWorker::NotForked { errno: errno as i32 }, Vec::new()),
    };
    // A message of a few integers has a frame.
    let packet = frame::encode(&message, LINK_MESSAGE_BYTES_MAX).unwrap_or_default();
    let fds: Vec<_> = pidfds.iter().map(AsFd::as_fd).collect();
    link::send(link.as_fd(), &packet, &fds)
}

fn give_up(link: Link, mut why: String) -> ! {
    why.truncate(why.floor_char_boundary(GUEST_TEXT_BYTES_MAX));
    reply(link, &FromWorker::NotPrepared(why));
    exit_now(0)
}
