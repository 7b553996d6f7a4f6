//! The process's own log.
//!
//! Owns: where tracing events go and how they look.
//! Never: decides what is worth an event; shows guest bytes that were not made safe.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::config::{Log, LogFormat};

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// The filter is not one.
    #[error("log.filter cannot be used; it takes what RUST_LOG takes, such as `info` or `stockade=debug`")]
    Filter(#[from] ParseError),
    /// Another log has been set up in this process.
    #[error("the log is already set up")]
    Twice(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Sends events to standard error from now on. Once a process.
///
/// # Errors
/// When the filter is malformed or there is a log already.
pub fn to_stderr(log: &Log) -> Result<(), ObserveError> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(&log.filter)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    match log.format {
        LogFormat::Text => builder.try_init(),
        // A job's whole way is one span; its end is an event with the time it took.
        LogFormat::Json => builder.json().with_span_events(FmtSpan::CLOSE).try_init(),
    }
    .map_err(ObserveError::Twice)
}
