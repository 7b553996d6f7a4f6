//! The descriptors that came with a submission.
//!
//! Owns: how many there have to be, which is which, and whether each is what it has to be.
//! Never: reads what is in them, keeps one that is not taken.

use std::os::fd::OwnedFd;

use stockade_wire::client::{Refusal, RefusalReason};
use stockade_wire::job::{ModuleSource, Submission};
use stockade_wire::limits::{INPUT_BYTES_MAX, MODULE_BYTES_MAX};

use crate::sealed::{NotSealed, SealedFile};
use crate::supervisor::{Beside, Input};

/// How a submission and its descriptors contradict each other. It ends the connection: one of the two is not what the
/// client meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Mismatch {
    #[error("{came} descriptors came with a message that none belong to")]
    None { came: usize },
    #[error("the module was to come as a descriptor, and none was announced")]
    NoModule,
    #[error("{came} descriptors came with a submission that has use for {used}")]
    TooMany { came: usize, used: usize },
    #[error("the input came twice: as a descriptor and in the frame")]
    InputTwice,
}

/// A submission's descriptors by what they are for.
#[derive(Debug)]
pub(super) struct Brought {
    module: Option<OwnedFd>,
    input: Option<OwnedFd>,
}

/// No descriptor with a message that is no submission.
pub(super) const fn none(fds: &[OwnedFd]) -> Result<(), Mismatch> {
    match fds.len() {
        0 => Ok(()),
        came => Err(Mismatch::None { came }),
    }
}

impl Brought {
    /// Sorts them: the module first, where the submission says that it comes so, then the input.
    pub(super) fn sort(submission: &Submission, fds: Vec<OwnedFd>) -> Result<Self, Mismatch> {
        let came = fds.len();
        let mut fds = fds.into_iter();
        let (module, used) = match submission.module {
            ModuleSource::Descriptor => (Some(fds.next().ok_or(Mismatch::NoModule)?), 2),
            ModuleSource::Bytes(_) | ModuleSource::Digest(_) => (None, 1),
        };
        let input = fds.next();
        if fds.next().is_some() {
            return Err(Mismatch::TooMany { came, used });
        }
        if input.is_some() && !submission.input.0.is_empty() {
            return Err(Mismatch::InputTwice);
        }
        Ok(Self { module, input })
    }

    /// Looks at each. Their lengths are held against what the wire allows; the operator's ceilings come later.
    pub(super) fn examine(self) -> Result<Beside, Refusal> {
        let module = self.module.map(|fd| examine("module", &fd, MODULE_BYTES_MAX)).transpose()?;
        let input = self.input.map(|fd| examine("input", &fd, INPUT_BYTES_MAX)).transpose()?;
        Ok(Beside { module, input: input.map_or(Input::Submitted, Input::Sealed) })
    }
}

fn examine(what: &str, fd: &OwnedFd, bytes_max: usize) -> Result<SealedFile, Refusal> {
    SealedFile::examine(fd, bytes_max as u64).map_err(|error| {
        let reason = match error {
            NotSealed::TooLarge { .. } => RefusalReason::TooLarge,
            NotSealed::Kind(_)
            | NotSealed::NotInMemory
            | NotSealed::Unsealed(_)
            | NotSealed::Unreadable(_) => RefusalReason::Descriptor,
        };
        Refusal { reason, message: format!("the {what} {error}"), retry_after_ms: None }
    })
}
