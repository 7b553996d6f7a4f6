//! What is said of every misbehaviour.

use stockade_wire::job::Verdict;

use crate::rig::{Rig, alone, hostile};

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
    ("exit-0-without-reply", Verdict::WorkerLost, "no_reply"),
];

#[test]
fn every_misbehaviour_has_its_verdict_and_the_next_job_completes() {
    alone(async || {
        let rig = Rig::start().await;
        rig.assert_serves().await;
        let mut wrong = Vec::new();
        for (entry, verdict, reason) in EXPECTED {
            let result = rig.run(hostile(entry)).await;
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
