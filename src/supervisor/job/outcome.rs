//! What a job's end means: verdict, reason, stage and blame.
//!
//! Owns: [`judge`], the one place where evidence becomes an outcome.
//! Never: believes a worker against the kernel, gathers evidence, reads a clock.
//!
//! The order of the questions is the order of trust: how the kernel says the process died, what Stockade
//! itself did to it, and only then what the worker said. A worker's words can never blame the platform.

use stockade_sys::pidfd::Exit;
use stockade_wire::client::{Refusal, RefusalReason};
use stockade_wire::job::{Blame, Outcome, ScriptError, Stage, Verdict};
use stockade_wire::limits::GUEST_TEXT_BYTES_MAX;
use stockade_wire::worker::{
    CompileFailure, CompileFailureKind, CompileReason, Ending, LinkFault, RunReport, ScriptFault, TrapCode,
};
use stockade_worker::jail::seccomp::is_crash;

use super::ladder::Cause;
use crate::supervisor::logs::display::safe_text;
use crate::supervisor::script;

/// Everything known about how a worker ended.
#[derive(Debug, Clone)]
pub(crate) struct Evidence<'a> {
    /// How the kernel says it died; `None` when it lives: a tenant worker after its reply.
    pub(crate) exit: Option<Exit>,
    /// OOM kills in its leaf, where there is a leaf with a memory controller.
    pub(crate) oom_kills: Option<u64>,
    /// The leaf itself never reached its limit: where there were kills, one above it did.
    pub(crate) oom_above: bool,
    /// Why and on which rung Stockade ended it, if it did.
    pub(crate) told: Option<(Cause, Stage)>,
    /// It wrote more output than allowed.
    pub(crate) output_cut: bool,
    /// Its one well-formed reply.
    pub(crate) report: Option<&'a RunReport>,
    /// The system call it said it was stopped at.
    pub(crate) forbidden: Option<u32>,
    /// What it said when its own code panicked.
    pub(crate) panicked: Option<&'a str>,
    /// How it broke the protocol.
    pub(crate) protocol: Option<&'a str>,
}

/// The guest was refused more memory, and failed.
pub(crate) const MEMORY_LIMIT: &str = "memory_limit";

const SIGSYS: i32 = nix::libc::SIGSYS;
const SIGKILL: i32 = nix::libc::SIGKILL;

/// The outcome that `evidence` amounts to.
pub(crate) fn judge(evidence: &Evidence<'_>) -> Outcome {
    if evidence.exit == Some(Exit::Signal(SIGSYS)) {
        return jail_violation(evidence.forbidden);
    }
    if evidence.exit == Some(Exit::Signal(SIGKILL)) && evidence.oom_kills.is_some_and(|kills| kills > 0) {
        if evidence.oom_above {
            return shared_oom();
        }
        return ended(
            Verdict::OutOfMemory,
            "cgroup_oom",
            Blame::Guest,
            "the worker reached its cgroup's memory limit; give the job more with --memory",
        );
    }
    match (evidence.told, evidence.report) {
        // What it wrote too much may be seen only after it has exited, or just after the deadline.
        (None | Some((Cause::Deadline, Stage::Epoch)), _) if evidence.output_cut => {
            Outcome { stage: None, ..stopped(Cause::OutputLimit, Stage::Sigterm, None) }
        }
        // It ended by itself within the head start that the epoch trap has: nobody stopped it.
        (Some((Cause::Deadline, Stage::Epoch)), Some(report))
            if report.ending != Ending::Interrupted && in_order(evidence.exit) =>
        {
            by_report(report)
        }
        (Some((cause, stage)), _) => stopped(cause, stage, evidence.protocol),
        (None, Some(report)) if in_order(evidence.exit) => by_report(report),
        (None, Some(_)) => lost("died_after_reply", "the worker died after its reply".to_owned()),
        (None, None) => unexplained(evidence),
    }
}

/// The kernel's choice among all jobs below the limit that was reached: whose doing it was cannot be told.
fn shared_oom() -> Outcome {
    let message = "a memory limit above the job's own was reached, by the caller's jobs together \
                   (cgroup.caller_memory_bytes), the service or the machine, and the kernel chose this worker to end; run \
                   fewer jobs at once, or have that limit raised";
    Outcome { retriable: true, ..ended(Verdict::OutOfMemory, "shared_oom", Blame::Ambiguous, message) }
}

