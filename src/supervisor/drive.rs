//! One job's way from admission to result.
//!
//! Owns: the order of the steps, the clock of the deadline, and the making of the result.
//! Never: does a step itself.
//!
//! The deadline runs while the job waits, for a compiler or for a place, and while it runs. It stands still while its
//! module is compiled: that has a limit of its own, is paid once, and is not the job's doing.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stockade_wire::bytes::ByteBuf;
use stockade_wire::client::{Refusal, RefusalReason, Statistics};
use stockade_wire::job::{
    Bill, Digest, Isolation, JobResult, ModuleSource, Outcome, Phase, Purpose, ScriptError, Walls,
};
use stockade_wire::worker::Usage;

use super::admission;
use super::artifact::{Artifact, Artifacts, Compile, Key, Landed, Module, Wanted};
use super::beside::Source;
use super::cgroup::CgroupError;
use super::in_process::InProcess;
use super::job::Job;
use super::job::ladder::{Cause, Waits};
use super::job::outcome::{self, Evidence};
use super::leaving::{Spent, Standing, may_linger};
use super::meanwhile::unless_done_at_once;
use super::places::Place;
use super::pool::{Lent, Need, Pool, PoolError, Stay};
use super::run::{self, RunEnd, StopRules};
use super::scripts::{Found, Scripts};
use super::work::{Given, Work};
use super::worker::{Worker, WorkerError, micros_since};
use super::{Core, Input, blank_result, digest_of, script};
use crate::job_end::JobEnd;
use crate::observe::Causes;

/// Input of a job that is not expected to write more than its pipes hold, bytes.
const SMALL_INPUT_BYTES: u64 = 16 << 10;

/// Workers tried for one job when they die before they have their order.
const ASSIGN_TRIES: u32 = 3;

/// What runs jobs.
pub(super) enum Executor {
    /// Jailed workers.
    Jailed {
        /// Where they come from.
        pool: Rc<Pool>,
        /// Their artifacts.
        artifacts: Rc<Artifacts<Rc<Pool>>>,
        /// Scripts that came before, of jobs in fresh processes.
        scripts: Rc<Scripts>,
    },
    /// This process, for developers.
    InProcess {
        /// The engine.
        host: Rc<InProcess>,
        /// Its artifacts.
        artifacts: Rc<Artifacts<Rc<InProcess>>>,
    },
}

impl Executor {
    pub(super) fn housekeep(&self) {
        match self {
            Self::Jailed { pool, .. } => pool.housekeep(),
            Self::InProcess { .. } => {}
        }
    }

    pub(super) async fn close(&self, within: Duration) {
        match self {
            Self::Jailed { pool, .. } => pool.close(within).await,
            Self::InProcess { .. } => {}
        }
    }

    pub(super) fn unavailable(&self, now: Instant) -> Option<Duration> {
        match self {
            Self::Jailed { pool, .. } => pool.unavailable(now),
            Self::InProcess { .. } => None,
        }
    }

    /// Refuses a module named by a digest nobody has submitted.
    pub(super) fn knows(&self, module: &ModuleSource, metered: bool) -> Result<(), Refusal> {
        let Some(digest) = digest_of(module) else { return Ok(()) };
        let key = Key { digest, metered };
        let known = match self {
            Self::Jailed { artifacts, .. } => artifacts.has(key),
            Self::InProcess { artifacts, .. } => artifacts.has(key),
        };
        // Nobody has submitted the engine, whose artifact is named in its own way.
        let known = known && digest != script::engine().digest;
        known.then_some(()).ok_or_else(|| Refusal {
            reason: RefusalReason::UnknownModule,
            message: "no module with this digest is cached; submit its bytes".to_owned(),
            retry_after_ms: None,
        })
    }

    async fn artifact(&self, key: Key, module: Option<Arc<Module>>, wanted: &mut Wanted<'_>) -> Landed {
        match self {
            Self::Jailed { artifacts, .. } => artifacts.get(key, module, wanted).await,
            Self::InProcess { artifacts, .. } => artifacts.get(key, module, wanted).await,
        }
    }

