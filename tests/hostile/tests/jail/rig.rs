//! A supervisor small enough to test the jail with: one zygote, workers on request, a deadline on every wait.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use stockade_sys::link::{self, LinkError};
use stockade_sys::memfd;
use stockade_sys::pidfd::{self, Exit};
use stockade_wire::frame;
use stockade_wire::job::{DirectoryGrant, Layer};
use stockade_wire::limits::LINK_MESSAGE_BYTES_MAX;
use stockade_wire::worker::{
    CompileOrder, Ending, FromWorker, JailReport, PrepareOrder, Role, RunLimits, RunOrder, ToWorker,
};
use stockade_wire::zygote::{
    ForkOperation, ForkOrder, FromZygote, NamespacePolicy, ProcessLimits, ToZygote, WarmReport, ZygoteConfig,
};
use stockade_worker::run::make_room_for_scripts;

/// Nothing here takes longer on a machine that works.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Rig {
    pub(crate) control: OwnedFd,
    pub(crate) zygote: Child,
    pub(crate) warm: WarmReport,
}

pub(crate) struct Worker {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) link: OwnedFd,
    pub(crate) output: File,
    pub(crate) stdout_log: File,
    pub(crate) stderr_log: File,
}

pub(crate) fn configuration() -> ZygoteConfig {
    ZygoteConfig {
        supervisor_pid: std::process::id(),
        memory_bytes_max: 64 << 20,
        scripts_bytes_max: 1 << 20,
        landlock_abi_min: 0,
        namespaces: NamespacePolicy::Auto,
        other_ids: nix::unistd::geteuid().is_root(),
        require: vec![Layer::Seccomp, Layer::NoNewPrivs, Layer::Rlimits, Layer::Capabilities],
        huge_pages: false,
    }
}

pub(crate) fn fork_order(role: Role) -> ForkOrder {
    ForkOrder {
        role,
        into_leaf: false,
        identity: None,
        directories: Vec::new(),
        rlimits: ProcessLimits { open_files: 32, file_bytes: 64 << 20, data_bytes: 512 << 20 },
    }
}

pub(crate) fn run_order(entry: Option<&str>) -> RunOrder {
    RunOrder {
        name: "guest".to_owned(),
        entry: entry.map(str::to_owned),
        arguments: Vec::new(),
        environment: Vec::new(),
        limits: RunLimits {
            deadline_us: 30_000_000,
            memory_bytes: 32 << 20,
            data_bytes: 512 << 20,
            fuel: None,
            input_bytes: None,
        },
        script: None,
    }
}

pub(crate) fn grant(host: &Path, guest: &str, writable: bool) -> DirectoryGrant {
    DirectoryGrant { host: host.to_str().unwrap().to_owned(), guest: guest.to_owned(), writable }
}

pub(crate) fn hostile() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_stockade-hostile"))
}

/// What a probe says without a jail around it.
pub(crate) fn unjailed(probe: &str) -> String {
    let done = Command::new(hostile()).args(["probe", probe]).output().unwrap();
    assert!(done.status.success(), "probe {probe} could not be run: {done:?}");
    String::from_utf8(done.stdout).unwrap().trim_end().to_owned()
}

impl Rig {
    pub(crate) fn start() -> Self {
        Self::start_with(&hostile(), &configuration()).unwrap()
    }

    /// Under another file name, which chooses a misbehaviour before the order.
    pub(crate) fn start_named(name: &str) -> (Self, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        std::os::unix::fs::symlink(hostile(), &path).unwrap();
        (Self::start_with(&path, &configuration()).unwrap(), directory)
    }

