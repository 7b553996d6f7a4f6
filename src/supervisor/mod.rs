//! The supervisor.
//!
//! Owns: jobs from admission to result.
//! Never: forks, compiles or runs guest code itself.

pub mod logs;
