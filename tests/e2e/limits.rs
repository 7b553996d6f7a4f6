//! Limits, to the byte.

use std::io::{BufRead, BufReader};

use stockade_wire::job::Phase;

use crate::rig::{Daemon, Mode, Place, end_of, guest, status_bytes, submission};

in_both_modes!(
    memories_of_a_guest_are_limited_together_to_the_byte,
    memory_asked_for_page_by_page_a_million_times_reaches_its_limit_in_time,
    output_as_long_as_allowed_is_whole_and_one_byte_more_is_too_much,
    log_of_one_endless_line_is_counted_to_the_byte_and_costs_the_daemon_its_ring,
    log_of_many_lines_keeps_the_newest_whole,
    log_is_followed_while_its_job_runs,
);

#[test]
fn module_or_input_above_its_ceiling_is_denied_by_the_settings_name() {
    let place = Place::new(Mode::Jailed).set("CEILINGS_INPUT_BYTES", "4").set("CEILINGS_MODULE_BYTES", "1K");
    let settings = crate::rig::ran(&mut place.stockade(["config", "check"]), b"");
    let large = place.file("large.wat", format!("(module) ;; {}", "x".repeat(1024)));
    let daemon = Daemon::start(place);
    for (input, program, setting) in
        [("12345", guest("nothing"), "ceilings.input_bytes"), ("", large, "ceilings.module_bytes")]
    {
        let ended = daemon.submit_on(input.as_bytes(), &[], &program, &[]);
        assert_eq!(ended.short(), "denied too_large - operator 126");
        assert!(ended.message().contains(&format!("; {setting} allows ")), "{}", ended.message());
        let known = String::from_utf8_lossy(&settings.stdout);
        assert!(known.lines().any(|line| line.starts_with(&format!("{setting} "))), "{known}");
    }
}

/// The two memories of `declares_two_memories.wat`.
const TWO_MEMORIES_BYTES: u64 = 320 * 65536;

fn memories_of_a_guest_are_limited_together_to_the_byte(mode: Mode) {
    let place = Place::new(mode);
    let two = guest("declares_two_memories");
    let enough = place.run(&["--memory", &TWO_MEMORIES_BYTES.to_string()], &two);
    assert_eq!(enough.short(), "completed - - - 0");
    assert_eq!(enough.figure("wasm_memory_peak_bytes"), TWO_MEMORIES_BYTES);
    let short = place.run(&["--memory", &(TWO_MEMORIES_BYTES - 1).to_string()], &two);
    assert_eq!(short.short(), "out_of_memory memory_limit - guest 137");
    let grown = place.run(&["--memory", "16M"], &guest("grow_memory_then_exit"));
    let peak = grown.figure("wasm_memory_peak_bytes");
    assert!((15 << 20..=16 << 20).contains(&peak), "{peak}");
}

fn memory_asked_for_page_by_page_a_million_times_reaches_its_limit_in_time(mode: Mode) {
    let ended = Place::new(mode).run(&["--memory", "64M"], &guest("grow_one_page_at_a_time"));
    assert_eq!(ended.short(), "completed - - - 0", "{}", ended.result);
    assert_eq!(ended.figure("wasm_memory_peak_bytes"), 64 << 20);
}

fn output_as_long_as_allowed_is_whole_and_one_byte_more_is_too_much(mode: Mode) {
    let place = Place::new(mode);
    let limit = ["--output-limit", "100000"];
    let echo = guest("echo_stdin");
    let whole = place.run_on(&[b'x'; 100_000], &limit, &echo, &[]);
    assert_eq!((whole.short().as_str(), whole.output().len()), ("completed - - - 0", 100_000));
    let cut = place.run_on(&[b'x'; 100_001], &limit, &echo, &[]);
    assert_eq!(cut.result["outcome"]["verdict"], "output_limit");
    assert_eq!((cut.status, cut.output().len()), (137, 100_000));
    assert_eq!(cut.figure("output_bytes"), 100_000);
    // What a function returns is output like any other.
    let reversed = place.run_on(&[b'x'; 100_001], &limit, &guest("bytes_reverse"), &[]);
    assert_eq!((&reversed.result["outcome"]["verdict"], reversed.status), (&"output_limit".into(), 137));
}

