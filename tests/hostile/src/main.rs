//! A zygote whose workers misbehave inside the real jail, and the same probes without it.
//!
//! ```text
//! stockade-hostile zygote      serves the control socket on standard input
//! stockade-hostile probe NAME  runs one probe here and now, without a jail, and prints its result
//! stockade-hostile within NAME PROGRAM [ARGS]  takes something away from this process and becomes the program
//! ```
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use stockade_hostile::{manners, misbehave, probe, surroundings};
use stockade_worker::zygote;

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let own_name = own_name(arguments.next().unwrap_or_default());
    let (role, name) = (arguments.next(), arguments.next());
    match (role.as_deref(), name.as_deref()) {
        (Some("zygote"), None | Some(zygote::ENTERED)) => match std::io::stdin().as_fd().try_clone_to_owned()
        {
            Ok(control) => match manners::of(&own_name) {
                Some(answer) => {
                    manners::serve(&control, answer);
                    ExitCode::SUCCESS
                }
                None => serve(control, &own_name),
            },
            Err(error) => {
                eprintln!("standard input is not there: {error}");
                ExitCode::FAILURE
            }
        },
        (Some("probe"), Some(name)) => match probe::run(name) {
            Some(outcome) => {
                println!("{outcome}");
                ExitCode::SUCCESS
            }
            None => {
                eprintln!("no probe is called {name}");
                ExitCode::FAILURE
            }
        },
        (Some("within"), Some(name)) => {
            let Some(program) = arguments.next() else { return ExitCode::FAILURE };
            let error = match surroundings::enter(name) {
                Ok(()) => Command::new(program).args(arguments).exec(),
                Err(error) => error,
            };
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
        _ => {
            eprintln!("usage: stockade-hostile zygote | probe NAME | within NAME PROGRAM [ARGS]");
            ExitCode::FAILURE
        }
    }
}

/// The product's zygote, whose workers misbehave as `name` says, in a place that `name` may be the name of.
fn serve(control: OwnedFd, name: &str) -> ExitCode {
    if name == "no-clone3"
        && let Err(error) = surroundings::enter(name)
    {
        eprintln!("{name}: {error}");
        return ExitCode::FAILURE;
    }
    zygote::serve(control, misbehave::behaviour(name))
}

/// The name that chooses a misbehaviour: the one it was called by, or the file's when it was called by the
/// supervisor, which has a name of its own for its zygotes.
fn own_name(called: String) -> String {
    if called != "stockade-zygote" {
        return Path::new(&called).file_name().and_then(OsStr::to_str).unwrap_or_default().to_owned();
    }
    let file = std::env::current_exe().unwrap_or_default();
    file.file_name().and_then(OsStr::to_str).unwrap_or_default().to_owned()
}
