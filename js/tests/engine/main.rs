//! The engine in Wasmtime, with a host of the tests' own.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test: a panic is how it fails"
)]

mod compiled;
mod errors;
mod hostile;
mod platform;
mod profile;
mod results;
mod rig;
mod url;
