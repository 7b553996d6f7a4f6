//! Rivals that are a command for each job.
//!
//! Owns: how bubblewrap is called, and what is executed in it.
//! Never: gives a rival more to do than the job needs: of all ways to call one, the fastest.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use tempfile::TempDir;

use super::{CLIENTS, SOURCES};
use crate::jobs::Job;
use crate::load::{Effort, closed_loop, one_at_a_time_from, round};
use crate::report::Figures;
use crate::rows::Measured;
use crate::samples::Samples;
use crate::stockade::one;

/// A command and its arguments.
pub(super) type CommandLine = Vec<String>;

/// `command` in namespaces of its own that see the host's files and may not write to them: the fewest mounts that
/// make a sandbox, and so the fastest.
pub(super) fn bubble<S: AsRef<str>>(bwrap: &Path, command: impl IntoIterator<Item = S>) -> CommandLine {
    let mut line = vec![bwrap.to_string_lossy().into_owned()];
    line.extend(["--unshare-all", "--die-with-parent", "--ro-bind", "/", "/"].map(str::to_owned));
    line.extend(command.into_iter().map(|word| word.as_ref().to_owned()));
    line
}

/// The job's module, compiled ahead of time, in Wasmtime in bubblewrap. The module lives as long as what is returned
/// with it.
pub(super) fn wasmtime(bwrap: &Path, wasmtime: &Path, job: Job) -> io::Result<(TempDir, CommandLine)> {
    let directory = TempDir::with_prefix("stockade-bench-")?;
    let compiled = directory.path().join("job.cwasm");
    let source = if job == Job::Noop { "noop.wat" } else { "upper_wasi.wat" };
    let status = Command::new(wasmtime)
        .arg("compile")
        .arg(Path::new(SOURCES).join(source))
        .arg("-o")
        .arg(&compiled)
        .status()?;
    if !status.success() {
        return Err(io::Error::other(format!("wasmtime compile: {status}")));
    }
    let (program, compiled) = (wasmtime.to_string_lossy(), compiled.to_string_lossy());
    let line = bubble(bwrap, [&program, "run", "--allow-precompiled", &compiled]);
    Ok((directory, line))
}

/// The job's script in Node in bubblewrap.
pub(super) fn node(bwrap: &Path, node: &Path, job: Job) -> CommandLine {
    let script = match job {
        Job::Noop => "node_job_noop.js",
        Job::Transform => "node_job_transform.js",
        _ => "node_job_upper.js",
    };
    bubble(bwrap, [node.to_string_lossy().into_owned(), format!("{SOURCES}/{script}")])
}

/// Runs it for each job, with the job's input and output as its standard input and output.
pub(super) fn measure(effort: &Effort, job: Job, line: &CommandLine) -> io::Result<Measured> {
    let (input, output) = (job.input(), job.output());
    // The sandbox outlives the command that made it: whoever waits for it is told what it used.
    prctl::set_child_subreaper(true)?;
    let alone = || {
        let done = once(line, &input, &output);
        reap_orphans();
        done
    };
    let mut before = Duration::ZERO;
    let samples = one_at_a_time_from(&effort.few(), alone, || before = of_children());
    let used = of_children().saturating_sub(before);
    let mut figures = figures_of(&samples?, used);
    for clients in CLIENTS {
        // Threads that wait for their own children: orphans wait for the end.
        figures
            .clients
            .push(closed_loop(clients, effort.closed_loop, || Ok(|| once(line, &input, &output)))?);
    }
    reap_orphans();
    prctl::set_child_subreaper(false)?;
    Ok(Measured { figures, isolation: Some("a process in namespaces of its own".to_owned()) })
}

fn figures_of(samples: &Samples, used: Duration) -> Figures {
    let cpu_us = round(used.as_secs_f64() * 1e6 / samples.len().max(1) as f64);
    Figures { cpu_us: Some(cpu_us), ..one(samples) }
}

/// Waits for all children that have ended and that nobody else waits for: to be called when no other thread does.
fn reap_orphans() {
    while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive)
    {
    }
}

fn once(line: &CommandLine, input: &[u8], expected: &[u8]) -> io::Result<()> {
    let (program, arguments) = line.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(arguments);
    if expected.is_empty() {
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
        return if status.success() { Ok(()) } else { Err(io::Error::other(format!("{program}: {status}"))) };
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    // It all fits into the pipe: nobody waits for anybody. Closed at once, so that the job sees the end.
    child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?.write_all(input)?;
    let ended = child.wait_with_output()?;
    if !ended.status.success() || ended.stdout != expected {
        return Err(io::Error::other(format!(
            "{program}: {} and {} bytes",
            ended.status,
            ended.stdout.len()
        )));
    }
    Ok(())
}

/// CPU time of all children that were waited for, and of theirs.
fn of_children() -> Duration {
    getrusage(UsageWho::RUSAGE_CHILDREN).map_or(Duration::ZERO, |usage| {
        let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        Duration::from_micros(u64::try_from(micros).unwrap_or_default())
    })
}
