//! A zygote whose workers misbehave inside the real jail, and the same probes without it.
//!
//! ```text
//! stockade-hostile zygote      serves the control socket on standard input
//! stockade-hostile probe NAME  runs one probe here and now, without a jail, and prints its result
//! ```
#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::process::ExitCode;

use stockade_hostile::{misbehave, probe};
use stockade_worker::zygote;

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let own_name = arguments.next().unwrap_or_default();
    match (arguments.next().as_deref(), arguments.next()) {
        (Some("zygote"), None) => match std::io::stdin().as_fd().try_clone_to_owned() {
            Ok(control) => zygote::serve(control, misbehave::behaviour(&own_name)),
            Err(error) => {
                eprintln!("standard input is not there: {error}");
                ExitCode::FAILURE
            }
        },
        (Some("probe"), Some(name)) => match probe::run(&name) {
            Some(outcome) => {
                println!("{outcome}");
                ExitCode::SUCCESS
            }
            None => {
                eprintln!("no probe is called {name}");
                ExitCode::FAILURE
            }
        },
        _ => {
            eprintln!("usage: stockade-hostile zygote | probe NAME");
            ExitCode::FAILURE
        }
    }
}