/// Whether a worker that has replied is to be believed: it lives on, or exited as it should.
const fn in_order(exit: Option<Exit>) -> bool {
    matches!(exit, None | Some(Exit::Code(0)))
}

/// The exit status of a command whose own end is what `outcome` says; `None` where that is something else: then what
/// the worker said of it does not count.
pub(crate) fn exit_code(outcome: &Outcome, report: Option<&RunReport>) -> Option<i32> {
    let believed = match outcome.verdict {
        Verdict::Completed | Verdict::GuestError => true,
        // Not the kernel's word, but that of a guest that gave up when it was refused more.
        Verdict::OutOfMemory => outcome.reason.as_deref() == Some(MEMORY_LIMIT),
        _ => false,
    };
    match report {
        Some(RunReport { ending: Ending::Exited(status), command: true, .. }) if believed => Some(*status),
        _ => None,
    }
}

/// The error of a script whose own end is what `outcome` says.
pub(crate) fn script_error(outcome: &Outcome, report: Option<&RunReport>) -> Option<ScriptError> {
    let believed = outcome.stage.is_none()
        && matches!(outcome.verdict, Verdict::GuestError | Verdict::InvalidModule | Verdict::OutOfMemory);
    report.filter(|_| believed).and_then(script::error)
}

/// The outcome of a job that was refused.
#[must_use]
pub fn denied(refusal: &Refusal) -> Outcome {
    Outcome {
        verdict: Verdict::Denied,
        reason: Some(refusal_code(refusal.reason).to_owned()),
        stage: None,
        blame: Some(Blame::Operator),
        retriable: refusal.retry_after_ms.is_some(),
        message: Some(refusal.message.clone()),
    }
}

/// The outcome of a job that was granted a directory which cannot be had.
pub(crate) fn not_granted(why: String) -> Outcome {
    denied(&Refusal { reason: RefusalReason::Directory, message: why, retry_after_ms: None })
}

/// The outcome of a job whose module could not be compiled.
pub(crate) fn not_compiled(failure: &CompileFailure) -> Outcome {
    let verdict = match failure.kind {
        CompileFailureKind::Invalid => Verdict::InvalidModule,
        CompileFailureKind::Limit => Verdict::CompileLimit,
    };
    let reason = match failure.reason {
        CompileReason::Malformed => "malformed",
        CompileReason::MalformedText => "malformed_text",
        CompileReason::Precompiled => "precompiled",
        CompileReason::Unrecognised => "unrecognised",
        CompileReason::UnsupportedFeature => "unsupported_feature",
        CompileReason::TooComplex => "too_complex",
        CompileReason::ArtifactTooLarge => "artifact_too_large",
    };
    ended(verdict, reason, Blame::Guest, &failure.message)
}

/// The outcome of a job whose module took too long to compile.
pub(crate) fn compile_timeout() -> Outcome {
    let message = "compiling the module took longer than compile.timeout allows";
    ended(Verdict::CompileLimit, "timeout", Blame::Guest, message)
}

/// The outcome of a job that was stopped before it had a worker.
pub(crate) fn stopped_waiting(cause: Cause) -> Outcome {
    match cause {
        Cause::Deadline => Outcome {
            blame: Some(Blame::Operator),
            retriable: true,
            ..ended(
                Verdict::TimedOut,
                "deadline_in_queue",
                Blame::Operator,
                "the deadline passed before the job had a worker, or its module a compiler",
            )
        },
        other => Outcome { stage: None, ..stopped(other, Stage::Sigterm, None) },
    }
}

/// The outcome of a job that Stockade could not run.
pub(crate) fn internal(reason: &'static str, message: String) -> Outcome {
    Outcome {
        verdict: Verdict::Internal,
        reason: Some(reason.to_owned()),
        stage: None,
        blame: Some(Blame::Platform),
        retriable: true,
        message: Some(message),
    }
}

/// An outcome that is not the doing of the kill ladder. `message` may hold guest text.
pub(crate) fn ended(verdict: Verdict, reason: &str, blame: Blame, message: &str) -> Outcome {
    Outcome {
        verdict,
        reason: Some(reason.to_owned()),
        stage: None,
        blame: Some(blame),
        retriable: false,
        message: Some(safe_text(message, GUEST_TEXT_BYTES_MAX)),
    }
}

