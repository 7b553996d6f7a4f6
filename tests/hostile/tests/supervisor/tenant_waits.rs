//! Jobs that wait for a worker of their tenant's: who gets it, and what becomes of them when there is none.

use std::time::Duration;

use nix::sys::signal::Signal;
use stockade::config::Config;
use stockade_wire::job::{Isolation, Submission, Verdict};

use crate::families::{children, named, signal};
use crate::rig::{PATIENCE, Rig, alone, eventually, limited, submission, within};
use crate::tenants::{assert_next, entry, rare, shared, statistics};

/// Jobs of one tenant: one that takes a while, the same with a fault at its end, and one that is over at once.
fn taking(name: &str) -> Submission {
    let module = submission(
        r#"(module (memory 1)
             (func $busy (local $left i64) (local.set $left (i64.const 300000000))
               (loop $again
                 (local.set $left (i64.sub (local.get $left) (i64.const 1)))
                 (br_if $again (i64.ne (local.get $left) (i64.const 0)))))
             (func (export "busy") call $busy)
             (func (export "fails_late") call $busy (drop (i32.load (i32.const -1))))
             (func (export "spins") (loop $again (br $again)))
             (func (export "ends")))"#,
    );
    let job = Submission { entry: Some(name.to_owned()), ..module };
    shared(limited(job, PATIENCE, Duration::from_secs(1)))
}

/// CPU time of a process in user mode, in the kernel's ticks.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // Its name, which comes before, is in parentheses and may hold anything.
    let figures = stat.rsplit_once(") ").unwrap().1;
    figures.split(' ').nth(11).unwrap().parse().unwrap()
}

/// A tenant has `workers` at most, and a job waits for one as long as it takes.
fn waiting(workers: usize) -> Config {
    rare(|config| {
        config.pool.warm = 0;
        config.pool.tenant_workers_per_user_max = workers;
        config.pool.tenant_wait = PATIENCE * 10;
    })
}

/// Submits a job whose worker is the only one there is, and returns once it runs.
async fn busy(rig: &Rig, name: &str) -> String {
    // So that none of them is compiled any more.
    assert_eq!(rig.run(taking("ends")).await.outcome.verdict, Verdict::Completed);
    let id = rig.submit(taking(name));
    rig.running(&id).await;
    assert_eq!(statistics(rig).tenant_workers, 1);
    id
}

#[test]
fn jobs_that_wait_get_the_worker_that_is_given_back() {
    alone(async || {
        let rig = Rig::start_with(waiting(1)).await;
        let busy = busy(&rig, "busy").await;
        let before = statistics(&rig);
        let waiting = [(); 3].map(|()| rig.submit(taking("ends")));
        for id in &waiting {
            let result = rig.result(id).await;
            assert_eq!(result.outcome.verdict, Verdict::Completed, "{:?}", result.outcome);
            assert_eq!((result.isolation, result.bill.fork_us), (Isolation::Tenant, Some(0)));
        }
        assert_eq!(rig.result(&busy).await.outcome.verdict, Verdict::Completed);
        let after = statistics(&rig);
        assert_eq!((after.starts_reused - before.starts_reused, after.tenant_workers), (3, 1));
        assert_eq!(after.forks, before.forks);
        rig.end().await;
    });
}

#[test]
fn job_that_waits_in_vain_has_a_process_of_its_own() {
    alone(async || {
        // Where there may be no more, a fresh one; else one more of the tenant's, even where the one that is made meanwhile
        // takes longer than the job waits.
        for (most, isolation) in [(1, Isolation::Fresh), (3, Isolation::Tenant)] {
            let mut config = waiting(most);
            config.pool.tenant_wait = Duration::from_millis(20);
            let rig = Rig::start_with(config).await;
            let spinning = busy(&rig, "spins").await;
            let result = rig.run(taking("ends")).await;
            assert_eq!(result.outcome.verdict, Verdict::Completed, "{:?}", result.outcome);
            assert_eq!(result.isolation, isolation);
            rig.cancel(&spinning);
            rig.result(&spinning).await;
            rig.end().await;
            assert!(children().is_empty());
        }
    });
}

