//! A supervisor started where a wall cannot be had: it says which, why and what to do, or does without and says that.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use stockade::cli::doctor::{self, Examination};
use stockade::config::Config;
use stockade::supervisor::{Caller, StartError, Startup};
use stockade_hostile::surroundings::SOMEBODY;
use stockade_wire::client::RefusalReason;
use stockade_wire::job::{JobResult, Layer, MissingLayer, Verdict};
use stockade_wire::zygote::NamespacePolicy;
use stockade_worker::jail::namespaces::known_obstacle;

use crate::families::{children, workers};
use crate::rig::{
    Executable, Rig, alone, alone_within, config, eventually, honest, hostile, is_alone, within,
};

/// A place that only root can make.
fn place(name: &str, test: impl AsyncFnOnce()) {
    if is_alone() || nix::unistd::geteuid().is_root() {
        alone_within(name, test);
    } else {
        println!("not run: root");
    }
}

/// The same, entered as somebody else, who has to be able to run this build.
fn place_of_somebody(name: &str, test: impl AsyncFnOnce()) {
    let program = env!("CARGO_BIN_EXE_stockade-hostile");
    let mut open = std::process::Command::new(program);
    open.args(["probe", "ids"]).uid(SOMEBODY).gid(SOMEBODY).stdout(std::process::Stdio::null());
    if !is_alone() && nix::unistd::geteuid().is_root() && open.status().is_err() {
        println!("not run: a build that other users may run");
    } else {
        place(name, test);
    }
}

fn without(layer: Layer) -> Config {
    let mut config = config();
    config.jail.require.remove(&layer);
    config
}

fn requiring(layer: Layer) -> Config {
    let mut config = config();
    config.jail.require.insert(layer);
    config
}

