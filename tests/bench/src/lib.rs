//! What a job costs, beside what the machine itself takes and what others take, in one run.
//!
//! Owns: everything behind `scripts/bench`.
//! Never: asserts a time; a noisy machine is no reason to fail.
#![forbid(unsafe_code)]
#![allow(clippy::cast_precision_loss, reason = "no count here is anywhere near 2⁵²")]

pub mod beside;
pub mod builds;
pub mod client;
pub mod daemon;
pub mod drive;
pub mod floors;
pub mod jobs;
pub mod load;
pub mod machine;
pub mod paced;
pub mod plot;
pub mod polled;
pub mod procfs;
pub mod publish;
pub mod ratios;
pub mod report;
pub mod rivals;
pub mod rows;
pub mod samples;
pub mod scale;
pub mod script;
pub mod stages;
pub mod stockade;
pub mod table;
