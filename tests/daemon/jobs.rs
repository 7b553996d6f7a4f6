//! Jobs that are remembered and never run. What a job does is its submission's name:
//!
//! | name | |
//! |---|---|
//! | `echo` | is over at once; its output is its input, as a file if that came as one |
//! | `hold` | runs until it is cancelled, drained, or a job named `release` is submitted |
//! | `flood` | like `hold`, and there is always more of its log |
//! | `forget` | is over at once, and every job that is over is forgotten |
//! | `full` | is refused |

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use stockade::daemon::{FollowLogs, Jobs};
use stockade::job_end::JobEnd;
use stockade::sealed::SealedFile;
use stockade::supervisor::{Beside, Caller, Input, LogPiece, Lookup};
use stockade_wire::client::{Refusal, RefusalReason, Statistics};
use stockade_wire::job::{
    Bill, Isolation, JobResult, JobSummary, LogStream, Logs, Outcome, Phase, Submission, Verdict, Walls,
};
use tokio::sync::watch;

/// A job of a user that no test is.
pub const ANOTHERS_JOB: &str = "another's";
/// A job of the caller that is over.
pub const FINISHED_JOB: &str = "finished";
/// One piece of the flood, bytes: as much as may be in one message.
pub const FLOOD_PIECE_BYTES: usize = 64 << 10;

#[derive(Clone)]
pub struct Remembered(Rc<State>);

struct State {
    jobs: RefCell<BTreeMap<String, Job>>,
    /// Counts every change of any job.
    changed: watch::Sender<u64>,
    draining: RefCell<bool>,
    finished: RefCell<u64>,
    submitted: RefCell<u64>,
}

struct Job {
    owner: Option<Caller>,
    submission: Submission,
    beside: Beside,
    end: Rc<RefCell<Option<Rc<JobEnd>>>>,
}

impl Job {
    fn new(owner: Option<Caller>, submission: Submission, beside: Beside) -> Self {
        Self { owner, submission, beside, end: Rc::default() }
    }

    /// What came as files comes back as one: the module, if there is no input.
    fn echo(&self, id: &str, verdict: Verdict) -> JobEnd {
        let result = |output: &[u8]| result(id, verdict, output);
        let file = match (&self.beside.input, &self.beside.module) {
            (Input::Sealed(file), _) | (Input::Submitted, Some(file)) => file,
            (Input::Submitted, None) => return JobEnd::of(result(&self.submission.input.0)),
            (Input::Descriptor(_), _) => panic!("no client has such an input"),
        };
        let copy = SealedFile::holding("echo", &file.read().unwrap()).unwrap();
        JobEnd::with_output(result(b""), copy, None)
    }
}

impl Remembered {
    pub fn new() -> Self {
        let state = State {
            jobs: RefCell::default(),
            changed: watch::Sender::new(0),
            draining: RefCell::default(),
            finished: RefCell::default(),
            submitted: RefCell::default(),
        };
        let this = Self(Rc::new(state));
        let over = submission("echo", b"");
        this.0.jobs.borrow_mut().insert(
            ANOTHERS_JOB.into(),
            Job::new(Some(Caller { uid: 4242, gid: 4242, pid: 1 }), over.clone(), Beside::default()),
        );
        this.0.jobs.borrow_mut().insert(FINISHED_JOB.into(), Job::new(None, over, Beside::default()));
        this.end(FINISHED_JOB, Verdict::Completed);
        this
    }

    fn end(&self, id: &str, verdict: Verdict) -> bool {
        let jobs = self.0.jobs.borrow();
        let Some(job) = jobs.get(id) else { return false };
        if job.end.borrow().is_some() {
            return false;
        }
        let end = job.echo(id, verdict);
        *job.end.borrow_mut() = Some(Rc::new(end));
        *self.0.finished.borrow_mut() += 1;
        self.0.changed.send_modify(|count| *count += 1);
        true
    }

    fn end_all(&self, verdict: Verdict) {
        let ids: Vec<_> = self.0.jobs.borrow().keys().filter(|id| *id != ANOTHERS_JOB).cloned().collect();
        for id in ids {
            self.end(&id, verdict);
        }
    }

    fn visible(&self, caller: &Caller, job: &str) -> bool {
        let jobs = self.0.jobs.borrow();
        jobs.get(job).is_some_and(|job| job.owner.is_none_or(|owner| owner.uid == caller.uid))
    }

    fn summary(id: &str, job: &Job) -> JobSummary {
        JobSummary {
            job: id.into(),
            tenant: job.owner.map(|owner| format!("uid:{}", owner.uid)).unwrap_or_default(),
            name: job.submission.name.clone(),
            phase: if job.end.borrow().is_some() { Phase::Finished } else { Phase::Running },
            verdict: job.end.borrow().as_ref().map(|end| end.result.outcome.verdict),
            age_us: 1,
        }
    }
}

impl Jobs for Remembered {
    fn submit_durable(
        &self,
        _caller: &Caller,
        _submission: Submission,
        _beside: Beside,
    ) -> Result<String, Refusal> {
        let message = "it keeps no journal".to_owned();
        Err(Refusal { reason: RefusalReason::NotDurable, message, retry_after_ms: None })
    }

    async fn recorded(&self, _caller: &Caller, _job: &str) -> Result<(), Refusal> {
        Ok(())
    }

    type Logs = Reader;

