//! Bombs in a worker's leaf, with the wall before it, seccomp, taken away: they stop at `pids.max`, and nobody else is
//! touched. And the trees that tests make leaves in.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stockade::config::CgroupRoot;
use stockade::supervisor::cgroup::{SUPERVISOR_LEAF, own_group};
use stockade_wire::job::{Layer, Stage, Verdict};

use crate::families::{children, resident_kib, workers};
use crate::rig::{PATIENCE, Rig, alone, alone_within, config, eventually, hostile, limited};

/// A cgroup of its own, with the leaves that are in it.
pub struct Leaves {
    pub directory: PathBuf,
}

impl Leaves {
    /// With or without controllers, or `not run`.
    pub fn anywhere() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let base = std::env::var_os("STOCKADE_TEST_CGROUP")
            .map(PathBuf::from)
            .or_else(|| own_group("0::/\n", &mounts));
        let base = base.filter(|base| nix::unistd::access(base, nix::unistd::AccessFlags::W_OK).is_ok());
        if base.is_none() {
            eprintln!("not run: writable cgroup v2 mount");
        }
        base.map(|base| Self::below(&base))
    }

    /// With controllers, or `not run`. `scripts/vm-test` makes the group.
    fn with_controllers() -> Option<Self> {
        let base = std::env::var_os("STOCKADE_TEST_CGROUP").map(PathBuf::from);
        if base.is_none() {
            eprintln!("not run: cgroup v2 controllers");
        }
        base.map(|base| Self::below(&base))
    }

    fn below(base: &Path) -> Self {
        let directory = base.join(format!("stockade-test-leaves-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        Self { directory }
    }

    fn all(&self) -> impl Iterator<Item = PathBuf> + use<> {
        let entries = fs::read_dir(&self.directory).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_dir() && !path.ends_with(SUPERVISOR_LEAF))
    }

    pub fn count(&self) -> usize {
        self.all().count()
    }

    /// The leaf of that process.
    fn of(&self, pid: u32) -> PathBuf {
        let holds = |leaf: &PathBuf| {
            fs::read_to_string(leaf.join("cgroup.procs"))
                .is_ok_and(|text| text.lines().any(|line| line == pid.to_string()))
        };
        self.all().find(holds).unwrap()
    }
}

impl Drop for Leaves {
    fn drop(&mut self) {
        // The supervisor has moved its own process into the tree; nothing can be removed before it is out again.
        let parent = self.directory.parent().unwrap();
        let _ = fs::write(parent.join("cgroup.procs"), std::process::id().to_string());
        let _ = fs::remove_dir(self.directory.join(SUPERVISOR_LEAF));
        let _ = fs::remove_dir(&self.directory);
    }
}

fn number(leaf: &Path, file: &str) -> u64 {
    fs::read_to_string(leaf.join(file)).unwrap().trim().parse().unwrap()
}

/// A worker that starts as much as it can of what `entry` says, beside one that sleeps.
async fn bomb_stops_at_pids_max(entry: &str) {
    let Some(leaves) = Leaves::with_controllers() else { return };
    let mut config = config();
    config.cgroup.root = CgroupRoot::Path(leaves.directory.clone());
    config.jail.require.remove(&Layer::Seccomp);
    config.jail.require.insert(Layer::Cgroup);
    config.pool.warm = 0;
    let pids_max = config.cgroup.pids_max;
    let rig = Rig::start_with(config).await;
    // The first worker of the start is idle until the first job has it.
    let sleeper = rig.submit(hostile("sleep"));
    rig.begun(&sleeper).await;
    let neighbour = workers()[0];
    let bomb = rig.submit(limited(hostile(entry), PATIENCE, Duration::from_secs(5)));
    rig.begun(&bomb).await;
    let worker = workers().into_iter().find(|pid| *pid != neighbour).unwrap();
    let leaf = leaves.of(worker);
    assert_eq!(number(&leaf, "pids.current"), pids_max, "it got as many as it may");
    assert_eq!(number(&leaves.of(neighbour), "pids.current"), 1);
    // SIGTERM ends the worker alone. What it started is nobody's, and is to go all the same.
    rig.cancel(&bomb);
    let result = rig.result(&bomb).await;
    assert_eq!(result.outcome.verdict, Verdict::Cancelled, "{:?}", result.outcome);
    assert_eq!(result.outcome.stage, Some(Stage::Sigterm), "{:?}", result.outcome);
    eventually("the bomb's leaf to be gone", || !leaf.exists()).await;
    assert!(workers().contains(&neighbour), "the neighbour died too");
    rig.assert_serves().await;
    rig.cancel(&sleeper);
    assert_eq!(rig.result(&sleeper).await.outcome.verdict, Verdict::Cancelled);
    rig.end().await;
    assert!(children().is_empty() && leaves.count() == 0);
}

