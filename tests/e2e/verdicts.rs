//! How jobs end: every verdict and reason of `docs/result.md` that a guest, a client or an operator can bring
//! about on any machine. What only a broken worker or a cgroup can is tested with those.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::Signal;
use stockade_wire::job::{Phase, Verdict};

use crate::rig::{
    Daemon, Mode, Place, children, end_of, eventually, guest, short_of, signal, submission, submission_of,
};

in_both_modes!(
    guest_that_returns_or_exits_completed_or_failed_by_its_own_word,
    trap_of_every_kind_has_its_reason,
    guest_that_computes_past_its_deadline_is_stopped_by_the_epoch,
    guest_past_its_cpu_time_is_stopped,
    guest_without_fuel_is_stopped,
    guest_beyond_its_memory_limit_is_out_of_memory,
    guest_that_writes_too_much_output_is_stopped,
    module_that_cannot_run_is_invalid_with_the_reason,
    module_too_large_to_compile_is_a_compile_limit,
    module_of_a_million_functions_is_a_compile_limit_at_once,
    job_cancelled_by_its_owner_says_so,
    job_cut_short_by_a_drain_says_so,
    job_without_a_worker_before_its_deadline_was_never_run,
);

/// Long enough that a guest gets its epoch even on a machine with other things to do.
const PATIENT_EPOCH: (&str, &str) = ("KILL_EPOCH_HEAD_START", "1s");

#[track_caller]
fn check(place: &Place, flags: &[&str], name: &str, expected: &str) {
    check_file(place, flags, &guest(name), expected);
}

#[track_caller]
fn check_file(place: &Place, flags: &[&str], program: &Path, expected: &str) {
    let ended = place.run(flags, program);
    assert_eq!(ended.short(), expected, "{}: {}", program.display(), ended.result);
    let completed = expected.starts_with("completed");
    assert_eq!(ended.message().is_empty(), completed, "what went wrong is said in words: {}", ended.result);
    // A guest that exits with a status has said to its user what it has to say.
    let silent = completed || expected.contains("exit_status");
    assert_eq!(ended.stderr.lines().count(), usize::from(!silent), "and to a person: {}", ended.stderr);
}

fn guest_that_returns_or_exits_completed_or_failed_by_its_own_word(mode: Mode) {
    let place = Place::new(mode);
    check(&place, &[], "nothing", "completed - - - 0");
    check(&place, &[], "grow_memory_then_finish", "completed - - - 0");
    check(&place, &[], "exit_42", "guest_error exit_status - guest 42");
    check(&place, &[], "component_fails", "guest_error exit_status - guest 1");
    let failed = place.run(&[], &guest("bytes_fails"));
    assert_eq!(
        (failed.short().as_str(), failed.message()),
        ("guest_error guest_failure - guest 1", "no such luck")
    );
    assert_eq!(place.run(&[], &guest("exit_42")).result["exit_code"], 42);
    assert_eq!(failed.result["exit_code"], serde_json::Value::Null);
}

fn trap_of_every_kind_has_its_reason(mode: Mode) {
    let place = Place::new(mode);
    for (name, reason) in [
        ("unreachable", "unreachable"),
        ("recurse_forever", "stack_overflow"),
        ("out_of_bounds", "memory_out_of_bounds"),
        ("table_out_of_bounds", "table_out_of_bounds"),
        ("call_null", "indirect_call_to_null"),
        ("call_wrong_signature", "bad_signature"),
        ("integer_overflow", "integer_overflow"),
        ("divide_by_zero", "division_by_zero"),
        ("bad_conversion", "bad_conversion_to_integer"),
        ("bytes_reply_outside", "memory_out_of_bounds"),
        ("bytes_reply_longest", "memory_out_of_bounds"),
    ] {
        check(&place, &[], name, &format!("trapped {reason} - guest 134"));
    }
    let crossing = ["--entry", "crosses_the_end"];
    check(&place, &crossing, "pointers_overflow", "trapped other - guest 134");
}

fn guest_that_computes_past_its_deadline_is_stopped_by_the_epoch(mode: Mode) {
    let place = Place::new(mode).set(PATIENT_EPOCH.0, PATIENT_EPOCH.1);
    for name in [
        "spin_forever",
        "spin_in_start",
        "component_spins",
        "host_call_loop",
        "sleep_one_hour",
        "bulk_fill_loop",
    ] {
        check(&place, &["--timeout", "200ms"], name, "timed_out epoch_deadline epoch guest 124");
    }
}

