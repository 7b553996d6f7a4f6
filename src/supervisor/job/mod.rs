//! One job: its record, the ladder it may be led up, its outcome.
//!
//! Owns: everything that is known of a single job.
//! Never: touches a worker; `drive` and `run` do.

pub(crate) mod ladder;
pub(crate) mod outcome;
mod output;

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use stockade_wire::client::Refusal;
use stockade_wire::job::{DirectoryGrant, JobSummary, LogStream, Logs, Phase, Purpose};
use tokio::sync::{Notify, Semaphore};

use self::ladder::Cause;
use self::output::Output;
use super::journal::Accepted;
use super::logs::LogRing;
use crate::config::Limits;
use crate::job_end::JobEnd;

/// Who a client is, as the kernel says (`SO_PEERCRED`), never as it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Caller {
    /// User id at the time it connected.
    pub uid: u32,
    /// Group id at the time it connected.
    pub gid: u32,
    /// Process id at the time it connected; for logs alone, since pids are reused.
    pub pid: i32,
}

impl Caller {
    /// Nobody in particular: for workers that are made for no job yet and get no directory.
    pub(crate) const NOBODY: Self = Self { uid: u32::MAX, gid: u32::MAX, pid: 0 };

    /// The user this process runs as.
    #[must_use]
    pub fn own() -> Self {
        let pid = nix::unistd::getpid().as_raw();
        Self { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw(), pid }
    }
}

/// A job as it was admitted: checked, with nothing left to default.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) caller: Caller,
    pub(crate) tenant: String,
    pub(crate) name: String,
    pub(crate) entry: Option<String>,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) directories: Vec<DirectoryGrant>,
    /// It may be run by a process that ran, or is to run, other jobs of its tenant with its module.
    pub(crate) shares: bool,
    pub(crate) limits: Limits,
    pub(crate) traceparent: Option<String>,
    pub(crate) trace_id: Option<String>,
    pub(crate) request_id: Option<String>,
    pub(crate) purpose: Purpose,
}

/// The record of one job, from admission until it is forgotten.
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) admitted: Admitted,
    pub(crate) submitted: Instant,
    phase: Cell<Phase>,
    output: RefCell<Output>,
    stdout: RefCell<LogRing>,
    stderr: RefCell<LogRing>,
    stop: Cell<Option<Cause>>,
    stop_asked: Notify,
    progress: Notify,
    end: OnceCell<Rc<JobEnd>>,
    /// It is to have exactly one final record.
    pub(crate) durable: bool,
    /// Whether its acceptance is on the disk, once that is known.
    recorded: OnceCell<Result<(), Refusal>>,
}

impl Job {
    /// `files` are the places of large outputs, see [`JobEnd`].
    pub(crate) fn new(
        id: String,
        admitted: Admitted,
        submitted: Instant,
        files: Arc<Semaphore>,
        durable: bool,
    ) -> Self {
        let bytes = usize::try_from(admitted.limits.log_bytes).unwrap_or(usize::MAX);
        let lines = usize::try_from(admitted.limits.log_lines).unwrap_or(usize::MAX);
        Self {
            id,
            admitted,
            submitted,
            phase: Cell::new(Phase::Queued),
            output: RefCell::new(Output::new(files)),
            stdout: RefCell::new(LogRing::new(bytes, lines)),
            stderr: RefCell::new(LogRing::new(bytes, lines)),
            stop: Cell::new(None),
            stop_asked: Notify::new(),
            progress: Notify::new(),
            end: OnceCell::new(),
            durable,
            recorded: OnceCell::new(),
        }
    }

    /// A durable job of an earlier daemon's, which is over; nothing of its submission is left.
    pub(crate) fn remembered(accepted: &Accepted, submitted: Instant) -> Self {
        let nothing = std::time::Duration::ZERO;
        let admitted = Admitted {
            caller: Caller { uid: accepted.uid, gid: accepted.gid, pid: 0 },
            tenant: accepted.tenant.clone(),
            name: accepted.name.clone(),
            entry: None,
            arguments: Vec::new(),
            environment: Vec::new(),
            directories: Vec::new(),
            limits: Limits {
                timeout: nothing,
                grace: nothing,
                memory_bytes: 0,
                fuel: None,
                cpu: None,
                output_bytes: 0,
                log_bytes: 0,
                log_lines: 0,
            },
            shares: false,
            traceparent: None,
            trace_id: None,
            request_id: None,
            purpose: Purpose::Run,
        };
        Self::new(accepted.job.clone(), admitted, submitted, Arc::new(Semaphore::new(0)), true)
    }

    /// Notes whether a durable job's acceptance is on the disk; says whether it is.
    pub(crate) fn note_recorded(&self, recorded: Result<(), Refusal>) -> bool {
        let accepted = self.recorded.get_or_init(|| recorded).is_ok();
        self.progress.notify_waiters();
        accepted
    }

