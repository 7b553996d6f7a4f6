//! What the daemon tells a service manager.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::family::Family;
use crate::rig::{Daemon, PATIENCE, eventually};

/// A service manager: what is said to it, word by word.
struct Manager {
    socket: UnixDatagram,
    directory: TempDir,
}

impl Manager {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, directory }
    }

    fn daemon(&self, watchdog: Option<Duration>) -> Daemon {
        let socket = self.directory.path().join("notify");
        let watchdog_us = watchdog.map(|watchdog| watchdog.as_micros().to_string());
        let mut settings = vec![("NOTIFY_SOCKET", socket.to_str().unwrap())];
        settings.extend(watchdog_us.iter().map(|us| ("WATCHDOG_USEC", us.as_str())));
        Daemon::start(&settings)
    }

    /// The next thing it is told.
    fn told(&self) -> String {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    /// Reads on until it is told this.
    fn is_told(&self, word: &str) -> String {
        loop {
            let told = self.told();
            if told.lines().any(|line| line == word) {
                return told;
            }
        }
    }

    fn has_nothing_to_read(&self) {
        self.socket.set_nonblocking(true).unwrap();
        let mut bytes = [0; 4096];
        while self.socket.recv(&mut bytes).is_ok() {}
        self.socket.set_nonblocking(false).unwrap();
    }
}

#[test]
fn service_manager_is_told_of_the_start_and_of_the_stop() {
    let manager = Manager::new();
    let mut daemon = manager.daemon(None);
    let first = manager.told();
    assert!(first.starts_with("READY=1\n") && first.contains("\nSTATUS=taking jobs at "), "{first}");
    daemon.signal(Signal::SIGTERM);
    let second = manager.told();
    assert!(second.starts_with("STOPPING=1\n"), "{second}");
    assert!(daemon.end().success());
}

#[test]
fn watchdog_hears_nothing_while_the_zygote_stands_still_and_again_once_there_is_another() {
    let manager = Manager::new();
    let daemon = manager.daemon(Some(Duration::from_secs(2)));
    let well = manager.is_told("WATCHDOG=1");
    assert!(well.contains("\nSTATUS=0 jobs running, 0 waiting"), "{well}");
    let family = Family::of(daemon.pid(), &[("stockade:zygote", 1)]);
    let zygote = family.members.iter().find(|member| member.name == "stockade:zygote").unwrap().pid;
    kill(Pid::from_raw(zygote.cast_signed()), Signal::SIGSTOP).unwrap();
    eventually("a trial to fail", || daemon.log().contains("no worker could be had"));
    // What was said before it is of no interest; the pool replaces the zygote, and then all is well again.
    manager.has_nothing_to_read();
    manager.is_told("WATCHDOG=1");
    assert!(daemon.log().contains("zygote lost"), "{}", daemon.log());
}
