//! Supervisors that end without a word.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
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
    for signal in [Signal::SIGKILL, Signal::SIGABRT, Signal::SIGUSR1, Signal::SIGQUIT] {
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
    let own = Own::new();
    let mut seen_at_death = 0;
    for moment in 0..25 {
        let mut daemon = own.start();
        pass(Duration::from_millis(4 * moment));
        seen_at_death = seen_at_death.max(own.processes());
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        eventually("its processes to be gone", || own.processes() == 0);
    }
    assert!(seen_at_death > 1, "never a child: it was always killed too early");
}

#[test]
fn daemon_asked_to_stop_at_any_moment_of_its_start_ends() {
    if !nix::unistd::geteuid().is_root() {
        println!("not run: root");
        return;
    }
    let own = Own::new();
    let (mut before, mut after) = (0, 0);
    for moment in 0..60 {
        let mut daemon = own.start();
        pass(Duration::from_micros(500 * moment));
        send(&daemon, if moment % 2 == 0 { Signal::SIGTERM } else { Signal::SIGINT });
        let mut status = None;
        eventually(&format!("the end of a daemon asked to stop after {moment} half milliseconds"), || {
            status = daemon.try_wait().unwrap();
            status.is_some()
        });
        // Before it listens it ends as any process does.
        match status.unwrap() {
            ended if ended.success() => after += 1,
            ended => {
                assert!(matches!(ended.signal(), Some(2 | 15)), "{ended}: {}", own.log());
                before += 1;
            }
        }
        eventually("its processes to be gone", || own.processes() == 0);
    }
    println!("{before} ended before they listened, {after} in good order");
    assert!(before > 0 && after > 0, "{before} before they listened, {after} after");
}

#[test]
fn daemon_started_with_its_signals_blocked_hears_them_all_the_same() {
    let directory = TempDir::new().unwrap();
    let both: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    // The child begins with the mask of the thread that makes it; what is sent before it listens has to wait.
    both.thread_block().unwrap();
    let daemon = stockade(&directory)
        .arg("serve")
        .stdout(Stdio::null())
        .stderr(log_of(&directory))
        .spawn()
        .map(|child| Daemon { child, directory });
    both.thread_unblock().unwrap();
    let mut daemon = daemon.unwrap();
    let blocked = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).map(str::trim);
        mask.map_or(0, |mask| u64::from_str_radix(mask, 16).unwrap()) & (1 << (15 - 1) | 1 << (2 - 1)) != 0
    };
    eventually("the daemon to listen", || !blocked(daemon.pid()));
    let family = Family::of(daemon.pid(), &[("stockade:run", 1)]);
    for member in &family.members {
        assert!(!blocked(member.pid), "{} has them blocked", member.name);
    }
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.end().success());
    assert!(family.living().is_empty());
}

/// Lets time pass; what happens in it is another process's.
fn pass(time: Duration) {
    let since = Instant::now();
    eventually("the moment", || since.elapsed() >= time);
}

/// The executable under a name of its own, so that its processes can be told from those of other tests.
struct Own {
    directory: TempDir,
    home: TempDir,
}

impl Own {
    fn new() -> Self {
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        std::fs::hard_link(env!("CARGO_BIN_EXE_stockade"), home.path().join("stockade")).unwrap();
        Self { directory: TempDir::new().unwrap(), home }
    }

    fn start(&self) -> Child {
        std::process::Command::new(self.home.path().join("stockade"))
            .arg("serve")
            .env_clear()
            .env("STOCKADE_CACHE_DIRECTORY", "off")
            .env("STOCKADE_SOCKET", self.directory.path().join("socket"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log_of(&self.directory))
            .spawn()
            .unwrap()
    }

    /// How many of it there are, daemons, zygotes and workers.
    fn processes(&self) -> usize {
        let executable = self.home.path().join("stockade");
        let is_it =
            |pid: u32| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|path| path == executable);
        all().into_iter().filter(|process| is_it(process.pid)).count()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap()
    }
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
