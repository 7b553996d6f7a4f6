//! A worker that stays: as locked as any, and nothing of one job in the next.
//!
//! Every look for residue is made once more where there is some, so that it is seen to find it.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use stockade_sys::memfd;
use stockade_sys::pidfd::Exit;
use stockade_wire::worker::{Ending, FromWorker, JailReport, Role, RunLimits, RunOrder, RunReport, ToWorker};

use crate::guests::{compile, drain, order};
use crate::rig::{Rig, Worker, compiled, fork_order, pipe, prepare_order, run_order};

/// One for each wall that shows from inside.
const PROBES: [&str; 5] = [
    "read:/etc/passwd",
    "make-directory:/tmp/never",
    "map-executable",
    "make-executable",
    "allocate:1073741824",
];

/// A worker that stays, and how many jobs it has had.
struct Tenant {
    worker: Worker,
    report: JailReport,
    artifact: OwnedFd,
    jobs: usize,
    /// What came with the last reply.
    returned: Vec<u8>,
}

impl Tenant {
    fn of(rig: &Rig, module: &str) -> Self {
        Self::with(rig, compiled(rig, module))
    }

    fn with(rig: &Rig, artifact: OwnedFd) -> Self {
        let (worker, report) = rig.locked(&fork_order(Role::Run));
        Self { worker, report, artifact, jobs: 0, returned: Vec::new() }
    }

    fn order(&mut self, order: &RunOrder, input: &OwnedFd) {
        self.jobs += 1;
        if self.jobs == 1 {
            let fds = [self.artifact.as_fd(), input.as_fd()];
            self.worker.order(&ToWorker::RunAndStay(order.clone()), &fds);
        } else {
            self.worker.order(&ToWorker::Run(order.clone()), &[input.as_fd()]);
        }
    }

    fn reply(&mut self) -> RunReport {
        self.returned.clear();
        match self.worker.receive() {
            Some(FromWorker::Finished(report)) => report,
            Some(FromWorker::Returned(report, value)) => {
                self.returned = value.0;
                report
            }
            other => panic!("the worker said {other:?} and ended with {:?}", self.worker.end()),
        }
    }

    fn run(&mut self, order: &RunOrder) -> RunReport {
        self.order(order, &memfd::sealed("input", b"one\ntwo\n").unwrap());
        self.reply()
    }

    /// What the guest wrote to its output, or its function returned.
    fn output(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.returned);
        let mut polled = [PollFd::new(self.worker.output.as_fd(), PollFlags::POLLIN)];
        while poll(&mut polled, PollTimeout::ZERO).unwrap() > 0 {
            let mut buffer = [0; 4096];
            let length = (&self.worker.output).read(&mut buffer).unwrap();
            bytes.extend_from_slice(&buffer[..length]);
        }
        bytes
    }

    fn text(&mut self, order: &RunOrder) -> String {
        let report = self.run(order);
        assert_eq!(report.ending, Ending::Exited(0));
        String::from_utf8(self.output()).unwrap()
    }

    /// Its descriptors, by number.
    fn fds(&self) -> Vec<u32> {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.worker.pid)).unwrap();
        let name =
            |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut numbers: Vec<u32> = entries.map(|entry| name(entry).parse().unwrap()).collect();
        numbers.sort_unstable();
        numbers
    }
}

