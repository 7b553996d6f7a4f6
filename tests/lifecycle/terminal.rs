//! Supervisors in the foreground of a terminal.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdin, Command, Stdio};

use tempfile::TempDir;

use crate::family::{Family, children_of};
use crate::rig::{Client, SPIN, eventually, file, stockade};

/// The interrupt character of a new terminal.
const CONTROL_C: &[u8] = b"\x03";

/// A program in a terminal of its own.
struct Terminal {
    /// Holds the other end of the terminal; when it dies the terminal is closed.
    script: Child,
    keyboard: ChildStdin,
    directory: TempDir,
}

impl Terminal {
    /// `None`, said aloud, where there is no way to make one.
    fn open(line: &str) -> Option<Self> {
        if Command::new("script").arg("--version").stdout(Stdio::null()).status().is_err() {
            println!("not run: script(1)");
            return None;
        }
        let directory = TempDir::new().unwrap();
        file(&directory, "spin.wat", SPIN);
        let program = stockade(&directory);
        let mut command = Command::new("script");
        command.env_clear().current_dir(directory.path());
        for (name, value) in program.get_envs() {
            command.env(name, value.unwrap());
        }
        let line = format!("exec {} {line}", env!("CARGO_BIN_EXE_stockade"));
        let mut script = command
            .args(["--quiet", "--flush", "--return", "--command", &line, "screen"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let keyboard = script.stdin.take().unwrap();
        Some(Self { script, keyboard, directory })
    }

    /// The program that runs in it.
    fn program(&self) -> u32 {
        let mut found = None;
        eventually("the program", || {
            found = children_of(self.script.id()).into_iter().find(|child| child.name == "stockade");
            found.is_some()
        });
        found.unwrap().pid
    }

    fn press(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
        self.keyboard.flush().unwrap();
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.directory.path().join("screen")).unwrap()).into_owned()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

#[test]
fn run_whose_terminal_is_closed_takes_its_guest_with_it() {
    let Some(mut terminal) = Terminal::open("run --timeout 10m spin.wat") else { return };
    let family = Family::of(terminal.program(), &[("stockade:run", 1)]);
    family.wait_for_guests(1);
    terminal.script.kill().unwrap();
    terminal.script.wait().unwrap();
    let took = family.assert_gone("closed terminal");
    println!("closed terminal: {} processes gone after {took:?}", family.members.len());
}

#[test]
fn control_c_cancels_a_run_and_does_not_kill_its_worker_first() {
    let Some(mut terminal) = Terminal::open("run --timeout 10m spin.wat") else { return };
    let family = Family::of(terminal.program(), &[("stockade:run", 1)]);
    family.wait_for_guests(1);
    terminal.press(CONTROL_C);
    let status = terminal.script.wait().unwrap();
    assert_eq!(status.code(), Some(137), "{}", terminal.screen());
    assert!(terminal.screen().contains("cancelled"), "{}", terminal.screen());
    assert!(family.living().is_empty());
}

#[test]
fn control_c_lets_a_daemon_finish_its_jobs() {
    let Some(mut terminal) = Terminal::open("serve") else { return };
    let socket = terminal.directory.path().join("socket");
    eventually("the daemon to serve", || UnixStream::connect(&socket).is_ok());
    let submit = stockade(&terminal.directory)
        .args(["submit", "--json", "--timeout", "2s", "spin.wat"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let client = Client::waiting(submit);
    let family = Family::of(terminal.program(), &[("stockade:run", 1)]);
    family.wait_for_guests(1);
    terminal.press(CONTROL_C);
    let status = terminal.script.wait().unwrap();
    assert!(status.success(), "{status}: {}", terminal.screen());
    // It went on until its own deadline.
    assert_eq!(client.outcome().0, "timed_out");
    assert!(family.living().is_empty());
}
