//! One module through one compile worker.
//!
//! Owns: the order, the wait, and what the exit means.
//! Never: parses the module or the artifact.

use std::fs::File;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stockade_sys::{memfd, pidfd::Exit};
use stockade_wire::job::{Blame, Outcome, Verdict};
use stockade_wire::worker::{CompileFailure, CompileOrder, CompileReport, FromWorker, Role, ToWorker};
use stockade_worker::jail::seccomp::is_crash;

use super::{Need, Pool};
use crate::observe::Causes;
use crate::supervisor::artifact::{Compile, Module};
use crate::supervisor::job::ladder::EXIT_ALLOWANCE;
use crate::supervisor::job::{Caller, outcome};
use crate::supervisor::link::ExchangeError;
use crate::supervisor::places::Place;
use crate::supervisor::script;
use crate::supervisor::streams::rest;
use crate::supervisor::worker::Worker;
use crate::supervisor::zygote::closed;

/// How often the compile worker's CPU time is looked at once its limit could be reached.
const CPU_CHECK_MIN: Duration = Duration::from_millis(10);

/// Most of what a compile worker wrote to its standard error that is read, bytes.
const LAST_WORDS_BYTES_MAX: usize = 4 << 10;

/// What Rust's standard library says before it aborts because an allocation failed. Beside a leaf, `RLIMIT_DATA` bounds
/// a compile worker, and that is how it shows there.
const ALLOCATION_FAILED: &str = "memory allocation of ";

/// What a compile worker had too little memory for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shortage {
    None,
    /// An allocation, by its own word.
    Allocation,
    /// Its leaf, by the kernel's.
    Leaf,
}

/// How a compile worker's time was over.
enum End {
    Replied(Reply),
    TimeUp,
    CpuUp,
    /// Its CPU time is limited and cannot be read.
    NoCpuClock,
    Gone,
}

enum Reply {
    Compiled(CompileReport),
    NotCompiled(CompileFailure),
    Forbidden(u32),
    Panicked(String),
    Nonsense,
}

impl Compile for Rc<Pool> {
    async fn compile(&self, module: &Arc<Module>, metered: bool, _place: Place) -> Result<File, Outcome> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            outcome::internal("compile_worker", format!("{what}: {error}"))
        };
        let need = Need {
            directories: &[],
            caller: Caller::NOBODY,
            memory_bytes: self.config.compile.memory_bytes,
            module: None,
            engine: false,
            tenant: None,
        };
        let mut birth = self.birth(Role::Compile, &need);
        birth.rlimits.file_bytes = self.config.compile.artifact_bytes;
        let mut worker =
            self.make(&birth).await.map_err(|error| failed("no compile worker", &Causes(&error)))?;
        let source = module.file().map_err(|error| failed("no memory for the module", &Causes(&error)))?;
        let artifact = memfd::create("stockade-artifact")
            .map_err(|error| failed("no memory for the artifact", &Causes(&error)))?;
        let order = ToWorker::Compile(CompileOrder {
            module_bytes: module.bytes(),
            artifact_bytes_max: self.config.compile.artifact_bytes,
            text: module.is_text().map_err(|error| failed("the module cannot be read", &Causes(&error)))?,
            fuel: metered,
            engine: script::is_engine(module),
        });
        worker
            .link
            .send(&order, &[source.as_fd(), artifact.as_fd()])
            .await
            .map_err(|error| failed("the compile worker took no order", &Causes(&error)))?;
        let mut closing = self.zygote.closing();
        let end = tokio::select! {
            end = self.await_end(&worker) => end,
            () = closed(&mut closing) => return Err(failed("not compiled", &"the supervisor is stopping")),
        };
        worker.kill();
        worker.exited().await;
        let oom = worker.leaf_usage().and_then(|usage| usage.oom_kills).is_some_and(|kills| kills > 0);
        let exit = worker.reap().map(|ended| ended.exit);
        worker.remove_leaf();
        match end {
            End::Replied(Reply::Compiled(report)) if exit == Some(Exit::Code(0)) => {
                checked(artifact, &report)
            }
            end => {
                let shortage = match oom {
                    true => Shortage::Leaf,
                    false if last_words(&worker).contains(ALLOCATION_FAILED) => Shortage::Allocation,
                    false => Shortage::None,
                };
                Err(not_compiled(end, exit, shortage))
            }
        }
    }
}

