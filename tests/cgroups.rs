//! Leaves of a real cgroup v2 tree: their limits, their kill, their figures.
//!
//! Tests that need controllers run below `STOCKADE_TEST_CGROUP`, a group that has the memory, pids and cpu
//! controllers and no process of its own: `scripts/vm-test` makes one in a virtual machine. Elsewhere they print
//! `not run: cgroup v2 controllers`. The others run there too, or below any cgroup v2 mount that can be written.
//! The two that need a unit of systemd's are started by name, alone in theirs, with `STOCKADE_TEST_UNIT` set.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what broke by failing there"
)]

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use stockade::config::{CallerLimits, CgroupRoot};
use stockade::supervisor::cgroup::{
    Absence, CgroupError, Controller, Delegation, Discovery, Leaf, LeafLimits, SUPERVISOR_LEAF, Tree,
    discover, own_group,
};

const LIMITS: LeafLimits =
    LeafLimits { memory_bytes: 32 << 20, pids_max: 8, cpu_weight: 50, cpu_max_percent: None, caller: None };
/// Generous: the machine under test is emulated.
const PATIENCE: Duration = Duration::from_secs(30);

/// A group of its own for one test, removed with what is in it.
struct Stage {
    directory: PathBuf,
}

impl Stage {
    fn below(base: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = base.join(format!("stockade-test-{}-{number}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        Self { directory }
    }

    /// With controllers, or `not run`.
    fn with_controllers() -> Option<Self> {
        let Some(base) = std::env::var_os("STOCKADE_TEST_CGROUP") else {
            println!("not run: cgroup v2 controllers");
            return None;
        };
        let stage = Self::below(Path::new(&base));
        assert_eq!(
            stage.delegation().controllers(),
            Controller::ALL,
            "STOCKADE_TEST_CGROUP must have all controllers"
        );
        Some(stage)
    }

    /// With or without controllers, or `not run`.
    fn anywhere() -> Option<Self> {
        let base = std::env::var_os("STOCKADE_TEST_CGROUP").map(PathBuf::from).or_else(|| {
            let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
            own_group("0::/\n", &mounts)
        });
        match base.filter(|base| nix::unistd::access(base, nix::unistd::AccessFlags::W_OK).is_ok()) {
            Some(base) => Some(Self::below(&base)),
            None => {
                println!("not run: writable cgroup v2 mount");
                None
            }
        }
    }

    fn delegation(&self) -> Delegation {
        match discover(&CgroupRoot::Path(self.directory.clone())) {
            Discovery::Delegated(delegation) => delegation,
            Discovery::Absent(absence) => panic!("{}", absence.reason()),
        }
    }

    fn tree(&self) -> Tree {
        self.delegation().prepare().unwrap()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Best effort, and of groups this test made alone: a test that failed must not hide its own message.
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                let _ = fs::write(entry.path().join("cgroup.kill"), "1");
                let deadline = Instant::now() + PATIENCE;
                while fs::remove_dir(entry.path()).is_err() && Instant::now() < deadline {
                    std::thread::yield_now();
                }
            }
        }
        let _ = fs::remove_dir(&self.directory);
    }
}

/// Starts a shell that first moves itself into the group, then runs `script`. Returns when it is in the group.
fn spawn_in(group: &Path, script: &str) -> Child {
    let mut child = Command::new("/bin/sh")
        .args(["-c", &format!("echo $$ >\"$0/cgroup.procs\" || exit 90; echo in; {script}")])
        .arg(group)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let stdout = child.stdout.as_mut().unwrap();
    await_input(stdout, "a child that moves into its group");
    let mut said = [0; 3];
    stdout.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"in\n");
    child
}

fn wait(child: &mut Child) -> ExitStatus {
    let pidfd = stockade_sys::pidfd::open(child.id()).unwrap();
    await_input(&pidfd, "the end of a child");
    child.wait().unwrap()
}

