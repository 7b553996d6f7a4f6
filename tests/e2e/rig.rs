//! The program in a place of its own: no file, socket or variable of the machine's reaches it.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use stockade::client::{Client, ClientError};
use stockade_wire::job::{JobResult, LimitsWanted, ModuleSource, Phase, Submission};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// No test waits longer than this for anything.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two looks at something of which no event tells.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// How jobs are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Jailed,
    InProcess,
}

impl Mode {
    /// The word for it in the configuration.
    const fn name(self) -> &'static str {
        match self {
            Self::Jailed => "jailed",
            Self::InProcess => "in-process",
        }
    }
}

/// A directory, and the settings under which the program is started in it.
#[derive(Clone)]
pub struct Place {
    directory: Rc<TempDir>,
    settings: Vec<(String, String)>,
}

/// A command that has ended.
#[derive(Debug)]
pub struct Ran {
    pub status: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

/// A command that has ended and printed a result.
#[derive(Debug)]
pub struct Ended {
    pub status: i32,
    pub result: Value,
    pub stderr: String,
}

/// One of `tests/guests`.
pub fn guest(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests").join(name).with_extension("wat");
    assert!(path.is_file(), "no guest {name}");
    path
}

/// Returns once `condition` holds.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "still waiting for {what}");
        std::thread::park_timeout(LOOK_AGAIN);
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The processes whose parent is `pid`, the oldest first; those that are dead and not reaped, too.
pub fn children(pid: u32) -> Vec<u32> {
    let mut found: Vec<(u64, u32)> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|child: u32| {
            let fields = stat(child)?;
            (fields[1].parse() == Ok(pid)).then(|| (fields[19].parse().unwrap(), child))
        })
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, child)| child).collect()
}

/// CPU time a process has used, user and system.
pub fn cpu_time(pid: u32) -> Duration {
    let fields = stat(pid).expect("the process is gone");
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    // USER_HZ is 100 on every architecture this runs on.
    Duration::from_millis(ticks * 10)
}

/// What follows the name in `/proc/PID/stat`.
fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect())
}

/// A figure of `/proc/PID/status` that is in kilobytes, in bytes.
pub fn status_bytes(pid: u32, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).expect(key);
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

impl Place {
    pub fn new(mode: Mode) -> Self {
        let directory = Rc::new(TempDir::new().unwrap());
        fs::write(directory.path().join("stockade.toml"), "").unwrap();
        let place = Self { directory, settings: Vec::new() };
        let path = |name: &str| place.path(name).to_str().unwrap().to_owned();
        let (config, cache, socket) = (path("stockade.toml"), path("cache"), path("socket"));
        place
            .set("CONFIG", &config)
            .set("CACHE_DIRECTORY", &cache)
            .set("SOCKET", &socket)
            .set("MODE", mode.name())
    }

    /// With a setting, by its environment variable without the prefix.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        let name = format!("STOCKADE_{name}");
        self.settings.retain(|(known, _)| *known != name);
        self.settings.push((name, value.to_owned()));
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file into the place.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, contents).unwrap();
        path
    }

    /// The files of compiled modules in its cache.
    pub fn artifacts(&self) -> Vec<PathBuf> {
        let engines = fs::read_dir(self.path("cache")).unwrap().map(|entry| entry.unwrap().path());
        let files = engines.filter(|path| path.is_dir()).flat_map(|path| fs::read_dir(path).unwrap());
        let whole = |path: &PathBuf| !path.to_string_lossy().contains(".new-");
        files.map(|entry| entry.unwrap().path()).filter(whole).collect()
    }

    /// Puts the program where other users may execute it, together with these guests.
    pub fn for_all(&self, guests: &[&str]) -> PathBuf {
        self.open_to_all();
        let program = self.path("stockade");
        let built = Path::new(env!("CARGO_BIN_EXE_stockade"));
        fs::hard_link(built, &program).or_else(|_| fs::copy(built, &program).map(drop)).unwrap();
        for name in guests {
            fs::copy(guest(name), self.path(name)).unwrap();
        }
        program
    }

    /// Lets other users into the place.
    pub fn open_to_all(&self) {
        fs::set_permissions(self.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The program with these words, and with nothing of this process's environment.
    pub fn stockade<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        self.command(Path::new(env!("CARGO_BIN_EXE_stockade")), words)
    }

    /// The same with the program at another path.
    pub fn command<S: AsRef<OsStr>>(&self, program: &Path, words: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(self.settings.iter().cloned()).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// `stockade run --json`, with `input` on its standard input.
    pub fn run_on(&self, input: &[u8], flags: &[&str], program: &Path, arguments: &[&str]) -> Ended {
        job(&mut self.stockade(words("run", flags, program, arguments)), input)
    }

    /// `stockade run --json`.
    pub fn run(&self, flags: &[&str], program: &Path) -> Ended {
        self.run_on(b"", flags, program, &[])
    }
}

fn words<'a>(
    command: &'a str,
    flags: &[&'a str],
    program: &'a Path,
    arguments: &'a [&'a str],
) -> Vec<&'a OsStr> {
    let flags = [command, "--json"].into_iter().chain(flags.iter().copied()).map(OsStr::new);
    flags.chain([program.as_os_str()]).chain(arguments.iter().map(OsStr::new)).collect()
}

