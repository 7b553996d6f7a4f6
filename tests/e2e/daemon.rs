//! The daemon, as services and people use it.

use std::fs;
use std::process::Stdio;

use serde_json::Value;
use sha2::{Digest, Sha256};
use stockade::client::ClientError;
use stockade_wire::client::RefusalReason;
use stockade_wire::job::{ModuleSource, Verdict};

use crate::rig::{Daemon, Mode, Place, end_of, eventually, guest, ran, short_of, signal, submission, text};

in_both_modes!(
    submit_waits_and_reports_as_run_does,
    job_submitted_without_waiting_is_listed_followed_and_cancelled,
    fifty_jobs_at_once_on_several_connections_each_get_their_own_result,
    module_is_known_by_its_digest_once_it_was_submitted,
    result_that_is_not_kept_any_more_is_not_found,
    result_as_large_as_allowed_is_kept_and_older_ones_make_way,
    result_that_is_not_kept_at_all_is_had_by_whoever_waits_for_it,
    job_that_is_not_admitted_is_denied_with_the_reason,
    job_is_its_users_and_in_the_trace_it_was_given,
    queue_with_too_many_bytes_refuses_the_next,
);

fn submit_waits_and_reports_as_run_does(mode: Mode) {
    let daemon = Daemon::start(Place::new(mode));
    let echoed = daemon.submit_on(b"over the socket", &[], &guest("echo_stdin"), &[]);
    assert_eq!((echoed.short().as_str(), echoed.output()), ("completed - - - 0", "over the socket"));
    assert_eq!(echoed.figure("input_bytes"), 15);
    let run = daemon.place.run_on(b"over the socket", &[], &guest("echo_stdin"), &[]);
    let names = |result: &Value| result.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&echoed.result), names(&run.result));
    assert_eq!(echoed.result["module"], run.result["module"]);
    assert_eq!(daemon.submit(&[], &guest("unreachable")).short(), "trapped unreachable - guest 134");
    let plain = ran(daemon.place.stockade(["submit"]).arg(guest("echo_stdin")), b"plain");
    assert_eq!((plain.status, &plain.stdout[..], plain.stderr.as_str()), (Some(0), &b"plain"[..], ""));
    let exited = ran(daemon.place.stockade(["submit"]).arg(guest("exit_42")), b"");
    assert_eq!(exited.status, Some(42));
}

fn job_submitted_without_waiting_is_listed_followed_and_cancelled(mode: Mode) {
    let daemon = Daemon::start(Place::new(mode));
    let flood = guest("flood_stderr_lines");
    let detached = daemon.cli(&["submit", "--detach", flood.to_str().unwrap()]);
    assert_eq!(detached.status, Some(0), "{}", detached.stderr);
    let job = text(&detached.stdout).trim_end().to_owned();
    assert_eq!(job.len(), 26, "{job}");
    daemon.await_log(&job);
    let listed = || {
        let ran = daemon.cli(&["ps", "--json"]);
        serde_json::from_slice::<Value>(&ran.stdout).unwrap().as_array().unwrap().clone()
    };
    let running = listed();
    assert_eq!(running.len(), 1);
    assert_eq!([&running[0]["job"], &running[0]["phase"]], [job.as_str(), "running"]);
    assert_eq!(
        [&running[0]["name"], &running[0]["verdict"]],
        [&"flood_stderr_lines.wat".into(), &Value::Null]
    );
    let mut following = daemon.place.stockade(["logs", "-f", &job]);
    let following = following.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    assert_eq!(daemon.stats()["running"], 1);
    assert_eq!(daemon.cli(&["cancel", &job]).status, Some(0));
    assert_eq!(end_of(following).status, Some(0), "the log ends with the job");
    daemon.client().result(&job);
    let ended = &listed()[0];
    assert_eq!([&ended["phase"], &ended["verdict"]], ["finished", "cancelled"]);
    let again = daemon.cli(&["cancel", &job]);
    assert!(again.status == Some(1) && again.stderr.contains(&job), "{}", again.stderr);
    let table = text(&daemon.cli(&["ps"]).stdout);
    assert!(table.starts_with("JOB") && table.contains(&job) && table.contains("cancelled"), "{table}");
    let stats = daemon.stats();
    assert_eq!([&stats["accepted"], &stats["running"], &stats["verdicts"]["cancelled"]], [1, 0, 1]);
}

