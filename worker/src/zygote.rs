//! The zygote: a warm engine in a process of one thread, which forks workers on request.
//!
//! Owns: getting warm, the loop over fork orders, what is done once for all workers.
//! Never: starts a thread, compiles, reads a byte a client wrote, ends because one fork failed.
//!
//! ```text
//! supervisor                         zygote
//!   │ ── Configure ──────────────────▶ │  namespaces, exec of itself after a user namespace of its own
//!   │                                  │  parent check, engine, capabilities, filter
//!   │ ◀──────────── Warm | Failed ──── │
//!   │ ── Fork + descriptors ─────────▶ │  clone3(CLONE_PARENT): the worker is the supervisor's child
//!   │ ◀─ Forked + pidfd | NotForked ── │
//!   ✕ end of file                      ✕  exits
//! ```

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::getppid;
use stockade_sys::fds::{FdsError, close_inherited};
use stockade_sys::fork::{Forked, sibling};
use stockade_sys::link::{self, LinkError};
use stockade_sys::prctl::exit_now;
use stockade_sys::signals;
use stockade_sys::solo::{SingleThreaded, SoloError, threads};
use stockade_sys::text;
use stockade_wire::frame::{self, FrameError, HEADER_BYTES};
use stockade_wire::job::Layer;
use stockade_wire::limits::{LINK_FDS_MAX, LINK_MESSAGE_BYTES_MAX};
use stockade_wire::zygote::{ForkOperation, FromZygote, ToZygote, WarmReport, ZygoteConfig};

use crate::engine::{self, EngineError, EngineSettings, Warm};
use crate::jail::namespaces::{self, Namespaces, NamespacesError};
use crate::jail::seccomp::{self, Policy};
use crate::jail::{BoundingSet, capabilities, landlock};
use crate::role::{self, Behaviour, Birth, PipeEnds};

/// Exit status of a zygote that could not become warm; it has sent [`FromZygote::Failed`].
pub const FAILED_STATUS: i32 = 74;

/// Exit status of a zygote whose control socket broke.
pub const CONTROL_STATUS: i32 = 75;

/// Says to a zygote, as its last argument, that it is in its namespaces: it exec'd itself after it had entered them.
pub const ENTERED: &str = "entered";

/// Stores in a worker: one job, one store.
const INSTANCES: u32 = 1;