fn job(command: &mut Command, input: &[u8]) -> Ended {
    let ran = ran(command, input);
    let result = serde_json::from_slice(&ran.stdout)
        .unwrap_or_else(|error| panic!("no result ({error}): {} {}", text(&ran.stdout), ran.stderr));
    Ended { status: ran.status.expect("ended by a signal"), result, stderr: ran.stderr }
}

/// Runs a command to its end.
pub fn ran(command: &mut Command, input: &[u8]) -> Ran {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // A guest that ends early closes its input; how it ended is what the test looks at.
        let _ = stdin.write_all(&input);
    });
    let ran = end_of(child);
    writer.join().unwrap();
    ran
}

/// Waits for a command's end, and for everything it started to have closed its outputs.
pub fn end_of(child: Child) -> Ran {
    let pid = child.id();
    let (done, waiting) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = done.send(child.wait_with_output());
    });
    let Ok(output) = waiting.recv_timeout(PATIENCE) else {
        signal(pid, Signal::SIGKILL);
        panic!("process {pid} does not end");
    };
    let output = output.unwrap();
    Ran { status: output.status.code(), stdout: output.stdout, stderr: text(&output.stderr) }
}

/// Sends a signal to a process that has not been waited for.
pub fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

impl Ended {
    /// Verdict, reason, stage, blame and exit status in one line, with `-` for null.
    pub fn short(&self) -> String {
        format!("{} {}", short(&self.result["outcome"]), self.status)
    }

    pub fn output(&self) -> &str {
        assert_eq!(self.result["output_encoding"], "utf8");
        self.result["output"].as_str().unwrap()
    }

    pub fn message(&self) -> &str {
        self.result["outcome"]["message"].as_str().unwrap_or_default()
    }

    /// A figure of the bill.
    #[track_caller]
    pub fn figure(&self, name: &str) -> u64 {
        self.result["bill"][name].as_u64().unwrap_or_else(|| panic!("{name}: {}", self.result["bill"]))
    }

    #[track_caller]
    pub fn cpu_us(&self) -> u64 {
        self.figure("cpu_user_us") + self.figure("cpu_system_us")
    }
}

/// Verdict, reason, stage and blame of an outcome in one line.
pub fn short(outcome: &Value) -> String {
    let word = |name: &str| outcome[name].as_str().unwrap_or("-").to_owned();
    ["verdict", "reason", "stage", "blame"].map(word).join(" ")
}

/// As [`short`], of a result that came over the socket.
pub fn short_of(result: &JobResult) -> String {
    short(&serde_json::to_value(&result.outcome).unwrap())
}

/// A running daemon. Dropped, it is told to stop, and then that it is not a request.
pub struct Daemon {
    pub place: Place,
    pub pid: u32,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    ended: mpsc::Receiver<ExitStatus>,
    over: bool,
}

impl Daemon {
    /// Starts one and returns when it answers.
    pub fn start(place: Place) -> Self {
        let serve = place.stockade(["serve"]);
        Self::started(place, serve)
    }

    /// The same, with no more open files than `open_files_max`.
    pub fn start_with_files(place: Place, open_files_max: u32) -> Self {
        let command = Self::with_files(&place, open_files_max);
        Self::started(place, command)
    }

    /// What starts it with no more open files than `open_files_max`.
    pub fn with_files(place: &Place, open_files_max: u32) -> Command {
        Self::with_limit(place, &format!("-n {open_files_max}"))
    }

