//! Scripts in a worker that stays: the memory of their engine is used again, and put back to what it began as.
//!
//! What stands for the engine here looks at every word of its memory, and hands over what it likes, as no script could.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use stockade_sys::pidfd::Exit;
use stockade_sys::{epoch, memfd};
use stockade_wire::job::Purpose;
use stockade_wire::worker::{
    CompiledForm, Ending, FromWorker, PrepareOrder, Role, RunOrder, RunReport, ScriptOrder, ScriptSource,
    ToWorker,
};

use crate::rig::{Rig, Template, Worker, compiled_engine, fork_order, prepare_order, run_order};

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

/// For the script `a1`.
fn script_order(purpose: Purpose) -> ScriptOrder {
    ScriptOrder {
        source: ScriptSource::Here(b"a1".to_vec().into()),
        input: Some(b"{}".to_vec().into()),
        job: "job".to_owned(),
        tenant: "tenant".to_owned(),
        traceparent: None,
        request_id: None,
        purpose,
        compiled: CompiledForm::No,
    }
}

/// A worker that stays for scripts.
struct Tenant {
    worker: Worker,
    artifact: Option<OwnedFd>,
}

impl Tenant {
    fn of(rig: &Rig, engine: &str) -> Self {
        let (worker, _) = rig.locked(&fork_order(Role::Run));
        Self { worker, artifact: Some(compiled_engine(rig, engine)) }
    }

    /// What the engine answers, and how it ends.
    fn run(&mut self, purpose: Purpose) -> (String, Ending) {
        self.run_source(&run_order(None), "1", purpose)
    }

    fn run_source(&mut self, order: &RunOrder, source: &str, purpose: Purpose) -> (String, Ending) {
        self.order(order, source, purpose);
        let ended = |report: RunReport| report.ending;
        match self.worker.receive() {
            Some(FromWorker::Finished(report)) => (String::new(), ended(report)),
            Some(FromWorker::Returned(report, value)) => (String::from_utf8(value.0).unwrap(), ended(report)),
            other => panic!("the worker said {other:?} and ended with {:?}", self.worker.end()),
        }
    }

    fn order(&mut self, order: &RunOrder, source: &str, purpose: Purpose) {
        let script = ScriptOrder {
            source: ScriptSource::File { bytes: source.len() as u64 },
            input: None,
            // It is to make no difference here.
            compiled: CompiledForm::Kept(b"k".to_vec().into()),
            ..script_order(purpose)
        };
        let order = RunOrder { script: Some(script), ..order.clone() };
        let (input, source) =
            (memfd::sealed("input", b"{}").unwrap(), memfd::sealed("source", source.as_bytes()).unwrap());
        match self.artifact.take() {
            Some(artifact) => {
                let fds = [artifact.as_fd(), input.as_fd(), source.as_fd()];
                self.worker.order(&ToWorker::RunAndStay(order), &fds);
            }
            None => self.worker.order(&ToWorker::Run(order), &[input.as_fd(), source.as_fd()]),
        }
    }
}

/// An engine whose script never ends, and which does this meanwhile.
fn endless(import: &str, meanwhile: &str) -> String {
    format!(
        r#"(module {import}
             (memory (export "memory") 1)
             (func (export "js_abi") (result i32) (i32.const 0))
             (func (export "js_reserve") (param i32) (result i32) (i32.const 1024))
             (func (export "js_run") (param i32 i32) (result i32) (loop $again {meanwhile} (br $again)) (unreachable)))"#
    )
}

#[test]
fn script_that_asks_whether_it_is_to_end_ends_at_its_deadline_and_the_worker_says_so() {
    let rig = Rig::start();
    let import = r#"(import "stockade_js" "poll" (func $poll (result i32)))"#;
    let mut tenant = Tenant::of(&rig, &endless(import, "(drop (call $poll))"));
    let mut order = run_order(None);
    order.limits.deadline_us = 50_000;
    assert_eq!(tenant.run_source(&order, "1", Purpose::Run).1, Ending::Interrupted);
}

