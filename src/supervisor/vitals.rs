//! The supervisor's vital signs, for whoever watches over it.
//!
//! Owns: what is known without trying, and the trial.
//! Never: judges them.

use std::time::Instant;

use super::Supervisor;
use super::drive::Executor;

/// What is known without trying.
#[derive(Debug, Clone, Copy)]
pub struct Vitals {
    /// No more jobs are taken.
    pub draining: bool,
    /// Jobs run in workers, which have to be forked; not so in the developer's mode.
    pub forks: bool,
    /// When a worker was last made.
    pub last_worker: Option<Instant>,
}

/// Why no worker can be had.
#[derive(Debug, thiserror::Error)]
#[error("a worker made on trial failed")]
pub struct NoWorker(#[source] Box<dyn std::error::Error>);

impl Supervisor {
    /// What is known of whether jobs can be run.
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        let core = &self.core;
        let (forks, last_worker) = match &core.executor {
            Executor::Jailed { pool, .. } => (true, pool.last_worker()),
            Executor::InProcess { .. } => (false, None),
        };
        Vitals { draining: core.draining.get(), forks, last_worker }
    }

    /// Makes a worker as for a job, by the zygote, with every layer. Takes a millisecond where nothing else is asked
    /// of the zygote, and waits its turn otherwise.
    ///
    /// # Errors
    /// When none can be made, with the reason.
    pub async fn try_worker(&self) -> Result<(), NoWorker> {
        match &self.core.executor {
            Executor::Jailed { pool, .. } => pool.try_one().await.map_err(|error| NoWorker(Box::new(error))),
            Executor::InProcess { .. } => Ok(()),
        }
    }
}
