//! One job on one worker: the order, the pipes, the ladder, the exit.
//!
//! Owns: the conversation with a worker that runs a job.
//! Never: chooses the worker, judges the end (`job::outcome` does), believes more than one reply.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use stockade_sys::pidfd::Ended;
use stockade_wire::job::{LogStream, Phase, Stage};
use stockade_wire::limits::RETURNED_BYTES_MAX;
use stockade_wire::worker::{FromWorker, RunOrder, RunReport, ToWorker};

use super::cgroup::LeafUsage;
use super::cpu_limit::left as cpu_left;
use super::job::Job;
use super::job::ladder::{self, Cause, Effect, Event, Rung, Waits};
use super::link::ExchangeError;
use super::looking::Looked;
use super::streams::{Turn, left, read, rest};
use super::worker::Worker;

/// A small job that takes no longer has what it wrote read when it is over: its pipes hold 64 KiB each. Registering them with
/// the runtime and taking them out again would cost it a tenth of what the supervisor does for it. The runtime's timers
/// tick in milliseconds.
const SHORT: Duration = Duration::from_millis(1);

/// What is known of a worker's run once it is over.
#[derive(Debug)]
pub(crate) struct RunEnd {
    /// What the kernel said of the process; `None` when it lives, or could not be reaped.
    pub(crate) ended: Option<Ended>,
    /// It has replied, and was not waited for: a tenant worker, or one that is about to exit.
    pub(crate) lives: bool,
    /// It may be given another job, as far as can be seen from outside.
    pub(crate) stays: bool,
    /// CPU time of the process since its birth, from the kernel.
    pub(crate) cpu: Option<Duration>,
    /// What the leaf said, where there was one.
    pub(crate) leaf: Option<LeafUsage>,
    /// Why and on which rung it was ended, if it was.
    pub(crate) told: Option<(Cause, Stage)>,
    /// What the worker said.
    pub(crate) replies: Replies,
    /// It wrote more output than allowed.
    pub(crate) output_cut: bool,
    /// It died without having read its order.
    pub(crate) order_unread: bool,
    /// How it went where its reply was looked for without sleeping.
    pub(crate) looked: Looked,
    /// When the order was sent.
    pub(crate) started: Instant,
    /// When the reply came.
    pub(crate) replied: Option<Instant>,
    /// When the worker was seen to have exited, or to be done.
    pub(crate) exited: Instant,
    /// Its exit would have been waited for, whether or not that was there already.
    pub(crate) awaited: bool,
    /// The program's own pages, which are in the worker's resident set and not its own.
    pub(crate) text_bytes: u64,
}

impl RunEnd {
    /// Whether the job is as it was before: its worker died, of nothing that Stockade did, with its order unread.
    pub(crate) fn never_began(&self) -> bool {
        self.order_unread && self.told.is_none() && self.replies.report.is_none()
    }
}

/// When and how a run is to be stopped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StopRules {
    pub(crate) deadline: Instant,
    pub(crate) waits: Waits,
    /// CPU time it may use, counted from the order.
    pub(crate) cpu: Option<Duration>,
    /// It is not expected to write more than its pipes hold.
    pub(crate) small: bool,
    /// How long the runtime looks for the worker's answer again and again before it sleeps.
    pub(crate) spin: Duration,
    /// A process that took less memory than this for its job, bytes, is not waited for once it has replied. The kernel
    /// takes it back while the result is under way: what that costs is little then, and not billed. 0: all are waited for.
    pub(crate) unawaited_bytes_max: u64,
}

/// Everything a worker may say after its order, each at most once, and what else it said.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    pub(crate) report: Option<RunReport>,
    /// What a function returned, where it came with the report.
    pub(crate) returned: Option<Vec<u8>>,
    pub(crate) forbidden: Option<u32>,
    pub(crate) panicked: Option<String>,
    /// How it broke the protocol.
    pub(crate) broken: Option<String>,
}

