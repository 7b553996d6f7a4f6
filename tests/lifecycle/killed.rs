//! Supervisors that end without a word.

use std::process::Stdio;
use std::time::Instant;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::family::{Family, all};
use crate::rig::{Client, Daemon, SPIN, eventually, file, laborious, log_of, send, stockade};

/// A daemon that has everything at once: idle workers, guests that run, and a module that is being compiled.
fn busy_daemon(settings: &[(&str, &str)]) -> (Daemon, Vec<Client>, Family) {
    let settings = [&[("STOCKADE_POOL_WARM", "2")], settings].concat();
    let daemon = Daemon::start(&settings);
    let mut clients: Vec<Client> = (0..2).map(|_| daemon.submit(SPIN, &["--timeout", "10m"])).collect();
    Family::of(daemon.pid(), &[("stockade:run", 4)]).wait_for_guests(2);
    clients.push(daemon.submit(&laborious(), &[]));
    let family = Family::of(daemon.pid(), &[("stockade:run", 4), ("stockade:wasmc", 1)]);
    assert!(family.members.len() >= 7, "daemon, zygote, two idle, two at work, one compiler");
    (daemon, clients, family)
}

#[test]
fn daemon_that_is_killed_takes_everything_with_it() {
    for signal in [Signal::SIGKILL, Signal::SIGABRT, Signal::SIGHUP, Signal::SIGQUIT] {
        let (mut daemon, clients, family) = busy_daemon(&[]);
        daemon.signal(signal);
        let took = family.assert_gone(&format!("{signal}"));
        println!("{signal}: {} processes gone after {took:?}", family.members.len());
        daemon.end();
        for client in clients {
            // The connection is gone, and the client says so.
            assert_eq!(client.output().status.code(), Some(125));
        }
    }
}

#[test]
fn daemon_killed_at_any_moment_of_its_start_leaves_nothing() {
    if !nix::unistd::geteuid().is_root() {
        println!("not run: root");
        return;
    }
    let directory = TempDir::new().unwrap();
    // Under a name of its own, so that its processes can be told from those of other tests.
    let own = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let executable = own.path().join("stockade");
    std::fs::hard_link(env!("CARGO_BIN_EXE_stockade"), &executable).unwrap();
    let ours = || {
        all().into_iter().filter(|process| {
            std::fs::read_link(format!("/proc/{}/exe", process.pid)).is_ok_and(|path| path == executable)
        })
    };
    let mut seen_at_death = 0;
    for moment in 0..25 {
        let mut daemon = std::process::Command::new(&executable)
            .arg("serve")
            .env_clear()
            .env("STOCKADE_CACHE_DIRECTORY", "off")
            .env("STOCKADE_SOCKET", directory.path().join("socket"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log_of(&directory))
            .spawn()
            .unwrap();
        let (since, until) = (Instant::now(), std::time::Duration::from_millis(4 * moment));
        eventually("the moment", || since.elapsed() >= until);
        seen_at_death = seen_at_death.max(ours().count());
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        eventually("its processes to be gone", || ours().count() == 0);
    }
    assert!(seen_at_death > 1, "never a child: it was always killed too early");
}

#[test]
fn run_that_is_killed_takes_its_guest_with_it() {
    for signal in [Signal::SIGKILL, Signal::SIGABRT, Signal::SIGHUP] {
        let directory = TempDir::new().unwrap();
        let module = file(&directory, "spin.wat", SPIN);
        let mut run = stockade(&directory)
            .args(["run", "--timeout", "10m"])
            .arg(module)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let family = Family::of(run.id(), &[("stockade:run", 1)]);
        family.wait_for_guests(1);
        send(&run, signal);
        let took = family.assert_gone(&format!("{signal}"));
        println!("{signal}: {} processes gone after {took:?}", family.members.len());
        run.wait().unwrap();
    }
}
