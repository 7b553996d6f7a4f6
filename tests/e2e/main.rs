//! The program as it is built, on real sockets, with real workers: what a person or a service sees of it.
#![forbid(unsafe_code)]
#![expect(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test: a panic is how it fails, and nothing is exported"
)]

/// Declares functions that take a [`rig::Mode`] as tests, once jailed and once in-process: what is promised of a
/// job holds in both.
macro_rules! in_both_modes {
    ($($name:ident),+ $(,)?) => {
        mod jailed {
            $(#[test] fn $name() { super::$name(crate::rig::Mode::Jailed); })+
        }
        mod in_process {
            $(#[test] fn $name() { super::$name(crate::rig::Mode::InProcess); })+
        }
    };
}

mod bad_scripts;
mod beside;
mod bill;
mod compiled_ahead;
mod cpu_profile;
mod crowd;
mod daemon;
mod documents;
mod grants;
mod guests;
mod inprocess;
mod lifecycle;
mod limits;
mod observe;
mod other_users;
mod refusals;
mod residue;
mod rig;
mod scripts;
mod starved;
mod streams;
mod verdicts;
mod waiting_scripts;
