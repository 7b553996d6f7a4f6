//! The socket in the file system, and how the daemon ends.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};

use stockade::config::Clients;
use stockade::daemon::{Listener, SocketError};
use stockade_wire::client::{FromDaemon, RefusalReason};
use stockade_wire::job::Verdict;
use tempfile::TempDir;

use crate::rig::{Daemon, eventually, limits};

#[test]
fn socket_is_made_with_its_directory_and_permissions() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("run/socket");
    let listener = Listener::bind(&path, 0o620).unwrap();
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o7777, 0o750);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o620);
    drop(listener);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0, "socket and lock are gone");
}

#[test]
fn second_daemon_is_refused_and_told_of_the_first() {
    let daemon = Daemon::start(limits());
    let refused = Listener::bind(&daemon.socket(), 0o600).unwrap_err();
    assert!(
        matches!(refused, SocketError::AlreadyServed { pid: Some(pid), .. } if pid == std::process::id())
    );
    assert!(refused.to_string().contains("already serves"), "{refused}");
    daemon.assert_serves();
}

#[test]
fn socket_that_nobody_listens_on_is_replaced() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("socket");
    drop(UnixListener::bind(&path).unwrap());
    // What a daemon that was killed leaves behind: a socket, and a lock file that nobody holds.
    fs::write(directory.path().join("socket.lock"), "123456").unwrap();
    let before = fs::metadata(&path).unwrap();
    assert!(UnixStream::connect(&path).is_err());
    let _listener = Listener::bind(&path, 0o600).unwrap();
    UnixStream::connect(&path).unwrap();
    assert!(fs::metadata(&path).unwrap().ctime_nsec() != before.ctime_nsec());
}

#[test]
fn socket_of_another_program_is_left_alone() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("socket");
    let _other = UnixListener::bind(&path).unwrap();
    assert!(matches!(Listener::bind(&path, 0o600), Err(SocketError::ForeignListener(_))));
    UnixStream::connect(&path).unwrap();
}

#[test]
fn what_is_not_a_socket_is_left_alone() {
    let directory = TempDir::new().unwrap();
    let target = directory.path().join("target");
    let path = directory.path().join("socket");
    let live = UnixListener::bind(&target).unwrap();
    symlink(&target, &path).unwrap();
    assert!(matches!(
        Listener::bind(&path, 0o600),
        Err(SocketError::NotASocket { what: "a symbolic link", .. })
    ));
    drop(live);
    assert!(matches!(Listener::bind(&path, 0o600), Err(SocketError::NotASocket { .. })));
    assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    assert!(matches!(Listener::bind(&path, 0o600), Err(SocketError::NotASocket { what: "a file", .. })));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn lock_that_is_a_symbolic_link_is_not_followed() {
    let directory = TempDir::new().unwrap();
    let target = directory.path().join("precious");
    fs::write(&target, "precious").unwrap();
    symlink(&target, directory.path().join("socket.lock")).unwrap();
    let refused = Listener::bind(&directory.path().join("socket"), 0o600);
    assert!(matches!(refused, Err(SocketError::Lock(..))), "{refused:?}");
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
}

#[test]
fn directory_anybody_may_write_to_is_refused() {
    let directory = TempDir::new().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let path = directory.path().join("socket");
    assert!(matches!(Listener::bind(&path, 0o600), Err(SocketError::UnsafeDirectory(_))));
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    Listener::bind(&path, 0o600).unwrap();
}

#[test]
fn path_too_long_for_a_socket_is_named() {
    let path = std::path::Path::new("/tmp").join("x".repeat(108));
    assert!(matches!(Listener::bind(&path, 0o600), Err(SocketError::PathTooLong(_))));
}

#[test]
fn socket_replaced_by_another_is_not_removed() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("socket");
    let listener = Listener::bind(&path, 0o600).unwrap();
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(listener);
    UnixStream::connect(&path).unwrap();
}

#[test]
fn daemon_told_to_stop_finishes_jobs_and_delivers_their_results() {
    let daemon = Daemon::start(limits());
    let mut peer = daemon.peer();
    peer.submitted(1, "hold", b"finished", true);
    let mut other = daemon.peer();
    let job = other.submitted(1, "hold", b"", false);
    daemon.stop();
    eventually("the socket to be gone", || !daemon.socket().exists());
    assert!(UnixStream::connect(daemon.socket()).is_err());
    // The lock outlives the socket: a successor has to wait until this one is over.
    assert!(matches!(Listener::bind(&daemon.socket(), 0o600), Err(SocketError::AlreadyServed { .. })));
    eventually("draining to begin", || {
        other.submit(2, "echo", b"", false);
        matches!(other.receive(),
            FromDaemon::Refused { refusal, .. } if refusal.reason == RefusalReason::Draining)
    });
    other.send(&stockade_wire::client::ToDaemon::Cancel { request: 3, job });
    assert_eq!(other.receive(), FromDaemon::Cancelling { request: 3 });
    assert!(!daemon.is_over(), "one job is still running");
    other.send(&stockade_wire::client::ToDaemon::List { request: 4 });
    let FromDaemon::Jobs { jobs, .. } = other.receive() else { panic!() };
    let held = jobs.into_iter().find(|summary| summary.verdict.is_none()).unwrap();
    other.send(&stockade_wire::client::ToDaemon::Cancel { request: 5, job: held.job });
    assert!(matches!(peer.receive(), FromDaemon::Finished { request: 1, .. }));
    assert_eq!(peer.next(), None);
    eventually("the daemon to end", || daemon.is_over());
    assert_eq!(fs::read_dir(daemon.directory()).unwrap().count(), 0);
}

#[test]
fn client_that_connected_before_the_stop_and_asks_after_it_is_told() {
    for _ in 0..20 {
        let daemon = Daemon::start(limits());
        let mut peer = daemon.peer();
        daemon.stop();
        peer.submit(1, "echo", b"", false);
        match peer.receive() {
            FromDaemon::Refused { refusal, .. } => assert_eq!(refusal.reason, RefusalReason::Draining),
            // It was read before the stop was.
            FromDaemon::Accepted { request: 1, .. } => {}
            other => panic!("{other:?}"),
        }
        eventually("the daemon to end", || daemon.is_over());
    }
}

#[test]
fn daemon_whose_jobs_do_not_end_in_time_ends_them() {
    let daemon = Daemon::start(Clients { drain_timeout: std::time::Duration::from_millis(100), ..limits() });
    let mut peer = daemon.peer();
    peer.submitted(1, "hold", b"", true);
    daemon.stop();
    match peer.receive() {
        FromDaemon::Finished { result, .. } => assert_eq!(result.outcome.verdict, Verdict::Cancelled),
        other => panic!("{other:?}"),
    }
    eventually("the daemon to end", || daemon.is_over());
}

#[test]
fn daemon_told_to_stop_twice_ends_at_once() {
    let daemon = Daemon::start(limits());
    let mut peer = daemon.peer();
    peer.submitted(1, "hold", b"", true);
    daemon.stop();
    daemon.stop();
    match peer.receive() {
        FromDaemon::Finished { result, .. } => assert_eq!(result.outcome.verdict, Verdict::Cancelled),
        other => panic!("{other:?}"),
    }
    eventually("the daemon to end", || daemon.is_over());
}
