//! Guests, from their text to their end, in this process: everything about them that is not the jail.

mod commands;
mod components;
mod functions;
mod limits;
mod signals;

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use stockade_wire::job::DirectoryGrant;
use stockade_wire::worker::{CompileOrder, RunLimits, TrapCode};

use super::*;
use crate::compile::compile;
use crate::engine::{EngineSettings, warm};

const SETTINGS: EngineSettings =
    EngineSettings { memory_bytes_max: 1 << 30, scripts_bytes_max: 0, instances: 16, expendable: true };

fn shared() -> (&'static Warm, Arc<Ticker>) {
    static SHARED: OnceLock<(Arc<Warm>, Arc<Ticker>)> = OnceLock::new();
    let (warm, ticker) = SHARED.get_or_init(|| {
        let warm = Arc::new(warm(&SETTINGS).unwrap());
        let ticker = Arc::new(Ticker::start(Arc::clone(&warm)).unwrap());
        (warm, ticker)
    });
    (warm, Arc::clone(ticker))
}

/// A memfd with the bytes in it, at its beginning.
fn memfd(bytes: &[u8]) -> File {
    let mut file = File::from(memfd_create(c"test", MFdFlags::MFD_ALLOW_SEALING).unwrap());
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

fn sealed(artifact: &[u8]) -> OwnedFd {
    let file = memfd(artifact);
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::all())).unwrap();
    file.into()
}

fn artifact(warm: &Warm, text: &str, fuel: bool) -> Vec<u8> {
    let module_bytes = text.len() as u64;
    let order = CompileOrder { module_bytes, artifact_bytes_max: 64 << 20, text: true, fuel, engine: false };
    compile(warm, text.as_bytes(), &order).unwrap().1
}

/// A guest and what it is given.
struct Job {
    text: String,
    order: RunOrder,
    directories: Vec<DirectoryGrant>,
    input: Vec<u8>,
    stop: Arc<AtomicBool>,
}

/// What became of it.
#[derive(Debug)]
struct Outcome {
    report: RunReport,
    output: String,
    stdout: String,
    stderr: String,
}

fn job(text: impl Into<String>) -> Job {
    let limits = RunLimits {
        deadline_us: 20_000_000,
        memory_bytes: 64 << 20,
        data_bytes: 128 << 20,
        fuel: None,
        input_bytes: None,
    };
    let order = RunOrder {
        name: "guest.wasm".to_owned(),
        entry: None,
        arguments: Vec::new(),
        environment: Vec::new(),
        limits,
        script: None,
    };
    Job { text: text.into(), order, directories: Vec::new(), input: Vec::new(), stop: Arc::default() }
}

impl Job {
    fn entry(mut self, name: &str) -> Self {
        self.order.entry = Some(name.to_owned());
        self
    }

    fn arguments(mut self, arguments: &[&str]) -> Self {
        self.order.arguments = arguments.iter().map(|text| (*text).to_owned()).collect();
        self
    }

    fn environment(mut self, name: &str, value: &str) -> Self {
        self.order.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    fn directory(mut self, host: &std::path::Path, guest: &str, writable: bool) -> Self {
        let host = host.to_str().unwrap().to_owned();
        self.directories.push(DirectoryGrant { host, guest: guest.to_owned(), writable });
        self
    }

    fn input(mut self, bytes: &[u8]) -> Self {
        self.input = bytes.to_vec();
        self
    }

    /// As from a file: its length is told.
    fn input_of(mut self, bytes: &[u8], told_bytes: u64) -> Self {
        self.order.limits.input_bytes = Some(told_bytes);
        self.input(bytes)
    }

    fn fuel(mut self, fuel: u64) -> Self {
        self.order.limits.fuel = Some(fuel);
        self
    }

    fn memory(mut self, bytes: u64) -> Self {
        self.order.limits.memory_bytes = bytes;
        self
    }

    fn deadline(mut self, deadline: Duration) -> Self {
        self.order.limits.deadline_us = deadline.as_micros().try_into().unwrap();
        self
    }

    fn run(self) -> Outcome {
        let (warm, ticker) = shared();
        let artifact = artifact(warm, &self.text, self.order.limits.fuel.is_some());
        self.run_artifact(warm, ticker, &artifact)
    }

    fn run_artifact(self, warm: &Warm, ticker: Arc<Ticker>, artifact: &[u8]) -> Outcome {
        let [mut output, mut stdout, mut stderr] = [memfd(b""), memfd(b""), memfd(b"")];
        let copy = |file: &File| file.as_fd().try_clone_to_owned().unwrap();
        let report = match load(warm, &self.order, sealed(artifact)) {
            Ok(loaded) => {
                let stdio = Stdio {
                    input: Some(memfd(&self.input).into()),
                    source: None,
                    output: copy(&output).into(),
                    stdout: copy(&stdout).into(),
                    stderr: copy(&stderr).into(),
                };
                let grants = Grants::open(&self.directories).unwrap();
                let mode = DeveloperMode::new(ticker, self.stop).with_grants(grants);
                execute(loaded, Confinement::Developer(mode), stdio, &self.order)
            }
            Err(report) => report,
        };
        let read = |file: &mut File| {
            let mut text = String::new();
            file.rewind().unwrap();
            file.read_to_string(&mut text).unwrap();
            text
        };
        Outcome { report, output: read(&mut output), stdout: read(&mut stdout), stderr: read(&mut stderr) }
    }
}
