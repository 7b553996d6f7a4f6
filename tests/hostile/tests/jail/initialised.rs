//! Modules initialised before there is a job: once for all of them, and nothing in it that is a job's own.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};

use stockade_sys::memfd;
use stockade_sys::pidfd::Exit;
use stockade_wire::worker::{
    Ending, FromWorker, PrepareOrder, Role, RunLimits, RunOrder, RunReport, ToWorker,
};

use crate::guests::drain;
use crate::rig::{Rig, Template, Worker, compiled, fork_order, prepare_order, run_order};

/// The executable whose templates keep what they are not to keep.
const LEAKY: &str = "keep-what-was-drawn";

/// What a run printed, and how it ended.
#[derive(Debug, PartialEq, Eq)]
struct Ran {
    output: String,
    ending: Ending,
    growth_refused: bool,
    wasm_memory_peak_bytes: u64,
}

/// Runs a worker with what it is given before its input: nothing to one that has its module, else the artifact.
fn ran(worker: &Worker, order: &RunOrder, artifact: Option<&OwnedFd>) -> Ran {
    for pipe in [&worker.stdout_log, &worker.stderr_log] {
        drain(pipe);
    }
    let input = memfd::sealed("input", b"").unwrap();
    let fds: Vec<_> = artifact.into_iter().chain([&input]).map(AsFd::as_fd).collect();
    worker.order(&ToWorker::Run(order.clone()), &fds);
    let (said, exit) = worker.conversation();
    let [FromWorker::Finished(report)] = said.as_slice() else { panic!("{said:?} {exit:?}") };
    assert_eq!(exit, Exit::Code(0));
    let RunReport { ending, growth_refused, wasm_memory_peak_bytes, .. } = report.clone();
    let output = Worker::text(&worker.output).trim_end().to_owned();
    Ran { output, ending, growth_refused, wasm_memory_peak_bytes }
}

fn forked(template: &Template, order: &RunOrder) -> Ran {
    ran(&template.fork().0, order, None)
}

fn cold(rig: &Rig, artifact: &OwnedFd, order: &RunOrder) -> Ran {
    ran(&rig.locked(&fork_order(Role::Run)).0, order, Some(artifact))
}

fn residue(rig: &Rig) -> OwnedFd {
    compiled(rig, include_str!("../../../guests/residue_after_initialiser.wat"))
}

#[test]
fn job_ends_alike_whether_its_module_was_initialised_before_it_or_for_it() {
    let rig = Rig::start();
    let artifact = residue(&rig);
    let template = Template::of(&rig, &artifact).unwrap();
    assert!(template.live && template.initialised);
    let plain = Template::by(&rig, &artifact, PrepareOrder { initialise_us: 0, ..prepare_order() }).unwrap();
    assert!(plain.live && !plain.initialised);
    for entry in ["look_then_leave", "leave_then_look", "memory", "nothing"] {
        let order = run_order(Some(entry));
        let expected = cold(&rig, &artifact, &order);
        assert_eq!(forked(&template, &order), expected, "{entry}");
        assert_eq!(forked(&plain, &order), expected, "{entry}");
    }
}

#[test]
fn nothing_a_job_changes_of_what_the_initialiser_left_is_found_by_the_next() {
    let rig = Rig::start();
    let template = Template::of(&rig, &residue(&rig)).unwrap();
    assert!(template.initialised);
    let found = |worker: &Worker, entry: &str| {
        let ran = ran(worker, &run_order(Some(entry)), None);
        assert_eq!(ran.ending, Ending::Exited(0));
        ran.output
    };
    // Forked before any of them runs, and after.
    let (first, second) = (template.fork().0, template.fork().0);
    for worker in [first, second, template.fork().0, template.fork().0] {
        assert_eq!(found(&worker, "look_then_leave"), "0");
    }
    // Else the look would prove nothing.
    assert_eq!(found(&template.fork().0, "leave_then_look"), "63");
}

