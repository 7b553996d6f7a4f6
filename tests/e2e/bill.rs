//! The bill is the job's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use stockade_wire::job::{Phase, Verdict};

use crate::rig::{Daemon, Mode, Place, cpu_time, eventually, guest, submission, submission_of, within_ms};

/// More than a job that does nothing can use, even on a slow machine.
const LITTLE_US: u64 = 100_000;

/// CPU time the supervisor uses on other clients while the job sleeps, and least time the job sleeps.
const BURNT: Duration = Duration::from_millis(600);
const SLEPT: Duration = Duration::from_secs(1);

#[test]
fn supervisor_that_is_busy_does_not_show_in_the_bill_of_a_job_that_sleeps() {
    let daemon = Daemon::start(Place::new(Mode::Jailed));
    let mut client = daemon.client();
    let job = client.submit(within_ms(submission("sleep_one_hour"), 120_000)).unwrap();
    client.await_phase(&job, Phase::Running);
    let (since, before) = (Instant::now(), cpu_time(daemon.pid));
    let stop = Arc::new(AtomicBool::new(false));
    let hammers: Vec<_> = (0..4)
        .map(|_| {
            let (stop, mut client) = (Arc::clone(&stop), daemon.client());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    client.ask(async |client| client.statistics().await).unwrap();
                }
            })
        })
        .collect();
    eventually("the supervisor to have been busy", || {
        cpu_time(daemon.pid) >= before + BURNT && since.elapsed() >= SLEPT
    });
    // Until here it slept: all that was burnt was burnt while it ran.
    client.ask(async |client| client.cancel(&job).await).unwrap();
    let result = client.result(&job);
    stop.store(true, Ordering::Relaxed);
    hammers.into_iter().for_each(|hammer| hammer.join().unwrap());
    assert_eq!(result.outcome.verdict, Verdict::Cancelled, "{:?}", result.outcome);
    let bill = &result.bill;
    assert!(bill.run_us >= Some(u64::try_from(SLEPT.as_micros()).unwrap()), "{bill:?}");
    let cpu_us = bill.cpu_user_us.unwrap() + bill.cpu_system_us.unwrap();
    assert!(cpu_us < LITTLE_US, "the supervisor's {BURNT:?} show in the job's bill: {bill:?}");
}

#[test]
fn cpu_time_of_a_spinning_guest_is_what_it_was_allowed_and_no_more_than_it_ran() {
    let place = Place::new(Mode::Jailed);
    let ended = place.run(&["--cpu", "400ms", "--grace", "30s"], &guest("spin_forever"));
    assert_eq!(ended.short(), "timed_out cpu_time sigterm guest 124");
    let (cpu, run) = (ended.cpu_us(), ended.figure("run_us"));
    assert!((400_000..1_000_000).contains(&cpu), "{cpu}");
    assert!(ended.figure("cpu_user_us") > cpu / 2, "{}", ended.result["bill"]);
    // What it used before it had the job is in its CPU time, and not in its run time.
    assert!(cpu < run + LITTLE_US, "one thread: {cpu} {run}");
    assert!(ended.figure("wall_us") >= run);
}

#[test]
fn figures_of_two_jobs_at_once_are_each_its_own() {
    let daemon = Daemon::start(Place::new(Mode::Jailed));
    let mut client = daemon.client();
    let fills = "(module (memory 1024) (func (export \"_start\")
        (memory.fill (i32.const 0) (i32.const 1) (i32.const 67108864))))";
    let large = submission_of(fills, "fills");
    let mut spinning = submission("spin_forever");
    spinning.limits.cpu_us = Some(300_000);
    let mut echo = submission("echo_stdin");
    echo.input = vec![b'x'; 5000].into();
    let jobs = [large, spinning, echo].map(|job| client.submit(job).unwrap());
    let [large, spinning, echo] = jobs.map(|job| client.result(&job).bill);
    let cpu = |bill: &stockade_wire::job::Bill| bill.cpu_user_us.unwrap() + bill.cpu_system_us.unwrap();
    assert!(cpu(&spinning) >= 300_000 && cpu(&echo) < LITTLE_US, "{spinning:?} {echo:?}");
    assert!(large.memory_peak_bytes > Some(64 << 20), "{large:?}");
    assert!(spinning.memory_peak_bytes < Some(50 << 20) && echo.memory_peak_bytes < Some(50 << 20));
    let wasm = [&large, &spinning, &echo].map(|bill| bill.wasm_memory_peak_bytes);
    assert_eq!(wasm, [Some(64 << 20), Some(64 << 10), Some(128 << 10)]);
    assert_eq!([&large, &spinning, &echo].map(|bill| bill.output_bytes), [Some(0), Some(0), Some(5000)]);
    assert_eq!([&large, &spinning, &echo].map(|bill| bill.input_bytes), [Some(0), Some(0), Some(5000)]);
    assert!(large.page_faults > echo.page_faults, "{large:?} {echo:?}");
}

/// The figures that are null.
fn unknown(bill: &Value) -> Vec<&str> {
    let figures = bill.as_object().unwrap().iter();
    figures.filter(|(_, figure)| figure.is_null()).map(|(name, _)| name.as_str()).collect()
}

#[test]
fn figures_that_could_not_be_measured_are_null() {
    let place = Place::new(Mode::Jailed);
    // Standard input is handed over as it is: nobody counts what the guest reads of it.
    let unasked = ["fuel", "input_bytes", "teardown_us"];
    assert_eq!(unknown(&place.run(&[], &guest("nothing")).result["bill"]), unasked);
    let file = place.file("input", "");
    let input = ["--input", file.to_str().unwrap()];
    let metered = [&input[..], &["--fuel", "1000"]].concat();
    assert_eq!(unknown(&place.run(&metered, &guest("nothing")).result["bill"]), ["teardown_us"]);
    let awaited = Place::new(Mode::Jailed).set("POOL_UNAWAITED_BYTES_MAX", "0");
    assert!(unknown(&awaited.run(&metered, &guest("nothing")).result["bill"]).is_empty());
    let invalid = place.run(&input, &place.file("broken.wat", "(module (func"));
    let never_ran = unknown(&invalid.result["bill"]).len();
    assert_eq!(never_ran, 12, "wall, queue, compile, output and log are known: {}", invalid.result["bill"]);
    let in_process = Place::new(Mode::InProcess).run(&input, &guest("nothing"));
    assert_eq!(
        unknown(&in_process.result["bill"]),
        [
            "cpu_system_us",
            "cpu_user_us",
            "fork_us",
            "fuel",
            "memory_peak_bytes",
            "page_faults",
            "teardown_us"
        ],
        "no process of its own that the kernel counts for"
    );
}
