//! The command line.
//!
//! Owns: what a person types and reads.
//! Never: runs a job or speaks to a socket by itself; the supervisor and the client do.

pub mod args;
mod bill;
mod cancel;
mod check;
pub mod completions;
pub mod config_check;
mod cpu_profile;
pub mod doctor;
pub mod exit;
pub mod explain;
mod explain_text;
pub mod grant;
mod job_args;
mod logs;
mod main;
pub mod manual;
pub mod output;
mod parse;
mod ps;
mod refused;
mod remote;
pub mod render;
mod result;
mod run;
mod run_logs;
mod script_flags;
mod script_text;
mod serve;
mod signals;
pub mod socket;
mod stats;
mod submit;
pub mod trial;
pub mod walls;

pub use bill::Colour;
pub use explain_text::report as explain_report;
pub use job_args::ArgsError;
pub use main::main;
pub use parse::{NotRun, parse};
