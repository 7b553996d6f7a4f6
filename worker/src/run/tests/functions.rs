//! Exported functions: the byte interface and plain numbers.

use stockade_wire::worker::LinkFault;

use super::*;

/// A memory, an allocator that hands out 1024, and a function `go` with the given body.
fn bytes(body: &str) -> Job {
    job(format!(
        r#"(module (memory (export "memory") 1)
             (func (export "stockade_alloc") (param i32) (result i32) i32.const 1024)
             (func (export "go") (param $at i32) (param $length i32) (result i64) {body}))"#
    ))
}

/// The reply that gives back what was given.
const ECHO: &str = "(i64.or (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32)) (i64.extend_i32_u (local.get $length)))";

#[test]
fn bytes_come_back_as_the_output() {
    let outcome = bytes(ECHO).input("grüße\0".as_bytes()).run();
    assert_eq!((outcome.report.ending, outcome.output.as_str()), (Ending::Exited(0), "grüße\0"));
    assert!(!outcome.report.command);
}

#[test]
fn no_input_needs_no_room() {
    let text = r#"(module (memory (export "memory") 1)
        (func (export "stockade_alloc") (param i32) (result i32) unreachable)
        (func (export "go") (param i32 i32) (result i64) i64.const 0))"#;
    let outcome = job(text).run();
    assert_eq!((outcome.report.ending, outcome.output.as_str()), (Ending::Exited(0), ""));
}

#[test]
fn reply_with_the_failure_bit_is_a_failure_in_the_guests_words() {
    let failed = format!("(i64.or {ECHO} (i64.const 0x80000000))");
    let outcome = bytes(&failed).input(b"no such \xff key").run();
    assert_eq!(outcome.report.ending, Ending::Failed("no such \u{fffd} key".to_owned()));
    assert_eq!(outcome.output, "");
}

#[test]
fn failure_longer_than_the_wire_takes_is_cut() {
    let failed = "(i64.or (i64.const 60000) (i64.const 0x80000000))";
    let outcome = bytes(failed).run();
    assert!(
        matches!(outcome.report.ending, Ending::Failed(text) if text.len() == stockade_wire::limits::GUEST_TEXT_BYTES_MAX)
    );
}

#[test]
fn reply_outside_memory_is_out_of_bounds() {
    for reply in [
        "-1",
        "0x7fffffff",
        "0xffffffff00000001",
        "0x0000ffff00000002",
        "0x0001000100000000",
        "0x00000000ffffffff",
    ] {
        let outcome = bytes(&format!("(i64.const {reply})")).input(b"x").run();
        let ending = outcome.report.ending;
        assert!(matches!(ending, Ending::Trapped(TrapCode::MemoryOutOfBounds, _)), "{reply}: {ending:?}");
        assert_eq!(outcome.output, "");
    }
}

#[test]
fn input_of_a_known_length_is_read_where_the_guest_wants_it_and_no_more_of_it() {
    let reverse = include_str!("../../../../tests/guests/bytes_reverse.wat");
    for (content, told_bytes, output) in
        [(&b"abc"[..], 3, "cba"), (b"abc", 2, "ba"), (b"abc", 0, ""), (b"", 0, "")]
    {
        let outcome = job(reverse).input_of(content, told_bytes).run();
        assert_eq!(outcome.report.ending, Ending::Exited(0), "{told_bytes}");
        assert_eq!(outcome.output, output);
    }
    let ending = job(reverse).input_of(b"abc", 4).run().report.ending;
    assert!(matches!(&ending, Ending::SetupFailed(text) if text.contains("cannot be read")), "{ending:?}");
    let ending = job(reverse).input_of(b"abc", (16 << 20) + 1).run().report.ending;
    assert!(matches!(&ending, Ending::Unlinkable(LinkFault::Arguments, _)), "{ending:?}");
}

#[test]
fn allocator_that_lies_or_has_no_room_is_typed() {
    let with = |address: u32| {
        job(format!(
            r#"(module (memory (export "memory") 1)
                 (func (export "stockade_alloc") (param i32) (result i32) i32.const {address})
                 (func (export "go") (param i32 i32) (result i64) i64.const 0))"#
        ))
        .input(b"four")
        .run()
        .report
        .ending
    };
    assert!(matches!(with(0), Ending::Failed(text) if text.contains("no room for 4 bytes")));
    for address in [65_533, 65_536, u32::MAX] {
        assert!(matches!(with(address), Ending::Trapped(TrapCode::MemoryOutOfBounds, _)), "{address}");
    }
}

#[test]
fn numbers_are_read_and_printed_one_a_line() {
    let text = r#"(module (func (export "f") (param i32 i64 f32 f64) (result f64 f32 i64 i32)
        local.get 3 local.get 2 local.get 1 local.get 0))"#;
    let outcome = job(text).arguments(&["-1", "9223372036854775807", "0.5", "1e300"]).run();
    assert_eq!(outcome.report.ending, Ending::Exited(0));
    let lines: Vec<&str> = outcome.output.lines().collect();
    assert_eq!(lines[0].parse::<f64>().unwrap(), 1e300);
    assert_eq!(lines[1..], ["0.5", "9223372036854775807", "-1"]);
}