#[test]
fn guest_in_a_host_call_past_its_deadline_is_stopped_by_a_signal() {
    let place = Place::new(Mode::Jailed);
    // With nothing to read and a writer that stays, so that the guest waits in a system call of the worker.
    for (grace, expected) in [
        ("30s", "timed_out sigterm_after_deadline sigterm guest"),
        ("0s", "timed_out sigkill_after_grace sigkill guest"),
    ] {
        let (input, writer) = std::io::pipe().unwrap();
        let echo = guest("echo_stdin");
        let mut command = place.stockade(["run", "--json", "--timeout", "200ms", "--grace", grace]);
        let ran = end_of(command.arg(echo).stdin(input).spawn().unwrap());
        drop(writer);
        let result: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
        assert_eq!((crate::rig::short(&result["outcome"]).as_str(), ran.status), (expected, Some(124)));
    }
}

fn guest_past_its_cpu_time_is_stopped(mode: Mode) {
    let stage = match mode {
        Mode::Jailed => "sigterm",
        Mode::InProcess => "epoch",
    };
    let expected = format!("timed_out cpu_time {stage} guest 124");
    check(&Place::new(mode), &["--cpu", "100ms", "--grace", "30s"], "spin_forever", &expected);
}

fn guest_without_fuel_is_stopped(mode: Mode) {
    let place = Place::new(mode);
    check(&place, &["--fuel", "100000"], "burn_fuel", "out_of_fuel fuel - guest 124");
    let enough = place.run(&["--fuel", "100_000"], &guest("nothing"));
    assert_eq!(enough.short(), "completed - - - 0");
    assert!((1..1000).contains(&enough.figure("fuel")), "{}", enough.result);
}

fn guest_beyond_its_memory_limit_is_out_of_memory(mode: Mode) {
    let place = Place::new(mode);
    for (limit, name) in [
        ("16M", "declares_two_memories"),
        ("1G", "declares_two_large_memories"),
        ("1G", "declares_4gib"),
        ("16M", "grow_memory_then_trap"),
        ("16M", "grow_memory_then_exit"),
        ("16M", "grow_table_until_refused"),
    ] {
        check(&place, &["--memory", limit], name, "out_of_memory memory_limit - guest 137");
    }
}

fn guest_that_writes_too_much_output_is_stopped(mode: Mode) {
    let stage = match mode {
        Mode::Jailed => "sigterm",
        Mode::InProcess => "epoch",
    };
    let expected = format!("output_limit output_bytes {stage} guest 137");
    check(&Place::new(mode), &["--output-limit", "64K", "--grace", "30s"], "flood_stdout", &expected);
}

fn module_that_cannot_run_is_invalid_with_the_reason(mode: Mode) {
    let place = Place::new(mode);
    for (name, reason, words) in [
        ("declares_shared_memory", "unsupported_feature", "shared memories"),
        ("declares_memory64", "unsupported_feature", "memory64"),
        ("imports_unknown", "unknown_import", "launch_missiles"),
        ("wrong_import_signature", "unknown_import", "fd_write"),
        ("component_imports_unknown", "unknown_import", "evil:corp/backdoor"),
        ("no_entry", "no_entry", ""),
        ("two_functions", "no_entry", "thrice"),
        ("component_without_run", "no_entry", "wasi:cli/run"),
        ("takes_a_reference", "entry_signature", "hold"),
        ("add", "arguments", "2 arguments"),
        ("table_ten_million", "too_large", "10000000"),
        ("component_too_many_instances", "too_large", "exceed"),
    ] {
        let ended = place.run(&[], &guest(name));
        assert_eq!(ended.short(), format!("invalid_module {reason} - guest 126"), "{name}: {}", ended.result);
        assert!(ended.message().contains(words), "{name}: {}", ended.message());
    }
    let broken = place.file("broken.wasm", b"\0asm\x01\0\0\0\xff\xff\xff");
    check_file(&place, &[], &broken, "invalid_module malformed - guest 126");
    let broken = place.file("broken.wat", "(module (func (export \"_start\")");
    check_file(&place, &[], &broken, "invalid_module malformed_text - guest 126");
    // The command line does not send these; somebody else may.
    let daemon = Daemon::start(place);
    let mut client = daemon.client();
    client.run(submission("nothing")).unwrap();
    eventually("a compiled module to be kept", || !daemon.place.artifacts().is_empty());
    let kept = std::fs::read(daemon.place.artifacts().remove(0)).unwrap();
    // What this host compiled itself, as it is kept and as it would be loaded: after a head that says whose it is.
    let compiled = kept[kept.windows(4).position(|bytes| bytes == b"\x7fELF").unwrap()..].to_vec();
    for (bytes, reason) in [
        (kept, "unrecognised"),
        (compiled, "precompiled"),
        (std::fs::read("/proc/self/exe").unwrap()[..4096].to_vec(), "unrecognised"),
        (b"\x89PNG\r\n\x1a\n".to_vec(), "unrecognised"),
        // Any text that is not WebAssembly text is a script, and its parser says what is wrong with it.
        (b"no WebAssembly".to_vec(), "syntax_error"),
    ] {
        let ended = client.run(submission_of(bytes, reason)).unwrap();
        assert_eq!(short_of(&ended), format!("invalid_module {reason} - guest"));
    }
}

