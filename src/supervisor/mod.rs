//! The supervisor.
//!
//! Owns: jobs from admission to result, and everything they need in between.
//! Never: forks, compiles or runs guest code itself (the developer's in-process mode aside), believes a client
//! or a worker.
//!
//! Everything runs on one thread, on a Tokio `LocalRuntime` (tests use a `LocalSet`): a job's way through
//! the supervisor is a handful of short steps, and handing them between threads cost more than it gained.
//!
//! ```text
//! submit ─▶ admission ─▶ ledger ─▶ drive (a task a job)
//!                                    │ artifact   compiled once, cached
//!                                    │ place      at most pool.workers_max jobs at once
//!                                    │ pool       a warm worker, or a fork
//!                                    │ run        order, pipes, ladder, exit
//!                                    ▼ outcome    verdict, bill, walls → ledger
//! ```

mod admission;
mod artifact;
mod beside;
pub mod cgroup;
mod child;
mod cpu_limit;
mod drive;
mod follow;
mod guest_pipe;
mod in_process;
mod inspect;
mod job;
mod journal;
mod leaving;
mod ledger;
mod link;
pub mod logs;
mod looking;
mod meanwhile;
pub mod module_kind;
mod places;
mod pool;
mod pressure;
pub(crate) mod readiness;
mod run;
mod script;
mod scripts;
mod start;
mod streams;
mod vitals;
mod warm_up;
mod work;
mod worker;
mod zygote;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stockade_sys::memfd;
use stockade_wire::bytes::ByteBuf;
use stockade_wire::client::{Refusal, RefusalReason, Statistics};
use stockade_wire::job::{
    Bill, Isolation, JobResult, JobSummary, Layer, Logs, ModuleSource, Submission, Walls,
};
use tokio::sync::{Notify, Semaphore};

pub use self::artifact::{DiskError, KeyError, examine as examine_cache};
pub use self::beside::{Beside, Input};
pub use self::follow::{LogFollower, LogPiece, OutputFollower};
pub use self::in_process::InProcessError;
pub use self::job::Caller;
pub use self::job::outcome::{denied, refusal_code, syscall_name};
pub use self::journal::{JournalError, JournalLock};
pub use self::pool::descriptors_needed;
pub use self::pressure::{NoPressure, choose as choose_pressure_file};
pub use self::start::{FirstWorker, StartError, Startup};
pub use self::vitals::{NoWorker, Vitals};
pub use self::warm_up::WarmUpError;

use self::beside::{Source, Weight};
use self::drive::{Executor, Payload};
use self::job::Job;
use self::job::ladder::Cause;
use self::journal::{Accepted, Journal};
use self::leaving::Leaving;
use self::ledger::Ledger;
use self::looking::Looking;
use self::places::Places;
use self::warm_up::WarmUps;
use self::work::Given;
use crate::config::Config;
use crate::job_end::JobEnd;
use crate::observe::Causes;

/// A job's id: a ULID, so that ids sort by time of admission.
pub type JobId = String;

/// Ended jobs whose wall time goes into the percentiles.
const WALL_SAMPLES_MAX: usize = 1024;

/// How often dead idle workers are replaced and old results forgotten.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// Longest wait suggested to whoever wants a durable job while the journal is full, ms.
const JOURNAL_RETRY_MS: u64 = 10_000;

/// Time left, after a drain, for the kernel to end what was killed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The supervisor: a cheap handle to the one there is. Lives on the thread it was started on.
#[derive(Clone)]
pub struct Supervisor {
    core: Rc<Core>,
}

/// What is known of a job somebody asks for.
#[derive(Debug, Clone)]
pub enum Lookup {
    /// Not over.
    Running(JobSummary),
    /// Over.
    Finished(Rc<JobEnd>),
}

