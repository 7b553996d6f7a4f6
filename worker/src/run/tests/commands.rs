//! WASI preview 1 commands.

use super::*;

/// Imports and a function `say(fd, from, length)`; the rest of a module follows.
const PRELUDE: &str = r#"
    (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
    (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes_get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_open"
        (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func $say (param $fd i32) (param $from i32) (param $length i32)
        (i32.store (i32.const 0) (local.get $from))
        (i32.store (i32.const 4) (local.get $length))
        (if (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable)))
"#;

fn command(body: &str) -> Job {
    job(format!("(module {PRELUDE} {body})"))
}

#[test]
fn command_output_goes_to_the_output_and_its_errors_to_stderr() {
    let outcome = command(
        r#"(data (i32.const 100) "hello\nsorry")
           (func (export "_start")
             (call $say (i32.const 1) (i32.const 100) (i32.const 6))
             (call $say (i32.const 2) (i32.const 106) (i32.const 5)))"#,
    )
    .run();
    assert_eq!(outcome.report.ending, Ending::Exited(0));
    assert!(outcome.report.command);
    assert_eq!(
        (outcome.output.as_str(), outcome.stderr.as_str(), outcome.stdout.as_str()),
        ("hello\n", "sorry", "")
    );
    assert_eq!(outcome.report.wasm_memory_peak_bytes, 64 << 10);
}

#[test]
fn command_that_exits_reports_its_status() {
    let outcome = command(r#"(func (export "_start") (call $proc_exit (i32.const 42)) unreachable)"#).run();
    assert_eq!(outcome.report.ending, Ending::Exited(42));
}

#[test]
fn command_sees_its_name_its_arguments_and_no_variable_it_was_not_granted() {
    let print_all = r#"
        (func (export "_start")
          (drop (call $args_sizes_get (i32.const 16) (i32.const 20)))
          (drop (call $args_get (i32.const 1000) (i32.const 2000)))
          (call $say (i32.const 1) (i32.const 2000) (i32.load (i32.const 20)))
          (drop (call $environ_sizes_get (i32.const 16) (i32.const 20)))
          (drop (call $environ_get (i32.const 1000) (i32.const 2000)))
          (call $say (i32.const 2) (i32.const 2000) (i32.load (i32.const 20))))"#;
    let outcome = command(print_all).arguments(&["one", "two words"]).environment("KEY", "value").run();
    assert_eq!(outcome.output, "guest.wasm\0one\0two words\0");
    assert_eq!(outcome.stderr, "KEY=value\0");
}

#[test]
fn command_reads_its_input_to_the_end() {
    let outcome = command(
        r#"(func (export "_start")
             (loop $more
               (i32.store (i32.const 0) (i32.const 100))
               (i32.store (i32.const 4) (i32.const 7))
               (if (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
               (if (i32.load (i32.const 8)) (then
                 (call $say (i32.const 1) (i32.const 100) (i32.load (i32.const 8)))
                 (br $more)))))"#,
    )
    .input(b"the quick brown fox")
    .run();
    assert_eq!((outcome.report.ending, outcome.output.as_str()), (Ending::Exited(0), "the quick brown fox"));
}

#[test]
fn random_bytes_of_two_runs_differ() {
    let body = r#"(func (export "_start") (local $i i32)
        (drop (call $random_get (i32.const 100) (i32.const 16)))
        ;; made printable: 'A' + low four bits
        (loop $next
          (i32.store8 (i32.add (i32.const 100) (local.get $i))
            (i32.add (i32.const 65) (i32.and (i32.const 15) (i32.load8_u (i32.add (i32.const 100) (local.get $i))))))
          (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 16))))
        (call $say (i32.const 1) (i32.const 100) (i32.const 16)))"#;
    let (one, two) = (command(body).run().output, command(body).run().output);
    assert_eq!(one.len(), 16);
    assert_ne!(one, two);
}

#[test]
fn clocks_tell_the_time_and_go_on() {
    let outcome = command(
        r#"(func (export "_start")
             ;; a sleep of 20 ms by the monotonic clock, and the real time after 2020
             (drop (call $clock_time_get (i32.const 1) (i64.const 1) (i32.const 24)))
             (i32.store (i32.const 116) (i32.const 1))
             (i64.store (i32.const 124) (i64.const 20000000))
             (if (call $poll_oneoff (i32.const 100) (i32.const 200) (i32.const 1) (i32.const 300)) (then unreachable))
             (if (i32.ne (i32.load (i32.const 300)) (i32.const 1)) (then unreachable))
             (drop (call $clock_time_get (i32.const 1) (i64.const 1) (i32.const 32)))
             (if (i64.lt_u (i64.sub (i64.load (i32.const 32)) (i64.load (i32.const 24))) (i64.const 20000000))
               (then unreachable))
             (drop (call $clock_time_get (i32.const 0) (i64.const 1) (i32.const 24)))
             (if (i64.lt_u (i64.load (i32.const 24)) (i64.const 1577836800000000000)) (then unreachable)))"#,
    )
    .run();
    assert_eq!(outcome.report.ending, Ending::Exited(0), "{outcome:?}");
    assert!(outcome.report.run_us >= 20_000);
}

/// Opens `name` below the first granted directory with the given flags and rights and exits with the errno.
fn opens(name: &str, flags: u32, rights: u64) -> String {
    let length = name.len();
    format!(
        r#"(data (i32.const 100) "{name}")
           (func $open (result i32)
             (call $path_open (i32.const 3) (i32.const 0) (i32.const 100) (i32.const {length}) (i32.const {flags})
                (i64.const {rights}) (i64.const 0) (i32.const 0) (i32.const 20)))"#
    )
}

