//! Supervisors in the foreground of a terminal, and what guests may do to it.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdin, Command, Stdio};

use tempfile::TempDir;

use crate::family::{Family, children_of};
use crate::rig::{Client, Daemon, SPIN, eventually, file, laborious, stockade};

/// The interrupt character of a new terminal.
const CONTROL_C: &[u8] = b"\x03";

/// Writes escapes to both its outputs: inverse video and a word, then a window title, a bell and another word.
const ESCAPES: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\40\00\00\00\09\00\00\00")
  (data (i32.const 8) "\80\00\00\00\0f\00\00\00")
  (data (i32.const 64) "\1b[7mshown")
  (data (i32.const 128) "\1b]0;owned\07 log\0a")
  (func (export "_start")
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 24)))
    (drop (call $write (i32.const 2) (i32.const 8) (i32.const 1) (i32.const 24)))))"#;

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
        Self::open_with(line, &[])
    }

    /// The same with more files in its directory.
    fn open_with(line: &str, more: &[(&str, &str)]) -> Option<Self> {
        if Command::new("script").arg("--version").stdout(Stdio::null()).status().is_err() {
            println!("not run: script(1)");
            return None;
        }
        let directory = TempDir::new().unwrap();
        for (name, text) in [("spin.wat", SPIN), ("escapes.wat", ESCAPES)].iter().chain(more) {
            file(&directory, name, text);
        }
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

    /// What it did to the terminal, and its exit status.
    fn end(mut self) -> (Option<i32>, String) {
        let status = self.script.wait().unwrap();
        (status.code(), self.screen())
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
fn run_on_a_terminal_says_that_a_large_module_is_being_compiled() {
    let module = laborious();
    let open = |line: &str| Terminal::open_with(line, &[("large.wat", module.as_str())]);
    let Some(mut terminal) = open("run large.wat") else { return };
    let status = terminal.script.wait().unwrap();
    let said = format!("compiling large.wat ({} bytes)…\r\x1b[K", module.len());
    assert!(status.success() && terminal.screen().contains(&said), "{status}: {:?}", terminal.screen());
    // Not to a program, and not into a file.
    for line in ["run --json large.wat", "run large.wat 2>errors"] {
        let Some(mut terminal) = open(line) else { return };
        let status = terminal.script.wait().unwrap();
        assert!(status.success() && !terminal.screen().contains("compiling"), "{:?}", terminal.screen());
        let errors = std::fs::read_to_string(terminal.directory.path().join("errors")).unwrap_or_default();
        assert_eq!(errors, "", "{line}");
    }
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

#[track_caller]
fn assert_log_is_harmless(terminal: Terminal) {
    let (status, screen) = terminal.end();
    assert_eq!(status, Some(0), "{screen:?}");
    assert!(screen.contains("\\x1b]0;owned\\x07 log"), "{screen:?}");
    assert!(!screen.contains("\x1b]0;owned"), "{screen:?}");
    // Its output is not ours to change.
    assert!(screen.contains("\x1b[7mshown"), "{screen:?}");
}

#[test]
fn log_of_a_run_in_a_terminal_has_its_escapes_spelt_out() {
    let Some(terminal) = Terminal::open("run escapes.wat") else { return };
    assert_log_is_harmless(terminal);
}

#[test]
fn log_of_a_submit_in_a_terminal_has_its_escapes_spelt_out() {
    let daemon = Daemon::start(&[]);
    let socket = daemon.directory.path().join("socket");
    let line = format!("submit --socket {} escapes.wat", socket.display());
    let Some(terminal) = Terminal::open(&line) else { return };
    assert_log_is_harmless(terminal);
}

#[test]
fn log_that_does_not_go_to_a_terminal_is_as_the_guest_wrote_it() {
    let daemon = Daemon::start(&[]);
    let module = file(&daemon.directory, "escapes.wat", ESCAPES);
    for command in ["run", "submit"] {
        let ran = stockade(&daemon.directory).arg(command).arg(&module).output().unwrap();
        assert!(ran.status.success(), "{command}: {ran:?}");
        assert_eq!(
            (&ran.stdout[..], &ran.stderr[..]),
            (&b"\x1b[7mshown"[..], &b"\x1b]0;owned\x07 log\n"[..])
        );
    }
}
