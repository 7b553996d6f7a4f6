//! The zygote and its workers as processes.

use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use stockade_sys::link;
use stockade_sys::pidfd::{self, Exit};
use stockade_wire::worker::{Ending, FromWorker, Role, ToWorker};
use stockade_wire::zygote::{ForkOperation, ForkOrder, FromZygote, ToZygote};
use stockade_worker::role::{LOCK_FAILED_STATUS, ORDER_STATUS};

use crate::rig::{self, Rig, compiled, configuration, fork_order, run_order, wait_readable};

fn status_field(pid: u32, field: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
    line.unwrap_or_else(|| panic!("no {field} in {status}")).trim().to_owned()
}

#[test]
fn zygote_and_workers_of_every_role_have_one_thread() {
    let rig = Rig::start();
    assert_eq!(rig.warm.threads, 1);
    assert_eq!(status_field(rig.zygote.id(), "Threads"), "1");
    for role in [Role::Run, Role::RunFiles, Role::Compile] {
        let (worker, _) = rig.locked(&fork_order(role));
        assert_eq!(status_field(worker.pid, "Threads"), "1", "{role:?}");
    }
}

#[test]
fn worker_seen_from_outside_has_what_it_reports() {
    let rig = Rig::start();
    let (worker, report) = rig.locked(&fork_order(Role::Run));
    assert_eq!(status_field(worker.pid, "PPid"), std::process::id().to_string());
    assert_eq!(status_field(worker.pid, "Seccomp"), "2");
    assert_eq!(status_field(worker.pid, "NoNewPrivs"), "1");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status_field(worker.pid, set), "0000000000000000", "{set}");
    }
    assert_eq!(report.seccomp_mode, 2);
    assert!(report.no_new_privs && report.not_dumpable && report.capabilities_empty, "{report:?}");
    assert_eq!(report.open_fds, [0, 1, 2, 3, 4, 5]);
    assert_eq!(report.landlock_abi, rig.warm.landlock_abi);
    assert_eq!(report.rlimits[0], ("core".to_owned(), 0));
}

#[test]
fn worker_without_an_order_ends_quietly_when_the_link_closes() {
    let rig = Rig::start();
    let (mut worker, _) = rig.locked(&fork_order(Role::Run));
    let (other, _theirs) = link::pair().unwrap();
    drop(std::mem::replace(&mut worker.link, other));
    assert_eq!(worker.end(), Exit::Code(0));
}

#[test]
fn order_of_the_wrong_role_or_with_the_wrong_descriptors_ends_the_worker() {
    let rig = Rig::start();
    let (worker, _) = rig.locked(&fork_order(Role::Compile));
    worker.run(&run_order(None));
    assert_eq!(worker.conversation(), (vec![], Exit::Code(ORDER_STATUS)));
    let (worker, _) = rig.locked(&fork_order(Role::Run));
    worker.order(&ToWorker::Run(run_order(None)), &[]);
    assert_eq!(worker.conversation(), (vec![], Exit::Code(ORDER_STATUS)));
}

#[test]
fn fork_that_fails_is_answered_and_the_zygote_lives() {
    let rig = Rig::start();
    rig.send(&ToZygote::Fork(fork_order(Role::Run)), &[]);
    let (answer, _) = rig.answer();
    assert!(format!("{answer:?}").contains("Order"), "{answer:?}");
    // A leaf that is no cgroup: clone3 itself says no.
    let (_a, b) = link::pair().unwrap();
    let mut order = fork_order(Role::Run);
    order.into_leaf = true;
    let five = [b.as_fd(); 5];
    rig.send(&ToZygote::Fork(order), &five);
    let (answer, _) = rig.answer();
    assert!(format!("{answer:?}").contains("Clone"), "{answer:?}");
    link::send(rig.control.as_fd(), b"nonsense", &[]).unwrap();
    let (answer, _) = rig.answer();
    assert!(format!("{answer:?}").contains(&format!("{:?}", ForkOperation::Order)), "{answer:?}");
    let (worker, _) = rig.locked(&fork_order(Role::Run));
    assert!(worker.pid > 0);
}

#[test]
fn worker_is_forked_where_a_filter_hides_clone3() {
    let (rig, _directory) = Rig::start_named("no-clone3");
    for role in [Role::Run, Role::RunFiles, Role::Compile] {
        let (worker, report) = rig.locked(&fork_order(role));
        assert_eq!(status_field(worker.pid, "PPid"), std::process::id().to_string(), "{role:?}");
        assert_eq!(report.seccomp_mode, 2);
    }
    // To be born in a leaf takes clone3: without, it is born here, for the supervisor to move.
    let (_a, b) = link::pair().unwrap();
    let order = ForkOrder { into_leaf: true, ..fork_order(Role::Run) };
    rig.send(&ToZygote::Fork(order), &[b.as_fd(); 5]);
    let (answer, pidfd) = rig.answer();
    assert!(matches!(answer, FromZygote::Forked { .. }) && pidfd.is_some(), "{answer:?}");
    rig.locked(&fork_order(Role::Run));
}