/// A module that takes a while to compile, and gives much code.
fn long_module(functions: u32) -> String {
    let step =
        |n: u32| format!("(local.set 0 (i32.add (i32.mul (local.get 0) (local.get 1)) (i32.const {n})))");
    let function = |n: u32| {
        let steps: String = (n..n + 20).map(step).collect();
        format!("(func (param i32 i32) (result i32) {steps} (local.get 0))\n")
    };
    let functions: String = (0..functions).map(function).collect();
    format!("(module {functions} (func (export \"_start\")))")
}

/// A module of so many functions that do nothing, in 4 bytes each.
fn module_of_functions(count: u32) -> Vec<u8> {
    let number = |mut number: u32| {
        let mut bytes = Vec::new();
        while number >= 0x80 {
            bytes.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        bytes.push(number.to_le_bytes()[0]);
        bytes
    };
    let section =
        |id: u8, body: Vec<u8>| [vec![id], number(u32::try_from(body.len()).unwrap()), body].concat();
    let each = |bytes: &[u8]| [number(count), bytes.repeat(usize::try_from(count).unwrap())].concat();
    [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, b"\x01\x60\0\0".to_vec()),
        section(3, each(b"\0")),
        section(7, b"\x01\x06_start\0\0".to_vec()),
        section(10, each(b"\x02\0\x0b")),
    ]
    .concat()
}

fn module_of_a_million_functions_is_a_compile_limit_at_once(mode: Mode) {
    let place = Place::new(mode);
    let few = place.file("few.wasm", module_of_functions(1000));
    check_file(&place, &[], &few, "completed - - - 0");
    let million = place.file("million.wasm", module_of_functions(1_000_000));
    let ended = place.run(&[], &million);
    assert_eq!(ended.short(), "compile_limit too_complex - guest 126");
    assert!(ended.message().contains("1000000 functions: the most is 250000"), "{}", ended.message());
    // Others wait for the compiler meanwhile.
    assert!(ended.figure("compile_us") < 10_000_000, "{}", ended.result["bill"]);
}

#[test]
fn module_that_takes_too_much_memory_to_compile_is_a_compile_limit() {
    let place = Place::new(Mode::Jailed).set("COMPILE_MEMORY_BYTES", "64M");
    let many = place.file("many.wasm", module_of_functions(250_000));
    check_file(&place, &[], &many, "compile_limit memory - guest 126");
}

fn module_too_large_to_compile_is_a_compile_limit(mode: Mode) {
    let place = Place::new(mode);
    check(&place, &[], "declares_too_many_memories", "compile_limit too_complex - guest 126");
    let long = place.file("long.wat", long_module(300));
    let small = place.clone().set("COMPILE_ARTIFACT_BYTES", "64K");
    check_file(&small, &[], &long, "compile_limit artifact_too_large - guest 126");
    let short = place.clone().set("COMPILE_TIMEOUT", "10ms");
    check_file(&short, &[], &long, "compile_limit timeout - guest 126");
}

#[test]
fn module_that_takes_too_much_cpu_time_to_compile_is_a_compile_limit() {
    let place = Place::new(Mode::Jailed).set("COMPILE_CPU", "10ms");
    let long = place.file("long.wat", long_module(300));
    check_file(&place, &[], &long, "compile_limit cpu_time - guest 126");
}

