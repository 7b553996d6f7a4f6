//! Names and numbers that the engine and its host must agree on.
//!
//! Owns: what `guest/engine.h` says, once more, for the host.
//! Never: trusts that the other side agrees: [`VERSION`] is compared at run time.

/// Version of the interface: [`export::ABI`] returns it.
pub const VERSION: u32 = 4;

/// Stack a script may use of the C code that runs it, bytes: half of what it takes to overflow this is a script's
/// `RangeError`, not a trap.
pub const STACK_BYTES: usize = 256 << 10;

/// Wasm stack an engine needs, bytes, so that every recursion a script can cause ends at [`STACK_BYTES`] first. Cranelift's
/// frames of the parsers are up to some thirty times as large as what they keep on the stack that C counts.
pub const WASM_STACK_BYTES: usize = 32 * STACK_BYTES;

/// Beside a request's form: somebody debugs it.
pub(crate) const FORM_DEBUG: u32 = 0x100;

/// Beside a request's form: the host is told where the script is, again and again.
pub(crate) const FORM_PROFILE: u32 = 0x200;

/// Beside a request's form: the host wants what the source compiles to.
pub(crate) const FORM_KEEP: u32 = 0x400;

/// Most bytes of a script or module.
pub const SOURCE_BYTES_MAX: usize = 4 << 20;

/// Most bytes of a source's name.
pub const NAME_BYTES_MAX: usize = 255;

/// What the engine exports.
pub mod export {
    /// The linear memory.
    pub const MEMORY: &str = "memory";
    /// The table of functions that are called by address.
    pub const TABLE: &str = "__indirect_function_table";
    /// `() -> u32`: [`super::VERSION`].
    pub const ABI: &str = "js_abi";
    /// `(length: u32) -> address: u32`: room for a request; 0 is none.
    pub const RESERVE: &str = "js_reserve";
    /// `(address: u32, length: u32) -> address: u32`: runs the job of the request there, and returns its reply.
    pub const RUN: &str = "js_run";
}

/// What the engine imports.
pub mod import {
    /// The module all of it is imported from.
    pub const MODULE: &str = "stockade_js";
    /// `(operation, request, request_bytes, reply, reply_room) -> i32`: the door to the host, see [`crate::door`].
    pub const CALL: &str = "call";
    /// `(address, length)`: random bytes of the job's own.
    pub const RANDOM: &str = "random";
    /// `(clock: u32) -> f64`: µs; see [`super::CLOCK_WALL`] and [`super::CLOCK_MONOTONIC`].
    pub const CLOCK: &str = "clock";
    /// `(ms: f64)`: returns after that time.
    pub const SLEEP: &str = "sleep";
    /// `() -> turns: u32`: does not return where the job is to end. The engine asks while a script runs, after as many calls and
    /// turns of loops as it was told the last time but one, or 10,000 steps of a regular expression. Between two turns it may be
    /// at one thing for seconds, such as a product of large integers.
    pub const POLL: &str = "poll";
}

/// The time of day, since the Unix epoch.
pub const CLOCK_WALL: u32 = 0;

/// Time since some moment before the job; never goes back.
pub const CLOCK_MONOTONIC: u32 = 1;
