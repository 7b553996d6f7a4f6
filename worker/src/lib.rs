//! The jailed side of Stockade: the zygote, the jail's layers, the compile and run roles.
//!
//! Owns: everything that happens in the zygote and in workers.
//! Never: decides policy, reads a client's message, links the supervisor.
#![forbid(unsafe_code)]

pub mod compile;
pub mod engine;
pub mod grants;
pub mod jail;
#[cfg(test)]
pub(crate) mod own_process;
pub mod role;
pub mod run;
pub mod survey;
mod template;
mod tenant;
mod usage;
pub mod zygote;
