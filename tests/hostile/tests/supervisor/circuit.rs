//! Workers that fail again and again.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use stockade::config::Pool;
use stockade_wire::client::RefusalReason;
use stockade_wire::job::Verdict;

use crate::families::{signal, zygote};
use crate::rig::{Executable, PATIENCE, Rig, SPIN, alone, config, eventually, honest, limited, submission};

const WINDOW: Duration = Duration::from_secs(2);

/// In which so many failures lie on any machine.
const LONG_WINDOW: Duration = PATIENCE;

const FAILURES_MAX: u32 = 6;

/// A rig with compiled code and no idle worker, whose next workers come from the executable `name`.
pub async fn rig_that_becomes(name: &str) -> Rig {
    rig_that_becomes_with(name, |pool| pool.restart_window = WINDOW).await
}

/// The same with these settings.
async fn rig_that_becomes_with(name: &str, set: impl FnOnce(&mut Pool)) -> Rig {
    let mut config = config();
    config.pool.warm = 0;
    config.pool.worker_failures_max = FAILURES_MAX;
    set(&mut config.pool);
    let rig = Rig::start_from(Executable::named("stockade-hostile"), config).await.unwrap();
    rig.assert_serves().await;
    rig.executable.becomes(name);
    signal(zygote().unwrap(), Signal::SIGKILL);
    eventually("another zygote", || rig.supervisor.statistics().zygote_starts == 2).await;
    rig
}

/// Submits until it is refused, and returns how long it is to wait then.
pub async fn refused(rig: &Rig) -> Duration {
    let by = Instant::now() + PATIENCE;
    loop {
        match rig.try_submit(honest()) {
            Ok(id) => {
                let outcome = &rig.result(&id).await.outcome;
                assert_eq!(outcome.verdict, Verdict::Internal, "{outcome:?}");
                assert_eq!(outcome.reason.as_deref(), Some("no_worker"), "{outcome:?}");
            }
            Err(refusal) => {
                assert_eq!(refusal.reason, RefusalReason::Unavailable, "{refusal:?}");
                return Duration::from_millis(refusal.retry_after_ms.unwrap());
            }
        }
        assert!(Instant::now() < by, "never refused");
    }
}

/// Returns once jobs are taken and complete again.
pub async fn serves_again(rig: &Rig) {
    let by = Instant::now() + PATIENCE;
    loop {
        let ended = match rig.try_submit(honest()) {
            Ok(id) => rig.result(&id).await.outcome.verdict,
            Err(refusal) => {
                let after = Duration::from_millis(refusal.retry_after_ms.unwrap());
                assert!(after <= 2 * WINDOW, "{refusal:?}");
                let _ = tokio::time::timeout(after, std::future::pending::<()>()).await;
                continue;
            }
        };
        if ended == Verdict::Completed {
            return;
        }
        assert!(Instant::now() < by, "no job completes");
    }
}

#[test]
fn workers_that_die_before_their_lock_open_the_circuit_until_its_window_is_over() {
    alone(async || {
        let rig = rig_that_becomes_with("die-before-lock", |pool| pool.restart_window = 2 * WINDOW).await;
        let after = refused(&rig).await;
        assert!(after <= 2 * WINDOW, "{after:?}");
        let forks = rig.supervisor.statistics().forks;
        // 2 went well, and a job tries twice.
        assert!(forks <= 2 + u64::from(FAILURES_MAX) + 1, "{forks} forks");
        rig.executable.becomes("stockade-hostile");
        signal(zygote().unwrap(), Signal::SIGKILL);
        serves_again(&rig).await;
        rig.end().await;
    });
}

/// That it closes again is up to the window alone, whatever the failures were.
#[test]
fn workers_that_hang_before_their_lock_open_the_circuit() {
    alone(async || {
        for name in ["hang-before-lock", "hang-before-report"] {
            let rig = rig_that_becomes_with(name, |pool| {
                pool.restart_window = LONG_WINDOW;
                // Those that do not hang have it, too.
                pool.lock_timeout = Duration::from_secs(2);
            })
            .await;
            // They wait at the same time.
            let jobs: Vec<_> = (0..FAILURES_MAX).map(|_| rig.submit(honest())).collect();
            for job in jobs {
                let outcome = &rig.result(&job).await.outcome;
                assert_eq!(outcome.reason.as_deref(), Some("no_worker"), "{name}: {outcome:?}");
            }
            let refusal = rig.try_submit(honest()).unwrap_err();
            assert_eq!(refusal.reason, RefusalReason::Unavailable, "{name}: {refusal:?}");
            // 2 went well.
            assert_eq!(rig.supervisor.statistics().forks, 2 + u64::from(FAILURES_MAX), "{name}");
            rig.end().await;
        }
    });
}

#[test]
fn open_circuit_does_not_touch_jobs_that_have_their_worker() {
    alone(async || {
        let rig = rig_that_becomes_with("stockade-hostile", |pool| pool.restart_window = LONG_WINDOW).await;
        rig.assert_serves().await;
        let running = rig.submit(limited(submission(SPIN), 2 * PATIENCE, Duration::from_secs(1)));
        rig.running(&running).await;
        let zygotes = rig.supervisor.statistics().zygote_starts;
        rig.executable.becomes("die-before-lock");
        signal(zygote().unwrap(), Signal::SIGKILL);
        eventually("another zygote", || rig.supervisor.statistics().zygote_starts > zygotes).await;
        refused(&rig).await;
        rig.cancel(&running);
        assert_eq!(rig.result(&running).await.outcome.verdict, Verdict::Cancelled);
        rig.end().await;
    });
}
