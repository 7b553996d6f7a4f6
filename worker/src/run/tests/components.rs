//! WASI 0.2 commands.

use stockade_wire::worker::LinkFault;

use super::*;

/// A component whose `wasi:cli/run` is the core function `run` of the given module, without imports.
fn bare(module: &str) -> String {
    format!(
        r#"(component (core module $m {module}) (core instance $i (instantiate $m))
             (func $run (result (result)) (canon lift (core func $i "run")))
             (instance $run-instance (export "run" (func $run)))
             (export "wasi:cli/run@0.2.0" (instance $run-instance)))"#
    )
}

/// Writes "hello\n" to its standard output.
const HELLO: &str = r#"(component
  (import "wasi:io/error@0.2.0" (instance $io-error (export "error" (type (sub resource)))))
  (alias export $io-error "error" (type $error))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (export "output-stream" (type $output-stream (sub resource)))
    (alias outer 1 $error (type $outer-error))
    (export "error" (type $its-error (eq $outer-error)))
    (type $failure (variant (case "last-operation-failed" (own $its-error)) (case "closed")))
    (export "stream-error" (type $stream-error (eq $failure)))
    (export "[method]output-stream.blocking-write-and-flush"
      (func (param "self" (borrow $output-stream)) (param "contents" (list u8)) (result (result (error $stream-error)))))))
  (alias export $streams "output-stream" (type $stream))
  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (alias outer 1 $stream (type $outer-stream))
    (export "output-stream" (type $its-stream (eq $outer-stream)))
    (export "get-stdout" (func (result (own $its-stream))))))
  (core module $memory (memory (export "memory") 1) (data (i32.const 100) "hello\n"))
  (core instance $memory (instantiate $memory))
  (core func $get (canon lower (func $stdout "get-stdout")))
  (core func $write (canon lower (func $streams "[method]output-stream.blocking-write-and-flush")
    (memory (core memory $memory "memory"))))
  (core module $main
    (import "host" "get" (func $get (result i32)))
    (import "host" "write" (func $write (param i32 i32 i32 i32)))
    (import "memory" "memory" (memory 1))
    (func (export "run") (result i32)
      (call $write (call $get) (i32.const 100) (i32.const 6) (i32.const 200))
      (i32.load8_u (i32.const 200))))
  (core instance $main (instantiate $main
    (with "host" (instance (export "get" (func $get)) (export "write" (func $write))))
    (with "memory" (instance $memory))))
  (func $run (result (result)) (canon lift (core func $main "run")))
  (instance $run-instance (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $run-instance)))"#;

#[test]
fn component_writes_its_output_and_exits_with_its_result() {
    let outcome = job(HELLO).run();
    assert_eq!((outcome.report.ending, outcome.output.as_str()), (Ending::Exited(0), "hello\n"));
    assert!(outcome.report.command);
    let failed = job(bare(r#"(func (export "run") (result i32) i32.const 1)"#)).run();
    assert_eq!(failed.report.ending, Ending::Exited(1));
}

#[test]
fn component_that_traps_or_loops_is_ended_as_a_module_is() {
    let trap = job(bare(r#"(func $f (export "run") (result i32) unreachable)"#)).run();
    assert!(matches!(trap.report.ending, Ending::Trapped(TrapCode::Unreachable, _)), "{trap:?}");
    let endless = bare(r#"(func (export "run") (result i32) (loop (br 0)) i32.const 0)"#);
    let report = job(endless).deadline(Duration::from_millis(50)).run().report;
    assert_eq!(report.ending, Ending::Interrupted);
}

#[test]
fn component_counts_fuel_and_memory() {
    let text = bare(r#"(memory 20) (func (export "run") (result i32) (loop (br 0)) i32.const 0)"#);
    let report = job(text.clone()).fuel(5000).run().report;
    assert_eq!((report.ending, report.fuel), (Ending::OutOfFuel, Some(5000)));
    assert_eq!(report.wasm_memory_peak_bytes, 20 << 16);
    assert_eq!(job(text).memory(1 << 16).run().report.ending, Ending::MemoryRefused(20 << 16));
}

#[test]
fn component_without_a_run_or_asked_for_another_entry_has_none() {
    let none = job("(component)").run().report.ending;
    assert!(
        matches!(&none, Ending::Unlinkable(LinkFault::NoEntry, text) if text.contains("wasi:cli/run")),
        "{none:?}"
    );
    let other = job(HELLO).entry("handle").run().report.ending;
    assert!(
        matches!(&other, Ending::Unlinkable(LinkFault::NoEntry, text) if text.contains("handle")),
        "{other:?}"
    );
}

#[test]
fn component_with_an_import_that_is_not_offered_names_it() {
    let text = r#"(component (import "acme:rocket/launch@1.0.0" (instance (export "go" (func)))))"#;
    let ending = job(text).run().report.ending;
    assert!(
        matches!(&ending, Ending::Unlinkable(LinkFault::UnknownImport, text) if text.contains("acme:rocket/launch")),
        "{ending:?}"
    );
}

#[test]
fn component_of_too_many_parts_is_too_large() {
    let memories = "(core instance (instantiate $m))".repeat(40);
    let run = r#"(core module $r (func (export "run") (result i32) i32.const 0)) (core instance $i (instantiate $r))
        (func $run (result (result)) (canon lift (core func $i "run")))
        (instance $run-instance (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $run-instance))"#;
    let text = format!("(component (core module $m (memory 0)) {memories} {run})");
    let ending = job(text).run().report.ending;
    assert!(matches!(ending, Ending::Unlinkable(LinkFault::TooLarge, _)), "{ending:?}");
}
