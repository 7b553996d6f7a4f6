//! A supervisor whose workers misbehave, in a process of its own, with a deadline on every wait.

use std::fs::File;
use std::future::Future;
use std::io::{Read, Seek};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use stockade::config::{CgroupRoot, Config, PressureFile};
use stockade::supervisor::{Caller, Lookup, StartError, Startup, Supervisor};
use stockade_sys::pidfd;
use stockade_wire::client::Refusal;
use stockade_wire::job::{JobResult, LimitsWanted, ModuleSource, Phase, Submission, Verdict};
use tempfile::TempDir;
use tokio::task::LocalSet;

/// Nothing here takes longer on a machine that works.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often something that has no event is looked at.
const GLANCE: Duration = Duration::from_millis(5);

/// Tells the test binary that it is the process of one test.
const ALONE: &str = "STOCKADE_TEST_ALONE";

/// Returns at once: what every worker that is not to misbehave runs.
pub const HONEST: &str = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;

/// Never returns.
pub const SPIN: &str =
    r#"(module (memory (export "memory") 1) (func (export "_start") (loop $again (br $again))))"#;

/// Runs `test` in a process of its own: its children are this test's, its signals go nowhere else, and what a
/// supervisor that is dropped leaves behind ends with it.
///
/// `test` is a closure in the function that is the test: the name by which the harness knows it is taken from its type.
pub fn alone<F: AsyncFnOnce()>(test: F) {
    alone_in(None, test);
}

/// The same in a place where something is missing, see `stockade_hostile::surroundings`.
pub fn alone_within<F: AsyncFnOnce()>(surroundings: &str, test: F) {
    alone_in(Some(surroundings), test);
}

/// Whether this is the process of one test, in its place already.
pub fn is_alone() -> bool {
    std::env::var_os(ALONE).is_some()
}

fn alone_in<F: AsyncFnOnce()>(surroundings: Option<&str>, test: F) {
    let name = std::any::type_name::<F>();
    let name = name.split_once("::").unwrap().1.strip_suffix("::{{closure}}").unwrap();
    if is_alone() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, test());
        return;
    }
    let mut output = tempfile::tempfile().unwrap();
    let own = std::env::current_exe().unwrap();
    let mut command = match surroundings {
        None => Command::new(own),
        Some(place) => {
            let mut command = Command::new(env!("CARGO_BIN_EXE_stockade-hostile"));
            command.args(["within", place]).arg(own);
            command
        }
    };
    let mut child = command
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(ALONE, name)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(output.try_clone().unwrap())
        .spawn()
        .unwrap();
    let ended = ends(child.id(), PATIENCE * 2);
    if !ended {
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    print!("{}", text(&mut output));
    assert!(ended, "{name} did not end");
    assert!(status.success(), "{name}: {status}");
}

fn text(file: &mut File) -> String {
    let mut text = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut text).unwrap();
    String::from_utf8_lossy(&text).into_owned()
}

/// Whether a process ends within `patience`.
pub fn ends(pid: u32, patience: Duration) -> bool {
    let pidfd = pidfd::open(pid).unwrap();
    let mut polled = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::try_from(patience).unwrap()).unwrap() == 1
}

/// Returns once `condition` holds. For what the kernel has no event for.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let mut glances = tokio::time::interval(GLANCE);
    let by = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < by, "still waiting for {what}");
        glances.tick().await;
    }
}

/// Waits for `event`, not for ever.
pub async fn within<T>(what: &str, event: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, event).await.unwrap_or_else(|_| panic!("still waiting for {what}"))
}

/// The executable that is started as zygote. Its file name chooses what its processes do; it can be exchanged
/// between two starts.
pub struct Executable {
    directory: TempDir,
}

impl Executable {
    pub fn named(name: &str) -> Self {
        // Beside the build, so that a hard link will do.
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let executable = Self { directory };
        executable.becomes(name);
        executable
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("zygote")
    }

    /// From the next start on it is `stockade-hostile` under that name.
    pub fn becomes(&self, name: &str) {
        let file = self.directory.path().join(name);
        if !file.exists() {
            std::fs::hard_link(env!("CARGO_BIN_EXE_stockade-hostile"), &file).unwrap();
        }
        self.points_to(&file);
    }