/// The supervisor may be stopped, or busy.
#[test]
fn script_that_does_not_ask_whether_it_is_to_end_ends_with_its_process_when_nobody_tells_it_to() {
    let rig = Rig::start();
    let mut tenant = Tenant::of(&rig, &endless("", ""));
    let mut order = run_order(None);
    order.limits.deadline_us = 50_000;
    let began = Instant::now();
    tenant.order(&order, "1", Purpose::Run);
    assert_eq!(tenant.worker.end(), Exit::Code(epoch::TERM_EXIT_CODE));
    assert!(began.elapsed() >= epoch::OVERDUE);
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

/// Tries to have a byte kept, the source's first, and answers with what it was given of such: nothing, or that byte; and
/// whether it was taken.
const HANDS_OVER: &str = r#"(module
  (import "stockade_js" "call" (func $call (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "js_abi") (result i32) (i32.const 0))
  (func (export "js_reserve") (param i32) (result i32) (i32.const 4096))
  (func (export "js_run") (param $request i32) (param i32) (result i32) (local $source i32) (local $kept i32)
    (local.set $source (i32.add (i32.add (local.get $request) (i32.const 33))
      (i32.load offset=8 (local.get $request))))
    (local.set $kept (i32.add (i32.add (local.get $source) (i32.const 4))
      (i32.add (i32.add (i32.load offset=12 (local.get $request)) (i32.load offset=16 (local.get $request)))
        (i32.add (i32.load offset=20 (local.get $request)) (i32.load offset=24 (local.get $request))))))
    (i32.store8 (i32.const 0) (i32.const 45))
    (if (i32.load offset=28 (local.get $request))
      (then (i32.store8 (i32.const 0) (i32.load8_u (local.get $kept)))))
    (i32.store8 (i32.const 1) (select (i32.const 121) (i32.const 110)
      (i32.ge_s (call $call (i32.const 5) (local.get $source) (i32.const 1) (i32.const 0) (i32.const 0)) (i32.const 0))))
    (i32.store (i32.const 80) (i32.const 2))
    (i32.const 64)))"#;

#[test]
fn what_an_engine_compiled_a_script_to_is_given_to_no_other_script() {
    let rig = Rig::start();
    let mut tenant = Tenant::of(&rig, HANDS_OVER);
    let mut run = |order: &RunOrder, source: &str, purpose: Purpose| {
        let (said, ending) = tenant.run_source(order, source, purpose);
        assert_eq!(ending, Ending::Exited(0));
        said
    };
    let plain = run_order(None);
    // Taken once, from the second run, and had from the third on.
    let thrice = |run: &mut dyn FnMut(&RunOrder, &str, Purpose) -> String, order: &RunOrder, source: &str| {
        [0; 3].map(|_| run(order, source, Purpose::Run))
    };
    assert_eq!(thrice(&mut run, &plain, "a1"), ["-n", "-y", "an"]);
    let renamed = RunOrder { name: "other.js".to_owned(), ..plain.clone() };
    for (order, source, first) in
        [(&plain, "b1", 'b'), (&plain, "a2", 'a'), (&renamed, "a1", 'a'), (&run_order(Some("f")), "a1", 'a')]
    {
        let kept = format!("{first}n");
        assert_eq!(thrice(&mut run, order, source), ["-n", "-y", kept.as_str()], "{source}");
    }
    assert_eq!(run(&plain, "a1", Purpose::Run), "an", "it is still there");
    // Who debugs has it compiled before their eyes.
    for purpose in [Purpose::Debug, Purpose::Profile, Purpose::Check] {
        assert_eq!(run(&plain, "a1", purpose), "-n", "{purpose:?}");
    }
}

/// In a process that runs nothing else: told of a script that is only looked at, had by one that runs, and nothing of either to
/// who debugs.
#[test]
fn what_a_script_compiles_to_is_told_where_it_is_looked_at_and_had_where_it_runs() {
    let rig = Rig::start();
    let engine = PrepareOrder { engine: true, ..prepare_order() };
    let template = Template::by(&rig, &compiled_engine(&rig, HANDS_OVER), engine).unwrap();
    let kept = || CompiledForm::Kept(b"k".to_vec().into());
    for (purpose, form, told, said) in [
        (Purpose::Check, CompiledForm::Wanted, Some("a"), ""),
        (Purpose::Check, CompiledForm::No, None, "-n"),
        (Purpose::Check, kept(), None, "-n"),
        (Purpose::Run, CompiledForm::Wanted, None, "-n"),
        (Purpose::Run, CompiledForm::No, None, "-n"),
        (Purpose::Run, kept(), None, "kn"),
        (Purpose::Debug, kept(), None, "-n"),
        (Purpose::Profile, kept(), None, "-n"),
    ] {
        let what = format!("{purpose:?} {form:?}");
        let worker = template.fork_all(1, false).pop().unwrap();
        let script = ScriptOrder { compiled: form, ..script_order(purpose) };
        worker.order(&ToWorker::Run(RunOrder { script: Some(script), ..run_order(None) }), &[]);
        let report = match (worker.conversation().0.as_slice(), told) {
            ([FromWorker::Finished(report)], None) => report.clone(),
            ([FromWorker::CompiledScript(report, form)], Some(told)) => {
                assert_eq!(form.as_ref().map(|form| form.0.as_slice()), Some(told.as_bytes()), "{what}");
                report.clone()
            }
            other => panic!("{what}: {other:?}"),
        };
        assert_eq!(report.ending, Ending::Exited(0), "{what}");
        assert_eq!(Worker::text(&worker.output), said, "{what}");
    }
}
