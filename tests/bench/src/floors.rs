//! What the machine itself takes: nothing with a socket, a process or an instance in it can be faster.
//!
//! Owns: the echoes, the forks, the instantiation.
//! Never: involves Stockade's daemon.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use stockade_sys::fork::{Newborn, sibling};
use stockade_sys::prctl::exit_now;
use stockade_sys::solo::SingleThreaded;
use stockade_worker::engine::{EngineSettings, Warm, warm};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, Linker, Module, PoolingAllocationConfig, Store};

use crate::jobs::NOOP;
use crate::load::{Effort, one_at_a_time, round};
use crate::paced::{Pace, Sent, exchange};
use crate::polled::Polled;
use crate::report::{Clients, Paced};
use crate::samples::Samples;
use crate::script::{self, Ready};

/// Bytes of an echoed message, about those of a small job.
pub const ECHO_BYTES: usize = 256;

/// How many sets of neighbours are asked. Where the kernel puts processes that ask each other decides what that takes, and it
/// keeps to it: in a virtual machine on two processors that sleep in between, five times as long as on one.
const NEIGHBOURHOODS: usize = 5;

/// A message to a neighbouring process and back over Unix sockets; with two hops the neighbour asks one of its own first, as
/// any daemon with a worker behind it must.
///
/// # Errors
/// When there are no sockets or processes to be had.
pub fn echo(effort: &Effort, hops: u32) -> io::Result<Samples> {
    let effort = Effort { samples: effort.samples.div_ceil(NEIGHBOURHOODS), ..*effort };
    let mut all = Samples::default();
    for _ in 0..NEIGHBOURHOODS {
        all.append(echo_of_a_set(&effort, hops)?);
    }
    Ok(all)
}

/// The same without a pause, as figures of one client in a closed loop.
///
/// # Errors
/// As for [`echo`].
pub fn echo_back_to_back(effort: &Effort, hops: u32) -> io::Result<Clients> {
    let samples = echo(&Effort { pause: Duration::ZERO, ..*effort }, hops)?;
    let per_second = round(samples.len() as f64 / samples.sum().as_secs_f64());
    Ok(Clients { clients: 1, per_second, p50_us: samples.p50(), p99_us: samples.p99() })
}

/// The same sent by the clock, half as often as they are answered `back_to_back`: what the machine makes of requests that do
/// not wait for each other.
///
/// # Errors
/// As for [`echo`], or when the neighbours do not keep the pace.
pub fn echo_paced(effort: &Effort, hops: u32, back_to_back: &Clients) -> io::Result<Paced> {
    let sets = u32::try_from(NEIGHBOURHOODS).unwrap_or(u32::MAX);
    let pace = Pace::new(back_to_back.per_second / 2.0, effort.paced / sets);
    let mut all = Sent::default();
    for _ in 0..NEIGHBOURHOODS {
        all.append(with_neighbours(hops, |client| {
            let (sender, mut answered, mut buffer) = (client.0.try_clone()?, 0, [0; ECHO_BYTES]);
            let answer = || {
                client.read_exact(&mut buffer)?;
                answered += 1;
                Ok(answered - 1)
            };
            exchange(sender, pace, &|_| Ok(vec![7; ECHO_BYTES]), answer)
        })?);
    }
    Ok(all.figures(pace))
}

fn echo_of_a_set(effort: &Effort, hops: u32) -> io::Result<Samples> {
    with_neighbours(hops, |client| {
        let mut buffer = [7; ECHO_BYTES];
        one_at_a_time(effort, || {
            client.write_all(&buffer)?;
            client.read_exact(&mut buffer)
        })
    })
}

/// Has `ask` talk to the first of so many processes in a row.
fn with_neighbours<T>(
    hops: u32,
    ask: impl FnOnce(&mut Polled<UnixStream>) -> io::Result<T>,
) -> io::Result<T> {
    let (client, mut near) = UnixStream::pair()?;
    let mut client = Polled(client);
    let mut neighbours = Vec::new();
    for _ in 1..hops {
        let (onward, far) = UnixStream::pair()?;
        neighbours.push(neighbour(near, Some(onward))?);
        near = far;
    }
    neighbours.push(neighbour(near, None)?);
    let found = ask(&mut client);
    // A neighbour ends when whoever asks it has closed.
    drop(client);
    for mut neighbour in neighbours {
        neighbour.wait()?;
    }
    found
}

/// A process that passes on what it is sent.
fn neighbour(from: UnixStream, onward: Option<UnixStream>) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("echo").stdin(OwnedFd::from(from));
    match onward {
        Some(onward) => command.arg("onward").stdout(OwnedFd::from(onward)),
        None => command.stdout(Stdio::null()),
    };
    command.spawn()
}

