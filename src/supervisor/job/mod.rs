//! One job: its record, the ladder it may be led up, its outcome.
//!
//! Owns: everything that is known of a single job.
//! Never: touches a worker; `drive` and `run` do.

pub(crate) mod ladder;
pub(crate) mod outcome;

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use stockade_wire::job::{DirectoryGrant, JobResult, JobSummary, LogStream, Logs, Phase};
use tokio::sync::Notify;

use self::ladder::Cause;
use super::logs::LogRing;
use crate::config::Limits;

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
    pub(crate) trace_id: Option<String>,
}

/// The record of one job, from admission until it is forgotten.
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) admitted: Admitted,
    pub(crate) submitted: Instant,
    phase: Cell<Phase>,
    output: RefCell<Vec<u8>>,
    stdout: RefCell<LogRing>,
    stderr: RefCell<LogRing>,
    stop: Cell<Option<Cause>>,
    stop_asked: Notify,
    progress: Notify,
    result: OnceCell<Rc<JobResult>>,
}

impl Job {
    pub(crate) fn new(id: String, admitted: Admitted, submitted: Instant) -> Self {
        let bytes = usize::try_from(admitted.limits.log_bytes).unwrap_or(usize::MAX);
        let lines = usize::try_from(admitted.limits.log_lines).unwrap_or(usize::MAX);
        Self {
            id,
            admitted,
            submitted,
            phase: Cell::new(Phase::Queued),
            output: RefCell::default(),
            stdout: RefCell::new(LogRing::new(bytes, lines)),
            stderr: RefCell::new(LogRing::new(bytes, lines)),
            stop: Cell::new(None),
            stop_asked: Notify::new(),
            progress: Notify::new(),
            result: OnceCell::new(),
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
        if self.result.get().is_none() && self.stop.get().is_none() {
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
        let mut output = self.output.borrow_mut();
        let limit = usize::try_from(self.admitted.limits.output_bytes).unwrap_or(usize::MAX);
        let room = limit.saturating_sub(output.len());
        let kept = bytes.get(..room).unwrap_or(bytes);
        output.extend_from_slice(kept);
        self.progress.notify_waiters();
        kept.len() == bytes.len()
    }

    /// Output from `offset` on, at most `max` bytes.
    pub(crate) fn output_from(&self, offset: usize, max: usize) -> Vec<u8> {
        let part = |bytes: &[u8]| {
            let rest = bytes.get(offset..).unwrap_or_default();
            rest.get(..max).unwrap_or(rest).to_vec()
        };
        match self.result.get() {
            Some(result) => part(&result.output.0),
            None => part(&self.output.borrow()),
        }
    }

    /// Moves the output out, for the result.
    pub(crate) fn take_output(&self) -> Vec<u8> {
        self.output.take()
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

    /// Records how the job ended. The first result stays.
    pub(crate) fn finish(&self, result: JobResult) -> &Rc<JobResult> {
        let result = self.result.get_or_init(|| Rc::new(result));
        self.enter(Phase::Finished);
        result
    }

    pub(crate) fn result(&self) -> Option<&Rc<JobResult>> {
        self.result.get()
    }

    /// Returns when something about the job may have changed since this future was made.
    pub(crate) fn progress(&self) -> tokio::sync::futures::Notified<'_> {
        self.progress.notified()
    }

    /// Returns when the job is over.
    pub(crate) async fn ended(&self) -> Rc<JobResult> {
        loop {
            let progress = self.progress();
            if let Some(result) = self.result.get() {
                return Rc::clone(result);
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
            verdict: self.result.get().map(|result| result.outcome.verdict),
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
            trace_id: None,
        };
        Self::new(id.to_owned(), admitted, Instant::now())
    }
}
