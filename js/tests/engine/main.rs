//! The engine in Wasmtime, with a host of the tests' own.
#![forbid(unsafe_code)]

mod errors;
mod hostile;
mod platform;
mod results;
mod rig;
mod url;