impl Pool {
    /// Waits for the one reply and then for the exit, within the limits.
    async fn await_end(&self, worker: &Worker) -> End {
        let mut by = Instant::now() + self.config.compile.timeout;
        let mut check = Instant::now() + self.config.compile.cpu;
        let mut reply = None;
        loop {
            if reply.is_some() {
                // Nothing is left to do but to exit, and others wait for the place.
                by = by.min(Instant::now() + EXIT_ALLOWANCE);
            }
            tokio::select! {
                biased;
                message = worker.link.receive(0), if reply.is_none() => {
                    reply = Some(match message {
                        Ok(Some((message, _))) => read(message),
                        Ok(None) => return self.gone(worker).await,
                        // It died before it took the order; its exit says the rest.
                        Err(ExchangeError::Unread) => continue,
                        Err(_) => Reply::Nonsense,
                    });
                }
                () = worker.exited() => return reply.map_or(End::Gone, End::Replied),
                () = tokio::time::sleep_until(by.into()) => return reply.map_or(End::TimeUp, End::Replied),
                () = tokio::time::sleep_until(check.into()), if reply.is_none() => {
                    let left = match worker.cpu_time() {
                        Some(used) => self.config.compile.cpu.saturating_sub(used),
                        // Its exit, which is about to be seen, says the rest.
                        None if worker.is_gone() => by.saturating_duration_since(Instant::now()),
                        None => return End::NoCpuClock,
                    };
                    if left.is_zero() {
                        return End::CpuUp;
                    }
                    check = Instant::now() + left.max(CPU_CHECK_MIN);
                }
            }
        }
    }

    /// The link has ended without a reply: the worker is dying, and says no more.
    async fn gone(&self, worker: &Worker) -> End {
        let exit = tokio::time::timeout(self.config.pool.lock_timeout, worker.exited());
        let _ = exit.await;
        End::Gone
    }
}

/// What a dead compile worker wrote to its standard error. It can lie there; what follows is one reason or another
/// of the same verdict.
fn last_words(worker: &Worker) -> String {
    let mut words = Vec::new();
    // It was the last that could write, and a pipe holds a bounded amount.
    rest(&worker.stderr, |bytes| {
        let room = LAST_WORDS_BYTES_MAX.saturating_sub(words.len());
        words.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
    });
    String::from_utf8_lossy(&words).into_owned()
}

fn read(message: FromWorker) -> Reply {
    match message {
        FromWorker::Compiled(report) => Reply::Compiled(report),
        FromWorker::NotCompiled(failure) => Reply::NotCompiled(failure),
        FromWorker::Forbidden(number) => Reply::Forbidden(number),
        FromWorker::Panicked(text) => Reply::Panicked(text),
        FromWorker::Locked(_)
        | FromWorker::LockFailed(_)
        | FromWorker::NotGranted(_)
        | FromWorker::Finished(_)
        | FromWorker::Returned(..)
        | FromWorker::CompiledScript(..)
        | FromWorker::Prepared { .. }
        | FromWorker::NotPrepared(_)
        | FromWorker::Forked { .. }
        | FromWorker::NotForked { .. } => Reply::Nonsense,
    }
}

/// The artifact, if it is what the worker says it is.
fn checked(artifact: File, report: &CompileReport) -> Result<File, Outcome> {
    let found = artifact.metadata().map(|about| about.len()).unwrap_or(0);
    if found != 0 && found == report.artifact_bytes {
        return Ok(artifact);
    }
    let message = format!("the compile worker announced {} bytes and wrote {found}", report.artifact_bytes);
    Err(Outcome {
        retriable: true,
        ..outcome::ended(Verdict::Internal, "artifact_size", Blame::Ambiguous, &message)
    })
}

fn not_compiled(end: End, exit: Option<Exit>, shortage: Shortage) -> Outcome {
    let limit = |reason, message: &str| outcome::ended(Verdict::CompileLimit, reason, Blame::Guest, message);
    let lost = |message: &str| Outcome {
        retriable: true,
        ..outcome::ended(Verdict::Internal, "compile_worker", Blame::Ambiguous, message)
    };
    let memory = || limit("memory", "compiling the module took more memory than compile.memory_bytes allows");
    if shortage == Shortage::Leaf {
        return memory();
    }
    let died_of_sigsys = exit == Some(Exit::Signal(nix::libc::SIGSYS));
    match end {
        End::TimeUp => outcome::compile_timeout(),
        End::CpuUp => limit("cpu_time", "compiling the module took more CPU time than compile.cpu allows"),
        End::NoCpuClock => {
            let message = "the kernel did not say how much CPU time the compiler had used, so that compile.cpu could \
                           not be kept";
            outcome::internal("cpu_clock", message.to_owned())
        }
        End::Replied(Reply::NotCompiled(failure)) => outcome::not_compiled(&failure),
        End::Replied(Reply::Forbidden(number))
            if died_of_sigsys && is_crash(number) && shortage == Shortage::Allocation =>
        {
            memory()
        }
        End::Replied(Reply::Forbidden(number)) if died_of_sigsys && is_crash(number) => limit(
            "crashed",
            "the compiler crashed or aborted, most likely for want of stack: the module nests too deeply",
        ),
        End::Replied(Reply::Forbidden(number)) if died_of_sigsys => outcome::jail_violation(Some(number)),
        End::Replied(Reply::Panicked(text)) => lost(&text),
        End::Replied(_) => lost("the compile worker broke the protocol or died after its reply"),
        End::Gone => match exit {
            Some(Exit::Signal(nix::libc::SIGSYS)) => outcome::jail_violation(None),
            exit => lost(&format!("the compile worker went away without a reply ({exit:?})")),
        },
    }
}
