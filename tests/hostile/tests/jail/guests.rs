//! Well-behaved and misbehaving guests in the real jail: nothing a guest can ask for may look like an escape.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use stockade_sys::memfd;
use stockade_sys::pidfd::Exit;
use stockade_wire::worker::{CompileOrder, Ending, FromWorker, Role, RunLimits, RunOrder, ToWorker};
use stockade_wire::zygote::ForkOrder;
use stockade_worker::jail::seccomp::syscall_name;

use crate::rig::{Rig, fork_order, grant, run_order};

/// Long enough for what ends by itself, short enough for what does not.
const DEADLINE_US: u64 = 300_000;

pub(crate) fn drain(pipe: &File) {
    let mut pipe = pipe.try_clone().unwrap();
    // Ends when the worker does.
    std::thread::spawn(move || std::io::copy(&mut pipe, &mut std::io::sink()));
}

/// The artifact, or nothing for what does not compile.
pub(crate) fn compile(rig: &Rig, module: &[u8], fuel: bool) -> Option<OwnedFd> {
    let (worker, _) = rig.locked(&fork_order(Role::Compile));
    let artifact = memfd::create("artifact").unwrap();
    let order = CompileOrder {
        module_bytes: module.len() as u64,
        artifact_bytes_max: 64 << 20,
        text: true,
        fuel,
        engine: false,
    };
    let module = memfd::sealed("module", module).unwrap();
    worker.order(&ToWorker::Compile(order), &[module.as_fd(), artifact.as_fd()]);
    let (said, exit) = worker.conversation();
    assert_eq!(exit, Exit::Code(0), "{said:?}");
    match said.as_slice() {
        [FromWorker::Compiled(_)] => {
            memfd::seal(&artifact).unwrap();
            Some(artifact.into())
        }
        [FromWorker::NotCompiled(_)] => None,
        other => panic!("the compile worker said {other:?}"),
    }
}

pub(crate) fn run(rig: &Rig, fork: &ForkOrder, artifact: &OwnedFd, order: &RunOrder) -> Ending {
    let (worker, _) = rig.locked(fork);
    for pipe in [&worker.output, &worker.stdout_log, &worker.stderr_log] {
        drain(pipe);
    }
    let input = memfd::sealed("input", b"one\ntwo\n").unwrap();
    worker.order(&ToWorker::Run(order.clone()), &[artifact.as_fd(), input.as_fd()]);
    let (said, exit) = worker.conversation();
    match said.as_slice() {
        [FromWorker::Finished(report)] if exit == Exit::Code(0) => report.ending.clone(),
        [FromWorker::Forbidden(number)] => {
            Ending::SetupFailed(format!("forbidden: {:?}", syscall_name(*number)))
        }
        other => panic!("the worker said {other:?} and ended with {exit:?}"),
    }
}

pub(crate) fn order(fuel: Option<u64>) -> RunOrder {
    let order = run_order(None);
    let limits = RunLimits { deadline_us: DEADLINE_US, fuel, input_bytes: Some(8), ..order.limits };
    RunOrder { limits, ..order }
}

#[test]
fn guests_of_every_kind_end_without_a_forbidden_call() {
    let rig = Rig::start();
    let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guests");
    let mut ran = 0;
    for entry in std::fs::read_dir(guests).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "wat") {
            continue;
        }
        println!("{}", path.display());
        let module = std::fs::read(&path).unwrap();
        for fuel in [None, Some(10_000_000)] {
            let Some(artifact) = compile(&rig, &module, fuel.is_some()) else { continue };
            for role in [Role::Run, Role::RunFiles] {
                let ending = run(&rig, &fork_order(role), &artifact, &order(fuel));
                assert!(!matches!(ending, Ending::SetupFailed(_)), "{}: {ending:?}", path.display());
                ran += 1;
            }
        }
    }
    assert!(ran > 100, "{ran} runs");
}

/// A WASI call on the granted directory, which is descriptor 3, or on a file opened there, which is `$file`.
struct Call {
    name: &'static str,
    parameters: &'static str,
    arguments: &'static str,
    /// `fdflags` the file is opened with.
    open_flags: u16,
}

const fn call(name: &'static str, parameters: &'static str, arguments: &'static str) -> Call {
    Call { name, parameters, arguments, open_flags: 0 }
}