fn guest(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guests").join(name);
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn worker_that_stays_reports_what_any_other_does() {
    let rig = Rig::start();
    let tenant = Tenant::of(&rig, "(module (func (export \"f\")))");
    let (_other, report) = rig.locked(&fork_order(Role::Run));
    assert_eq!(tenant.report, report);
}

/// One probe a wall, in the first job and in a later one: as in a worker that runs one job, and not as without a jail.
#[test]
fn worker_that_stays_is_stopped_by_every_wall_in_every_job() {
    let rig = Rig::start();
    let artifact = compiled(&rig, "(module (func (export \"f\")))");
    for probe in PROBES {
        let (worker, _) = rig.locked(&fork_order(Role::Run));
        worker.run(&run_order(Some(&format!("probe:{probe}"))));
        let (said, exit) = worker.conversation();
        for before in [0, 2] {
            let mut tenant = Tenant::with(&rig, artifact.try_clone().unwrap());
            for _ in 0..before {
                assert_eq!(tenant.run(&run_order(None)).ending, Ending::Exited(0));
            }
            let nothing = memfd::sealed("nothing", b"").unwrap();
            tenant.order(&run_order(Some(&format!("probe:{probe}"))), &nothing);
            assert_eq!(tenant.worker.conversation(), (said.clone(), exit), "{probe}, after {before} jobs");
        }
        assert_ne!(format!("{said:?}"), crate::rig::unjailed(probe), "{probe} without a jail");
    }
}

/// One after another in one process each guest ends as it does alone.
#[test]
fn guests_of_every_kind_end_alike_job_after_job() {
    let rig = Rig::start();
    let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guests");
    let mut stayed = 0;
    for entry in std::fs::read_dir(guests).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "wat") {
            continue;
        }
        let module = std::fs::read(&path).unwrap();
        let Some(artifact) = compile(&rig, &module, false) else { continue };
        let expected = crate::guests::run(&rig, &fork_order(Role::Run), &artifact, &order(None));
        let mut tenant = Tenant::with(&rig, artifact);
        for pipe in [&tenant.worker.output, &tenant.worker.stdout_log, &tenant.worker.stderr_log] {
            drain(pipe);
        }
        for number in 0..2 {
            let ending = tenant.run(&order(None)).ending;
            // How far it gets within its deadline is the machine's doing.
            if [&ending, &expected].contains(&&Ending::Interrupted) {
                break;
            }
            assert_eq!(kind(&ending), kind(&expected), "{}, job {number}", path.display());
            if matches!(ending, Ending::Unlinkable(..) | Ending::MemoryRefused(_)) {
                // Nothing stays that cannot be loaded. The supervisor uses no such worker again.
                break;
            }
            stayed += usize::from(number == 1);
        }
    }
    assert!(stayed > 30, "{stayed}");
}

/// Texts of endings may name addresses or sizes that differ.
fn kind(ending: &Ending) -> String {
    format!("{ending:?}").split('"').next().unwrap().to_owned()
}

#[test]
fn nothing_a_job_leaves_in_its_instance_is_found_by_the_next() {
    let rig = Rig::start();
    let mut tenant = Tenant::of(&rig, &guest("residue_of_every_kind.wat"));
    for job in 0..20 {
        assert_eq!(tenant.text(&run_order(Some("look_then_leave"))), "0\n", "job {job}");
    }
    // Else the look would prove nothing.
    assert_eq!(tenant.text(&run_order(Some("leave_then_look"))), "63\n");
    assert_eq!(tenant.text(&run_order(Some("look_then_leave"))), "0\n");
}

/// Fills 2 MiB of memory and of stack, then traps, or looks for what is not zero.
const DEEP: &str = r#"(module
  (memory (export "memory") 32)
  (func $dive (param $left i32) (param $mark i64) (result i64)
    (local $a i64) (local $b i64) (local $c i64) (local $d i64)
    (local.set $a (local.get $mark)) (local.set $b (local.get $mark))
    (local.set $c (local.get $mark)) (local.set $d (local.get $mark))
    (if (i32.eqz (local.get $left)) (then (return (local.get $mark))))
    (i64.add (call $dive (i32.sub (local.get $left) (i32.const 1)) (local.get $mark))
      (i64.xor (i64.xor (local.get $a) (local.get $b)) (i64.xor (local.get $c) (local.get $d)))))
  (func (export "leave")
    (memory.fill (i32.const 0) (i32.const 0xa5) (i32.const 2097152))
    (drop (call $dive (i32.const 3000) (i64.const 0x5ca1ab1e0ddba11)))
    unreachable)
  (func $look (export "look") (result i32) (local $at i32)
    (loop $next
      (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then (return (i32.const 1))))
      (local.set $at (i32.add (local.get $at) (i32.const 8)))
      (br_if $next (i32.lt_u (local.get $at) (i32.const 2097152))))
    (i32.const 0))
  (func (export "mark_then_look") (result i32)
    (i64.store (i32.const 2097144) (i64.const 1))
    (call $look)))"#;

