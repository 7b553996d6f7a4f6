//! What Stockade's processes and clients say to each other.
//!
//! Owns: frames, the codec, every message type and every bound on them.
//! Never: opens a socket, reads a clock, decides anything.
//!
//! Each direction of each pair has an enum of its own, so that an end can neither send nor be asked to
//! understand the other end's messages:
//!
//! | from → to | enum |
//! |---|---|
//! | client → supervisor | [`client::ToDaemon`] |
//! | supervisor → client | [`client::FromDaemon`] |
//! | supervisor → zygote | [`zygote::ToZygote`] |
//! | zygote → supervisor | [`zygote::FromZygote`] |
//! | supervisor → worker | [`worker::ToWorker`] |
//! | worker → supervisor | [`worker::FromWorker`] |
//!
//! `docs/wire.md` writes the client's half down byte by byte for clients in other languages.
#![forbid(unsafe_code)]

pub mod bytes;
pub mod client;
pub mod codec;
pub mod frame;
pub mod job;
pub mod limits;
pub mod worker;
pub mod zygote;

/// The newest version of the client protocol: descriptors may travel beside frames, see [`frame::Header`].
pub const CLIENT_PROTOCOL_VERSION: u16 = 2;

/// The oldest version that a daemon still speaks: all bytes are in frames, and no descriptor is ever received. A daemon
/// answers a [`client::ToDaemon::Hello`] in the version that it names, and refuses one that names neither.
pub const CLIENT_PROTOCOL_VERSION_WITHOUT_DESCRIPTORS: u16 = 1;
