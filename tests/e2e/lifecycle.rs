//! How a daemon begins and ends, and what it leaves behind.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use stockade::client::ClientError;
use stockade_wire::client::RefusalReason;
use stockade_wire::job::{Phase, Verdict};

use crate::rig::{
    Daemon, Mode, Place, children, eventually, guest, ran, short_of, signal, submission, within_ms,
};

in_both_modes!(
    daemon_told_to_stop_lets_running_jobs_end_and_leaves_nothing,
    daemon_told_twice_to_stop_ends_its_jobs_at_once,
    second_daemon_is_refused_and_harms_nothing,
    compiled_modules_outlive_the_daemon,
    compiled_module_that_was_tampered_with_is_compiled_again,
);

fn exists(pid: u32) -> bool {
    PathBuf::from(format!("/proc/{pid}")).exists()
}

fn daemon_told_to_stop_lets_running_jobs_end_and_leaves_nothing(mode: Mode) {
    let daemon = Daemon::start(Place::new(mode));
    let mut client = daemon.client();
    let mut late = daemon.client();
    // Ends well, by itself, after the daemon was told to stop.
    let mut slow = within_ms(submission("spin_forever"), 60_000);
    slow.limits.cpu_us = Some(700_000);
    let mut family = Vec::new();
    let result = client.ask(async |client| {
        let ticket = client.submit_and_wait(slow).await.unwrap();
        while client.list().await.unwrap()[0].phase != Phase::Running {}
        family = children(daemon.pid);
        daemon.signal(Signal::SIGTERM);
        client.finished(&ticket).await.unwrap()
    });
    assert_eq!(result.outcome.reason.as_deref(), Some("cpu_time"), "it had its time: {:?}", result.outcome);
    assert_eq!(family.is_empty(), mode == Mode::InProcess, "a zygote and a worker, or neither");
    drop(client);
    // Connections from before are answered, and closed once there is nothing left to wait for.
    match late.submit(submission("nothing")) {
        Err(ClientError::Refused(refusal)) => assert_eq!(refusal.reason, RefusalReason::Draining),
        Err(ClientError::Closed | ClientError::Io(_)) => {}
        other => panic!("{other:?}"),
    }
    let (status, log, place) = daemon.end();
    assert_eq!(status, Some(0), "{log}");
    assert!(!family.iter().any(|pid| exists(*pid)), "no process is left of {family:?}");
    assert!(!place.path("socket").exists() && !place.path("socket.lock").exists(), "nor a socket");
    assert!(log.contains("stopped"), "{log}");
}