/// The outcome of a worker that died of SIGSYS, at the system call it named, if it named one.
pub(crate) fn jail_violation(forbidden: Option<u32>) -> Outcome {
    if forbidden.is_some_and(is_crash) {
        return crashed();
    }
    let name = forbidden.map_or_else(|| "unknown".to_owned(), syscall_name);
    ended(
        Verdict::JailViolation,
        &format!("seccomp:{name}"),
        // An allow-list that is too short looks the same as an escape.
        Blame::Ambiguous,
        &format!("the worker made the system call {name}, which its jail forbids, and was killed"),
    )
}

/// The outcome of a worker whose native code crashed: the calls that a crash makes are forbidden, too.
fn crashed() -> Outcome {
    let message = "the worker's native code crashed or aborted: a fault, no stack left, or more memory than the job's \
                   limit and jail.data_headroom_bytes allow; give the job more with --memory";
    lost("crashed", message.to_owned())
}

fn stopped(cause: Cause, stage: Stage, protocol: Option<&str>) -> Outcome {
    let (verdict, reason, blame, retriable, message) = match cause {
        Cause::Deadline => {
            let reason = match stage {
                Stage::Epoch => "epoch_deadline",
                Stage::Sigterm => "sigterm_after_deadline",
                Stage::Sigkill => "sigkill_after_grace",
            };
            let message = "the job's time was up; give it more with --timeout".to_owned();
            (Verdict::TimedOut, reason, Blame::Guest, false, message)
        }
        Cause::CpuTime => {
            let message = "the job's CPU time was up; give it more with --cpu".to_owned();
            (Verdict::TimedOut, "cpu_time", Blame::Guest, false, message)
        }
        Cause::CpuClock => {
            let message =
                "the kernel did not say how much CPU time the job had used, so that its limit could not be \
                           kept"
                    .to_owned();
            (Verdict::Internal, "cpu_clock", Blame::Platform, true, message)
        }
        Cause::Unwatched => {
            let message = "the kernel did not let the supervisor wait for what the job writes; the daemon's log says why";
            (Verdict::Internal, "streams", Blame::Platform, true, message.to_owned())
        }
        Cause::Cancelled => {
            (Verdict::Cancelled, "cancelled", Blame::Operator, false, "the job was cancelled".to_owned())
        }
        Cause::Drain => {
            let message = "the daemon stopped before the job ended".to_owned();
            (Verdict::Cancelled, "drain", Blame::Operator, true, message)
        }
        Cause::OutputLimit => {
            let message = "the job wrote more output than allowed; allow more with --output-limit".to_owned();
            (Verdict::OutputLimit, "output_bytes", Blame::Guest, false, message)
        }
        Cause::Protocol => {
            let message = format!("the worker {}", protocol.unwrap_or("broke the protocol"));
            (Verdict::WorkerLost, "protocol", Blame::Ambiguous, false, message)
        }
    };
    Outcome {
        verdict,
        reason: Some(reason.to_owned()),
        stage: Some(stage),
        blame: Some(blame),
        retriable,
        message: Some(message),
    }
}

/// The outcome of a job that did all it was to do.
pub(crate) const fn completed() -> Outcome {
    Outcome {
        verdict: Verdict::Completed,
        reason: None,
        stage: None,
        blame: None,
        retriable: false,
        message: None,
    }
}

