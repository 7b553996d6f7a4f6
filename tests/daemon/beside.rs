//! Descriptors beside frames: the right ones are taken, every other is refused or ends its connection, and none stays
//! open. The daemon runs in this process, so that what it holds can be seen in `/proc/self/fd`; each test looks for files
//! of a name of its own.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use stockade::config::Clients;
use stockade::sealed::SealedFile;
use stockade_sys::memfd;
use stockade_wire::CLIENT_PROTOCOL_VERSION;
use stockade_wire::client::{FromDaemon, RefusalReason, ToDaemon};
use stockade_wire::frame;
use stockade_wire::job::{JobResult, ModuleSource, Submission};
use stockade_wire::limits::{FRAME_BODY_BYTES_MAX, INPUT_BYTES_MAX, MODULE_BYTES_MAX};

use crate::jobs::submission;
use crate::rig::{Daemon, Peer, eventually, limits};

/// As many as the kernel lets through in one message (`SCM_MAX_FD`).
const FLOOD: usize = 253;

fn sealed(name: &str, content: &[u8]) -> OwnedFd {
    memfd::sealed(name, content).unwrap()
}

/// Descriptors of this process, daemon included, for files in memory of that name.
fn open(name: &str) -> usize {
    let path = format!("/memfd:{name} (deleted)");
    let entries = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = entries.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    targets.filter(|target| target.as_os_str() == path.as_str()).count()
}

/// A job whose module, or input, or both come as descriptors.
fn beside(module: bool) -> Submission {
    let plain = submission("echo", b"");
    Submission { module: if module { ModuleSource::Descriptor } else { plain.module }, ..plain }
}

fn submit(submission: Submission) -> ToDaemon {
    ToDaemon::Submit { request: 1, wait: true, durable: false, submission: Box::new(submission) }
}

