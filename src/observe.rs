//! The process's own log.
//!
//! Owns: where tracing events go and how they look; how an error is told with its causes.
//! Never: decides what is worth an event; shows guest bytes that were not made safe.

use std::error::Error;
use std::fmt;
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
    /// The log has gone.
    #[error("the log cannot be changed any more")]
    Gone(#[source] tracing_subscriber::reload::Error),
    /// Another log has been set up in this process.
    #[error("the log is already set up")]
    Twice(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Deepest chain of causes that is told.
const CAUSES_MAX: usize = 8;

/// An error, then its causes in parentheses: what failed is often in the system's words alone.
#[derive(Debug, Clone, Copy)]
pub struct Causes<'a>(pub &'a dyn Error);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(error) = self;
        error.fmt(f)?;
        let mut cause = error.source();
        for told in 0..CAUSES_MAX {
            let Some(known) = cause else {
                return if told == 0 { Ok(()) } else { f.write_str(")") };
            };
            write!(f, "{}{known}", if told == 0 { " (" } else { ": " })?;
            cause = known.source();
        }
        f.write_str(")")
    }
}

/// Sends events to standard error from now on. Once a process.
///
/// # Errors
/// When the filter is malformed or there is a log already.
pub fn to_stderr(log: &Log) -> Result<LogControl, ObserveError> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(&log.filter)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    match log.format {
        LogFormat::Text => {
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            builder.try_init().map_err(ObserveError::Twice)?;
            Ok(LogControl(Box::new(move |filter| handle.reload(filter))))
        }
        // A job's whole way is one span; its end is an event with the time it took.
        LogFormat::Json => {
            let builder = builder.json().with_span_events(FmtSpan::CLOSE).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.try_init().map_err(ObserveError::Twice)?;
            Ok(LogControl(Box::new(move |filter| handle.reload(filter))))
        }
    }
}

/// Changes the log that was set up.
pub struct LogControl(Box<dyn Fn(EnvFilter) -> Result<(), tracing_subscriber::reload::Error>>);

impl LogControl {
    /// Has another filter from now on.
    ///
    /// # Errors
    /// When it is none.
    pub fn set_filter(&self, filter: &str) -> Result<(), ObserveError> {
        (self.0)(EnvFilter::try_new(filter)?).map_err(ObserveError::Gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("at {0}")]
    struct At(u32, #[source] Option<Box<At>>);

    fn deep(depth: u32) -> At {
        (1..depth).rev().fold(At(depth, None), |cause, at| At(at, Some(Box::new(cause))))
    }

    #[test]
    fn causes_are_told_as_deep_as_is_bearable() {
        let told = |depth| Causes(&deep(depth)).to_string();
        assert_eq!(told(1), "at 1");
        assert_eq!(told(2), "at 1 (at 2)");
        assert_eq!(told(3), "at 1 (at 2: at 3)");
        let most = "at 1 (at 2: at 3: at 4: at 5: at 6: at 7: at 8: at 9)";
        assert_eq!([told(9).as_str(), &told(100)], [most; 2]);
    }
}
