//! The daemon's side of a real Unix socket, with an in-memory stand-in for the supervisor.
#![forbid(unsafe_code)]
#![expect(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test: a panic is how it fails, and nothing is exported"
)]

mod beside;
mod commands;
mod conversation;
mod foreign_client;
mod frames;
mod jobs;
mod lifecycle;
mod pressure;
mod rig;
