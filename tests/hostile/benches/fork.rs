//! From the order to fork to a worker's report that it is locked, as a supervisor sees it.
//!
//! Prints the 10th, 50th and 99th percentile, beside an echo over a socket pair in the same run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a measurement that cannot go on says so by panicking"
)]

#[path = "../tests/jail/rig.rs"]
#[expect(dead_code, reason = "the tests use the rest of it")]
mod rig;

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use stockade_sys::link;
use stockade_wire::worker::Role;

const ROUNDS: usize = 500;

fn main() {
    // `cargo bench` passes flags; a path is another executable that plays the zygote, such as a release build.
    let program = std::env::args().skip(1).find(|argument| argument.starts_with('/'));
    let program = program.map_or_else(rig::hostile, PathBuf::from);
    let rig = rig::Rig::start_with(&program, &rig::configuration()).unwrap();
    for role in [Role::Run, Role::RunFiles, Role::Compile] {
        let mut forked = Vec::new();
        let mut locked = Vec::new();
        for _ in 0..ROUNDS {
            let began = Instant::now();
            let worker = rig.fork(&rig::fork_order(role)).unwrap();
            forked.push(began.elapsed());
            let report = worker.receive();
            locked.push(began.elapsed());
            assert!(report.is_some());
        }
        print(&format!("{role:?}: order to pidfd"), &mut forked);
        print(&format!("{role:?}: order to Locked"), &mut locked);
    }
    let mut echoes: Vec<_> = (0..ROUNDS).map(|_| echo()).collect();
    print("socket pair to itself, 256 bytes", &mut echoes);
}

fn echo() -> Duration {
    let (a, b) = link::pair().unwrap();
    let (packet, mut buffer) = ([7; 256], [0; 512]);
    let began = Instant::now();
    link::send(a.as_fd(), &packet, &[]).unwrap();
    link::receive(b.as_fd(), &mut buffer, 0).unwrap();
    began.elapsed()
}

fn print(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    println!(
        "{what}: p10 {:?}, p50 {:?}, p99 {:?}",
        times[times.len() / 10],
        times[times.len() / 2],
        times[times.len() * 99 / 100]
    );
}
