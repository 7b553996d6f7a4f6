//! Supervisors that are asked to end.

use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::family::Family;
use crate::rig::{Daemon, PATIENCE, SPIN, eventually, file, laborious, send, stockade};

/// A job that is cut short by the drain, as its client sees it.
const DRAINED: (&str, &str) = ("cancelled", "drain");

#[test]
fn daemon_asked_to_stop_ends_jobs_in_time_and_exits_last() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon =
            Daemon::start(&[("STOCKADE_CLIENTS_DRAIN_TIMEOUT", "300ms"), ("STOCKADE_POOL_WARM", "2")]);
        let spinning = daemon.submit(SPIN, &["--timeout", "10m"]);
        Family::of(daemon.pid(), &[("stockade:run", 3)]).wait_for_guests(1);
        let compiling = daemon.submit(&laborious(), &[]);
        let family = Family::of(daemon.pid(), &[("stockade:run", 3), ("stockade:wasmc", 1)]);
        let since = Instant::now();
        daemon.signal(signal);
        let status = daemon.end();
        let living: Vec<_> = family.living().into_iter().map(|member| &member.name).collect();
        assert!(living.is_empty(), "{signal}: outlived by {living:?}");
        assert!(status.success(), "{signal}: {status}");
        assert!(since.elapsed() >= Duration::from_millis(300), "{signal}: jobs were not given their time");
        println!("{signal}: ended after {:?}", since.elapsed());
        for client in [spinning, compiling] {
            let (verdict, reason) = client.outcome();
            assert_eq!((verdict.as_str(), reason.as_str()), DRAINED);
        }
    }
}

#[test]
fn daemon_asked_twice_does_not_wait() {
    let mut daemon = Daemon::start(&[("STOCKADE_CLIENTS_DRAIN_TIMEOUT", "1h")]);
    let spinning = daemon.submit(SPIN, &["--timeout", "10m"]);
    let family = Family::of(daemon.pid(), &[("stockade:run", 1)]);
    family.wait_for_guests(1);
    daemon.signal(Signal::SIGTERM);
    eventually("draining to begin", || !daemon.directory.path().join("socket").exists());
    let since = Instant::now();
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.end().success());
    assert!(since.elapsed() < PATIENCE);
    assert!(family.living().is_empty());
    let (verdict, reason) = spinning.outcome();
    assert_eq!((verdict.as_str(), reason.as_str()), DRAINED);
}

#[test]
fn idle_daemon_asked_to_stop_is_gone_with_its_workers() {
    let mut daemon = Daemon::start(&[("STOCKADE_POOL_WARM", "3")]);
    let family = Family::of(daemon.pid(), &[("stockade:run", 3)]);
    let since = Instant::now();
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.end().success());
    println!("idle daemon ended after {:?}", since.elapsed());
    assert!(family.living().is_empty());
}

#[test]
fn run_asked_to_stop_cancels_its_job_and_leaves_nothing() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let directory = TempDir::new().unwrap();
        let module = file(&directory, "spin.wat", SPIN);
        let run = stockade(&directory)
            .args(["run", "--json", "--timeout", "10m"])
            .arg(module)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let family = Family::of(run.id(), &[("stockade:run", 1)]);
        family.wait_for_guests(1);
        send(&run, signal);
        let output = run.wait_with_output().unwrap();
        assert!(family.living().is_empty());
        println!("{signal}: {}", String::from_utf8_lossy(&output.stderr));
        let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(result["outcome"]["verdict"], "cancelled", "{result}");
        assert_eq!(output.status.code(), Some(137));
    }
}
