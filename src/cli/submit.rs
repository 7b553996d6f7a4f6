//! `stockade submit`: one job through the daemon.
//!
//! Owns: what a person sees of it, and that interrupting the command ends the job.
//! Never: runs anything itself.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use super::args::{ReportArgs, SubmitArgs};
use super::cpu_profile::ProfileFile;
use super::output::Output;
use super::remote::RemoteError;
use super::run::{on_this_thread, report};
use super::{ArgsError, exit, refused};
use stockade_wire::job::{Purpose, Submission, Verdict};

use crate::client::{Client, ClientError, Ticket};
use crate::daemon::StopSignals;
use crate::job_end::JobEnd;
use crate::supervisor::logs::{safe_for_terminal, safe_text};
use crate::supervisor::module_kind;

/// Longest id shown, bytes.
const ID_BYTES_MAX: usize = 64;

/// Submits the job to the daemon on `path`; the exit status is the job's.
pub(super) fn submit(path: &Path, args: &SubmitArgs) -> ExitCode {
    let submitted = on_this_thread(try_submit(path, args)).map_err(RemoteError::Runtime);
    match submitted.flatten() {
        Ok(status) => ExitCode::from(status),
        Err(error) => Output::error(&error, failure_status(&error)).print(),
    }
}

const fn failure_status(error: &RemoteError) -> u8 {
    match error {
        RemoteError::Client(ClientError::Refused(_)) | RemoteError::Args(ArgsError::ModuleKind { .. }) => {
            exit::DENIED
        }
        _ => exit::OWN_FAILURE,
    }
}

async fn try_submit(path: &Path, args: &SubmitArgs) -> Result<u8, RemoteError> {
    // The object is what a program reads, so whoever wants one gets it for any file.
    let module = if args.report.json { args.job.read_module() } else { args.job.read_recognised_module() }?;
    // Before the input, which may be typed by hand: that nobody listens is better known first.
    let mut client = Client::connect(path).await?;
    let source = module_kind::is_script(&module).then(|| module.clone());
    let profile = ProfileFile::wanted(&args.job, source.is_some())?;
    let told = args.report.of(&args.job);
    let submission = args.job.submission(module, args.job.read_input()?)?;
    if args.check
        && let Some(status) = cannot_run(&mut client, args, &submission, source.as_deref()).await?
    {
        return Ok(status);
    }
    if args.detach {
        let job = match args.durable {
            true => client.submit_durable(submission).await?,
            false => client.submit(submission).await?,
        };
        writeln!(std::io::stdout(), "{job}").map_err(RemoteError::Write)?;
        return Ok(exit::SUCCESS);
    }
    // Until here a signal ends this command alone, since there is no job yet.
    let mut signals = StopSignals::listen()?;
    let submitted = match args.durable {
        true => client.submit_durable_and_wait(submission).await,
        false => client.submit_and_wait(submission).await,
    };
    let ticket = match submitted {
        Err(ClientError::Refused(refusal)) => {
            return Ok(report(&refused::result(&refusal, &args.job), told, None)?);
        }
        submitted => submitted?,
    };
    let ended = result_or_end(&mut client, &ticket, &mut signals).await;
    match ended.map_err(|error| of_durable(error, args.durable, &ticket))? {
        Some(mut end) => {
            if let Some(line) = profile.and_then(|file| file.keep(&mut end.result)) {
                let _ = write!(std::io::stderr(), "{line}");
            }
            show(&end, told, source.as_deref())
        }
        None => Ok(exit::KILLED),
    }
}

/// Has the daemon look whether a job can be run, without running it; the status to exit with, and all said, if it cannot.
async fn cannot_run(
    client: &mut Client,
    args: &SubmitArgs,
    submission: &Submission,
    source: Option<&[u8]>,
) -> Result<Option<u8>, RemoteError> {
    let look = Submission {
        purpose: Purpose::Check,
        input: Vec::new().into(),
        directories: Vec::new(),
        ..submission.clone()
    };
    let ticket = client.submit_and_wait(look).await?;
    let end = client.end_of(&ticket).await?;
    if end.result.outcome.verdict == Verdict::Completed {
        return Ok(None);
    }
    show(&end, args.report, source).map(Some)
}

/// What was lost with the daemon is not, if the job is durable.
fn of_durable(error: RemoteError, durable: bool, ticket: &Ticket) -> RemoteError {
    match error {
        RemoteError::Client(ClientError::Closed | ClientError::Io(_)) if durable => {
            ClientError::ClosedDurable(safe_text(&ticket.job, ID_BYTES_MAX)).into()
        }
        error => error,
    }
}

/// The job's result. The first signal cancels the job, which then ends as any other; at the second the answer is
/// not waited for: `None`.
async fn result_or_end(
    client: &mut Client,
    ticket: &Ticket,
    signals: &mut StopSignals,
) -> Result<Option<JobEnd>, RemoteError> {
    tokio::select! {
        result = client.end_of(ticket) => return Ok(Some(result?)),
        () = signals.next() => {}
    }
    client.abandon(ticket).await?;
    tokio::select! {
        result = client.end_of(ticket) => Ok(Some(result?)),
        () = signals.next() => Ok(None),
    }
}

pub(super) fn show(end: &JobEnd, args: ReportArgs, source: Option<&[u8]>) -> Result<u8, RemoteError> {
    if args.json {
        return Ok(report(&end.whole().map_err(RemoteError::Output)?, args, source)?);
    }
    let result = &end.result;
    show_logs(result);
    let shown = show_output(end)?.and_then(|()| end_line(source.is_some() && end.output_bytes() > 0));
    let status = report(result, args, source)?;
    match shown {
        Ok(()) => Ok(status),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(exit::BROKEN_PIPE),
        Err(error) => Err(RemoteError::Write(error)),
    }
}

/// The output to standard output; the inner error is why it could not be shown.
fn show_output(end: &JobEnd) -> Result<std::io::Result<()>, RemoteError> {
    let mut stdout = std::io::stdout().lock();
    let shown = match &end.output {
        None => stdout.write_all(&end.result.output.0),
        // By the kernel, as far as it can.
        Some(file) => {
            let mut file = File::from(file.reopen().map_err(RemoteError::Output)?);
            std::io::copy(&mut file, &mut stdout).map(drop)
        }
    };
    Ok(shown.and_then(|()| stdout.flush()))
}

/// Ends the line that a script's value is, where a person reads it: the value itself has no end of line.
pub(super) fn end_line(of_script: bool) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match of_script && stdout.is_terminal() {
        true => stdout.write_all(b"\n").and_then(|()| stdout.flush()),
        false => Ok(()),
    }
}

/// What the guest printed besides its output, to standard error. Without a reader there is nobody to tell.
fn show_logs(result: &stockade_wire::job::JobResult) {
    let mut stderr = std::io::stderr().lock();
    if result.logs.dropped_bytes > 0 {
        let lost = result.logs.dropped_bytes;
        let _ = writeln!(stderr, "[{lost} bytes of the log lost: --log-buffer]");
    }
    let terminal = std::io::stderr().is_terminal();
    for log in [&result.logs.stdout.0, &result.logs.stderr.0] {
        let _ = match terminal {
            true => stderr.write_all(safe_for_terminal(log).as_bytes()),
            false => stderr.write_all(log),
        };
    }
}
