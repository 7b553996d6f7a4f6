//! A job that is over: its result, and its output where that is too large to be carried about in it.
//!
//! Owns: which of the two the output is in.
//! Never: changes either.

use std::io;

use stockade_wire::bytes::ByteBuf;
use stockade_wire::job::JobResult;
use tokio::sync::OwnedSemaphorePermit;

use crate::sealed::SealedFile;

/// What there is to say of a job that is over.
#[derive(Debug)]
pub struct JobEnd {
    /// Everything, without the output where that is in `output`.
    pub result: JobResult,
    /// The output, where it is large.
    pub output: Option<SealedFile>,
    /// The place of `output` among the files that are kept.
    _place: Option<OwnedSemaphorePermit>,
}

impl JobEnd {
    /// Without anything beside the result.
    #[must_use]
    pub const fn of(result: JobResult) -> Self {
        Self { result, output: None, _place: None }
    }

    /// With the output in `output`, which keeps its place for as long as this lives.
    #[must_use]
    pub fn with_output(result: JobResult, output: SealedFile, place: Option<OwnedSemaphorePermit>) -> Self {
        Self { result, output: Some(output), _place: place }
    }

    /// Length of the output, bytes.
    #[must_use]
    pub fn output_bytes(&self) -> u64 {
        self.output.as_ref().map_or(self.result.output.0.len() as u64, SealedFile::bytes)
    }

    /// The result with its output in it, copied.
    ///
    /// # Errors
    /// When the output cannot be read.
    pub fn whole(&self) -> io::Result<JobResult> {
        let mut result = self.result.clone();
        if let Some(output) = &self.output {
            result.output = ByteBuf(output.read()?);
        }
        Ok(result)
    }
}