/// Blocks until there is something to read.
fn await_input(source: &impl AsFd, what: &str) {
    let timeout = PollTimeout::try_from(PATIENCE).unwrap();
    let ready = poll(&mut [PollFd::new(source.as_fd(), PollFlags::POLLIN)], timeout).unwrap();
    assert_eq!(ready, 1, "not in time: {what}");
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::yield_now();
    }
}

fn holds(leaf: &Leaf, child: &Child) -> bool {
    leaf.contains(Pid::from_raw(i32::try_from(child.id()).unwrap())).unwrap()
}

fn content(leaf: &Leaf, file: &str) -> String {
    fs::read_to_string(leaf.path().join(file)).unwrap().trim().to_owned()
}

#[test]
fn leaf_with_controllers_has_every_limit_in_force() {
    let Some(stage) = Stage::with_controllers() else { return };
    let mut tree = stage.tree();
    let mut leaf = tree.create_leaf(&LIMITS).unwrap();
    assert_eq!(leaf.controllers(), Controller::ALL);
    assert_eq!(content(&leaf, "memory.max"), (32 << 20).to_string());
    assert_eq!(content(&leaf, "memory.swap.max"), "0");
    assert_eq!(content(&leaf, "memory.oom.group"), "1");
    assert_eq!(content(&leaf, "pids.max"), "8");
    assert_eq!(content(&leaf, "cpu.weight"), "50");
    leaf.set_memory_max(64 << 20).unwrap();
    assert_eq!(content(&leaf, "memory.max"), (64 << 20).to_string());
    leaf.remove().unwrap();
    assert!(!leaf.path().exists());
}

#[test]
fn memory_hog_in_a_leaf_is_killed_by_the_kernel_and_counted() {
    let Some(stage) = Stage::with_controllers() else { return };
    let mut tree = stage.tree();
    let mut leaf = tree.create_leaf(&LIMITS).unwrap();
    let mut neighbour_leaf = tree.create_leaf(&LIMITS).unwrap();
    let mut neighbour = spawn_in(neighbour_leaf.path(), "exec sleep 60");
    // tail keeps a line without an end; the ulimit ends it where memory.max does not work.
    let mut hog = spawn_in(leaf.path(), "ulimit -v 400000; exec tail /dev/zero");
    let status = wait(&mut hog);
    assert_eq!(status.signal(), Some(9), "{status}");
    let usage = leaf.usage().unwrap();
    assert!(usage.oom_kills.unwrap() >= 1, "{usage:?}");
    let peak = usage.memory_peak_bytes.unwrap();
    // The kernel may charge a few pages above the limit rather than fail.
    assert!((30 << 20..=33 << 20).contains(&peak), "{usage:?}");
    assert!(neighbour.try_wait().unwrap().is_none(), "the neighbour died too");
    assert_eq!(neighbour_leaf.usage().unwrap().oom_kills, Some(0));
    leaf.remove().unwrap();
    neighbour_leaf.kill().unwrap();
    wait(&mut neighbour);
    neighbour_leaf.remove().unwrap();
}

#[test]
fn memory_hog_with_a_helper_takes_the_whole_leaf_down() {
    let Some(stage) = Stage::with_controllers() else { return };
    let mut leaf = stage.tree().create_leaf(&LIMITS).unwrap();
    let mut shell = spawn_in(leaf.path(), "sleep 60 & ulimit -v 400000; tail /dev/zero; exit 0");
    let status = wait(&mut shell);
    // Without memory.oom.group the shell would have lived to say 0.
    assert_eq!(status.signal(), Some(9), "{status}");
    assert!(leaf.wait_empty(PATIENCE).unwrap());
    leaf.remove().unwrap();
}

#[test]
fn fork_bomb_in_a_leaf_stops_at_pids_max() {
    let Some(stage) = Stage::with_controllers() else { return };
    let mut leaf = stage.tree().create_leaf(&LIMITS).unwrap();
    let mut bomb = spawn_in(leaf.path(), "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 60 & done; wait");
    eventually("a fork is refused", || {
        leaf.usage().unwrap().forks_refused.is_some_and(|refused| refused > 0)
    });
    assert!(leaf.usage().unwrap().pids_peak.is_none_or(|peak| peak <= 8));
    leaf.kill().unwrap();
    wait(&mut bomb);
    assert!(leaf.wait_empty(PATIENCE).unwrap());
    leaf.remove().unwrap();
}

