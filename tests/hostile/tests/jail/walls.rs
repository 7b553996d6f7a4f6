//! Every wall: a program that is stopped by it, and the same program succeeding without it.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::geteuid;
use stockade_sys::pidfd::Exit;
use stockade_sys::solo::{SingleThreaded, SoloError};
use stockade_wire::worker::{Ending, FromWorker, Role};
use stockade_wire::zygote::{ForkOrder, Identity, NamespacePolicy};
use stockade_worker::jail::seccomp::syscall_name;
use tempfile::TempDir;

use crate::rig::{Rig, configuration, fork_order, grant, hostile, run_order, unjailed};

/// The kernel's user for nobody in particular.
const NOBODY: Identity = Identity { uid: 65534, gid: 65534 };

struct Granted {
    directory: TempDir,
    order: ForkOrder,
}

impl Granted {
    fn new(writable: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("file"), "text").unwrap();
        std::fs::create_dir(directory.path().join("below")).unwrap();
        let mut order = fork_order(Role::RunFiles);
        order.directories = vec![grant(directory.path(), "/granted", writable)];
        Self { directory, order }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }
}

#[track_caller]
fn check(rig: &Rig, order: &ForkOrder, probe: &str, jailed: &str) {
    assert_eq!(rig.probe(order, probe), jailed, "{probe} in the jail");
}

#[track_caller]
fn check_wall(rig: &Rig, order: &ForkOrder, probe: &str, jailed: &str) {
    check(rig, order, probe, jailed);
    // Else the probe would prove nothing.
    assert_eq!(unjailed(probe), "ok", "{probe} without the jail");
}

fn not_run(what: &str) {
    println!("not run: {what}");
}

#[test]
fn landlock_refuses_every_path_that_was_not_granted() {
    let (rig, granted) = (Rig::start(), Granted::new(true));
    let other = Granted::new(true);
    check(&rig, &granted.order, &format!("read:{}", granted.path("file")), "ok");
    check_wall(&rig, &granted.order, &format!("read:{}", other.path("file")), "EACCES");
    check_wall(&rig, &granted.order, "read:/etc/passwd", "EACCES");
    check_wall(&rig, &granted.order, &format!("write:{}", other.path("new")), "EACCES");
    check_wall(&rig, &granted.order, &format!("make-directory:{}", other.path("new-directory")), "EACCES");
    let out = format!("rename:{}:{}", granted.path("file"), other.path("taken"));
    check_wall(&rig, &granted.order, &out, "EACCES");
}

#[test]
fn landlock_refuses_a_link_out_of_a_granted_directory() {
    let (rig, granted) = (Rig::start(), Granted::new(true));
    std::os::unix::fs::symlink("/etc/passwd", granted.path("link")).unwrap();
    check_wall(&rig, &granted.order, &format!("read:{}", granted.path("link")), "EACCES");
}

#[test]
fn landlock_refuses_changes_below_a_read_only_grant_and_allows_them_below_a_writable_one() {
    let (rig, read_only, writable) = (Rig::start(), Granted::new(false), Granted::new(true));
    check(&rig, &read_only.order, &format!("read:{}", read_only.path("file")), "ok");
    for change in ["write:FILE", "make-directory:new", "rename:file:below/file"] {
        let filled = |granted: &Granted| match change {
            "write:FILE" => format!("write:{}", granted.path("file")),
            "make-directory:new" => format!("make-directory:{}", granted.path("new")),
            _ => format!("rename:{}:{}", granted.path("file"), granted.path("below/file")),
        };
        let refused = rig.probe(&read_only.order, &filled(&read_only));
        assert!(refused == "EACCES" || refused == "EXDEV", "{change}: {refused}");
        check(&rig, &writable.order, &filled(&writable), "ok");
    }
}

#[test]
fn rlimits_stop_large_files_many_descriptors_and_large_memory() {
    let (rig, mut granted) = (Rig::start(), Granted::new(true));
    granted.order.rlimits.file_bytes = 4096;
    granted.order.rlimits.open_files = 20;
    granted.order.rlimits.data_bytes = 64 << 20;
    let file = granted.path("grown");
    check(&rig, &granted.order, &format!("grow-file:4096:{file}"), "ok");
    check_wall(&rig, &granted.order, &format!("grow-file:4097:{file}"), "EFBIG");
    check(&rig, &granted.order, &format!("open-many:4:{file}"), "4 open");
    check(&rig, &granted.order, &format!("open-many:40:{file}"), "EMFILE");
    assert_eq!(unjailed(&format!("open-many:40:{file}")), "40 open");
    check(&rig, &granted.order, "allocate:16777216", "ok");
    check_wall(&rig, &granted.order, "allocate:1073741824", "ENOMEM");
}

#[test]
fn root_without_capabilities_reads_no_file_of_another_user() {
    if !geteuid().is_root() {
        return not_run("capabilities to lose");
    }
    let (rig, granted) = (Rig::start(), Granted::new(true));
    let secret = granted.path("file");
    chown(&secret, Some(NOBODY.uid), Some(NOBODY.gid)).unwrap();
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    check_wall(&rig, &granted.order, &format!("read:{secret}"), "EACCES");
}

