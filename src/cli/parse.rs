//! From the words of a command line to [`Cli`].
//!
//! Owns: what a command line that makes no sense exits with.
//! Never: exits, prints.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use super::args::Cli;
use super::exit;
use crate::config::nearest_name;

/// Commands whose exit status is otherwise the guest's.
const GUEST_COMMANDS: [&str; 2] = ["run", "submit"];

/// A command line that is not run: help, version, or one that makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct NotRun {
    /// What to print.
    pub message: clap::builder::StyledStr,
    /// Whether it belongs on standard error.
    pub to_stderr: bool,
    /// What to exit with.
    pub status: u8,
}

/// Reads the words of a command line, the program's name first.
///
/// # Errors
/// When there is nothing to run; what to print and to exit with instead.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, NotRun> {
    let words: Vec<OsString> = words.into_iter().collect();
    let guest = words.iter().skip(1).any(|word| GUEST_COMMANDS.iter().any(|command| word == command));
    Cli::try_parse_from(words).map_err(|error| {
        let status = match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => exit::SUCCESS,
            _ if guest => exit::OWN_FAILURE,
            _ => exit::USAGE,
        };
        NotRun { message: error.render(), to_stderr: error.use_stderr(), status }
    })
}

/// The flag of `run` or `submit` most like `given`, which is none of the command it was given to.
pub(super) fn nearest_flag(given: &str) -> Option<String> {
    let command = Cli::command();
    let submit = command.find_subcommand("submit")?;
    let bare = given.split('=').next().unwrap_or(given);
    let names = submit.get_arguments().filter_map(|flag| flag.get_long()).map(|name| format!("--{name}"));
    let names: Vec<String> = names.filter(|name| name != bare).collect();
    nearest_name(bare, names.iter().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Cli, NotRun> {
        parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn command_line_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn command_line_of_every_command_is_read() {
        for line in [
            "stockade run f.wasm a b",
            "stockade --config /c --socket /s serve",
            "stockade serve --config /c",
            "stockade submit --detach f.wasm",
            "stockade ps --json",
            "stockade logs -f 01J",
            "stockade logs --follow 01J",
            "stockade cancel 01J",
            "stockade stats --json",
            "stockade doctor --json",
            "stockade explain --memory 1M f.wasm",
            "stockade config check --json",
            "stockade completions bash",
        ] {
            assert!(words(line).is_ok(), "{line}: {}", words(line).unwrap_err());
        }
    }

    #[test]
    fn command_line_that_makes_no_sense_has_the_status_of_its_command() {
        for (line, status, to_stderr) in [
            ("stockade run", 125, true),
            ("stockade submit --timeout never f", 125, true),
            ("stockade submit --detach --json f", 125, true),
            ("stockade run --require wall f", 125, true),
            ("stockade run --isolation none f", 125, true),
            ("stockade ps --jsn", 2, true),
            ("stockade frobnicate", 2, true),
            // What starts workers is chosen before the command line is read, and is none of its commands.
            ("stockade zygote", 2, true),
            ("stockade explain", 2, true),
            ("stockade", 2, true),
            ("stockade --help", 0, false),
            ("stockade run --help", 0, false),
            ("stockade --version", 0, false),
        ] {
            let not_run = words(line).unwrap_err();
            assert_eq!((not_run.status, not_run.to_stderr), (status, to_stderr), "{line}: {not_run}");
        }
    }

    #[test]
    fn help_keeps_to_the_width_and_hides_the_zygote() {
        let help = words("stockade --help").unwrap_err().to_string();
        assert!(!help.contains("zygote"), "{help}");
        let help = words("stockade run --help").unwrap_err().to_string();
        let explain = words("stockade explain --help").unwrap_err().to_string();
        assert!(!explain.contains("--bill") && !explain.contains("guest's output"), "{explain}");
        for flag in
            ["--json", "--dir <HOST[::GUEST][:ro]>", "--timeout <TIME>", "FILE [ARGS]", "125 Stockade's own"]
        {
            assert!(help.contains(flag), "{flag} is not in {help}");
        }
    }

    #[test]
    fn value_that_makes_no_sense_is_refused_with_what_is_allowed() {
        let message = words("stockade run --timeout 5x f").unwrap_err().to_string();
        assert!(message.contains("durations end in us, ms, s, m or h"), "{message}");
        let message = words("stockade run --memory 64MB f").unwrap_err().to_string();
        assert!(message.contains("sizes end in K, M, G or T"), "{message}");
        let message = words("stockade run --require seccmp f").unwrap_err().to_string();
        assert!(message.contains("no-new-privs"), "{message}");
    }
}