/// A shell that fills memory without end; the ulimit ends it where memory.max does not work.
const HOG: &str = "ulimit -v 400000; exec tail /dev/zero";

/// A tree whose callers have limits.
fn tree_with_callers(stage: &Stage, limits: CallerLimits) -> Tree {
    stage.tree().with_callers(limits)
}

fn leaf_of(tree: &mut Tree, caller: u32) -> Leaf {
    tree.create_leaf(&LeafLimits { caller: Some(caller), ..LIMITS }).unwrap()
}

#[test]
fn callers_group_has_every_limit_in_force_and_goes_after_its_last_leaf() {
    let Some(stage) = Stage::with_controllers() else { return };
    let limits = CallerLimits {
        memory_bytes: Some(48 << 20),
        pids_max: Some(7),
        cpu_max_percent: Some(150),
        cpu_weight: Some(300),
    };
    let mut tree = tree_with_callers(&stage, limits);
    let mut leaf = leaf_of(&mut tree, 1001);
    let group = leaf.path().parent().unwrap().to_owned();
    assert!(group.file_name().unwrap().to_str().unwrap().ends_with("-1001"), "{}", group.display());
    let says = |file: &str| fs::read_to_string(group.join(file)).unwrap().trim().to_owned();
    assert_eq!(says("memory.max"), (48 << 20).to_string());
    assert_eq!(says("memory.swap.max"), "0");
    assert_eq!(says("pids.max"), "7");
    assert_eq!(says("cpu.max"), "150000 100000");
    assert_eq!(says("cpu.weight"), "300");
    assert_eq!(content(&leaf, "memory.max"), (32 << 20).to_string());
    let mut other = leaf_of(&mut tree, 1002);
    assert_ne!(other.path().parent(), leaf.path().parent());
    let mut nobodys = tree.create_leaf(&LIMITS).unwrap();
    assert_eq!(nobodys.path().parent(), Some(stage.directory.as_path()));
    tree.tidy();
    assert!(group.exists(), "a leaf is in it");
    leaf.remove().unwrap();
    tree.tidy();
    assert!(!group.exists());
    leaf_of(&mut tree, 1001).remove().unwrap();
    other.remove().unwrap();
    nobodys.remove().unwrap();
    tree.tidy();
    let left = fs::read_dir(&stage.directory).unwrap().flatten().filter(|entry| entry.path().is_dir());
    assert_eq!(left.count(), 0);
}

#[test]
fn callers_memory_hogs_take_no_memory_of_another_caller() {
    let Some(stage) = Stage::with_controllers() else { return };
    let limits = CallerLimits { memory_bytes: Some(40 << 20), ..CallerLimits::default() };
    let mut tree = tree_with_callers(&stage, limits);
    let mut others = leaf_of(&mut tree, 1002);
    // tail keeps what it has read until there is no more.
    let holds = |bytes: u64| {
        format!("{{ head -c {bytes} /dev/zero; sleep 60; }} | tail -c {bytes} >/dev/null; exit 0")
    };
    let mut other = spawn_in(others.path(), &holds(20_000_000));
    eventually("the other caller has its memory", || {
        others.usage().unwrap().memory_peak_bytes.is_some_and(|peak| peak > 20_000_000)
    });
    // Each is within its own limit of 32 MiB, and they together are not within 40 MiB: both grow to 24 MB and hold it.
    let mut leaves: Vec<Leaf> = (0..2).map(|_| leaf_of(&mut tree, 1001)).collect();
    let mut hogs: Vec<Child> = leaves.iter().map(|leaf| spawn_in(leaf.path(), &holds(24_000_000))).collect();
    let killed = |leaf: &Leaf| leaf.usage().unwrap().oom_kills.unwrap() > 0;
    eventually("one of the hogs is ended", || leaves.iter().any(killed));
    for leaf in leaves.iter().filter(|leaf| killed(leaf)) {
        assert_eq!(leaf.usage().unwrap().ooms, Some(0), "its own limit was not the one");
    }
    assert!(other.try_wait().unwrap().is_none(), "the other caller's died too");
    let untouched = others.usage().unwrap();
    assert_eq!((untouched.oom_kills, untouched.ooms), (Some(0), Some(0)));
    for (leaf, hog) in leaves.iter_mut().zip(&mut hogs) {
        leaf.kill().unwrap();
        wait(hog);
        assert!(leaf.wait_empty(PATIENCE).unwrap());
        leaf.remove().unwrap();
    }
    others.kill().unwrap();
    wait(&mut other);
    assert!(others.wait_empty(PATIENCE).unwrap());
    others.remove().unwrap();
    tree.tidy();
}

