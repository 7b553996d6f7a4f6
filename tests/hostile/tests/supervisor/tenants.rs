//! Tenant workers: who shares one, when it is not used again, and what one job leaves to the next.

use std::rc::Rc;
use std::time::Duration;

use nix::sys::signal::Signal;
use stockade::config::{Config, IsolationFloor};
use stockade::supervisor::Caller;
use stockade_wire::client::Statistics;
use stockade_wire::job::{DirectoryGrant, Isolation, JobResult, Stage, Submission, Verdict};

use crate::families::{children, named, open_fds, signal};
use crate::rig::{HONEST, PATIENCE, Rig, SPIN, alone, config, eventually, limited, submission, within};

/// A guest of every kind of end, by its entry.
const ENDS: &str = r#"(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (table 1 funcref)
  (func (export "ends"))
  (func (export "fails") (call $exit (i32.const 3)))
  (func (export "unreachable") unreachable)
  (func (export "divides") (drop (i32.div_u (i32.const 1) (i32.const 0))))
  (func (export "reads_outside") (drop (i32.load (i32.const -1))))
  (func (export "calls_null") (call_indirect (i32.const 0)))
  (func $deep (export "recurses") (call $deep))
  (func (export "spins") (loop $again (br $again)))
  (func (export "claim-wrong-figures"))
  (func (export "spin-before"))
  (func (export "then-reply-again"))
  (func (export "then-say-garbage"))
  (func (export "then-write"))
  (func (export "then-flood"))
  (func (export "then-die"))
  (func (export "then-spin")))"#;

/// Writes its input to its output, and to its log.
const CAT: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64))
    (block $end
      (loop $more
        (i32.store (i32.const 4) (i32.const 65536))
        (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (br_if $end (i32.eqz (i32.load (i32.const 8))))
        (i32.store (i32.const 4) (i32.load (i32.const 8)))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
        (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
        (br $more)))))"#;

pub(crate) fn shared(submission: Submission) -> Submission {
    Submission { isolation: Some(Isolation::Tenant), ..submission }
}

/// A job of a tenant that ends as its entry says, with time enough.
pub(crate) fn entry(name: &str) -> Submission {
    let job = Submission { entry: Some(name.to_owned()), ..submission(ENDS) };
    shared(limited(job, PATIENCE, Duration::from_secs(1)))
}

pub(crate) fn statistics(rig: &Rig) -> Statistics {
    rig.supervisor.statistics()
}

/// Runs a job, and says whether its process had run another.
async fn reused(rig: &Rig, job: Submission) -> (bool, Rc<JobResult>) {
    let before = statistics(rig).starts_reused;
    let result = rig.run(job).await;
    let reused = statistics(rig).starts_reused - before;
    assert!(reused <= 1);
    (reused == 1, result)
}

/// Asserts that a job of the tenant runs to its end, and whether in a used process.
pub(crate) async fn assert_next(rig: &Rig, wanted: bool, why: &str) {
    let (reused, result) = reused(rig, entry("ends")).await;
    assert_eq!(result.outcome.verdict, Verdict::Completed, "{why}: {:?}", result.outcome);
    assert_eq!(reused, wanted, "{why}");
    assert_eq!(result.isolation, Isolation::Tenant, "{why}");
}

pub(crate) fn rare(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = config();
    change(&mut config);
    config
}

#[test]
fn jobs_of_one_tenant_share_a_process_and_their_results_say_so() {
    alone(async || {
        let rig = Rig::start().await;
        for number in 0..5 {
            let (reused, result) = reused(&rig, entry("ends")).await;
            assert_eq!(result.outcome.verdict, Verdict::Completed, "{:?}", result.outcome);
            assert_eq!(reused, number > 0);
            assert_eq!(result.isolation, Isolation::Tenant);
            assert!(!result.jail.fresh_process);
            assert!(result.jail.mdwe && result.jail.seccomp.is_some());
            assert_eq!(result.bill.fork_us == Some(0), reused, "{:?}", result.bill);
        }
        assert_eq!(statistics(&rig).tenant_workers, 1);
        let (reused, result) = reused(&rig, submission(HONEST)).await;
        assert!(!reused && result.isolation == Isolation::Fresh && result.jail.fresh_process);
        rig.end().await;
        assert!(children().is_empty());
    });
}