#[test]
fn memory_of_a_job_that_trapped_is_clean_for_the_next() {
    let rig = Rig::start();
    let mut tenant = Tenant::of(&rig, DEEP);
    for _ in 0..5 {
        assert!(matches!(tenant.run(&run_order(Some("leave"))).ending, Ending::Trapped(..)));
        assert_eq!(tenant.text(&run_order(Some("look"))), "0\n");
    }
    assert_eq!(tenant.text(&run_order(Some("mark_then_look"))), "1\n", "it sees one word");
}

#[test]
fn arguments_and_environment_are_each_jobs_own() {
    let rig = Rig::start();
    let mut tenant = Tenant::of(&rig, &guest("print_args_env.wat"));
    let texts = [0, 1, 2].map(|number| {
        let order = RunOrder {
            arguments: vec![format!("argument-{number}")],
            environment: vec![("NUMBER".to_owned(), number.to_string())],
            ..run_order(None)
        };
        tenant.text(&order)
    });
    let found = |text: &str, number: usize| {
        [text.contains(&format!("argument-{number}")), text.contains(&format!("NUMBER={number}"))]
    };
    for (number, text) in texts.iter().enumerate() {
        for other in 0..3 {
            assert_eq!(found(text, other), [other == number; 2], "job {number}: {text}");
        }
    }
    assert!(!tenant.text(&run_order(None)).contains("NUMBER"));
    // Both of one job are found.
    assert_eq!(found(&texts.concat(), 1), [true; 2]);
}

/// Prints 32 random bytes.
const RANDOM: &str = r#"(module
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (drop (call $random (i32.const 64) (i32.const 32)))
    (i32.store (i32.const 0) (i32.const 64))
    (i32.store (i32.const 4) (i32.const 32))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

#[test]
fn jobs_of_one_process_draw_different_random_numbers() {
    let rig = Rig::start();
    let mut tenant = Tenant::of(&rig, RANDOM);
    let mut drawn = HashSet::new();
    for _ in 0..50 {
        assert_eq!(tenant.run(&run_order(None)).ending, Ending::Exited(0));
        let bytes = tenant.output();
        assert_eq!(bytes.len(), 32);
        // Overlapping draws would be a generator that goes on where the last job left it.
        drawn.extend(bytes.windows(8).map(<[u8]>::to_vec));
    }
    assert_eq!(drawn.len(), 50 * 25);
}

/// Sleeps for as many milliseconds as its argument says, then says how many its monotonic clock has counted.
const CLOCK: &str = r#"(module
  (import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
  (memory (export "memory") 1)
  (func $now (result i64)
    (drop (call $time (i32.const 1) (i64.const 1) (i32.const 0)))
    (i64.div_u (i64.load (i32.const 0)) (i64.const 1000000)))
  (func (export "age") (param $ms i64) (result i64)
    (loop $wait (br_if $wait (i64.lt_u (call $now) (local.get $ms))))
    (call $now)))"#;

#[test]
fn clock_of_a_job_begins_with_the_job_however_old_its_process_is() {
    let rig = Rig::start();
    let mut tenant = Tenant::of(&rig, CLOCK);
    let mut age = |ms: &str| -> u64 {
        let order = RunOrder { arguments: vec![ms.to_owned()], ..run_order(Some("age")) };
        tenant.text(&order).trim_end().parse().unwrap()
    };
    assert!(age("1200") >= 1200, "it counts");
    assert!(age("0") < 1000, "it goes on where the job before it left it");
}

/// Writes its input to its output.
const CAT: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64))
    (block $end
      (loop $more
        (i32.store (i32.const 4) (i32.const 1024))
        (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (br_if $end (i32.eqz (i32.load (i32.const 8))))
        (i32.store (i32.const 4) (i32.load (i32.const 8)))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
        (br $more)))))"#;