#[test]
fn library_is_set_up_before_its_function_is_called_and_logs_to_stdout() {
    let text = r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1) (data (i32.const 100) "log line") (global $ready (mut i32) (i32.const 0))
        (func (export "_initialize") (global.set $ready (i32.const 7)))
        (func (export "f") (result i32)
          (i32.store (i32.const 0) (i32.const 100)) (i32.store (i32.const 4) (i32.const 8))
          (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
          global.get $ready))"#;
    let outcome = job(text).run();
    assert_eq!((outcome.output.as_str(), outcome.stdout.as_str()), ("7\n", "log line"));
}

/// Both set-up functions note that they ran; the entries say what they noted.
fn noting(exports: &str) -> String {
    format!(
        r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1) (global $ran (mut i32) (i32.const 0))
        (func $note (param i32)
          (global.set $ran (i32.add (i32.mul (global.get $ran) (i32.const 10)) (local.get 0))))
        (func $first (call $note (i32.const 1)))
        (func $second (call $note (i32.const 2)))
        (func (export "f") (result i32) (global.get $ran))
        (func (export "_start") (call $exit (global.get $ran)))
        {exports})"#
    )
}

#[test]
fn initialiser_runs_once_before_any_entry_and_after_what_the_library_needs() {
    let both = r#"(export "_initialize" (func $first)) (export "stockade_initialise" (func $second))"#;
    let alone = r#"(export "stockade_initialise" (func $second))"#;
    let library = r#"(export "_initialize" (func $first))"#;
    for (exports, of_function, of_command) in [(both, "12\n", 12), (alone, "2\n", 2), (library, "1\n", 0)] {
        let text = noting(exports);
        assert_eq!(job(&text).entry("f").run().output, of_function, "{exports}");
        assert_eq!(job(&text).run().report.ending, Ending::Exited(of_command), "{exports}");
    }
}

#[test]
fn initialiser_that_traps_ends_its_job() {
    let text = r#"(module (func (export "stockade_initialise") unreachable) (func (export "f")))"#;
    let ending = job(text).run().report.ending;
    assert!(matches!(ending, Ending::Trapped(TrapCode::Unreachable, _)), "{ending:?}");
}

#[test]
fn import_that_is_not_offered_is_named() {
    let outcome = job(r#"(module (import "env" "launch" (func)) (func (export "f")))"#).run();
    let ending = outcome.report.ending;
    assert!(
        matches!(&ending, Ending::Unlinkable(LinkFault::UnknownImport, text) if text.contains("env") && text.contains("launch")),
        "{ending:?}"
    );
}

#[test]
fn import_with_another_signature_is_named() {
    let text =
        r#"(module (import "wasi_snapshot_preview1" "fd_write" (func (param f64))) (func (export "f")))"#;
    let ending = job(text).run().report.ending;
    assert!(
        matches!(&ending, Ending::Unlinkable(LinkFault::UnknownImport, text) if text.contains("fd_write")),
        "{ending:?}"
    );
}

#[test]
fn entry_that_is_missing_is_named_with_those_there_are() {
    let ending = job(r#"(module (func (export "here")))"#).entry("there").run().report.ending;
    assert!(
        matches!(&ending, Ending::Unlinkable(LinkFault::NoEntry, text) if text.contains("there") && text.contains("here")),
        "{ending:?}"
    );
}

#[test]
fn trap_of_each_kind_is_told_with_the_functions_it_came_from() {
    let cases = [
        ("unreachable", TrapCode::Unreachable),
        ("(drop (i32.load (i32.const 65536)))", TrapCode::MemoryOutOfBounds),
        ("(drop (table.get $t (i32.const 9)))", TrapCode::TableOutOfBounds),
        ("(call_indirect (i32.const 0))", TrapCode::IndirectCallToNull),
        ("(drop (call_indirect (result i32) (i32.const 1)))", TrapCode::BadSignature),
        ("(drop (i32.div_s (i32.const 0x80000000) (i32.const -1)))", TrapCode::IntegerOverflow),
        ("(drop (i32.div_s (i32.const 1) (i32.const 0)))", TrapCode::DivisionByZero),
        ("(drop (i32.trunc_f32_s (f32.const nan)))", TrapCode::BadConversionToInteger),
        ("(call $deep)", TrapCode::StackOverflow),
    ];
    for (body, code) in cases {
        let outcome = job(format!(
            r#"(module (memory 1) (table $t 2 funcref) (elem (i32.const 1) $deep)
                 (func $deep (call $deep) (call $deep))
                 (func $inner {body}) (func $outer (export "go") (call $inner)))"#
        ))
        .run();
        let Ending::Trapped(found, text) = &outcome.report.ending else { panic!("{body}: {outcome:?}") };
        assert_eq!(*found, code, "{body}: {text}");
        let where_it_was = if code == TrapCode::StackOverflow { "deep" } else { "inner ← outer" };
        assert!(text.contains(where_it_was), "{body}: {text}");
    }
}