#[test]
fn result_from_before_a_restart_is_gone_and_the_client_says_what_to_do() {
    let daemon = Daemon::start(Place::new(Mode::Jailed));
    let mut client = daemon.client();
    let job = client.submit(submission("nothing")).unwrap();
    assert_eq!(client.result(&job).outcome.verdict, Verdict::Completed);
    drop(client);
    let daemon = Daemon::start(daemon.stop());
    for command in ["logs", "cancel"] {
        let ran = daemon.cli(&[command, &job]);
        assert_eq!(ran.status, Some(1), "{command}: {}", ran.stderr);
        assert!(
            ran.stderr.contains("the daemon has been restarted since; submit it again"),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn client_that_waits_when_the_daemon_dies_is_told_to_submit_again() {
    let daemon = Daemon::start(Place::new(Mode::Jailed));
    let waiting = daemon.place.stockade(["submit"]).arg(guest("spin_forever")).spawn().unwrap();
    let mut client = daemon.client();
    eventually("the job to run", || {
        let jobs = client.ask(async |client| client.list().await).unwrap();
        jobs.iter().any(|job| job.phase == Phase::Running)
    });
    daemon.signal(Signal::SIGKILL);
    let ran = crate::rig::end_of(waiting);
    assert_eq!(ran.status, Some(125), "{}", ran.stderr);
    assert!(ran.stderr.contains("submit again"), "{}", ran.stderr);
    daemon.end();
}

#[test]
fn doctor_and_run_agree_about_a_cache_that_cannot_be_used() {
    let place = Place::new(Mode::Jailed);
    let key = place.file("key", "short");
    for (name, value, words) in [
        ("CACHE_DIRECTORY", "/dev/null/cache", "in the artifact cache; set cache.directory"),
        ("CACHE_KEY_FILE", key.to_str().unwrap(), "the artifact cache's key"),
    ] {
        let place = place.clone().set(name, value);
        let (doctor, run) = (
            ran(&mut place.stockade(["doctor"]), b""),
            ran(place.stockade(["run"]).arg(guest("nothing")), b""),
        );
        assert_eq!((doctor.status, run.status), (Some(1), Some(125)), "{name}: {}", run.stderr);
        let said = String::from_utf8_lossy(&doctor.stdout);
        assert!(said.contains("the cache cannot be used: stockade will not run jobs here"), "{said}");
        assert!(said.contains(words) && run.stderr.contains(words), "{said}: {}", run.stderr);
    }
}

#[test]
fn job_offered_to_a_daemon_that_stops_is_denied() {
    let daemon = Daemon::start(Place::new(Mode::Jailed));
    let (mut client, mut other) = (daemon.client(), daemon.client());
    let job = client.submit(submission("spin_forever")).unwrap();
    client.await_phase(&job, Phase::Running);
    daemon.signal(Signal::SIGTERM);
    eventually("the socket to be gone", || !daemon.socket().exists());
    match other.submit(submission("nothing")) {
        Err(ClientError::Refused(refusal)) => {
            assert_eq!((refusal.reason, refusal.retry_after_ms), (RefusalReason::Draining, None));
        }
        other => panic!("{other:?}"),
    }
    let gone = daemon.cli(&["ps"]);
    assert!(gone.status == Some(1) && gone.stderr.contains("no daemon listens"), "{}", gone.stderr);
    client.ask(async |client| client.cancel(&job).await).unwrap();
    assert_eq!(daemon.end().0, Some(0));
}

fn daemon_told_twice_to_stop_ends_its_jobs_at_once(mode: Mode) {
    let daemon = Daemon::start(Place::new(mode));
    let mut client = daemon.client();
    let result = client.ask(async |client| {
        let ticket = client.submit_and_wait(submission("spin_forever")).await.unwrap();
        while client.list().await.unwrap()[0].phase != Phase::Running {}
        daemon.signal(Signal::SIGTERM);
        // Two signals before the first is seen are one: the socket goes when it is.
        while daemon.socket().exists() {
            tokio::task::yield_now().await;
        }
        daemon.signal(Signal::SIGTERM);
        client.finished(&ticket).await.unwrap()
    });
    assert!(short_of(&result).starts_with("cancelled drain"), "{:?}", result.outcome);
    let (status, log, _) = daemon.end();
    assert_eq!(status, Some(0), "{log}");
    assert!(log.contains("told to stop again"), "{log}");
}

fn second_daemon_is_refused_and_harms_nothing(mode: Mode) {
    let daemon = Daemon::start(Place::new(mode));
    let second = ran(&mut daemon.place.stockade(["serve"]), b"");
    assert_eq!(second.status, Some(125));
    assert!(second.stderr.contains("already serves"), "{}", second.stderr);
    assert!(second.stderr.contains(&daemon.pid.to_string()), "{}", second.stderr);
    assert_eq!(daemon.submit(&[], &guest("nothing")).short(), "completed - - - 0");
    daemon.stop();
}

#[test]
fn daemon_that_is_killed_leaves_no_process_and_its_socket_is_replaced() {
    let daemon = Daemon::start(Place::new(Mode::Jailed));
    let mut client = daemon.client();
    let job = client.submit(submission("spin_forever")).unwrap();
    client.await_phase(&job, Phase::Running);
    let family = children(daemon.pid);
    assert!(family.len() >= 2, "a zygote and a worker: {family:?}");
    signal(daemon.pid, Signal::SIGKILL);
    // Its standard error is open as long as any of them lives.
    let (status, _, place) = daemon.end();
    assert_eq!(status, None);
    eventually("all of them to be gone", || !family.iter().any(|pid| exists(*pid)));
    assert!(fs::metadata(place.path("socket")).unwrap().file_type().is_socket());
    let next = Daemon::start(place);
    assert_eq!(next.submit(&[], &guest("nothing")).short(), "completed - - - 0");
    next.stop();
}

#[test]
fn worker_that_dies_idle_is_replaced() {
    let daemon = Daemon::start(Place::new(Mode::Jailed).set("POOL_WARM", "2"));
    let warm = || children(daemon.pid)[1..].to_vec();
    eventually("two warm workers", || warm().len() == 2 && daemon.stats()["warm"] == 2);
    let dead = warm();
    dead.iter().for_each(|pid| signal(*pid, Signal::SIGKILL));
    assert_eq!(daemon.submit(&[], &guest("nothing")).short(), "completed - - - 0");
    eventually("two others", || {
        let now = warm();
        now.len() == 2 && !now.iter().any(|pid| dead.contains(pid))
    });
}

/// A place whose cache has one module in it.
fn place_with_one_artifact(mode: Mode) -> (Place, PathBuf) {
    let daemon = Daemon::start(Place::new(mode));
    assert_eq!(daemon.submit(&[], &guest("echo_stdin")).short(), "completed - - - 0");
    assert_eq!(daemon.stats()["compiled"], 1);
    let mut found = Vec::new();
    eventually("the module to be on disk", || {
        found = daemon.place.artifacts();
        found.len() == 1
    });
    (daemon.stop(), found.remove(0))
}

/// How many modules a new daemon in `place` compiles for one job of the one that is cached.
fn compiled_anew(place: Place) -> (u64, Daemon) {
    let daemon = Daemon::start(place);
    let ended = daemon.submit_on(b"cached?", &[], &guest("echo_stdin"), &[]);
    assert_eq!((ended.short().as_str(), ended.output()), ("completed - - - 0", "cached?"));
    (daemon.stats()["compiled"].as_u64().unwrap(), daemon)
}

fn compiled_modules_outlive_the_daemon(mode: Mode) {
    let (place, _) = place_with_one_artifact(mode);
    let (compiled, daemon) = compiled_anew(place);
    assert_eq!(compiled, 0);
    assert_eq!(daemon.stats()["cache_hits"], 1);
}

fn compiled_module_that_was_tampered_with_is_compiled_again(mode: Mode) {
    let (mut place, artifact) = place_with_one_artifact(mode);
    let whole = fs::read(&artifact).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for spoilt in [flipped, whole[..whole.len() - 1].to_vec(), Vec::new()] {
        fs::write(&artifact, &spoilt).unwrap();
        let (compiled, daemon) = compiled_anew(place);
        assert_eq!(compiled, 1);
        eventually("the log to say so", || daemon.log().contains("not authentic"));
        eventually("it to be there again", || fs::read(&artifact).is_ok_and(|now| now.len() == whole.len()));
        place = daemon.stop();
    }
    assert_eq!(compiled_anew(place).0, 0);
}

#[test]
fn job_that_ends_well_during_the_drain_is_completed() {
    let daemon = Daemon::start(Place::new(Mode::Jailed));
    let mut client = daemon.client();
    let mut burning = within_ms(submission("burn_fuel"), 60_000);
    burning.limits.fuel = None;
    let result = client.ask(async |client| {
        let ticket = client.submit_and_wait(burning).await.unwrap();
        while client.list().await.unwrap()[0].phase != Phase::Running {}
        daemon.signal(Signal::SIGTERM);
        client.finished(&ticket).await.unwrap()
    });
    assert_eq!(result.outcome.verdict, Verdict::Completed);
    assert_eq!(daemon.end().0, Some(0));
}