fn words(error: &StartError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Why a start is refused.
async fn refused(config: Config) -> StartError {
    let executable = Executable::named("stockade-hostile");
    Rig::start_from(executable, config).await.map(|_| ()).expect_err("the start is refused")
}

/// The layer, the reason and the fix of a start that is refused for the lack of one.
async fn lacking(config: Config) -> MissingLayer {
    match refused(config).await {
        StartError::LayerMissing(missing) => missing,
        other => panic!("{}", words(&other)),
    }
}

fn missing(result: &JobResult, layer: Layer) -> Option<&MissingLayer> {
    result.jail.missing.iter().find(|missing| missing.layer == layer.name())
}

/// What `doctor` finds. It has an event loop of its own, so it needs a thread of its own.
fn examined(config: Config) -> Examination {
    let executable = PathBuf::from(env!("CARGO_BIN_EXE_stockade-hostile"));
    let startup = Startup { executable, ..Startup::new(config) };
    std::thread::spawn(move || doctor::examine(&startup, "/no/such/socket".as_ref())).join().unwrap()
}

/// Whether `doctor` found the layer, and why not.
#[track_caller]
fn found(examination: &Examination, layer: Layer) -> (bool, &str) {
    let wall = examination.layers.iter().find(|wall| wall.layer == layer.name()).unwrap();
    assert!(wall.present || (wall.reason.is_some() && wall.fix.is_some()), "{wall:?}");
    (wall.present, wall.reason.as_deref().unwrap_or_default())
}

/// A start by a user who may write nowhere.
fn by_somebody() -> Startup {
    let mut config = config();
    config.cache.directory = None;
    Startup { executable: PathBuf::from(env!("CARGO_BIN_EXE_stockade-hostile")), ..Startup::new(config) }
}

#[test]
fn doctor_finds_what_a_worker_has_and_leaves_no_process() {
    alone(async || {
        let rig = Rig::start().await;
        let result = rig.run(honest()).await;
        rig.end().await;
        let examination = examined(config());
        assert!(examination.ok && examination.refused.is_none(), "{examination:?}");
        for layer in Layer::ALL {
            assert_eq!(found(&examination, layer).0, missing(&result, layer).is_none(), "{layer:?}");
        }
        assert!(children().is_empty());
    });
}

#[test]
fn filter_of_others_is_not_taken_for_ours_where_seccomp_is_refused() {
    alone_within("no-seccomp", async || {
        let text = words(&refused(config()).await);
        assert!(
            text.contains("required layer seccomp is missing") && text.contains("; boot a kernel"),
            "{text}"
        );
        let rig = Rig::start_with(without(Layer::Seccomp)).await;
        let result = rig.run(honest()).await;
        assert_eq!(result.outcome.verdict, Verdict::Completed, "{:?}", result.outcome);
        assert_eq!(result.jail.seccomp, None);
        let missing = missing(&result, Layer::Seccomp).expect("it is listed as missing");
        assert!(!missing.reason.is_empty() && !missing.fix.is_empty());
        let mut demanding = honest();
        demanding.require = vec![Layer::Seccomp];
        assert_eq!(rig.try_submit(demanding).unwrap_err().reason, RefusalReason::MissingLayer);
        rig.end().await;
        let examination = examined(config());
        assert!(!examination.ok && !found(&examination, Layer::Seccomp).0, "{examination:?}");
        assert!(found(&examination, Layer::Landlock).0, "{examination:?}");
    });
}

#[test]
fn workers_of_a_root_without_cap_sys_admin_do_without_namespaces() {
    place("no-capability:CAP_SYS_ADMIN", async || {
        let rig = Rig::start().await;
        let result = rig.run(honest()).await;
        assert_eq!(result.outcome.verdict, Verdict::Completed, "{:?}", result.outcome);
        assert_eq!((result.jail.namespaces.as_slice(), result.jail.uid), (&[][..], Some(65534)));
        let missing = missing(&result, Layer::Namespaces).expect("they are listed as missing");
        assert!(missing.reason.contains("CAP_SYS_ADMIN") && missing.fix.contains("CAP_SYS_ADMIN"));
        rig.end().await;
        let lacking = lacking(requiring(Layer::Namespaces)).await;
        assert_eq!(lacking.layer, "namespaces");
        let examination = examined(config());
        assert!(examination.ok, "{examination:?}");
        assert!(found(&examination, Layer::Namespaces).1.contains("CAP_SYS_ADMIN"));
    });
}

#[test]
fn workers_where_unshare_is_refused_do_without_namespaces_and_doctor_says_so() {
    alone_within("no-unshare", async || {
        let rig = Rig::start().await;
        let result = rig.run(honest()).await;
        assert_eq!(result.outcome.verdict, Verdict::Completed, "{:?}", result.outcome);
        assert!(missing(&result, Layer::Namespaces).unwrap().reason.contains("EPERM"));
        rig.end().await;
        let examination = examined(config());
        assert!(found(&examination, Layer::Namespaces).1.contains("EPERM"), "{examination:?}");
    });
}

#[test]
fn bounding_set_that_cannot_be_emptied_is_a_refusal_that_says_why_or_is_listed() {
    place("no-capability:CAP_SETPCAP", async || {
        let lacking = lacking(config()).await;
        assert_eq!(lacking.layer, "capabilities");
        assert!(lacking.reason.contains("CAP_SETPCAP") && lacking.fix.contains("CAP_SETPCAP"), "{lacking:?}");
        let examination = examined(config());
        assert!(!examination.ok && examination.refused.is_some());
        assert!(found(&examination, Layer::Capabilities).1.contains("CAP_SETPCAP"), "{examination:?}");
        assert!(found(&examination, Layer::Seccomp).0, "{examination:?}");
        let rig = Rig::start_with(without(Layer::Capabilities)).await;
        let result = rig.run(honest()).await;
        assert_eq!(result.outcome.verdict, Verdict::Completed, "{:?}", result.outcome);
        assert!(!result.jail.capabilities_dropped && missing(&result, Layer::Capabilities).is_some());
        rig.end().await;
    });
}

#[test]
fn root_without_any_capability_is_told_that_it_cannot_give_workers_their_ids() {
    place("no-capability:all", async || {
        let mut config = config();
        // It may not write where others own the directory.
        config.cache.directory = None;
        config.jail.require.remove(&Layer::Capabilities);
        let lacking = lacking(config.clone()).await;
        assert_eq!(lacking.layer, "identity");
        assert!(lacking.reason.contains("setgroups") && lacking.fix.contains("CAP_SETGID"), "{lacking:?}");
        let examination = examined(config);
        assert!(
            !examination.ok && examination.refused.as_ref().unwrap().contains("identity"),
            "{examination:?}"
        );
        assert!(!found(&examination, Layer::Seccomp).0, "no worker, no layer");
    });
}

#[test]
fn supervisor_that_cannot_see_its_workers_says_that_proc_hides_them() {
    place_of_somebody("hidden-proc", async || {
        let mut startup = by_somebody();
        startup.config.jail.namespaces = NamespacePolicy::Off;
        let error = startup.clone().start().await.map(|_| ()).expect_err("nobody can check a worker");
        let text = words(&error);
        assert!(text.contains("hidepid") && text.contains("ProtectProc=default"), "{text}");
        let examination = examined(startup.config);
        assert!(examination.refused.is_some_and(|why| why.contains("hidepid")));
    });
}

#[test]
fn supervisor_sees_workers_in_a_user_namespace_of_their_own_though_proc_hides_what_cannot_be_traced() {
    place_of_somebody("hidden-proc", async || {
        if known_obstacle().is_some() {
            return eprintln!("not run: user namespaces of users");
        }
        let first = within("a worker", by_somebody().first_worker()).await.unwrap();
        assert!(first.layers.contains(&Layer::Namespaces), "{first:?}");
        assert!(first.layers.contains(&Layer::Capabilities), "{first:?}");
    });
}

/// `RLIMIT_DATA` of a process, as the kernel has it, soft and hard.
fn data_limit(pid: u32) -> [u64; 2] {
    let table = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = table.lines().find_map(|line| line.strip_prefix("Max data size")).unwrap();
    let mut values = line.split_whitespace().map(|value| value.parse().unwrap());
    [values.next().unwrap(), values.next().unwrap()]
}

/// Two idle workers, of which one gets a job that asks for 16 MiB.
async fn job_of_16_mib_on_a_warm_worker() {
    let mut startup = by_somebody();
    startup.config.pool.warm = 2;
    let ceiling = startup.config.ceilings.memory_bytes;
    let supervisor = within("the start", startup.start()).await.unwrap();
    eventually("two idle workers", || workers().len() == 2).await;
    eventually("both to be locked", || supervisor.statistics().warm == 2).await;
    let idle = workers();
    let mut job = hostile("sleep");
    job.limits.memory_bytes = Some(16 << 20);
    let id = supervisor.submit(&Caller::own(), job).unwrap();
    let mut logs = supervisor.logs(&Caller::own(), &id).unwrap();
    assert!(within("the worker to be sealed", logs.next()).await.is_some());
    let mut limits: Vec<[u64; 2]> = idle.into_iter().map(data_limit).collect();
    limits.sort_unstable();
    let [[soft, hard], [largest, _]] = limits[..] else { panic!("{limits:?}") };
    assert_eq!(soft, hard, "it cannot be raised again");
    assert_eq!(largest - soft, ceiling - (16 << 20), "beside a worker that may get the largest job");
    assert!(supervisor.cancel(&Caller::own(), &id));
    within("the end", supervisor.end()).await;
}

#[test]
fn job_on_a_worker_made_ahead_of_need_has_its_own_data_limit() {
    alone(async || job_of_16_mib_on_a_warm_worker().await);
}

#[test]
fn job_of_an_unprivileged_supervisor_has_its_own_data_limit_too() {
    place_of_somebody("unprivileged", async || job_of_16_mib_on_a_warm_worker().await);
}
