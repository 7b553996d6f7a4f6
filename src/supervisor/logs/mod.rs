//! What guests print: kept within bounds, counted exactly, shown safely.
//!
//! Owns: the ring each log stream is kept in, and how guest text is made safe to show.
//! Never: reads a pipe, knows a job.

pub mod display;
pub mod ring;

pub use display::{TerminalText, safe_for_terminal, safe_text};
pub use ring::{Chunk, LogRing};