#[test]
fn zygote_ends_when_its_control_socket_closes() {
    let mut rig = Rig::start();
    let (other, _theirs) = link::pair().unwrap();
    drop(std::mem::replace(&mut rig.control, other));
    let pidfd = pidfd::open(rig.zygote.id()).unwrap();
    wait_readable(pidfd.as_fd(), "the end of the zygote");
    assert_eq!(rig.zygote.wait().unwrap().code(), Some(0));
}

#[test]
fn zygote_of_another_parent_refuses_to_get_warm() {
    let mut config = configuration();
    config.supervisor_pid += 1;
    let refused = Rig::start_with(&rig::hostile(), &config).map(|_| ()).unwrap_err();
    assert!(refused.contains("supervisor is gone"), "{refused}");
}

#[test]
fn required_layer_that_is_missing_is_a_refusal_with_reason_and_fix() {
    let mut config = configuration();
    config.landlock_abi_min = 1000;
    let rig = Rig::start_with(&rig::hostile(), &config).unwrap();
    let worker = rig.fork(&fork_order(Role::Run)).unwrap();
    let (said, exit) = worker.conversation();
    assert_eq!(exit, Exit::Code(LOCK_FAILED_STATUS));
    let [FromWorker::LockFailed(missing)] = said.as_slice() else { panic!("{said:?}") };
    assert_eq!(missing.layer, "landlock");
    assert!(missing.reason.contains("1000") && !missing.fix.is_empty(), "{missing:?}");
}

#[test]
fn module_goes_through_compile_and_run_workers_and_its_output_comes_back() {
    let rig = Rig::start();
    let artifact = compiled(&rig, HELLO);
    let (worker, _) = rig.locked(&fork_order(Role::Run));
    let input = stockade_sys::memfd::sealed("input", b"").unwrap();
    worker.order(&ToWorker::Run(run_order(None)), &[artifact.as_fd(), input.as_fd()]);
    let (said, exit) = worker.conversation();
    let [FromWorker::Finished(report)] = said.as_slice() else { panic!("{said:?} {exit:?}") };
    assert_eq!((&report.ending, exit), (&Ending::Exited(0), Exit::Code(0)));
    assert!(report.mdwe);
    assert_eq!(rig::Worker::text(&worker.output), "hello\n");
}

#[test]
fn spinning_guest_is_interrupted_at_its_deadline_and_reports() {
    let rig = Rig::start();
    let artifact = compiled(&rig, r#"(module (func (export "_start") (loop $l (br $l))))"#);
    let (worker, _) = rig.locked(&fork_order(Role::Run));
    let input = stockade_sys::memfd::sealed("input", b"").unwrap();
    let mut order = run_order(None);
    order.limits.deadline_us = 50_000;
    worker.order(&ToWorker::Run(order), &[artifact.as_fd(), input.as_fd()]);
    let (said, exit) = worker.conversation();
    let [FromWorker::Finished(report)] = said.as_slice() else { panic!("{said:?} {exit:?}") };
    assert_eq!((&report.ending, exit), (&Ending::Interrupted, Exit::Code(0)));
}

#[test]
fn worker_waiting_for_an_order_dies_of_sigterm() {
    let rig = Rig::start();
    let (worker, _) = rig.locked(&fork_order(Role::Run));
    pidfd::signal(worker.pidfd.as_fd(), Signal::SIGTERM).unwrap();
    assert_eq!(worker.end(), Exit::Signal(Signal::SIGTERM as i32));
}

const HELLO: &str = r#"
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "hello\n")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 16))
    (i32.store (i32.const 4) (i32.const 6))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
"#;

/// Set in the process that plays the supervisor which is killed.
const DOOMED: &str = "STOCKADE_TEST_DOOMED_SUPERVISOR";

#[test]
fn zygote_and_a_spinning_worker_die_with_a_supervisor_that_is_killed() {
    if std::env::var_os(DOOMED).is_some() {
        let rig = Rig::start();
        let (worker, _) = rig.locked(&fork_order(Role::Run));
        // It looks at nothing: no end of file and no SIGTERM reaches it.
        worker.run(&run_order(Some("ignore-sigterm")));
        println!("pids {} {}", rig.zygote.id(), worker.pid);
        loop {
            std::thread::park();
        }
    }
    let mut doomed = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg("processes::zygote_and_a_spinning_worker_die_with_a_supervisor_that_is_killed")
        .env(DOOMED, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(doomed.stdout.take().unwrap()).lines();
    let pids =
        lines.find_map(|line| line.unwrap().split_once("pids ").map(|(_, pids)| pids.to_owned())).unwrap();
    let watched: Vec<_> = pids.split(' ').map(|pid| pidfd::open(pid.parse().unwrap()).unwrap()).collect();
    assert_eq!(watched.len(), 2);
    doomed.kill().unwrap();
    doomed.wait().unwrap();
    for pidfd in &watched {
        wait_readable(pidfd.as_fd(), "the end of an orphan");
    }
}
