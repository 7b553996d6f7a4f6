//! The JavaScript engine as WebAssembly, and how to talk to it.
//!
//! QuickJS-ng is compiled by `build.rs` from the source that a pinned crate carries, with our own C and JavaScript in
//! `guest/` around it. It never becomes native code of this machine's but through Wasmtime, in a worker.
//!
//! Setting it up (the language's own objects, and what our scripts put beside them) is the same for every job, and so is
//! done when it is built: an instance begins as that left it, which is bytes of its memory and nothing else.
//!
//! ```text
//! host                                      engine (one instance, one job)
//!   │ ── js_reserve(length) ───────────────▶ │  room for the request
//!   │ ── js_run(address, length) ──────────▶ │
//!   │ ◀──────── call · random · clock · sleep │  all it can ask for
//!   │ ◀───────────────────────────── address │  of the reply
//! ```
#![forbid(unsafe_code)]

pub mod abi;
pub mod door;
pub mod excerpt;
pub mod profile;
pub mod reply;
pub mod request;

/// The engine, set up: a core module that imports the five functions of [`abi::import`] and nothing else.
pub const ENGINE_WASM: &[u8] = include_bytes!(env!("STOCKADE_JS_ENGINE"));

/// SHA-256 of [`ENGINE_WASM`], which is the same for every process and takes each a millisecond to compute.
pub const ENGINE_SHA256: &[u8; 32] = include_bytes!(env!("STOCKADE_JS_ENGINE_SHA256"));

/// What most scripts write to of an engine's memory, as long as they have little to do: addresses and lengths,
/// bytes, in whole pages of 4 KiB, ascending. Nothing depends on it but how long a page fault is waited for.
pub const HOT: &[(u32, u32)] = include!(env!("STOCKADE_JS_ENGINE_HOT"));

/// Version of QuickJS-ng in it.
pub const ENGINE_VERSION: &str = env!("STOCKADE_JS_ENGINE_VERSION");