#[test]
fn worker_is_made_for_a_job_that_waits_where_there_are_processors_for_it() {
    alone(async || {
        let rig = Rig::start_with(rare(|config| config.pool.tenant_wait = Duration::from_secs(1))).await;
        let spinning = busy(&rig, "spins").await;
        let result = rig.run(taking("ends")).await;
        assert_eq!(result.outcome.verdict, Verdict::Completed, "{:?}", result.outcome);
        assert_eq!((result.isolation, statistics(&rig).tenant_workers), (Isolation::Tenant, 2));
        rig.cancel(&spinning);
        rig.result(&spinning).await;
        rig.end().await;
        assert!(children().is_empty());
    });
}

#[test]
fn jobs_that_wait_for_a_worker_that_dies_or_is_not_fit_any_more_are_served() {
    alone(async || {
        let rig = Rig::start_with(waiting(1)).await;
        for (name, verdict) in [("spins", Verdict::WorkerLost), ("fails_late", Verdict::Trapped)] {
            let busy = busy(&rig, name).await;
            let waiting = [(); 3].map(|()| rig.submit(taking("ends")));
            if name == "spins" {
                let workers = named("stockade:run");
                assert_eq!(workers.len(), 1);
                // One that has not read its order yet costs its job nothing.
                eventually("it to spin", || cpu_ticks(workers[0]) > 10).await;
                signal(workers[0], Signal::SIGKILL);
            }
            assert_eq!(rig.result(&busy).await.outcome.verdict, verdict, "{name}");
            for id in &waiting {
                let result = rig.result(id).await;
                assert_eq!(result.outcome.verdict, Verdict::Completed, "{name}: {:?}", result.outcome);
                assert_eq!(result.isolation, Isolation::Tenant, "{name}");
            }
            assert_eq!(statistics(&rig).tenant_workers, 1, "{name}");
        }
        rig.end().await;
        assert!(children().is_empty());
    });
}

#[test]
fn jobs_that_stop_waiting_cost_the_others_nothing() {
    alone(async || {
        let rig = Rig::start_with(waiting(1)).await;
        let busy = busy(&rig, "busy").await;
        let [cancelled, other] = [(); 2].map(|()| rig.submit(taking("ends")));
        let hurried = rig.submit(limited(taking("ends"), Duration::from_millis(20), Duration::ZERO));
        let last = rig.submit(taking("ends"));
        rig.cancel(&cancelled);
        assert_eq!(rig.result(&cancelled).await.outcome.verdict, Verdict::Cancelled);
        assert_eq!(rig.result(&hurried).await.outcome.verdict, Verdict::TimedOut);
        assert_eq!(rig.result(&busy).await.outcome.verdict, Verdict::Completed);
        for id in [&other, &last] {
            let result = rig.result(id).await;
            assert_eq!(result.outcome.verdict, Verdict::Completed, "{:?}", result.outcome);
            assert_eq!((result.isolation, result.bill.fork_us), (Isolation::Tenant, Some(0)));
        }
        // One that waits when all is ended is ended, too.
        let spinning = rig.submit(taking("spins"));
        rig.running(&spinning).await;
        let waiting = rig.submit(taking("ends"));
        within("the supervisor's end", rig.supervisor.end()).await;
        assert_eq!(rig.result(&waiting).await.outcome.verdict, Verdict::Cancelled);
        assert!(children().is_empty());
    });
}

#[test]
fn next_worker_is_made_before_the_last_jobs_of_one() {
    alone(async || {
        let rig = Rig::start_with(rare(|config| config.pool.tenant_jobs_max = 20)).await;
        for _ in 0..19 {
            assert_eq!(rig.run(entry("ends")).await.outcome.verdict, Verdict::Completed);
        }
        eventually("the next to be made", || statistics(&rig).tenant_workers == 2).await;
        assert_next(&rig, true, "the last job of the first").await;
        eventually("the first to go", || statistics(&rig).tenant_workers == 1).await;
        assert_next(&rig, false, "the first job of the next").await;
        assert_next(&rig, true, "and its second").await;
        rig.end().await;
        assert!(children().is_empty());
    });
}
