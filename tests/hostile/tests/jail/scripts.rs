//! Scripts in a worker that stays: the memory of their engine is used again, and put back to what it began as.
//!
//! What stands for the engine here looks at every word of its memory, which no script could.

use std::os::fd::{AsFd, OwnedFd};

use stockade_sys::memfd;
use stockade_wire::job::Purpose;
use stockade_wire::worker::{Ending, FromWorker, Role, RunOrder, RunReport, ScriptOrder, ToWorker};

use crate::rig::{Rig, Worker, compiled, fork_order, run_order};

/// Looks before there is a request, and answers it with what it found, bit by bit: 1 memory that is not as it began, 2 its
/// size, 4 memory that it grew by, 8 a global, 16 the table. Then everything is other than it was. The memory is larger than
/// what is put back by copying. A debugged script's engine traps at the end.
const LOOKS_THEN_LEAVES: &str = r#"(module
  (memory (export "memory") 48)
  (data (i32.const 1048576) "\11\22\33\44\55\66\77\88")
  (table $table 16 funcref)
  (elem declare func $marked)
  (global $global (mut i32) (i32.const 7))
  (global $found (mut i32) (i32.const 0))
  (func $marked)
  (func (export "js_abi") (result i32) (i32.const 0))
  (func $find (param $bit i32) (global.set $found (i32.or (global.get $found) (local.get $bit))))
  (func $zero (param $at i32) (param $end i32) (param $bit i32)
    (loop $next
      (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then (call $find (local.get $bit))))
      (local.set $at (i32.add (local.get $at) (i32.const 8)))
      (br_if $next (i32.lt_u (local.get $at) (local.get $end)))))
  (func (export "js_reserve") (param i32) (result i32)
    (call $zero (i32.const 0) (i32.const 1048576) (i32.const 1))
    (if (i64.ne (i64.load (i32.const 1048576)) (i64.const 0x8877665544332211)) (then (call $find (i32.const 1))))
    (call $zero (i32.const 1048584) (i32.const 3145728) (i32.const 1))
    (if (i32.ne (memory.grow (i32.const 4)) (i32.const 48)) (then (call $find (i32.const 2))))
    (call $zero (i32.const 3145728) (i32.const 3407872) (i32.const 4))
    (if (i32.ne (global.get $global) (i32.const 7)) (then (call $find (i32.const 8))))
    (if (i32.eqz (ref.is_null (table.get $table (i32.const 15)))) (then (call $find (i32.const 16))))
    (i32.const 2097152))
  (func (export "js_run") (param $request i32) (param i32) (result i32) (local $form i32)
    (local.set $form (i32.load offset=4 (local.get $request)))
    (memory.fill (i32.const 0) (i32.const 0xa5) (i32.const 3407872))
    (global.set $global (i32.const 8))
    (table.set $table (i32.const 15) (ref.func $marked))
    (memory.fill (i32.const 64) (i32.const 0) (i32.const 44))
    (i32.store8 (i32.const 0) (i32.add (i32.const 48) (i32.div_u (global.get $found) (i32.const 10))))
    (i32.store8 (i32.const 1) (i32.add (i32.const 48) (i32.rem_u (global.get $found) (i32.const 10))))
    (i32.store (i32.const 80) (i32.const 2))
    (if (i32.and (local.get $form) (i32.const 0x100)) (then unreachable))
    (i32.const 64)))"#;

/// A worker that stays for scripts.
struct Tenant {
    worker: Worker,
    artifact: Option<OwnedFd>,
}

impl Tenant {
    fn of(rig: &Rig, engine: &str) -> Self {
        let (worker, _) = rig.locked(&fork_order(Role::Run));
        Self { worker, artifact: Some(compiled(rig, engine)) }
    }

    /// What the engine answers, and how it ends.
    fn run(&mut self, purpose: Purpose) -> (String, Ending) {
        let script = ScriptOrder {
            source_bytes: 1,
            job: "job".to_owned(),
            tenant: "tenant".to_owned(),
            traceparent: None,
            request_id: None,
            purpose,
        };
        let order = RunOrder { script: Some(script), ..run_order(None) };
        let (input, source) =
            (memfd::sealed("input", b"{}").unwrap(), memfd::sealed("source", b"1").unwrap());
        match self.artifact.take() {
            Some(artifact) => {
                let fds = [artifact.as_fd(), input.as_fd(), source.as_fd()];
                self.worker.order(&ToWorker::RunAndStay(order), &fds);
            }
            None => self.worker.order(&ToWorker::Run(order), &[input.as_fd(), source.as_fd()]),
        }
        let ended = |report: RunReport| report.ending;
        match self.worker.receive() {
            Some(FromWorker::Finished(report)) => (String::new(), ended(report)),
            Some(FromWorker::Returned(report, value)) => (String::from_utf8(value.0).unwrap(), ended(report)),
            other => panic!("the worker said {other:?} and ended with {:?}", self.worker.end()),
        }
    }
}

#[test]
fn nothing_a_script_leaves_in_its_engine_is_found_by_the_next() {
    let rig = Rig::start();
    let mut tenant = Tenant::of(&rig, LOOKS_THEN_LEAVES);
    for job in 0..20 {
        let purpose = if job % 4 == 3 { Purpose::Debug } else { Purpose::Run };
        match (purpose, tenant.run(purpose)) {
            (Purpose::Run, (found, Ending::Exited(0))) => assert_eq!(found, "00", "job {job}"),
            (Purpose::Debug, (_, Ending::Trapped(..))) => {}
            (_, other) => panic!("job {job}: {other:?}"),
        }
    }
}

/// Else the looks would prove nothing.
#[test]
fn what_is_other_than_it_was_in_an_engine_is_found() {
    let rig = Rig::start();
    for (from, to, found) in [
        ("(data ", "(data (i32.const 1048568) \"\\00\\00\\00\\00\\00\\00\\00\\01\") (data ", "01"),
        ("(data ", "(data (i32.const 3145720) \"\\01\") (data ", "01"),
        ("\\11\\22", "\\10\\22", "01"),
        ("(memory (export \"memory\") 48)", "(memory (export \"memory\") 49)", "02"),
        (
            "(call $zero (i32.const 3145728)",
            "(i32.store (i32.const 3407868) (i32.const 1)) (call $zero (i32.const 3145728)",
            "04",
        ),
        ("(mut i32) (i32.const 7)", "(mut i32) (i32.const 6)", "08"),
        ("(elem declare func $marked)", "(elem (i32.const 15) $marked)", "16"),
    ] {
        let engine = LOOKS_THEN_LEAVES.replacen(from, to, 1);
        assert_ne!(engine, LOOKS_THEN_LEAVES, "{from}");
        let mut tenant = Tenant::of(&rig, &engine);
        assert_eq!(tenant.run(Purpose::Run), (found.to_owned(), Ending::Exited(0)), "{to}");
    }
}