/// Why the zygote ends.
#[derive(Debug, thiserror::Error)]
enum ZygoteError {
    #[error("inherited descriptors could not be closed")]
    Fds(#[from] FdsError),
    #[error("control socket failed")]
    Control(#[from] LinkError),
    #[error("control socket carries what is not an order")]
    Frame(#[from] FrameError),
    #[error("the first message was not a configuration")]
    Unconfigured,
    #[error("the supervisor is gone")]
    Orphan,
    #[error("{call} failed")]
    Kernel {
        call: &'static str,
        #[source]
        errno: Errno,
    },
    #[error(transparent)]
    Solo(#[from] SoloError),
    #[error(transparent)]
    Namespaces(#[from] NamespacesError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("{file} could not be used")]
    File {
        file: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("the zygote could not exec itself")]
    Exec(#[source] std::io::Error),
    #[error("required layer seccomp is missing: the zygote's allow-list could not be installed: {0}; {fix}", fix = seccomp::FIX)]
    Filter(seccompiler::Error),
}

/// A warm zygote.
struct Zygote {
    config: ZygoteConfig,
    namespaces: Namespaces,
    bounding: BoundingSet,
    warm: Warm,
    data_baseline_bytes: u64,
    null: File,
}

/// Runs the zygote on `control` until its end of file. To be called first thing in a process that was just
/// exec'd, with `control` as its standard input too: closes every other descriptor but 0, 1 and 2, and may exec the same
/// program again with the same arguments and [`ENTERED`]. Blocks for the life of the process.
pub fn serve(control: OwnedFd, behaviour: Behaviour) -> ! {
    let mut buffer = vec![0; HEADER_BYTES + LINK_MESSAGE_BYTES_MAX];
    let ended = match get_warm(&control, &mut buffer) {
        Ok(Some((zygote, report))) => answer(&control, &FromZygote::Warm(report), None)
            .and_then(|()| zygote.obey(&control, &behaviour, &mut buffer)),
        Ok(None) => Ok(()),
        Err(error) => {
            // A supervisor that is gone needs no answer, one that is there sees the exit status as well.
            let _ = answer(&control, &FromZygote::Failed(with_sources(&error)), None);
            exit_now(FAILED_STATUS)
        }
    };
    exit_now(if ended.is_ok() { 0 } else { CONTROL_STATUS })
}

fn get_warm(control: &OwnedFd, buffer: &mut [u8]) -> Result<Option<(Zygote, WarmReport)>, ZygoteError> {
    close_inherited(&[control.as_fd()])?;
    let kernel = |call| move |errno| ZygoteError::Kernel { call, errno };
    begin_with_default_signals().map_err(kernel("rt_sigaction or rt_sigprocmask"))?;
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(kernel("prctl(PR_SET_PDEATHSIG)"))?;
    prctl::set_name(c"stockade:zygote").map_err(kernel("prctl(PR_SET_NAME)"))?;
    let Some(namespaces) = apart(control, buffer)? else { return Ok(None) };
    let received = link::receive(control.as_fd(), buffer, 0)?;
    let Some(mut config) = configuration(buffer, received.length)? else { return Ok(None) };
    if u32::try_from(getppid().as_raw()) != Ok(config.supervisor_pid) {
        return Err(ZygoteError::Orphan);
    }
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|source| ZygoteError::File { file: "/dev/null", source })?;
    // After the namespaces: the maps of a process that is not dumpable belong to root.
    prctl::set_dumpable(false).map_err(kernel("prctl(PR_SET_DUMPABLE)"))?;
    let text_bytes = if config.huge_pages {
        // Where there are none, forks take longer, and nothing else is different.
        text::onto_huge_pages(&SingleThreaded::probe()?).unwrap_or_default() as u64
    } else {
        0
    };
    // What keeps the program from them keeps templates from them.
    config.huge_pages = text_bytes > 0;
    let settings = EngineSettings {
        memory_bytes_max: config.memory_bytes_max,
        scripts_bytes_max: config.scripts_bytes_max,
        instances: INSTANCES,
        expendable: true,
    };
    let warm = engine::warm(&settings)?;
    let data_baseline_bytes = data_bytes()?;
    let threads = threads()?;
    let (bounding, filtered) = harden(&SingleThreaded::probe()?, &config)?;
    let report = WarmReport {
        engine_fingerprint: warm.fingerprint(),
        threads,
        landlock_abi: landlock::abi_in_force(),
        namespaces: namespaces.entered(),
        namespaces_missing: namespaces.missing().map(str::to_owned),
        filtered,
        text_bytes,
    };
    Ok(Some((Zygote { config, namespaces, bounding, warm, data_baseline_bytes, null }, report)))
}

/// Enters the namespaces, once: in the program that this process execs itself into afterwards they are there. `None` when
/// the supervisor has nothing to say.
fn apart(control: &OwnedFd, buffer: &mut [u8]) -> Result<Option<Namespaces>, ZygoteError> {
    if std::env::args_os().next_back().is_some_and(|last| last == ENTERED) {
        return Ok(Some(Namespaces::entered_before_the_exec()));
    }
    // Whoever it is after the exec reads it too.
    let length = link::peek(control.as_fd(), buffer)?;
    let Some(config) = configuration(buffer, length)? else { return Ok(None) };
    let solo = SingleThreaded::probe()?;
    let namespaces = namespaces::enter(&solo, config.namespaces, config.other_ids)?;
    if !namespaces.want_an_exec() {
        return Ok(Some(namespaces));
    }
    // While it may: it cannot after the exec.
    let _ = capabilities::narrow_before_forking(&solo);
    let mut arguments = std::env::args_os();
    let mut again = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    Err(ZygoteError::Exec(again.args(arguments).arg(ENTERED).env_clear().exec()))
}

/// A worker's deadline and its end come as signals: none that whoever started the supervisor blocked or ignored may
/// stay so.
fn begin_with_default_signals() -> Result<(), Errno> {
    // The standard library ignores SIGPIPE itself: a broken pipe is an error.
    for which in Signal::iterator().filter(|which| *which != Signal::SIGPIPE) {
        if signals::is_ignored(which)? {
            signals::reset(which)?;
        }
    }
    signals::unblock_all()
}

fn configuration(buffer: &[u8], length: usize) -> Result<Option<ZygoteConfig>, ZygoteError> {
    if length == 0 {
        return Ok(None);
    }
    let packet = buffer.get(..length).unwrap_or_default();
    match frame::decode_packet(packet, LINK_MESSAGE_BYTES_MAX)? {
        ToZygote::Configure(config) => Ok(Some(config)),
        ToZygote::Fork(_) => Err(ZygoteError::Unconfigured),
    }
}

/// What is the same for all workers is done once, before the first of them. With whether the filter is in force.
fn harden(solo: &SingleThreaded, config: &ZygoteConfig) -> Result<(BoundingSet, bool), ZygoteError> {
    let bounding = capabilities::narrow_before_forking(solo);
    prctl::set_no_new_privs()
        .map_err(|errno| ZygoteError::Kernel { call: "prctl(PR_SET_NO_NEW_PRIVS)", errno })?;
    match seccomp::apply(Policy::Zygote, solo) {
        Err(error) if config.require.contains(&Layer::Seccomp) => Err(ZygoteError::Filter(error)),
        // Without the requirement every worker lists the layer as missing.
        applied => Ok((bounding, applied.is_ok())),
    }
}

/// Private writable memory of this process, bytes: what the kernel holds against `RLIMIT_DATA`.
fn data_bytes() -> Result<u64, ZygoteError> {
    const FILE: &str = "/proc/self/status";
    let failed = |source| ZygoteError::File { file: FILE, source };
    let status = std::fs::read_to_string(FILE).map_err(failed)?;
    parse_data_bytes(&status).ok_or_else(|| failed(std::io::ErrorKind::InvalidData.into()))
}

fn parse_data_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmData:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kibibytes.checked_mul(1 << 10)
}

fn answer(control: &OwnedFd, message: &FromZygote, pidfd: Option<&OwnedFd>) -> Result<(), ZygoteError> {
    let packet = frame::encode(message, LINK_MESSAGE_BYTES_MAX)?;
    let fds: Vec<_> = pidfd.map(AsFd::as_fd).into_iter().collect();
    Ok(link::send(control.as_fd(), &packet, &fds)?)
}

fn with_sources(error: &ZygoteError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl Zygote {
    /// Takes orders until the supervisor closes its end.
    fn obey(&self, control: &OwnedFd, behaviour: &Behaviour, buffer: &mut [u8]) -> Result<(), ZygoteError> {
        loop {
            let outcome = match link::receive(control.as_fd(), buffer, LINK_FDS_MAX) {
                Ok(received) if received.length == 0 => return Ok(()),
                Ok(received) => {
                    self.fork(buffer.get(..received.length).unwrap_or_default(), received.fds, behaviour)
                }
                Err(LinkError::Truncated { .. }) => Err((ForkOperation::Order, Errno::EMSGSIZE)),
                Err(LinkError::TooManyFds { .. }) => Err((ForkOperation::Order, Errno::E2BIG)),
                Err(error) => return Err(error.into()),
            };
            match outcome {
                Ok(Forked { pid, pidfd }) => answer(control, &FromZygote::Forked { pid }, Some(&pidfd))?,
                Err((operation, errno)) => {
                    let message = FromZygote::NotForked { operation, errno: errno as i32 };
                    answer(control, &message, None)?;
                }
            }
        }
    }

    fn fork(
        &self,
        packet: &[u8],
        fds: Vec<OwnedFd>,
        behaviour: &Behaviour,
    ) -> Result<Forked, (ForkOperation, Errno)> {
        let broken = |errno| (ForkOperation::Order, errno);
        let message =
            frame::decode_packet(packet, LINK_MESSAGE_BYTES_MAX).map_err(|_| broken(Errno::EBADMSG))?;
        let ToZygote::Fork(order) = message else { return Err(broken(Errno::EPROTO)) };
        let (pipes, leaf) = PipeEnds::sort(fds, order.into_leaf).ok_or(broken(Errno::EBADF))?;
        let solo = SingleThreaded::probe().map_err(|_| (ForkOperation::Clone, Errno::EINVAL))?;
        let leaf = leaf.as_ref().map(AsFd::as_fd);
        sibling(&solo, leaf, |newborn| {
            let birth = Birth {
                order,
                pipes,
                config: &self.config,
                namespaces: &self.namespaces,
                bounding: &self.bounding,
                data_baseline_bytes: self.data_baseline_bytes,
                null: &self.null,
                warm: &self.warm,
                behaviour,
            };
            role::live(newborn, birth)
        })
        .map_err(|errno| (ForkOperation::Clone, errno))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_of_a_status_file_is_read_in_bytes() {
        assert_eq!(
            parse_data_bytes("VmPeak:\t 9 kB\nVmData:\t    1536 kB\nVmStk:\t1 kB\n"),
            Some(1536 << 10)
        );
        assert_eq!(parse_data_bytes("VmPeak:\t 9 kB\n"), None);
    }
}