#[test]
fn jobs_of_other_users_tenants_modules_or_limits_share_nothing() {
    alone(async || {
        let rig = Rig::start().await;
        let first = entry("ends");
        let tenant = Submission { tenant: Some("other".to_owned()), ..first.clone() };
        let mut small = first.clone();
        small.limits.memory_bytes = Some(1 << 20);
        let module = shared(submission(HONEST));
        for again in [false, true] {
            for job in [&first, &tenant, &small, &module] {
                let (reused, result) = reused(&rig, job.clone()).await;
                assert_eq!(result.outcome.verdict, Verdict::Completed, "{:?}", result.outcome);
                assert_eq!(reused, again, "{job:?}");
            }
        }
        let own = Caller::own();
        let other = Caller { uid: own.uid + 1, ..own };
        let before = statistics(&rig).starts_reused;
        let id = rig.supervisor.submit(&other, first).unwrap();
        let result = within("a job's end", rig.supervisor.wait(&other, &id)).await.unwrap();
        assert_eq!(result.result.isolation, Isolation::Tenant);
        assert_eq!(statistics(&rig).starts_reused, before);
        rig.end().await;
    });
}

#[test]
fn jobs_whose_jail_is_their_own_or_that_may_not_share_are_fresh_and_say_so() {
    alone(async || {
        let directory = tempfile::tempdir().unwrap();
        let grant = DirectoryGrant {
            host: directory.path().to_str().unwrap().to_owned(),
            guest: "/data".to_owned(),
            writable: false,
        };
        let files = Submission { directories: vec![grant], ..entry("ends") };
        let mut metered = entry("ends");
        metered.limits.fuel = Some(1_000_000);
        let unasked = Submission { isolation: None, ..entry("ends") };
        let fresh = Submission { isolation: Some(Isolation::Fresh), ..entry("ends") };
        let rig = Rig::start().await;
        for job in [files, metered, unasked, fresh] {
            for _ in 0..2 {
                let (reused, result) = reused(&rig, job.clone()).await;
                assert_eq!(result.outcome.verdict, Verdict::Completed, "{:?}", result.outcome);
                assert!(!reused && result.isolation == Isolation::Fresh && result.jail.fresh_process);
            }
        }
        rig.end().await;
        for config in [
            rare(|config| config.pool.isolation_floor = IsolationFloor::Fresh),
            rare(|config| config.pool.tenant_workers_max = 0),
        ] {
            let rig = Rig::start_with(config).await;
            for _ in 0..2 {
                let (reused, result) = reused(&rig, entry("ends")).await;
                assert!(!reused && result.isolation == Isolation::Fresh && result.jail.fresh_process);
            }
            rig.end().await;
        }
    });
}

#[test]
fn process_is_used_again_after_harmless_ends_alone() {
    alone(async || {
        let rig = Rig::start().await;
        assert_next(&rig, false, "the first").await;
        for (name, verdict, stays) in [
            ("fails", Verdict::GuestError, true),
            ("unreachable", Verdict::Trapped, true),
            ("divides", Verdict::Trapped, true),
            ("reads_outside", Verdict::Trapped, false),
            ("calls_null", Verdict::Trapped, false),
            ("recurses", Verdict::Trapped, false),
            ("no_such_entry", Verdict::InvalidModule, true),
        ] {
            let (reused, result) = reused(&rig, entry(name)).await;
            assert_eq!(result.outcome.verdict, verdict, "{name}: {:?}", result.outcome);
            assert!(reused, "{name}");
            assert_next(&rig, stays, name).await;
        }
        assert_eq!(statistics(&rig).tenant_workers, 1);
        rig.end().await;
        assert!(children().is_empty());
    });
}

