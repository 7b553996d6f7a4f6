//! One template process seen from the supervisor.
//!
//! Owns: the conversation with a template: its module, then forks.
//! Never: decides what deserves a template, or when to fork.

use std::io::ErrorKind;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use stockade_wire::worker::{FromWorker, PrepareOrder, ToWorker};
use tokio::time::timeout;

use crate::supervisor::child::{Child, Graveyard};
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
}

impl Template {
    /// Has a locked worker of the template role load `artifact`.
    pub(super) async fn prepare(
        worker: Worker,
        order: PrepareOrder,
        artifact: BorrowedFd<'_>,
    ) -> Result<Self, TemplateError> {
        let mut template = Self { worker, initialised: false };
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

    /// What it and its forks have resident of the program itself, see [`Worker::text_bytes`].
    pub(super) const fn text_bytes(&self) -> u64 {
        self.worker.text_bytes
    }

    /// Has it fork a worker with these descriptors. Not to be cancelled midway: the child would be known to nobody.
    pub(super) async fn fork(
        &self,
        theirs: WorkerEnds,
        graveyard: &Rc<Graveyard>,
    ) -> Result<Child, TemplateError> {
        let order = ToWorker::Fork { into_leaf: theirs.leaf.is_some() };
        let answer = self.ask(&order, &theirs.in_order(), 1, FORK_TIMEOUT).await?;
        let (pid, pidfd) = forked(answer)?;
        Child::new(pid, pidfd, theirs.leaf, graveyard).map_err(TemplateError::Unwatched)
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

fn forked((answer, mut fds): Message<FromWorker>) -> Result<(u32, OwnedFd), TemplateError> {
    match answer {
        FromWorker::Forked { pid } => match fds.pop() {
            Some(pidfd) if fds.is_empty() => Ok((pid, pidfd)),
            _ => Err(TemplateError::Broken("it forked and sent no pidfd".to_owned())),
        },
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