    /// What starts it with what `ulimit` makes of `limit`.
    pub fn with_limit(place: &Place, limit: &str) -> Command {
        let program = place.stockade(["serve"]);
        let mut command = Command::new("/bin/sh");
        let limited = format!("ulimit {limit} && exec \"$0\" \"$@\"");
        command.args(["-c", &limited]).arg(program.get_program()).args(program.get_args()).env_clear();
        command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Starts one by a command of the place's, and returns when it answers.
    pub fn started(place: Place, mut serve: Command) -> Self {
        let mut child = serve.stdout(Stdio::null()).spawn().unwrap();
        let pid = child.id();
        let log = Arc::new(Mutex::new(String::new()));
        let reader = std::thread::spawn({
            let (log, mut stderr) = (Arc::clone(&log), child.stderr.take().unwrap());
            move || {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = stderr.read(&mut buffer) {
                    log.lock().unwrap().push_str(&text(&buffer[..length]));
                }
            }
        });
        let (done, ended) = mpsc::channel();
        std::thread::spawn(move || {
            let _ = done.send(child.wait().unwrap());
        });
        let mut daemon = Self { place, pid, log, reader: Some(reader), ended, over: false };
        eventually("the daemon to answer", || {
            if let Ok(status) = daemon.ended.try_recv() {
                daemon.over = true;
                panic!("the daemon ended with {status}: {}", daemon.log());
            }
            std::os::unix::net::UnixStream::connect(daemon.socket()).is_ok()
        });
        drop(daemon.client());
        daemon
    }

    pub fn socket(&self) -> PathBuf {
        self.place.path("socket")
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn signal(&self, which: Signal) {
        assert!(!self.over);
        signal(self.pid, which);
    }

    /// Waits for its end; its exit status and its whole log. Whoever holds its standard error is gone then, too.
    pub fn end(mut self) -> (Option<i32>, String, Place) {
        let status = self.ended.recv_timeout(PATIENCE).expect("the daemon does not end");
        self.over = true;
        self.reader.take().unwrap().join().unwrap();
        (status.code(), self.log(), self.place.clone())
    }

    /// Has it stop in good order.
    pub fn stop(self) -> Place {
        self.signal(Signal::SIGTERM);
        let (status, log, place) = self.end();
        assert_eq!(status, Some(0), "{log}");
        place
    }

    /// Any command of the command line.
    pub fn cli(&self, words: &[&str]) -> Ran {
        ran(&mut self.place.stockade(words), b"")
    }

    /// `stockade submit --json`, with `input` on its standard input.
    pub fn submit_on(&self, input: &[u8], flags: &[&str], program: &Path, arguments: &[&str]) -> Ended {
        job(&mut self.place.stockade(words("submit", flags, program, arguments)), input)
    }

    /// `stockade submit --json`.
    pub fn submit(&self, flags: &[&str], program: &Path) -> Ended {
        self.submit_on(b"", flags, program, &[])
    }

    /// `stockade stats --json`.
    pub fn stats(&self) -> Value {
        let ran = self.cli(&["stats", "--json"]);
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        serde_json::from_slice(&ran.stdout).unwrap()
    }

    /// Returns once a job has logged something: then its guest runs.
    pub fn await_log(&self, job: &str) {
        let part = self.client().ask(async |client| {
            let log = client.logs(job, true).await?;
            client.log_part(&log, job).await
        });
        part.unwrap().expect("the job ended without a word");
    }

    pub fn client(&self) -> Peer {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let socket = self.socket();
        let connecting = async { tokio::time::timeout(PATIENCE, Client::connect(&socket)).await };
        let client = runtime.block_on(connecting).expect("no hello").unwrap();
        Peer { runtime, client }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        signal(self.pid, Signal::SIGTERM);
        signal(self.pid, Signal::SIGTERM);
        if self.ended.recv_timeout(PATIENCE).is_err() {
            signal(self.pid, Signal::SIGKILL);
        }
    }
}

/// A connection of the typed client.
pub struct Peer {
    runtime: Runtime,
    client: Client,
}

impl Peer {
    /// Asks, and waits for the answer.
    pub fn ask<T>(&mut self, question: impl AsyncFnOnce(&mut Client) -> T) -> T {
        let Self { runtime, client } = self;
        let asking = async { tokio::time::timeout(PATIENCE, question(client)).await };
        runtime.block_on(asking).expect("no answer")
    }

    /// Submits without waiting; the job's id.
    pub fn submit(&mut self, submission: Submission) -> Result<String, ClientError> {
        self.ask(async |client| client.submit(submission).await)
    }

    /// The result of a job, once it is over.
    pub fn result(&mut self, job: &str) -> JobResult {
        self.ask(async |client| client.result(job, true).await).unwrap().expect("not over")
    }

    /// Submits and waits.
    pub fn run(&mut self, submission: Submission) -> Result<JobResult, ClientError> {
        self.ask(async |client| {
            let ticket = client.submit_and_wait(submission).await?;
            client.finished(&ticket).await
        })
    }

    /// Returns once the job is in `phase`.
    #[track_caller]
    pub fn await_phase(&mut self, job: &str, phase: Phase) {
        eventually(&format!("{job} to be {phase:?}"), || {
            let jobs = self.ask(async |client| client.list().await).unwrap();
            jobs.iter().find(|one| one.job == job).expect("no such job").phase == phase
        });
    }
}

/// One of `tests/guests`, to be submitted without anything else.
pub fn submission(name: &str) -> Submission {
    submission_of(fs::read(guest(name)).unwrap(), name)
}

/// These bytes, to be submitted without anything else.
pub fn submission_of(module: impl Into<Vec<u8>>, name: &str) -> Submission {
    Submission {
        module: ModuleSource::Bytes(module.into().into()),
        name: name.into(),
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

/// With a time limit, in milliseconds.
pub fn within_ms(mut submission: Submission, timeout_ms: u64) -> Submission {
    submission.limits.timeout_us = Some(timeout_ms * 1000);
    submission
}
