//! What becomes of workers that misbehave.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use stockade_sys::pidfd::{self, Exit};
use stockade_wire::worker::{FromWorker, Role};
use stockade_worker::jail::seccomp::{is_abort, syscall_name};
use stockade_worker::role::PANICKED_STATUS;

use crate::rig::{DEADLINE, Rig, fork_order, run_order};

const SIGSYS: Exit = Exit::Signal(Signal::SIGSYS as i32);

#[track_caller]
fn check_forbidden(rig: &Rig, entry: &str, calls: &[&str]) {
    for role in [Role::Run, Role::RunFiles] {
        let (said, exit) = rig.misbehave(role, entry);
        let [FromWorker::Forbidden(number)] = said.as_slice() else { panic!("{entry}: {said:?} {exit:?}") };
        let name = syscall_name(*number).unwrap();
        assert!(calls.contains(&name), "{entry}: {name}");
        assert_eq!(exit, SIGSYS, "{entry}");
    }
}

#[test]
fn forbidden_call_is_named_on_the_link_and_kills_with_sigsys() {
    let rig = Rig::start();
    check_forbidden(&rig, "socket", &["socket"]);
    check_forbidden(&rig, "exec", &["execve"]);
    check_forbidden(&rig, "kill-parent", &["getppid", "kill"]);
    check_forbidden(&rig, "thread", &["rt_sigaction", "rt_sigprocmask", "clone3"]);
    check_forbidden(
        &rig,
        "fork-bomb",
        &["pipe2", "socketpair", "rt_sigprocmask", "clone3", "clone", "vfork", "poll"],
    );
}

#[test]
fn open_in_a_run_worker_is_a_violation_even_of_a_path_landlock_would_refuse() {
    let rig = Rig::start();
    let (said, exit) = rig.misbehave(Role::Run, "open");
    let [FromWorker::Forbidden(number)] = said.as_slice() else { panic!("{said:?} {exit:?}") };
    assert_eq!((syscall_name(*number), exit), (Some("openat"), SIGSYS));
}

#[test]
fn panic_is_told_and_has_a_status_of_its_own() {
    let rig = Rig::start();
    let (said, exit) = rig.misbehave(Role::Run, "panic");
    let [FromWorker::Panicked(text)] = said.as_slice() else { panic!("{said:?} {exit:?}") };
    assert!(text.contains("gave up"), "{text}");
    assert_eq!(exit, Exit::Code(PANICKED_STATUS));
}

#[test]
fn native_stack_overflow_can_be_told_from_a_violation() {
    let rig = Rig::start();
    let (said, exit) = rig.misbehave(Role::Run, "overflow-stack");
    let [FromWorker::Forbidden(number)] = said.as_slice() else { panic!("{said:?} {exit:?}") };
    assert!(is_abort(*number), "{said:?} {exit:?}");
}

/// CPU time used after SIGTERM that shows a worker to be alive: one that the signal ends uses next to none.
const OUTLIVED: Duration = Duration::from_millis(100);

#[test]
fn worker_that_ignores_sigterm_goes_on_until_sigkill() {
    let rig = Rig::start();
    let (worker, _) = rig.locked(&fork_order(Role::Run));
    worker.run(&run_order(Some("ignore-sigterm")));
    worker.await_begun();
    let cpu_time = || worker.cpu_time().expect("it has ended");
    let before = cpu_time();
    pidfd::signal(worker.pidfd.as_fd(), Signal::SIGTERM).unwrap();
    let deadline = Instant::now() + DEADLINE;
    while cpu_time() < before + OUTLIVED {
        assert!(Instant::now() < deadline, "it does not get the processor");
        std::thread::yield_now();
    }
    pidfd::signal(worker.pidfd.as_fd(), Signal::SIGKILL).unwrap();
    assert_eq!(worker.end(), Exit::Signal(Signal::SIGKILL as i32));
}

#[test]
fn worker_in_a_native_loop_that_does_not_ignore_sigterm_ends_at_it() {
    let rig = Rig::start();
    let (worker, _) = rig.locked(&fork_order(Role::Run));
    worker.run(&run_order(Some("spin")));
    worker.await_begun();
    pidfd::signal(worker.pidfd.as_fd(), Signal::SIGTERM).unwrap();
    assert_eq!(worker.end(), Exit::Signal(Signal::SIGTERM as i32));
}

#[test]
fn broken_packets_are_refused_by_the_frame_decoder() {
    let rig = Rig::start();
    for (entry, exit) in [("exit-0-without-reply", 0), ("exit-7", 7)] {
        assert_eq!(rig.misbehave(Role::Run, entry), (vec![], Exit::Code(exit)), "{entry}");
    }
    let (said, _) = rig.misbehave(Role::Run, "reply-twice");
    assert_eq!(said.len(), 2);
    let (said, _) = rig.misbehave(Role::Run, "wrong-kind");
    assert!(matches!(said.as_slice(), [FromWorker::Compiled(_)]), "{said:?}");
}

#[test]
fn worker_that_eats_memory_aborts_at_its_data_limit() {
    let rig = Rig::start();
    let (said, exit) = rig.misbehave(Role::Run, "eat-memory");
    let [FromWorker::Forbidden(number)] = said.as_slice() else { panic!("{said:?} {exit:?}") };
    assert!(is_abort(*number), "{said:?} {exit:?}");
}

#[test]
fn worker_that_dies_before_its_lock_says_nothing() {
    let (rig, _directory) = Rig::start_named("die-before-lock");
    let worker = rig.fork(&fork_order(Role::Run)).unwrap();
    assert_eq!(worker.conversation(), (vec![], Exit::Code(stockade_hostile::misbehave::SURVIVED_STATUS)));
}

#[test]
fn worker_that_lies_in_its_report_is_contradicted_by_procfs() {
    let (rig, _directory) = Rig::start_named("lie-in-report");
    let (worker, report) = rig.locked(&fork_order(Role::Run));
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.pid)).unwrap();
    assert_eq!(report.seccomp_mode, 1);
    assert!(status.contains("Seccomp:\t2"), "{status}");
}