struct Core {
    /// Exchanged as a whole when the daemon is told to read its configuration anew.
    config: RefCell<Rc<Config>>,
    own_uid: u32,
    /// What no job is granted, by resolved paths.
    own_files: Rc<[PathBuf]>,
    executor: Executor,
    warm_ups: Rc<WarmUps>,
    places: Places,
    leaving: Rc<Leaving>,
    ledger: RefCell<Ledger>,
    /// Layers every worker has, as the first one had.
    layers: Vec<Layer>,
    counters: RefCell<Counters>,
    started: Instant,
    draining: Cell<bool>,
    job_over: Notify,
    /// Of durable jobs, where there is one.
    journal: Option<Journal>,
    /// What jobs without input read: one sealed file for all, made when the first needs it.
    no_input: OnceCell<Rc<OwnedFd>>,
    /// Processors that this process may use.
    processors: usize,
    looking: Looking,
    /// Places of large outputs that are kept in files.
    output_files: Arc<Semaphore>,
}

#[derive(Default)]
struct Counters {
    accepted: u64,
    refused: u64,
    running: u64,
    verdicts: BTreeMap<String, u64>,
    wall_us: VecDeque<u64>,
}

impl Supervisor {
    fn new(core: Core) -> Self {
        let core = Rc::new(core);
        let weak = Rc::downgrade(&core);
        tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(HOUSEKEEPING).await;
                let Some(core) = weak.upgrade() else { return };
                core.executor.housekeep();
                core.ledger.borrow_mut().forget(Instant::now());
                core.tidy_journal().await;
            }
        });
        Self { core }
    }

    /// Admits a job and starts it on its way, at once. The result is there when [`Supervisor::wait`] says so.
    ///
    /// # Errors
    /// A refusal, after which nothing of the submission is kept.
    pub fn submit(&self, caller: &Caller, submission: Submission) -> Result<JobId, Refusal> {
        self.submit_with(caller, submission, Beside::default())
    }

    /// As [`Supervisor::submit`], of a job that is to have exactly one final record, whatever crashes. It is accepted once
    /// [`Supervisor::recorded`] says so, and does not begin before.
    ///
    /// # Errors
    /// As [`Supervisor::submit`], and where no journal is kept or it has no room.
    pub fn submit_durable(
        &self,
        caller: &Caller,
        submission: Submission,
        beside: Beside,
    ) -> Result<JobId, Refusal> {
        self.admit(caller, submission, beside, true)
    }

    /// Whether a job is accepted, once that is sure: at once, unless it is durable.
    ///
    /// # Errors
    /// When it is not: nothing of it is kept.
    pub fn recorded(&self, caller: &Caller, job: &str) -> impl Future<Output = Result<(), Refusal>> + use<> {
        let job = self.job(caller, job);
        async move {
            match job {
                Some(job) => job.recorded().await,
                None => Ok(()),
            }
        }
    }

    /// As [`Supervisor::submit`], with the module or the input from somewhere else. They are closed when the job is
    /// over or refused.
    ///
    /// # Errors
    /// As [`Supervisor::submit`].
    pub fn submit_with(
        &self,
        caller: &Caller,
        submission: Submission,
        beside: Beside,
    ) -> Result<JobId, Refusal> {
        self.admit(caller, submission, beside, false)
    }

    fn admit(
        &self,
        caller: &Caller,
        submission: Submission,
        beside: Beside,
        durable: bool,
    ) -> Result<JobId, Refusal> {
        let core = &self.core;
        let weight = Weight::of(&submission, &beside);
        let admitted = admission::admit(&submission, weight, *caller, &core.config(), &core.load(caller));
        let admitted = admitted.and_then(|admitted| {
            core.executor.knows(&submission.module, admitted.limits.fuel.is_some())?;
            if durable {
                core.can_be_durable()?;
            }
            let source = Source::of(submission.module, beside.module);
            Ok((admitted, source.ok_or_else(admission::no_module)?))
        });
        let (admitted, source) = admitted.inspect_err(|refusal| self.refused(caller, refusal))?;
        let id = ulid::Ulid::generate().to_string();
        let span = tracing::info_span!(
            "job",
            job = %id,
            tenant = %admitted.tenant,
            trace = admitted.trace_id.as_deref(),
        );
        let files = Arc::clone(&core.output_files);
        let job = Rc::new(Job::new(id.clone(), admitted, Instant::now(), files, durable));
        core.ledger.borrow_mut().add(Rc::clone(&job), weight);
        core.counters.borrow_mut().accepted += 1;
        let payload = Payload::new(source, submission.input, beside.input);
        let core = Rc::clone(core);
        let driven = async move {
            if core.record_acceptance(&job).await {
                drive::drive(core, job, payload).await;
            }
        };
        tokio::task::spawn_local(tracing::Instrument::instrument(driven, span));
        Ok(id)
    }

    /// Counts a submission that was refused, here or before it came here.
    pub fn refused(&self, caller: &Caller, refusal: &Refusal) {
        self.core.counters.borrow_mut().refused += 1;
        let reason = refusal_code(refusal.reason);
        tracing::info!(uid = caller.uid, reason, "submission refused: {}", refusal.message);
    }

    /// Where a job is. `None` for one that is unknown, forgotten or another caller's: the answer is the same.
    #[must_use]
    pub fn result(&self, caller: &Caller, job: &str) -> Option<Lookup> {
        let job = self.job(caller, job)?;
        Some(match job.end() {
            Some(end) => Lookup::Finished(Rc::clone(end)),
            None => Lookup::Running(job.summary(Instant::now())),
        })
    }

    /// Waits for a job's end. `None` as for [`Supervisor::result`].
    pub async fn wait(&self, caller: &Caller, job: &str) -> Option<Rc<JobEnd>> {
        Some(self.end_of(caller, job)?.await)
    }

    /// A job's end, which is there to be waited for from now on, whenever the job is forgotten. `None` as for
    /// [`Supervisor::result`].
    #[must_use]
    pub fn end_of(&self, caller: &Caller, job: &str) -> Option<impl Future<Output = Rc<JobEnd>> + use<>> {
        let job = self.job(caller, job)?;
        Some(async move { job.ended().await })
    }

    /// Asks for a job's end. `false` when there is no such job for this caller, or it is over.
    #[must_use]
    pub fn cancel(&self, caller: &Caller, job: &str) -> bool {
        let job = self.job(caller, job).filter(|job| job.end().is_none());
        if let Some(job) = &job {
            job.stop(Cause::Cancelled);
        }
        job.is_some()
    }

    /// The caller's jobs, the oldest first.
    #[must_use]
    pub fn list(&self, caller: &Caller) -> Vec<JobSummary> {
        let now = Instant::now();
        let jobs = self.core.ledger.borrow().visible(*caller, self.core.own_uid);
        jobs.iter().map(|job| job.summary(now)).collect()
    }

    /// A job's logs from their beginning. `None` as for [`Supervisor::result`].
    #[must_use]
    pub fn logs(&self, caller: &Caller, job: &str) -> Option<LogFollower> {
        Some(LogFollower::new(self.job(caller, job)?))
    }

    /// A job's output from its beginning. `None` as for [`Supervisor::result`].
    #[must_use]
    pub fn output(&self, caller: &Caller, job: &str) -> Option<OutputFollower> {
        Some(OutputFollower::new(self.job(caller, job)?))
    }

    /// Figures since start. Those of connections and of the host are left at their defaults.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let core = &self.core;
        let counters = core.counters.borrow();
        let live = core.ledger.borrow().live() as u64;
        let mut wall: Vec<u64> = counters.wall_us.iter().copied().collect();
        wall.sort_unstable();
        let percentile = |hundredth: usize| wall.get(wall.len().saturating_sub(1) * hundredth / 100).copied();
        let mut statistics = Statistics {
            uptime_ms: u64::try_from(core.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            queued: live.saturating_sub(counters.running),
            running: counters.running,
            accepted: counters.accepted,
            refused: counters.refused,
            verdicts: counters.verdicts.iter().map(|(name, count)| (name.clone(), *count)).collect(),
            wall_p50_us: percentile(50),
            wall_p99_us: percentile(99),
            ..Statistics::default()
        };
        core.executor.count(&mut statistics);
        statistics.readiness.warm_ups = core.warm_ups.states();
        statistics
    }

    /// Has another configuration from now on, for jobs that are not admitted yet. What cannot change while it runs has to
    /// be the same, see [`crate::config::InForce`].
    pub fn reconfigure(&self, config: Config) {
        self.core.ledger.borrow_mut().rebound(config.results.clone(), Instant::now());
        *self.core.config.borrow_mut() = Rc::new(config);
    }

    /// Refuses new jobs, lets the admitted ones end within `within`, ends those that have not by then, and
    /// returns when no worker is left.
    pub async fn drain(&self, within: Duration) {
        let core = &self.core;
        core.draining.set(true);
        let by = Instant::now() + within;
        if tokio::time::timeout_at(by.into(), core.all_over()).await.is_err() {
            for job in core.ledger.borrow().live_jobs() {
                job.stop(Cause::Drain);
            }
            // Every stop is on the ladder by now, and the ladder ends by itself.
            core.all_over().await;
        }
        core.executor.close(CLOSE_TIMEOUT).await;
    }

    /// Ends every job as fast as the ladder allows, and returns when no worker is left.
    pub async fn end(&self) {
        self.drain(Duration::ZERO).await;
    }

    fn job(&self, caller: &Caller, id: &str) -> Option<Rc<Job>> {
        self.core.ledger.borrow().get(id, *caller, self.core.own_uid)
    }
}