#[test]
fn job_that_is_stopped_ends_its_process_and_not_the_next_job() {
    alone(async || {
        let rig = Rig::start().await;
        assert_next(&rig, false, "the first").await;
        let short = |job: Submission| limited(job, Duration::from_millis(50), Duration::from_secs(5));
        let (reused, result) = reused(&rig, short(entry("spins"))).await;
        assert!(reused);
        assert_eq!(result.outcome.verdict, Verdict::TimedOut, "{:?}", result.outcome);
        // On a machine with much else to do the head start may be over by then.
        assert!(matches!(result.outcome.stage, Some(Stage::Epoch | Stage::Sigterm)), "{:?}", result.outcome);
        assert_next(&rig, false, "after the epoch").await;
        // Its native code never looks at the epoch.
        let result = rig.run(short(entry("spin-before"))).await;
        assert_eq!(result.outcome.verdict, Verdict::TimedOut, "{:?}", result.outcome);
        assert_eq!(result.outcome.stage, Some(Stage::Sigterm));
        assert_next(&rig, false, "after SIGTERM").await;
        let id = rig.submit(entry("spins"));
        rig.running(&id).await;
        rig.cancel(&id);
        assert_eq!(rig.result(&id).await.outcome.verdict, Verdict::Cancelled);
        assert_next(&rig, false, "after a cancellation").await;
        let mut loud = shared(Submission { input: vec![b'x'; 4096].into(), ..submission(CAT) });
        loud.limits.output_bytes = Some(1);
        assert_eq!(rig.run(loud).await.outcome.verdict, Verdict::OutputLimit);
        rig.end().await;
        assert!(children().is_empty());
    });
}

/// The deadline of a job is over soon after it: its process is used by a job that takes longer.
#[test]
fn deadline_of_one_job_does_not_end_the_next() {
    alone(async || {
        let rig = Rig::start().await;
        let timeout = Duration::from_millis(100);
        let slow = shared(submission(
            r#"(module (func (export "quick"))
                 (func (export "slow") (local $left i64) (local.set $left (i64.const 400000000))
                   (loop $again
                     (local.set $left (i64.sub (local.get $left) (i64.const 1)))
                     (br_if $again (i64.ne (local.get $left) (i64.const 0))))))"#,
        ));
        let job = |name: &str| Submission { entry: Some(name.to_owned()), ..slow.clone() };
        for _ in 0..3 {
            let result = rig.run(limited(job("quick"), timeout, Duration::ZERO)).await;
            assert_eq!(result.outcome.verdict, Verdict::Completed, "{:?}", result.outcome);
            let (reused, result) = reused(&rig, limited(job("slow"), PATIENCE, Duration::ZERO)).await;
            assert_eq!(result.outcome.verdict, Verdict::Completed, "{:?}", result.outcome);
            assert!(
                reused && Duration::from_micros(result.bill.run_us.unwrap()) > timeout,
                "{:?}",
                result.bill
            );
        }
        rig.end().await;
    });
}

#[test]
fn worker_is_replaced_after_its_jobs_and_given_up_when_idle_or_old() {
    alone(async || {
        let rig = Rig::start_with(rare(|config| config.pool.tenant_jobs_max = 3)).await;
        for number in 0..7 {
            assert_next(&rig, number % 3 != 0, &format!("job {number}")).await;
        }
        rig.end().await;
        for config in [
            rare(|config| config.pool.tenant_idle = Duration::from_secs(1)),
            rare(|config| config.pool.tenant_age = Duration::from_secs(1)),
        ] {
            let rig = Rig::start_with(config).await;
            assert_next(&rig, false, "the first").await;
            assert_eq!(statistics(&rig).tenant_workers, 1);
            eventually("it to be given up", || statistics(&rig).tenant_workers == 0).await;
            assert_next(&rig, false, "the next").await;
            rig.end().await;
        }
        assert!(children().is_empty());
    });
}

