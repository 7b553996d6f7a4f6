//! The jail from outside and from inside: real zygote, real workers, hostile code.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on says so by panicking"
)]

mod guests;
mod hostility;
mod initialised;
mod processes;
mod rig;
mod scripts;
mod templates;
mod tenants;
mod walls;
