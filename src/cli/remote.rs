//! What every command that asks the daemon has in common.
//!
//! Owns: connecting, asking one question, and the exit status of a failure.
//! Never: prints.

use std::path::Path;

use super::exit;
use super::output::Output;
use super::run::on_this_thread;
use crate::client::{Client, ClientError};
use crate::daemon::SignalError;

/// Why the daemon's answer could not be shown.
#[derive(Debug, thiserror::Error)]
pub(super) enum RemoteError {
    #[error("no event loop")]
    Runtime(#[source] std::io::Error),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Args(#[from] super::ArgsError),
    #[error(transparent)]
    Profile(#[from] super::cpu_profile::CpuProfileError),
    #[error(transparent)]
    Signals(#[from] SignalError),
    #[error("the answer cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    #[error("cannot write the answer")]
    Write(#[source] std::io::Error),
    #[error("the output that the daemon sent cannot be read")]
    Output(#[source] std::io::Error),
}

/// Connects to the daemon on `path` and asks. Blocks until answered.
pub(super) fn ask<T>(
    path: &Path,
    question: impl AsyncFnOnce(&mut Client) -> Result<T, RemoteError>,
) -> Result<T, RemoteError> {
    on_this_thread(async {
        let mut client = Client::connect(path).await?;
        question(&mut client).await
    })
    .map_err(RemoteError::Runtime)?
}

/// The answer, or what kept it from coming.
pub(super) fn output(answer: Result<String, RemoteError>) -> Output {
    match answer {
        Ok(text) => Output::answer(text),
        Err(error) => Output::error(&error, exit::FAILURE),
    }
}