#[test]
fn fork_of_an_initialised_template_reports_every_layer_and_is_stopped_by_every_wall() {
    let rig = Rig::start();
    let template = Template::of(&rig, &residue(&rig)).unwrap();
    assert!(template.initialised);
    let (_worker, mut report) = template.fork();
    assert_eq!(report.open_fds.pop(), Some(6));
    assert_eq!(report, rig.locked(&fork_order(Role::Run)).1);
    for probe in crate::templates::PROBES {
        let input = memfd::sealed("input", b"").unwrap();
        let order = run_order(Some(&format!("probe:{probe}")));
        let said = |worker: &Worker, fds: &[&OwnedFd]| {
            let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
            worker.order(&ToWorker::Run(order.clone()), &fds);
            format!("{:?}", worker.conversation())
        };
        let forked = said(&template.fork().0, &[&input]);
        let zygotes = said(&rig.locked(&fork_order(Role::Run)).0, &[&input, &input]);
        assert_eq!(forked, zygotes, "{probe}");
        assert_ne!(forked, crate::rig::unjailed(probe), "{probe} without a jail");
    }
}

/// Draws eight bytes of `$draw` while it is initialised, and says them when it is called.
fn drawing(import: &str, draw: &str) -> String {
    format!(
        r#"(module
          (import "wasi_snapshot_preview1" {import})
          (memory (export "memory") 1)
          (func (export "stockade_initialise") (drop {draw}))
          (func (export "said") (result i64) (i64.load (i32.const 64))))"#
    )
}

fn random() -> String {
    let import = r#""random_get" (func $random (param i32 i32) (result i32))"#;
    drawing(import, "(call $random (i32.const 64) (i32.const 8))")
}

/// Of clock 0, the time of day, in nanoseconds.
fn clock() -> String {
    let import = r#""clock_time_get" (func $time (param i32 i64 i32) (result i32))"#;
    drawing(import, "(call $time (i32.const 0) (i64.const 1) (i32.const 64))")
}

/// How many different numbers ten forks say.
fn different(rig: &Rig, module: &str, is_initialised: bool) -> usize {
    let template = Template::of(rig, &compiled(rig, module)).unwrap();
    assert!(template.live);
    assert_eq!(template.initialised, is_initialised);
    let said: HashSet<String> = (0..10).map(|_| forked(&template, &run_order(None)).output).collect();
    assert!(!said.contains("0"), "{said:?}");
    said.len()
}

#[test]
fn random_numbers_and_times_drawn_by_an_initialiser_are_each_jobs_own() {
    let rig = Rig::start();
    assert_eq!(different(&rig, &random(), false), 10);
    assert_eq!(different(&rig, &clock(), false), 10);
}

#[test]
fn random_numbers_and_times_that_a_template_keeps_are_found_in_all_its_forks() {
    let (rig, _directory) = Rig::start_named(LEAKY);
    assert_eq!(different(&rig, &random(), true), 1);
    assert_eq!(different(&rig, &clock(), true), 1);
}

