//! The one executable: supervisor, command line and, when it is started as one, zygote.
//!
//! Owns: which of these this process is, decided before anything else.
//! Never: does any of their work.
#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::process::ExitCode;

use stockade_worker::role::Behaviour;

fn main() -> ExitCode {
    // Before anything else: a zygote must not inherit what the command line does to a process.
    if std::env::args_os().nth(1).is_some_and(|role| role == "zygote") {
        return match std::io::stdin().as_fd().try_clone_to_owned() {
            Ok(control) => stockade_worker::zygote::serve(control, Behaviour::standard()),
            Err(_) => ExitCode::FAILURE,
        };
    }
    stockade::cli::main()
}