    pub(crate) fn start_with(program: &Path, config: &ZygoteConfig) -> Result<Self, String> {
        let (control, theirs) = link::pair().unwrap();
        make_room_for_scripts();
        let zygote = Command::new(program)
            .arg("zygote")
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let packet = frame::encode(&ToZygote::Configure(config.clone()), LINK_MESSAGE_BYTES_MAX).unwrap();
        link::send(control.as_fd(), &packet, &[]).unwrap();
        match receive::<FromZygote>(control.as_fd(), 0) {
            Some((FromZygote::Warm(warm), _)) => Ok(Self { control, zygote, warm }),
            Some((FromZygote::Failed(text), _)) => Err(text),
            other => panic!("the zygote said {other:?} instead of being warm"),
        }
    }

    pub(crate) fn fork(&self, order: &ForkOrder) -> Result<Worker, (ForkOperation, i32)> {
        let ((link, [output, stdout_log, stderr_log]), theirs) = ends();
        self.send(&ToZygote::Fork(order.clone()), &theirs.each_ref().map(AsFd::as_fd));
        match self.answer() {
            (FromZygote::Forked { pid }, Some(pidfd)) => {
                Ok(Worker { pid, pidfd, link, output, stdout_log, stderr_log })
            }
            (FromZygote::NotForked { operation, errno }, None) => Err((operation, errno)),
            other => panic!("the zygote answered {other:?}"),
        }
    }

    pub(crate) fn send(&self, message: &ToZygote, fds: &[BorrowedFd<'_>]) {
        let packet = frame::encode(message, LINK_MESSAGE_BYTES_MAX).unwrap();
        link::send(self.control.as_fd(), &packet, fds).unwrap();
    }

    pub(crate) fn answer(&self) -> (FromZygote, Option<OwnedFd>) {
        let (message, mut fds) = receive(self.control.as_fd(), 1).expect("the zygote is gone");
        (message, fds.pop())
    }

    /// Forks a worker and takes its report.
    pub(crate) fn locked(&self, order: &ForkOrder) -> (Worker, JailReport) {
        let worker = self.fork(order).unwrap();
        match worker.receive() {
            Some(FromWorker::Locked(report)) => (worker, report),
            other => panic!("the worker said {other:?} instead of being locked"),
        }
    }

    /// One hostile entry in a worker of `role`: what it says, and how it ends.
    pub(crate) fn misbehave(&self, role: Role, entry: &str) -> (Vec<FromWorker>, Exit) {
        let (worker, _) = self.locked(&fork_order(role));
        worker.run(&run_order(Some(entry)));
        worker.conversation()
    }

    /// One probe in a worker locked as `order` says.
    pub(crate) fn probe(&self, order: &ForkOrder, probe: &str) -> String {
        let (worker, _) = self.locked(order);
        worker.run(&run_order(Some(&format!("probe:{probe}"))));
        let (said, exit) = worker.conversation();
        match said.as_slice() {
            [FromWorker::Finished(report)] => match &report.ending {
                Ending::Failed(text) => text.clone(),
                other => panic!("the probe ended as {other:?}"),
            },
            other => format!("{other:?} and {exit:?}"),
        }
    }
}

/// A worker that holds a module.
pub(crate) struct Template {
    worker: Worker,
    pub(crate) live: bool,
    pub(crate) initialised: bool,
}

/// With time and room enough for any initialiser that ends.
pub(crate) fn prepare_order() -> PrepareOrder {
    PrepareOrder { entry: None, engine: false, initialise_us: 10_000_000, initialise_bytes: 16 << 20 }
}

impl Template {
    /// `Err` with what it says of a module it cannot hold.
    pub(crate) fn of(rig: &Rig, artifact: &OwnedFd) -> Result<Self, String> {
        Self::by(rig, artifact, prepare_order())
    }

    /// The same with this order.
    pub(crate) fn by(rig: &Rig, artifact: &OwnedFd, order: PrepareOrder) -> Result<Self, String> {
        let (worker, _) = rig.locked(&fork_order(Role::Template));
        worker.order(&ToWorker::Prepare(order), &[artifact.as_fd()]);
        match worker.receive() {
            Some(FromWorker::Prepared { live, initialised }) => Ok(Self { worker, live, initialised }),
            Some(FromWorker::NotPrepared(why)) => {
                assert_eq!(worker.end(), Exit::Code(0));
                Err(why)
            }
            other => panic!("the template said {other:?}"),
        }
    }

