//! Frames that are not frames: each ends its connection, with a reason, and nobody else's.

use std::net::Shutdown;
use std::time::{Duration, Instant};

use stockade::config::Clients;
use stockade_wire::client::{FromDaemon, ToDaemon};
use stockade_wire::frame;
use stockade_wire::limits::HELLO_FRAME_BYTES_MAX;
use stockade_wire::{CLIENT_PROTOCOL_VERSION, CLIENT_PROTOCOL_VERSION_WITHOUT_DESCRIPTORS};

use crate::jobs::submission;
use crate::rig::{Daemon, Peer, VERSIONS, limits};

fn impatient() -> Clients {
    Clients { frame_timeout: Duration::from_millis(200), ..limits() }
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

#[test]
fn frame_with_impossible_length_is_refused() {
    let daemon = Daemon::start(limits());
    let max = u32::try_from(limits().frame_bytes_max).unwrap();
    for (length, said) in [(0, "empty body"), (max + 1, "at most"), (u32::MAX, "at most")] {
        for version in VERSIONS {
            let mut peer = daemon.peer_of(version);
            peer.raw(&length.to_le_bytes());
            peer.assert_thrown_out(said);
        }
    }
    daemon.assert_serves();
}

#[test]
fn frame_with_a_truncated_length_or_body_is_refused() {
    let daemon = Daemon::start(limits());
    for bytes in [&[7][..], &[7, 0, 0], &[7, 0, 0, 0], &[7, 0, 0, 0, 6, 0]] {
        for version in VERSIONS {
            let mut peer = daemon.peer_of(version);
            peer.raw(bytes);
            peer.0.shutdown(Shutdown::Write).unwrap();
            peer.assert_thrown_out("within a frame");
        }
    }
    daemon.assert_serves();
}

#[test]
fn frame_that_comes_byte_by_byte_in_time_is_taken() {
    let daemon = Daemon::start(limits());
    for version in VERSIONS {
        let mut peer = daemon.peer_of(version);
        for byte in frame::encode(&ToDaemon::List { request: 1 }, 100).unwrap() {
            peer.raw(&[byte]);
        }
        assert!(matches!(peer.receive(), FromDaemon::Jobs { request: 1, .. }));
    }
}

#[test]
fn frames_that_come_at_once_are_all_taken() {
    let daemon = Daemon::start(limits());
    for version in VERSIONS {
        let mut peer = daemon.peer_of(version);
        let frames: Vec<u8> = (0..2000)
            .flat_map(|request| {
                frame::encode(&ToDaemon::Cancel { request, job: "none".into() }, 100).unwrap()
            })
            .collect();
        peer.raw(&frames);
        for request in 0..2000 {
            assert_eq!(peer.receive(), FromDaemon::NotFound { request });
        }
    }
}

#[test]
fn frame_that_comes_byte_by_byte_is_given_up() {
    let daemon = Daemon::start(impatient());
    let mut peer = daemon.peer();
    let request = frame::encode(&ToDaemon::List { request: 1 }, 100).unwrap();
    let began = Instant::now();
    // The read timeout is the pace: a byte, then a look whether the daemon has had enough.
    peer.0.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    for byte in request {
        peer.raw(&[byte]);
        let mut nothing = [0; 1];
        if peer.0.peek_one(&mut nothing) {
            break;
        }
    }
    assert!(began.elapsed() < Duration::from_secs(5));
    peer.assert_thrown_out("took longer");
    daemon.assert_serves();
}

#[test]
fn length_followed_by_silence_is_given_up() {
    let daemon = Daemon::start(impatient());
    for version in VERSIONS {
        // The second is large enough to be counted against the memory for bodies.
        for length in [1000_u32, 4 << 20] {
            let mut peer = daemon.peer_of(version);
            peer.raw(&length.to_le_bytes());
            peer.assert_thrown_out("took longer");
        }
    }
    daemon.assert_serves();
}

#[test]
fn connection_without_hello_is_given_up() {
    let daemon = Daemon::start(impatient());
    daemon.stranger().assert_thrown_out("took longer");
    daemon.assert_serves();
}

#[test]
fn idle_connection_after_hello_is_kept() {
    let daemon = Daemon::start(impatient());
    let mut idle = daemon.peer();
    // Twice as long as a frame may take, measured by connections that say nothing.
    daemon.stranger().assert_thrown_out("took longer");
    daemon.stranger().assert_thrown_out("took longer");
    assert_eq!(idle.echo(b"after a while"), b"after a while");
}

#[test]
fn first_frame_of_a_stranger_is_small() {
    let daemon = Daemon::start(limits());
    let mut peer = daemon.stranger();
    peer.raw(&u32::try_from(HELLO_FRAME_BYTES_MAX + 1).unwrap().to_le_bytes());
    peer.assert_thrown_out("at most");
}

#[test]
fn message_out_of_order_is_refused() {
    let daemon = Daemon::start(limits());
    let mut peer = daemon.stranger();
    peer.send(&ToDaemon::List { request: 1 });
    peer.assert_thrown_out("first message");
    let mut peer = daemon.peer();
    peer.send(&ToDaemon::Hello { version: CLIENT_PROTOCOL_VERSION, agent: "again".into() });
    peer.assert_thrown_out("said before");
}

#[test]
fn unknown_version_is_refused_with_both_versions() {
    let daemon = Daemon::start(limits());
    for version in [0, CLIENT_PROTOCOL_VERSION + 1, u16::MAX] {
        let mut peer = daemon.stranger();
        peer.send(&ToDaemon::Hello { version, agent: "from elsewhere".into() });
        peer.assert_thrown_out(&format!(
            "versions {CLIENT_PROTOCOL_VERSION_WITHOUT_DESCRIPTORS} to {CLIENT_PROTOCOL_VERSION} of the protocol, the client {version}"
        ));
    }
}

#[test]
fn unknown_tag_and_trailing_bytes_are_refused() {
    let daemon = Daemon::start(limits());
    let list = frame::encode(&ToDaemon::List { request: 1 }, 100).unwrap()[4..].to_vec();
    let trailing = [&list[..], &[0]].concat();
    let short = list[..list.len() - 1].to_vec();
    let bool_of_two = {
        let message = ToDaemon::Result { request: 1, job: "x".into(), wait: true };
        let mut body = frame::encode(&message, 100).unwrap()[4..].to_vec();
        *body.last_mut().unwrap() = 2;
        body
    };
    let not_utf8 = {
        let message = ToDaemon::Cancel { request: 1, job: "x".into() };
        let mut body = frame::encode(&message, 100).unwrap()[4..].to_vec();
        *body.last_mut().unwrap() = 0xff;
        body
    };
    let cases = [
        (7_u32.to_le_bytes().to_vec(), "expected type"),
        (u32::MAX.to_le_bytes().to_vec(), "expected type"),
        (trailing, "1 bytes after its message"),
        (short, "expected type"),
        (bool_of_two, "expected type"),
        (not_utf8, "expected type"),
    ];
    for (body, said) in cases {
        for version in VERSIONS {
            let mut peer = daemon.peer_of(version);
            peer.raw(&framed(&body));
            peer.assert_thrown_out(said);
        }
    }
    daemon.assert_serves();
}

#[test]
fn collection_longer_than_its_frame_is_refused() {
    let daemon = Daemon::start(limits());
    let message = ToDaemon::Submit {
        request: 1,
        wait: false,
        durable: false,
        submission: Box::new(submission("echo", b"")),
    };
    let body = frame::encode(&message, 1000).unwrap()[4..].to_vec();
    // Where the lengths lie: tag 4, request 8, wait 1, source tag 4, then the module.
    let module_at = 17;
    let name_at = module_at + 8 + 4;
    let arguments_at = name_at + 8 + 4 + 1;
    for at in [module_at, name_at, arguments_at] {
        for length in [1_u64 << 33, 1 << 40, u64::MAX] {
            let mut lying = body.clone();
            lying[at..at + 8].copy_from_slice(&length.to_le_bytes());
            let mut peer = daemon.peer();
            peer.raw(&framed(&lying));
            peer.assert_thrown_out("expected type");
        }
    }
    daemon.assert_serves();
}

#[test]
fn arbitrary_bytes_after_hello_never_take_the_daemon_down() {
    use proptest::prelude::*;
    let daemon = Daemon::start(limits());
    let bytes = proptest::collection::vec(any::<u8>(), 1..300);
    proptest!(ProptestConfig::with_cases(100), |(body in bytes, version in proptest::sample::select(&VERSIONS[..]))| {
        let mut peer = daemon.peer_of(version);
        peer.raw(&framed(&body));
        peer.0.shutdown(Shutdown::Write).unwrap();
        while peer.next().is_some() {}
    });
    daemon.assert_serves();
}

trait PeekOne {
    fn peek_one(&self, byte: &mut [u8; 1]) -> bool;
}

impl PeekOne for std::os::unix::net::UnixStream {
    /// Whether there is something to read, or the other end is gone, within the read timeout.
    fn peek_one(&self, byte: &mut [u8; 1]) -> bool {
        use nix::sys::socket::{MsgFlags, recv};
        use std::os::fd::AsRawFd;
        recv(self.as_raw_fd(), byte, MsgFlags::MSG_PEEK) != Err(nix::errno::Errno::EAGAIN)
    }
}

#[test]
fn descriptors_sent_along_are_never_received() {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use std::io::IoSlice;
    use std::os::fd::AsRawFd;

    /// As many as the kernel lets through in one message (`SCM_MAX_FD`).
    const FLOOD: usize = 253;
    let daemon = Daemon::start(limits());
    let file = tempfile::NamedTempFile::new().unwrap();
    let open = || {
        let entries = std::fs::read_dir("/proc/self/fd").unwrap();
        let targets = entries.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        targets.filter(|target| target == file.path()).count()
    };
    assert_eq!(open(), 1);
    let mut peer: Peer = daemon.peer();
    let request = frame::encode(&ToDaemon::List { request: 1 }, 100).unwrap();
    for _ in 0..3 {
        let fds = vec![file.as_file().as_raw_fd(); FLOOD];
        let sent = sendmsg::<()>(
            peer.0.as_raw_fd(),
            &[IoSlice::new(&request)],
            &[ControlMessage::ScmRights(&fds)],
            MsgFlags::empty(),
            None,
        );
        assert_eq!(sent.unwrap(), request.len());
        peer.receive();
        assert_eq!(open(), 1, "the daemon, in this process, holds none of them");
    }
}
