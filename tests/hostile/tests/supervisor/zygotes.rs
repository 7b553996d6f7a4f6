//! Zygotes that die, hang or answer nonsense.

use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::Signal;
use nix::sys::time::TimeValLike;
use stockade_wire::job::Verdict;

use crate::circuit::{refused, rig_that_becomes, serves_again};
use crate::families::{children, signal, zombies, zygote};
use crate::rig::{Rig, SPIN, alone, config, eventually, honest, limited, submission};

/// A job that runs beside what is done to the zygote, and must not notice.
async fn bystander(rig: &Rig) -> String {
    let id = rig.submit(submission(SPIN));
    rig.running(&id).await;
    id
}

async fn assert_unhurt(rig: &Rig, bystander: &str) {
    rig.running(bystander).await;
    rig.cancel(bystander);
    assert_eq!(rig.result(bystander).await.outcome.verdict, Verdict::Cancelled);
}

#[test]
fn zygote_that_is_killed_is_replaced_and_no_job_notices() {
    alone(async || {
        let mut config = config();
        config.pool.restart_burst = 100;
        let rig = Rig::start_with(config).await;
        let bystander = bystander(&rig).await;
        for killed in 1..=5 {
            let before = zygote().unwrap();
            signal(before, Signal::SIGKILL);
            rig.assert_serves().await;
            eventually("another zygote", || zygote().is_some_and(|now| now != before)).await;
            assert_eq!(rig.supervisor.statistics().zygote_starts, 1 + killed);
        }
        assert_unhurt(&rig, &bystander).await;
        eventually("the dead to be reaped", || zombies().is_empty()).await;
        rig.end().await;
    });
}

#[test]
fn zygote_that_hangs_is_found_out_killed_and_replaced_and_jobs_wait_for_the_next() {
    alone(async || {
        let mut config = config();
        config.pool.warm = 0;
        let rig = Rig::start_with(config).await;
        let bystander = bystander(&rig).await;
        let hung = zygote().unwrap();
        signal(hung, Signal::SIGSTOP);
        let since = Instant::now();
        let jobs: Vec<_> = (0..3).map(|_| rig.submit(honest())).collect();
        for job in jobs {
            let outcome = &rig.result(&job).await.outcome;
            assert_eq!(outcome.verdict, Verdict::Completed, "{outcome:?}");
        }
        eprintln!("jobs of a zygote that hung completed after {:?}", since.elapsed());
        assert_ne!(zygote().unwrap(), hung);
        assert_eq!(rig.supervisor.statistics().zygote_starts, 2);
        assert_unhurt(&rig, &bystander).await;
        rig.end().await;
    });
}

#[test]
fn zygotes_that_die_at_once_are_started_a_few_times_and_then_jobs_are_refused() {
    alone(async || {
        let mut config = config();
        config.pool.warm = 2;
        config.pool.restart_burst = 3;
        config.pool.restart_window = Duration::from_secs(2);
        let rig = Rig::start_with(config).await;
        let bystander = bystander(&rig).await;
        rig.assert_serves().await;
        rig.executable.points_to("/bin/false".as_ref());
        signal(zygote().unwrap(), Signal::SIGKILL);
        let after = refused_with_workers_left(&rig).await;
        assert!(after <= Duration::from_secs(2), "{after:?}");
        // The first start, and what the burst allows.
        assert!(rig.supervisor.statistics().zygote_starts <= 1 + 3);
        let (cpu, since) = (own_cpu(), Instant::now());
        let _ = tokio::time::timeout(after, std::future::pending::<()>()).await;
        let used = own_cpu() - cpu;
        eprintln!("{used:?} of CPU time in {:?} of a crash loop", since.elapsed());
        assert!(used < Duration::from_millis(500), "{used:?}");
        rig.executable.becomes("stockade-hostile");
        serves_again(&rig).await;
        assert_unhurt(&rig, &bystander).await;
        rig.end().await;
    });
}

/// As `refused`, where jobs complete as long as there are idle workers.
async fn refused_with_workers_left(rig: &Rig) -> Duration {
    while let Ok(id) = rig.try_submit(honest()) {
        let outcome = &rig.result(&id).await.outcome;
        assert!(
            outcome.verdict == Verdict::Completed || outcome.reason.as_deref() == Some("no_worker"),
            "{outcome:?}"
        );
    }
    refused(rig).await
}

fn own_cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let micros = (usage.user_time() + usage.system_time()).num_microseconds();
    Duration::from_micros(u64::try_from(micros).unwrap())
}

#[test]
fn zygote_that_answers_nonsense_is_replaced_and_jobs_are_refused_until_one_does_its_work() {
    alone(async || {
        for name in ["garbage-zygote", "forgetful-zygote", "leaving-zygote", "refusing-zygote"] {
            let rig = rig_that_becomes(name).await;
            let after = refused(&rig).await;
            eprintln!("{name}: refused for {after:?}");
            rig.executable.becomes("stockade-hostile");
            if let Some(zygote) = zygote() {
                signal(zygote, Signal::SIGKILL);
            }
            serves_again(&rig).await;
            rig.end().await;
            assert!(children().is_empty(), "{name}");
        }
    });
}

#[test]
fn child_of_a_zygote_that_died_before_it_told_of_it_is_reaped() {
    alone(async || {
        let mut config = config();
        config.pool.restart_window = Duration::from_secs(1);
        let rig = Rig::start_with(config).await;
        let bystander = bystander(&rig).await;
        rig.assert_serves().await;
        rig.executable.becomes("vanishing-zygote");
        signal(zygote().unwrap(), Signal::SIGKILL);
        let refused = refused_with_workers_left(&rig).await;
        eprintln!("{} zombies, refused for {refused:?}", zombies().len());
        // The first, one that vanished, and one that was started because it had: it vanishes only if it has forked.
        assert!(rig.supervisor.statistics().zygote_starts >= 3);
        rig.executable.becomes("stockade-hostile");
        serves_again(&rig).await;
        eventually("the dead to be reaped", || zombies().is_empty()).await;
        assert_unhurt(&rig, &bystander).await;
        rig.end().await;
        assert!(children().is_empty());
    });
}

#[test]
fn job_whose_zygote_does_not_answer_ends_at_its_deadline() {
    alone(async || {
        let rig = rig_that_becomes("silent-zygote").await;
        let result = rig.run(limited(honest(), Duration::from_millis(300), Duration::ZERO)).await;
        assert_eq!(result.outcome.verdict, Verdict::TimedOut, "{:?}", result.outcome);
        assert_eq!(result.outcome.reason.as_deref(), Some("deadline_in_queue"));
        rig.end().await;
        assert!(children().is_empty());
    });
}