    fn submit(&self, caller: &Caller, submission: Submission, beside: Beside) -> Result<String, Refusal> {
        let refuse =
            |reason, message: &str| Err(Refusal { reason, message: message.into(), retry_after_ms: None });
        if *self.0.draining.borrow() {
            return refuse(RefusalReason::Draining, "the daemon is stopping");
        }
        *self.0.submitted.borrow_mut() += 1;
        let id = format!("job-{}", self.0.submitted.borrow());
        let name = submission.name.clone();
        if name == "full" {
            return refuse(RefusalReason::QueueFull, "the queue is full; try again later");
        }
        let job = Job::new(Some(*caller), submission, beside);
        self.0.jobs.borrow_mut().insert(id.clone(), job);
        match name.as_str() {
            "echo" => drop(self.end(&id, Verdict::Completed)),
            "release" => self.end_all(Verdict::Completed),
            "forget" => self.0.jobs.borrow_mut().retain(|_, job| job.end.borrow().is_none()),
            _ => {}
        }
        Ok(id)
    }

    fn refused(&self, _: &Caller, _: &Refusal) {}

    fn result(&self, caller: &Caller, job: &str) -> Option<Lookup> {
        if !self.visible(caller, job) {
            return None;
        }
        let jobs = self.0.jobs.borrow();
        let found = jobs.get(job)?;
        Some(match &*found.end.borrow() {
            Some(end) => Lookup::Finished(Rc::clone(end)),
            None => Lookup::Running(Self::summary(job, found)),
        })
    }

    fn end_of(&self, caller: &Caller, job: &str) -> Option<impl Future<Output = Rc<JobEnd>> + 'static> {
        self.result(caller, job)?;
        let end = Rc::clone(&self.0.jobs.borrow().get(job)?.end);
        let mut changed = self.0.changed.subscribe();
        Some(async move {
            loop {
                if let Some(end) = &*end.borrow() {
                    return Rc::clone(end);
                }
                changed.changed().await.unwrap();
            }
        })
    }

    fn cancel(&self, caller: &Caller, job: &str) -> bool {
        self.visible(caller, job) && self.end(job, Verdict::Cancelled)
    }

    fn list(&self, caller: &Caller) -> Vec<JobSummary> {
        let jobs = self.0.jobs.borrow();
        jobs.iter()
            .filter(|(id, _)| self.visible(caller, id))
            .map(|(id, job)| Self::summary(id, job))
            .collect()
    }

    fn logs(&self, caller: &Caller, job: &str) -> Option<Reader> {
        let lookup = self.result(caller, job)?;
        let flood = matches!(&lookup, Lookup::Running(summary) if summary.name == "flood");
        Some(Reader { jobs: self.clone(), caller: *caller, job: job.into(), flood, told: false, pieces: 0 })
    }

    fn statistics(&self) -> Statistics {
        let verdicts = vec![("completed".into(), *self.0.finished.borrow())];
        Statistics { accepted: self.0.jobs.borrow().len() as u64, verdicts, ..Statistics::default() }
    }

    async fn drain(&self, within: Duration) {
        *self.0.draining.borrow_mut() = true;
        let all_over = async {
            let mut changed = self.0.changed.subscribe();
            let open = |id: &String, job: &Job| id != ANOTHERS_JOB && job.end.borrow().is_none();
            while self.0.jobs.borrow().iter().any(|(id, job)| open(id, job)) {
                changed.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(within, all_over).await.is_err() {
            self.end_all(Verdict::Cancelled);
        }
    }
}

pub struct Reader {
    jobs: Remembered,
    caller: Caller,
    job: String,
    flood: bool,
    told: bool,
    pieces: u64,
}

impl FollowLogs for Reader {
    async fn next(&mut self) -> Option<LogPiece> {
        if let Some(piece) = self.now() {
            return Some(piece);
        }
        if let Some(end) = self.jobs.end_of(&self.caller, &self.job) {
            end.await;
        }
        None
    }

    fn now(&mut self) -> Option<LogPiece> {
        let running = matches!(self.jobs.result(&self.caller, &self.job), Some(Lookup::Running(_)));
        if self.flood && running {
            self.pieces += 1;
            let bytes = vec![b'x'; FLOOD_PIECE_BYTES];
            return Some(LogPiece { stream: LogStream::Stdout, skipped_bytes: self.pieces, bytes });
        }
        if std::mem::replace(&mut self.told, true) {
            return None;
        }
        // More than fits in one message.
        let bytes = vec![b'e'; FLOOD_PIECE_BYTES + 1];
        Some(LogPiece { stream: LogStream::Stderr, skipped_bytes: 3, bytes })
    }
}

pub fn submission(name: &str, input: &[u8]) -> Submission {
    Submission {
        module: stockade_wire::job::ModuleSource::Bytes(b"\0asm".to_vec().into()),
        name: name.into(),
        entry: None,
        arguments: Vec::new(),
        input: input.to_vec().into(),
        environment: Vec::new(),
        directories: Vec::new(),
        profile: None,
        limits: stockade_wire::job::LimitsWanted::default(),
        isolation: None,
        tenant: None,
        require: Vec::new(),
        traceparent: None,
        request_id: None,
        purpose: stockade_wire::job::Purpose::Run,
    }
}

fn result(id: &str, verdict: Verdict, output: &[u8]) -> JobResult {
    JobResult {
        job: id.into(),
        tenant: "uid:0".into(),
        module: [0; 32],
        isolation: Isolation::Fresh,
        outcome: Outcome { verdict, reason: None, stage: None, blame: None, retriable: false, message: None },
        error: None,
        exit_code: Some(0),
        output: output.to_vec().into(),
        logs: Logs::default(),
        bill: Bill::default(),
        jail: Walls::default(),
        trace_id: None,
    }
}
