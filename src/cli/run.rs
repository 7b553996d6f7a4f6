//! `stockade run`: one job now, behind the same walls, without a daemon.
//!
//! Owns: the guest's standard streams, and what a person sees while waiting.
//! Never: runs the guest itself: a supervisor of its own does, for one job.

use std::io::{IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{SFlag, fstat};
use stockade_wire::job::{JobResult, LogStream, Phase};
use tokio::runtime::{Builder, LocalOptions};

use super::args::{ReportArgs, RunArgs};
use super::cpu_profile::{CpuProfileError, ProfileFile};
use super::output::Output;
use super::run_logs::LogText;
use super::signals::{InheritedSignalsError, begin_afresh};
use super::submit::end_line;
use super::{ArgsError, Colour, bill, exit, refused, render, script_text};
use crate::config::{Config, PressureFile};
use crate::daemon::{SignalError, StopSignals};
use crate::job_end::JobEnd;
use crate::observe::{self, ObserveError};
use crate::supervisor::module_kind;
use crate::supervisor::{Beside, Caller, Input, Lookup, StartError, Startup, Supervisor};

/// How long a compilation takes before it is worth a line.
const PROGRESS_AFTER: Duration = Duration::from_millis(300);

/// Why no job was run.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    InheritedSignals(#[from] InheritedSignalsError),
    #[error(transparent)]
    Args(#[from] ArgsError),
    #[error(transparent)]
    Observe(#[from] ObserveError),
    #[error("no event loop")]
    Runtime(#[source] std::io::Error),
    #[error(transparent)]
    Signals(#[from] SignalError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("standard input cannot be handed to the guest")]
    Input(#[source] std::io::Error),
    #[error("what the guest wrote cannot be passed on, so its job was not let go on")]
    Write(#[source] std::io::Error),
    #[error(transparent)]
    Profile(#[from] CpuProfileError),
    #[error("the job's result is gone")]
    Lost,
    #[error("the job's output cannot be read")]
    Output(#[source] std::io::Error),
    #[error("the result cannot be written as JSON")]
    Json(#[from] serde_json::Error),
}

/// Runs `future` on this thread, on the runtime that everything of the supervisor's lives on.
///
/// # Errors
/// When the kernel gives no event loop.
pub(super) fn on_this_thread<F: Future>(future: F) -> std::io::Result<F::Output> {
    // Not a `LocalSet`: that would have itself woken through the kernel at every turn.
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    Ok(runtime.block_on(future))
}

/// Runs the job and gives its exit status.
pub(super) fn run(mut config: Config, args: &RunArgs) -> ExitCode {
    for_one_job(&mut config);
    let outcome = begin_afresh()
        .map_err(RunError::from)
        .and_then(|()| Ok(observe::to_stderr(&config.log).map(drop)?))
        .and_then(|()| on_this_thread(run_one(config, args)).map_err(RunError::Runtime)?);
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(error @ RunError::Args(ArgsError::ModuleKind { .. })) => {
            Output::error(&error, exit::DENIED).print()
        }
        Err(error) => Output::error(&error, exit::OWN_FAILURE).print(),
    }
}

/// One job needs one worker, which the start makes; and the log must not mix with the guest's own words.
pub(super) fn for_one_job(config: &mut Config) {
    config.pool.warm = 0;
    config.pool.warm_max = 0;
    config.pool.ready_max = 1;
    config.pool.templates_max = 0;
    config.pool.script_ready = 0;
    config.warm_up.clear();
    config.pressure.file = PressureFile::Off;
    // A job that ends with this command is not one to keep a record of for later.
    config.durable.directory = None;
    if !log_asked_for() {
        "error".clone_into(&mut config.log.filter);
    }
}

/// Whether whoever runs the job wants to read the log; a file speaks of the daemon's.
fn log_asked_for() -> bool {
    ["RUST_LOG", "STOCKADE_LOG_FILTER"]
        .into_iter()
        .any(|name| std::env::var_os(name).is_some_and(|filter| !filter.is_empty()))
}

async fn run_one(config: Config, RunArgs { report: told, job: args }: &RunArgs) -> Result<u8, RunError> {
    let told = &told.of(args);
    let mut signals = StopSignals::listen()?;
    // The object is what a program reads, so whoever wants one gets it for any file.
    let module = if told.json { args.read_module() } else { args.read_recognised_module() }?;
    let module_bytes = module.len();
    // To show where in it an error is.
    let source = module_kind::is_script(&module).then(|| module.clone());
    let profile = ProfileFile::wanted(args, source.is_some())?;
    // A named file is read whole; standard input stays a stream, as long as it may be.
    let (bytes, beside) = match &args.input {
        Some(path) if path.as_os_str() != "-" => (args.read_input()?, Beside::default()),
        Some(_) | None => {
            args.check_standard_input()?;
            let input = Input::Descriptor(standard_input().map_err(RunError::Input)?);
            (Vec::new(), Beside { input, ..Beside::default() })
        }
    };
    let submission = args.submission(module, bytes)?;
    let supervisor = Startup::new(config).start().await?;
    let caller = Caller::own();
    let id = match supervisor.submit_with(&caller, submission, beside) {
        Ok(id) => id,
        Err(refusal) => {
            supervisor.end().await;
            return Ok(report(&refused::result(&refusal, args), *told, None)?);
        }
    };
    let profiles = profile.is_some();
    let watched = Watched { supervisor: &supervisor, caller, id: &id, json: told.json, profiles };
    let name = args.module_name();
    let (shown, result) = tokio::select! {
        end = watched.to_the_end(&name, module_bytes) => end,
        status = watched.interrupted(&mut signals) => return Ok(status),
    };
    supervisor.end().await;
    let end = result.ok_or(RunError::Lost)?;
    // All of the output has been shown, unless the object is to hold it.
    let mut result = if told.json { end.whole().map_err(RunError::Output)? } else { end.result.clone() };
    if let Some(line) = profile.and_then(|file| file.keep(&mut result)) {
        let _ = write!(std::io::stderr(), "{line}");
    }
    let result = &result;
    let shown = shown.and_then(|()| end_line(source.is_some() && !told.json && end.output_bytes() > 0));
    match shown {
        Ok(()) => Ok(report(result, *told, source.as_deref())?),
        // That the job was cancelled then is no news to whoever went away.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            let _ = Output { stderr: bill_if(told.bill, result), ..Output::default() }.write();
            Ok(exit::BROKEN_PIPE)
        }
        Err(error) => Err(RunError::Write(error)),
    }
}

/// The one job, while it runs.
struct Watched<'a> {
    supervisor: &'a Supervisor,
    caller: Caller,
    id: &'a str,
    /// Nothing is shown before the result.
    json: bool,
    /// What its standard output's log holds is a profile.
    profiles: bool,
}

impl Watched<'_> {
    /// Shows what the guest writes as it writes it, until the job is over. The error is why that could not be
    /// shown: a reader who went away, a disk that is full.
    async fn to_the_end(&self, name: &str, module_bytes: usize) -> (std::io::Result<()>, Option<Rc<JobEnd>>) {
        // Taken hold of before anything is shown: a reader may take longer over that than results are kept.
        let end = self.supervisor.end_of(&self.caller, self.id);
        let progress = self.progress(name, module_bytes);
        let shown = async {
            if self.json {
                return Ok(());
            }
            tokio::try_join!(self.output(), self.logs()).map(|_| ())
        };
        let (shown, ()) = tokio::join!(shown, progress);
        if shown.is_err() {
            let _ = self.supervisor.cancel(&self.caller, self.id);
        }
        let result = match end {
            Some(end) => Some(end.await),
            None => None,
        };
        (shown, result)
    }

    async fn output(&self) -> std::io::Result<()> {
        let Some(mut output) = self.supervisor.output(&self.caller, self.id) else { return Ok(()) };
        while let Some(bytes) = output.next().await {
            // On another thread: a reader that stalls must not stall the job's clock.
            write_off_thread(bytes, std::io::stdout).await?;
        }
        Ok(())
    }

    /// The guest's standard error, and a function's standard output, which is not the job's output.
    async fn logs(&self) -> std::io::Result<()> {
        let Some(mut logs) = self.supervisor.logs(&self.caller, self.id) else { return Ok(()) };
        let mut text = LogText::new(std::io::stderr().is_terminal());
        while let Some(piece) = logs.next().await {
            if self.profiles && piece.stream == LogStream::Stdout {
                continue;
            }
            write_off_thread(text.next(piece), std::io::stderr).await?;
        }
        write_off_thread(text.finish(), std::io::stderr).await
    }

    /// On a terminal, says that a module is being compiled when that takes a while.
    async fn progress(&self, name: &str, module_bytes: usize) {
        if self.json || !std::io::stderr().is_terminal() {
            return;
        }
        tokio::time::sleep(PROGRESS_AFTER).await;
        let compiling = || {
            let lookup = self.supervisor.result(&self.caller, self.id);
            matches!(lookup, Some(Lookup::Running(summary)) if summary.phase == Phase::Compiling)
        };
        if !compiling() {
            return;
        }
        let _ = write!(std::io::stderr(), "compiling {name} ({module_bytes} bytes)…");
        while compiling() {
            tokio::time::sleep(PROGRESS_AFTER).await;
        }
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }

    /// The first signal cancels the job, which then ends as any other; the second does not wait for that.
    async fn interrupted(&self, signals: &mut StopSignals) -> u8 {
        signals.next().await;
        let _ = self.supervisor.cancel(&self.caller, self.id);
        signals.next().await;
        exit::KILLED
    }
}

async fn write_off_thread<W: Write>(
    bytes: Vec<u8>,
    open: impl FnOnce() -> W + Send + 'static,
) -> std::io::Result<()> {
    let written = tokio::task::spawn_blocking(move || {
        let mut stream = open();
        stream.write_all(&bytes)?;
        stream.flush()
    });
    written.await.map_err(std::io::Error::other)?
}

/// Prints what is to be said once a job is over, other than its output and logs; the status to exit with. `source` is that
/// of a script.
///
/// # Errors
/// Never in practice: every result has a JSON form.
pub(super) fn report(
    result: &JobResult,
    args: ReportArgs,
    source: Option<&[u8]>,
) -> Result<u8, serde_json::Error> {
    let mut stderr = String::new();
    if let Some(line) = bill::failure(result) {
        stderr.push_str("stockade: ");
        stderr.push_str(&line);
        stderr.push('\n');
    }
    if let Some(error) = result.error.as_ref().filter(|_| !args.json) {
        stderr.push_str(&script_text::details(error, source));
    }
    stderr.push_str(&bill_if(args.bill, result));
    let stdout = if args.json { format!("{}\n", render::json(result)?) } else { String::new() };
    Ok(Output { stdout, stderr, status: exit::exit_status(result) }.write())
}

fn bill_if(wanted: bool, result: &JobResult) -> String {
    if wanted { bill::bill(result, Colour::of(&std::io::stderr())) } else { String::new() }
}

/// Standard input for the guest: a file or a pipe that can only be read as it is, anything else through a pipe, so
/// that no guest ever holds a terminal, a device or a socket of ours.
fn standard_input() -> std::io::Result<OwnedFd> {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
    let flags = OFlag::from_bits_retain(fcntl(&stdin, FcntlArg::F_GETFL)?);
    let kind = SFlag::from_bits_retain(fstat(&stdin)?.st_mode) & SFlag::S_IFMT;
    let plain = kind == SFlag::S_IFREG || kind == SFlag::S_IFIFO;
    if plain && flags & OFlag::O_ACCMODE == OFlag::O_RDONLY {
        return Ok(stdin);
    }
    let (theirs, ours) = std::io::pipe()?;
    // It ends with the input, with the guest, or with the process; nothing waits for it.
    std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let mut ours = ours;
        let _ = std::io::copy(&mut std::fs::File::from(stdin), &mut ours);
    })?;
    Ok(theirs.into())
}