#[test]
fn submit_that_is_interrupted_ends_its_job() {
    let daemon = Daemon::start(Place::new(Mode::Jailed));
    let child = daemon.place.stockade(["submit", "--json"]).arg(guest("flood_stderr_lines")).spawn().unwrap();
    let mut client = daemon.client();
    let mut job = None;
    eventually("the job to be there", || {
        job = client.ask(async |client| client.list().await).unwrap().first().map(|one| one.job.clone());
        job.is_some()
    });
    daemon.await_log(&job.unwrap());
    signal(child.id(), nix::sys::signal::Signal::SIGINT);
    let ran = end_of(child);
    assert_eq!(ran.status, Some(137), "{}", ran.stderr);
    let result: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(result["outcome"]["verdict"], "cancelled");
}

fn fifty_jobs_at_once_on_several_connections_each_get_their_own_result(mode: Mode) {
    let daemon = Daemon::start(Place::new(mode));
    let mut clients: Vec<_> = (0..5).map(|_| daemon.client()).collect();
    let mut jobs = Vec::new();
    for n in 0..50 {
        let mut echo = submission("echo_stdin");
        echo.input = format!("input {n} ").repeat(500).into_bytes().into();
        jobs.push((clients[n % 5].submit(echo.clone()).unwrap(), echo.input));
    }
    for (n, (job, input)) in jobs.iter().enumerate() {
        // Asked for on another connection than it was submitted on.
        let result = clients[(n + 1) % 5].result(job);
        assert_eq!(short_of(&result), "completed - - -", "{n}");
        assert_eq!((&result.job, &result.output), (job, input), "{n}");
    }
    let stats = daemon.stats();
    assert_eq!([&stats["accepted"], &stats["verdicts"]["completed"], &stats["compiled"]], [50, 50, 1]);
    assert_eq!([&stats["running"], &stats["queued"]], [0, 0]);
}

fn module_is_known_by_its_digest_once_it_was_submitted(mode: Mode) {
    let daemon = Daemon::start(Place::new(mode));
    let mut client = daemon.client();
    let bytes = fs::read(guest("echo_stdin")).unwrap();
    let mut named = submission("echo_stdin");
    named.module = ModuleSource::Digest(Sha256::digest(&bytes).into());
    named.input = b"by digest".to_vec().into();
    match client.run(named.clone()) {
        Err(ClientError::Refused(refusal)) => {
            assert_eq!((refusal.reason, refusal.retry_after_ms), (RefusalReason::UnknownModule, None));
        }
        other => panic!("{other:?}"),
    }
    client.run(submission("echo_stdin")).unwrap();
    let result = client.run(named.clone()).unwrap();
    assert_eq!((result.outcome.verdict, result.output.0), (Verdict::Completed, b"by digest".to_vec()));
    // Counting fuel takes other code, which nobody has compiled.
    named.limits.fuel = Some(1 << 30);
    assert!(matches!(client.run(named), Err(ClientError::Refused(refusal))
        if refusal.reason == RefusalReason::UnknownModule));
}

fn result_that_is_not_kept_any_more_is_not_found(mode: Mode) {
    let daemon = Daemon::start(Place::new(mode).set("RESULTS_KEPT_MAX", "2"));
    let mut client = daemon.client();
    let jobs: Vec<String> = (0..3)
        .map(|_| {
            let job = client.submit(submission("nothing")).unwrap();
            client.result(&job);
            job
        })
        .collect();
    let asked = |job: &str| daemon.client().ask(async |client| client.result(job, false).await);
    assert!(matches!(asked(&jobs[0]), Err(ClientError::NotFound(_))), "the oldest is gone");
    assert!(jobs[1..].iter().all(|job| asked(job).unwrap().is_some()));
    assert_eq!(daemon.cli(&["logs", &jobs[0]]).status, Some(1));
    assert_eq!(daemon.cli(&["logs", &jobs[1]]).status, Some(0));
    let listed = client.ask(async |client| client.list().await).unwrap();
    assert_eq!(listed.iter().map(|job| &job.job).collect::<Vec<_>>(), [&jobs[1], &jobs[2]]);
}