    /// Has it fork a worker, and takes that one's report.
    pub(crate) fn fork(&self) -> (Worker, JailReport) {
        let worker = self.fork_all(1, true).pop().unwrap();
        match worker.receive() {
            Some(FromWorker::Locked(report)) => (worker, report),
            other => panic!("the fork said {other:?} instead of being locked"),
        }
    }

    /// Has it fork workers by one order.
    pub(crate) fn fork_all(&self, workers: u32, reporting: bool) -> Vec<Worker> {
        let (ours, theirs): (Vec<_>, Vec<_>) = (0..workers).map(|_| ends()).unzip();
        let fds: Vec<_> = theirs.iter().flatten().map(AsFd::as_fd).collect();
        self.worker.order(&ToWorker::Fork { workers, into_leaf: false, reporting }, &fds);
        let (answer, pidfds) = receive(self.worker.link.as_fd(), ours.len()).expect("the template is gone");
        let FromWorker::Forked { pids } = &answer else { panic!("the template answered {answer:?}") };
        assert_eq!((pids.len(), pidfds.len()), (ours.len(), ours.len()));
        let born = pids.iter().zip(pidfds).zip(ours);
        born.map(|((pid, pidfd), (link, [output, stdout_log, stderr_log]))| Worker {
            pid: *pid,
            pidfd,
            link,
            output,
            stdout_log,
            stderr_log,
        })
        .collect()
    }

    /// How it ends when it is sent this with so many descriptors.
    pub(crate) fn told(&self, message: &ToWorker, fds: usize) -> (Vec<FromWorker>, Exit) {
        let ends: Vec<OwnedFd> = (0..fds).map(|_| ends().1).flat_map(|[link, ..]| [link]).collect();
        self.worker.order(message, &ends.iter().map(AsFd::as_fd).collect::<Vec<_>>());
        drop(ends);
        self.worker.conversation()
    }
}

/// Our ends and the worker's of a link and three pipes.
fn ends() -> ((OwnedFd, [File; 3]), [OwnedFd; 4]) {
    let (link, their_link) = link::pair().unwrap();
    let (output, their_output) = pipe();
    let (stdout_log, their_stdout) = pipe();
    let (stderr_log, their_stderr) = pipe();
    ((link, [output, stdout_log, stderr_log]), [their_link, their_output, their_stdout, their_stderr])
}

impl Template {
    /// Closes the link, and waits for the end.
    pub(crate) fn close(self) -> Exit {
        let Self { mut worker, .. } = self;
        worker.link = link::pair().unwrap().0;
        worker.end()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // By its own handle, never by name. Errors: it may have ended by itself.
        let _ = self.zygote.kill();
        let _ = self.zygote.wait();
    }
}

impl Worker {
    pub(crate) fn receive(&self) -> Option<FromWorker> {
        receive(self.link.as_fd(), 0).map(|(message, _)| message)
    }

