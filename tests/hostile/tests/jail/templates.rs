//! Templates and their forks: as locked as any worker, and nothing of any job in them.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use stockade_sys::memfd;
use stockade_sys::pidfd::Exit;
use stockade_wire::worker::{Ending, FromWorker, Role, RunOrder, RunReport, ToWorker};

use crate::guests::{compile, drain, order};
use crate::rig::{Rig, Template, Worker, compiled, fork_order, run_order};

/// One for each wall that shows from inside.
pub(crate) const PROBES: [&str; 5] = [
    "read:/etc/passwd",
    "make-directory:/tmp/never",
    "map-executable",
    "make-executable",
    "allocate:1073741824",
];

/// The layers of a worker that the zygote forked are what a template's fork must have as well.
#[test]
fn fork_of_a_template_reports_every_layer_a_worker_of_the_zygote_does() {
    let rig = Rig::start();
    let template = Template::of(&rig, &compiled(&rig, "(module (func (export \"f\")))")).unwrap();
    let (_worker, mut report) = template.fork();
    let (_other, zygotes) = rig.locked(&fork_order(Role::Run));
    // The artifact, which its module is mapped from.
    assert_eq!(report.open_fds.pop(), Some(6));
    assert_eq!(report, zygotes);
}

/// What the kernel says of a worker, from outside, which is to be so of every fork of a template.
fn seen(worker: &Worker) -> (Vec<String>, Vec<String>, String) {
    let file = |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", worker.pid)).unwrap();
    const LINES: [&str; 14] = [
        "Uid",
        "Gid",
        "Groups",
        "Threads",
        "NoNewPrivs",
        "Seccomp",
        "Seccomp_filters",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "SigIgn",
        "SigCgt",
    ];
    let is_one = |line: &&str| line.split_once(':').is_some_and(|(name, _)| LINES.contains(&name));
    let status = file("status").lines().filter(is_one).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(status.len(), LINES.len());
    let namespaces = ["net", "ipc", "uts", "user"].map(|name| {
        std::fs::read_link(format!("/proc/{}/ns/{name}", worker.pid)).unwrap().display().to_string()
    });
    (status, namespaces.to_vec(), file("limits"))
}

/// The supervisor looks at one fork of many, and takes the others to be like it.
#[test]
fn forks_that_do_not_report_are_to_the_kernel_what_one_is_that_does() {
    let rig = Rig::start();
    let template = Template::of(&rig, &compiled(&rig, "(module (func (export \"f\")))")).unwrap();
    let (reporting, _) = template.fork();
    let wanted = seen(&reporting);
    for (nth, silent) in template.fork_all(4, false).into_iter().enumerate() {
        // It waits for its order, which it does only with every layer on: the last is a filter more.
        let filters = |seen: &(Vec<String>, Vec<String>, String)| {
            seen.0.iter().find(|line| line.starts_with("Seccomp_filters")).cloned()
        };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while filters(&seen(&silent)) != filters(&wanted) {
            assert!(std::time::Instant::now() < deadline, "fork {nth} does not get its last filter");
            std::thread::yield_now();
        }
        assert_eq!(seen(&silent), wanted, "fork {nth}");
        let fds = std::fs::read_dir(format!("/proc/{}/fd", silent.pid)).unwrap().count();
        assert_eq!(fds, 7, "fork {nth}: what every worker has, and the artifact");
        let (outcome, exit) = run(&silent, &run_order(Some("f")), b"");
        assert_eq!(
            (outcome.map(|report| report.ending), exit),
            (Ok(Ending::Exited(0)), Exit::Code(0)),
            "fork {nth}"
        );
    }
}

#[test]
fn template_ends_when_the_descriptors_are_not_those_of_the_workers_it_is_to_fork() {
    let rig = Rig::start();
    let artifact = compiled(&rig, "(module (func (export \"f\")))");
    for (workers, into_leaf, fds) in [
        (0, false, 0),
        (0, false, 4),
        (1, false, 0),
        (1, false, 3),
        (1, false, 5),
        (1, true, 4),
        (2, false, 4),
        (2, false, 7),
        (2, false, 9),
        (2, true, 8),
        (4, false, 17),
        (5, false, 20),
        (u32::MAX, false, 20),
    ] {
        let template = Template::of(&rig, &artifact).unwrap();
        let order = ToWorker::Fork { workers, into_leaf, reporting: false };
        assert_eq!(template.told(&order, fds), (Vec::new(), Exit::Code(72)), "{order:?} with {fds}");
    }
    let order = ToWorker::Fork { workers: 4, into_leaf: true, reporting: false };
    let template = Template::of(&rig, &artifact).unwrap();
    assert_eq!(template.told(&order, 19), (Vec::new(), Exit::Code(72)), "{order:?}");
}