#[test]
fn users_tenant_workers_are_bounded_and_idle_ones_give_way() {
    alone(async || {
        let rig = Rig::start_with(rare(|config| {
            config.pool.tenant_workers_max = 3;
            config.pool.tenant_workers_per_user_max = 2;
        }))
        .await;
        let of = |name: &str| Submission { tenant: Some(name.to_owned()), ..entry("ends") };
        for name in ["a", "b", "c", "d"] {
            assert_eq!(rig.run(of(name)).await.isolation, Isolation::Tenant);
            assert!(statistics(&rig).tenant_workers <= 2);
        }
        assert!(
            reused(&rig, of("d")).await.0 && reused(&rig, of("c")).await.0 && !reused(&rig, of("a")).await.0
        );
        // Those that are at work do not: a job more has a process of its own, and does not wait.
        let spinning = |name: &str| Submission { tenant: Some(name.to_owned()), ..entry("spins") };
        let busy = ["e", "f"].map(|name| rig.submit(spinning(name)));
        for id in &busy {
            rig.running(id).await;
        }
        let result = rig.run(of("g")).await;
        assert_eq!((result.isolation, result.outcome.verdict), (Isolation::Fresh, Verdict::Completed));
        // Another user has a seat of the third, and none of the fourth.
        let own = Caller::own();
        let other = Caller { uid: own.uid + 1, ..own };
        for name in ["h", "i"] {
            let id = rig.supervisor.submit(&other, of(name)).unwrap();
            let result = within("a job's end", rig.supervisor.wait(&other, &id)).await.unwrap();
            assert_eq!((result.result.isolation, statistics(&rig).tenant_workers), (Isolation::Tenant, 3));
        }
        for id in &busy {
            rig.cancel(id);
            rig.result(id).await;
        }
        rig.end().await;
        assert!(children().is_empty());
    });
}

#[test]
fn worker_that_does_anything_after_its_reply_is_not_used_again() {
    alone(async || {
        let rig = Rig::start().await;
        for name in ["then-reply-again", "then-say-garbage", "then-write", "then-flood", "then-die"] {
            let result = rig.run(entry(name)).await;
            // One that is seen to be dead together with its reply is believed no more than any other.
            let died = result.outcome.reason.as_deref() == Some("died_after_reply");
            let done = result.outcome.verdict == Verdict::Completed;
            assert!(done || (died && name == "then-die"), "{name}: {:?}", result.outcome);
            // What came before its reply was taken is in its own job's log, and no more than a pipe holds.
            assert!(result.bill.log_bytes.unwrap() <= 64 << 10, "{name}");
            // Seen at the latest when the idle ones are looked over.
            eventually("the stray to be seen", || statistics(&rig).tenant_workers == 0).await;
            assert_next(&rig, false, name).await;
            assert!(rig.run(entry("reads_outside")).await.outcome.verdict == Verdict::Trapped);
        }
        rig.end().await;
        assert!(children().is_empty());
    });
}

#[test]
fn worker_that_does_not_take_its_next_order_costs_that_job_its_time_and_no_other() {
    alone(async || {
        let rig = Rig::start().await;
        assert_eq!(rig.run(entry("then-spin")).await.outcome.verdict, Verdict::Completed);
        let short = limited(entry("ends"), Duration::from_millis(100), Duration::from_millis(100));
        let (reused, result) = reused(&rig, short).await;
        assert!(reused);
        assert_eq!(result.outcome.verdict, Verdict::TimedOut, "{:?}", result.outcome);
        assert_next(&rig, false, "the next").await;
        rig.end().await;
        assert!(children().is_empty());
    });
}

#[test]
fn worker_that_dies_between_jobs_or_stops_costs_no_job() {
    alone(async || {
        let rig = Rig::start_with(rare(|config| config.pool.warm = 0)).await;
        for killer in [Signal::SIGKILL, Signal::SIGTERM] {
            assert_next(&rig, false, "a first").await;
            assert_next(&rig, true, "a second").await;
            let workers = named("stockade:run");
            assert_eq!(workers.len(), 1);
            signal(workers[0], killer);
            // Dead, and not seen to be: nothing was to be read from it since.
            eventually("it to end", || named("stockade:run").is_empty()).await;
            let (_, result) = reused(&rig, entry("ends")).await;
            assert_eq!(result.outcome.verdict, Verdict::Completed, "{:?}", result.outcome);
            let _ = rig.run(entry("reads_outside")).await;
        }
        rig.end().await;
        assert!(children().is_empty());
    });
}

