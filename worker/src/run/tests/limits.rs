//! Limits: memory, fuel, counts, time.

use stockade_wire::worker::LinkFault;

use super::*;
use crate::own_process::in_own_process;

const PAGE: u64 = 64 << 10;

#[test]
fn memory_declared_above_the_limit_is_refused_with_its_size() {
    let job = job(r#"(module (memory 100) (func (export "f")))"#).memory(99 * PAGE);
    let report = job.run().report;
    assert_eq!(report.ending, Ending::MemoryRefused(100 * PAGE));
    assert!(!report.growth_refused);
}

#[test]
fn memory_grows_to_the_limit_and_no_further() {
    let text = r#"(module (memory 1) (func (export "f") (result i32 i32 i32)
        (memory.grow (i32.const 8)) (memory.grow (i32.const 1)) (memory.grow (i32.const 1))))"#;
    let outcome = job(text).memory(10 * PAGE).run();
    assert_eq!(outcome.output, "1\n9\n-1\n");
    assert!(outcome.report.growth_refused);
    assert_eq!(outcome.report.wasm_memory_peak_bytes, 10 * PAGE);
}

#[test]
fn memories_of_one_module_are_limited_together() {
    let text = r#"(module (memory $a 4) (memory $b 4) (func (export "f") (result i32 i32)
        (memory.grow $a (i32.const 2)) (memory.grow $b (i32.const 1))))"#;
    let outcome = job(text).memory(10 * PAGE).run();
    assert_eq!(outcome.output, "4\n-1\n");
    let refused = job(text).memory(7 * PAGE).run();
    assert_eq!(refused.report.ending, Ending::MemoryRefused(8 * PAGE));
}

#[test]
fn table_elements_count_as_memory() {
    let text = r#"(module (table 1000 funcref) (func (export "f") (result i32)
        (table.grow (ref.null func) (i32.const 1000))))"#;
    let outcome = job(text).memory(12_000).run();
    assert_eq!(outcome.output, "-1\n");
    assert_eq!(outcome.report.wasm_memory_peak_bytes, 8000);
    assert_eq!(job(text).memory(7999).run().report.ending, Ending::MemoryRefused(8000));
}

#[test]
fn guest_beyond_what_the_engine_holds_is_too_large() {
    let memories = "(memory 0)".repeat(9);
    let tables = "(table 0 funcref)".repeat(9);
    for text in [
        format!(r#"(module {memories} (func (export "f")))"#),
        format!(r#"(module {tables} (func (export "f")))"#),
        r#"(module (table 10000000 funcref) (func (export "f")))"#.to_owned(),
    ] {
        let plain = job(text.clone()).run().report.ending;
        assert!(matches!(plain, Ending::Unlinkable(LinkFault::TooLarge, _)), "{plain:?}");
        // Without a pool it is the account that refuses.
        let metered = job(text).fuel(1000).run().report.ending;
        assert!(
            matches!(metered, Ending::Unlinkable(LinkFault::TooLarge, _) | Ending::MemoryRefused(_)),
            "{metered:?}"
        );
    }
}

#[test]
fn memory_of_four_gibibytes_is_refused_with_its_size() {
    let report = job(r#"(module (memory 65536) (func (export "f")))"#).run().report;
    assert_eq!(report.ending, Ending::MemoryRefused(4 << 30));
}

#[test]
fn fuel_is_counted_and_ends_a_guest_that_uses_it_up() {
    let text = r#"(module (func (export "f") (param i32)
        (loop (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))))"#;
    let enough = job(text).arguments(&["1000"]).fuel(100_000).run().report;
    assert_eq!(enough.ending, Ending::Exited(0));
    assert!(enough.fuel.is_some_and(|used| (1000..20_000).contains(&used)), "{:?}", enough.fuel);
    let short = job(text).arguments(&["1000000"]).fuel(1000).run().report;
    assert_eq!(short.ending, Ending::OutOfFuel);
    assert_eq!(short.fuel, Some(1000));
    assert_eq!(job(text).arguments(&["1"]).run().report.fuel, None);
}

#[test]
fn artifact_of_the_other_variant_is_not_loaded() {
    let (warm, ticker) = shared();
    let text = r#"(module (func (export "f")))"#;
    let unmetered = artifact(warm, text, false);
    let ending = job(text).fuel(1).run_artifact(warm, ticker, &unmetered).report.ending;
    assert!(matches!(&ending, Ending::SetupFailed(text) if text.contains("fuel")), "{ending:?}");
}

#[test]
fn endless_loop_is_interrupted_at_its_deadline() {
    let text = r#"(module (func (export "f") (loop (br 0))))"#;
    let report = job(text).deadline(Duration::from_millis(50)).run().report;
    assert_eq!(report.ending, Ending::Interrupted);
    assert!((20_000..5_000_000).contains(&report.run_us), "{report:?}");
}

#[test]
fn endless_start_function_is_interrupted_at_its_deadline() {
    let text = r#"(module (func $s (loop (br 0))) (start $s) (func (export "f")))"#;
    let report = job(text).deadline(Duration::from_millis(50)).run().report;
    assert_eq!(report.ending, Ending::Interrupted);
    assert_eq!(report.run_us, 0);
}

#[test]
fn endless_cheap_host_calls_are_interrupted_at_their_deadline() {
    let text = r#"(module (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
        (memory (export "memory") 1) (func (export "f") (loop (drop (call $yield)) (br 0))))"#;
    assert_eq!(job(text).deadline(Duration::from_millis(50)).run().report.ending, Ending::Interrupted);
}