    /// From the next start on it is another program.
    pub fn points_to(&self, program: &Path) {
        let next = self.directory.path().join("next");
        std::os::unix::fs::symlink(program, &next).unwrap();
        std::fs::rename(&next, self.path()).unwrap();
    }
}

pub struct Rig {
    pub supervisor: Supervisor,
    pub executable: Executable,
}

/// Defaults without what differs between machines, with one worker ahead of need, always, and without templates: a test
/// counts the processes it asked for.
pub fn config() -> Config {
    let mut config = Config::defaults().unwrap();
    config.cgroup.root = CgroupRoot::Off;
    config.pool.warm = 1;
    config.pool.warm_max = 0;
    config.pool.template_ready_max = 0;
    config.pressure.file = PressureFile::Off;
    config.pool.templates_max = 0;
    config.results.kept_max = 16;
    config
}

impl Rig {
    /// With workers that misbehave when their job's entry says so.
    pub async fn start() -> Self {
        Self::start_with(config()).await
    }

    pub async fn start_with(config: Config) -> Self {
        Self::start_from(Executable::named("stockade-hostile"), config).await.unwrap()
    }

    pub async fn start_from(executable: Executable, config: Config) -> Result<Self, StartError> {
        let startup = Startup { executable: executable.path(), ..Startup::new(config) };
        let supervisor = within("the start", startup.start()).await?;
        Ok(Self { supervisor, executable })
    }

    pub fn try_submit(&self, submission: Submission) -> Result<String, Refusal> {
        self.supervisor.submit(&Caller::own(), submission)
    }

    pub fn submit(&self, submission: Submission) -> String {
        self.try_submit(submission).unwrap()
    }

    pub async fn result(&self, id: &str) -> Rc<JobResult> {
        let end = within("a job's end", self.supervisor.wait(&Caller::own(), id)).await.unwrap();
        Rc::new(end.whole().unwrap())
    }

    pub async fn run(&self, submission: Submission) -> Rc<JobResult> {
        let id = self.submit(submission);
        self.result(&id).await
    }

    pub fn cancel(&self, id: &str) {
        assert!(self.supervisor.cancel(&Caller::own(), id));
    }

    /// Returns once the job has a worker.
    pub async fn running(&self, id: &str) {
        eventually("a job to run", || match self.supervisor.result(&Caller::own(), id).unwrap() {
            Lookup::Running(summary) => summary.phase == Phase::Running,
            Lookup::Finished(end) => panic!("it is over: {:?}", end.result.outcome),
        })
        .await;
    }

    /// Returns once a worker that never ends does what its job's entry says, and not only once it has its order.
    pub async fn begun(&self, id: &str) {
        let mut logs = self.supervisor.logs(&Caller::own(), id).unwrap();
        let piece = within("the misbehaviour", logs.next()).await;
        assert!(piece.is_some(), "it is over");
    }

    /// Whatever was before: a job that behaves completes. The service is there.
    pub async fn assert_serves(&self) {
        let result = self.run(honest()).await;
        assert_eq!(result.outcome.verdict, Verdict::Completed, "{:?}", result.outcome);
    }

    pub async fn end(self) {
        within("the supervisor's end", self.supervisor.end()).await;
    }
}

pub fn submission(module: &str) -> Submission {
    Submission {
        module: ModuleSource::Bytes(module.as_bytes().to_vec().into()),
        name: "guest".to_owned(),
        entry: None,
        arguments: Vec::new(),
        input: Vec::new().into(),
        environment: Vec::new(),
        directories: Vec::new(),
        profile: None,
        limits: LimitsWanted::default(),
        isolation: None,
        tenant: None,
        require: Vec::new(),
        traceparent: None,
        request_id: None,
        purpose: stockade_wire::job::Purpose::Run,
    }
}

/// With time enough on any machine.
pub fn honest() -> Submission {
    limited(submission(HONEST), PATIENCE, Duration::from_secs(1))
}

/// A job whose worker does what `entry` says, see `stockade_hostile::misbehave`.
pub fn hostile(entry: &str) -> Submission {
    Submission { entry: Some(entry.to_owned()), ..honest() }
}

pub fn limited(submission: Submission, timeout: Duration, grace: Duration) -> Submission {
    let micros = |time: Duration| Some(u64::try_from(time.as_micros()).unwrap());
    let limits = LimitsWanted { timeout_us: micros(timeout), grace_us: micros(grace), ..submission.limits };
    Submission { limits, ..submission }
}
