//! Deadlines and cancellations against workers that do not want to end.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use stockade::supervisor::Caller;
use stockade_wire::job::{JobResult, Stage, Verdict};

use crate::families::{signal, workers};
use crate::rig::{PATIENCE, Rig, SPIN, alone, config, hostile, limited, submission};

/// Long enough for a worker to begin to misbehave on a machine where everything else waits for the processor, too.
const TIMEOUT: Duration = Duration::from_millis(500);
const GRACE: Duration = Duration::from_millis(100);

/// On a machine where everything else waits for the processor too. What is usual is printed.
const LATE_MAX: Duration = Duration::from_secs(5);

/// A rig that forks nothing but the worker of the job at hand, with the module compiled.
async fn rig() -> Rig {
    let mut config = config();
    config.pool.warm = 0;
    let rig = Rig::start_with(config).await;
    rig.assert_serves().await;
    rig
}

#[track_caller]
fn assert_timed_out(result: &JobResult, reason: &str, stage: Stage) {
    let outcome = &result.outcome;
    assert_eq!(outcome.verdict, Verdict::TimedOut, "{outcome:?}");
    assert_eq!((outcome.reason.as_deref(), outcome.stage), (Some(reason), Some(stage)), "{outcome:?}");
}

fn print_late(what: &str, late: &mut [Duration]) {
    late.sort_unstable();
    let (first, middle, last) = (late[0], late[late.len() / 2], late[late.len() - 1]);
    eprintln!("{what}: late by {first:?} at best, {middle:?} in the middle, {last:?} at worst");
    assert!(last < LATE_MAX);
}

#[test]
fn worker_that_ignores_sigterm_is_gone_when_its_grace_is_over() {
    alone(async || {
        let rig = rig().await;
        let mut late = Vec::new();
        for _ in 0..5 {
            let since = Instant::now();
            let result = rig.run(limited(hostile("ignore-sigterm"), TIMEOUT, GRACE)).await;
            let took = since.elapsed();
            assert_timed_out(&result, "sigkill_after_grace", Stage::Sigkill);
            late.push(took - TIMEOUT - config().kill.epoch_head_start - GRACE);
            assert!(workers().is_empty());
        }
        print_late("worker that ignores SIGTERM, after head start and grace", &mut late);
        rig.end().await;
    });
}

#[test]
fn worker_that_replies_at_sigterm_and_stays_is_gone_when_its_grace_is_over() {
    alone(async || {
        let rig = rig().await;
        let grace = 3 * GRACE;
        // Within the grace, unless the machine is so busy that it comes too late; then it is another's test.
        let entry = format!("reply-late:{}", (TIMEOUT + GRACE).as_millis());
        let mut replied = false;
        for _ in 0..10 {
            let result = rig.run(limited(hostile(&entry), TIMEOUT, grace)).await;
            assert_timed_out(&result, "sigkill_after_grace", Stage::Sigkill);
            assert_eq!(result.exit_code, None, "a worker that had to be killed is not believed");
            let log = String::from_utf8_lossy(&result.logs.stderr.0);
            assert_eq!(log, "", "its reply must not buy it time");
            assert!(workers().is_empty());
            replied = result.bill.teardown_us.is_some();
            if replied {
                break;
            }
        }
        assert!(replied, "it never came to reply");
        rig.end().await;
    });
}

#[test]
fn native_loop_ends_at_sigterm_long_before_its_grace_is_over() {
    alone(async || {
        let rig = rig().await;
        for entry in ["spin", "sleep"] {
            let since = Instant::now();
            let result = rig.run(limited(hostile(entry), TIMEOUT, 2 * LATE_MAX)).await;
            assert_timed_out(&result, "sigterm_after_deadline", Stage::Sigterm);
            assert!(since.elapsed() < TIMEOUT + LATE_MAX);
        }
        rig.end().await;
    });
}

#[test]
fn guest_that_never_returns_ends_at_its_deadline() {
    alone(async || {
        let rig = rig().await;
        let mut late = Vec::new();
        for _ in 0..10 {
            let since = Instant::now();
            let result = rig.run(limited(submission(SPIN), TIMEOUT, 2 * LATE_MAX)).await;
            // The first is compiled first, which stops the clock of the deadline.
            let compiled = Duration::from_micros(result.bill.compile_us.unwrap());
            late.push((since.elapsed() - compiled).saturating_sub(TIMEOUT));
            assert_eq!(result.outcome.verdict, Verdict::TimedOut);
            // A busy machine may let the head start pass before the guest sees its epoch.
            assert!(matches!(result.outcome.stage, Some(Stage::Epoch | Stage::Sigterm)), "{result:?}");
        }
        print_late("guest that never returns", &mut late);
        rig.end().await;
    });
}

#[test]
fn stopped_worker_is_continued_to_see_its_sigterm() {
    alone(async || {
        let rig = rig().await;
        for (job, misbehaves) in [(hostile("sleep"), true), (submission(SPIN), false)] {
            let id = rig.submit(limited(job, 4 * TIMEOUT, 2 * LATE_MAX));
            rig.running(&id).await;
            if misbehaves {
                rig.begun(&id).await;
            }
            signal(workers()[0], Signal::SIGSTOP);
            let since = Instant::now();
            let result = rig.result(&id).await;
            assert_timed_out(&result, "sigterm_after_deadline", Stage::Sigterm);
            assert!(since.elapsed() < 4 * TIMEOUT + LATE_MAX);
        }
        rig.end().await;
    });
}