#[test]
fn figures_of_a_worker_that_lies_are_its_own_and_the_bill_is_the_kernels() {
    alone(async || {
        let rig = Rig::start().await;
        assert_next(&rig, false, "the first").await;
        let result = rig.run(entry("claim-wrong-figures")).await;
        assert_eq!(result.outcome.verdict, Verdict::Completed, "{:?}", result.outcome);
        let cpu_us = result.bill.cpu_user_us.unwrap();
        assert!(cpu_us < 1_000_000, "{cpu_us}");
        rig.end().await;
    });
}

#[test]
fn each_job_is_billed_for_its_own_share_of_the_process() {
    alone(async || {
        let rig = Rig::start().await;
        let spin = limited(shared(submission(SPIN)), Duration::from_millis(300), Duration::from_secs(5));
        assert_eq!(rig.run(spin).await.outcome.verdict, Verdict::TimedOut);
        let busy = shared(submission(
            r#"(module (func (export "busy") (local $left i64) (local.set $left (i64.const 300000000))
                 (loop $again
                   (local.set $left (i64.sub (local.get $left) (i64.const 1)))
                   (br_if $again (i64.ne (local.get $left) (i64.const 0)))))
               (func (export "idle")))"#,
        ));
        let job = |name: &str| {
            limited(Submission { entry: Some(name.to_owned()), ..busy.clone() }, PATIENCE, Duration::ZERO)
        };
        let _ = rig.run(job("idle")).await;
        let (mut idle, mut worked) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            for (name, bills) in [("busy", &mut worked), ("idle", &mut idle)] {
                let (reused, result) = reused(&rig, job(name)).await;
                assert!(reused, "{:?}", result.outcome);
                let bill = result.bill;
                let unknown =
                    [bill.cpu_system_us, bill.memory_peak_bytes, bill.page_faults, bill.teardown_us];
                assert_eq!(unknown, [None; 4], "of the process, and not of one job");
                bills.push(bill.cpu_user_us.unwrap());
            }
        }
        // What a busy job used is not on the bill of the idle one after it.
        assert!(idle.iter().max() < worked.iter().min(), "{idle:?} {worked:?}");
        rig.end().await;
    });
}

#[test]
fn no_byte_of_one_jobs_output_or_logs_is_found_in_the_next() {
    alone(async || {
        let rig = Rig::start().await;
        for (number, length) in [200_000, 3, 0, 65_536, 65_537, 1].into_iter().enumerate() {
            let byte = b'a' + u8::try_from(number).unwrap();
            let job = shared(Submission { input: vec![byte; length].into(), ..submission(CAT) });
            let (reused, result) = reused(&rig, job).await;
            assert_eq!(result.outcome.verdict, Verdict::Completed, "{:?}", result.outcome);
            assert_eq!(reused, number > 0);
            assert_eq!(result.output.0, vec![byte; length]);
            assert!(result.logs.stderr.0.iter().all(|found| *found == byte));
            assert_eq!(result.bill.log_bytes, Some(length as u64));
        }
        rig.end().await;
    });
}

#[test]
fn nothing_is_left_of_many_jobs_of_a_tenant() {
    alone(async || {
        let rig = Rig::start_with(rare(|config| config.pool.tenant_jobs_max = 50)).await;
        let crowd = async || {
            for _ in 0..20 {
                let jobs: Vec<_> = (0..10).map(|_| rig.submit(entry("ends"))).collect();
                for job in jobs {
                    assert_eq!(rig.result(&job).await.outcome.verdict, Verdict::Completed);
                }
            }
        };
        crowd().await;
        let most = open_fds() + 6 * 5;
        crowd().await;
        eventually("no descriptor more than the tenant workers have", || open_fds() <= most).await;
        assert!(statistics(&rig).tenant_workers <= 8, "{:?}", statistics(&rig));
        rig.end().await;
        assert!(children().is_empty());
    });
}