fn result_as_large_as_allowed_is_kept_and_older_ones_make_way(mode: Mode) {
    let place = Place::new(mode)
        .set("CEILINGS_OUTPUT_BYTES", "16M")
        .set("CEILINGS_LOG_BYTES", "1M")
        .set("RESULTS_BYTES_MAX", "20M");
    let daemon = Daemon::start(place);
    let mut client = daemon.client();
    let mut wrote = |mib: u64| {
        let mut flood = submission("flood_stdout");
        flood.limits.output_bytes = Some(mib << 20);
        let job = client.submit(flood).unwrap();
        assert_eq!(client.result(&job).output.0.len() as u64, mib << 20);
        job
    };
    let there = |job: &str| match daemon.client().ask(async |client| client.result(job, false).await) {
        Ok(result) => result.is_some(),
        Err(ClientError::NotFound(_)) => false,
        Err(error) => panic!("{error}"),
    };
    let jobs = [8, 8, 8].map(&mut wrote);
    assert_eq!(jobs.each_ref().map(|job| there(job)), [false, true, true]);
    let largest = wrote(16);
    assert_eq!(jobs.each_ref().map(|job| there(job)), [false, false, false]);
    assert!(there(&largest));
}

fn result_that_is_not_kept_at_all_is_had_by_whoever_waits_for_it(mode: Mode) {
    for (setting, nothing) in [("RESULTS_KEPT_FOR", "0"), ("RESULTS_KEPT_MAX", "0")] {
        let place = Place::new(mode).set(setting, nothing);
        let here = place.run(&[], &guest("nothing"));
        assert_eq!(here.short(), "completed - - - 0", "{setting}: {}", here.stderr);
        let daemon = Daemon::start(place);
        let there = daemon.submit(&[], &guest("nothing"));
        assert_eq!(there.short(), "completed - - - 0", "{setting}: {}", there.stderr);
        let job = there.result["job"].as_str().unwrap();
        let asked = daemon.client().ask(async |client| client.result(job, false).await);
        assert!(matches!(asked, Err(ClientError::NotFound(_))), "{setting}: {asked:?}");
    }
}

fn job_that_is_not_admitted_is_denied_with_the_reason(mode: Mode) {
    let daemon = Daemon::start(Place::new(mode).set("CEILINGS_INPUT_BYTES", "1000"));
    let nothing = guest("nothing");
    let large = daemon.place.file("large", [0; 1001]);
    for (flags, reason) in [
        (&["--timeout", "11m"][..], "limit"),
        (&["--memory", "2G"], "limit"),
        (&["--profile", "unheard-of"], "unknown_profile"),
        (&["--input", large.to_str().unwrap()], "too_large"),
    ] {
        for ended in [daemon.submit(flags, &nothing), daemon.place.run(flags, &nothing)] {
            assert_eq!(ended.short(), format!("denied {reason} - operator 126"), "{flags:?}");
            assert_eq!([&ended.result["module"], &ended.result["bill"]["wall_us"]], [&Value::Null; 2]);
            assert_eq!(ended.result["outcome"]["retriable"], false);
            assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        }
    }
    let mut client = daemon.client();
    let mut nameless = submission("nothing");
    nameless.name.clear();
    assert!(matches!(client.submit(nameless), Err(ClientError::Refused(refusal))
        if refusal.reason == RefusalReason::Malformed));
    assert_eq!(client.run(submission("nothing")).unwrap().outcome.verdict, Verdict::Completed);
}