    /// What is known of a job's script, whose source has that digest.
    fn look(&self, job: &Job, digest: Digest, source: Option<&script::Text>) -> Found {
        match self {
            Self::Jailed { scripts, .. } => scripts.look(job, digest, source),
            Self::InProcess { .. } => Found::Nothing,
        }
    }

    /// Adds what only the executor counts.
    pub(super) fn count(&self, statistics: &mut Statistics) {
        fn cached<C: Compile + 'static>(artifacts: &Artifacts<C>, statistics: &mut Statistics) {
            statistics.compiled = artifacts.compiled();
            statistics.cache_hits = artifacts.hits();
        }
        match self {
            Self::Jailed { pool, artifacts, scripts } => {
                statistics.warm = pool.warm() as u64;
                statistics.forks = pool.forks();
                statistics.zygote_starts = pool.zygote_starts();
                let (templates, prepared) = pool.templates();
                (statistics.templates, statistics.prepared) = (templates as u64, prepared as u64);
                let starts = pool.starts();
                statistics.tenant_workers = pool.tenant_workers() as u64;
                statistics.starts_reused = starts.reused.get();
                statistics.starts_prepared = starts.prepared.get();
                statistics.starts_warm = starts.warm.get();
                statistics.starts_cold = starts.cold.get();
                statistics.readiness = pool.readiness();
                statistics.scripts_compiled = scripts.compiled();
                statistics.script_hits = scripts.hits();
                cached(artifacts, statistics);
            }
            Self::InProcess { artifacts, .. } => cached(artifacts, statistics),
        }
    }
}

/// What a job brings along and gives back as soon as it can.
pub(super) struct Payload {
    module: Source,
    bytes: ByteBuf,
    input: Input,
}

impl Payload {
    pub(super) fn new(module: Source, bytes: ByteBuf, input: Input) -> Self {
        Self { module, bytes, input }
    }
}

/// What is known so far, filled in step by step.
#[derive(Default)]
struct Record {
    digest: Digest,
    bill: Bill,
    walls: Walls,
    exit_code: Option<i32>,
    error: Option<ScriptError>,
    /// A tenant worker had it.
    shared: bool,
    /// The worker that ran it and runs nothing else.
    spent: Option<Worker>,
    /// The job's, which goes to whoever is next when that worker is reaped.
    place: Option<Place>,
    /// What that worker said that it used, in place of what the kernel says of one that is reaped.
    said: Option<Usage>,
}

/// Leads `job` to its result. Never fails: whatever happens is an outcome.
pub(super) async fn drive(core: Rc<Core>, job: Rc<Job>, payload: Payload) {
    let mut record = Record::default();
    let outcome = match attempt(&core, &job, payload, &mut record).await {
        Ok(outcome) | Err(outcome) => outcome,
    };
    record.bill.wall_us = Some(micros_since(job.submitted, Instant::now()));
    record.bill.output_bytes = Some(job.output_bytes());
    record.bill.log_bytes = Some(job.log_bytes());
    let result = JobResult {
        module: record.digest,
        outcome,
        exit_code: record.exit_code,
        error: record.error,
        logs: job.logs(),
        bill: record.bill,
        isolation: if record.shared { Isolation::Tenant } else { core.isolation() },
        jail: record.walls,
        ..blank_result(&job)
    };
    let (said, place) = (record.said, record.place);
    let mut spent = record.spent.map(|worker| Spent { worker, said, place });
    // Where that takes time, be it seconds of the kernel's, no worker is to live and no place to be taken for it.
    let end = unless_done_at_once(concluded(&core, &job, result), || {
        if let Some(spent) = spent.take() {
            spent.leave();
        }
    });
    core.finish(&job, end.await);
    let Some(spent) = spent else { return };
    let standing = Standing {
        ends_by_itself: spent.said.is_some(),
        places_taken: core.places.are_taken(),
        user_limited: core.config().cgroup.callers.any(),
    };
    if may_linger(standing) {
        core.leaving.add(spent);
    } else {
        // Whoever waits for the result has it before the worker's descriptors are closed.
        tokio::task::yield_now().await;
        spent.leave();
    }
}

