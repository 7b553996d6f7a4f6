//! Every kind of evidence, and what it is judged to be.

use super::*;

fn report(ending: Ending) -> RunReport {
    RunReport {
        ending,
        fuel: None,
        wasm_memory_peak_bytes: 65536,
        growth_refused: false,
        load_us: 1,
        run_us: 1,
        mdwe: true,
        command: true,
        usage: None,
    }
}

fn evidence(exit: Exit) -> Evidence<'static> {
    Evidence {
        exit: Some(exit),
        oom_kills: None,
        oom_above: false,
        told: None,
        output_cut: false,
        report: None,
        forbidden: None,
        panicked: None,
        protocol: None,
    }
}

fn said(ending: Ending) -> Outcome {
    judge(&Evidence { report: Some(&report(ending)), ..evidence(Exit::Code(0)) })
}

#[test]
fn endings_of_a_clean_worker_become_their_verdicts() {
    let text = String::new;
    for (ending, verdict, reason) in [
        (Ending::Exited(0), Verdict::Completed, None),
        (Ending::Exited(3), Verdict::GuestError, Some("exit_status")),
        (Ending::Failed(text()), Verdict::GuestError, Some("guest_failure")),
        (Ending::Trapped(TrapCode::Unreachable, text()), Verdict::Trapped, Some("unreachable")),
        (Ending::OutOfFuel, Verdict::OutOfFuel, Some("fuel")),
        (Ending::MemoryRefused(1), Verdict::OutOfMemory, Some("memory_limit")),
        (
            Ending::Unlinkable(LinkFault::UnknownImport, text()),
            Verdict::InvalidModule,
            Some("unknown_import"),
        ),
        (Ending::Interrupted, Verdict::WorkerLost, Some("interrupted")),
        (Ending::SetupFailed(text()), Verdict::Internal, Some("setup_failed")),
    ] {
        let outcome = said(ending.clone());
        assert_eq!((outcome.verdict, outcome.reason.as_deref()), (verdict, reason), "{ending:?}");
    }
}

#[test]
fn worker_that_lives_on_is_believed_after_a_reply_and_given_up_without_one() {
    let living = Evidence { exit: None, ..evidence(Exit::Code(0)) };
    let happy = report(Ending::Exited(0));
    let of = |evidence: Evidence<'_>| judge(&evidence).verdict;
    assert_eq!(of(Evidence { report: Some(&happy), ..living.clone() }), Verdict::Completed);
    assert_eq!(of(living.clone()), Verdict::WorkerLost);
    let told = Some((Cause::Deadline, Stage::Sigterm));
    assert_eq!(of(Evidence { report: Some(&happy), told, ..living }), Verdict::TimedOut);
}

#[test]
fn unclean_exit_is_never_a_success_whatever_the_worker_said() {
    let happy = report(Ending::Exited(0));
    for exit in [Exit::Code(1), Exit::Signal(9), Exit::Signal(11), Exit::Signal(SIGSYS)] {
        let outcome = judge(&Evidence { report: Some(&happy), ..evidence(exit) });
        assert_ne!(outcome.verdict, Verdict::Completed, "{exit:?}");
    }
    assert_eq!(judge(&evidence(Exit::Code(0))).verdict, Verdict::WorkerLost);
}

#[test]
fn words_of_a_worker_never_blame_the_platform() {
    let endings = [
        Ending::Exited(1),
        Ending::Failed("x".to_owned()),
        Ending::Trapped(TrapCode::Other, "x".to_owned()),
        Ending::Interrupted,
        Ending::OutOfFuel,
        Ending::MemoryRefused(0),
        Ending::Unlinkable(LinkFault::NoEntry, "x".to_owned()),
        Ending::SetupFailed("platform's fault".to_owned()),
    ];
    for ending in endings {
        assert_ne!(said(ending).blame, Some(Blame::Platform));
    }
    let panicked = judge(&Evidence { panicked: Some("x"), ..evidence(Exit::Code(101)) });
    assert_ne!(panicked.blame, Some(Blame::Platform));
}

#[test]
fn every_cause_and_stage_keeps_its_verdict_whatever_was_said() {
    let happy = report(Ending::Exited(0));
    for (cause, verdict) in [
        (Cause::Deadline, Verdict::TimedOut),
        (Cause::CpuTime, Verdict::TimedOut),
        (Cause::CpuClock, Verdict::Internal),
        (Cause::Unwatched, Verdict::Internal),
        (Cause::Cancelled, Verdict::Cancelled),
        (Cause::Drain, Verdict::Cancelled),
        (Cause::OutputLimit, Verdict::OutputLimit),
        (Cause::Protocol, Verdict::WorkerLost),
    ] {
        for stage in [Stage::Sigterm, Stage::Sigkill] {
            for report in [None, Some(&happy)] {
                let outcome =
                    judge(&Evidence { told: Some((cause, stage)), report, ..evidence(Exit::Code(0)) });
                assert_eq!((outcome.verdict, outcome.stage), (verdict, Some(stage)));
            }
        }
    }
}

