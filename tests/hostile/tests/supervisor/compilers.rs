//! Compilations that do not end, and who waits for them.

use std::time::Duration;

use stockade::supervisor::Caller;
use stockade_wire::job::{JobResult, ModuleSource, Submission, Verdict};

use crate::families::{compilers, resident_kib, zombies};
use crate::rig::{Executable, HONEST, PATIENCE, Rig, alone, config, eventually, limited, submission};

const GRACE: Duration = Duration::from_secs(1);

/// Compilations hang, one at a time, for longer than any test waits.
async fn hanging() -> Rig {
    let mut config = config();
    config.pool.warm = 0;
    config.pool.compilers_max = 1;
    config.compile.timeout = 10 * PATIENCE;
    Rig::start_from(Executable::named("hang-in-compile"), config).await.unwrap()
}

/// With time enough, and a module of its own.
fn job(number: usize) -> Submission {
    limited(submission(&format!("{HONEST} ;; {number}")), PATIENCE, GRACE)
}

fn assert_cancelled(result: &JobResult) {
    assert_eq!(result.outcome.verdict, Verdict::Cancelled, "{:?}", result.outcome);
}

#[test]
fn compiler_of_a_cancelled_job_is_killed_and_the_next_has_its_place() {
    alone(async || {
        let rig = hanging().await;
        let first = rig.submit(job(1));
        eventually("a compiler", || compilers().len() == 1).await;
        let hung = compilers();
        let second = rig.submit(job(2));
        rig.cancel(&first);
        assert_cancelled(&*rig.result(&first).await);
        eventually("the next compiler", || compilers().len() == 1 && compilers() != hung).await;
        eventually("the first one's end", || zombies().is_empty()).await;
        rig.cancel(&second);
        assert_cancelled(&*rig.result(&second).await);
        eventually("the end of both", || compilers().is_empty() && zombies().is_empty()).await;
        rig.end().await;
    });
}

#[test]
fn compiler_goes_on_while_somebody_waits_for_its_module() {
    alone(async || {
        let rig = hanging().await;
        let first = rig.submit(job(1));
        eventually("a compiler", || compilers().len() == 1).await;
        let hung = compilers();
        let second = rig.submit(job(1));
        // Another that comes to an end shows that the second has come as far as it can.
        let third = rig.submit(limited(job(3), Duration::from_millis(100), GRACE));
        assert_eq!(rig.result(&third).await.outcome.verdict, Verdict::TimedOut);
        rig.cancel(&first);
        assert_cancelled(&*rig.result(&first).await);
        let fourth = rig.submit(limited(job(4), Duration::from_millis(100), GRACE));
        assert_eq!(rig.result(&fourth).await.outcome.verdict, Verdict::TimedOut);
        assert_eq!(compilers(), hung);
        rig.cancel(&second);
        eventually("the compiler's end", || compilers().is_empty()).await;
        rig.end().await;
    });
}

#[test]
fn job_that_waits_for_a_compiler_past_its_deadline_is_timed_out() {
    alone(async || {
        let rig = hanging().await;
        let hung = rig.submit(job(1));
        eventually("a compiler", || compilers().len() == 1).await;
        let result = rig.run(limited(job(2), Duration::from_millis(200), GRACE)).await;
        let outcome = &result.outcome;
        assert_eq!(outcome.verdict, Verdict::TimedOut, "{outcome:?}");
        assert_eq!(outcome.reason.as_deref(), Some("deadline_in_queue"));
        assert!(result.bill.queue_us.unwrap() >= 200_000, "{:?}", result.bill);
        assert!(result.bill.compile_us.is_none_or(|us| us < 200_000), "{:?}", result.bill);
        rig.cancel(&hung);
        rig.end().await;
    });
}

#[test]
fn modules_of_cancelled_jobs_are_not_held() {
    const JOBS: usize = 25;
    const MODULE_BYTES: usize = 8 << 20;
    alone(async || {
        let rig = hanging().await;
        let hung = rig.submit(job(0));
        eventually("a compiler", || compilers().len() == 1).await;
        let before = resident_kib();
        for number in 1..=JOBS {
            let mut module = format!("{HONEST} ;; {number} ").into_bytes();
            module.resize(MODULE_BYTES, b'x');
            let submission = Submission { module: ModuleSource::Bytes(module.into()), ..job(number) };
            let id = rig.submit(submission);
            rig.cancel(&id);
            assert_cancelled(&*rig.result(&id).await);
        }
        let held = resident_kib().saturating_sub(before) << 10;
        eprintln!("{JOBS} modules of {MODULE_BYTES} bytes leave {held} bytes");
        assert!(held < 4 * MODULE_BYTES as u64, "{held} bytes are held");
        rig.cancel(&hung);
        rig.end().await;
    });
}

#[test]
fn user_with_one_job_does_not_wait_behind_another_with_many() {
    alone(async || {
        let mut config = config();
        config.pool.warm = 0;
        config.pool.compilers_max = 1;
        let rig = Rig::start_with(config).await;
        let of = |uid| Caller { uid, gid: uid, pid: 1 };
        let many: Vec<_> =
            (0..20).map(|number| rig.supervisor.submit(&of(4001), job(number)).unwrap()).collect();
        let one = rig.supervisor.submit(&of(4002), job(100)).unwrap();
        rig.result(&one).await;
        let over = many.iter().filter(|id| {
            use stockade::supervisor::Lookup;
            matches!(rig.supervisor.result(&Caller::own(), id), Some(Lookup::Finished(_)))
        });
        assert!(over.count() <= 5, "it had to wait for them");
        for id in many {
            rig.result(&id).await;
        }
        rig.end().await;
    });
}