impl Replies {
    /// Takes a message in. `false` when it was not allowed; then `broken` says why.
    fn accept(&mut self, message: FromWorker, stays: bool) -> bool {
        let taken = match message {
            FromWorker::Returned(report, value)
                if stays && self.nothing_said() && value.0.len() <= RETURNED_BYTES_MAX =>
            {
                self.report = Some(report);
                self.returned = Some(value.0);
                true
            }
            FromWorker::Finished(report) if self.nothing_said() => {
                self.report = Some(report);
                true
            }
            FromWorker::Forbidden(number) if self.forbidden.is_none() => {
                self.forbidden = Some(number);
                true
            }
            FromWorker::Panicked(text) if self.nothing_said() => {
                self.panicked = Some(text);
                true
            }
            // Of one that began with its order, and cannot be locked. If it has not read that, another gets it.
            FromWorker::LockFailed(missing) if !stays && self.nothing_said() => {
                tracing::error!(layer = %missing.layer, reason = %missing.reason, "a worker could not lock itself");
                true
            }
            FromWorker::Finished(_)
            | FromWorker::Returned(..)
            | FromWorker::CompiledScript(..)
            | FromWorker::Forbidden(_)
            | FromWorker::Panicked(_)
            | FromWorker::Locked(_)
            | FromWorker::LockFailed(_)
            | FromWorker::NotGranted(_)
            | FromWorker::Compiled(_)
            | FromWorker::NotCompiled(_)
            | FromWorker::Prepared { .. }
            | FromWorker::NotPrepared(_)
            | FromWorker::Forked { .. }
            | FromWorker::NotForked { .. } => false,
        };
        if !taken {
            self.broken.get_or_insert_with(|| "sent a message it may not send now".to_owned());
        }
        taken
    }

    fn nothing_said(&self) -> bool {
        self.report.is_none() && self.panicked.is_none()
    }
}

/// Gives `worker` its order. It has not begun when this fails.
///
/// # Errors
/// When the worker is gone.
pub(crate) async fn assign(
    worker: &mut Worker,
    order: RunOrder,
    artifact: BorrowedFd<'_>,
    (input, source): (Option<BorrowedFd<'_>>, Option<BorrowedFd<'_>>),
    stays: bool,
) -> Result<(), ExchangeError> {
    // A descriptor of nothing is two system calls to pass on and one to close.
    let nothing = worker.has_module && stays && order.script.is_none() && order.limits.input_bytes == Some(0);
    let given = [Some(artifact).filter(|_| !worker.has_module), input.filter(|_| !nothing), source];
    let given: Vec<_> = given.into_iter().flatten().collect();
    if worker.has_module {
        return worker.link.send(&ToWorker::Run(order), &given).await;
    }
    let order = if stays { ToWorker::RunAndStay(order) } else { ToWorker::Run(order) };
    worker.has_module = stays;
    worker.link.send(&order, &given).await
}

/// Follows a worker that has its order until it has exited and is reaped. One that `stays` is followed until it has replied,
/// and so is one of which nothing but its exit is to be expected then.
pub(crate) async fn follow(worker: &mut Worker, job: &Job, rules: StopRules, stays: bool) -> RunEnd {
    let mut course = Course::new(worker, job, rules, stays);
    let mut ending = course.watch().await;
    let drained = ending == Watched::Replied && course.drain_living();
    if ending == Watched::Replied && !stays && !(drained && course.is_undisturbed()) {
        course.awaited = true;
        ending = course.watch().await;
    }
    let awaited = !course.is_over_with_its_reply();
    let Course { rung, replies, replied, started, output_cut, order_unread, looked, .. } = course;
    let exited = Instant::now();
    let (ended, leaf, cpu) = match ending {
        Watched::Exited => {
            let leaf = worker.leaf_usage();
            let ended = worker.reap();
            worker.remove_leaf();
            (ended, leaf, ended.map(|ended| ended.cpu_user.saturating_add(ended.cpu_system)))
        }
        Watched::Replied if stays => (None, None, worker.cpu_time()),
        Watched::Replied => (None, worker.leaf_usage(), worker.cpu_time()),
    };
    let told = match rung {
        Rung::Gone { after } => after,
        Rung::Running { .. } | Rung::EpochDue { .. } | Rung::TermSent { .. } | Rung::KillSent { .. } => None,
        Rung::Leaving { after, .. } => after,
    };
    let undisturbed = told.is_none() && replies.broken.is_none() && !output_cut;
    let stays = stays && drained && undisturbed;
    RunEnd {
        ended,
        lives: ending == Watched::Replied,
        stays,
        cpu,
        leaf,
        told,
        replies,
        output_cut,
        order_unread,
        looked,
        started,
        replied,
        exited,
        awaited,
        text_bytes: worker.text_bytes,
    }
}

