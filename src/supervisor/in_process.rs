//! The developer's mode: guests compiled and run in this process, without a jail.
//!
//! Owns: the engine of this process and the blocking threads that run guests.
//! Never: is reached when the configuration says `production = true`; confines anything but by WebAssembly itself.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat};
use stockade_sys::memfd;
use stockade_sys::pidfd::Exit;
use stockade_wire::job::{Layer, LogStream, MissingLayer, Outcome, Stage, Walls};
use stockade_wire::worker::{CompileOrder, Ending, RunReport};
use stockade_worker::compile::compile;
use stockade_worker::engine::{EngineError, EngineSettings, Warm, warm};
use stockade_worker::grants::{GrantError, Grants};
use stockade_worker::run::{self, Confinement, CpuLimit, DeveloperMode, Stdio, Ticker, TickerError};
use tokio::sync::oneshot;

use super::artifact::{Compile, Module};
use super::guest_pipe::GuestPipe;
use super::job::Job;
use super::job::ladder::Cause;
use super::job::outcome::{self, Evidence};
use super::places::Place;
use super::script;
use super::streams::{Turn, read};
use super::work::Work;
use crate::config::Config;

/// Input copied at once, bytes.
const PUMP_BYTES: usize = 64 << 10;

/// Why the developer's mode cannot start.
#[derive(Debug, thiserror::Error)]
pub enum InProcessError {
    /// The engine could not be made.
    #[error("in-process mode: the engine could not be made")]
    Engine(#[from] EngineError),
    /// The thread that ends guests could not be started.
    #[error("in-process mode: guests could not be given deadlines")]
    Ticker(#[from] TickerError),
}

/// The engine of this process.
pub(super) struct InProcess {
    warm: Arc<Warm>,
    ticker: Arc<Ticker>,
    artifact_bytes_max: u64,
    compile_timeout: Duration,
}

/// How a run in this process ended.
pub(super) struct End {
    pub(super) outcome: Outcome,
    pub(super) report: Option<RunReport>,
}

impl InProcess {
    pub(super) fn start(config: &Config) -> Result<Self, InProcessError> {
        let settings = EngineSettings {
            memory_bytes_max: config.ceilings.memory_bytes,
            // Nothing stays in this process.
            scripts_bytes_max: 0,
            instances: u32::try_from(config.pool.workers_max).unwrap_or(u32::MAX),
            expendable: false,
        };
        let warm = Arc::new(warm(&settings)?);
        let ticker = Arc::new(Ticker::start(Arc::clone(&warm))?);
        let (artifact_bytes_max, compile_timeout) = (config.compile.artifact_bytes, config.compile.timeout);
        Ok(Self { warm, ticker, artifact_bytes_max, compile_timeout })
    }

    pub(super) fn fingerprint(&self) -> String {
        self.warm.fingerprint()
    }

    /// Runs one job on a thread of its own, and follows its streams as a worker's are followed.
    pub(super) async fn run(&self, job: &Job, work: Work) -> End {
        match self.try_run(job, work).await {
            Ok(end) => end,
            Err(error) => End {
                outcome: outcome::internal("in_process", format!("the job could not be run: {error}")),
                report: None,
            },
        }
    }

    async fn try_run(&self, job: &Job, work: Work) -> std::io::Result<End> {
        let deadline = work.deadline;
        let order = work.order(job);
        let artifact = work.artifact.fd().try_clone_to_owned()?;
        let ((output, their_output), (stdout, their_stdout), (stderr, their_stderr)) =
            (GuestPipe::make()?, GuestPipe::make()?, GuestPipe::make()?);
        let input =
            work.input.file().map(|file| file.try_clone_to_owned().and_then(interruptible)).transpose()?;
        let (input, pump) = input.map_or((None, None), |(input, pump)| (Some(input), pump));
        let source = work.source.as_ref().and_then(script::Text::file);
        let source = source.map(|source| source.try_clone_to_owned()).transpose()?;
        let stdio = Stdio {
            input,
            source,
            output: their_output.into(),
            stdout: their_stdout.into(),
            stderr: their_stderr.into(),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let cpu = job.admitted.limits.cpu.map(CpuLimit::new);
        let mode = DeveloperMode::new(Arc::clone(&self.ticker), Arc::clone(&stop));
        let mode = cpu.iter().cloned().fold(mode, DeveloperMode::with_cpu);
        let directories = job.admitted.directories.clone();
        let warm = Arc::clone(&self.warm);
        let running = tokio::task::spawn_blocking(move || {
            let loaded = match run::load(&warm, &order, artifact) {
                Ok(loaded) => loaded,
                Err(report) => return Ok(report),
            };
            let mode = mode.with_grants(Grants::open(&directories)?);
            Ok(run::execute(loaded, Confinement::Developer(mode), stdio, &order))
        });
        let streams = Streams { output, stdout, stderr };
        let (told, output_cut) = streams.follow(job, work.deadline, Stop { flag: &stop, pump }).await;
        let report = match running.await.map_err(std::io::Error::other)? {
            Ok(report) => report,
            Err(error) => {
                let error: GrantError = error;
                return Ok(End { outcome: outcome::not_granted(error.to_string()), report: None });
            }
        };
        // The guest looks at the same clock as this task does, and may have seen the deadline first.
        let told = told
            .or((report.ending == Ending::Interrupted && Instant::now() >= deadline)
                .then_some(Cause::Deadline));
        let told = told.or_else(|| cpu.filter(CpuLimit::reached).map(|_| Cause::CpuTime));
        let outcome = outcome::judge(&Evidence {
            exit: Some(Exit::Code(0)),
            oom_kills: None,
            oom_above: false,
            told: told.map(|cause| (cause, Stage::Epoch)),
            output_cut,
            report: Some(&report),
            forbidden: None,
            panicked: None,
            protocol: None,
        });
        Ok(End { outcome, report: Some(report) })
    }
}

impl Compile for Rc<InProcess> {
    async fn compile(&self, module: &Arc<Module>, metered: bool, place: Place) -> Result<File, Outcome> {
        let lost = |error: &dyn std::fmt::Display| outcome::internal("compile", error.to_string());
        let order = CompileOrder {
            module_bytes: module.bytes(),
            artifact_bytes_max: self.artifact_bytes_max,
            text: module.is_text().map_err(|error| lost(&error))?,
            fuel: metered,
            engine: script::is_engine(module),
        };
        let warm = Arc::clone(&self.warm);
        let module = module.read().map_err(|error| lost(&error))?;
        let (done, compiling) = oneshot::channel();
        // A thread that cannot be stopped: when its time is up or nobody wants the module any more, it goes on to its
        // end or to that of the process.
        std::thread::Builder::new()
            .name("compile".to_owned())
            .spawn(move || done.send(compile(&warm, &module, &order)))
            .map_err(|error| lost(&error))?;
        // It has its place until then, so that there are never more of them than compilers.
        let compiling = tokio::task::spawn_local(async move {
            let compiled = compiling.await;
            drop(place);
            compiled
        });
        let compiled = tokio::time::timeout(self.compile_timeout, compiling)
            .await
            .map_err(|_| outcome::compile_timeout())?
            .map_err(|error| lost(&error))?
            .map_err(|error| lost(&error))?;
        let (_, artifact) = compiled.map_err(|failure| outcome::not_compiled(&failure))?;
        let mut file = memfd::create("stockade-artifact").map_err(|error| lost(&error))?;
        file.write_all(&artifact).map_err(|error| lost(&error))?;
        Ok(file)
    }
}

struct Streams {
    output: GuestPipe,
    stdout: GuestPipe,
    stderr: GuestPipe,
}

impl Streams {
    /// Reads until the guest has closed its streams, and stops it when the job is to end. Says why it did, and
    /// whether the output was cut.
    async fn follow(&self, job: &Job, deadline: Instant, mut stop: Stop<'_>) -> (Option<Cause>, bool) {
        let mut told = None;
        let mut cut = false;
        let mut turn = Turn::new();
        let [mut output, mut stdout, mut stderr] = [true; 3];
        while output || stdout || stderr {
            tokio::select! {
                biased;
                cause = job.stop_asked(), if told.is_none() => told = Some(cause),
                () = tokio::time::sleep_until(deadline.into()), if told.is_none() => {
                    told = Some(Cause::Deadline);
                }
                ready = self.output.readable(), if output => {
                    output = is_watched(&ready, &mut told)
                        && read(&self.output, &mut turn, |bytes| cut |= !job.add_output(bytes));
                    if cut && told.is_none() {
                        told = Some(Cause::OutputLimit);
                    }
                }
                ready = self.stdout.readable(), if stdout => {
                    stdout = is_watched(&ready, &mut told)
                        && read(&self.stdout, &mut turn, |bytes| job.log(LogStream::Stdout, bytes));
                }
                ready = self.stderr.readable(), if stderr => {
                    stderr = is_watched(&ready, &mut told)
                        && read(&self.stderr, &mut turn, |bytes| job.log(LogStream::Stderr, bytes));
                }
            }
            if told.is_some() {
                stop.flag.store(true, Ordering::Relaxed);
                // A guest that waits for input comes back to be stopped.
                stop.pump = None;
            }
            turn.pass_on().await;
        }
        (told, cut)
    }
}

/// Whether a stream is; a job of which one is not has nobody who reads it.
fn is_watched(ready: &std::io::Result<()>, told: &mut Option<Cause>) -> bool {
    if let Err(error) = ready {
        tracing::error!(%error, "a guest's pipe cannot be watched");
        told.get_or_insert(Cause::Unwatched);
    }
    ready.is_ok()
}

/// Every layer, and why it is off.
pub(super) fn no_walls() -> Walls {
    let missing = Layer::ALL.map(|layer| MissingLayer {
        layer: layer.name().to_owned(),
        reason: "in-process mode runs guests in the supervisor's own process".to_owned(),
        fix: "unset STOCKADE_MODE, or set mode = \"jailed\"".to_owned(),
    });
    Walls { missing: missing.to_vec(), ..Walls::default() }
}

/// What stops a guest.
struct Stop<'a> {
    flag: &'a AtomicBool,
    /// Dropped, it ends the guest's input.
    pump: Option<std::io::PipeWriter>,
}

/// The input as a guest may read it without being out of reach while it waits: files as they are, anything else
/// through a pipe of ours, whose other end closes when what is returned with it is dropped.
fn interruptible(input: OwnedFd) -> std::io::Result<(OwnedFd, Option<std::io::PipeWriter>)> {
    if SFlag::from_bits_truncate(fstat(&input)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG {
        return Ok((input, None));
    }
    let (theirs, ours) = std::io::pipe()?;
    let (released, hold) = std::io::pipe()?;
    std::thread::Builder::new().name("input".to_owned()).spawn(move || {
        // However it ends, the guest sees the end of its input, which is all that there is to tell.
        let _ended = pump(&File::from(input), &ours, &released);
    })?;
    Ok((theirs.into(), Some(hold)))
}

/// Copies until the end of the input, or until somebody closes the other end of `ours` or `released`.
fn pump(
    mut input: &File,
    mut ours: &std::io::PipeWriter,
    released: &std::io::PipeReader,
) -> std::io::Result<()> {
    let mut buffer = vec![0; PUMP_BYTES];
    loop {
        let mut waiting = [
            PollFd::new(released.as_fd(), PollFlags::empty()),
            PollFd::new(ours.as_fd(), PollFlags::empty()),
            PollFd::new(input.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut waiting, PollTimeout::NONE)?;
        let [released, ours_gone, _] = waiting.map(|one| one.any().unwrap_or(true));
        if released || ours_gone {
            return Ok(());
        }
        match input.read(&mut buffer)? {
            0 => return Ok(()),
            length => ours.write_all(buffer.get(..length).unwrap_or_default())?,
        }
    }
}
