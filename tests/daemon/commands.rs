//! The commands that speak to a daemon, as a person runs them.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stockade_wire::client::{FromDaemon, ToDaemon};
use stockade_wire::frame;
use stockade_wire::limits::HELLO_FRAME_BYTES_MAX;

use crate::jobs::{ANOTHERS_JOB, FLOOD_PIECE_BYTES};
use crate::rig::{Daemon, eventually, limits};

fn stockade<S: AsRef<OsStr>>(daemon: &Daemon, arguments: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stockade"));
    command.env_clear().args(arguments).arg("--socket").arg(daemon.socket());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// `submit` with its flags; here the file's name is what the job does.
fn submit(daemon: &Daemon, flags: &[&str], name: &str, input: &[u8]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stockade"));
    command.env_clear().arg("--socket").arg(daemon.socket()).arg("submit").args(flags);
    command.arg(module(daemon, name)).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child
}

fn module(daemon: &Daemon, name: &str) -> PathBuf {
    let path = daemon.directory().join(name);
    std::fs::write(&path, "(module)").unwrap();
    path
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn submit_prints_the_output_and_exits_as_the_job() {
    let daemon = Daemon::start(limits());
    let ended = submit(&daemon, &[], "echo", b"from the \xff guest").wait_with_output().unwrap();
    assert_eq!((status(&ended), &ended.stdout[..]), (0, &b"from the \xff guest"[..]));
    assert!(ended.stderr.is_empty(), "{}", text(&ended.stderr));
}

#[test]
fn command_for_a_daemon_that_speaks_no_version_of_its_own_prints_which_it_speaks() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let old = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        // All that it needs to know of a hello it cannot answer is that there is one.
        assert!(client.read(&mut [0; 256]).unwrap() > 0);
        let message = "this daemon speaks version 1 of the protocol, not 2".to_owned();
        let refusal = frame::encode(&FromDaemon::Protocol { message }, HELLO_FRAME_BYTES_MAX).unwrap();
        client.write_all(&refusal).unwrap();
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_stockade"));
    let ended = command.env_clear().arg("stats").arg("--socket").arg(&path).output().unwrap();
    old.join().unwrap();
    assert_eq!(status(&ended), 1);
    assert!(text(&ended.stderr).contains("speaks version 1 of the protocol"), "{}", text(&ended.stderr));
}

#[test]
fn submit_with_json_prints_the_object() {
    let daemon = Daemon::start(limits());
    let ended = submit(&daemon, &["--json"], "echo", b"text").wait_with_output().unwrap();
    let object: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!(object["outcome"]["verdict"], "completed");
    assert_eq!(object["output"], "text");
}

#[test]
fn submit_that_is_refused_says_why_and_exits_126() {
    let daemon = Daemon::start(limits());
    let ended = submit(&daemon, &[], "full", b"").wait_with_output().unwrap();
    assert_eq!(status(&ended), 126);
    assert_eq!(text(&ended.stderr), "stockade: denied (queue_full): the queue is full; try again later\n");
}

#[test]
fn submit_that_is_interrupted_cancels_its_job() {
    let daemon = Daemon::start(limits());
    let child = submit(&daemon, &[], "hold", b"");
    let mut peer = daemon.peer();
    let job = eventually_listed(&mut peer, "hold");
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(status(&ended), 137, "{}", text(&ended.stderr));
    peer.send(&ToDaemon::Cancel { request: 1, job });
    assert_eq!(peer.receive(), FromDaemon::NotFound { request: 1 }, "it is over already");
}

fn eventually_listed(peer: &mut crate::rig::Peer, name: &str) -> String {
    let mut found = None;
    eventually("the job to be listed", || {
        peer.send(&ToDaemon::List { request: 1 });
        let FromDaemon::Jobs { jobs, .. } = peer.receive() else { panic!("no list") };
        found = jobs.into_iter().find(|job| job.name == name).map(|job| job.job);
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn submit_with_detach_prints_the_id_that_other_commands_take() {
    let daemon = Daemon::start(limits());
    let ended = submit(&daemon, &["--detach"], "hold", b"").wait_with_output().unwrap();
    let job = text(&ended.stdout).trim().to_owned();
    let listed = stockade(&daemon, &["ps"]).output().unwrap();
    assert!(text(&listed.stdout).lines().any(|line| line.contains(&job) && line.ends_with("hold")));
    let listed = stockade(&daemon, &["ps", "--json"]).output().unwrap();
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert!(
        listed.as_array().unwrap().iter().any(|row| row["job"] == job.as_str() && row["phase"] == "running")
    );

    let cancelled = stockade(&daemon, &["cancel", &job]).output().unwrap();
    assert_eq!((status(&cancelled), text(&cancelled.stdout)), (0, format!("cancelling {job}\n")));
    for job in [&job, "unknown", ANOTHERS_JOB] {
        let cancelled = stockade(&daemon, &["cancel", job]).output().unwrap();
        assert_eq!(status(&cancelled), 1);
        assert!(text(&cancelled.stderr).starts_with(&format!("stockade: no job {job}: ")));
    }
}

#[test]
fn logs_are_printed_to_the_stream_they_came_from() {
    let daemon = Daemon::start(limits());
    let job = daemon.peer().submitted(1, "echo", b"", false);
    for flags in [&["logs", &job][..], &["logs", "-f", &job]] {
        let printed = stockade(&daemon, flags).output().unwrap();
        assert_eq!(status(&printed), 0);
        assert!(printed.stdout.is_empty());
        let log = text(&printed.stderr);
        assert_eq!(log, format!("[3 bytes lost]\n{}", "e".repeat(FLOOD_PIECE_BYTES + 1)));
    }
    let unknown = stockade(&daemon, &["logs", "unknown"]).output().unwrap();
    assert_eq!(status(&unknown), 1);
}

#[test]
fn logs_of_a_flood_whose_reader_goes_away_end_quietly() {
    let daemon = Daemon::start(limits());
    let job = daemon.peer().submitted(1, "flood", b"", false);
    let mut following = stockade(&daemon, &["logs", "--follow", &job]).spawn().unwrap();
    drop(following.stdout.take());
    let ended = following.wait_with_output().unwrap();
    assert_eq!(status(&ended), 141);
    assert_eq!(text(&ended.stderr), "");
}

#[test]
fn stats_are_printed_for_people_and_for_programs() {
    let daemon = Daemon::start(limits());
    let table = stockade(&daemon, &["stats"]).output().unwrap();
    assert!(text(&table.stdout).contains("\nconnections   1\n"), "{}", text(&table.stdout));
    let object = stockade(&daemon, &["stats", "--json"]).output().unwrap();
    let object: serde_json::Value = serde_json::from_slice(&object.stdout).unwrap();
    assert_eq!(object["verdicts"]["completed"], 1);
    assert!(object["host"]["memory_total_bytes"].as_u64().unwrap() > 0);
}

#[test]
fn command_without_a_daemon_says_how_to_start_one() {
    let nowhere = tempfile::TempDir::new().unwrap();
    for (arguments, expected) in
        [(&["ps"][..], 1), (&["stats"], 1), (&["cancel", "x"], 1), (&["logs", "x"], 1)]
    {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stockade"));
        command.env_clear().args(arguments).arg("--socket").arg(nowhere.path().join("socket"));
        let ended = command.output().unwrap();
        assert_eq!(status(&ended), expected);
        let said = text(&ended.stderr);
        assert!(said.contains("no daemon listens on") && said.contains("stockade serve"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}
