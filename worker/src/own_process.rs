//! Tests that need a process to themselves.
//!
//! Owns: starting the test executable again for one test.
//! Never: is part of a build that is not a test.

use std::process::{Command, Output};

const MARK: &str = "STOCKADE_OWN_PROCESS";

/// Runs `body` in a process of its own: `name` is the path of the test that calls this. Panics when it fails there.
pub(crate) fn in_own_process(name: &str, body: impl FnOnce()) {
    if let Some(output) = again(name) {
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            text.contains("1 passed"),
            "{name}: {}\n{text}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    } else {
        body();
    }
}

/// Runs the test `name` in a process of its own and gives what became of it; `None` in that process.
pub(crate) fn again(name: &str) -> Option<Output> {
    if std::env::var_os(MARK).is_some() {
        return None;
    }
    let executable = std::env::current_exe().unwrap();
    let arguments = ["--exact", name, "--nocapture", "--test-threads=1"];
    Some(Command::new(executable).args(arguments).env(MARK, "1").output().unwrap())
}
