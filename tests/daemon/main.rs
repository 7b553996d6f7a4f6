//! The daemon's side of a real Unix socket, with an in-memory stand-in for the supervisor.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests: a panic is how they fail"
)]

mod conversation;
mod frames;
mod jobs;
mod lifecycle;
mod pressure;
mod rig;
