//! `stockade cancel`: ends a job.
//!
//! Owns: its one line.
//! Never: waits for the job's end; its result tells.

use std::path::Path;

use super::output::Output;
use super::remote;
use crate::supervisor::logs::safe_text;

/// Longest id shown, bytes.
const ID_BYTES_MAX: usize = 64;

/// Asks the daemon on `path` to end `job`.
pub(super) fn cancel(path: &Path, job: &str) -> Output {
    let cancelled = remote::ask(path, async |client| Ok(client.cancel(job).await?));
    remote::output(cancelled.map(|()| format!("cancelling {}\n", safe_text(job, ID_BYTES_MAX))))
}