#[test]
fn hog_at_its_own_limit_in_a_callers_group_is_told_from_one_at_the_groups() {
    let Some(stage) = Stage::with_controllers() else { return };
    let limits = CallerLimits { memory_bytes: Some(256 << 20), ..CallerLimits::default() };
    let mut tree = tree_with_callers(&stage, limits);
    let mut leaf = leaf_of(&mut tree, 1001);
    assert_eq!(wait(&mut spawn_in(leaf.path(), HOG)).signal(), Some(9));
    let usage = leaf.usage().unwrap();
    assert!(usage.oom_kills.unwrap() > 0 && usage.ooms.unwrap() > 0, "{usage:?}");
    leaf.remove().unwrap();
    tree.tidy();
}

#[test]
fn caller_at_its_limit_of_processes_gets_no_leaf_and_another_does() {
    let Some(stage) = Stage::with_controllers() else { return };
    let limits = CallerLimits { pids_max: Some(2), ..CallerLimits::default() };
    let mut tree = tree_with_callers(&stage, limits);
    let mut leaves: Vec<Leaf> = (0..2).map(|_| leaf_of(&mut tree, 1001)).collect();
    let mut workers: Vec<Child> = leaves.iter().map(|leaf| spawn_in(leaf.path(), "exec sleep 60")).collect();
    let refused = tree.create_leaf(&LeafLimits { caller: Some(1001), ..LIMITS }).unwrap_err();
    assert!(matches!(refused, CgroupError::CallerFull { uid: 1001, pids_max: 2 }), "{refused}");
    leaf_of(&mut tree, 1002).remove().unwrap();
    for (leaf, worker) in leaves.iter_mut().zip(&mut workers) {
        leaf.kill().unwrap();
        wait(worker);
        leaf.remove().unwrap();
    }
    leaf_of(&mut tree, 1001).remove().unwrap();
    tree.tidy();
}

#[test]
fn limit_the_kernel_cannot_take_leaves_no_leaf_behind() {
    let Some(stage) = Stage::with_controllers() else { return };
    let mut tree = stage.tree();
    let refused = tree.create_leaf(&LeafLimits { cpu_weight: 10_001, ..LIMITS }).unwrap_err();
    assert!(matches!(refused, CgroupError::Limit { file: "cpu.weight", .. }), "{refused}");
    let refused = tree.create_leaf(&LeafLimits { memory_bytes: u64::MAX, ..LIMITS }).unwrap_err();
    assert!(matches!(refused, CgroupError::LimitTooLarge { file: "memory.max", .. }), "{refused}");
    let left =
        fs::read_dir(&stage.directory).unwrap().flatten().filter(|entry| entry.path().is_dir()).count();
    assert_eq!(left, 0);
}

