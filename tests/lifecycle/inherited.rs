//! Signals that whoever started the supervisor ignored or blocked.

use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::family::Family;
use crate::rig::{Daemon, SPIN, file, stockade_by_env};

const NOTHING: &str = r#"(module (func (export "_start")))"#;

/// The result of `stockade run`, started by env(1) with `options`.
fn run(options: &[&str], module: &str, flags: &[&str]) -> Value {
    let directory = TempDir::new().unwrap();
    let module = file(&directory, "module.wat", module);
    let output = stockade_by_env(options, &directory)
        // Time enough for the guest to notice, so that whatever it is that ends it is not a matter of load.
        .env("STOCKADE_KILL_EPOCH_HEAD_START", "1s")
        .args(["run", "--json"])
        .args(flags)
        .arg(module)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// A line of `/proc/PID/status` that is a set of signals: bit 0 is signal 1.
fn signals(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":\t"));
    u64::from_str_radix(line.unwrap_or_else(|| panic!("no {field}: {status}")), 16).unwrap()
}

const fn set(members: &[Signal]) -> u64 {
    let (mut bits, mut at) = (0, 0);
    while at < members.len() {
        bits |= 1 << (members[at] as u64 - 1);
        at += 1;
    }
    bits
}

#[test]
fn run_started_with_sigchld_ignored_learns_how_its_worker_ended() {
    for module in [NOTHING, r#"(module (func (export "_start") unreachable))"#] {
        let result = run(&["--ignore-signal=CHLD"], module, &[]);
        let (verdict, reason) =
            if module == NOTHING { ("completed", Value::Null) } else { ("trapped", "unreachable".into()) };
        assert_eq!((&result["outcome"]["verdict"], &result["outcome"]["reason"]), (&verdict.into(), &reason));
        assert!(result["bill"]["page_faults"].as_u64().is_some_and(|faults| faults > 0), "{result}");
    }
}

#[test]
fn deadline_is_kept_in_a_worker_whatever_its_supervisor_was_started_with() {
    for options in [&["--block-signal=ALRM"][..], &["--block-signal"], &["--ignore-signal", "--block-signal"]]
    {
        let result = run(options, SPIN, &["--timeout", "100ms"]);
        let outcome = &result["outcome"];
        assert_eq!(
            (&outcome["verdict"], &outcome["stage"]),
            (&"timed_out".into(), &"epoch".into()),
            "{options:?}"
        );
    }
}

#[test]
fn daemon_started_with_everything_ignored_and_blocked_has_workers_with_nothing_so() {
    let mut daemon =
        Daemon::start_by_env(&["--ignore-signal", "--block-signal"], &[("STOCKADE_POOL_WARM", "1")]);
    let spinning = daemon.submit(SPIN, &["--timeout", "3s"]);
    let family = Family::of(daemon.pid(), &[("stockade:run", 2)]);
    family.wait_for_guests(1);
    assert_eq!(signals(daemon.pid(), "SigBlk"), 0);
    assert_eq!(signals(daemon.pid(), "SigIgn") & set(&[Signal::SIGCHLD]), 0);
    // Those that Stockade ignores itself.
    let own = set(&[Signal::SIGPIPE, Signal::SIGXFSZ]);
    // Realtime signals are nobody's business here.
    let named = (1 << 31) - 1;
    for member in
        family.members.iter().filter(|member| ["stockade:zygote", "stockade:run"].contains(&&*member.name))
    {
        assert_eq!(signals(member.pid, "SigBlk"), 0, "{}", member.name);
        assert_eq!(signals(member.pid, "SigIgn") & named & !own, 0, "{}", member.name);
    }
    let (verdict, _) = spinning.outcome();
    assert_eq!(verdict, "timed_out");
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.end().success());
    assert!(family.living().is_empty());
}