impl Core {
    fn config(&self) -> Rc<Config> {
        Rc::clone(&self.config.borrow())
    }

    /// How long to look for the end of the job that begins now without sleeping: not where others want the processors, of
    /// which there must be two.
    fn spin(&self) -> Duration {
        let alone = self.counters.borrow().running <= 1 && self.processors > 1;
        self.looking.allowed(alone, self.config.borrow().pool.spin, Instant::now())
    }

    fn load(&self, caller: &Caller) -> admission::Load {
        let ledger = self.ledger.borrow();
        admission::Load {
            jobs: ledger.live(),
            callers_jobs: ledger.live_of(caller.uid),
            held_bytes: ledger.held_bytes(),
            files: ledger.held_files(),
            callers_files: ledger.held_files_of(caller.uid),
            draining: self.draining.get(),
            unavailable: self.executor.unavailable(Instant::now()),
            layers: self.layers.clone(),
            own_uid: self.own_uid,
            own_files: Rc::clone(&self.own_files),
        }
    }

    /// A file that holds `bytes`, which nobody can write to.
    fn input(&self, bytes: &[u8]) -> std::io::Result<Given> {
        let file = || memfd::unwritable("stockade-input", bytes).map(Rc::new);
        if !bytes.is_empty() {
            return file().map(Given::File);
        }
        if let Some(empty) = self.no_input.get() {
            return Ok(Given::File(Rc::clone(empty)));
        }
        let empty = file()?;
        Ok(Given::File(Rc::clone(self.no_input.get_or_init(|| empty))))
    }