#[test]
fn tree_with_a_foreign_process_in_it_names_the_process() {
    let Some(stage) = Stage::with_controllers() else { return };
    let mut squatter = spawn_in(&stage.directory, "exec sleep 60");
    let pid = i32::try_from(squatter.id()).unwrap();
    let refused = stage.delegation().prepare().unwrap_err();
    assert!(matches!(&refused, CgroupError::Crowded { pids, .. } if pids == &[pid]), "{refused}");
    squatter.kill().unwrap();
    wait(&mut squatter);
}

#[test]
fn making_and_removing_a_leaf_is_timed() {
    let Some(stage) = Stage::anywhere() else { return };
    let mut tree = stage.tree();
    let (mut bare_us, mut made_us, mut removed_us) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..50 {
        let start = Instant::now();
        fs::create_dir(stage.directory.join("bare")).unwrap();
        bare_us.push(start.elapsed().as_micros());
        fs::remove_dir(stage.directory.join("bare")).unwrap();
        let start = Instant::now();
        let mut leaf = tree.create_leaf(&LIMITS).unwrap();
        made_us.push(start.elapsed().as_micros());
        let start = Instant::now();
        leaf.remove().unwrap();
        removed_us.push(start.elapsed().as_micros());
    }
    bare_us.sort_unstable();
    made_us.sort_unstable();
    removed_us.sort_unstable();
    println!(
        "figures: leaf with {:?}: made in {} µs (mkdir alone {} µs), removed in {} µs; medians of 50",
        tree.controllers(),
        made_us[25],
        bare_us[25],
        removed_us[25]
    );
    // What it would take to bring a worker that was made ahead of need into its caller's group.
    let mut leaf = tree.create_leaf(&LIMITS).unwrap();
    let mut moved_us: Vec<u128> = (0..10)
        .map(|_| {
            let mut elsewhere = Command::new("/bin/sleep").arg("60").spawn().unwrap();
            let start = Instant::now();
            fs::write(leaf.path().join("cgroup.procs"), elsewhere.id().to_string()).unwrap();
            let took = start.elapsed().as_micros();
            elsewhere.kill().unwrap();
            wait(&mut elsewhere);
            took
        })
        .collect();
    moved_us.sort_unstable();
    println!("figures: process moved into a leaf in {} µs, at worst {} µs; of 10", moved_us[5], moved_us[9]);
    leaf.remove().unwrap();
}

#[test]
fn leaf_without_controllers_says_so_and_still_bills_cpu_time() {
    let Some(stage) = Stage::anywhere() else { return };
    let mut leaf = stage.tree().create_leaf(&LIMITS).unwrap();
    let mut worker = spawn_in(leaf.path(), "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done");
    wait(&mut worker);
    let usage = leaf.usage().unwrap();
    assert!(usage.cpu_user_us.unwrap() + usage.cpu_system_us.unwrap() > 1_000, "{usage:?}");
    let has = |controller| leaf.controllers().contains(&controller);
    assert_eq!(usage.memory_peak_bytes.is_some(), has(Controller::Memory), "{usage:?}");
    assert_eq!(usage.oom_kills.is_some(), has(Controller::Memory), "{usage:?}");
    assert_eq!(usage.forks_refused.is_some(), has(Controller::Pids), "{usage:?}");
    leaf.remove().unwrap();
}

#[test]
fn busy_supervisor_does_not_show_in_a_leafs_bill() {
    let Some(stage) = Stage::anywhere() else { return };
    let mut leaf = stage.tree().create_leaf(&LIMITS).unwrap();
    let mut idle = spawn_in(leaf.path(), "exec sleep 60");
    assert!(holds(&leaf, &idle));
    eventually("it sleeps", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", idle.id())).unwrap();
        stat.contains("(sleep) S")
    });
    let before = leaf.usage().unwrap();
    let cpu_us = |usage: stockade::supervisor::cgroup::LeafUsage| {
        usage.cpu_user_us.unwrap() + usage.cpu_system_us.unwrap()
    };
    let start = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    eventually("this thread used 300 ms", || {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
        now.tv_sec() * 1000 + now.tv_nsec() / 1_000_000
            >= start.tv_sec() * 1000 + start.tv_nsec() / 1_000_000 + 300
    });
    // The end of the worker's own start-up may still be in the difference, its parent's 300 ms must not.
    assert!(cpu_us(leaf.usage().unwrap()) - cpu_us(before) < 200_000);
    leaf.kill().unwrap();
    wait(&mut idle);
    leaf.remove().unwrap();
}

