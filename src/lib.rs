//! Stockade: a daemon that runs code its owner does not trust.
//!
//! Owns: the module list of the supervisor's side, in the order in which it is best read.
//! Never: holds unsafe code.
#![doc = "\n"]
#![doc = include_str!("ARCHITECTURE.md")]
#![forbid(unsafe_code)]

pub mod cli;
pub mod client;
pub mod config;
pub mod daemon;
pub mod host;
pub mod job_end;
pub mod observe;
pub mod sealed;
pub mod supervisor;
mod wire_end;
