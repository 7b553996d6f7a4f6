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
use stockade_wire::frame::{self, HEADER_BYTES};
use stockade_wire::limits::{GUEST_TEXT_BYTES_MAX, LINK_FDS_MAX, LINK_MESSAGE_BYTES_MAX};
use stockade_wire::worker::{FromWorker, PrepareOrder, ToWorker};
use stockade_wire::zygote::ZygoteConfig;

use crate::engine::Warm;
use crate::jail::template::{ARTIFACT_FD, Stem, branch, take_root};
use crate::jail::{Locked, Namespaces, Refusal};
use crate::role::{
    Behaviour, LOCK_FAILED_STATUS, Link, ORDER_STATUS, PipeEnds, REPLY_STATUS, Settled, reply, run_prepared,
    worker_fds,
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
    let load = if order.engine { Prepared::load_engine } else { Prepared::load };
    let mut prepared = match load(grounds.warm, artifact) {
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
    let mut prepared = Some(prepared);
    let mut buffer = vec![0; HEADER_BYTES + LINK_MESSAGE_BYTES_MAX];
    loop {
        let received = match link::receive(link.as_fd(), &mut buffer, LINK_FDS_MAX) {
            Ok(received) if received.length == 0 => exit_now(0),
            Ok(received) => received,
            Err(_) => exit_now(ORDER_STATUS),
        };
        let packet = buffer.get(..received.length).unwrap_or_default();
        let Ok(ToWorker::Fork { into_leaf }) = frame::decode_packet(packet, LINK_MESSAGE_BYTES_MAX) else {
            exit_now(ORDER_STATUS)
        };
        let Some((pipes, leaf)) = PipeEnds::sort(received.fds, into_leaf) else { exit_now(ORDER_STATUS) };
        let born = sibling(stem.solo(), leaf.as_ref().map(AsFd::as_fd), |newborn| {
            grow(newborn, pipes, &stem, prepared.take(), &fds, grounds)
        });
        if answer(link, born).is_err() {
            exit_now(REPLY_STATUS)
        }
    }
}

/// In the fork: the jail, then the job. Never returns.
fn grow(
    newborn: Newborn,
    pipes: PipeEnds,
    stem: &Stem,
    prepared: Option<Prepared>,
    templates: &Settled,
    grounds: &Grounds<'_>,
) -> Infallible {
    // The name is for people who look at process lists; without it all works as well.
    let _ = prctl::set_name(c"stockade:run");
    let (Some(mut prepared), Some(fds)) = (prepared, worker_fds(pipes, templates.null)) else {
        exit_now(LOCK_FAILED_STATUS)
    };
    prepared.populate();
    match branch(newborn, fds, stem, grounds.config.supervisor_pid, grounds.namespaces) {
        Ok((branch, report, fds)) => {
            run_prepared((branch, report), Settled::of(fds), prepared, grounds.behaviour)
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

fn answer(link: Link, born: Result<Forked, Errno>) -> Result<(), LinkError> {
    let (message, pidfd) = match born {
        Ok(Forked { pid, pidfd }) => (FromWorker::Forked { pid }, Some(pidfd)),
        Err(errno) => (FromWorker::NotForked { errno: errno as i32 }, None),
    };
    // A message of two integers has a frame.
    let packet = frame::encode(&message, LINK_MESSAGE_BYTES_MAX).unwrap_or_default();
    let fds: Vec<_> = pidfd.iter().map(AsFd::as_fd).collect();
    link::send(link.as_fd(), &packet, &fds)
}

fn give_up(link: Link, mut why: String) -> ! {
    why.truncate(why.floor_char_boundary(GUEST_TEXT_BYTES_MAX));
    reply(link, &FromWorker::NotPrepared(why));
    exit_now(0)
}
