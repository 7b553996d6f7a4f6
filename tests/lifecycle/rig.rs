//! Daemons and single runs of the executable under test.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tempfile::TempDir;

/// No test waits longer than this for anything.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const SPIN: &str =
    r#"(module (memory (export "memory") 1) (func (export "_start") (loop $again (br $again))))"#;

/// Returns once `condition` holds. For what the kernel has no event for.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let by = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < by, "still waiting for {what}");
        // The machine is to get on with it meanwhile.
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// A module that takes a compiler a while.
pub fn laborious() -> String {
    let body = "(i32.add (i32.mul (local.get 0) (i32.const 3)) (i32.load (local.get 0)))".repeat(40);
    let drops = "drop ".repeat(40);
    let function = format!("(func (param i32) {body} {drops})");
    format!(r#"(module (memory (export "memory") 1) (func (export "_start")) {})"#, function.repeat(1500))
}

/// The executable, with nothing of this process's environment, and a directory for what it writes.
pub fn stockade(directory: &TempDir) -> Command {
    in_place(Command::new(env!("CARGO_BIN_EXE_stockade")), directory)
}

/// The same, started by env(1) with these of its options.
pub fn stockade_by_env(options: &[&str], directory: &TempDir) -> Command {
    let mut command = Command::new("/usr/bin/env");
    command.args(options).arg(env!("CARGO_BIN_EXE_stockade"));
    in_place(command, directory)
}

/// The same, started with `fd` as descriptor 3 and these words in the environment, in which `$$` is its process id.
pub fn stockade_handed(fd: OwnedFd, environment: &str, directory: &TempDir) -> Command {
    let mut command = Command::new("/bin/sh");
    let script = format!(r#"{environment} exec "$0" "$@" 3<&0 </dev/null"#);
    command.arg("-c").arg(script).arg(env!("CARGO_BIN_EXE_stockade"));
    command = in_place(command, directory);
    command.stdin(fd);
    command
}

fn in_place(mut command: Command, directory: &TempDir) -> Command {
    command
        .env_clear()
        .env("STOCKADE_CACHE_DIRECTORY", "off")
        .env("STOCKADE_CGROUP_ROOT", "off")
        .env("STOCKADE_SOCKET", directory.path().join("socket"))
        .current_dir(directory.path())
        .stdin(Stdio::null());
    command
}

pub fn file(directory: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = directory.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

pub fn log_of(directory: &TempDir) -> File {
    File::options().create(true).append(true).open(directory.path().join("log")).unwrap()
}

/// A daemon; killed when it is dropped.
pub struct Daemon {
    pub child: Child,
    pub directory: TempDir,
}

impl Daemon {
    pub fn start(settings: &[(&str, &str)]) -> Self {
        let directory = TempDir::new().unwrap();
        let command = stockade(&directory);
        Self::started(command, directory, settings)
    }

    pub fn start_by_env(options: &[&str], settings: &[(&str, &str)]) -> Self {
        let directory = TempDir::new().unwrap();
        let command = stockade_by_env(options, &directory);
        Self::started(command, directory, settings)
    }

    /// One that is handed what listens on its socket.
    pub fn start_handed(fd: OwnedFd, directory: TempDir) -> Self {
        let command = stockade_handed(fd, "LISTEN_PID=$$ LISTEN_FDS=1", &directory);
        Self::started(command, directory, &[])
    }

    fn started(mut command: Command, directory: TempDir, settings: &[(&str, &str)]) -> Self {
        let child = command
            .arg("serve")
            .envs(settings.iter().copied())
            .stdout(Stdio::null())
            .stderr(log_of(&directory))
            .spawn()
            .unwrap();
        let daemon = Self { child, directory };
        eventually("the daemon to serve", || {
            UnixStream::connect(daemon.directory.path().join("socket")).is_ok()
        });
        daemon
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// A client that waits for a job.
    pub fn submit(&self, module: &str, flags: &[&str]) -> Client {
        let name = format!("module-{}.wat", module.len());
        let module = file(&self.directory, &name, module);
        let child = stockade(&self.directory)
            .arg("submit")
            .arg("--json")
            .args(flags)
            .arg(module)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Client(Some(child))
    }

    pub fn signal(&self, signal: Signal) {
        send(&self.child, signal);
    }

    /// Waits for its end: the status.
    pub fn end(&mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
    }
}

/// A client; killed when it is dropped.
pub struct Client(Option<Child>);

impl Client {
    pub fn waiting(child: Child) -> Self {
        Self(Some(child))
    }

    /// The result, or what it said instead.
    pub fn output(mut self) -> Output {
        self.0.take().unwrap().wait_with_output().unwrap()
    }

    /// The outcome of a result: verdict and reason.
    pub fn outcome(self) -> (String, String) {
        let output = self.output();
        let result: serde_json::Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let text = |name: &str| result["outcome"][name].as_str().unwrap_or_default().to_owned();
        (text("verdict"), text("reason"))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// To a child that has not been waited for.
pub fn send(child: &Child, signal: Signal) {
    nix::sys::signal::kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}
