//! The executable as it ships: whatever ends it, nothing of it is left.
#![forbid(unsafe_code)]
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on says so by panicking, and nothing is exported"
)]

mod activated;
mod environment;
mod family;
mod inherited;
mod killed;
mod rig;
mod stopped;
mod terminal;
mod watched;
