//! Workers that misbehave, probes that look for holes, and places where walls cannot be had.
//!
//! Owns: what a hijacked worker might do, and programs that succeed without a wall and fail behind it.
//! Never: is part of the product; nothing in it goes round a layer.
#![forbid(unsafe_code)]

pub mod manners;
pub mod misbehave;
pub mod probe;
pub mod surroundings;
