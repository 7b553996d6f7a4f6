//! Tests that need a process to themselves.
//!
//! Owns: starting the test executable again for one test.
//! Never: is part of a build that is not a test.

use std::process::{Child, Command, Output, Stdio};

const MARK: &str = "STOCKADE_OWN_PROCESS";

/// Runs `body` in a process of its own: `name` is the path of the test that calls this. Panics when it fails there.
pub(crate) fn in_own_process(name: &str, body: impl FnOnce()) {
    if let Some(output) = again(name) {
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("1 passed"), "{name}: {}\n{text}\n{errors}", output.status);
    } else {
        body();
    }
}

/// Runs the test `name` in a process of its own and gives what became of it; `None` in that process.
pub(crate) fn again(name: &str) -> Option<Output> {
    start_again(name).map(|child| child.wait_with_output().unwrap())
}

/// Starts the test `name` in a process of its own; `None` in that process.
pub(crate) fn start_again(name: &str) -> Option<Child> {
    if std::env::var_os(MARK).is_some() {
        return None;
    }
    let executable = std::env::current_exe().unwrap();
    let mut command = Command::new(executable);
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(MARK, "1");
    Some(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}
