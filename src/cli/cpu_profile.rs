//! `--cpu-profile FILE`: where a script's time went, as a file that developer tools open.
//!
//! Owns: the file, and taking the profile out of a job's result, where it stands in for the log of standard output.
//! Never: writes what a worker said as it stands: what is no profile is none.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

use stockade_js::profile::{CpuProfile, ProfileError};
use stockade_wire::job::{JobResult, Logs};

use super::args::JobArgs;
use crate::observe::Causes;

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub(super) enum CpuProfileError {
    /// The file cannot be had.
    #[error("cannot write the CPU profile to {path}; choose a file that you may write")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What is run is no script.
    #[error("--cpu-profile looks at JavaScript alone, and this is WebAssembly; leave the flag out")]
    NotAScript,
}

/// The file that a profile is to be written to.
#[derive(Debug)]
pub(super) struct ProfileFile {
    file: File,
    path: PathBuf,
}

impl ProfileFile {
    /// Opens the file, if one is wanted, before anything is run: that it cannot be written is better known first. What is in
    /// it stays until there is a profile. Blocks.
    ///
    /// # Errors
    /// When it cannot be opened, or what is to be run is no script.
    pub(super) fn wanted(args: &JobArgs, is_script: bool) -> Result<Option<Self>, CpuProfileError> {
        let Some(path) = args.cpu_profile.clone() else { return Ok(None) };
        if !is_script {
            return Err(CpuProfileError::NotAScript);
        }
        match OpenOptions::new().write(true).create(true).truncate(false).open(&path) {
            Ok(file) => Ok(Some(Self { file, path })),
            Err(source) => Err(CpuProfileError::Open { path, source }),
        }
    }

    /// Takes the profile out of `result` and writes it; a line for standard error when there is none. Blocks.
    pub(super) fn keep(self, result: &mut JobResult) -> Option<String> {
        let Self { mut file, path } = self;
        let path = path.display();
        match profile_of(&mut result.logs) {
            Ok(profile) => {
                let json = profile.to_json().map_err(io::Error::from);
                let written = json.and_then(|json| replace(&mut file, &json));
                written.err().map(|error| {
                    format!("stockade: the CPU profile could not be written to {path}: {error}\n")
                })
            }
            Err(why) => Some(format!("stockade: no CPU profile for {path}: {why}\n")),
        }
    }
}

/// Writes `bytes` over what is in `file`.
fn replace(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    // A pipe or a device has no length.
    match file.metadata()?.is_file() {
        true => file.set_len(bytes.len() as u64),
        false => Ok(()),
    }
}

fn profile_of(logs: &mut Logs) -> Result<CpuProfile, String> {
    let bytes = std::mem::take(&mut logs.stdout).0;
    if bytes.is_empty() {
        return Err("the script never began, or its process was killed".to_owned());
    }
    CpuProfile::read(&bytes).map_err(|error| match error {
        ProfileError::Format(_) if logs.dropped_bytes > 0 => {
            "it did not fit into the log; give it more with --log-buffer".to_owned()
        }
        error => format!("what came is none: {}", Causes(&error)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use stockade_js::profile::Looks;

    fn logs(stdout: &[u8], dropped_bytes: u64) -> Logs {
        Logs { stdout: stdout.to_vec().into(), dropped_bytes, ..Logs::default() }
    }

    #[test]
    fn profile_is_taken_out_of_the_log() {
        let profile = Looks::default().profile(Duration::from_millis(1));
        let mut logs = logs(&profile.to_json().unwrap(), 0);
        assert_eq!(profile_of(&mut logs).unwrap(), profile);
        assert_eq!(logs.stdout.0, b"");
    }

    #[test]
    fn log_that_holds_no_profile_says_why() {
        assert!(profile_of(&mut logs(b"", 0)).unwrap_err().contains("never began"));
        assert!(profile_of(&mut logs(b"]}", 7)).unwrap_err().contains("--log-buffer"));
        assert!(profile_of(&mut logs(b"{\"nodes\":1}", 0)).unwrap_err().contains("format"));
    }

    #[test]
    fn profile_replaces_what_is_in_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.cpuprofile");
        std::fs::write(&path, vec![b'x'; 100_000]).unwrap();
        let args = JobArgs { cpu_profile: Some(path.clone()), ..JobArgs::default() };
        assert!(matches!(ProfileFile::wanted(&args, false), Err(CpuProfileError::NotAScript)));
        let mut file = ProfileFile::wanted(&args, true).unwrap().unwrap();
        replace(&mut file.file, b"{}").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"{}");
        let args = JobArgs { cpu_profile: Some(directory.path().into()), ..JobArgs::default() };
        assert!(matches!(ProfileFile::wanted(&args, true), Err(CpuProfileError::Open { .. })));
        assert!(ProfileFile::wanted(&JobArgs::default(), false).unwrap().is_none());
    }
}