#[test]
fn bulk_fills_in_a_loop_are_interrupted_at_their_deadline() {
    let text = r#"(module (memory 256) (func (export "f")
        (loop (memory.fill (i32.const 0) (i32.const 1) (i32.const 0x1000000)) (br 0))))"#;
    assert_eq!(job(text).deadline(Duration::from_millis(50)).run().report.ending, Ending::Interrupted);
}

const SLEEPER: &str = r#"(module
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "_start")
      (i32.store (i32.const 116) (i32.const 1))
      (i64.store (i32.const 124) (i64.const 3600000000000))
      (drop (call $poll (i32.const 100) (i32.const 200) (i32.const 1) (i32.const 300)))))"#;

#[test]
fn sleeping_guest_is_interrupted_at_its_deadline() {
    let report = job(SLEEPER).deadline(Duration::from_millis(50)).run().report;
    assert_eq!(report.ending, Ending::Interrupted);
    assert!(report.run_us < 5_000_000);
}

#[test]
fn stopped_guest_is_interrupted_asleep_and_awake() {
    for text in [SLEEPER, r#"(module (func (export "f") (loop (br 0))))"#] {
        let job = job(text);
        let stop = Arc::clone(&job.stop);
        let running = std::thread::spawn(move || job.run());
        stop.store(true, Ordering::Relaxed);
        assert_eq!(running.join().unwrap().report.ending, Ending::Interrupted);
    }
}

#[test]
fn deadline_of_nothing_or_of_ages_does_not_overflow() {
    let text = r#"(module (func (export "f")))"#;
    assert_eq!(job(text).deadline(Duration::ZERO).run().report.ending, Ending::Interrupted);
    let mut ages = job(text);
    ages.order.limits.deadline_us = u64::MAX;
    assert_eq!(ages.run().report.ending, Ending::Exited(0));
}

fn status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn thousands_of_traps_leave_memory_and_descriptors_flat() {
    in_own_process("run::tests::limits::thousands_of_traps_leave_memory_and_descriptors_flat", || {
        let (warm, ticker) = shared();
        let text = r#"(module (memory 16) (func (export "f") (memory.fill (i32.const 0) (i32.const 1) (i32.const 65536)) unreachable))"#;
        let artifact = artifact(warm, text, false);
        let trap_many = |times: u32| {
            for _ in 0..times {
                let outcome = job(text).run_artifact(warm, Arc::clone(&ticker), &artifact);
                assert!(matches!(outcome.report.ending, Ending::Trapped(TrapCode::Unreachable, _)));
            }
        };
        trap_many(500);
        let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let (before_kib, fds, threads) = (status("VmRSS"), descriptors(), status("Threads"));
        trap_many(5000);
        let grown_kib = status("VmRSS").saturating_sub(before_kib);
        assert!(grown_kib < 1024, "{grown_kib} KiB");
        assert_eq!((descriptors(), status("Threads")), (fds, threads));
    });
}
