//! `stockade check`: whether a file can be run, without running it.
//!
//! Owns: which form JavaScript is looked at in, and what a person is told.
//! Never: parses anything itself: a jailed worker does, as it would for `run`.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use stockade_wire::job::{JobResult, Purpose, ScriptError, Submission, Verdict};

use super::args::{CheckArgs, JobArgs, ReportArgs};
use super::output::Output;
use super::run::{for_one_job, on_this_thread, report};
use super::signals::{InheritedSignalsError, begin_afresh};
use super::{ArgsError, exit, refused};
use crate::config::Config;
use crate::observe::{self, ObserveError};
use crate::supervisor::logs::safe_text;
use crate::supervisor::module_kind::{self, ModuleKind};
use crate::supervisor::{Beside, Caller, StartError, Startup, Supervisor};

/// Longest file name shown, bytes.
const NAME_BYTES_MAX: usize = 256;

/// The entry that a module is given to be known for one; no function is looked for.
const ANY_ENTRY: &str = "default";

/// What names of modules end in.
const MODULE_ENDING: &str = "mjs";

/// Why a file was not looked at.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error(transparent)]
    InheritedSignals(#[from] InheritedSignalsError),
    #[error(transparent)]
    Args(#[from] ArgsError),
    #[error(transparent)]
    Observe(#[from] ObserveError),
    #[error("no event loop")]
    Runtime(#[source] std::io::Error),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("the result of the look is gone")]
    Lost,
    #[error("the result cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    #[error("cannot write the answer")]
    Write(#[source] std::io::Error),
}

/// Looks at a file and gives the exit status.
pub(super) fn check(mut config: Config, args: CheckArgs) -> ExitCode {
    for_one_job(&mut config);
    let outcome = begin_afresh()
        .map_err(CheckError::from)
        .and_then(|()| Ok(observe::to_stderr(&config.log).map(drop)?))
        .and_then(|()| on_this_thread(look_at(config, args)).map_err(CheckError::Runtime)?);
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(error @ CheckError::Args(ArgsError::ModuleKind { .. })) => {
            Output::error(&error, exit::DENIED).print()
        }
        Err(error) => Output::error(&error, exit::OWN_FAILURE).print(),
    }
}

async fn look_at(config: Config, args: CheckArgs) -> Result<u8, CheckError> {
    let told = ReportArgs { json: args.json, bill: false };
    let named_module = Path::new(&args.file).extension().is_some_and(|ending| ending == MODULE_ENDING);
    let job = JobArgs { program: vec![args.file], ..JobArgs::default() };
    let module = job.read_recognised_module()?;
    let kind = module_kind::recognise(&module).ok();
    let source = (kind == Some(ModuleKind::Script)).then(|| module.clone());
    let submission = Submission { purpose: Purpose::Check, ..job.submission(module, Vec::new())? };
    let as_module = Submission { entry: Some(ANY_ENTRY.to_owned()), ..submission.clone() };
    let supervisor = Startup::new(config).start().await?;
    let forms = match (kind, args.module || named_module) {
        (Some(ModuleKind::Script), true) => vec![("a module", as_module)],
        (Some(ModuleKind::Script), false) => vec![("a script", submission), ("a module", as_module)],
        _ => vec![("WebAssembly", submission)],
    };
    let looked = in_some_form(&supervisor, &job, forms).await;
    supervisor.end().await;
    let (form, result) = looked?;
    if result.outcome.verdict == Verdict::Completed && !told.json {
        let name = safe_text(&result_name(&job), NAME_BYTES_MAX);
        writeln!(std::io::stdout(), "{name}: {form}").map_err(CheckError::Write)?;
    }
    Ok(report(&result, told, source.as_deref())?)
}

fn result_name(job: &JobArgs) -> String {
    job.file().to_string_lossy().into_owned()
}

/// The first form in which it can be run; in none, what is wrong with the form whose parser came furthest.
async fn in_some_form(
    supervisor: &Supervisor,
    job: &JobArgs,
    forms: Vec<(&'static str, Submission)>,
) -> Result<(&'static str, JobResult), CheckError> {
    let mut furthest: Option<(&'static str, JobResult)> = None;
    for (form, submission) in forms {
        let result = looked_at(supervisor, job, submission).await?;
        let is_further = furthest.as_ref().is_none_or(|(_, other)| came_further(&result, other));
        let is_over = result.outcome.reason.as_deref() != Some("syntax_error");
        if is_further {
            furthest = Some((form, result));
        }
        if is_over {
            break;
        }
    }
    furthest.ok_or(CheckError::Lost)
}

/// Whether `one` is not a syntax error, or one that is not before the `other`'s.
fn came_further(one: &JobResult, other: &JobResult) -> bool {
    let place = |error: &ScriptError| (error.line.unwrap_or(0), error.column.unwrap_or(0));
    let [one_at, other_at] = [one, other].map(|result| result.error.as_ref().map(place));
    one.outcome.reason.as_deref() != Some("syntax_error") || one_at > other_at
}

async fn looked_at(
    supervisor: &Supervisor,
    job: &JobArgs,
    submission: Submission,
) -> Result<JobResult, CheckError> {
    let caller = Caller::own();
    let id = match supervisor.submit_with(&caller, submission, Beside::default()) {
        Ok(id) => id,
        Err(refusal) => return Ok(refused::result(&refusal, job)),
    };
    let end = supervisor.end_of(&caller, &id).ok_or(CheckError::Lost)?;
    Ok(end.await.result.clone())
}