/// Why a run is not watched any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watched {
    /// The worker has exited.
    Exited,
    /// It has replied, and stays.
    Replied,
}

/// The state of one run while it goes on.
struct Course<'a> {
    worker: &'a Worker,
    job: &'a Job,
    rules: StopRules,
    rung: Rung,
    replies: Replies,
    started: Instant,
    replied: Option<Instant>,
    cpu_before: Option<Duration>,
    cpu_check: Option<Instant>,
    /// When its pipes are to be watched, of a run that is not over by then.
    watch_from: Option<Instant>,
    output_cut: bool,
    order_unread: bool,
    /// How it went where its reply was looked for.
    looked: Looked,
    /// It is over with the worker's reply.
    stays: bool,
    /// It is not over before the worker's exit, whatever it replied.
    awaited: bool,
    /// It was told that its end is waited for.
    let_go: bool,
    turn: Turn,
    open: Open,
}

/// Which sources may still have something.
struct Open {
    link: bool,
    output: bool,
    stdout: bool,
    stderr: bool,
    stop: bool,
}

impl<'a> Course<'a> {
    fn new(worker: &'a Worker, job: &'a Job, rules: StopRules, stays: bool) -> Self {
        let started = Instant::now();
        let cpu_before = rules.cpu.and_then(|_| worker.cpu_time());
        Self {
            worker,
            job,
            rules,
            rung: Rung::Running { deadline: rules.deadline },
            replies: Replies::default(),
            started,
            replied: None,
            cpu_before,
            // Where the clock cannot be read, at once.
            cpu_check: rules.cpu.map(|limit| cpu_before.map_or(started, |_| started + limit)),
            // A worker that stays is registered with the runtime once for all its jobs.
            watch_from: (rules.small && !stays).then(|| started + SHORT),
            output_cut: false,
            order_unread: false,
            looked: Looked::Not,
            stays,
            awaited: false,
            let_go: false,
            turn: Turn::new(),
            open: Open { link: true, output: true, stdout: true, stderr: true, stop: true },
        }
    }

    /// In the order of what must not wait: a worker that floods its pipes makes those ready at every turn, and is
    /// to be stopped, and seen to have died, all the same.
    async fn watch(&mut self) -> Watched {
        let worker = self.worker;
        loop {
            if self.is_over_with_its_reply() {
                return Watched::Replied;
            }
            self.let_go();
            let due = earliest(earliest(ladder::due(self.rung), self.cpu_check), self.watch_from);
            let watching = self.watch_from.is_none();
            let spinning = self.replied.is_none()
                && self.looked != Looked::Crowded
                && self.started.elapsed() < self.rules.spin;
            if spinning {
                // First whoever else is to run on this processor: the worker, where the kernel woke it beside whoever sent its
                // order, or a template that forks. Without it such a worker began when all of the time was over.
                let since = Instant::now();
                std::thread::yield_now();
                self.looked = self.looked.and(since.elapsed());
            }
            if due.is_some_and(|due| due <= Instant::now()) {
                self.tick();
                continue;
            }
            tokio::select! {
                biased;
                cause = self.job.stop_asked(), if self.open.stop => {
                    self.open.stop = false;
                    self.event(Event::Stop(cause));
                }
                () = worker.exited() => {
                    self.drain_dead();
                    self.event(Event::Exited);
                    return Watched::Exited;
                }
                message = worker.link.receive(0), if self.open.link => self.message(message),
                ready = worker.output.readable(), if watching && self.open.output => {
                    self.open.output = self.is_watched(ready) && self.output();
                }
                ready = worker.stdout.readable(), if watching && self.open.stdout => {
                    self.open.stdout = self.is_watched(ready) && self.log(LogStream::Stdout);
                }
                ready = worker.stderr.readable(), if watching && self.open.stderr => {
                    self.open.stderr = self.is_watched(ready) && self.log(LogStream::Stderr);
                }
                () = sleep_until(due), if due.is_some() => self.tick(),
                // The runtime looks at its descriptors in between, and does not sleep.
                () = tokio::task::yield_now(), if spinning => {}
            }
            self.turn.pass_on().await;
        }
    }