/// What such a process does, with its standard input and output.
///
/// # Errors
/// When they are no sockets, or the next does not answer.
pub fn echo_neighbour(onward: bool) -> io::Result<()> {
    let from = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let onward = onward.then(|| io::stdout().as_fd().try_clone_to_owned()).transpose()?;
    pass_on(from, onward.map(UnixStream::from))
}

fn pass_on(mut from: UnixStream, mut onward: Option<UnixStream>) -> io::Result<()> {
    let mut buffer = [0; ECHO_BYTES];
    // A client that has what it wanted closes.
    while from.read_exact(&mut buffer).is_ok() {
        if let Some(next) = &mut onward {
            next.write_all(&buffer)?;
            next.read_exact(&mut buffer)?;
        }
        from.write_all(&buffer)?;
    }
    Ok(())
}

/// What a process has that forks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holding {
    /// Nothing: it is small.
    Nothing,
    /// Warm engines.
    Engines,
    /// An instance of the JavaScript engine, in which each child runs a script: [`crate::script::Ready`].
    Script,
    /// The same, and each child stands ready, as a worker does, until it is asked for the script by a byte.
    ReadyScript,
}

impl Holding {
    const ALL: [Self; 4] = [Self::Nothing, Self::Engines, Self::Script, Self::ReadyScript];

    const fn argument(self) -> &'static str {
        match self {
            Self::Nothing => "bare",
            Self::Engines => "engine",
            Self::Script => "script",
            Self::ReadyScript => "ready-script",
        }
    }
}

/// A fork, to the first byte from the child, of a process that has this, or from asking a child that stands ready; and the CPU time, µs, of one such
/// process from its fork until it is reaped, its parent's part in that included.
///
/// # Errors
/// When the process that forks could not be started, or failed.
pub fn fork(effort: &Effort, holding: Holding) -> io::Result<(Samples, Option<f64>)> {
    let with_engine = matches!(holding, Holding::Script | Holding::ReadyScript);
    let engine = with_engine.then(script::compiled).transpose()?;
    let began = cpu_of_children()?;
    // What the parent takes to begin is no fork's.
    forks_of_a_parent(1, holding, engine.as_ref())?;
    let between = cpu_of_children()?;
    let samples = forks_of_a_parent(effort.samples.min(1_000), holding, engine.as_ref())?;
    let used = (cpu_of_children()? - between).saturating_sub(between - began);
    let forks = samples.len().saturating_sub(1).max(1);
    Ok((samples, Some(round(used.as_secs_f64() * 1e6 / forks as f64))))
}

/// CPU time of all children that were reaped, and of theirs.
fn cpu_of_children() -> io::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let time = |time: TimeVal| Duration::from_micros(u64::try_from(time.num_microseconds()).unwrap_or(0));
    Ok(time(usage.user_time()) + time(usage.system_time()))
}

/// `engine` is what a process gets as its standard input that is to hold it.
fn forks_of_a_parent(rounds: usize, holding: Holding, engine: Option<&File>) -> io::Result<Samples> {
    let rounds = rounds.to_string();
    let found = Command::new(std::env::current_exe()?)
        .args(["fork-parent", holding.argument(), &rounds])
        .stdin(engine.map(File::try_clone).transpose()?.map_or_else(Stdio::null, Stdio::from))
        .output()?;
    if !found.status.success() {
        return Err(io::Error::other(format!("forking failed: {}", String::from_utf8_lossy(&found.stderr))));
    }
    let mut samples = Samples::default();
    for line in String::from_utf8_lossy(&found.stdout).lines() {
        samples.push(Duration::from_nanos(line.parse().map_err(io::Error::other)?));
    }
    Ok(samples)
}

