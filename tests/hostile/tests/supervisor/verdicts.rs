//! What is said of every misbehaviour.

use std::time::Duration;

use nix::sys::signal::Signal;
use stockade_wire::job::Verdict;

use crate::families::{children, signal, zygote};
use crate::rig::{
    Executable, HONEST, PATIENCE, Rig, alone, config, eventually, hostile, limited, submission,
};

/// Entry, verdict, reason.
const EXPECTED: [(&str, Verdict, &str); 22] = [
    ("exit-0-without-reply", Verdict::WorkerLost, "no_reply"),
    ("exit-7", Verdict::WorkerLost, "exit_status"),
    ("panic", Verdict::Internal, "worker_panic"),
    ("abort", Verdict::WorkerLost, "crashed"),
    ("overflow-stack", Verdict::WorkerLost, "crashed"),
    ("eat-memory", Verdict::WorkerLost, "crashed"),
    ("reply-twice", Verdict::WorkerLost, "protocol"),
    ("reply-then-spin", Verdict::WorkerLost, "died_after_reply"),
    ("wrong-kind", Verdict::WorkerLost, "protocol"),
    ("locked-again", Verdict::WorkerLost, "protocol"),
    ("garbage", Verdict::WorkerLost, "protocol"),
    ("empty", Verdict::WorkerLost, "protocol"),
    ("oversize", Verdict::WorkerLost, "protocol"),
    ("long-text", Verdict::GuestError, "guest_failure"),
    ("socket", Verdict::JailViolation, "seccomp:socket"),
    ("exec", Verdict::JailViolation, "seccomp:execve"),
    ("open", Verdict::JailViolation, "seccomp:openat"),
    ("kill-parent", Verdict::JailViolation, "seccomp:getppid"),
    // They begin with a call with which a crash begins, too; it is as far as they get.
    ("fork-bomb", Verdict::WorkerLost, "crashed"),
    ("thread", Verdict::WorkerLost, "crashed"),
    ("flood-output", Verdict::OutputLimit, "output_bytes"),
    ("flood-stderr", Verdict::TimedOut, "sigterm_after_deadline"),
];

/// The same for compile workers, by the executable's name.
const EXPECTED_OF_COMPILERS: [(&str, Verdict, &str); 10] = [
    ("hang-in-compile", Verdict::CompileLimit, "timeout"),
    ("spin-in-compile", Verdict::CompileLimit, "cpu_time"),
    ("die-in-compile", Verdict::Internal, "compile_worker"),
    ("panic-in-compile", Verdict::Internal, "compile_worker"),
    ("abort-in-compile", Verdict::CompileLimit, "crashed"),
    ("socket-in-compile", Verdict::JailViolation, "seccomp:socket"),
    ("lie-in-compile", Verdict::Internal, "artifact_size"),
    ("run-in-compile", Verdict::Internal, "compile_worker"),
    ("linger-in-compile", Verdict::Internal, "compile_worker"),
    ("poison-in-compile", Verdict::Internal, "setup_failed"),
];

#[test]
fn every_misbehaviour_has_its_verdict_and_the_next_job_completes() {
    alone(async || {
        let rig = Rig::start().await;
        rig.assert_serves().await;
        let mut wrong = Vec::new();
        for (entry, verdict, reason) in EXPECTED {
            // Long enough for what ends by itself.
            let timeout = if entry == "flood-stderr" { Duration::from_millis(500) } else { PATIENCE };
            let result = rig.run(limited(hostile(entry), timeout, Duration::from_secs(10))).await;
            let found = result.outcome.reason.as_deref().unwrap_or_default();
            eprintln!("{entry}: {:?} {found}: {:?}", result.outcome.verdict, result.outcome.message);
            if result.outcome.verdict != verdict || !found.starts_with(reason) {
                wrong.push(format!("{entry}: {:?}", result.outcome));
            }
            rig.assert_serves().await;
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        rig.end().await;
    });
}

#[test]
fn every_misbehaviour_of_a_compile_worker_has_its_verdict_and_the_next_module_compiles() {
    alone(async || {
        let mut config = config();
        config.pool.warm = 0;
        config.pool.restart_burst = 100;
        config.compile.timeout = Duration::from_secs(4);
        config.compile.cpu = Duration::from_millis(300);
        let rig = Rig::start_from(Executable::named("stockade-hostile"), config).await.unwrap();
        let mut wrong = Vec::new();
        for (number, (name, verdict, reason)) in EXPECTED_OF_COMPILERS.into_iter().enumerate() {
            becomes(&rig, name).await;
            // A module of its own, which nobody has compiled.
            let module = |what| submission(&format!("{HONEST} ;; {what} {number}"));
            let outcome = rig.run(module("misbehaving")).await.outcome.clone();
            eprintln!("{name}: {outcome:?}");
            if outcome.verdict != verdict || outcome.reason.as_deref() != Some(reason) {
                wrong.push(format!("{name}: {outcome:?}"));
            }
            becomes(&rig, "stockade-hostile").await;
            let outcome = &rig.run(module("honest")).await.outcome;
            assert_eq!(outcome.verdict, Verdict::Completed, "after {name}: {outcome:?}");
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        rig.end().await;
        assert!(children().is_empty());
    });
}

/// Exchanges the zygote.
async fn becomes(rig: &Rig, name: &str) {
    let before = rig.supervisor.statistics().zygote_starts;
    rig.executable.becomes(name);
    signal(zygote().unwrap(), Signal::SIGKILL);
    eventually("another zygote", || rig.supervisor.statistics().zygote_starts > before && zygote().is_some())
        .await;
}