#[test]
fn kill_ends_processes_that_ignore_signals_and_their_children() {
    let Some(stage) = Stage::anywhere() else { return };
    let mut leaf = stage.tree().create_leaf(&LIMITS).unwrap();
    let mut stubborn = spawn_in(leaf.path(), "trap '' TERM INT HUP; sleep 60 & sleep 60; sleep 60");
    eventually("shell and two sleeps are in", || content(&leaf, "cgroup.procs").lines().count() == 3);
    assert!(matches!(leaf.remove(), Err(CgroupError::StillPopulated { .. })));
    assert!(leaf.is_populated().unwrap());
    leaf.kill().unwrap();
    assert!(leaf.wait_empty(PATIENCE).unwrap());
    assert_eq!(wait(&mut stubborn).signal(), Some(9));
    assert!(!leaf.is_populated().unwrap());
    leaf.remove().unwrap();
    leaf.remove().unwrap();
}

#[test]
fn wait_for_a_leaf_that_stays_populated_ends_at_its_bound() {
    let Some(stage) = Stage::anywhere() else { return };
    let mut leaf = stage.tree().create_leaf(&LIMITS).unwrap();
    let mut worker = spawn_in(leaf.path(), "exec sleep 60");
    assert!(holds(&leaf, &worker));
    let start = Instant::now();
    assert!(!leaf.wait_empty(Duration::from_millis(50)).unwrap());
    assert!(start.elapsed() >= Duration::from_millis(50));
    leaf.kill().unwrap();
    wait(&mut worker);
    leaf.remove().unwrap();
}

#[test]
fn membership_is_read_from_the_kernel() {
    let Some(stage) = Stage::anywhere() else { return };
    let mut tree = stage.tree();
    let (mut leaf, mut other) = (tree.create_leaf(&LIMITS).unwrap(), tree.create_leaf(&LIMITS).unwrap());
    let mut worker = spawn_in(leaf.path(), "exec sleep 60");
    assert!(holds(&leaf, &worker));
    assert!(!holds(&other, &worker));
    assert!(!leaf.contains(Pid::this()).unwrap());
    leaf.kill().unwrap();
    wait(&mut worker);
    assert!(!holds(&leaf, &worker), "a reaped process is in no leaf");
    leaf.remove().unwrap();
    other.remove().unwrap();
}

#[test]
fn leaf_that_is_dropped_kills_what_is_in_it() {
    let Some(stage) = Stage::anywhere() else { return };
    let leaf = stage.tree().create_leaf(&LIMITS).unwrap();
    let mut worker = spawn_in(leaf.path(), "exec sleep 60");
    assert!(holds(&leaf, &worker));
    drop(leaf);
    assert_eq!(wait(&mut worker).signal(), Some(9));
}

#[test]
fn directory_of_a_leaf_does_not_pass_an_exec() {
    let Some(stage) = Stage::anywhere() else { return };
    let mut leaf = stage.tree().create_leaf(&LIMITS).unwrap();
    let flags = nix::fcntl::fcntl(leaf.directory(), nix::fcntl::FcntlArg::F_GETFD).unwrap();
    assert_ne!(flags & nix::libc::FD_CLOEXEC, 0);
    let shown = fs::read_link(format!("/proc/self/fd/{}", leaf.directory().as_raw_fd())).unwrap();
    assert_eq!(shown, leaf.path());
    leaf.remove().unwrap();
}