/// The parent of what forks, and so of all its forks, which it reaps: [`stockade_sys::fork::sibling`] makes siblings.
///
/// # Errors
/// When the one that forks failed.
pub fn fork_parent(kind: &str, rounds: &str) -> io::Result<()> {
    let child = Command::new(std::env::current_exe()?).args(["fork", kind, rounds]).spawn()?;
    let forker = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    loop {
        match waitpid(None, None) {
            Ok(status) if status.pid() == Some(forker) => {
                let well = matches!(status, nix::sys::wait::WaitStatus::Exited(_, 0));
                return if well { Ok(()) } else { Err(io::Error::other(format!("{status:?}"))) };
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Forks, and prints how long each took, ns.
///
/// # Errors
/// When it cannot fork, or a child did not do what it was for.
pub fn forks(kind: &str, rounds: usize) -> io::Result<()> {
    let solo = SingleThreaded::probe().map_err(io::Error::other)?;
    let mut held = Held::make(kind, &solo)?;
    let mut found = String::new();
    for _ in 0..rounds {
        found.push_str(&format!("{}\n", once(&solo, &mut held)?.as_nanos()));
    }
    io::stdout().write_all(found.as_bytes())
}

/// How long one took.
fn once(solo: &SingleThreaded, held: &mut Held) -> io::Result<Duration> {
    let stands_ready = matches!(held, Held::ReadyScript(_));
    let (mut reader, writer) = io::pipe()?;
    let (asked, mut asker) = io::pipe()?;
    let mut since = Instant::now();
    sibling(solo, None, |newborn| one_byte(newborn, held, (&asked, &writer)))?;
    // For a byte of a child that ended without one nobody is to wait.
    drop(writer);
    let mut byte = [0];
    reader.read_exact(&mut byte)?;
    if stands_ready {
        Effort::FULL.pause();
        since = Instant::now();
        asker.write_all(&byte)?;
        reader.read_exact(&mut byte)?;
    }
    Ok(since.elapsed())
}

/// What a [`Holding`] says, in the process that forks.
enum Held {
    Nothing,
    Engines { _warm: Warm },
    Script(Box<Ready>),
    ReadyScript(Box<Ready>),
}

impl Held {
    fn make(kind: &str, solo: &SingleThreaded) -> io::Result<Self> {
        let settings = EngineSettings {
            memory_bytes_max: 1 << 30,
            scripts_bytes_max: 0,
            instances: 1,
            expendable: true,
        };
        match Holding::ALL.into_iter().find(|holding| holding.argument() == kind) {
            Some(Holding::Nothing) => Ok(Self::Nothing),
            Some(Holding::Engines) => {
                warm(&settings).map(|warm| Self::Engines { _warm: warm }).map_err(io::Error::other)
            }
            Some(holding @ (Holding::Script | Holding::ReadyScript)) => {
                let ready = Box::new(Ready::load(solo, io::stdin().as_fd().try_clone_to_owned()?)?);
                Ok(if holding == Holding::Script { Self::Script(ready) } else { Self::ReadyScript(ready) })
            }
            None => Err(io::Error::other(format!("there is no such kind of fork: {kind}"))),
        }
    }
}

/// The byte comes after a script whose output is right, or else not at all. One that stands ready says so with one, too.
fn one_byte(
    _newborn: Newborn,
    held: &mut Held,
    (mut asked, mut writer): (&io::PipeReader, &io::PipeWriter),
) -> Infallible {
    if let Held::Script(ready) | Held::ReadyScript(ready) = held {
        ready.populate();
    }
    let well = match held {
        Held::Nothing | Held::Engines { .. } => true,
        Held::Script(ready) => ready.run().unwrap_or(false),
        Held::ReadyScript(ready) => {
            let told = writer.write_all(&[1]).and_then(|()| asked.read_exact(&mut [0]));
            told.is_ok() && ready.run().unwrap_or(false)
        }
    };
    exit_now(i32::from(!well || writer.write_all(&[1]).is_err()))
}

/// A fresh instance of the no-op module, a call and its end, in a process that has the module: what WebAssembly alone
/// takes, without any other wall. Instances come from a pool, memories are mapped copy-on-write.
///
/// # Errors
/// When there can be no engine.
pub fn instantiate(effort: &Effort) -> wasmtime::Result<Samples> {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_core_instances(4).total_memories(4).total_tables(4);
    let mut config = Config::new();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool)).memory_init_cow(true);
    let engine = Engine::new(&config)?;
    let module = Module::new(&engine, NOOP)?;
    let ready = Linker::<()>::new(&engine).instantiate_pre(&module)?;
    let samples = one_at_a_time(effort, || {
        let once = || -> wasmtime::Result<()> {
            let mut store = Store::new(&engine, ());
            ready
                .instantiate(&mut store)?
                .get_typed_func::<(), ()>(&mut store, "_start")?
                .call(&mut store, ())
        };
        once().map_err(io::Error::other)
    })?;
    Ok(samples)
}

/// What executing a program takes that does nothing: `true`.
///
/// # Errors
/// When it cannot be executed.
pub fn execute(effort: &Effort, program: &Path, arguments: &[&str]) -> io::Result<Samples> {
    one_at_a_time(effort, || {
        let status = Command::new(program).args(arguments).stdin(Stdio::null()).status()?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("{}: {status}", program.display())))
        }
    })
}