impl Peer {
    fn submit_with(&mut self, submission: Submission, fds: &[BorrowedFd<'_>]) {
        self.send_with(&submit(submission), fds.len(), fds);
    }

    /// The result, and the output that came beside it.
    fn ended(&mut self) -> (Box<JobResult>, Option<SealedFile>) {
        let (accepted, none) = self.next_with_fds().unwrap();
        assert!(matches!(accepted, FromDaemon::Accepted { request: 1, .. }), "{accepted:?}");
        assert!(none.is_empty());
        match self.next_with_fds().unwrap() {
            (FromDaemon::Finished { request: 1, result }, fds) => {
                (result, fds.first().map(|fd| SealedFile::examine(fd, u64::MAX).unwrap()))
            }
            other => panic!("not finished: {other:?}"),
        }
    }

    /// The refusal's reason, of a job whose descriptor is not what it has to be. The connection goes on.
    #[track_caller]
    fn assert_refused(&mut self, expected: RefusalReason, part: &str) {
        match self.next_with_fds() {
            Some((FromDaemon::Refused { request: 1, refusal }, _)) => {
                assert_eq!(refusal.reason, expected, "{}", refusal.message);
                assert!(refusal.message.contains(part), "{:?} does not say {part:?}", refusal.message);
                assert_eq!(refusal.retry_after_ms, None);
            }
            other => panic!("expected a refusal about {part:?}, got {other:?}"),
        }
    }
}

fn fd_peer(daemon: &Daemon) -> Peer {
    daemon.peer_of(CLIENT_PROTOCOL_VERSION)
}

#[test]
fn module_and_input_beside_the_frame_are_the_jobs_and_its_output_comes_back_so() {
    let daemon = Daemon::start(limits());
    let mut peer = fd_peer(&daemon);
    let content: Vec<u8> = (0..=255).cycle().take(5_000_000).collect();
    let (module, input) = (sealed("both", b"\0asm"), sealed("both", &content));
    peer.submit_with(beside(true), &[module.as_fd(), input.as_fd()]);
    let (result, output) = peer.ended();
    assert!(result.output.0.is_empty());
    assert_eq!(output.unwrap().read().unwrap(), content, "its input");
    peer.submit_with(beside(false), &[input.as_fd()]);
    assert_eq!(peer.ended().1.unwrap().read().unwrap(), content, "its input");
    peer.submit_with(beside(true), &[module.as_fd()]);
    assert_eq!(peer.ended().1.unwrap().read().unwrap(), b"\0asm", "its module");
    peer.submit_with(submission("echo", b"in the frame"), &[]);
    let (result, output) = peer.ended();
    assert!(output.is_none());
    assert_eq!(result.output.0, b"in the frame");
}

#[test]
fn output_beside_the_frame_is_sealed_and_each_client_has_a_place_of_its_own_in_it() {
    let daemon = Daemon::start(limits());
    let mut peer = fd_peer(&daemon);
    let input = sealed("places", b"one and the same");
    peer.submit_with(beside(false), &[input.as_fd()]);
    let (result, _) = peer.ended();
    let mut files = Vec::new();
    for request in 2..4 {
        peer.send(&ToDaemon::Result { request, job: result.job.clone(), wait: false });
        let (_, fds) = peer.next_with_fds().unwrap();
        assert!(memfd::is_sealed(&fds[0]).unwrap());
        files.extend(fds.into_iter().map(File::from));
    }
    for mut file in files {
        assert!(file.write_all(b"x").is_err() && file.set_len(1).is_err() && file.set_len(99).is_err());
        assert_eq!(std::io::read_to_string(&file).unwrap(), "one and the same");
    }
}

#[test]
fn output_beside_the_frame_is_in_it_for_a_client_that_takes_no_descriptors() {
    let daemon = Daemon::start(limits());
    let content = vec![7; 3_000_000];
    let input = sealed("elder", &content);
    let mut peer = fd_peer(&daemon);
    peer.submit_with(beside(false), &[input.as_fd()]);
    let (result, _) = peer.ended();
    let mut elder = daemon.peer();
    elder.send(&ToDaemon::Result { request: 9, job: result.job, wait: true });
    match elder.receive() {
        FromDaemon::Finished { request: 9, result } => assert_eq!(result.output.0, content),
        other => panic!("not finished: {other:?}"),
    }
}

#[test]
fn descriptor_that_is_not_what_it_has_to_be_is_refused_and_closed() {
    let daemon = Daemon::start(limits());
    let mut peer = fd_peer(&daemon);
    let with = |seals| {
        let mut file = memfd::create("not-taken").unwrap();
        file.write_all(b"content").unwrap();
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
        OwnedFd::from(file)
    };
    let sparse = |bytes: usize| {
        let file = memfd::create("not-taken").unwrap();
        file.set_len(bytes as u64).unwrap();
        fcntl(&file, FcntlArg::F_ADD_SEALS(memfd::FIXED)).unwrap();
        OwnedFd::from(file)
    };
    let file = |path: &str| OwnedFd::from(File::open(path).unwrap());
    let (pipe, _writer) = std::io::pipe().unwrap();
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let bad = RefusalReason::Descriptor;
    let cases = [
        (with(SealFlag::empty()), bad, "lacks F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE"),
        (with(memfd::FIXED - SealFlag::F_SEAL_WRITE), bad, "lacks F_SEAL_WRITE"),
        (with(memfd::FIXED - SealFlag::F_SEAL_GROW), bad, "lacks F_SEAL_GROW"),
        (with(memfd::FIXED - SealFlag::F_SEAL_SHRINK), bad, "lacks F_SEAL_SHRINK"),
        (pipe.into(), bad, "is a pipe"),
        (socket.into(), bad, "is a socket"),
        (file("/"), bad, "is a directory"),
        (file("/dev/zero"), bad, "is a device"),
        (tempfile::tempfile().unwrap().into(), bad, "is no file in memory"),
        (sparse(MODULE_BYTES_MAX.max(INPUT_BYTES_MAX) + 1), RefusalReason::TooLarge, "at most"),
        (sparse(1 << 40), RefusalReason::TooLarge, "has 1099511627776 bytes"),
    ];
    let good = sealed("not-taken", b"\0asm");
    for (fd, reason, said) in &cases {
        peer.submit_with(beside(false), &[fd.as_fd()]);
        peer.assert_refused(*reason, &format!("the input {said}").replace("the input at most", "at most"));
        peer.submit_with(beside(true), &[fd.as_fd()]);
        peer.assert_refused(*reason, said);
        peer.submit_with(beside(true), &[good.as_fd(), fd.as_fd()]);
        peer.assert_refused(*reason, said);
    }
    // One for the input may be too large where one for the module is not.
    peer.submit_with(beside(false), &[sparse(INPUT_BYTES_MAX + 1).as_fd()]);
    peer.assert_refused(RefusalReason::TooLarge, "the input has 16777217 bytes; at most 16777216 are taken");
    drop((cases, good));
    assert_eq!(open("not-taken"), 0, "the daemon, in this process, holds none of them");
    assert_eq!(peer.echo_with(b"it goes on"), b"it goes on");
}

impl Peer {
    fn echo_with(&mut self, content: &[u8]) -> Vec<u8> {
        let input = sealed("echo-input", content);
        self.submit_with(beside(false), &[input.as_fd()]);
        self.ended().1.unwrap().read().unwrap()
    }
}

#[test]
fn descriptors_other_than_those_announced_end_the_connection_and_are_closed() {
    let daemon = Daemon::start(limits());
    let file = sealed("miscounted", b"\0asm");
    let fds = vec![file.as_fd(); FLOOD];
    let list = ToDaemon::List { request: 1 };
    // What the message has use for, what its header announces, what comes.
    let cases: [(ToDaemon, usize, usize, &str); 13] = [
        (submit(beside(false)), 1, 0, "0 descriptors came with the body of a frame that announces 1"),
        (submit(beside(true)), 2, 1, "1 descriptors came with the body of a frame that announces 2"),
        (submit(beside(false)), 0, 1, "that no header announced"),
        (submit(beside(false)), 0, FLOOD, "that no header announced"),
        (submit(beside(false)), 1, 2, "that no header announced"),
        (submit(beside(true)), 2, 3, "that no header announced"),
        (submit(beside(true)), 2, FLOOD, "that no header announced"),
        (submit(beside(false)), 2, 2, "2 descriptors came with a submission that has use for 1"),
        (submit(beside(true)), 0, 0, "the module was to come as a descriptor"),
        (submit(submission("echo", b"twice")), 1, 1, "the input came twice"),
        (list.clone(), 1, 1, "1 descriptors came with a message that none belong to"),
        (list.clone(), 2, 2, "2 descriptors came with a message that none belong to"),
        (
            ToDaemon::Hello { version: CLIENT_PROTOCOL_VERSION, agent: "x".into() },
            1,
            1,
            "that none belong to",
        ),
    ];
    for (message, announced, come, said) in cases {
        let mut peer = fd_peer(&daemon);
        peer.send_with(&message, announced, &fds[..come]);
        peer.assert_thrown_out(said);
    }
    eventually("them to be closed", || open("miscounted") == 1);
    daemon.assert_serves();
}

#[test]
fn descriptors_at_the_wrong_byte_end_the_connection_and_are_closed() {
    let daemon = Daemon::start(limits());
    let file = sealed("misplaced", b"content");
    let fds = [file.as_fd()];
    let whole = frame::encode_with(&submit(beside(false)), FRAME_BODY_BYTES_MAX, 1).unwrap();
    let (header, body) = whole.split_at(frame::HEADER_BYTES);
    // With the header, with a part of it, with a later byte of the body.
    let mut peer = fd_peer(&daemon);
    peer.raw_with(&whole, &fds);
    peer.assert_thrown_out("that no header announced");
    let mut peer = fd_peer(&daemon);
    peer.raw(&header[..2]);
    peer.raw_with(&header[2..], &fds);
    peer.assert_thrown_out("that no header announced");
    let mut peer = fd_peer(&daemon);
    peer.raw(header);
    peer.raw(&body[..1]);
    peer.raw_with(&body[1..], &fds);
    peer.assert_thrown_out("0 descriptors came with the body");
    // Three of them: no header can say so.
    let mut peer = fd_peer(&daemon);
    peer.raw(&(8_u32 | 3 << 30).to_le_bytes());
    peer.assert_thrown_out("announces 3 descriptors; at most 2");
    eventually("them to be closed", || open("misplaced") == 1);
    daemon.assert_serves();
}

#[test]
fn descriptors_of_a_client_that_said_it_sends_none_are_never_received() {
    let daemon = Daemon::start(limits());
    let file = sealed("unsaid", b"content");
    let fds = vec![file.as_fd(); FLOOD];
    let mut elder = daemon.peer();
    for _ in 0..3 {
        let list = frame::encode(&ToDaemon::List { request: 1 }, 100).unwrap();
        elder.raw_with(&list, &fds);
        elder.receive();
        assert_eq!(open("unsaid"), 1, "the daemon, in this process, holds none of them");
    }
    // Announced as the newer version does, it is a length beyond all bounds.
    elder.send_with(&submit(beside(false)), 1, &fds[..1]);
    elder.assert_thrown_out("at most");
    // Before hello, too.
    let mut stranger = daemon.stranger();
    let hello = ToDaemon::Hello { version: CLIENT_PROTOCOL_VERSION, agent: "test".into() };
    stranger.raw_with(&frame::encode(&hello, 100).unwrap(), &fds);
    stranger.receive();
    stranger.send(&ToDaemon::List { request: 1 });
    stranger.receive();
    assert_eq!(open("unsaid"), 1);
}

#[test]
fn descriptors_of_frames_that_never_end_are_closed_with_their_connection() {
    let daemon = Daemon::start(Clients { frame_timeout: Duration::from_millis(200), ..limits() });
    let file = sealed("unended", b"content");
    let whole = frame::encode_with(&submit(beside(false)), FRAME_BODY_BYTES_MAX, 1).unwrap();
    let begin = |peer: &mut Peer| {
        peer.raw(&whole[..frame::HEADER_BYTES]);
        peer.raw_with(&whole[frame::HEADER_BYTES..whole.len() - 1], &[file.as_fd()]);
    };
    let mut silent = fd_peer(&daemon);
    begin(&mut silent);
    silent.assert_thrown_out("took longer");
    let mut gone = fd_peer(&daemon);
    begin(&mut gone);
    gone.0.shutdown(std::net::Shutdown::Both).unwrap();
    drop(gone);
    // A body that is no message.
    let mut garbled = fd_peer(&daemon);
    garbled.raw(&(4_u32 | 1 << 30).to_le_bytes());
    garbled.raw_with(&[0xff; 4], &[file.as_fd()]);
    garbled.assert_thrown_out("expected type");
    eventually("them to be closed", || open("unended") == 1);
    daemon.assert_serves();
}

#[test]
fn many_jobs_with_descriptors_leave_none_open() {
    let daemon = Daemon::start(limits());
    let mut peer = fd_peer(&daemon);
    let module = sealed("many", b"\0asm");
    for round in 0..200_u32 {
        let input = sealed("many", &round.to_le_bytes());
        peer.submit_with(beside(true), &[module.as_fd(), input.as_fd()]);
        assert_eq!(peer.ended().1.unwrap().read().unwrap(), round.to_le_bytes());
    }
    assert!(open("many") > 200, "jobs have theirs");
    peer.submit(2, "forget", b"", false);
    peer.next_with_fds().unwrap();
    eventually("them to be closed", || open("many") == 1);
}
