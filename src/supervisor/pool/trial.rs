//! Whether a worker can be had, tried.
//!
//! Owns: the trial, and when a worker was last made.
//! Never: decides what follows from it.

use std::time::Instant;

use stockade_wire::worker::Role;

use super::{Pool, PoolError};

impl Pool {
    /// When the zygote last made a process that could be locked; what a template makes is not the zygote's.
    pub(crate) fn last_worker(&self) -> Option<Instant> {
        self.last_worker.get()
    }

    /// Makes a worker as for any job, and ends it.
    ///
    /// # Errors
    /// When none can be made.
    pub(crate) async fn try_one(&self) -> Result<(), PoolError> {
        self.make(&self.birth_of_any(Role::Run)).await.map(drop)
    }
}