#[test]
fn job_that_requires_a_layer_which_is_not_there_is_denied() {
    let place = Place::new(Mode::Jailed).set("JAIL_NAMESPACES", "off");
    let ended = place.run(&["--require", "namespaces"], &guest("nothing"));
    assert_eq!(ended.short(), "denied missing_layer - operator 126");
    assert!(ended.message().contains("namespaces"), "{}", ended.message());
    assert_eq!(place.run(&["--require", "seccomp"], &guest("nothing")).short(), "completed - - - 0");
}

#[test]
fn queue_that_is_full_refuses_and_says_when_to_come_back() {
    for (setting, reason) in
        [("QUEUE_JOBS_MAX", "queue_full"), ("QUEUE_JOBS_PER_CALLER_MAX", "too_many_jobs")]
    {
        let place = Place::new(Mode::Jailed).set("POOL_WORKERS_MAX", "1").set("POOL_WARM", "1");
        let place =
            place.set("QUEUE_JOBS_MAX", "10").set("QUEUE_JOBS_PER_CALLER_MAX", "10").set(setting, "2");
        let place =
            if setting == "QUEUE_JOBS_MAX" { place.set("QUEUE_JOBS_PER_CALLER_MAX", "2") } else { place };
        let daemon = Daemon::start(place);
        let mut client = daemon.client();
        let jobs = [(); 2].map(|()| client.submit(submission("spin_forever")).unwrap());
        match client.submit(submission("nothing")) {
            Err(ClientError::Refused(refusal)) => {
                assert_eq!(stockade::supervisor::refusal_code(refusal.reason), reason);
                assert!(refusal.retry_after_ms > Some(0), "{refusal:?}");
            }
            other => panic!("{other:?}"),
        }
        let denied = daemon.submit(&[], &guest("nothing"));
        assert_eq!(denied.short(), format!("denied {reason} - operator 126"));
        assert_eq!(denied.result["outcome"]["retriable"], true);
        assert!(denied.message().contains("try again in"), "{}", denied.message());
        for job in &jobs {
            client.ask(async |client| client.cancel(job).await).unwrap();
            assert_eq!(client.result(job).outcome.verdict, Verdict::Cancelled);
        }
        let after = client.run(submission("nothing")).unwrap();
        assert_eq!(after.outcome.verdict, Verdict::Completed, "there is room again");
        assert_eq!(daemon.stats()["refused"], 2);
    }
}

fn queue_with_too_many_bytes_refuses_the_next(mode: Mode) {
    let daemon = Daemon::start(Place::new(mode).set("QUEUE_BYTES_MAX", "1M"));
    let mut client = daemon.client();
    let mut heavy = submission("spin_forever");
    heavy.input = vec![0; 600 << 10].into();
    let first = client.submit(heavy.clone()).unwrap();
    match client.submit(heavy) {
        Err(ClientError::Refused(refusal)) => {
            assert_eq!(refusal.reason, RefusalReason::QueueFull);
            assert!(refusal.retry_after_ms > Some(0) && refusal.message.contains("bytes"), "{refusal:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        client.run(submission("nothing")).unwrap().outcome.verdict,
        Verdict::Completed,
        "a light one fits"
    );
    client.ask(async |client| client.cancel(&first).await).unwrap();
    client.result(&first);
}

fn job_is_its_users_and_in_the_trace_it_was_given(mode: Mode) {
    let daemon = Daemon::start(Place::new(mode));
    let uid = nix::unistd::geteuid();
    let plain = daemon.submit(&[], &guest("nothing"));
    assert_eq!(
        [&plain.result["tenant"], &plain.result["trace_id"]],
        [&format!("uid:{uid}").into(), &Value::Null]
    );
    let named = daemon.submit(&["--tenant", "shop"], &guest("nothing"));
    assert_eq!(named.result["tenant"], format!("uid:{uid}/shop"));
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let mut traced = submission("nothing");
    traced.traceparent = Some(format!("00-{trace}-00f067aa0ba902b7-01"));
    assert_eq!(daemon.client().run(traced).unwrap().trace_id.as_deref(), Some(trace));
    eventually("the trace to be in the log", || daemon.log().contains(trace));
}