    /// Whether there is a reply, and no need to see more of the worker.
    fn is_over_with_its_reply(&self) -> bool {
        let Some(report) = self.replies.report.as_ref().filter(|_| !self.awaited) else { return false };
        self.stays
            || report.usage.is_some_and(|usage| {
                let taken_bytes = usage.resident_peak_bytes.saturating_sub(self.worker.born_bytes);
                taken_bytes < self.rules.unawaited_bytes_max
            })
    }

    /// Has a worker exit that has replied and whose end is waited for.
    fn let_go(&mut self) {
        if self.replied.is_some() && !self.stays && !self.let_go {
            self.let_go = true;
            self.worker.link.hang_up();
        }
    }

    /// Whether nobody has stopped the worker, and it has kept to what it may do.
    fn is_undisturbed(&self) -> bool {
        let told = !matches!(self.rung, Rung::Running { .. } | Rung::Leaving { after: None, .. });
        !told && self.replies.broken.is_none() && self.replies.forbidden.is_none() && !self.output_cut
    }

    /// A job whose pipes cannot be watched could wait for them to be read until its time is up.
    fn is_watched(&mut self, ready: std::io::Result<()>) -> bool {
        if let Err(error) = &ready {
            tracing::error!(%error, pid = self.worker.pid(), "a worker's pipe cannot be watched");
            self.event(Event::Stop(Cause::Unwatched));
        }
        ready.is_ok()
    }

    /// What the worker wrote before it replied is still in its pipes. Whether that was all.
    fn drain_living(&mut self) -> bool {
        // One that is to exit may have closed them.
        let may_close = !self.stays;
        left(&self.worker.output, may_close, |bytes| self.output_cut |= !self.job.add_output(bytes))
            && left(&self.worker.stdout, may_close, |bytes| self.job.log(LogStream::Stdout, bytes))
            && left(&self.worker.stderr, may_close, |bytes| self.job.log(LogStream::Stderr, bytes))
    }

    /// What the worker wrote before it died is still in its pipes and on its link; each holds a bounded amount.
    fn drain_dead(&mut self) {
        while self.open.link {
            match self.worker.link.receive_now(0) {
                Some(message) => self.message(message),
                None => break,
            }
        }
        rest(&self.worker.output, |bytes| self.output_cut |= !self.job.add_output(bytes));
        rest(&self.worker.stdout, |bytes| self.job.log(LogStream::Stdout, bytes));
        rest(&self.worker.stderr, |bytes| self.job.log(LogStream::Stderr, bytes));
    }

    fn event(&mut self, event: Event) {
        let (rung, effect) = ladder::step(self.rung, event, Instant::now(), self.rules.waits);
        self.rung = rung;
        match effect {
            Effect::Nothing => {}
            Effect::Terminate => {
                tracing::debug!(pid = self.worker.pid(), ?rung, "SIGTERM");
                self.job.enter(Phase::Stopping);
                self.worker.terminate();
            }
            Effect::Kill => {
                tracing::debug!(pid = self.worker.pid(), ?rung, "SIGKILL");
                self.worker.kill();
            }
        }
    }

    fn tick(&mut self) {
        self.event(Event::Tick);
        let now = Instant::now();
        self.watch_from = self.watch_from.filter(|from| now < *from);
        let (Some(limit), Some(check)) = (self.rules.cpu, self.cpu_check) else { return };
        if now < check {
            return;
        }
        match cpu_left(limit, self.cpu_before, self.worker.cpu_time()) {
            Ok(left) => self.cpu_check = Some(now + left),
            // Its exit, which is about to be seen, says the rest.
            Err(Cause::CpuClock) if self.worker.is_gone() => self.cpu_check = None,
            Err(cause) => {
                self.cpu_check = None;
                self.event(Event::Stop(cause));
            }
        }
    }