/// One probe a wall: as in a worker of the zygote, and not as without a jail.
#[test]
fn fork_of_a_template_is_stopped_by_every_wall() {
    let rig = Rig::start();
    let template = Template::of(&rig, &compiled(&rig, "(module (func (export \"f\")))")).unwrap();
    for (nth, probe) in PROBES.into_iter().enumerate() {
        let worker = match nth % 2 {
            0 => template.fork().0,
            _ => template.fork_all(2, false).pop().unwrap(),
        };
        let forked = probed(&worker, probe, &[]);
        let (worker, _) = rig.locked(&fork_order(Role::Run));
        let nothing = memfd::sealed("nothing", b"").unwrap();
        let zygotes = probed(&worker, probe, &[&nothing]);
        assert_eq!(forked, zygotes, "{probe}");
        assert_ne!(forked, crate::rig::unjailed(probe), "{probe} without a jail");
    }
}

fn probed(worker: &Worker, probe: &str, before: &[&OwnedFd]) -> String {
    let nothing = memfd::sealed("nothing", b"").unwrap();
    let fds: Vec<_> = before.iter().map(|fd| fd.as_fd()).chain([nothing.as_fd()]).collect();
    worker.order(&ToWorker::Run(run_order(Some(&format!("probe:{probe}")))), &fds);
    format!("{:?}", worker.conversation())
}

fn run(worker: &Worker, order: &RunOrder, input: &[u8]) -> (Result<RunReport, String>, Exit) {
    for pipe in [&worker.stdout_log, &worker.stderr_log] {
        drain(pipe);
    }
    let input = memfd::sealed("input", input).unwrap();
    worker.order(&ToWorker::Run(order.clone()), &[input.as_fd()]);
    let (said, exit) = worker.conversation();
    let report = match said.as_slice() {
        [FromWorker::Finished(report)] => Ok(report.clone()),
        other => Err(format!("{other:?}")),
    };
    (report, exit)
}

/// Both ways of starting give the same end. What cannot be held says so, and is run the other way.
#[test]
fn guests_of_every_kind_end_alike_in_forks_of_a_template_and_of_the_zygote() {
    let rig = Rig::start();
    let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guests");
    let (mut live, mut held) = (0, 0);
    for entry in std::fs::read_dir(guests).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "wat") {
            continue;
        }
        let module = std::fs::read(&path).unwrap();
        let Some(artifact) = compile(&rig, &module, false) else { continue };
        let Ok(template) = Template::of(&rig, &artifact) else { continue };
        held += 1;
        live += usize::from(template.live);
        let expected = crate::guests::run(&rig, &fork_order(Role::Run), &artifact, &order(None));
        // Twice: the first leaves nothing to the second.
        for _ in 0..2 {
            let (worker, _) = template.fork();
            drain(&worker.output);
            let (report, exit) = run(&worker, &order(None), b"one\ntwo\n");
            assert_eq!(exit, Exit::Code(0), "{}: {report:?}", path.display());
            let ending = report.unwrap().ending;
            // How far a guest gets within its deadline is the machine's doing.
            if [&ending, &expected].contains(&&Ending::Interrupted) {
                break;
            }
            assert_eq!(kind(&ending), kind(&expected), "{}", path.display());
        }
    }
    assert!(held > 30 && live > 20, "{held} held, {live} of them live");
}

/// Texts of endings may name addresses or sizes that differ.
fn kind(ending: &Ending) -> String {
    format!("{ending:?}").split('"').next().unwrap().to_owned()
}

/// What the guest of `residue_of_every_kind.wat` finds.
fn found(worker: &Worker, entry: &str) -> String {
    let (report, exit) = run(worker, &run_order(Some(entry)), b"");
    assert_eq!((report.unwrap().ending, exit), (Ending::Exited(0), Exit::Code(0)));
    Worker::text(&worker.output).trim_end().to_owned()
}

