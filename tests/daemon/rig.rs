//! A daemon on a thread of its own, and clients that say exactly what a test wants said.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;
use stockade::config::Clients;
use stockade::daemon::{Listener, serve};
use stockade_sys::rights;
use stockade_wire::client::{FromDaemon, ToDaemon};
use stockade_wire::limits::{FRAME_BODY_BYTES_MAX, FRAME_FDS_MAX};
use stockade_wire::{CLIENT_PROTOCOL_VERSION, CLIENT_PROTOCOL_VERSION_WITHOUT_DESCRIPTORS, codec, frame};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::jobs::{Remembered, submission};

/// No test waits longer than this for anything.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Daemon {
    directory: TempDir,
    stop: mpsc::UnboundedSender<()>,
    thread: Option<JoinHandle<()>>,
}

/// A client, and the version it speaks.
pub struct Peer(pub UnixStream, pub u16);

/// Every version there is.
pub const VERSIONS: [u16; 2] = [CLIENT_PROTOCOL_VERSION_WITHOUT_DESCRIPTORS, CLIENT_PROTOCOL_VERSION];

pub fn limits() -> Clients {
    Clients {
        connections_max: 64,
        connections_per_uid_max: 32,
        frame_timeout: Duration::from_secs(10),
        frame_bytes_max: 8 << 20,
        buffered_bytes_max: 32 << 20,
        outbound_bytes_max: 1 << 20,
        requests_in_flight_max: 16,
        drain_timeout: PATIENCE,
        socket_mode: 0o600,
    }
}

/// Returns once `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "still waiting for {what}");
        std::thread::yield_now();
    }
}

impl Daemon {
    pub fn start(limits: Clients) -> Self {
        let directory = TempDir::new().unwrap();
        let listener = Listener::bind(&directory.path().join("socket"), limits.socket_mode).unwrap();
        let (stop, mut asked) = mpsc::unbounded_channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let stop = async move || {
                asked.recv().await;
            };
            let serving = async { serve(Remembered::new(), listener, &limits, stop).await.unwrap() };
            LocalSet::new().block_on(&runtime, serving);
        });
        Self { directory, stop, thread: Some(thread) }
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn stop(&self) {
        self.stop.send(()).unwrap();
    }

    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// A connection on which nothing was said.
    pub fn stranger(&self) -> Peer {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Peer(stream, CLIENT_PROTOCOL_VERSION_WITHOUT_DESCRIPTORS)
    }

    /// A connection that has said hello.
    pub fn peer(&self) -> Peer {
        let mut peer = self.stranger();
        peer.hello();
        peer
    }

    /// A connection that has said hello in that version.
    pub fn peer_of(&self, version: u16) -> Peer {
        let mut peer = self.stranger();
        peer.1 = version;
        peer.hello();
        peer
    }

    /// The daemon is as good as new: a fresh client gets its job done.
    pub fn assert_serves(&self) {
        let mut peer = self.peer();
        assert_eq!(peer.echo(b"still here"), b"still here");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Once to drain, once more not to wait for what a failing test has left running.
        let _ = self.stop.send(());
        let _ = self.stop.send(());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("the daemon's thread panicked");
            }
        }
    }
}

impl Peer {
    pub fn hello(&mut self) {
        assert!(self.is_welcome());
    }

    /// Says hello, and whether that was answered with one, in the same version.
    pub fn is_welcome(&mut self) -> bool {
        let version = self.1;
        self.send(&ToDaemon::Hello { version, agent: "test".into() });
        matches!(self.next(), Some(FromDaemon::Hello { version: answered, .. }) if answered == version)
    }

    pub fn send<T: Serialize>(&mut self, message: &T) {
        self.raw(&frame::encode(message, usize::MAX).unwrap());
    }

    /// Sends a frame that announces `announced` descriptors, and with the first byte of its body those that are there.
    pub fn send_with<T: Serialize>(&mut self, message: &T, announced: usize, fds: &[BorrowedFd<'_>]) {
        let frame = frame::encode_with(message, FRAME_BODY_BYTES_MAX, announced).unwrap();
        let (header, body) = frame.split_at(frame::HEADER_BYTES);
        self.raw(header);
        self.raw_with(body, fds);
    }

    /// Sends bytes, and descriptors with the first of them.
    pub fn raw_with(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        match rights::send(self.0.as_fd(), bytes, fds) {
            Ok(sent) => self.raw(bytes.split_at(sent).1),
            // As for bytes alone: what the daemon said is read next.
            Err(nix::errno::Errno::EPIPE | nix::errno::Errno::ECONNRESET) => {}
            Err(errno) => panic!("{errno}"),
        }
    }

    /// The next message and the descriptors that its header announced; `None` once the daemon has closed the connection.
    pub fn next_with_fds(&mut self) -> Option<(FromDaemon, Vec<OwnedFd>)> {
        let mut header = [0; frame::HEADER_BYTES];
        match self.0.read_exact(&mut header) {
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                return None;
            }
            read => read.unwrap(),
        }
        let header = frame::header(header, FRAME_BODY_BYTES_MAX).unwrap();
        let mut body = vec![0; header.body_bytes];
        let came = rights::receive(self.0.as_fd(), &mut body, FRAME_FDS_MAX).unwrap();
        assert!(!came.more_fds);
        assert_eq!(came.fds.len(), header.fds);
        self.0.read_exact(body.split_at_mut(came.length).1).unwrap();
        Some((codec::decode(&body).unwrap(), came.fds))
    }

    /// Sends bytes; a daemon that has closed already is no failure, since what it said is read next.
    pub fn raw(&mut self, bytes: &[u8]) {
        match self.0.write_all(bytes) {
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {}
            written => written.unwrap(),
        }
    }

    pub fn submit(&mut self, request: u64, name: &str, input: &[u8], wait: bool) {
        let submission = Box::new(submission(name, input));
        self.send(&ToDaemon::Submit { request, wait, durable: false, submission });
    }

    /// Submits without waiting; the job's id.
    pub fn submitted(&mut self, request: u64, name: &str, input: &[u8], wait: bool) -> String {
        self.submit(request, name, input, wait);
        match self.receive() {
            FromDaemon::Accepted { request: answered, job } if answered == request => job,
            other => panic!("not accepted: {other:?}"),
        }
    }

    pub fn echo(&mut self, input: &[u8]) -> Vec<u8> {
        self.submitted(1, "echo", input, true);
        match self.receive() {
            FromDaemon::Finished { request: 1, result } => result.output.0,
            other => panic!("not finished: {other:?}"),
        }
    }

    pub fn receive(&mut self) -> FromDaemon {
        self.next().expect("the daemon closed the connection")
    }

    /// The next message; `None` once the daemon has closed the connection.
    pub fn next(&mut self) -> Option<FromDaemon> {
        let mut header = [0; 4];
        match self.0.read_exact(&mut header) {
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                return None;
            }
            read => read.unwrap(),
        }
        let mut body = vec![0; u32::from_le_bytes(header) as usize];
        self.0.read_exact(&mut body).unwrap();
        Some(codec::decode(&body).unwrap())
    }

    /// The daemon says that the protocol was broken, in words that hold `part`, and closes.
    #[track_caller]
    pub fn assert_thrown_out(&mut self, part: &str) {
        match self.next() {
            Some(FromDaemon::Protocol { message }) => {
                assert!(message.contains(part), "{message:?} does not say {part:?}");
            }
            other => panic!("expected a protocol error about {part:?}, got {other:?}"),
        }
        assert_eq!(self.next(), None, "the connection is closed after a protocol error");
    }
}
