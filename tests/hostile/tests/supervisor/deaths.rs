//! Workers that somebody else kills.

use nix::sys::signal::Signal;
use stockade_wire::job::{JobResult, Verdict};

use crate::families::{signal, workers, zombies};
use crate::rig::{Rig, SPIN, alone, config, eventually, honest, hostile, submission};

async fn rig(warm: usize) -> Rig {
    let mut config = config();
    config.pool.warm = warm;
    let rig = Rig::start_with(config).await;
    eventually("idle workers", || rig.supervisor.statistics().warm >= warm as u64).await;
    rig
}

#[track_caller]
fn assert_lost(result: &JobResult, reason: &str) {
    let outcome = &result.outcome;
    assert_eq!(outcome.verdict, Verdict::WorkerLost, "{outcome:?}");
    assert_eq!(outcome.reason.as_deref(), Some(reason), "{outcome:?}");
    assert!(outcome.retriable);
}

/// Every job has ended once, and all are accounted for.
fn assert_one_record_each(rig: &Rig) {
    let statistics = rig.supervisor.statistics();
    let ended: u64 = statistics.verdicts.iter().map(|(_, count)| count).sum();
    assert_eq!((ended, statistics.running, statistics.queued), (statistics.accepted, 0, 0));
}

#[test]
fn idle_worker_that_is_killed_is_reaped_and_replaced() {
    alone(async || {
        let rig = rig(3).await;
        let before = workers();
        assert_eq!(before.len(), 3, "as many as configured, and no more");
        for worker in &before {
            signal(*worker, Signal::SIGKILL);
        }
        eventually("new workers", || {
            let now = workers();
            now.len() == 3 && now.iter().all(|worker| !before.contains(worker))
        })
        .await;
        eventually("the dead to be reaped", || zombies().is_empty()).await;
        rig.assert_serves().await;
        rig.end().await;
    });
}

#[test]
fn job_that_finds_its_worker_dead_gets_another() {
    alone(async || {
        let rig = rig(2).await;
        rig.assert_serves().await;
        for _ in 0..20 {
            let idle = workers();
            idle.iter().for_each(|worker| signal(*worker, Signal::SIGKILL));
            eventually("their end", || workers().iter().all(|worker| !idle.contains(worker))).await;
            rig.assert_serves().await;
        }
        assert_one_record_each(&rig);
        rig.end().await;
    });
}

#[test]
fn job_whose_worker_dies_as_it_gets_it_completes_elsewhere_or_is_lost_but_never_both() {
    alone(async || {
        let rig = rig(2).await;
        rig.assert_serves().await;
        let mut lost = 0;
        for _ in 0..50 {
            workers().into_iter().for_each(|worker| signal(worker, Signal::SIGKILL));
            let result = rig.run(honest()).await;
            // The kernel may still have handed the order to a process that never ran again.
            if result.outcome.verdict != Verdict::Completed {
                assert_lost(&result, "killed");
                lost += 1;
            }
        }
        eprintln!("{lost} of 50 lost");
        assert_one_record_each(&rig);
        rig.end().await;
    });
}

#[test]
fn worker_killed_at_its_job_is_lost_and_said_to_be() {
    alone(async || {
        let rig = rig(0).await;
        rig.assert_serves().await;
        for (by, reason) in [
            (Signal::SIGKILL, "killed"),
            // The worker's own handlers see to it first, as they would to a fault of its own.
            (Signal::SIGSEGV, "crashed"),
            (Signal::SIGABRT, "signal"),
            (Signal::SIGHUP, "signal"),
            // What a worker makes of SIGTERM: it reports that it was told to stop, and nobody of ours told it.
            (Signal::SIGTERM, "interrupted"),
        ] {
            let id = rig.submit(submission(SPIN));
            rig.running(&id).await;
            // Until it is sealed SIGTERM kills it; the CPU time says that it is at its guest.
            let worker = workers()[0];
            eventually("the guest to run", || ticks_of(worker) > 3).await;
            signal(worker, by);
            let result = rig.result(&id).await;
            eprintln!("{by}: {:?}", result.outcome);
            assert_lost(&result, reason);
            rig.assert_serves().await;
        }
        assert_one_record_each(&rig);
        rig.end().await;
    });
}

#[test]
fn worker_killed_after_its_reply_did_not_complete_its_job() {
    alone(async || {
        let rig = rig(0).await;
        rig.assert_serves().await;
        let id = rig.submit(hostile("reply-then-spin"));
        rig.running(&id).await;
        let worker = workers()[0];
        eventually("it to spin", || ticks_of(worker) > 3).await;
        signal(worker, Signal::SIGKILL);
        let result = rig.result(&id).await;
        assert_lost(&result, "died_after_reply");
        assert_one_record_each(&rig);
        rig.end().await;
    });
}

#[test]
fn worker_that_is_to_exit_and_does_not_is_killed_and_holds_its_place_until_then() {
    alone(async || {
        let mut config = config();
        config.pool.warm = 0;
        config.pool.workers_max = 1;
        let rig = Rig::start_with(config).await;
        for _ in 0..3 {
            // Each needs the place of the one before.
            let result = rig.run(hostile("reply-with-usage-then-spin")).await;
            assert_eq!(result.outcome.verdict, Verdict::Completed, "{:?}", result.outcome);
            assert!(workers().len() <= 1, "the place of a process is free when it is gone");
            assert_eq!(result.bill.teardown_us, None, "its end was not waited for");
            assert_eq!(result.bill.page_faults, Some(1));
            let cpu_us = result.bill.cpu_user_us.unwrap() + result.bill.cpu_system_us.unwrap();
            assert!(cpu_us > 2, "of its CPU time the kernel is believed: {:?}", result.bill);
        }
        eventually("the last to be gone", || workers().is_empty() && zombies().is_empty()).await;
        assert_one_record_each(&rig);
        rig.end().await;
    });
}

/// User CPU time, in the kernel's ticks.
fn ticks_of(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(11).unwrap().parse().unwrap()
}