const READ: u64 = 1 << 1;
const WRITE: u64 = 1 << 6;
const CREATE: u32 = 1;
const ERRNO_PERM: i32 = 63;

#[test]
fn granted_directory_can_be_read_from() {
    let directory = scratch("read");
    std::fs::write(directory.join("in.txt"), "from the host").unwrap();
    let text = opens("in.txt", 0, READ)
        + r#"(func (export "_start")
               (if (call $open) (then unreachable))
               (i32.store (i32.const 0) (i32.const 200))
               (i32.store (i32.const 4) (i32.const 50))
               (if (call $fd_read (i32.load (i32.const 20)) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
               (call $say (i32.const 1) (i32.const 200) (i32.load (i32.const 8))))"#;
    let outcome = command(&text).directory(&directory, "/data", false).run();
    assert_eq!(outcome.output, "from the host", "{outcome:?}");
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn granted_directory_is_writable_only_when_it_is_granted_so() {
    let directory = scratch("write");
    let text = opens("out.txt", CREATE, WRITE)
        + r#"(data (i32.const 150) "written")
             (func (export "_start") (local $errno i32)
               (if (local.tee $errno (call $open)) (then (call $proc_exit (local.get $errno))))
               (call $say (i32.load (i32.const 20)) (i32.const 150) (i32.const 7)))"#;
    let refused = command(&text).directory(&directory, "/data", false).run();
    assert_eq!(refused.report.ending, Ending::Exited(ERRNO_PERM));
    assert!(!directory.join("out.txt").exists());
    let allowed = command(&text).directory(&directory, "/data", true).run();
    assert_eq!(allowed.report.ending, Ending::Exited(0), "{allowed:?}");
    assert_eq!(std::fs::read_to_string(directory.join("out.txt")).unwrap(), "written");
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn directory_cannot_be_left_through_its_parent() {
    let directory = scratch("parent");
    let text = opens("../other", 0, READ) + r#"(func (export "_start") (call $proc_exit (call $open)))"#;
    let outcome = command(&text).directory(&directory, "/data", true).run();
    assert_eq!(outcome.report.ending, Ending::Exited(ERRNO_PERM));
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn polling_a_regular_file_is_ready_at_once_and_starts_no_thread() {
    let name = "run::tests::commands::polling_a_regular_file_is_ready_at_once_and_starts_no_thread";
    crate::own_process::in_own_process(name, || {
        let directory = scratch("poll");
        std::fs::write(directory.join("in.txt"), "x").unwrap();
        let text = opens("in.txt", 0, READ)
            + r#"(func (export "_start")
                   (if (call $open) (then unreachable))
                   (i32.store8 (i32.const 408) (i32.const 1))
                   (i32.store (i32.const 416) (i32.load (i32.const 20)))
                   (if (call $poll_oneoff (i32.const 400) (i32.const 500) (i32.const 1) (i32.const 600)) (then unreachable))
                   (call $proc_exit (i32.load (i32.const 600))))"#;
        let outcome = command(&text).directory(&directory, "/data", false).run();
        assert_eq!(outcome.report.ending, Ending::Exited(1));
        // Main thread, the thread of this test, the ticker.
        assert_eq!(std::fs::read_dir("/proc/self/task").unwrap().count(), 3);
        std::fs::remove_dir_all(directory).unwrap();
    });
}

#[test]
fn host_call_with_pointers_outside_memory_fails_and_reads_nothing() {
    // (address of the list, its length, address of the buffer, its length)
    let cases: [(u32, u32, u32, u32); 6] = [
        (0, 1, 0xffff_fff0, 0x20),
        (0, 1, 0xffff_ffff, 0xffff_ffff),
        (0, 1, 65_530, 100),
        (0xffff_fff8, 1, 0, 0),
        (0, 0x2000_0000, 0, 0),
        (0, 1, 0x8000_0000, 0x8000_0000),
    ];
    for (list, count, buffer, length) in cases {
        let outcome = command(&format!(
            r#"(func (export "_start")
                 (i32.store (i32.const 0) (i32.const {buffer}))
                 (i32.store (i32.const 4) (i32.const {length}))
                 (call $proc_exit (call $fd_write (i32.const 1) (i32.const {list}) (i32.const {count}) (i32.const 8))))"#
        ))
        .run();
        let ending = &outcome.report.ending;
        // A length that no buffer has is refused with an error number before the pointer is looked at.
        let failed = matches!(ending, Ending::Trapped(..) | Ending::Exited(1..));
        assert!(failed, "{list} {count} {buffer} {length}: {ending:?}");
        assert_eq!(outcome.output, "");
    }
}

#[test]
fn poll_with_pointers_outside_memory_is_a_trap() {
    for (subscriptions, events, count) in [(u32::MAX, 0, 1), (65_500, 0, 1), (0, u32::MAX, 1), (0, 0, 4096)] {
        let outcome = command(&format!(
            r#"(func (export "_start")
                 (drop (call $poll_oneoff (i32.const {subscriptions}) (i32.const {events}) (i32.const {count}) (i32.const 0))))"#
        ))
        .run();
        let ending = outcome.report.ending;
        assert!(matches!(ending, Ending::Trapped(TrapCode::MemoryOutOfBounds, _)), "{ending:?}");
    }
}

fn scratch(name: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("stockade-guest-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}
