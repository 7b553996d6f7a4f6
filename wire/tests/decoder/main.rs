//! The codec against hostile bytes, for every message there is; and `docs/wire.md` against the codec.
#![forbid(unsafe_code)]
#![expect(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test: a panic is how it fails, and nothing is exported"
)]

mod dice;
mod document;
mod hostile;