    /// Returns once it is sure that the job is accepted, or that it is not.
    pub(crate) async fn recorded(&self) -> Result<(), Refusal> {
        if !self.durable {
            return Ok(());
        }
        loop {
            let progress = self.progress();
            if let Some(recorded) = self.recorded.get() {
                return recorded.clone();
            }
            progress.await;
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.progress.notify_waiters();
    }

    /// Asks for the job's end. The first cause stays; a job that is over does not change.
    pub(crate) fn stop(&self, cause: Cause) {
        if self.end.get().is_none() && self.stop.get().is_none() {
            self.stop.set(Some(cause));
            self.stop_asked.notify_waiters();
        }
    }

    /// Returns when the job's end has been asked for, at once if it has been.
    pub(crate) async fn stop_asked(&self) -> Cause {
        loop {
            let asked = self.stop_asked.notified();
            if let Some(cause) = self.stop.get() {
                return cause;
            }
            asked.await;
        }
    }

    /// Adds to a log. Bounded by the ring.
    pub(crate) fn log(&self, stream: LogStream, bytes: &[u8]) {
        self.ring(stream).borrow_mut().push(bytes);
        self.progress.notify_waiters();
    }

    /// Adds to the output as far as its limit goes; `false` when that was not far enough.
    pub(crate) fn add_output(&self, bytes: &[u8]) -> bool {
        let within = self.output.borrow_mut().add(bytes, self.admitted.limits.output_bytes);
        self.progress.notify_waiters();
        within
    }

    /// Output from `offset` on, at most `max` bytes.
    pub(crate) fn output_from(&self, offset: usize, max: usize) -> Vec<u8> {
        match self.end.get() {
            Some(end) => output::part_of_end(end, offset, max),
            None => self.output.borrow().part(offset, max),
        }
    }

    /// Length of the output so far, bytes.
    pub(crate) fn output_bytes(&self) -> u64 {
        self.output.borrow().bytes()
    }

    /// Moves the output out, for the end. It is sealed when this returns.
    ///
    /// # Errors
    /// When it was lost, which the result has to say.
    pub(crate) async fn take_output(&self) -> std::io::Result<output::Taken> {
        let output = self.output.borrow_mut().take()?;
        output.seal().await
    }

    /// Bytes written to the logs, kept or not.
    pub(crate) fn log_bytes(&self) -> u64 {
        let [stdout, stderr] = [&self.stdout, &self.stderr].map(|ring| ring.borrow().total_bytes());
        stdout.saturating_add(stderr)
    }

    /// The logs as they are now.
    pub(crate) fn logs(&self) -> Logs {
        let (stdout, stderr) = (self.stdout.borrow(), self.stderr.borrow());
        Logs {
            stdout: stdout.tail().into(),
            stderr: stderr.tail().into(),
            dropped_bytes: stdout.dropped_bytes().saturating_add(stderr.dropped_bytes()),
            dropped_lines: stdout.dropped_lines().saturating_add(stderr.dropped_lines()),
        }
    }

    pub(crate) fn ring(&self, stream: LogStream) -> &RefCell<LogRing> {
        match stream {
            LogStream::Stdout => &self.stdout,
            LogStream::Stderr => &self.stderr,
        }
    }

    /// Records how the job ended. The first end stays.
    pub(crate) fn finish(&self, end: JobEnd) -> &Rc<JobEnd> {
        let end = self.end.get_or_init(|| Rc::new(end));
        self.enter(Phase::Finished);
        end
    }

    pub(crate) fn end(&self) -> Option<&Rc<JobEnd>> {
        self.end.get()
    }

    /// Returns when something about the job may have changed since this future was made.
    pub(crate) fn progress(&self) -> tokio::sync::futures::Notified<'_> {
        self.progress.notified()
    }

    /// Returns when the job is over.
    pub(crate) async fn ended(&self) -> Rc<JobEnd> {
        loop {
            let progress = self.progress();
            if let Some(end) = self.end.get() {
                return Rc::clone(end);
            }
            progress.await;
        }
    }

    pub(crate) fn summary(&self, now: Instant) -> JobSummary {
        JobSummary {
            job: self.id.clone(),
            tenant: self.admitted.tenant.clone(),
            name: self.admitted.name.clone(),
            phase: self.phase(),
            verdict: self.end.get().map(|end| end.result.outcome.verdict),
            age_us: super::worker::micros_since(self.submitted, now),
        }
    }
}

#[cfg(test)]
impl Job {
    /// A job of that user's, with logs of 64 KiB.
    pub(crate) fn sample(id: &str, uid: u32) -> Self {
        let admitted = Admitted {
            caller: Caller { uid, gid: uid, pid: 1 },
            tenant: format!("uid:{uid}"),
            name: "guest".to_owned(),
            entry: None,
            arguments: Vec::new(),
            environment: Vec::new(),
            directories: Vec::new(),
            shares: false,
            limits: Limits {
                timeout: std::time::Duration::from_secs(1),
                grace: std::time::Duration::from_secs(1),
                memory_bytes: 1 << 20,
                fuel: None,
                cpu: None,
                output_bytes: 1 << 20,
                log_bytes: 64 << 10,
                log_lines: 1 << 20,
            },
            traceparent: None,
            trace_id: None,
            request_id: None,
            purpose: Purpose::Run,
        };
        Self::new(id.to_owned(), admitted, Instant::now(), Arc::new(Semaphore::new(1)), false)
    }
}

/// A result of no job in particular.
#[cfg(test)]
pub(crate) fn sample_result() -> stockade_wire::job::JobResult {
    super::blank_result(&Job::sample("job", 1))
}
