//! Stopping as a worker does it: by signals, in a process of one guest.

use std::io::BufRead;
use std::os::unix::process::ExitStatusExt;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::*;
use crate::own_process::{again, in_own_process, start_again};

/// Loads and arms `text` and runs it as a worker does; the guest's output is this process's.
fn run_as_a_worker(text: &str, deadline: Duration) -> RunReport {
    let warm = warm(&EngineSettings { instances: 1, ..SETTINGS }).unwrap();
    let job = job(text).deadline(deadline).memory(1 << 30);
    let loaded = load(&warm, &job.order, sealed(&artifact(&warm, text, false))).unwrap();
    loaded.arm().unwrap();
    let out = || std::io::stdout().as_fd().try_clone_to_owned().unwrap();
    let stdio = Stdio {
        input: Some(memfd(b"").into()),
        source: None,
        output: out().into(),
        stdout: out().into(),
        stderr: out().into(),
    };
    let (report, _) = run(loaded, Interruption::Signals, (stdio, Grants::default()), &job.order);
    report
}

const MINUTE: Duration = Duration::from_secs(60);

/// How often a guest may miss the patience on a machine that is busy with something else.
const PATIENT_TRIES: u32 = 5;

/// A command that says "ready" and then does what `body` says.
fn says_ready(memory_pages: u32, body: &str) -> String {
    format!(
        r#"(module
             (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
             (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
             (memory (export "memory") {memory_pages}) (data (i32.const 300) "\nready\n")
             (func (export "_start")
               (i32.store (i32.const 0) (i32.const 300)) (i32.store (i32.const 4) (i32.const 7))
               (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
               {body}))"#
    )
}

const SLEEP: &str =
    "(i32.store (i32.const 116) (i32.const 1)) (i64.store (i32.const 124) (i64.const 3600000000000))
    (drop (call $poll (i32.const 100) (i32.const 200) (i32.const 1) (i32.const 400)))";

#[test]
fn deadline_signal_interrupts_an_endless_loop_without_a_thread() {
    in_own_process(
        "run::tests::signals::deadline_signal_interrupts_an_endless_loop_without_a_thread",
        || {
            let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
            let before = threads();
            let text = r#"(module (func (export "f") (loop (br 0))))"#;
            let report = run_as_a_worker(text, Duration::from_millis(50));
            assert_eq!(report.ending, Ending::Interrupted);
            assert_eq!(threads(), before);
        },
    );
}

#[test]
fn deadline_signal_interrupts_an_endless_start_function() {
    in_own_process("run::tests::signals::deadline_signal_interrupts_an_endless_start_function", || {
        let text = r#"(module (func $s (loop (br 0))) (start $s) (func (export "f")))"#;
        assert_eq!(run_as_a_worker(text, Duration::from_millis(50)).ending, Ending::Interrupted);
    });
}

#[test]
fn deadline_interrupts_a_sleeping_guest() {
    in_own_process("run::tests::signals::deadline_interrupts_a_sleeping_guest", || {
        let report = run_as_a_worker(&says_ready(1, SLEEP), Duration::from_millis(100));
        assert_eq!(report.ending, Ending::Interrupted);
    });
}

#[test]
fn deadline_that_passed_before_the_guest_began_is_seen() {
    in_own_process("run::tests::signals::deadline_that_passed_before_the_guest_began_is_seen", || {
        let text = r#"(module (func (export "f") (loop (br 0))))"#;
        assert_eq!(run_as_a_worker(text, Duration::ZERO).ending, Ending::Interrupted);
    });
}

/// Starts the test again, waits for its guest to say it is ready, sends SIGTERM, and gives the exit status and
/// how long that took. `None` in the process that was started.
fn terminated(name: &str) -> Option<(std::process::ExitStatus, Duration)> {
    let mut child = start_again(name)?;
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "ready"), "{name}: the guest never began");
    let sent = Instant::now();
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    // Closed when the process is gone.
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    let status = child.wait().unwrap();
    eprintln!("{name}: {status}, {:?}", rest);
    Some((status, sent.elapsed()))
}

#[test]
fn sigterm_interrupts_an_endless_loop_in_good_order() {
    let name = "run::tests::signals::sigterm_interrupts_an_endless_loop_in_good_order";
    for _ in 0..PATIENT_TRIES {
        let Some((status, _)) = terminated(name) else {
            let report = run_as_a_worker(&says_ready(1, "(loop (br 0))"), MINUTE);
            assert_eq!(report.ending, Ending::Interrupted);
            return;
        };
        // A process that gets no processor for the time of the patience is ended all the same.
        if status.code() != Some(epoch::TERM_EXIT_CODE) {
            assert_eq!(status.code(), Some(0));
            return;
        }
    }
    panic!("never interrupted within the patience in {PATIENT_TRIES} tries");
}

#[test]
fn sigterm_ends_a_worker_whose_guest_sleeps() {
    let name = "run::tests::signals::sigterm_ends_a_worker_whose_guest_sleeps";
    let Some((status, took)) = terminated(name) else {
        run_as_a_worker(&says_ready(1, SLEEP), MINUTE);
        return;
    };
    assert_eq!((status.code(), status.signal()), (Some(epoch::TERM_EXIT_CODE), None));
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn sigterm_ends_a_worker_whose_guest_is_in_a_bulk_fill() {
    let name = "run::tests::signals::sigterm_ends_a_worker_whose_guest_is_in_a_bulk_fill";
    let Some((status, took)) = terminated(name) else {
        let fill = "(memory.fill (i32.const 4096) (i32.const 1) (i32.const 0x3ffe0000)) (loop (br 0))";
        run_as_a_worker(&says_ready(16_384 - 1, fill), MINUTE);
        return;
    };
    // Where the machine fills faster than the patience lasts, the epoch was first.
    assert!([Some(epoch::TERM_EXIT_CODE), Some(0)].contains(&status.code()), "{status}");
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn sigterm_before_arming_ends_the_process() {
    let name = "run::tests::signals::sigterm_before_arming_ends_the_process";
    match again(name) {
        Some(output) => assert_eq!(output.status.signal(), Some(Signal::SIGTERM as i32)),
        None => kill(Pid::this(), Signal::SIGTERM).unwrap(),
    }
}