#[test]
fn fork_bomb_of_a_worker_without_seccomp_stops_at_pids_max() {
    alone_within("no-seccomp", async || bomb_stops_at_pids_max("fork-bomb-unfiltered").await);
}

#[test]
fn thread_bomb_of_a_worker_without_seccomp_stops_at_pids_max() {
    alone_within("no-seccomp", async || bomb_stops_at_pids_max("thread-bomb-unfiltered").await);
}

#[test]
fn worker_born_where_a_filter_hides_clone3_is_in_its_leaf_before_its_job() {
    alone_within("no-clone3", async || {
        let Some(leaves) = Leaves::anywhere() else { return };
        let mut config = config();
        config.cgroup.root = CgroupRoot::Path(leaves.directory.clone());
        config.pool.warm = 1;
        let rig = Rig::start_with(config).await;
        let sleeper = rig.submit(hostile("sleep"));
        rig.begun(&sleeper).await;
        assert!(leaves.of(workers()[0]).exists());
        eventually("another to be ready", || workers().len() == 2).await;
        eventually("both to have a leaf", || leaves.count() == 2).await;
        rig.cancel(&sleeper);
        let result = rig.result(&sleeper).await;
        assert_eq!(result.outcome.verdict, Verdict::Cancelled, "{:?}", result.outcome);
        assert!(result.bill.cpu_user_us.is_some());
        rig.assert_serves().await;
        rig.end().await;
        assert!(children().is_empty() && leaves.count() == 0);
    });
}

/// Jobs that breach in the ordinary run; `scripts/vm/thousand-breaches.sh` asks for more.
const BREACHES: u32 = 20;

/// What the allocator may keep, KiB.
const SLACK_KIB: u64 = 4 << 10;

#[test]
fn breaches_of_memory_max_are_each_called_by_their_name_and_leave_nothing() {
    alone(async || {
        let Some(leaves) = Leaves::with_controllers() else { return };
        let mut config = config();
        config.cgroup.root = CgroupRoot::Path(leaves.directory.clone());
        config.jail.require.insert(Layer::Cgroup);
        config.cgroup.memory_headroom_bytes = 16 << 20;
        let rig = Rig::start_with(config).await;
        let breach = async || {
            let mut job = hostile("eat-memory");
            job.limits.memory_bytes = Some(1 << 20);
            let outcome = rig.run(job).await.outcome.clone();
            assert_eq!(outcome.verdict, Verdict::OutOfMemory, "{outcome:?}");
            assert_eq!(outcome.reason.as_deref(), Some("cgroup_oom"), "{outcome:?}");
        };
        // Until as many results are kept as are kept at all.
        for _ in 0..20 {
            breach().await;
        }
        let wanted = std::env::var("STOCKADE_TEST_BREACHES").ok();
        let wanted = wanted.map_or(BREACHES, |text| text.parse().unwrap());
        let before = resident_kib();
        for _ in 0..wanted {
            breach().await;
        }
        let after = resident_kib();
        eprintln!(
            "figures: {wanted} breaches of memory.max; private memory {before} KiB before, {after} KiB after"
        );
        assert!(after <= before + SLACK_KIB, "{before} KiB before, {after} KiB after");
        rig.assert_serves().await;
        rig.end().await;
        assert!(children().is_empty() && leaves.count() == 0);
    });
}