/// The end of a job, once its output is sealed and, if it is durable, the journal has it.
async fn concluded(core: &Core, job: &Job, result: JobResult) -> JobEnd {
    let end = match job.take_output().await {
        Ok(output) => output.with(result),
        Err(error) => {
            let lost = outcome::internal("output", format!("the output could not be kept: {error}"));
            JobEnd::of(JobResult { outcome: lost, ..result })
        }
    };
    core.record_end(job, end).await
}

/// The steps. An `Err` is the outcome of a job that had to stop on the way.
async fn attempt(
    core: &Rc<Core>,
    job: &Rc<Job>,
    payload: Payload,
    record: &mut Record,
) -> Result<Outcome, Outcome> {
    let Payload { module, bytes, input } = payload;
    let mut wanted = Wanted { job, left: job.admitted.limits.timeout };
    let (key, artifact, script) = artifact_for(core, &mut wanted, module, record).await?;
    if job.admitted.purpose == Purpose::Check && script.is_none() {
        // That it compiles is all there is to know of a module that does not run.
        return Ok(outcome::completed());
    }
    job.enter(Phase::Queued);
    let queued = Instant::now();
    let deadline = queued + wanted.left;
    if core.places.are_taken() {
        core.leaving.end_all();
    }
    let place = tokio::select! {
        biased;
        cause = job.stop_asked() => return Err(outcome::stopped_waiting(cause)),
        place = core.places.take(job.admitted.caller.uid) => place,
        () = tokio::time::sleep_until(deadline.into()) => return Err(outcome::stopped_waiting(Cause::Deadline)),
    };
    let waited_us = record.bill.queue_us.unwrap_or_default();
    record.bill.queue_us = Some(waited_us.saturating_add(micros_since(queued, Instant::now())));
    tracing::debug!(queue_us = record.bill.queue_us, "place free");
    core.counters.borrow_mut().running += 1;
    let (input, input_bytes) = match input {
        Input::Submitted => {
            let length = Some(bytes.0.len() as u64);
            let given = if script.is_some() { Given::to_script(bytes, core) } else { core.input(&bytes.0) };
            (given, length)
        }
        Input::Sealed(file) => {
            let bytes = file.bytes();
            (Ok(Given::File(Rc::new(file.into()))), Some(bytes))
        }
        Input::Descriptor(fd) => (Ok(Given::File(Rc::new(fd))), None),
    };
    record.bill.input_bytes = input_bytes;
    let source = script.as_deref().map(script::Text::of).transpose();
    let outcome = match input.and_then(|input| Ok((input, source?))) {
        Ok((input, source)) => {
            let stack_bytes = if source.is_some() { script::DATA_BYTES } else { 0 };
            let data_bytes = core.config().jail.data_bytes(job.admitted.limits.memory_bytes);
            let data_bytes = data_bytes.saturating_add(stack_bytes);
            let compiled = core.executor.look(job, record.digest, source.as_ref());
            let work = Work { key, artifact, source, compiled, input, input_bytes, deadline, data_bytes };
            execute(core, job, work, record).await
        }
        Err(error) => Err(outcome::internal("input", format!("no memory for the input: {error}"))),
    };
    core.counters.borrow_mut().running -= 1;
    record.place = record.spent.as_ref().is_some_and(|worker| !worker.is_reaped()).then_some(place);
    outcome
}

