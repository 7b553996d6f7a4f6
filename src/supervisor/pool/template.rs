//! One template process seen from the supervisor.
//!
//! Owns: the conversation with a template: its module, then forks.
//! Never: decides what deserves a template, or when to fork.

use std::io::ErrorKind;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

#[cfg(doc)]
use stockade_wire::limits::FORKS_MAX;
use stockade_wire::worker::{FromWorker, PrepareOrder, ToWorker};
use tokio::time::timeout;

use crate::supervisor::child::{Child, Graveyard, as_pid};
use crate::supervisor::link::{ExchangeError, Message};
use crate::supervisor::logs::display::safe_text;
use crate::supervisor::worker::Worker;
use crate::supervisor::zygote::WorkerEnds;

/// Time a template has to load its module, beside that which it may take to initialise it. Mapping one takes a fraction of
/// a millisecond.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(5);

/// Time a template has to answer a fork order. A fork takes a tenth of a millisecond.
const FORK_TIMEOUT: Duration = Duration::from_secs(1);

/// Most of a template's word that is repeated, bytes.
const SHOWN_BYTES_MAX: usize = 512;

/// Why a template is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TemplateError {
    /// Its link failed, or it said what it may not say.
    #[error("the template broke off: {0}")]
    Broken(String),
    /// It did not answer in time.
    #[error("the template did not answer within {0:?}")]
    Hung(Duration),
    /// It cannot hold this module.
    #[error("the template cannot hold the module: {0}")]
    NotPrepared(String),
    /// It could not fork.
    #[error("the template could not fork")]
    NotForked(#[source] std::io::Error),
    /// What it forked cannot be watched; it was killed.
    #[error("a worker that the template forked cannot be watched")]
    Unwatched(#[source] std::io::Error),
}

impl TemplateError {
    /// Whether the next template of the same module would most likely fail as well. A fork that failed for want of memory or
    /// of processes says nothing of the module.
    pub(super) fn is_of_the_module(&self) -> bool {
        match self {
            Self::NotPrepared(_) => true,
            Self::NotForked(error) => {
                matches!(
                    error.kind(),
                    ErrorKind::PermissionDenied | ErrorKind::Unsupported | ErrorKind::InvalidInput
                )
            }
            Self::Broken(_) | Self::Hung(_) | Self::Unwatched(_) => false,
        }
    }
}

/// A template that has its module. Dropped, it is killed and buried.
pub(super) struct Template {
    worker: Worker,
    initialised: bool,
    /// It was told that it may initialise its module.
    may_initialise: bool,
}

impl Template {
    /// Has a locked worker of the template role load `artifact`.
    pub(super) async fn prepare(
        worker: Worker,
        order: PrepareOrder,
        artifact: BorrowedFd<'_>,
    ) -> Result<Self, TemplateError> {
        let mut template =
            Self { worker, initialised: false, may_initialise: !order.engine && order.initialise_us > 0 };
        let within = PREPARE_TIMEOUT.saturating_add(Duration::from_micros(order.initialise_us));
        match template.ask(&ToWorker::Prepare(order), &[artifact], 0, within).await? {
            (FromWorker::Prepared { live, initialised }, _) => {
                let pid = template.worker.pid();
                tracing::debug!(pid, live, initialised, "template has its module");
                template.initialised = initialised;
                Ok(template)
            }
            (FromWorker::NotPrepared(why), _) => {
                Err(TemplateError::NotPrepared(safe_text(&why, SHOWN_BYTES_MAX)))
            }
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Whether its instance has run its initialiser.
    pub(super) const fn is_initialised(&self) -> bool {
        self.initialised
    }

    /// Whether code of its module may have run in it, be it that what came of it was thrown away.
    pub(super) const fn may_have_run_its_module(&self) -> bool {
        self.may_initialise
    }

    /// Has the graveyard look for forks that it did not live to tell of: they are born in its process group.
    pub(super) fn suspect(&self, graveyard: &Graveyard) {
        match nix::unistd::getpgid(Some(as_pid(self.worker.pid()))) {
            Ok(group) => graveyard.suspect(group.as_raw().unsigned_abs()),
            Err(errno) => tracing::error!(%errno, "a template's process group is not known"),
        }
    }

    /// What it and its forks have resident of the program itself, see [`Worker::text_bytes`].
    pub(super) const fn text_bytes(&self) -> u64 {
        self.worker.text_bytes
    }

    /// Has it fork a worker with each of these descriptors, of which there are at most [`FORKS_MAX`] and all with a leaf or
    /// none, and says whether they are to report. They come in the same order, and may be fewer. Not to be cancelled midway:
    /// the children would be known to nobody.
    pub(super) async fn fork(
        &self,
        theirs: Vec<WorkerEnds>,
        reporting: bool,
        graveyard: &Rc<Graveyard>,
    ) -> Result<Vec<Child>, TemplateError> {
        let into_leaf = theirs.iter().any(|ends| ends.leaf.is_some());
        let workers = u32::try_from(theirs.len()).unwrap_or(u32::MAX);
        let order = ToWorker::Fork { workers, into_leaf, reporting };
        let fds: Vec<_> = theirs.iter().flat_map(WorkerEnds::in_order).collect();
        let answer = self.ask(&order, &fds, theirs.len(), FORK_TIMEOUT).await?;
        let born = forked(answer, theirs.len())?.into_iter().zip(theirs);
        born.map(|((pid, pidfd), ends)| Child::new(pid, pidfd, ends.leaf, graveyard))
            .collect::<Result<_, _>>()
            .map_err(TemplateError::Unwatched)
    }

    /// Returns when it has exited.
    pub(super) async fn exited(&self) {
        self.worker.exited().await;
    }

    async fn ask(
        &self,
        message: &ToWorker,
        fds: &[BorrowedFd<'_>],
        fds_back_max: usize,
        within: Duration,
    ) -> Result<Message<FromWorker>, TemplateError> {
        let exchange = async {
            self.worker.link.send(message, fds).await?;
            self.worker.link.receive(fds_back_max).await
        };
        let answer: Result<_, ExchangeError> =
            timeout(within, exchange).await.map_err(|_| TemplateError::Hung(within))?;
        answer
            .map_err(|error| TemplateError::Broken(error.to_string()))?
            .ok_or_else(|| TemplateError::Broken("it went away".to_owned()))
    }
}

/// The children of an order for at most `ordered`, one at least.
fn forked(
    (answer, pidfds): Message<FromWorker>,
    ordered: usize,
) -> Result<Vec<(u32, OwnedFd)>, TemplateError> {
    match answer {
        FromWorker::Forked { pids } if pids.is_empty() || pids.len() > ordered => {
            Err(TemplateError::Broken(format!("it forked {} workers instead of {ordered}", pids.len())))
        }
        FromWorker::Forked { pids } if pids.len() != pidfds.len() => {
            Err(TemplateError::Broken("it forked and did not send a pidfd for each".to_owned()))
        }
        FromWorker::Forked { pids } => Ok(pids.into_iter().zip(pidfds).collect()),
        FromWorker::NotForked { errno } => {
            Err(TemplateError::NotForked(std::io::Error::from_raw_os_error(errno)))
        }
        other => Err(unexpected(&other)),
    }
}

fn unexpected(message: &FromWorker) -> TemplateError {
    TemplateError::Broken(match message {
        FromWorker::Panicked(text) => safe_text(text, SHOWN_BYTES_MAX),
        FromWorker::Forbidden(number) => {
            let call = crate::supervisor::job::outcome::syscall_name(*number);
            format!("it made the system call {call}, which its own jail forbids")
        }
        _ => "it answered with something else".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    fn pidfds(count: usize) -> Vec<OwnedFd> {
        (0..count).map(|_| std::fs::File::open("/dev/null").unwrap().into()).collect()
    }

    #[test]
    fn answer_to_a_fork_order_is_taken_only_with_a_pidfd_each_and_no_more_than_were_ordered() {
        for ordered in 1..=4 {
            for (pids, fds) in (0..=5).flat_map(|pids| (0..=5).map(move |fds| (pids, fds))) {
                let answer = FromWorker::Forked { pids: (100..).take(pids).collect() };
                let taken = forked((answer, pidfds(fds)), ordered);
                let good = (1..=ordered).contains(&pids) && pids == fds;
                match taken {
                    Ok(children) => {
                        assert!(good, "{pids} of {ordered} with {fds} descriptors");
                        assert!(children.iter().map(|(pid, _)| *pid).eq((100..).take(pids)));
                    }
                    Err(error) => {
                        assert!(
                            !good && matches!(error, TemplateError::Broken(_)),
                            "{pids} of {ordered}: {error}"
                        );
                    }
                }
            }
        }
        let refused = forked((FromWorker::NotForked { errno: Errno::EAGAIN as i32 }, Vec::new()), 4);
        assert!(matches!(refused, Err(TemplateError::NotForked(_))));
        let nonsense = forked((FromWorker::Forbidden(1), Vec::new()), 1);
        assert!(matches!(nonsense, Err(TemplateError::Broken(_))));
    }

    #[test]
    fn failed_fork_is_held_against_the_module_unless_something_was_scarce_for_a_while() {
        let not_forked = |errno: Errno| TemplateError::NotForked(errno.into());
        for (error, of_the_module) in [
            (TemplateError::NotPrepared("a component".to_owned()), true),
            (not_forked(Errno::EPERM), true),
            (not_forked(Errno::EACCES), true),
            (not_forked(Errno::ENOSYS), true),
            (not_forked(Errno::EOPNOTSUPP), true),
            (not_forked(Errno::EINVAL), true),
            // Processes, memory, the leaf's group.
            (not_forked(Errno::EAGAIN), false),
            (not_forked(Errno::ENOMEM), false),
            (not_forked(Errno::EBUSY), false),
            (not_forked(Errno::ENODEV), false),
            (not_forked(Errno::EMFILE), false),
            (TemplateError::Hung(FORK_TIMEOUT), false),
            (TemplateError::Broken("it went away".to_owned()), false),
        ] {
            assert_eq!(error.is_of_the_module(), of_the_module, "{error:?}");
        }
    }
}
