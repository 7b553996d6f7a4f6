//! Forks that go through the layers of the jail, one by one, with a look at the clock between any two.

use std::convert::Infallible;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::geteuid;
use stockade_sys::fork::{Newborn, sibling};
use stockade_sys::prctl::exit_now;
use stockade_sys::solo::SingleThreaded;
use stockade_wire::worker::Role;
use stockade_wire::zygote::{Identity, NamespacePolicy, ProcessLimits};
use stockade_worker::jail::{
    self, Ledger, LockError, Plan, WorkerFds, capabilities, fds, identity, landlock, mdwe, namespaces,
    privileges, rlimits, seccomp, solo,
};

/// What lies between two looks.
pub const NAMES: [&str; 9] = [
    "fork",
    "descriptors",
    "rlimits",
    "capabilities and ids",
    "no new privileges",
    "landlock",
    "seccomp: lock",
    "memory not executable",
    "seccomp: run",
];

/// How long each layer took, of so many forks.
pub fn through_all(rounds: u64) -> Vec<[Duration; NAMES.len()]> {
    let own = std::process::id().to_string();
    let mut forker = Command::new(std::env::current_exe().unwrap())
        .args(["layers", &own, &rounds.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut text = String::new();
    forker.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(forker.wait().unwrap().success(), "the process that forks failed");
    // Its forks are this process's children.
    while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive)
    {
    }
    let found: Vec<_> = text.lines().map(times).collect();
    assert_eq!(found.len() as u64, rounds);
    found
}

fn times(line: &str) -> [Duration; NAMES.len()] {
    let nanos: Vec<u64> = line.split(' ').map(|part| part.parse().unwrap()).collect();
    let nanos: [u64; NAMES.len()] = nanos.try_into().unwrap();
    nanos.map(Duration::from_nanos)
}

/// Forks that many, one after the other, as children of `parent`, and prints what each took.
pub fn fork_through_all(parent: u32, rounds: u64) {
    let alone = SingleThreaded::probe().unwrap();
    let apart = namespaces::enter(&alone, NamespacePolicy::Auto, geteuid().is_root()).unwrap();
    let bounding = capabilities::narrow_before_forking(&alone);
    let plan = Plan {
        role: Role::Run,
        limits: ProcessLimits { open_files: 32, file_bytes: 64 << 20, data_bytes: 512 << 20 },
        data_baseline_bytes: 1 << 30,
        identity: geteuid().is_root().then_some(Identity { uid: 65534, gid: 65534 }),
        directories: &[],
        require: &[],
        landlock_abi_min: 0,
        supervisor_pid: parent,
        namespaces: &apart,
        bounding: &bounding,
    };
    for _ in 0..rounds {
        let (mut report, link) = super::rig::pipe();
        let fds = worker_fds(link);
        let since = Instant::now();
        sibling(&alone, None, |newborn| go(newborn, fds, &plan, since)).unwrap();
        let mut line = String::new();
        report.read_to_string(&mut line).unwrap();
        assert!(!line.is_empty(), "a worker was not locked");
        println!("{line}");
    }
}

fn worker_fds(link: OwnedFd) -> WorkerFds {
    let null = || OwnedFd::from(File::options().read(true).write(true).open("/dev/null").unwrap());
    WorkerFds {
        null_input: null(),
        null_output: null(),
        stderr_log: null(),
        link,
        output: null(),
        stdout_log: null(),
    }
}

fn go(newborn: Newborn, fds: WorkerFds, plan: &Plan<'_>, since: Instant) -> Infallible {
    exit_now(i32::from(lock(newborn, fds, plan, since).is_err()))
}

/// The chain that `jail` describes.
fn lock(newborn: Newborn, fds: WorkerFds, plan: &Plan<'_>, since: Instant) -> Result<(), LockError> {
    let mut looks = [since; NAMES.len() + 1];
    looks[1] = Instant::now();
    let (bare, fds) = fds::settle(solo::begin(newborn, Ledger::new(plan.require)), fds, 0)?;
    looks[2] = Instant::now();
    let limited =
        rlimits::lower(namespaces::inherit(bare, plan.namespaces)?, &plan.limits, plan.data_baseline_bytes)?;
    looks[3] = Instant::now();
    let narrowed = capabilities::narrow(limited, plan.bounding, plan.identity)?;
    let powerless = capabilities::drop_all(identity::assume(narrowed, plan.identity)?)?;
    looks[4] = Instant::now();
    let unprivileged = privileges::renounce(powerless, plan.supervisor_pid)?;
    looks[5] = Instant::now();
    let walled = landlock::restrict(unprivileged, plan.directories, plan.landlock_abi_min)?;
    looks[6] = Instant::now();
    let locked = seccomp::install(mdwe::foresee(walled)?, plan)?;
    looks[7] = Instant::now();
    let inexecutable = mdwe::refuse_executable(rlimits::fit(locked, 512 << 20)?)?;
    looks[8] = Instant::now();
    let _sealed: jail::Sealed = seccomp::seal(inexecutable)?;
    looks[9] = Instant::now();
    let nanos = looks.windows(2).map(|pair| pair[1].duration_since(pair[0]).as_nanos().to_string());
    let line = nanos.collect::<Vec<_>>().join(" ");
    // Whoever reads finds nothing, and says so.
    let _ = File::from(fds.link).write_all(line.as_bytes());
    Ok(())
}
