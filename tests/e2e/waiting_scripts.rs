//! Scripts on the stack of their process's own thread, and what they wait with it.

use std::fs;

use nix::sys::signal::Signal;
use stockade_wire::client::Statistics;
use stockade_wire::job::{Isolation, Submission};

use crate::rig::{Daemon, Mode, Peer, Place, children, eventually, short_of, signal, submission_of};

const STACK_BYTES: u64 = 20 << 20;

/// A daemon whose next script is run by a fork of the engine's template.
fn daemon(limit: Option<&str>) -> (Daemon, Peer) {
    let place = Place::new(Mode::Jailed);
    let daemon = match limit {
        Some(limit) => {
            let command = Daemon::with_limit(&place, limit);
            Daemon::started(place, command)
        }
        None => Daemon::start(place),
    };
    let mut client = daemon.client();
    client.run(script("'the first'")).unwrap();
    eventually("a worker with an engine", || figures(&mut client).prepared > 0);
    (daemon, client)
}

fn figures(client: &mut Peer) -> Statistics {
    client.ask(async |client| client.statistics().await).unwrap()
}

fn script(source: &str) -> Submission {
    submission_of(source, "script.js")
}

/// The processes that run jobs, or are going to.
fn workers(daemon: &Daemon) -> Vec<u32> {
    let is_worker = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == "stockade:run")
    };
    children(daemon.pid).into_iter().filter(is_worker).collect()
}

/// How large a process's stack may become, bytes.
fn stack_limit(pid: u32) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max stack size"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[test]
fn worker_may_have_a_stack_on_which_scripts_find_room() {
    let (daemon, _client) = daemon(None);
    let limits: Vec<_> = workers(&daemon).into_iter().filter_map(stack_limit).collect();
    assert!(!limits.is_empty() && limits.iter().all(|bytes| *bytes >= STACK_BYTES), "{limits:?}");
}

#[test]
fn script_that_recurses_without_end_ends_alike_whether_the_thread_s_stack_has_room_or_not() {
    // In KiB, soft and hard.
    for limit in [None, Some("-s 4096")] {
        let (_daemon, mut client) = daemon(limit);
        let before = figures(&mut client).starts_prepared;
        for source in ["(function f() { return 1 + f() })()", "JSON.parse('['.repeat(1e6))"] {
            let result = client.run(script(source)).unwrap();
            assert_eq!(short_of(&result), "guest_error stack_overflow - guest", "{limit:?}: {result:?}");
        }
        assert!(figures(&mut client).starts_prepared > before, "{limit:?}");
        let next = client.run(script("6 * 7")).unwrap();
        assert_eq!((short_of(&next).as_str(), next.output.0.as_slice()), ("completed - - -", &b"42"[..]));
    }
}

#[test]
fn script_that_waits_and_is_cancelled_has_its_worker_say_so() {
    let (daemon, mut client) = daemon(None);
    for isolation in [Isolation::Fresh, Isolation::Tenant] {
        let mut waits = Submission {
            isolation: Some(isolation),
            ..script("console.log('it waits'); await new Promise(done => setTimeout(done, 1e7))")
        };
        waits.limits.grace_us = Some(30_000_000);
        let job = client.submit(waits).unwrap();
        daemon.await_log(&job);
        client.ask(async |client| client.cancel(&job).await).unwrap();
        let result = client.result(&job);
        assert_eq!(short_of(&result), "cancelled cancelled sigterm operator", "{isolation:?}");
        // Its own word: a process that its signal had to end leaves none.
        assert!(result.bill.wasm_memory_peak_bytes.is_some(), "{isolation:?}: {result:?}");
        let next = client.run(Submission { isolation: Some(isolation), ..script("6 * 7") }).unwrap();
        assert_eq!((short_of(&next).as_str(), next.output.0.as_slice()), ("completed - - -", &b"42"[..]));
    }
}

#[test]
fn script_whose_process_is_stopped_while_it_waits_waits_on() {
    let (daemon, mut client) = daemon(None);
    let job = client
        .submit(script("console.log('it waits'); await new Promise(done => setTimeout(done, 500)); 42"))
        .unwrap();
    daemon.await_log(&job);
    for which in [Signal::SIGSTOP, Signal::SIGCONT] {
        for worker in workers(&daemon) {
            signal(worker, which);
        }
    }
    let result = client.result(&job);
    assert_eq!((short_of(&result).as_str(), result.output.0.as_slice()), ("completed - - -", &b"42"[..]));
}