#[test]
fn exit_status_is_believed_only_where_the_guest_itself_exited() {
    let exited = |status| report(Ending::Exited(status));
    let said = exited(7);
    let of = |evidence: Evidence<'_>| exit_code(&judge(&evidence), evidence.report);
    let clean = evidence(Exit::Code(0));
    assert_eq!(of(Evidence { report: Some(&exited(0)), ..clean.clone() }), Some(0));
    assert_eq!(of(Evidence { report: Some(&said), ..clean.clone() }), Some(7));
    let refused = RunReport { growth_refused: true, ..said.clone() };
    assert_eq!(of(Evidence { report: Some(&refused), ..clean.clone() }), Some(7));
    let function = RunReport { command: false, ..said.clone() };
    assert_eq!(of(Evidence { report: Some(&function), ..clean.clone() }), None);
    let killed = Evidence { report: Some(&said), ..evidence(Exit::Signal(SIGKILL)) };
    for lie in [
        killed.clone(),
        Evidence { oom_kills: Some(1), ..killed },
        Evidence { report: Some(&said), ..evidence(Exit::Code(1)) },
        Evidence { report: Some(&said), ..evidence(Exit::Signal(SIGSYS)) },
        Evidence { report: Some(&said), output_cut: true, ..clean.clone() },
        Evidence { report: Some(&said), told: Some((Cause::Protocol, Stage::Sigkill)), ..clean.clone() },
        Evidence { report: Some(&said), told: Some((Cause::Deadline, Stage::Sigterm)), ..clean.clone() },
        Evidence { report: Some(&exited(0)), told: Some((Cause::Cancelled, Stage::Sigterm)), ..clean },
    ] {
        assert_eq!(of(lie.clone()), None, "{lie:?}");
    }
}

#[test]
fn end_within_the_epochs_head_start_counts_as_the_guests_own() {
    let told = Some((Cause::Deadline, Stage::Epoch));
    let happy = report(Ending::Exited(0));
    let outcome = judge(&Evidence { told, report: Some(&happy), ..evidence(Exit::Code(0)) });
    assert_eq!(outcome.verdict, Verdict::Completed);
    let stopped = report(Ending::Interrupted);
    let outcome = judge(&Evidence { told, report: Some(&stopped), ..evidence(Exit::Code(0)) });
    assert_eq!((outcome.verdict, outcome.stage), (Verdict::TimedOut, Some(Stage::Epoch)));
}

#[test]
fn output_cut_after_a_happy_end_is_no_success() {
    let happy = report(Ending::Exited(0));
    let outcome = judge(&Evidence { output_cut: true, report: Some(&happy), ..evidence(Exit::Code(0)) });
    assert_eq!((outcome.verdict, outcome.stage), (Verdict::OutputLimit, None));
}

#[test]
fn sigsys_names_the_system_call_where_it_is_known() {
    let outcome = judge(&Evidence { forbidden: Some(41), ..evidence(Exit::Signal(SIGSYS)) });
    assert_eq!(outcome.reason.as_deref(), Some("seccomp:socket"));
    // Claiming it without dying of it is a lie.
    let outcome = judge(&Evidence { forbidden: Some(41), ..evidence(Exit::Code(0)) });
    assert_eq!(outcome.verdict, Verdict::WorkerLost);
}

#[test]
fn sigsys_of_an_abort_is_no_violation() {
    let sigprocmask = u32::try_from(nix::libc::SYS_rt_sigprocmask).unwrap();
    let outcome = judge(&Evidence { forbidden: Some(sigprocmask), ..evidence(Exit::Signal(SIGSYS)) });
    assert_eq!((outcome.verdict, outcome.reason.as_deref()), (Verdict::WorkerLost, Some("crashed")));
}

#[test]
fn oom_kill_is_told_from_other_kills_by_the_leaf_alone() {
    let killed = evidence(Exit::Signal(SIGKILL));
    let oom = judge(&Evidence { oom_kills: Some(1), ..killed.clone() });
    assert_eq!((oom.verdict, oom.reason.as_deref()), (Verdict::OutOfMemory, Some("cgroup_oom")));
    let above = judge(&Evidence { oom_kills: Some(1), oom_above: true, ..killed.clone() });
    assert_eq!((above.verdict, above.reason.as_deref()), (Verdict::OutOfMemory, Some("shared_oom")));
    assert!(above.retriable && !oom.retriable);
    for oom_above in [false, true] {
        let other = judge(&Evidence { oom_kills: Some(0), oom_above, ..killed.clone() });
        assert_eq!(other.verdict, Verdict::WorkerLost);
    }
    assert_eq!(judge(&killed).verdict, Verdict::WorkerLost);
}

#[test]
fn failure_after_a_refused_growth_is_out_of_memory() {
    for (ending, verdict) in [
        (Ending::Trapped(TrapCode::Unreachable, String::new()), Verdict::OutOfMemory),
        (Ending::Exited(1), Verdict::OutOfMemory),
        (Ending::Exited(0), Verdict::Completed),
    ] {
        let report = RunReport { growth_refused: true, ..report(ending) };
        let outcome = judge(&Evidence { report: Some(&report), ..evidence(Exit::Code(0)) });
        assert_eq!(outcome.verdict, verdict);
    }
    let thrown =
        ScriptError { name: "TypeError".to_owned(), message: "m".to_owned(), ..ScriptError::default() };
    let ending = Ending::Script(ScriptFault::Thrown, Box::new(thrown));
    let report = RunReport { growth_refused: true, ..report(ending) };
    let outcome = judge(&Evidence { report: Some(&report), ..evidence(Exit::Code(0)) });
    assert_eq!((outcome.verdict, outcome.reason.as_deref()), (Verdict::OutOfMemory, Some(MEMORY_LIMIT)));
    let message = outcome.message.unwrap();
    assert!(message.starts_with("TypeError: m: ") && message.contains("--memory"), "{message}");
}