#[test]
fn nothing_a_job_leaves_in_its_instance_is_found_by_the_next_of_its_template() {
    let rig = Rig::start();
    let guest = std::fs::read_to_string(guest("residue_of_every_kind.wat")).unwrap();
    let template = Template::of(&rig, &compiled(&rig, &guest)).unwrap();
    assert!(template.live);
    // Forked before any of them runs, and after.
    let (first, second) = (template.fork().0, template.fork().0);
    for worker in [first, second, template.fork().0, template.fork().0] {
        assert_eq!(found(&worker, "look_then_leave"), "0");
    }
    // Else the look would prove nothing.
    assert_eq!(found(&template.fork().0, "leave_then_look"), "63");
}

#[test]
fn arguments_environment_random_numbers_and_clocks_are_each_jobs_own() {
    let rig = Rig::start();
    let guest = std::fs::read_to_string(guest("print_args_env.wat")).unwrap();
    let template = Template::of(&rig, &compiled(&rig, &guest)).unwrap();
    let workers: Vec<Worker> = (0..3).map(|_| template.fork().0).collect();
    for (number, worker) in workers.iter().enumerate() {
        let order = RunOrder {
            arguments: vec![format!("argument-{number}")],
            environment: vec![("NUMBER".to_owned(), number.to_string())],
            ..run_order(None)
        };
        assert_eq!(run(worker, &order, b"").1, Exit::Code(0));
        let text = Worker::text(&worker.output);
        assert!(
            text.contains(&format!("argument-{number}")) && text.contains(&format!("NUMBER={number}")),
            "{text}"
        );
        for other in (0..3).filter(|other| *other != number) {
            assert!(!text.contains(&format!("argument-{other}")), "{text}");
        }
    }
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
fn forks_of_one_template_draw_different_random_numbers() {
    let rig = Rig::start();
    let template = Template::of(&rig, &compiled(&rig, RANDOM)).unwrap();
    let mut drawn = HashSet::new();
    for _ in 0..20 {
        let (worker, _) = template.fork();
        assert_eq!(run(&worker, &run_order(None), b"").1, Exit::Code(0));
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut { &worker.output }, &mut bytes).unwrap();
        assert_eq!(bytes.len(), 32);
        drawn.insert(bytes);
    }
    assert_eq!(drawn.len(), 20);
}

/// Exits with 1 unless its monotonic clock is younger than a second.
const CLOCK: &str = r#"(module
  (import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (drop (call $time (i32.const 1) (i64.const 1) (i32.const 0)))
    (call $exit (i64.gt_u (i64.load (i32.const 0)) (i64.const 1000000000)))))"#;

#[test]
fn clock_of_a_job_begins_with_the_job_however_old_its_template_is() {
    let rig = Rig::start();
    let template = Template::of(&rig, &compiled(&rig, CLOCK)).unwrap();
    let (early, _) = template.fork();
    let since = std::time::Instant::now();
    // Works of other kinds until the template and its fork are older than the guest's bound.
    while since.elapsed().as_millis() < 1100 {
        let _ = template.fork();
    }
    for worker in [early, template.fork().0] {
        let (report, _) = run(&worker, &run_order(None), b"");
        assert_eq!(report.unwrap().ending, Ending::Exited(0));
    }
}

#[test]
fn fork_holds_no_descriptor_of_its_template_or_of_another_fork() {
    let rig = Rig::start();
    let template = Template::of(&rig, &compiled(&rig, RANDOM)).unwrap();
    let (_first, _) = template.fork();
    let (second, _) = template.fork();
    let mut numbers: Vec<String> = std::fs::read_dir(format!("/proc/{}/fd", second.pid))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    numbers.sort();
    assert_eq!(numbers, ["0", "1", "2", "3", "4", "5", "6"]);
}

#[test]
fn template_whose_link_is_closed_ends_and_its_forks_go_on() {
    let rig = Rig::start();
    let template = Template::of(&rig, &compiled(&rig, RANDOM)).unwrap();
    let (worker, _) = template.fork();
    assert_eq!(template.close(), Exit::Code(0));
    assert_eq!(run(&worker, &run_order(None), b"").1, Exit::Code(0));
}

#[test]
fn module_that_is_a_component_or_lacks_an_import_is_not_held() {
    let rig = Rig::start();
    for module in ["(component)", r#"(module (import "nowhere" "nothing" (func)))"#] {
        let why = Template::of(&rig, &compiled(&rig, module)).err().unwrap();
        assert!(!why.is_empty());
    }
}

fn guest(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../guests").join(name)
}