    fn can_be_durable(&self) -> Result<(), Refusal> {
        let Some(journal) = &self.journal else {
            return Err(Refusal {
                reason: RefusalReason::NotDurable,
                message:
                    "this daemon keeps no journal of durable jobs: set durable.directory, or submit the job \
                          without --durable"
                        .to_owned(),
                retry_after_ms: None,
            });
        };
        if journal.has_room() {
            return Ok(());
        }
        Err(Refusal {
            reason: RefusalReason::QueueFull,
            message:
                "the journal of durable jobs is full (durable.bytes_max) until results are not kept any more"
                    .to_owned(),
            retry_after_ms: Some(JOURNAL_RETRY_MS),
        })
    }

    /// Has a durable job on the disk before it begins. `false` when it was refused after all, and is forgotten.
    async fn record_acceptance(&self, job: &Job) -> bool {
        let (true, Some(journal)) = (job.durable, &self.journal) else { return true };
        let accepted = Accepted {
            job: job.id.clone(),
            uid: job.admitted.caller.uid,
            gid: job.admitted.caller.gid,
            tenant: job.admitted.tenant.clone(),
            name: job.admitted.name.clone(),
            at_ms: journal::now_ms(),
        };
        let written = journal.accept(accepted).await;
        if let Err(error) = &written {
            tracing::error!(error = %Causes(error), "durable job not accepted");
            self.ledger.borrow_mut().withdraw(&job.id);
            self.counters.borrow_mut().refused += 1;
            self.job_over.notify_waiters();
        }
        let refused = |error: JournalError| Refusal {
            reason: RefusalReason::NotDurable,
            message: error.to_string(),
            retry_after_ms: None,
        };
        job.note_recorded(written.map_err(refused))
    }

