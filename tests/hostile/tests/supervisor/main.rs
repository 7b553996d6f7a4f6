//! The supervisor against processes that misbehave: what it says of each, and what is left of them.
//!
//! The supervisor is the product's, in a process of its own for every test; the zygote and its workers are
//! `stockade-hostile`, in the real jail.
#![forbid(unsafe_code)]
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on says so by panicking, and nothing is exported"
)]

mod circuit;
mod compilers;
mod deaths;
mod families;
mod ladder;
mod leaves;
mod outputs;
mod processes;
mod readiness;
mod reports;
mod residue;
mod rig;
mod scripts;
mod surroundings;
mod templates;
mod tenant_waits;
mod tenants;
mod verdicts;
mod zygotes;