fn by_report(report: &RunReport) -> Outcome {
    let failed = !matches!(report.ending, Ending::Exited(0) | Ending::Unlinkable(..));
    if report.growth_refused && failed && !matches!(report.ending, Ending::SetupFailed(_)) {
        if let Ending::Script(_, error) = &report.ending {
            // Whatever it says, it would not have come to that with more memory.
            return script::ended(ScriptFault::OutOfMemory, error);
        }
        return ended(
            Verdict::OutOfMemory,
            MEMORY_LIMIT,
            Blame::Guest,
            "the guest failed after it was refused a larger memory or table; give the job more with --memory (a \
             table has at most 65536 elements)",
        );
    }
    match &report.ending {
        Ending::Exited(0) => completed(),
        Ending::Exited(status) => ended(
            Verdict::GuestError,
            "exit_status",
            Blame::Guest,
            &format!("the guest exited with status {status}"),
        ),
        Ending::Failed(text) => ended(Verdict::GuestError, "guest_failure", Blame::Guest, text),
        Ending::Script(fault, error) => script::ended(*fault, error),
        Ending::Trapped(code, text) => ended(Verdict::Trapped, trap_code(*code), Blame::Guest, text),
        Ending::OutOfFuel => ended(
            Verdict::OutOfFuel,
            "fuel",
            Blame::Guest,
            "the guest used up its fuel; give the job more with --fuel",
        ),
        Ending::MemoryRefused(wanted) => ended(
            Verdict::OutOfMemory,
            MEMORY_LIMIT,
            Blame::Guest,
            &format!("the module declares {wanted} bytes of memory; give the job more with --memory"),
        ),
        Ending::Unlinkable(fault, text) => {
            ended(Verdict::InvalidModule, link_fault(*fault), Blame::Guest, text)
        }
        Ending::Interrupted => lost(
            "interrupted",
            "the worker was told to stop by somebody else: Stockade had not sent a signal".to_owned(),
        ),
        Ending::SetupFailed(text) => {
            Outcome { retriable: true, ..ended(Verdict::Internal, "setup_failed", Blame::Ambiguous, text) }
        }
    }
}

fn unexplained(evidence: &Evidence<'_>) -> Outcome {
    if let Some(text) = evidence.panicked {
        return Outcome {
            retriable: true,
            ..ended(Verdict::Internal, "worker_panic", Blame::Ambiguous, text)
        };
    }
    let Some(exit) = evidence.exit else {
        return lost("no_reply", "the worker was given up before it replied".to_owned());
    };
    match exit {
        Exit::Code(0) => lost("no_reply", "the worker exited without a reply".to_owned()),
        Exit::Code(status) => {
            lost("exit_status", format!("the worker exited with status {status} and without a reply"))
        }
        Exit::Signal(SIGKILL) => {
            lost("killed", "the worker was killed by somebody else: Stockade had not sent SIGKILL".to_owned())
        }
        Exit::Signal(signal) => lost("signal", format!("the worker was killed by signal {signal}")),
    }
}

fn lost(reason: &str, message: String) -> Outcome {
    Outcome { retriable: true, ..ended(Verdict::WorkerLost, reason, Blame::Ambiguous, &message) }
}

const fn trap_code(code: TrapCode) -> &'static str {
    match code {
        TrapCode::Unreachable => "unreachable",
        TrapCode::StackOverflow => "stack_overflow",
        TrapCode::MemoryOutOfBounds => "memory_out_of_bounds",
        TrapCode::TableOutOfBounds => "table_out_of_bounds",
        TrapCode::IndirectCallToNull => "indirect_call_to_null",
        TrapCode::BadSignature => "bad_signature",
        TrapCode::IntegerOverflow => "integer_overflow",
        TrapCode::DivisionByZero => "division_by_zero",
        TrapCode::BadConversionToInteger => "bad_conversion_to_integer",
        TrapCode::Other => "other",
    }
}

const fn link_fault(fault: LinkFault) -> &'static str {
    match fault {
        LinkFault::UnknownImport => "unknown_import",
        LinkFault::NoEntry => "no_entry",
        LinkFault::EntrySignature => "entry_signature",
        LinkFault::Arguments => "arguments",
        LinkFault::TooLarge => "too_large",
    }
}

/// The name of a system call on this architecture, or its number where it has none.
#[must_use]
pub fn syscall_name(number: u32) -> String {
    syscalls::Sysno::new(number as usize).map_or_else(|| number.to_string(), |call| call.name().to_owned())
}

/// The stable code of a refusal, as in results and documents.
#[must_use]
pub const fn refusal_code(reason: RefusalReason) -> &'static str {
    match reason {
        RefusalReason::QueueFull => "queue_full",
        RefusalReason::TooManyJobs => "too_many_jobs",
        RefusalReason::Draining => "draining",
        RefusalReason::Limit => "limit",
        RefusalReason::TooLarge => "too_large",
        RefusalReason::Directory => "directory",
        RefusalReason::UnknownProfile => "unknown_profile",
        RefusalReason::UnknownModule => "unknown_module",
        RefusalReason::MissingLayer => "missing_layer",
        RefusalReason::Malformed => "malformed",
        RefusalReason::Unavailable => "unavailable",
        RefusalReason::Descriptor => "descriptor",
        RefusalReason::NotDurable => "not_durable",
    }
}

#[cfg(test)]
mod tests;
