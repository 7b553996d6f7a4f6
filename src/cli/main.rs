//! From the words of a command line to an exit status.
//!
//! Owns: which command is run with what configuration.
//! Never: does a command's work.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use super::args::{Cli, Command, ConfigCommand};
use super::output::Output;
use super::{
    Colour, cancel, check, completions, config_check, doctor, exit, explain_report, logs, manual, ps, result,
    run, script_flags, serve, socket, stats, submit,
};
use crate::config::{Config, ConfigError, InForce};
use crate::supervisor::Startup;

/// Runs the command line of this process. Blocks until it is done.
#[must_use]
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let parsed = super::parse(words.iter().cloned())
        .and_then(|cli| script_flags::put_in_front(&words, &cli).map_or(Ok(cli), super::parse));
    match parsed {
        Ok(cli) => dispatch(cli),
        Err(not_run) => {
            let text = not_run.message.to_string();
            let (stdout, stderr) =
                if not_run.to_stderr { (String::new(), text) } else { (text, String::new()) };
            Output { stdout, stderr, status: not_run.status }.print()
        }
    }
}

fn dispatch(cli: Cli) -> ExitCode {
    let file = cli.global.config.as_deref();
    let socket = cli.global.socket.as_deref();
    let daemon = |status, command: &dyn Fn(&Path) -> ExitCode| {
        with_config(file, status, |config| command(&socket::for_client(socket, config.socket.as_deref())))
    };
    match cli.command {
        Command::Run(job) => with_config(file, exit::OWN_FAILURE, |config| run::run(config, &job)),
        Command::Serve => match InForce::load(file, std::env::vars_os()) {
            Ok(in_force) => serve::serve(in_force, socket),
            Err(error) => Output::error(&error, exit::OWN_FAILURE).print(),
        },
        Command::Submit(args) => daemon(exit::OWN_FAILURE, &|path| submit::submit(path, &args)),
        Command::Ps(args) => daemon(exit::USAGE, &|path| ps::ps(path, args.json).print()),
        Command::Logs(args) => daemon(exit::USAGE, &|path| logs::logs(path, &args)),
        Command::Result(args) => daemon(exit::OWN_FAILURE, &|path| result::result(path, &args)),
        Command::Cancel(args) => daemon(exit::USAGE, &|path| cancel::cancel(path, &args.job).print()),
        Command::Stats(args) => daemon(exit::USAGE, &|path| stats::stats(path, args.json).print()),
        Command::Config(ConfigCommand::Check(args)) => {
            config_check::check(file, std::env::vars_os(), args.json).print()
        }
        Command::Doctor(args) => with_config(file, exit::USAGE, |config| {
            let socket = super::socket::for_client(socket, config.socket.as_deref());
            let colour = Colour::of(&std::io::stdout());
            doctor::report(&doctor::examine(&Startup::new(config), &socket), args.json, colour).print()
        }),
        Command::Explain(job) => with_config(file, exit::OWN_FAILURE, |config| {
            explain_report(&job, &config, Colour::of(&std::io::stdout())).print()
        }),
        Command::Check(args) => with_config(file, exit::OWN_FAILURE, |config| check::check(config, args)),
        Command::Completions(args) => completions::completions(args.shell).print(),
        Command::Manual(args) => manual::manual(&args.directory).print(),
    }
}

fn with_config(file: Option<&Path>, status: u8, command: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    match load(file) {
        Ok(config) => command(config),
        Err(error) => Output::error(&error, status).print(),
    }
}

fn load(file: Option<&Path>) -> Result<Config, ConfigError> {
    Config::load(file, std::env::vars_os())
}
