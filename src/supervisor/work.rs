//! What goes to whoever runs a job.
//!
//! Owns: the artifact, the source and the input of one run, how each travels, and the order that is made of them.
//! Never: chooses who runs it, or waits.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Instant;

use stockade_wire::bytes::ByteBuf;
use stockade_wire::limits::SCRIPT_TEXT_BYTES_MAX;
use stockade_wire::worker::{RunLimits, RunOrder};

use super::artifact::{Artifact, Key};
use super::job::Job;
use super::scripts::Found;
use super::worker::micros_since;
use super::{Core, script};

/// What one run needs.
pub(super) struct Work {
    pub(super) key: Key,
    pub(super) artifact: Rc<Artifact>,
    /// The script, where the artifact is the JavaScript engine.
    pub(super) source: Option<script::Text>,
    /// What is known of that script.
    pub(super) compiled: Found,
    pub(super) input: Given,
    pub(super) input_bytes: Option<u64>,
    pub(super) deadline: Instant,
    /// Private memory of a worker, see [`RunLimits::data_bytes`].
    pub(super) data_bytes: u64,
}

/// A job's input on its way.
pub(super) enum Given {
    /// A script's, which goes with its order.
    Here(ByteBuf),
    /// A file, or what a client gave.
    File(Rc<OwnedFd>),
}

impl Given {
    /// # Errors
    /// When the kernel has no descriptor or memory for a long one.
    pub(super) fn to_script(bytes: ByteBuf, core: &Core) -> std::io::Result<Self> {
        if bytes.0.len() <= SCRIPT_TEXT_BYTES_MAX { Ok(Self::Here(bytes)) } else { core.input(&bytes.0) }
    }

    pub(super) fn file(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Here(_) => None,
            Self::File(file) => Some(file.as_fd()),
        }
    }

    fn here(&self) -> Option<&ByteBuf> {
        match self {
            Self::Here(bytes) => Some(bytes),
            Self::File(_) => None,
        }
    }
}

impl Work {
    /// The order to whoever runs it.
    pub(super) fn order(&self, job: &Job) -> RunOrder {
        let admitted = &job.admitted;
        RunOrder {
            name: admitted.name.clone(),
            entry: admitted.entry.clone(),
            arguments: admitted.arguments.clone(),
            environment: admitted.environment.clone(),
            limits: RunLimits {
                deadline_us: micros_since(Instant::now(), self.deadline),
                memory_bytes: admitted.limits.memory_bytes,
                data_bytes: self.data_bytes,
                fuel: admitted.limits.fuel,
                input_bytes: self.input_bytes,
            },
            script: self.source.as_ref().map(|source| {
                let form = if let Found::Form(form) = &self.compiled { Some(form.as_ref()) } else { None };
                script::order(job, source, self.input.here(), form)
            }),
        }
    }
}
