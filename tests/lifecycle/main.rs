//! The executable as it ships: whatever ends it, nothing of it is left.
#![allow(unreachable_pub, reason = "a module of a test binary has nobody outside to hide from")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on says so by panicking"
)]

mod environment;
mod family;
mod killed;
mod rig;
mod stopped;
mod terminal;
