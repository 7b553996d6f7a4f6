//! What a guest finds around it.
//!
//! Owns: the state behind a store, the WASI context made from an order, the linkers' host functions.
//! Never: grants anything but what is in the order and the directories it is handed; there is no network, no inherited variable or stream.

use std::convert::Infallible;
use std::fs::File;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand_core::TryRng;
use stockade_wire::worker::RunOrder;
use wasmtime::component::Linker as ComponentLinker;
use wasmtime::{Engine, Linker};
use wasmtime_wasi::cli::InputFile;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, HostMonotonicClock, HostWallClock, WasiCtxBuilder, WasiCtxView, WasiView};

use super::ledger::Ledger;
use super::script::Side;
use super::sink::Sink;
use super::{poll, streams};
use crate::grants::Grants;

/// Most resources (open files, streams, pollables…) a guest may hold at once. Of open files its process may have fewer
/// (`jail.open_files`); this bounds the table of handles, which is in the host's memory.
const RESOURCES_MAX: usize = 16 << 10;

/// Most random bytes a guest may ask for in one call; they are gathered in the host's memory.
const RANDOM_BYTES_MAX: u64 = 1 << 20;

/// Why the host side of a run could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A host function could not be defined.
    #[error("a host function cannot be defined")]
    Define(#[source] wasmtime::Error),
    /// A granted directory that was opened cannot be handed on.
    #[error("granted directory {guest:?} cannot be handed to the guest: is /proc mounted?")]
    Directory {
        /// The path the guest was to see it under.
        guest: String,
        /// Why.
        #[source]
        source: wasmtime::Error,
    },
    /// The operating system gave no random bytes.
    #[error("the kernel gave no random bytes")]
    Random(#[source] getrandom::Error),
}

/// The state behind one store.
pub(crate) struct Host {
    wasi: WasiP1Ctx,
    pub(super) ledger: Ledger,
    /// Zero of the guest's monotonic clock.
    pub(super) clock_start: Instant,
    /// The guest has called a function of the host. Every one of them sets it.
    pub(super) called: bool,
    /// What a script has of its job; nothing for other guests.
    pub(super) script: Side,
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

/// The standard streams of a guest; `None` is an empty input or a discarded output.
pub(super) struct Streams {
    pub(super) stdin: Option<File>,
    pub(super) stdout: Sink,
    pub(super) stderr: Sink,
}

impl Host {
    /// What stands behind an instance that is made before there is a job: no argument, variable, directory or stream,
    /// and nothing drawn from the kernel. Its clock stands at nothing; no guest ever reads it.
    pub(super) fn of_nobody(ledger: Ledger) -> Self {
        let clock_start = Instant::now();
        let mut builder = WasiCtxBuilder::new();
        builder
            .secure_random(KernelRandom::default())
            .insecure_random(KernelRandom::default())
            .insecure_random_seed(0)
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false);
        Self { wasi: builder.build_p1(), ledger, clock_start, called: false, script: Side::default() }
    }

    /// What stands behind an engine that runs a script: nothing of WASI.
    pub(super) fn of_script(ledger: Ledger, script: Side) -> Self {
        Self { script, ..Self::of_nobody(ledger) }
    }

    pub(super) fn new(
        order: &RunOrder,
        ledger: Ledger,
        streams: Streams,
        grants: Grants,
    ) -> Result<Self, HostError> {
        let clock_start = Instant::now();
        let clock = JobClock { start: clock_start };
        let mut builder = WasiCtxBuilder::new();
        builder
            .allow_blocking_current_thread(true)
            .arg(&order.name)
            .args(&order.arguments)
            .envs(&order.environment)
            .stdout(streams.stdout)
            .stderr(streams.stderr)
            .monotonic_clock(clock)
            .wall_clock(clock)
            .max_random_size(RANDOM_BYTES_MAX)
            .secure_random(KernelRandom::default())
            .insecure_random(KernelRandom::default())
            .insecure_random_seed(seed()?)
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false);
        if let Some(stdin) = streams.stdin {
            builder.stdin(InputFile::new(stdin));
        }
        // One at a time: each is open twice for a moment, and open files are limited.
        for grant in grants {
            let rights = if grant.writable() { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
            // By its descriptor: what was opened for the wall is what the guest gets.
            builder
                .preopened_dir(grant.own_name(), grant.guest(), rights)
                .map_err(|source| HostError::Directory { guest: grant.guest().to_owned(), source })?;
        }
        let mut wasi = builder.build_p1();
        wasi.ctx().table.set_max_capacity(RESOURCES_MAX);
        Ok(Self { wasi, ledger, clock_start, called: false, script: Side::default() })
    }
}

/// Links WASI preview 1.
pub(crate) fn link_core(engine: &Engine) -> Result<Linker<Host>, HostError> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p1::add_to_linker_async(&mut linker, |host: &mut Host| {
        host.called = true;
        &mut host.wasi
    })
    .map_err(HostError::Define)?;
    linker.allow_shadowing(true);
    poll::link(&mut linker).map_err(HostError::Define)?;
    linker.allow_shadowing(false);
    Ok(linker)
}

/// Links WASI 0.2.
pub(crate) fn link_component(engine: &Engine) -> Result<ComponentLinker<Host>, HostError> {
    let mut linker = ComponentLinker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(HostError::Define)?;
    linker.allow_shadowing(true);
    streams::link(&mut linker).map_err(HostError::Define)?;
    linker.allow_shadowing(false);
    Ok(linker)
}

/// The real time, and a monotonic clock that counts from the moment the guest was set up. Both read without a
/// system call.
#[derive(Clone, Copy)]
struct JobClock {
    start: Instant,
}

impl HostMonotonicClock for JobClock {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl HostWallClock for JobClock {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(1)
    }

    fn now(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// Random bytes from the kernel, fetched ahead in growing portions, since WASI takes them four at a time. It
/// begins empty and is made for one job: a generator with a state that goes through the fork would give two
/// guests the same numbers.
#[derive(Default)]
struct KernelRandom {
    ahead: Vec<u8>,
    portion_bytes: usize,
}

/// First and largest portion fetched ahead, bytes.
const PORTION_BYTES: (usize, usize) = (64, 4 << 10);

impl KernelRandom {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        if self.ahead.len() < N {
            let (least, most) = PORTION_BYTES;
            self.portion_bytes = self.portion_bytes.saturating_mul(2).clamp(least, most);
            self.ahead.resize(self.portion_bytes, 0);
            fill(&mut self.ahead);
        }
        let mut bytes = [0; N];
        for (byte, drawn) in bytes.iter_mut().zip(self.ahead.drain(self.ahead.len().saturating_sub(N)..)) {
            *byte = drawn;
        }
        bytes
    }
}

impl TryRng for KernelRandom {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_ne_bytes(self.take()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_ne_bytes(self.take()))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        fill(bytes);
        Ok(())
    }
}

fn fill(bytes: &mut [u8]) {
    if getrandom::fill(bytes).is_err() {
        // The trait has no way to fail, and bytes that are not random must not be passed on as such. The seed
        // was drawn from the same source before the guest began, so this is a kernel that changed its mind.
        std::process::abort();
    }
}

fn seed() -> Result<u128, HostError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(HostError::Random)?;
    Ok(u128::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_are_all_drawn_once() {
        let mut random = KernelRandom::default();
        let numbers: std::collections::HashSet<u64> =
            (0..5000).map(|_| random.try_next_u64().unwrap_or_default()).collect();
        assert_eq!(numbers.len(), 5000);
    }
}