#[test]
fn leaf_of_a_dead_supervisor_is_swept_and_one_of_a_living_stays() {
    let Some(stage) = Stage::anywhere() else { return };
    let mut tree = stage.tree();
    let mut living = tree.create_leaf(&LIMITS).unwrap();
    let mut of_caller =
        tree_with_callers(&stage, CallerLimits { cpu_weight: Some(50), ..CallerLimits::default() });
    let mut living_of_caller = leaf_of(&mut of_caller, 1001);
    let mut dead = Command::new("/bin/true").spawn().unwrap();
    wait(&mut dead);
    // worker-NAMESPACE-PID-START-NUMBER
    let name = living.path().file_name().unwrap().to_str().unwrap().to_owned();
    let parts: Vec<&str> = name.split('-').collect();
    let orphaned = stage.directory.join(format!("worker-{}-{}-{}-0", parts[1], dead.id(), parts[3]));
    let orphaned_group = stage.directory.join(format!("caller-{}-{}-{}-1001", parts[1], dead.id(), parts[3]));
    let orphaned_below = orphaned_group.join(orphaned.file_name().unwrap());
    fs::create_dir_all(&orphaned_below).unwrap();
    let bystander = stage.directory.join("somebody-elses");
    fs::create_dir(&orphaned).unwrap();
    fs::create_dir(&bystander).unwrap();
    let mut orphan = spawn_in(&orphaned, "exec sleep 60");
    let mut orphan_below = spawn_in(&orphaned_below, "exec sleep 60");
    let mut worker = spawn_in(living.path(), "exec sleep 60");
    assert!(holds(&living, &worker));

    let second = stage.tree();
    assert_eq!(second.swept(), 2);
    assert_eq!(wait(&mut orphan).signal(), Some(9));
    assert_eq!(wait(&mut orphan_below).signal(), Some(9));
    assert!(!orphaned.exists() && !orphaned_group.exists());
    assert!(living_of_caller.path().exists());
    living_of_caller.remove().unwrap();
    of_caller.tidy();
    assert!(bystander.exists());
    assert!(worker.try_wait().unwrap().is_none(), "a living supervisor's worker was killed");
    living.kill().unwrap();
    wait(&mut worker);
    living.remove().unwrap();
}

#[test]
fn unit_with_delegation_is_found_and_taken_over() {
    if std::env::var_os("STOCKADE_TEST_UNIT").is_none_or(|unit| unit != "delegated") {
        println!("not run: a systemd unit with Delegate=yes");
        return;
    }
    let Discovery::Delegated(delegation) = discover(&CgroupRoot::Auto) else {
        panic!("{:?}", discover(&CgroupRoot::Auto));
    };
    let directory = delegation.directory().to_owned();
    let mut tree = delegation.prepare().unwrap();
    assert_eq!(tree.controllers(), Controller::ALL);
    let membership = fs::read_to_string("/proc/self/cgroup").unwrap();
    assert!(membership.trim_end().ends_with(&format!("/{SUPERVISOR_LEAF}")), "{membership}");
    let mut leaf = tree.create_leaf(&LIMITS).unwrap();
    let mut hog = spawn_in(leaf.path(), "ulimit -v 400000; exec tail /dev/zero");
    assert_eq!(wait(&mut hog).signal(), Some(9));
    assert!(leaf.usage().unwrap().oom_kills.unwrap() >= 1);
    leaf.remove().unwrap();
    // A supervisor that starts itself anew finds itself in its leaf, and its tree above it.
    let Discovery::Delegated(again) = discover(&CgroupRoot::Auto) else {
        panic!("{:?}", discover(&CgroupRoot::Auto));
    };
    assert_eq!(again.directory(), directory);
    again.prepare().unwrap();
}

#[test]
fn unit_without_delegation_is_left_alone() {
    if std::env::var_os("STOCKADE_TEST_UNIT").is_none_or(|unit| unit != "plain") {
        println!("not run: a systemd unit without Delegate=");
        return;
    }
    let Discovery::Absent(absence) = discover(&CgroupRoot::Auto) else {
        panic!("a group that systemd did not delegate was taken");
    };
    assert!(matches!(absence, Absence::NotDelegated { .. }), "{absence:?}");
    assert!(absence.fix().contains("Delegate=yes"));
}
