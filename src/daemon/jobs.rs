//! What the daemon asks of whoever runs the jobs.
//!
//! Owns: the seam between connections and the supervisor.
//! Never: runs a job, decides who may see one.

use std::rc::Rc;
use std::time::Duration;

use stockade_wire::client::{Refusal, Statistics};
use stockade_wire::job::{JobSummary, Submission};

use crate::job_end::JobEnd;
use crate::supervisor::{Beside, Caller, LogFollower, LogPiece, Lookup, Supervisor};

/// The supervisor as connections see it: a cheap handle, used on one thread.
///
/// Every question about a job names the caller, and a job that is another's is answered exactly like one
/// that never was.
pub trait Jobs: Clone + 'static {
    /// Reads the logs of one job.
    type Logs: FollowLogs;

    /// Admits a job, with what came beside its submission, and gives its id. Never blocks.
    ///
    /// # Errors
    /// When the job is not admitted; nothing of it is kept.
    fn submit(&self, caller: &Caller, submission: Submission, beside: Beside) -> Result<String, Refusal>;

    /// Counts a submission that did not get as far as to [`Jobs::submit`]. Never blocks.
    fn refused(&self, caller: &Caller, refusal: &Refusal);

    /// The same of a job that is to have exactly one final record, whatever crashes; see [`Jobs::recorded`].
    ///
    /// # Errors
    /// As [`Jobs::submit`], and where that cannot be had.
    fn submit_durable(
        &self,
        caller: &Caller,
        submission: Submission,
        beside: Beside,
    ) -> Result<String, Refusal>;

    /// Whether a job is accepted, once that is sure: at once, unless it is durable and on its way to the disk. After a
    /// refusal nothing of it is kept.
    fn recorded(&self, caller: &Caller, job: &str) -> impl Future<Output = Result<(), Refusal>>;

    /// Where a job is. Never blocks.
    fn result(&self, caller: &Caller, job: &str) -> Option<Lookup>;

    /// The result of a job, when it is there, however long after that it is awaited. Never blocks itself. Dropping the
    /// future leaves the job alone.
    fn end_of(&self, caller: &Caller, job: &str) -> Option<impl Future<Output = Rc<JobEnd>> + 'static>;

    /// Begins to end a job; `false` when there is none to end, whatever the reason. Never blocks.
    fn cancel(&self, caller: &Caller, job: &str) -> bool;

    /// The caller's jobs, newest last. Never blocks.
    fn list(&self, caller: &Caller) -> Vec<JobSummary>;

    /// A reader of a job's logs, at their beginning. Never blocks.
    fn logs(&self, caller: &Caller, job: &str) -> Option<Self::Logs>;

    /// Figures of the jobs; connections and the host are the daemon's to fill in. Never blocks.
    fn statistics(&self) -> Statistics;

    /// Refuses new jobs from now on, and returns when none is left: those still there after `within` are
    /// ended. May be called again with less time.
    fn drain(&self, within: Duration) -> impl Future<Output = ()>;
}

/// Reads one job's logs, both streams, from the beginning.
pub trait FollowLogs: 'static {
    /// The next piece, when it is there; `None` when the job is over and everything was read.
    fn next(&mut self) -> impl Future<Output = Option<LogPiece>>;

    /// The next piece of what was there when the reader was made, and no later one.
    fn now(&mut self) -> Option<LogPiece>;
}

impl Jobs for Supervisor {
    type Logs = LogFollower;

    fn submit(&self, caller: &Caller, submission: Submission, beside: Beside) -> Result<String, Refusal> {
        self.submit_with(caller, submission, beside)
    }

    fn refused(&self, caller: &Caller, refusal: &Refusal) {
        self.refused(caller, refusal);
    }

    fn submit_durable(
        &self,
        caller: &Caller,
        submission: Submission,
        beside: Beside,
    ) -> Result<String, Refusal> {
        self.submit_durable(caller, submission, beside)
    }

    fn recorded(&self, caller: &Caller, job: &str) -> impl Future<Output = Result<(), Refusal>> {
        self.recorded(caller, job)
    }

    fn result(&self, caller: &Caller, job: &str) -> Option<Lookup> {
        self.result(caller, job)
    }

    fn end_of(&self, caller: &Caller, job: &str) -> Option<impl Future<Output = Rc<JobEnd>> + 'static> {
        self.end_of(caller, job)
    }

    fn cancel(&self, caller: &Caller, job: &str) -> bool {
        self.cancel(caller, job)
    }

    fn list(&self, caller: &Caller) -> Vec<JobSummary> {
        self.list(caller)
    }

    fn logs(&self, caller: &Caller, job: &str) -> Option<LogFollower> {
        self.logs(caller, job)
    }

    fn statistics(&self) -> Statistics {
        self.statistics()
    }

    async fn drain(&self, within: Duration) {
        self.drain(within).await;
    }
}

impl FollowLogs for LogFollower {
    async fn next(&mut self) -> Option<LogPiece> {
        self.next().await
    }

    fn now(&mut self) -> Option<LogPiece> {
        self.now()
    }
}
