//! `stockade result`: how a job ended, asked for by its id.
//!
//! Owns: the question, and waiting for the answer.
//! Never: ends the job, whatever ends the command.

use std::path::Path;
use std::process::ExitCode;

use super::args::ResultArgs;
use super::output::Output;
use super::remote::RemoteError;
use super::run::on_this_thread;
use super::{exit, submit};
use crate::client::{Client, ClientError};
use crate::job_end::JobEnd;

/// Asks the daemon on `path` for the job's result, once it is over; the exit status is the job's.
pub(super) fn result(path: &Path, args: &ResultArgs) -> ExitCode {
    let asked = on_this_thread(async {
        let mut client = Client::connect(path).await?;
        let result = client.result(&args.job, true).await?;
        // Whoever waits is answered with the end alone.
        submit::show(&JobEnd::of(result.ok_or(ClientError::Unexpected)?), args.report, None)
    });
    match asked.map_err(RemoteError::Runtime).flatten() {
        Ok(status) => ExitCode::from(status),
        Err(error) => Output::error(&error, exit::OWN_FAILURE).print(),
    }
}