/// Every function of WASI preview 1 with its parameters; all but the last return an error number.
const HOST_FUNCTIONS: [(&str, &str); 46] = [
    ("args_get", "i32 i32"),
    ("args_sizes_get", "i32 i32"),
    ("clock_res_get", "i32 i32"),
    ("clock_time_get", "i32 i64 i32"),
    ("environ_get", "i32 i32"),
    ("environ_sizes_get", "i32 i32"),
    ("fd_advise", "i32 i64 i64 i32"),
    ("fd_allocate", "i32 i64 i64"),
    ("fd_close", "i32"),
    ("fd_datasync", "i32"),
    ("fd_fdstat_get", "i32 i32"),
    ("fd_fdstat_set_flags", "i32 i32"),
    ("fd_fdstat_set_rights", "i32 i64 i64"),
    ("fd_filestat_get", "i32 i32"),
    ("fd_filestat_set_size", "i32 i64"),
    ("fd_filestat_set_times", "i32 i64 i64 i32"),
    ("fd_pread", "i32 i32 i32 i64 i32"),
    ("fd_prestat_dir_name", "i32 i32 i32"),
    ("fd_prestat_get", "i32 i32"),
    ("fd_pwrite", "i32 i32 i32 i64 i32"),
    ("fd_read", "i32 i32 i32 i32"),
    ("fd_readdir", "i32 i32 i32 i64 i32"),
    ("fd_renumber", "i32 i32"),
    ("fd_seek", "i32 i64 i32 i32"),
    ("fd_sync", "i32"),
    ("fd_tell", "i32 i32"),
    ("fd_write", "i32 i32 i32 i32"),
    ("path_create_directory", "i32 i32 i32"),
    ("path_filestat_get", "i32 i32 i32 i32 i32"),
    ("path_filestat_set_times", "i32 i32 i32 i32 i64 i64 i32"),
    ("path_link", "i32 i32 i32 i32 i32 i32 i32"),
    ("path_open", "i32 i32 i32 i32 i32 i64 i64 i32 i32"),
    ("path_readlink", "i32 i32 i32 i32 i32 i32"),
    ("path_remove_directory", "i32 i32 i32"),
    ("path_rename", "i32 i32 i32 i32 i32 i32"),
    ("path_symlink", "i32 i32 i32 i32 i32"),
    ("path_unlink_file", "i32 i32 i32"),
    ("poll_oneoff", "i32 i32 i32 i32"),
    ("proc_raise", "i32"),
    ("random_get", "i32 i32"),
    ("sched_yield", ""),
    ("sock_accept", "i32 i32 i32"),
    ("sock_recv", "i32 i32 i32 i32 i32 i32"),
    ("sock_send", "i32 i32 i32 i32 i32"),
    ("sock_shutdown", "i32 i32"),
    ("proc_exit", "i32"),
];

/// Were one left out, what it says would go to every job.
#[test]
fn initialiser_that_calls_any_function_of_the_host_is_as_good_as_not_run() {
    let rig = Rig::start();
    let mut kept = Vec::new();
    for (name, parameters) in HOST_FUNCTIONS {
        let result = if name == "proc_exit" { "" } else { "(result i32)" };
        let drop = if result.is_empty() { "" } else { "drop" };
        let arguments = parameters.split_whitespace().map(|kind| format!("{kind}.const 0 "));
        let arguments: String = arguments.collect();
        let module = format!(
            r#"(module
              (import "wasi_snapshot_preview1" "{name}" (func $call (param {parameters}) {result}))
              (memory (export "memory") 1)
              (func (export "stockade_initialise") {arguments} call $call {drop})
              (func (export "f")))"#
        );
        let template = Template::of(&rig, &compiled(&rig, &module)).unwrap();
        assert!(template.live, "{name}");
        if template.initialised {
            kept.push(name);
        }
    }
    assert_eq!(kept, Vec::<&str>::new());
    // Without a call the same module is kept.
    let silent =
        r#"(module (memory (export "memory") 1) (func (export "stockade_initialise")) (func (export "f")))"#;
    assert!(Template::of(&rig, &compiled(&rig, silent)).unwrap().initialised);
}