#[test]
fn no_descriptor_of_one_job_is_open_in_the_next() {
    let rig = Rig::start();
    let mut tenant = Tenant::of(&rig, CAT);
    let own: Vec<u32> = (0..=6).collect();
    for _ in 0..40 {
        assert_eq!(tenant.run(&run_order(None)).ending, Ending::Exited(0));
        let _ = tenant.output();
    }
    assert_eq!(tenant.fds(), own);
    // One that is open is seen: a job's input while it waits for it.
    let (input, end) = pipe();
    let end = File::from(end);
    tenant.order(&run_order(None), &input.into());
    (&end).write_all(b"begun").unwrap();
    crate::rig::wait_readable(tenant.worker.output.as_fd(), "the guest to have its input");
    assert_eq!(tenant.fds(), (0..=7).collect::<Vec<u32>>());
    drop(end);
    assert_eq!(tenant.reply().ending, Ending::Exited(0));
    assert_eq!(tenant.fds(), own);
}

/// Ends at once, or after as many rounds as it is told.
const ROUNDS: &str = r#"(module
  (func (export "rounds") (param $left i64)
    (loop $again
      (local.set $left (i64.sub (local.get $left) (i64.const 1)))
      (br_if $again (i64.gt_s (local.get $left) (i64.const 0))))))"#;

fn rounds(count: u64, deadline: Duration) -> RunOrder {
    let order = run_order(Some("rounds"));
    let deadline_us = u64::try_from(deadline.as_micros()).unwrap();
    RunOrder {
        arguments: vec![count.to_string()],
        limits: RunLimits { deadline_us, ..order.limits },
        ..order
    }
}

#[test]
fn late_timer_of_one_job_does_not_end_the_next() {
    const MINUTE: Duration = Duration::from_secs(60);
    let rig = Rig::start();
    let mut tenant = Tenant::of(&rig, ROUNDS);
    let deadline = Duration::from_millis(100);
    // However fast the machine: longer than the deadlines of the jobs before.
    let mut count = 1 << 20;
    loop {
        let since = Instant::now();
        assert_eq!(tenant.run(&rounds(count, MINUTE)).ending, Ending::Exited(0));
        if since.elapsed() > 2 * deadline {
            break;
        }
        count *= 2;
    }
    for _ in 0..3 {
        assert_eq!(tenant.run(&rounds(1, deadline)).ending, Ending::Exited(0));
        assert_eq!(tenant.run(&rounds(count, MINUTE)).ending, Ending::Exited(0));
        // A deadline that is the job's own ends it, and not the next.
        assert_eq!(tenant.run(&rounds(count * 1000, deadline)).ending, Ending::Interrupted);
        assert_eq!(tenant.run(&rounds(1, MINUTE)).ending, Ending::Exited(0));
    }
}

#[test]
fn worker_that_stays_takes_no_order_with_other_limits_or_of_another_kind() {
    let rig = Rig::start();
    let mut tenant = Tenant::of(&rig, ROUNDS);
    assert_eq!(tenant.run(&rounds(1, Duration::from_secs(60))).ending, Ending::Exited(0));
    for limits in [
        RunLimits { memory_bytes: 1 << 20, ..run_order(None).limits },
        RunLimits { memory_bytes: 64 << 20, ..run_order(None).limits },
        RunLimits { fuel: Some(1), ..run_order(None).limits },
    ] {
        let ending = tenant.run(&RunOrder { limits, ..rounds(1, Duration::from_secs(60)) }).ending;
        assert!(matches!(ending, Ending::SetupFailed(_)), "{ending:?}");
    }
    for again in [
        ToWorker::RunAndStay(run_order(None)),
        ToWorker::Prepare(prepare_order()),
        ToWorker::Fork { workers: 1, into_leaf: false, reporting: true },
    ] {
        let mut tenant = Tenant::of(&rig, ROUNDS);
        assert_eq!(tenant.run(&rounds(1, Duration::from_secs(60))).ending, Ending::Exited(0));
        tenant.worker.order(&again, &[tenant.artifact.as_fd(), tenant.artifact.as_fd()]);
        assert_eq!(tenant.worker.conversation(), (Vec::new(), Exit::Code(72)), "{again:?}");
    }
}

#[test]
fn worker_that_stays_ends_with_its_link() {
    let rig = Rig::start();
    let mut tenant = Tenant::of(&rig, ROUNDS);
    assert_eq!(tenant.run(&rounds(1, Duration::from_secs(60))).ending, Ending::Exited(0));
    let Tenant { mut worker, .. } = tenant;
    worker.link = stockade_sys::link::pair().unwrap().0;
    assert_eq!(worker.end(), Exit::Code(0));
}