    pub(crate) fn order(&self, order: &ToWorker, fds: &[BorrowedFd<'_>]) {
        let packet = frame::encode(order, LINK_MESSAGE_BYTES_MAX).unwrap();
        link::send(self.link.as_fd(), &packet, fds).unwrap();
    }

    /// An order to run with nothing to run: for entries that misbehave before they look.
    pub(crate) fn run(&self, order: &RunOrder) {
        let nothing = memfd::sealed("nothing", b"").unwrap();
        self.order(&ToWorker::Run(order.clone()), &[nothing.as_fd(), nothing.as_fd()]);
    }

    /// Everything it says until it ends, and how it ends.
    pub(crate) fn conversation(&self) -> (Vec<FromWorker>, Exit) {
        let said = std::iter::from_fn(|| self.receive()).collect();
        (said, self.end())
    }

    pub(crate) fn end(&self) -> Exit {
        wait_readable(self.pidfd.as_fd(), "the end of a worker");
        pidfd::reap(self.pidfd.as_fd()).unwrap().expect("a readable pidfd means a dead process").exit
    }

    /// Returns once a worker that never ends does what its entry says: it writes so.
    pub(crate) fn await_begun(&self) {
        wait_readable(self.stderr_log.as_fd(), "the misbehaviour");
        let mut buffer = [0; 64];
        let length = (&self.stderr_log).read(&mut buffer).unwrap();
        assert_eq!(String::from_utf8_lossy(&buffer[..length]), "begun\n");
    }

    /// CPU time it has used, user and system; `None` once it is dead. Not to be asked after it was reaped.
    pub(crate) fn cpu_time(&self) -> Option<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
        // USER_HZ is 100 on every architecture this runs on.
        (!["Z", "X"].contains(&fields[0])).then(|| Duration::from_millis(ticks * 10))
    }

    pub(crate) fn text(mut file: &File) -> String {
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Already reaped in most tests; nothing a test forgot may outlive it.
        let _ = pidfd::signal(self.pidfd.as_fd(), nix::sys::signal::Signal::SIGKILL);
        let _ = pidfd::reap(self.pidfd.as_fd());
    }
}

/// Compiles WebAssembly text in a jailed worker and returns the sealed artifact.
pub(crate) fn compiled(rig: &Rig, text: &str) -> OwnedFd {
    compiled_for(rig, text, false)
}

/// The same, for whoever runs scripts.
pub(crate) fn compiled_engine(rig: &Rig, text: &str) -> OwnedFd {
    compiled_for(rig, text, true)
}

fn compiled_for(rig: &Rig, text: &str, engine: bool) -> OwnedFd {
    let (worker, _) = rig.locked(&fork_order(Role::Compile));
    let module = memfd::sealed("module", text.as_bytes()).unwrap();
    let artifact = memfd::create("artifact").unwrap();
    let order = CompileOrder {
        module_bytes: text.len() as u64,
        artifact_bytes_max: 64 << 20,
        text: true,
        fuel: false,
        engine,
    };
    worker.order(&ToWorker::Compile(order), &[module.as_fd(), artifact.as_fd()]);
    let (said, exit) = worker.conversation();
    assert!(matches!(said.as_slice(), [FromWorker::Compiled(_)]), "{said:?} {exit:?}");
    assert_eq!(exit, Exit::Code(0));
    memfd::seal(&artifact).unwrap();
    artifact.into()
}

pub(crate) fn pipe() -> (File, OwnedFd) {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    (File::from(read), write)
}

/// One message with its descriptors; `None` at the end of file.
pub(crate) fn receive<T>(link: BorrowedFd<'_>, fds_max: usize) -> Option<(T, Vec<OwnedFd>)>
where
    T: for<'de> serde::Deserialize<'de>,
{
    wait_readable(link, "a message");
    let mut buffer = vec![0; LINK_MESSAGE_BYTES_MAX * 2];
    let received = match link::receive(link, &mut buffer, fds_max) {
        Ok(received) => received,
        Err(LinkError::System { errno: Errno::ECONNRESET, .. }) => return None,
        Err(error) => panic!("{error:?}"),
    };
    if received.length == 0 {
        return None;
    }
    let message = frame::decode_packet(&buffer[..received.length], LINK_MESSAGE_BYTES_MAX);
    Some((message.unwrap(), received.fds))
}

pub(crate) fn wait_readable(fd: BorrowedFd<'_>, what: &str) {
    let until = Instant::now() + DEADLINE;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "{what} did not come within {DEADLINE:?}");
        let mut watched = [PollFd::new(fd, PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(left).unwrap();
        match poll(&mut watched, timeout) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return,
            Err(errno) => panic!("poll: {errno}"),
        }
    }
}
