//! Daemons that are started with a socket somebody else made.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::rig::{Client, Daemon, eventually, file, stockade, stockade_handed};

const NOTHING: &str = r#"(module (func (export "_start")))"#;

/// A socket that outlives daemons, and a directory in which they are to find it.
fn socket() -> (UnixListener, TempDir) {
    let directory = TempDir::new().unwrap();
    (UnixListener::bind(directory.path().join("socket")).unwrap(), directory)
}

fn copy(socket: &UnixListener) -> OwnedFd {
    socket.try_clone().unwrap().into()
}

fn client(directory: &TempDir) -> Client {
    let module = file(directory, "nothing.wat", NOTHING);
    let mut command = stockade(directory);
    command.args(["submit", "--json"]).arg(module).stdout(Stdio::piped()).stderr(Stdio::piped());
    Client::waiting(command.spawn().unwrap())
}

#[test]
fn client_that_connects_between_two_daemons_is_served_by_the_second() {
    let (socket, directory) = socket();
    let path = directory.path().join("socket");
    let early = client(&directory);
    let mut first = Daemon::start_handed(copy(&socket), directory);
    assert_eq!(early.outcome().0, "completed");
    assert!(
        !path.with_extension("lock").exists(),
        "whoever made the socket sees to it that it is served once"
    );
    first.signal(Signal::SIGTERM);
    assert!(first.end().success());
    UnixStream::connect(&path).unwrap();
    let between = client(&first.directory);
    let directory = std::mem::replace(&mut first.directory, TempDir::new().unwrap());
    let second = Daemon::start_handed(copy(&socket), directory);
    assert_eq!(between.outcome().0, "completed");
    assert!(second.log().contains("the socket this was started with"), "{}", second.log());
}

#[test]
fn daemon_started_with_something_else_than_a_listening_socket_does_not_start() {
    let null = || OwnedFd::from(File::open("/dev/null").unwrap());
    for (environment, says) in [
        ("LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=odd.socket", "odd.socket"),
        ("LISTEN_PID=$$ LISTEN_FDS=2", "LISTEN_FDS announces a descriptor"),
        ("LISTEN_PID=$$ LISTEN_FDS=many", "LISTEN_FDS is"),
        ("LISTEN_FDS=1", "LISTEN_PID"),
    ] {
        let directory = TempDir::new().unwrap();
        let output = stockade_handed(null(), environment, &directory).arg("serve").output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{environment}: {stderr}");
        assert!(stderr.contains(says), "{environment}: {stderr}");
        assert!(!directory.path().join("socket").exists(), "{environment}");
    }
}

#[test]
fn socket_that_is_anothers_by_the_environment_is_not_taken() {
    let (_socket, elsewhere) = socket();
    let directory = TempDir::new().unwrap();
    let handed = OwnedFd::from(File::open(elsewhere.path()).unwrap());
    let mut daemon = stockade_handed(handed, "LISTEN_PID=1 LISTEN_FDS=1", &directory)
        .arg("serve")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the daemon to listen by itself", || {
        UnixStream::connect(directory.path().join("socket")).is_ok()
    });
    crate::rig::send(&daemon, Signal::SIGTERM);
    assert!(daemon.wait().unwrap().success());
}