#[test]
fn stopped_worker_that_ignores_sigterm_is_gone_when_its_grace_is_over() {
    alone(async || {
        let rig = rig().await;
        let id = rig.submit(limited(hostile("ignore-sigterm"), 4 * TIMEOUT, GRACE));
        rig.begun(&id).await;
        signal(workers()[0], Signal::SIGSTOP);
        let result = rig.result(&id).await;
        assert_timed_out(&result, "sigkill_after_grace", Stage::Sigkill);
        assert!(workers().is_empty());
        rig.end().await;
    });
}

#[test]
fn idle_worker_that_was_stopped_does_not_hold_its_job_past_the_deadline() {
    alone(async || {
        let mut config = config();
        config.pool.warm = 1;
        let rig = Rig::start_with(config).await;
        let idle = workers();
        idle.iter().for_each(|worker| signal(*worker, Signal::SIGSTOP));
        let id = rig.submit(limited(hostile("spin"), TIMEOUT, GRACE));
        let result = rig.result(&id).await;
        assert_eq!(result.outcome.verdict, Verdict::TimedOut);
        rig.assert_serves().await;
        rig.end().await;
    });
}

#[test]
fn cancelled_worker_ends_on_the_same_ladder() {
    alone(async || {
        let rig = rig().await;
        for (job, misbehaves, stage) in [
            (submission(SPIN), false, Stage::Sigterm),
            (hostile("spin"), true, Stage::Sigterm),
            (hostile("ignore-sigterm"), true, Stage::Sigkill),
        ] {
            let id = rig.submit(limited(job, 12 * LATE_MAX, GRACE));
            rig.running(&id).await;
            if misbehaves {
                rig.begun(&id).await;
            }
            let since = Instant::now();
            rig.cancel(&id);
            let outcome = &rig.result(&id).await.outcome;
            assert_eq!((outcome.verdict, outcome.stage), (Verdict::Cancelled, Some(stage)), "{outcome:?}");
            assert!(since.elapsed() < GRACE + LATE_MAX);
        }
        rig.end().await;
    });
}

#[test]
fn worker_that_floods_its_log_ends_at_its_deadline_and_holds_nobody_up() {
    alone(async || {
        let mut config = config();
        config.pool.warm = 2;
        let rig = Rig::start_with(config).await;
        rig.assert_serves().await;
        let quiet = median_of_honest(&rig).await;
        let since = Instant::now();
        let flood = rig.submit(limited(hostile("flood-stderr"), 10 * TIMEOUT, GRACE));
        rig.running(&flood).await;
        let loud = median_of_honest(&rig).await;
        let result = rig.result(&flood).await;
        assert_timed_out(&result, "sigterm_after_deadline", Stage::Sigterm);
        assert!(since.elapsed() < 10 * TIMEOUT + LATE_MAX);
        let mib = result.logs.dropped_bytes >> 20;
        eprintln!("job beside a flood of {mib} MiB: {loud:?}, without it {quiet:?}");
        assert!(loud < LATE_MAX);
        rig.end().await;
    });
}

/// What a job has logged so far: with so small a ring, all that is left of it is one part.
fn logged(rig: &Rig, id: &str) -> u64 {
    let mut logs = rig.supervisor.logs(&Caller::own(), id).unwrap();
    logs.now().map_or(0, |part| part.skipped_bytes + part.bytes.len() as u64)
}

#[test]
fn flood_of_writes_of_any_size_lets_the_supervisors_other_tasks_have_their_turns() {
    /// What the supervisor reads of one job at a time, twice, since two reads of 64 KiB may just fit, and again twice,
    /// since a task may be looked at between any two of them.
    const BETWEEN_TURNS_BYTES_MAX: u64 = 4 * (64 << 10);
    const FLOOD_BYTES: u64 = 64 << 20;
    alone(async || {
        let rig = rig().await;
        for bytes in [100, 2500, 3000, 4096, 5000, 65_536] {
            let mut job = limited(hostile(&format!("flood-stderr:{bytes}")), PATIENCE, GRACE);
            job.limits.log_bytes = Some(4096);
            let id = rig.submit(job);
            let (mut seen, mut most, mut turns) = (0, 0, 0_u64);
            while seen < FLOOD_BYTES / if bytes < 1000 { 16 } else { 1 } {
                tokio::task::yield_now().await;
                let now = logged(&rig, &id);
                most = most.max(now - seen);
                turns += 1;
                seen = now;
            }
            rig.cancel(&id);
            assert_eq!(rig.result(&id).await.outcome.verdict, Verdict::Cancelled);
            eprintln!("writes of {bytes}: {turns} turns, at most {most} bytes between two");
            assert!(most <= BETWEEN_TURNS_BYTES_MAX, "{most} bytes of {bytes} each between two turns");
        }
        rig.end().await;
    });
}

async fn median_of_honest(rig: &Rig) -> Duration {
    let mut times = Vec::new();
    for _ in 0..11 {
        let since = Instant::now();
        rig.assert_serves().await;
        times.push(since.elapsed());
    }
    times.sort_unstable();
    times[times.len() / 2]
}