async fn artifact_for(
    core: &Core,
    wanted: &mut Wanted<'_>,
    module: Source,
    record: &mut Record,
) -> Result<(Key, Rc<Artifact>, Option<Arc<Module>>), Outcome> {
    let (job, given) = (wanted.job, wanted.left);
    job.enter(Phase::Compiling);
    let since = Instant::now();
    let unread = |error| outcome::internal("module", format!("the module cannot be read: {error}"));
    let (digest, module) = match module {
        Source::Known(digest) => (digest, None),
        Source::Brought(module) => {
            let module = Arc::new(module);
            (module.digest().await.map_err(unread)?, Some(module))
        }
    };
    record.digest = digest;
    let (digest, module, script) = match module {
        // What runs is the engine then, and the script goes to it with the order.
        Some(script) if script.is_script().map_err(unread)? => {
            if !job.admitted.arguments.is_empty() {
                return Err(script::takes_no_arguments());
            }
            let engine = script::engine();
            (engine.digest, Some(Arc::clone(&engine.module)), Some(script))
        }
        module => (digest, module, None),
    };
    let key = Key { digest, metered: job.admitted.limits.fuel.is_some() };
    let landed = tokio::select! {
        biased;
        landed = core.executor.artifact(key, module, wanted) => landed,
        cause = job.stop_asked() => return Err(outcome::stopped_waiting(cause)),
    };
    let waited_us = u64::try_from(given.saturating_sub(wanted.left).as_micros()).unwrap_or(u64::MAX);
    record.bill.queue_us = Some(waited_us);
    record.bill.compile_us = Some(micros_since(since, Instant::now()).saturating_sub(waited_us));
    tracing::debug!(compile_us = record.bill.compile_us, compiled = landed.is_ok(), "module ready");
    landed.map(|artifact| (key, artifact, script)).map_err(|outcome| outcome.as_ref().clone())
}

async fn execute(core: &Core, job: &Rc<Job>, work: Work, record: &mut Record) -> Result<Outcome, Outcome> {
    match &core.executor {
        Executor::Jailed { pool, scripts, .. } => {
            let rules = StopRules {
                deadline: work.deadline,
                waits: Waits {
                    head_start: core.config().kill.epoch_head_start,
                    grace: job.admitted.limits.grace,
                },
                cpu: job.admitted.limits.cpu,
                small: work.input_bytes.is_some_and(|bytes| bytes <= SMALL_INPUT_BYTES),
                spin: Duration::ZERO,
                unawaited_bytes_max: core.config().pool.unawaited_bytes_max,
            };
            for _ in 0..ASSIGN_TRIES {
                let Some(Lent { mut worker, mut stay }) = assigned(pool, job, &work, record).await? else {
                    continue;
                };
                scripts.has_worker(pool, &work);
                // There may have been a wait for the worker.
                let rules = StopRules { spin: core.spin(), ..rules };
                let end = run::follow(&mut worker, job, rules, stay.is_some()).await;
                core.looking.note(end.looked, end.exited);
                if end.never_began() {
                    tracing::warn!("worker died with its order unread; trying another");
                    pool.doubt();
                    continue;
                }
                let outcome = conclude(&end, stay.as_mut(), record);
                match (stay.filter(|_| end.stays), &end.replies.report) {
                    (Some(stay), Some(report)) => pool.give_back(worker, stay, report),
                    _ => record.spent = Some(worker),
                }
                return Ok(outcome);
            }
            let message = format!("{ASSIGN_TRIES} workers died before they had their order");
            Err(outcome::internal("no_worker", message))
        }
        Executor::InProcess { host, .. } => {
            job.enter(Phase::Running);
            record.walls = super::in_process::no_walls();
            let end = host.run(job, work).await;
            if let Some(report) = &end.report {
                note_report(report, record);
            }
            record.exit_code = outcome::exit_code(&end.outcome, end.report.as_ref());
            record.error = outcome::script_error(&end.outcome, end.report.as_ref());
            Ok(end.outcome)
        }
    }
}

