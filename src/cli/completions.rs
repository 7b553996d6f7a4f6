//! `stockade completions SHELL`.
//!
//! Owns: nothing but the call.
//! Never: writes to a shell's own files.

use clap::CommandFactory;
use clap_complete::Shell;

use super::args::Cli;
use super::exit;
use super::output::Output;

/// A script that completes Stockade's commands and flags in `shell`.
#[must_use]
pub fn completions(shell: Shell) -> Output {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut shown(), "stockade", &mut script);
    match String::from_utf8(script) {
        Ok(script) => Output::answer(script),
        Err(error) => Output::error(&error, exit::OWN_FAILURE),
    }
}

/// The command line without what is hidden, which `clap_complete` would offer.
fn shown() -> clap::Command {
    let all = Cli::command();
    let commands = all.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let shown = clap::Command::new("stockade").version(env!("CARGO_PKG_VERSION")).propagate_version(true);
    shown.args(all.get_arguments().cloned()).subcommands(commands)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn completions_of_every_shell_know_the_flags_and_nothing_that_is_hidden() {
        for shell in Shell::value_variants() {
            let script = completions(*shell).stdout;
            for word in ["log-buffer", "isolation", "completions", "doctor"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
            assert!(!script.contains("zygote") && !script.contains("manual"), "{shell}");
        }
    }
}
