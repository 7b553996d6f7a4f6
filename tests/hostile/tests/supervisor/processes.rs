//! What the zygote and the workers are, seen from outside, and that none is left.

use std::fs;

use crate::families::{children, workers, zygote};
use crate::rig::{Executable, Rig, SPIN, alone, config, eventually, submission};

fn status_of(pid: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').trim().to_owned()
}

#[test]
fn zygote_and_workers_have_one_thread_before_while_and_after_they_work() {
    alone(async || {
        let rig = Rig::start().await;
        let id = rig.submit(submission(SPIN));
        rig.running(&id).await;
        eventually("a worker at its job and one ahead of need", || workers().len() == 2).await;
        for process in children() {
            assert_eq!(status_of(process.pid, "Threads"), "1", "{process:?}");
        }
        rig.cancel(&id);
        rig.result(&id).await;
        assert_eq!(status_of(zygote().unwrap(), "Threads"), "1");
        rig.end().await;
    });
}

#[test]
fn environment_of_zygote_and_workers_is_empty() {
    if !nix::unistd::geteuid().is_root() {
        println!("not run: root");
        return;
    }
    alone(async || {
        // The harness and this test's own marker have left plenty in ours.
        assert!(std::env::vars_os().count() > 1);
        let rig = Rig::start().await;
        let id = rig.submit(submission(SPIN));
        rig.running(&id).await;
        for process in children() {
            let environment = fs::read(format!("/proc/{}/environ", process.pid)).unwrap();
            assert_eq!(String::from_utf8_lossy(&environment), "", "{process:?}");
        }
        rig.cancel(&id);
        rig.end().await;
    });
}

#[test]
fn zygote_and_workers_are_out_of_reach_of_the_terminals_signals() {
    alone(async || {
        let rig = Rig::start().await;
        let own = nix::unistd::getpgrp();
        let processes = children();
        assert_eq!(processes.len(), 2, "{processes:?}");
        for process in processes {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(process.pid).unwrap());
            assert_ne!(nix::unistd::getpgid(Some(pid)).unwrap(), own, "{process:?}");
        }
        rig.end().await;
    });
}

#[test]
fn supervisor_that_has_ended_has_no_child_left() {
    alone(async || {
        let rig = Rig::start().await;
        let id = rig.submit(submission(SPIN));
        rig.running(&id).await;
        rig.end().await;
        assert!(children().is_empty());
    });
}

#[test]
fn supervisor_that_is_dropped_leaves_no_child_behind() {
    alone(async || {
        let Rig { supervisor, executable: _kept } = Rig::start().await;
        drop(supervisor);
        eventually("its children to be reaped", || children().is_empty()).await;
    });
}

#[test]
fn start_that_fails_leaves_no_child_behind() {
    alone(async || {
        for name in ["die-before-lock", "garbage-zygote", "leaving-zygote", "lie-in-report"] {
            let refused = Rig::start_from(Executable::named(name), config()).await.map(|_| ()).unwrap_err();
            eprintln!("{name}: {refused}");
            assert!(children().is_empty(), "{name}");
        }
        let nothing = Executable::named("stockade-hostile");
        nothing.points_to("/bin/false".as_ref());
        Rig::start_from(nothing, config()).await.map(|_| ()).unwrap_err();
        assert!(children().is_empty());
    });
}