    /// Has a durable job's end on the disk before anybody is told of it. With the end that everybody is told: another one
    /// where the output cannot be read back, since a record without it would say that there was none.
    async fn record_end(&self, job: &Job, end: JobEnd) -> JobEnd {
        let (true, Some(journal)) = (job.durable, &self.journal) else { return end };
        let (result, end) = journal::recordable(end);
        if let Err(error) = journal.end(&result).await {
            tracing::error!(job = %job.id, error = %Causes(&error), "the end of a durable job is not in the journal");
        }
        end
    }

    /// Makes room in the journal, if it needs some, by forgetting what nobody can ask for any more.
    async fn tidy_journal(&self) {
        let Some(journal) = self.journal.as_ref().filter(|journal| journal.is_full()) else { return };
        let kept = self.ledger.borrow().ids();
        if let Err(error) = journal.keep_only(kept).await {
            tracing::error!(error = %Causes(&error), "the journal of durable jobs is not tidied");
        }
    }

    async fn all_over(&self) {
        loop {
            let over = self.job_over.notified();
            if self.ledger.borrow().live() == 0 {
                return;
            }
            over.await;
        }
    }

    /// Records a job's end.
    fn finish(&self, job: &Job, end: JobEnd) {
        let end = job.finish(end);
        let result = &end.result;
        let verdict = serde_name(&result.outcome.verdict);
        tracing::info!(
            verdict,
            reason = result.outcome.reason.as_deref(),
            wall_us = result.bill.wall_us,
            cpu_user_us = result.bill.cpu_user_us,
            memory_peak_bytes = result.bill.memory_peak_bytes,
            "job over"
        );
        let mut counters = self.counters.borrow_mut();
        *counters.verdicts.entry(verdict).or_default() += 1;
        if let Some(wall_us) = result.bill.wall_us {
            if counters.wall_us.len() == WALL_SAMPLES_MAX {
                counters.wall_us.pop_front();
            }
            counters.wall_us.push_back(wall_us);
        }
        self.ledger.borrow_mut().end(&job.id, kept_bytes(end), Instant::now());
        self.job_over.notify_waiters();
    }
}

/// What keeping a result takes: the rings keep the logs for followers beside the result's copy. At most
/// `Ceilings::kept_bytes_max`.
fn kept_bytes(end: &JobEnd) -> u64 {
    let logs = &end.result.logs;
    end.output_bytes() + 2 * (logs.stdout.0.len() + logs.stderr.0.len()) as u64
}

/// A job's result before anything about it is known.
fn blank_result(job: &Job) -> JobResult {
    JobResult {
        job: job.id.clone(),
        tenant: job.admitted.tenant.clone(),
        module: [0; 32],
        isolation: Isolation::Fresh,
        outcome: job::outcome::internal("unfinished", "the job did not end".to_owned()),
        exit_code: None,
        error: None,
        output: ByteBuf::default(),
        logs: Logs::default(),
        bill: Bill::default(),
        jail: Walls::default(),
        trace_id: job.admitted.trace_id.clone(),
    }
}

/// The stable name of a unit variant, as serde writes it in results.
fn serde_name<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(_) | Err(_) => "unknown".to_owned(),
    }
}

/// Whether the module is named by its digest alone.
fn digest_of(module: &ModuleSource) -> Option<stockade_wire::job::Digest> {
    match module {
        ModuleSource::Bytes(_) | ModuleSource::Descriptor => None,
        ModuleSource::Digest(digest) => Some(*digest),
    }
}

#[cfg(test)]
pub(crate) use self::job::sample_result;