/// Its initialiser changes something of every kind and then does `last`; `count` says how often it ran in this instance.
fn counting(last: &str) -> String {
    format!(
        r#"(module
          (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
          (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
          (memory (export "memory") 1)
          (table $table 8 16 funcref)
          (global $count (mut i32) (i32.const 0))
          (func $nothing)
          (elem declare func $nothing)
          (func (export "stockade_initialise")
            (global.set $count (i32.add (global.get $count) (i32.const 1)))
            (i32.store (i32.const 8) (i32.add (i32.load (i32.const 8)) (i32.const 1)))
            (if (i32.eqz (ref.is_null (table.get $table (i32.const 5)))) (then (global.set $count (i32.const 99))))
            (table.set $table (i32.const 5) (ref.func $nothing))
            {last})
          (func (export "count") (result i32)
            (i32.mul (global.get $count) (i32.load (i32.const 8)))))"#
    )
}

#[test]
fn nothing_is_left_of_an_initialiser_whose_instance_is_thrown_away() {
    let rig = Rig::start();
    let artifact = compiled(&rig, &counting("(drop (call $yield))"));
    let template = Template::of(&rig, &artifact).unwrap();
    assert!(template.live && !template.initialised);
    for _ in 0..3 {
        assert_eq!(forked(&template, &run_order(None)).output, "1");
    }
    assert_eq!(cold(&rig, &artifact, &run_order(None)).output, "1");
}

#[test]
fn initialiser_that_does_not_come_to_its_end_ends_each_job_and_not_its_template() {
    let rig = Rig::start();
    let wait = "(i32.store8 (i32.const 1008) (i32.const 0)) (i32.store (i32.const 1016) (i32.const 1))
        (i64.store (i32.const 1024) (i64.const 3600000000000))
        (drop (call $poll (i32.const 1000) (i32.const 2000) (i32.const 1) (i32.const 3000)))";
    for (last, ending) in [
        ("(unreachable)", "Trapped(Unreachable"),
        ("(loop $again (br $again))", "Interrupted"),
        (wait, "Interrupted"),
    ] {
        let artifact = compiled(&rig, &counting(last));
        let order = PrepareOrder { initialise_us: 50_000, ..prepare_order() };
        let template = Template::by(&rig, &artifact, order).unwrap();
        assert!(template.live && !template.initialised, "{last}");
        let limits = RunLimits { deadline_us: 100_000, ..run_order(None).limits };
        let order = RunOrder { limits, ..run_order(None) };
        for ran in [forked(&template, &order), forked(&template, &order), cold(&rig, &artifact, &order)] {
            assert!(format!("{:?}", ran.ending).starts_with(ending), "{last}: {:?}", ran.ending);
        }
    }
}

/// Grows by two MiB while it is initialised, and says how many pages it has.
const GROWING: &str = r#"(module (memory (export "memory") 1)
    (func (export "stockade_initialise") (drop (memory.grow (i32.const 32))))
    (func (export "pages") (result i32) (memory.size)))"#;

#[test]
fn job_that_may_have_less_memory_than_the_initialiser_took_ends_as_without_a_template() {
    let rig = Rig::start();
    let artifact = compiled(&rig, GROWING);
    let template = Template::of(&rig, &artifact).unwrap();
    assert!(template.initialised);
    for (memory_bytes, pages) in [(32 << 20, "33"), (1 << 20, "1")] {
        let limits = RunLimits { memory_bytes, ..run_order(None).limits };
        let order = RunOrder { limits, ..run_order(None) };
        let expected = cold(&rig, &artifact, &order);
        assert_eq!(expected.output, pages);
        assert_eq!(forked(&template, &order), expected);
    }
}

#[test]
fn initialiser_that_wants_more_memory_than_it_may_have_is_run_for_each_job() {
    let rig = Rig::start();
    let artifact = compiled(&rig, GROWING);
    for initialise_bytes in [1 << 20, 0] {
        let order = PrepareOrder { initialise_bytes, ..prepare_order() };
        let template = Template::by(&rig, &artifact, order).unwrap();
        assert!(template.live && !template.initialised);
        let order = run_order(None);
        assert_eq!(forked(&template, &order), cold(&rig, &artifact, &order));
    }
}

#[test]
fn module_with_a_start_function_is_initialised_with_it() {
    let rig = Rig::start();
    let module = r#"(module (global $g (mut i32) (i32.const 1))
        (func $start (global.set $g (i32.const 20))) (start $start)
        (func (export "stockade_initialise") (global.set $g (i32.mul (global.get $g) (i32.const 3))))
        (func (export "f") (result i32) (global.get $g)))"#;
    let artifact = compiled(&rig, module);
    let template = Template::of(&rig, &artifact).unwrap();
    assert!(template.initialised);
    assert_eq!(forked(&template, &run_order(None)).output, "60");
    assert_eq!(cold(&rig, &artifact, &run_order(None)).output, "60");
}

#[test]
fn module_without_the_entry_it_must_have_is_not_held() {
    let rig = Rig::start();
    let artifact = residue(&rig);
    let by = |entry: &str| {
        let order = PrepareOrder { entry: Some(entry.to_owned()), ..prepare_order() };
        Template::by(&rig, &artifact, order)
    };
    assert!(by("look_then_leave").is_ok());
    for entry in ["shrink", "memory"] {
        assert!(by(entry).err().unwrap().contains(entry));
    }
}