/// Memory: 100 `file`, 110 `new`, 120 `below`, 130 `link`; 200 one buffer of 16 bytes at 300; 400 an event.
const CALLS: [Call; 32] = [
    call("fd_advise", "i32 i64 i64 i32", "$file 0 0 0"),
    call("fd_allocate", "i32 i64 i64", "$file 0 100"),
    call("fd_close", "i32", "$file"),
    call("fd_datasync", "i32", "$file"),
    call("fd_fdstat_get", "i32 i32", "$file 504"),
    call("fd_fdstat_set_flags", "i32 i32", "$file 1"),
    call("fd_filestat_get", "i32 i32", "$file 504"),
    call("fd_filestat_set_size", "i32 i64", "$file 10"),
    call("fd_filestat_set_times", "i32 i64 i64 i32", "$file 1 1 5"),
    call("fd_pread", "i32 i32 i32 i64 i32", "$file 200 1 0 504"),
    call("fd_prestat_get", "i32 i32", "3 504"),
    call("fd_pwrite", "i32 i32 i32 i64 i32", "$file 200 1 0 504"),
    call("fd_read", "i32 i32 i32 i32", "$file 200 1 504"),
    call("fd_readdir", "i32 i32 i32 i64 i32", "3 600 200 0 504"),
    call("fd_renumber", "i32 i32", "$file 3"),
    call("fd_seek", "i32 i64 i32 i32", "$file 1 0 504"),
    call("fd_sync", "i32", "$file"),
    call("fd_tell", "i32 i32", "$file 504"),
    call("fd_write", "i32 i32 i32 i32", "$file 200 1 504"),
    // To a file opened for appending.
    Call { open_flags: 1, ..call("fd_write", "i32 i32 i32 i32", "$file 200 1 504") },
    call("path_create_directory", "i32 i32 i32", "3 110 3"),
    call("path_filestat_get", "i32 i32 i32 i32 i32", "3 0 100 4 504"),
    call("path_filestat_set_times", "i32 i32 i32 i32 i64 i64 i32", "3 0 100 4 1 1 5"),
    call("path_link", "i32 i32 i32 i32 i32 i32 i32", "3 0 100 4 3 110 3"),
    call("path_readlink", "i32 i32 i32 i32 i32 i32", "3 130 4 600 50 504"),
    call("path_remove_directory", "i32 i32 i32", "3 120 5"),
    call("path_rename", "i32 i32 i32 i32 i32 i32", "3 100 4 3 110 3"),
    call("path_symlink", "i32 i32 i32 i32 i32", "100 4 3 110 3"),
    call("path_unlink_file", "i32 i32 i32", "3 100 4"),
    call("clock_res_get", "i32 i32", "1 504"),
    call("poll_oneoff", "i32 i32 i32 i32", "400 440 1 504"),
    call("sched_yield", "", ""),
];

/// Opens `file` for reading and writing and exits with what the call says, or 200 when opening failed.
fn guest(call: &Call) -> String {
    let arguments = call.parameters.split_whitespace().zip(call.arguments.split_whitespace());
    let pushed: String = arguments
        .map(|(kind, value)| match value {
            "$file" => "(local.get $file)".to_owned(),
            value => format!("({kind}.const {value})"),
        })
        .collect();
    let Call { name, parameters, open_flags, .. } = call;
    format!(
        r#"(module
  (import "wasi_snapshot_preview1" "{name}" (func $call (param {parameters}) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 100) "file") (data (i32.const 110) "new")
  (data (i32.const 120) "below") (data (i32.const 130) "link")
  (data (i32.const 200) "\2c\01\00\00\10\00\00\00")
  ;; A subscription to the monotonic clock, one millisecond from now.
  (data (i32.const 416) "\01\00\00\00")
  (data (i32.const 424) "\40\42\0f\00")
  (func (export "_start") (local $file i32)
    (if (call $open (i32.const 3) (i32.const 0) (i32.const 100) (i32.const 4) (i32.const 0)
          (i64.const 0x1fffffff) (i64.const 0x1fffffff) (i32.const {open_flags}) (i32.const 700))
      (then (call $exit (i32.const 120))))
    (local.set $file (i32.load (i32.const 700)))
    (call $exit (call $call {pushed}))))"#
    )
}

#[test]
fn wasi_calls_on_a_writable_grant_all_succeed_in_the_jail() {
    let rig = Rig::start();
    let mut wrong = Vec::new();
    for call in CALLS {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("file"), "some text").unwrap();
        std::fs::create_dir(directory.path().join("below")).unwrap();
        std::os::unix::fs::symlink("file", directory.path().join("link")).unwrap();
        let grants = vec![grant(directory.path(), "/", true)];
        let fork = ForkOrder { directories: grants, ..fork_order(Role::RunFiles) };
        let artifact = compile(&rig, guest(&call).as_bytes(), false).expect("it compiles");
        let order = order(None);
        println!("{}", call.name);
        let ending = run(&rig, &fork, &artifact, &order);
        // Wasmtime offers no fd_allocate; its answer is "not supported" (58).
        let expected = if call.name == "fd_allocate" { 58 } else { 0 };
        if ending != Ending::Exited(expected) {
            wrong.push((call.name, ending));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