#[test]
fn worker_takes_on_the_ids_it_is_given() {
    if !geteuid().is_root() {
        return not_run("ids to take on");
    }
    let rig = Rig::start();
    let mut order = fork_order(Role::Run);
    order.identity = Some(NOBODY);
    let (worker, report) = rig.locked(&order);
    assert_eq!((report.uid, report.gid), (NOBODY.uid, NOBODY.gid));
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.pid)).unwrap();
    assert!(status.contains("Uid:\t65534\t65534\t65534\t65534\n"), "{status}");
    assert!(status.contains("Gid:\t65534\t65534\t65534\t65534\n"), "{status}");
    assert!(status.contains("Groups:\t \n"), "{status}");
    assert!(report.not_dumpable && report.capabilities_empty && report.missing.is_empty(), "{report:?}");
    // Changing ids clears it, so it must have been set after.
    let signals = status.lines().find(|line| line.starts_with("NoNewPrivs"));
    assert_eq!(signals, Some("NoNewPrivs:\t1"));
}

#[test]
fn process_of_the_same_user_cannot_look_into_a_worker() {
    if !geteuid().is_root() {
        return not_run("processes of another user");
    }
    let rig = Rig::start();
    let mut order = fork_order(Role::Run);
    order.identity = Some(NOBODY);
    let (worker, _) = rig.locked(&order);
    let look = |pid: u32| {
        let mut cat = Command::new("cat");
        cat.arg(format!("/proc/{pid}/maps")).uid(NOBODY.uid).gid(NOBODY.gid);
        cat.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    };
    assert!(!look(worker.pid), "a worker can be looked into");
    let mut plain = Command::new("sleep").arg("60").uid(NOBODY.uid).gid(NOBODY.gid).spawn().unwrap();
    let seen = look(plain.id());
    plain.kill().unwrap();
    plain.wait().unwrap();
    assert!(seen, "the same look fails on a plain process");
}

#[test]
fn no_descriptor_of_the_supervisor_reaches_a_worker() {
    // Not close-on-exec: what a careless supervisor would leak.
    let leaked = nix::unistd::dup(std::io::stderr()).unwrap();
    let rig = Rig::start();
    let probed = rig.probe(&fork_order(Role::Run), "open-fds");
    // The standing six, the artifact and the input.
    assert_eq!(probed, "[0, 1, 2, 3, 4, 5, 6, 7]");
    match std::fs::read_dir(format!("/proc/{}/fd", rig.zygote.id())) {
        Ok(entries) => assert_eq!(entries.count(), 5, "standard streams, control and /dev/null"),
        // Not dumpable: an equal may not look.
        Err(error) => assert!(!geteuid().is_root(), "{error}"),
    }
    assert!(unjailed("open-fds").len() > "[0, 1, 2]".len(), "nothing leaked into the plain process");
    drop(leaked);
}

#[test]
fn namespaces_of_a_worker_are_not_the_hosts() {
    let rig = Rig::start();
    if rig.warm.namespaces.is_empty() {
        return not_run("namespaces");
    }
    let order = fork_order(Role::RunFiles);
    for kind in ["net", "ipc", "uts"] {
        let probe = format!("namespace:{kind}");
        assert_ne!(rig.probe(&order, &probe), unjailed(&probe), "{kind}");
    }
    let mut config = configuration();
    config.namespaces = NamespacePolicy::Off;
    let rig = Rig::start_with(&hostile(), &config).unwrap();
    assert_eq!(rig.probe(&order, "namespace:net"), unjailed("namespace:net"));
    let (_worker, report) = rig.locked(&order);
    assert_eq!(report.missing.len(), 1);
    assert_eq!(report.missing[0].layer, "namespaces");
}

#[test]
fn sealed_worker_cannot_make_memory_executable() {
    let rig = Rig::start();
    for (probe, call) in [("map-executable", "mmap"), ("make-executable", "mprotect")] {
        let (said, exit) = rig.misbehave(Role::Run, &format!("probe:{probe}"));
        let [FromWorker::Forbidden(number)] = said.as_slice() else { panic!("{said:?} {exit:?}") };
        assert_eq!(syscall_name(*number), Some(call));
        assert_eq!(unjailed(probe), "ok");
    }
}

#[test]
fn mdwe_alone_refuses_what_the_first_filter_allows() {
    let rig = Rig::start();
    let unsealed = |probe: &str| {
        let (worker, report) = rig.locked(&fork_order(Role::Run));
        worker.run(&run_order(Some(&format!("unsealed-probe:{probe}"))));
        let (said, exit) = worker.conversation();
        let [FromWorker::Finished(finished)] = said.as_slice() else { panic!("{said:?} {exit:?}") };
        let Ending::Failed(text) = &finished.ending else { panic!("{finished:?}") };
        (text.clone(), exit, report.missing.iter().any(|missing| missing.layer == "mdwe"))
    };
    let (with, exit, missing) = unsealed("make-executable-with-mdwe");
    if missing {
        return not_run("PR_SET_MDWE");
    }
    assert_eq!((with.as_str(), exit), ("EACCES", Exit::Code(0)));
    assert_eq!(unsealed("make-executable").0, "ok");
}

#[test]
fn process_of_several_threads_gets_no_proof_that_it_has_one() {
    let waiting = std::thread::spawn(std::thread::park);
    assert!(matches!(SingleThreaded::probe(), Err(SoloError::Threads)));
    waiting.thread().unpark();
    waiting.join().unwrap();
}

#[test]
fn granted_directory_that_is_not_there_is_a_refusal_that_names_it() {
    let rig = Rig::start();
    let mut order = fork_order(Role::RunFiles);
    order.directories = vec![grant(Path::new("/no/such/directory"), "/", false)];
    let worker = rig.fork(&order).unwrap();
    let (said, _) = worker.conversation();
    let [FromWorker::NotGranted(why)] = said.as_slice() else { panic!("{said:?}") };
    assert!(why.contains("/no/such/directory"), "{why}");
}
