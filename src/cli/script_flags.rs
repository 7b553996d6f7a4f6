//! Flags behind a script: `stockade run transform.js --input data.json`.
//!
//! Owns: telling that what follows FILE is meant for us.
//! Never: parses a flag.
//!
//! What follows FILE is the guest's. A script takes no arguments, so for one it cannot be, and flags are flags.

use std::ffi::OsString;
use std::io::Read;
use std::path::Path;

use super::args::{Cli, Command, JobArgs};
use crate::supervisor::module_kind::is_script;

/// As much of a file as tells whether it is a script.
const LOOKED_AT_BYTES_MAX: u64 = 64 << 10;

/// The words of a command line with the flags behind a script put in front of it; `None` where there are none. Reads the
/// beginning of FILE, if it is a file and something that looks like a flag follows it.
pub(super) fn put_in_front(words: &[OsString], cli: &Cli) -> Option<Vec<OsString>> {
    let program = &job(cli)?.program;
    let [file, arguments @ ..] = program.as_slice() else { return None };
    let flags = arguments.first().is_some_and(|first| first.as_encoded_bytes().starts_with(b"-"));
    if !flags || !is_script_file(Path::new(file)) {
        return None;
    }
    moved(words, program.len())
}

fn job(cli: &Cli) -> Option<&JobArgs> {
    match &cli.command {
        Command::Run(run) => Some(&run.job),
        Command::Submit(submit) => Some(&submit.job),
        Command::Explain(explain) => Some(&explain.job),
        _ => None,
    }
}

/// The last `count` words are FILE and what follows it; FILE becomes the last.
fn moved(words: &[OsString], count: usize) -> Option<Vec<OsString>> {
    let (before, program) = words.split_at_checked(words.len().checked_sub(count)?)?;
    let (file, arguments) = program.split_first()?;
    // Whoever says that no flag follows is believed.
    if before.last().is_some_and(|last| last == "--") {
        return None;
    }
    let mut moved = before.to_vec();
    moved.extend_from_slice(arguments);
    moved.push(file.clone());
    Some(moved)
}

fn is_script_file(path: &Path) -> bool {
    let Ok(file) = std::fs::File::open(path) else { return false };
    // A pipe is read once, by whoever needs all of it.
    if !file.metadata().is_ok_and(|about| about.is_file()) {
        return false;
    }
    let mut start = Vec::new();
    file.take(LOOKED_AT_BYTES_MAX).read_to_end(&mut start).is_ok() && is_script(&start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    fn put(line: &str) -> Option<String> {
        let words = words(line);
        let cli = super::super::parse(words.clone()).unwrap();
        let moved = put_in_front(&words, &cli)?;
        Some(moved.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn flags_behind_a_script_are_put_in_front_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (script, module) = (file("a.js", "1"), file("a.wat", "(module)"));
        assert_eq!(
            put(&format!("stockade run --json {script} --input d.json")),
            Some(format!("stockade run --json --input d.json {script}"))
        );
        assert_eq!(put(&format!("stockade run {module} --input d.json")), None);
        assert_eq!(put(&format!("stockade run -- {script} --input d.json")), None);
        assert_eq!(put(&format!("stockade run {script} data")), None);
        assert_eq!(put(&format!("stockade run {script}")), None);
        assert_eq!(put("stockade run /nowhere/a.js --input d.json"), None);
        assert_eq!(put("stockade ps"), None);
    }
}