fn job_cancelled_by_its_owner_says_so(mode: Mode) {
    let stage = match mode {
        Mode::Jailed => "sigterm",
        Mode::InProcess => "epoch",
    };
    let daemon = Daemon::start(Place::new(mode));
    let mut client = daemon.client();
    let mut spinning = submission("spin_forever");
    spinning.limits.grace_us = Some(30_000_000);
    let job = client.submit(spinning).unwrap();
    client.await_phase(&job, Phase::Running);
    client.ask(async |client| client.cancel(&job).await).unwrap();
    assert_eq!(short_of(&client.result(&job)), format!("cancelled cancelled {stage} operator"));
    drop(client);
    daemon.stop();
}

#[test]
fn run_that_is_interrupted_cancels_its_job() {
    let place = Place::new(Mode::Jailed);
    let mut command = place.stockade(["run", "--grace", "30s"]);
    let mut child = command.arg(guest("flood_stderr_lines")).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert_eq!(line, "a line of the log\n", "it runs, and is seen to while it does");
    signal(child.id(), Signal::SIGINT);
    let last = stderr.lines().map(Result::unwrap).last().unwrap();
    assert!(last.starts_with("stockade: cancelled"), "{last}");
    assert_eq!(end_of(child).status, Some(137));
}

fn job_cut_short_by_a_drain_says_so(mode: Mode) {
    let stage = match mode {
        Mode::Jailed => "sigterm",
        Mode::InProcess => "epoch",
    };
    let daemon = Daemon::start(Place::new(mode).set("CLIENTS_DRAIN_TIMEOUT", "0s"));
    let mut client = daemon.client();
    let mut spinning = submission("spin_forever");
    spinning.limits.grace_us = Some(30_000_000);
    let ended = client.ask(async |client| {
        let ticket = client.submit_and_wait(spinning).await.unwrap();
        loop {
            let jobs = client.list().await.unwrap();
            if jobs.iter().any(|job| job.phase == Phase::Running) {
                break;
            }
        }
        daemon.signal(Signal::SIGTERM);
        client.finished(&ticket).await.unwrap()
    });
    assert_eq!(short_of(&ended), format!("cancelled drain {stage} operator"));
    assert!(ended.outcome.retriable);
    assert_eq!(daemon.end().0, Some(0));
}

fn job_without_a_worker_before_its_deadline_was_never_run(mode: Mode) {
    let daemon = Daemon::start(Place::new(mode).set("POOL_WORKERS_MAX", "1").set("POOL_WARM", "1"));
    let mut client = daemon.client();
    let first = client.submit(submission("spin_forever")).unwrap();
    client.await_phase(&first, Phase::Running);
    let ended = daemon.submit(&["--timeout", "50ms"], &guest("nothing"));
    assert_eq!(ended.short(), "timed_out deadline_in_queue - operator 124");
    assert_eq!(ended.result["outcome"]["retriable"], true);
    assert_eq!(ended.result["bill"]["run_us"], serde_json::Value::Null);
    client.ask(async |client| client.cancel(&first).await).unwrap();
    client.result(&first);
}

#[test]
fn worker_killed_by_somebody_else_is_lost() {
    let place = Place::new(Mode::Jailed);
    let daemon =
        Daemon::start(place.set("POOL_WARM", "0").set("POOL_WARM_MAX", "0").set("POOL_TEMPLATES_MAX", "0"));
    let mut client = daemon.client();
    for (which, reason) in
        [(Signal::SIGKILL, "killed"), (Signal::SIGUSR1, "signal"), (Signal::SIGTERM, "interrupted")]
    {
        let job = client.submit(submission("flood_stderr_lines")).unwrap();
        daemon.await_log(&job);
        // The zygote is the oldest; with nothing kept warm, the youngest runs the job.
        let family = children(daemon.pid);
        assert_eq!(family.len(), 2, "{family:?}");
        signal(family[1], which);
        let result = client.result(&job);
        assert_eq!(short_of(&result), format!("worker_lost {reason} - ambiguous"), "{which}");
        assert!(result.outcome.retriable);
    }
    let after = client.run(submission("nothing")).unwrap();
    assert_eq!(after.outcome.verdict, Verdict::Completed, "the daemon goes on");
}