    fn message(&mut self, message: Received) {
        match message {
            Ok(Some((message, _))) => {
                // The clock comes before the words: a reply after the deadline is one after the deadline.
                self.event(Event::Tick);
                let said_before = self.replied.is_some();
                if !self.replies.accept(message, self.stays) {
                    self.event(Event::Stop(Cause::Protocol));
                } else if !said_before && self.replies.report.is_some() {
                    self.replied = Some(Instant::now());
                    if !self.stays {
                        // Its exit is what is waited for now; the link's end comes before, and would be told on its own.
                        self.worker.link.unwatch();
                    }
                    if let Some(value) = self.replies.returned.take() {
                        self.output_cut |= !self.job.add_output(&value);
                    }
                    self.event(Event::Reported);
                }
            }
            Ok(None) => self.open.link = false,
            // What it said before it died is still to come.
            Err(ExchangeError::Unread) => self.order_unread = true,
            Err(error) => {
                self.open.link = false;
                self.replies.broken.get_or_insert_with(|| format!("sent what is no message: {error}"));
                self.event(Event::Stop(Cause::Protocol));
            }
        }
    }

    fn output(&mut self) -> bool {
        let open = read(&self.worker.output, &mut self.turn, |bytes| {
            self.output_cut |= !self.job.add_output(bytes);
        });
        if self.output_cut {
            self.event(Event::Stop(Cause::OutputLimit));
        }
        // Reading on would only make room for more of what is thrown away.
        open && !self.output_cut
    }

    fn log(&mut self, stream: LogStream) -> bool {
        let pipe = match stream {
            LogStream::Stdout => &self.worker.stdout,
            LogStream::Stderr => &self.worker.stderr,
        };
        read(pipe, &mut self.turn, |bytes| self.job.log(stream, bytes))
    }
}

type Received = Result<Option<(FromWorker, Vec<OwnedFd>)>, ExchangeError>;

async fn sleep_until(due: Option<Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due.into()).await;
    }
}

fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use stockade_wire::worker::Ending;

    use super::*;

    fn report() -> FromWorker {
        FromWorker::Finished(RunReport {
            ending: Ending::Exited(0),
            fuel: None,
            wasm_memory_peak_bytes: 0,
            growth_refused: false,
            load_us: 0,
            run_us: 0,
            mdwe: true,
            command: true,
            usage: None,
        })
    }

    #[test]
    fn first_reply_is_taken_and_a_second_is_not() {
        let mut replies = Replies::default();
        assert!(replies.accept(report(), false));
        assert!(!replies.accept(report(), false));
        assert!(replies.broken.is_some());
    }

    #[test]
    fn value_with_a_report_is_taken_from_a_worker_that_stays_as_far_as_it_may_go() {
        let FromWorker::Finished(report) = report() else { panic!("not a report") };
        let returned = |bytes| FromWorker::Returned(report.clone(), vec![0; bytes].into());
        for (bytes, stays, taken) in
            [(RETURNED_BYTES_MAX, true, true), (RETURNED_BYTES_MAX + 1, true, false), (0, false, false)]
        {
            let mut replies = Replies::default();
            assert_eq!(replies.accept(returned(bytes), stays), taken, "{bytes} {stays}");
            assert_eq!((replies.report.is_some(), replies.broken.is_some()), (taken, !taken));
            assert!(!taken || !replies.accept(returned(0), true), "a second");
        }
    }

    #[test]
    fn message_of_another_role_is_not_taken() {
        let mut replies = Replies::default();
        assert!(!replies.accept(FromWorker::Locked(stockade_wire::worker::JailReport::default()), false));
        let FromWorker::Finished(report) = report() else { panic!("not a report") };
        for stays in [false, true] {
            let compiled = FromWorker::CompiledScript(report.clone(), Some(vec![7].into()));
            assert!(!Replies::default().accept(compiled, stays));
        }
    }

    /// Whether another worker gets its order, follows from whether it read that, which the kernel says.
    #[test]
    fn lock_that_failed_is_told_before_a_reply_by_a_worker_that_does_not_stay() {
        let failed = || {
            let text = String::new;
            FromWorker::LockFailed(stockade_wire::job::MissingLayer {
                layer: text(),
                reason: text(),
                fix: text(),
            })
        };
        assert!(Replies::default().accept(failed(), false));
        assert!(!Replies::default().accept(failed(), true));
        let mut replies = Replies::default();
        assert!(replies.accept(report(), false) && !replies.accept(failed(), false));
    }

    #[test]
    fn forbidden_call_may_be_told_after_a_reply_but_once() {
        let mut replies = Replies::default();
        assert!(replies.accept(report(), false));
        assert!(replies.accept(FromWorker::Forbidden(41), false));
        assert!(!replies.accept(FromWorker::Forbidden(42), false));
    }
}