/// A worker that was sent the job's order; `None` when it died before it could be.
async fn assigned(
    pool: &Rc<Pool>,
    job: &Job,
    work: &Work,
    record: &mut Record,
) -> Result<Option<Lent>, Outcome> {
    let admitted = &job.admitted;
    let need = Need {
        directories: &admitted.directories,
        caller: admitted.caller,
        memory_bytes: admitted.limits.memory_bytes,
        module: Some((work.key, &work.artifact)),
        engine: work.source.is_some(),
        tenant: admitted.shares.then_some(admitted.tenant.as_str()),
    };
    let since = Instant::now();
    let taken = tokio::select! {
        biased;
        cause = job.stop_asked() => return Err(outcome::stopped_waiting(cause)),
        taken = pool.lend(&need) => taken,
        () = tokio::time::sleep_until(work.deadline.into()) => {
            return Err(outcome::stopped_waiting(Cause::Deadline));
        }
    };
    let mut lent = taken.map_err(|error| no_worker(&error))?;
    let reused = lent.stay.as_ref().is_some_and(Stay::is_used);
    let waited_us = micros_since(since, Instant::now());
    record.bill.fork_us = Some(if reused { 0 } else { waited_us });
    if reused {
        // For another job's end.
        record.bill.queue_us = record.bill.queue_us.map(|queued_us| queued_us.saturating_add(waited_us));
    }
    record.shared = lent.stay.is_some();
    record.walls = Walls { fresh_process: !record.shared, ..pool.walls(&lent.worker) };
    job.enter(Phase::Running);
    let order = work.order(job);
    let (worker, artifact) = (&mut lent.worker, work.artifact.fd());
    let data = (work.input.file(), work.source.as_ref().and_then(script::Text::file));
    match run::assign(worker, order, artifact, data, record.shared).await {
        Ok(()) => {
            tracing::debug!(pid = worker.pid(), reused, fork_us = record.bill.fork_us, "worker has the job");
            Ok(Some(lent))
        }
        Err(error) => {
            tracing::warn!(error = %Causes(&error), pid = worker.pid(), "worker took no order; trying another");
            Ok(None)
        }
    }
}

/// A layer that is missing for this job alone is what it asked for's doing, and so is a directory that cannot be
/// had; anything else is ours.
fn no_worker(error: &PoolError) -> Outcome {
    match error {
        PoolError::Worker(WorkerError::NotGranted(why)) => outcome::not_granted(why.clone()),
        PoolError::Worker(WorkerError::LayerMissing(_)) => outcome::denied(&Refusal {
            reason: RefusalReason::MissingLayer,
            message: error.to_string(),
            retry_after_ms: None,
        }),
        PoolError::Worker(WorkerError::Leaf(full @ CgroupError::CallerFull { .. })) => {
            outcome::denied(&Refusal {
                reason: RefusalReason::TooManyJobs,
                message: full.to_string(),
                retry_after_ms: Some(admission::RETRY_AFTER_FULL_MS),
            })
        }
        PoolError::Worker(_) | PoolError::CircuitOpen { .. } => {
            outcome::internal("no_worker", Causes(&error).to_string())
        }
    }
}

/// Puts together what the kernel, the ladder and the worker said.
fn conclude(end: &RunEnd, stay: Option<&mut Stay>, record: &mut Record) -> Outcome {
    let replies = &end.replies;
    let leaf = end.leaf.as_ref();
    match stay {
        Some(stay) => bill_share(end, stay, &mut record.bill),
        None => {
            record.said = bill_process(end, &mut record.bill);
        }
    }
    if let Some(report) = &replies.report {
        note_report(report, record);
    } else {
        record.bill.run_us = Some(micros_since(end.started, end.exited));
    }
    tracing::debug!(ended = ?end.ended, told = ?end.told, stays = end.stays, "run over");
    if end.ended.is_none() && !end.lives {
        return outcome::internal("not_reaped", "the kernel did not say how the worker ended".to_owned());
    }
    let outcome = outcome::judge(&Evidence {
        exit: end.ended.map(|ended| ended.exit),
        oom_kills: leaf.and_then(|leaf| leaf.oom_kills),
        oom_above: leaf.is_some_and(|leaf| leaf.ooms == Some(0)),
        told: end.told,
        output_cut: end.output_cut,
        report: replies.report.as_ref(),
        forbidden: replies.forbidden,
        panicked: replies.panicked.as_deref(),
        protocol: replies.broken.as_deref(),
    });
    record.exit_code = outcome::exit_code(&outcome, replies.report.as_ref());
    record.error = outcome::script_error(&outcome, replies.report.as_ref());
    outcome
}