fn log_of_one_endless_line_is_counted_to_the_byte_and_costs_the_daemon_its_ring(mode: Mode) {
    const WRITTEN: u64 = 100_000_000;
    const RING: u64 = 256 << 10;
    let daemon = Daemon::start(Place::new(mode));
    let flags = ["--timeout", "60s", "--log-buffer", "256K"];
    let flood = guest("flood_stderr_one_long_line");
    // Once without measuring, for what is made at the first job.
    daemon.submit(&flags, &guest("nothing"));
    let before = status_bytes(daemon.pid, "VmRSS");
    let ended = daemon.submit(&flags, &flood);
    let most = status_bytes(daemon.pid, "VmHWM");
    assert_eq!(ended.short(), "completed - - - 0");
    let logs = &ended.result["logs"];
    let kept = logs["stderr"].as_str().unwrap();
    assert!(kept.len() as u64 <= RING && kept.len() as u64 > RING / 2, "{}", kept.len());
    assert!(kept.bytes().all(|byte| byte == b'x'));
    assert_eq!(logs["dropped_bytes"].as_u64(), Some(WRITTEN - kept.len() as u64));
    assert_eq!(logs["dropped_lines"], 1);
    assert_eq!(ended.figure("log_bytes"), WRITTEN);
    let grown = most.saturating_sub(before);
    assert!(grown < 32 << 20, "the daemon grew by {grown} bytes over a log of {WRITTEN}");
}

fn log_of_many_lines_keeps_the_newest_whole(mode: Mode) {
    let place = Place::new(mode).set("KILL_EPOCH_HEAD_START", "1s");
    let ended = place.run(&["--timeout", "300ms", "--log-buffer", "4K"], &guest("flood_stderr_lines"));
    assert_eq!(ended.short(), "timed_out epoch_deadline epoch guest 124");
    let line = "a line of the log\n";
    let logs = &ended.result["logs"];
    let kept = logs["stderr"].as_str().unwrap();
    assert!(kept.len() <= 4096 && kept.ends_with(line));
    let (rest, dropped) = (kept.len() % line.len(), logs["dropped_bytes"].as_u64().unwrap());
    assert_eq!(kept[rest..], line.repeat(kept.len() / line.len()));
    assert!(dropped > 0);
    let written = ended.figure("log_bytes");
    assert_eq!(written, dropped + kept.len() as u64);
    assert_eq!(written % line.len() as u64, 0);
    assert_eq!(logs["dropped_lines"].as_u64(), Some(dropped.div_ceil(line.len() as u64)));
}

fn log_is_followed_while_its_job_runs(mode: Mode) {
    let daemon = Daemon::start(Place::new(mode));
    let mut client = daemon.client();
    let job = client.submit(submission("flood_stderr_lines")).unwrap();
    let mut following = daemon.place.stockade(["logs", "--follow", &job]).spawn().unwrap();
    let mut lines = BufReader::new(following.stderr.take().unwrap()).lines();
    // More than is read at once: the later ones were not there when it began.
    for _ in 0..10_000 {
        let line = lines.next().unwrap().unwrap();
        assert!(line == "a line of the log" || line.ends_with("bytes lost]") || line.len() < 17, "{line}");
    }
    client.await_phase(&job, Phase::Running);
    client.ask(async |client| client.cancel(&job).await).unwrap();
    lines.for_each(|line| drop(line.unwrap()));
    assert_eq!(end_of(following).status, Some(0), "ends with the job");
    let after = daemon.cli(&["logs", &job]);
    let kept = client.result(&job).logs.stderr.0;
    assert!(after.status == Some(0) && after.stderr.as_bytes().ends_with(&kept), "and is there afterwards");
}
