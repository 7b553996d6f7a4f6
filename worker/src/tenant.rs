//! A run worker that stays for further jobs of one tenant with one module.
//!
//! Owns: the loop over such a worker's orders.
//! Never: runs two jobs at once, or one before the worker is sealed; decides whether it stays: the supervisor ends it.
//!
//! ```text
//! lock ─ RunAndStay ─ load ─ seal ─┬─ run ─ Finished ─ Run ─┐
//!                                  └────────────────────────┘
//! ```
//! A job finds a store, an instance and a WASI context of its own, and they are gone before its report goes out; a script's
//! engine goes right after it, and before the next order is received. What is common to all: the process, the loaded module,
//! the pipes.

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use stockade_sys::epoch;
use stockade_sys::prctl::exit_now;
use stockade_wire::worker::{FromWorker, RunOrder, RunReport, ToWorker};

use crate::engine::Warm;
use crate::jail::{Locked, Sealed};
use crate::role::{Behaviour, Link, ORDER_STATUS, Orders, Settled, reply, set_up_failed, sorted};
use crate::run::{Kept, Returned, Sink, Stdio, not_loaded};

/// The order with which a worker is told to stay.
pub(crate) struct First {
    pub(crate) order: RunOrder,
    pub(crate) artifact: OwnedFd,
    /// Unless it is in the order, as is the source of most scripts.
    pub(crate) input: Option<OwnedFd>,
    pub(crate) source: Option<OwnedFd>,
    pub(crate) received: Instant,
}

/// What the jobs of one process write to.
struct Sinks {
    output: Sink,
    stdout: Sink,
    stderr: Sink,
}

impl Sinks {
    /// For one job, whose function's value goes to `returned` if it is short.
    fn stdio(&self, (input, source): (Option<OwnedFd>, Option<OwnedFd>), returned: &Returned) -> Stdio {
        let Self { output, stdout, stderr } = self;
        Stdio {
            input,
            source,
            output: output.returning(returned),
            stdout: stdout.clone(),
            stderr: stderr.clone(),
        }
    }
}

/// Runs the first job, then others until it is killed, told to stop, or the supervisor closes the link.
pub(crate) fn serve(
    locked: Locked,
    fds: Settled,
    first: First,
    warm: &Warm,
    behaviour: &Behaviour,
) -> Infallible {
    let Settled { link, output, stdout_log, stderr_log, .. } = fds;
    let First { mut order, artifact, input, source, mut received } = first;
    let mut given = (input, source);
    let sinks = Sinks { output: output.into(), stdout: stdout_log.into(), stderr: stderr_log.into() };
    let (mut kept, sealed) = match settle(locked, &order, artifact, received, warm) {
        Ok(settled) => settled,
        Err(report) => {
            reply(link, &FromWorker::Finished(report));
            exit_now(0)
        }
    };
    let mut orders = Orders::new();
    loop {
        (behaviour.ordered)(&order, link);
        let returned = Returned::default();
        let report = kept.run(&sealed, &order, received, sinks.stdio(given, &returned));
        let mut report = RunReport { mdwe: sealed.mdwe(), ..report };
        (behaviour.reported)(&order, &mut report);
        // With its source and its input: nothing of a job stays longer than its report.
        order.script = None;
        let value = Arc::into_inner(returned).and_then(OnceLock::into_inner);
        reply(
            link,
            &match value {
                Some(value) => FromWorker::Returned(report, value.into()),
                None => FromWorker::Finished(report),
            },
        );
        (behaviour.stayed)(&order, link);
        kept.renew();
        if epoch::stopping() {
            exit_now(0)
        }
        (order, given) = next(link, &mut orders);
        received = Instant::now();
    }
}

fn settle(
    locked: Locked,
    order: &RunOrder,
    artifact: OwnedFd,
    received: Instant,
    warm: &Warm,
) -> Result<(Kept, Sealed), RunReport> {
    let kept = Kept::load(warm, order, artifact).map_err(|ending| not_loaded(ending, order, received))?;
    epoch::install(kept.engine()).map_err(|error| set_up_failed(&error))?;
    let sealed = locked.seal_to_stay(order.limits.data_bytes).map_err(|error| set_up_failed(&error))?;
    Ok((kept, sealed))
}

/// The next order, with its input and, if it is for a script, its source, where they are not in it.
fn next(link: Link, orders: &mut Orders) -> (RunOrder, (Option<OwnedFd>, Option<OwnedFd>)) {
    match orders.take(link) {
        (ToWorker::Run(order), given) => {
            if given.is_empty() && order.script.is_none() && order.limits.input_bytes == Some(0) {
                return (order, (None, None));
            }
            let ([], input, source) = sorted(given, &order);
            (order, (input, source))
        }
        (
            ToWorker::RunAndStay(_) | ToWorker::Compile(_) | ToWorker::Prepare(_) | ToWorker::Fork { .. },
            _,
        ) => exit_now(ORDER_STATUS),
    }
}
