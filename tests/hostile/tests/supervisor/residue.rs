//! What is left after many jobs: nothing.

use std::time::Duration;

use stockade::config::CgroupRoot;
use stockade_wire::job::Verdict;

use crate::families::{children, open_fds, resident_kib, zombies};
use crate::leaves::Leaves;
use crate::rig::{Rig, SPIN, alone, config, eventually, honest, hostile, limited, submission};

/// Growth of private memory that says nothing: the allocator's own.
const SLACK_KIB: u64 = 4 << 10;

async fn rig(warm: u64) -> Rig {
    let mut config = config();
    config.pool.warm = usize::try_from(warm).unwrap();
    config.results.bytes_max = 1 << 20;
    config.queue.jobs_max = 1000;
    config.queue.jobs_per_caller_max = 1000;
    let rig = Rig::start_with(config).await;
    rig.run(limited(submission(SPIN), Duration::from_millis(20), Duration::ZERO)).await;
    for _ in 0..20 {
        rig.assert_serves().await;
    }
    rig
}

/// Runs `work` and asserts that it leaves nothing behind, in a rig that keeps `idle` workers.
async fn assert_flat(what: &str, rig: &Rig, idle: u64, work: impl AsyncFnOnce()) {
    let settled = || rig.supervisor.statistics().running == 0 && zombies().is_empty();
    eventually("what was before to settle", settled).await;
    let (fds, kib) = (settled_fds(rig, idle).await, resident_kib());
    work().await;
    eventually("the dead to be reaped", settled).await;
    // Of jobs that were cancelled the zygote may still have an order, and that order its descriptors.
    eventually("every descriptor to be closed", || open_fds() <= fds).await;
    let (fds_after, kib_after) = (settled_fds(rig, idle).await, resident_kib());
    eprintln!(
        "{what}: {fds} → {fds_after} descriptors, {kib} → {kib_after} KiB, {:?}",
        rig.supervisor.statistics().verdicts
    );
    assert_eq!(fds_after, fds, "{what}");
    assert!(kib_after < kib + SLACK_KIB, "{what}: {kib} → {kib_after} KiB");
}

/// Once the idle workers are complete.
async fn settled_fds(rig: &Rig, idle: u64) -> usize {
    eventually("idle workers", || {
        // All of them: one that is still to come has its descriptors already. The zygote and they, nobody else.
        rig.supervisor.statistics().warm == idle && children().len() as u64 == 1 + idle
    })
    .await;
    // What ran last had its result given out first, and has its descriptors closed a turn later.
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
    open_fds()
}

#[test]
fn nothing_is_left_of_500_jobs() {
    alone(async || {
        let rig = rig(2).await;
        assert_flat("500 jobs", &rig, 2, async || {
            for _ in 0..50 {
                let jobs: Vec<_> = (0..10).map(|_| rig.submit(honest())).collect();
                for job in jobs {
                    assert_eq!(rig.result(&job).await.outcome.verdict, Verdict::Completed);
                }
            }
        })
        .await;
        rig.end().await;
    });
}

#[test]
fn nothing_is_left_of_100_jobs_cancelled_at_any_moment() {
    alone(async || {
        // Without idle workers every job waits for a fork, which is the moment at which a cancellation is hardest.
        for warm in [0, 2] {
            let rig = rig(warm).await;
            assert_flat(&format!("100 cancelled, {warm} idle"), &rig, warm, async || {
                for moment in 0..100 {
                    let id = rig.submit(submission(SPIN));
                    for _ in 0..moment {
                        tokio::task::yield_now().await;
                    }
                    rig.cancel(&id);
                    assert_eq!(rig.result(&id).await.outcome.verdict, Verdict::Cancelled);
                }
            })
            .await;
            rig.assert_serves().await;
            rig.end().await;
        }
    });
}

#[test]
fn nothing_is_left_of_100_jobs_that_were_killed() {
    alone(async || {
        let rig = rig(2).await;
        assert_flat("100 killed", &rig, 2, async || {
            for _ in 0..25 {
                let job = || limited(hostile("ignore-sigterm"), Duration::from_millis(20), Duration::ZERO);
                let jobs: Vec<_> = (0..4).map(|_| rig.submit(job())).collect();
                for job in jobs {
                    assert_eq!(rig.result(&job).await.outcome.verdict, Verdict::TimedOut);
                }
            }
        })
        .await;
        rig.end().await;
    });
}

#[test]
fn nothing_is_left_of_200_misbehaving_workers() {
    const ENTRIES: [&str; 10] = [
        "exit-7",
        "panic",
        "abort",
        "reply-twice",
        "garbage",
        "oversize",
        "socket",
        "flood-output",
        "wrong-kind",
        "eat-memory",
    ];
    alone(async || {
        let rig = rig(2).await;
        // Blocks of some MiB the allocator would keep for the next one.
        let hostile = |entry| {
            let mut job = hostile(entry);
            job.limits.output_bytes = Some(64 << 10);
            job
        };
        // More than results are kept: an output may be kept as a file, and the last ones are to be the same before and
        // after.
        for entry in ENTRIES.repeat(2) {
            rig.run(hostile(entry)).await;
        }
        assert_flat("200 misbehaving", &rig, 2, async || {
            for entry in ENTRIES.repeat(20) {
                let result = rig.run(hostile(entry)).await;
                assert_ne!(result.outcome.verdict, Verdict::Completed, "{entry}");
            }
        })
        .await;
        rig.assert_serves().await;
        rig.end().await;
    });
}

#[test]
fn no_leaf_is_left_of_jobs_that_ended_were_killed_or_cancelled_while_their_worker_was_forked() {
    // Made in the process that uses it, which is where it says that it cannot.
    alone(async || {
        let Some(leaves) = Leaves::anywhere() else { return };
        let mut config = config();
        config.cgroup.root = CgroupRoot::Path(leaves.directory.clone());
        config.pool.warm = 0;
        let rig = Rig::start_with(config).await;
        rig.assert_serves().await;
        let running = rig.submit(submission(SPIN));
        rig.running(&running).await;
        assert_eq!(leaves.count(), 1, "the worker's");
        rig.cancel(&running);
        rig.result(&running).await;
        for moment in 0..100 {
            let id = rig.submit(submission(SPIN));
            for _ in 0..moment {
                tokio::task::yield_now().await;
            }
            rig.cancel(&id);
            assert_eq!(rig.result(&id).await.outcome.verdict, Verdict::Cancelled);
            if moment % 10 == 0 {
                rig.run(limited(hostile("ignore-sigterm"), Duration::from_millis(20), Duration::ZERO)).await;
                rig.assert_serves().await;
            }
        }
        // Of cancelled jobs the zygote may still have the order before it, and they the leaf for it.
        eventually("the dead to be reaped, and every leaf removed", || {
            children().len() == 1 && leaves.count() == 0
        })
        .await;
        rig.end().await;
        assert!(children().is_empty());
    });
}
