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
    clap_complete::generate(shell, &mut Cli::command(), "stockade", &mut script);
    match String::from_utf8(script) {
        Ok(script) => Output::answer(script),
        Err(error) => Output::error(&error, exit::OWN_FAILURE),
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn completions_of_every_shell_know_the_flags_and_not_the_zygote() {
        for shell in Shell::value_variants() {
            let script = completions(*shell).stdout;
            for word in ["log-buffer", "isolation", "completions", "doctor"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
            assert!(!script.contains("zygote"), "{shell}");
        }
    }
}
