//! What comes beside a submission, as descriptors.
//!
//! Owns: which of module and input that is, and what a submission with both weighs.
//! Never: decides whether it is admitted; reads a file.

use std::os::fd::OwnedFd;

use stockade_wire::job::{Digest, ModuleSource, Submission};

use super::artifact::Module;
use crate::sealed::SealedFile;

/// What one job's input is read from.
#[derive(Debug, Default)]
pub enum Input {
    /// The bytes in the submission.
    #[default]
    Submitted,
    /// A file in memory that a client sent.
    Sealed(SealedFile),
    /// A descriptor of the caller's own, such as a terminal or a pipe: only for `stockade run`, where the caller
    /// is the supervisor's own process.
    Descriptor(OwnedFd),
}

/// What of a job comes beside its submission.
#[derive(Debug, Default)]
pub struct Beside {
    /// The module, if the submission says [`ModuleSource::Descriptor`].
    pub module: Option<SealedFile>,
    /// The input.
    pub input: Input,
}

/// What a submission makes the supervisor hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Weight {
    /// Length of the module; 0 when it is named by its digest.
    pub(crate) module_bytes: u64,
    /// Length of the input, as far as it is known.
    pub(crate) input_bytes: u64,
    /// Files in memory, which are open until the job is over.
    pub(crate) files: usize,
}

impl Weight {
    pub(crate) fn of(submission: &Submission, beside: &Beside) -> Self {
        let sealed = |file: &SealedFile| (file.bytes(), 1);
        let (module_bytes, module_files) = match &submission.module {
            ModuleSource::Bytes(bytes) => (bytes.0.len() as u64, 0),
            ModuleSource::Digest(_) => (0, 0),
            ModuleSource::Descriptor => beside.module.as_ref().map_or((0, 0), sealed),
        };
        let (input_bytes, input_files) = match &beside.input {
            Input::Submitted => (submission.input.0.len() as u64, 0),
            Input::Sealed(file) => sealed(file),
            Input::Descriptor(_) => (0, 0),
        };
        Self { module_bytes, input_bytes, files: module_files + input_files }
    }

    /// Of modules and inputs together.
    pub(crate) const fn bytes(&self) -> u64 {
        self.module_bytes.saturating_add(self.input_bytes)
    }
}

/// Where an admitted job's module comes from.
#[derive(Debug)]
pub(crate) enum Source {
    /// It was compiled before.
    Known(Digest),
    /// It was brought along.
    Brought(Module),
}

impl Source {
    /// `None` when it was said to be beside the submission and is not.
    pub(crate) fn of(module: ModuleSource, beside: Option<SealedFile>) -> Option<Self> {
        Some(match module {
            ModuleSource::Digest(digest) => Self::Known(digest),
            ModuleSource::Bytes(bytes) => Self::Brought(Module::Bytes(bytes.0)),
            ModuleSource::Descriptor => Self::Brought(Module::File(beside?)),
        })
    }
}