/// Bills a job for all that its process used. What the process said of itself, where it was not waited for: the kernel's
/// word on that comes too late.
fn bill_process(end: &RunEnd, bill: &mut Bill) -> Option<Usage> {
    let said = end.replies.report.as_ref().and_then(|report| report.usage).filter(|_| end.lives);
    if let Some(said) = said {
        let used_us = end.cpu.and_then(micros);
        let (user_us, system_us) = used_us.and_then(|used_us| split(used_us, said)).unzip();
        (bill.cpu_user_us, bill.cpu_system_us) = (user_us.or(used_us), system_us);
        bill.page_faults = Some(said.page_faults);
        bill.memory_peak_bytes = Some(said.resident_peak_bytes.saturating_sub(end.text_bytes));
    }
    if let Some(ended) = &end.ended {
        bill.cpu_user_us = micros(ended.cpu_user);
        bill.cpu_system_us = micros(ended.cpu_system);
        bill.page_faults = Some(ended.page_faults);
        bill.memory_peak_bytes = Some(ended.resident_peak_bytes);
    }
    if let Some(leaf) = end.leaf.as_ref() {
        // The leaf counts everything that ever was in it, also what the worker itself never waited for.
        bill.memory_peak_bytes = leaf.memory_peak_bytes.or(bill.memory_peak_bytes);
        bill.cpu_user_us = leaf.cpu_user_us.or(bill.cpu_user_us);
        bill.cpu_system_us = leaf.cpu_system_us.or(bill.cpu_system_us);
    }
    if end.awaited {
        bill.teardown_us = end.replied.map(|replied| micros_since(replied, end.exited));
    }
    said
}

/// CPU time that the kernel counted, as user's and system's in the proportion that the process gave. `None` when it gave
/// none.
fn split(used_us: u64, said: Usage) -> Option<(u64, u64)> {
    let all = u128::from(said.cpu_user_us) + u128::from(said.cpu_system_us);
    let system = (u128::from(used_us) * u128::from(said.cpu_system_us)).checked_div(all)?;
    let system_us = u64::try_from(system).ok()?;
    Some((used_us.checked_sub(system_us)?, system_us))
}

/// Bills a job for its share of what its process used. The kernel counts a living process's CPU time exactly, user and
/// system together; of its peak and its faults it does not say which job's they were.
fn bill_share(end: &RunEnd, stay: &mut Stay, bill: &mut Bill) {
    bill.cpu_user_us = end.cpu.and_then(|used| micros(stay.bill(used)));
}

fn micros(time: Duration) -> Option<u64> {
    u64::try_from(time.as_micros()).ok()
}

/// Takes over the figures that only the worker has. They can flatter a guest, never hurt another.
fn note_report(report: &stockade_wire::worker::RunReport, record: &mut Record) {
    record.bill.load_us = Some(report.load_us);
    record.bill.run_us = Some(report.run_us);
    record.bill.fuel = report.fuel;
    record.bill.wasm_memory_peak_bytes = Some(report.wasm_memory_peak_bytes);
    record.bill.host_calls = Some(0);
    record.walls.mdwe = report.mdwe;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_split_as_the_process_said_and_adds_up_to_what_the_kernel_counted() {
        let said = |cpu_user_us, cpu_system_us| Usage {
            cpu_user_us,
            cpu_system_us,
            resident_peak_bytes: 0,
            page_faults: 0,
        };
        assert_eq!(split(100, said(30, 10)), Some((75, 25)));
        assert_eq!(split(101, said(1, 1)), Some((51, 50)));
        assert_eq!(split(100, said(0, 7)), Some((0, 100)));
        assert_eq!(split(0, said(3, 7)), Some((0, 0)));
        assert_eq!(split(u64::MAX, said(u64::MAX, u64::MAX)), Some((u64::MAX / 2 + 1, u64::MAX / 2)));
        assert_eq!(split(100, said(0, 0)), None, "of nothing nothing is known");
    }
}
