//! How many workers stand ready: by load, by memory pressure, and by configuration from the start.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use stockade::config::{Config, Initialise, PressureFile, WarmUp};
use stockade::supervisor::{Caller, StartError};
use stockade_wire::client::Readiness;
use stockade_wire::job::{Submission, Verdict};
use tempfile::TempDir;

use crate::families::{children, named, signal};
use crate::rig::{Executable, HONEST, Rig, alone, config, eventually, honest, submission, within};

/// Name of a template's process.
const TEMPLATE: &str = "stockade:templ";

/// As many as stand ready at most where the load decides.
const MOST: usize = 8;

fn readiness(rig: &Rig) -> Readiness {
    rig.supervisor.statistics().readiness
}

fn elastic() -> Config {
    let mut config = config();
    config.pool.warm_max = MOST;
    config.pool.workers_max = 32;
    config
}

/// Jobs that all come at once.
pub(crate) async fn rush(rig: &Rig, jobs: usize) {
    rush_of(rig, jobs, &honest()).await;
}

async fn rush_of(rig: &Rig, jobs: usize, submission: &Submission) {
    let jobs: Vec<_> = (0..jobs).map(|_| rig.submit(submission.clone())).collect();
    for job in jobs {
        assert_eq!(rig.result(&job).await.outcome.verdict, Verdict::Completed);
    }
}

#[test]
fn rush_of_jobs_has_more_workers_stand_ready_and_never_more_than_allowed() {
    alone(async || {
        let rig = Rig::start_with(elastic()).await;
        assert_eq!(readiness(&rig).warm_target, 1);
        rush(&rig, 16).await;
        let cold = rig.supervisor.statistics().starts_cold;
        assert!(cold > 0, "one worker was not enough");
        eventually("as many as allowed", || rig.supervisor.statistics().warm == MOST as u64).await;
        assert_eq!(readiness(&rig).warm_target, MOST as u64);
        // The next rush finds them.
        rush(&rig, MOST).await;
        assert_eq!(rig.supervisor.statistics().starts_cold, cold);
        // The zygote and they, nobody else.
        eventually("the dead to be reaped", || children().len() == 1 + MOST).await;
        rig.end().await;
        assert!(children().is_empty());
    });
}

#[test]
fn ready_workers_of_all_kinds_stay_within_their_bound() {
    alone(async || {
        let mut config = elastic();
        config.pool.templates_max = 2;
        config.pool.template_after = 1;
        config.pool.template_ready = 2;
        config.pool.template_ready_max = MOST;
        config.pool.ready_max = 5;
        let rig = Rig::start_with(config).await;
        for _ in 0..4 {
            rush(&rig, 12).await;
            let statistics = rig.supervisor.statistics();
            assert!(statistics.warm + statistics.prepared <= 5, "{statistics:?}");
        }
        eventually("a template", || rig.supervisor.statistics().prepared > 0).await;
        rig.end().await;
    });
}

#[test]
fn hundred_ready_workers_serve_a_hundred_jobs_without_a_fork_in_between() {
    const WORKERS: usize = 100;
    alone(async || {
        let mut config = config();
        config.pool.warm = WORKERS;
        config.pool.workers_max = WORKERS;
        config.queue.jobs_per_caller_max = WORKERS;
        config.results.kept_max = WORKERS;
        let rig = Rig::start_with(config).await;
        eventually("all of them", || rig.supervisor.statistics().warm == WORKERS as u64).await;
        assert!(readiness(&rig).worker_bytes.unwrap() <= 1 << 20, "{:?}", readiness(&rig));
        rush(&rig, WORKERS).await;
        let statistics = rig.supervisor.statistics();
        assert_eq!((statistics.starts_warm, statistics.starts_cold), (WORKERS as u64, 0));
        eventually("all of them again", || rig.supervisor.statistics().warm == WORKERS as u64).await;
        rig.end().await;
        assert!(children().is_empty());
    });
}

/// Stands in for the kernel's file.
struct Gauge {
    directory: TempDir,
    stalled_us: u64,
}

impl Gauge {
    fn new() -> Self {
        let gauge = Self { directory: tempfile::tempdir().unwrap(), stalled_us: 0 };
        gauge.write();
        gauge
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("memory.pressure")
    }

    /// Never seen half written.
    fn write(&self) {
        let next = self.directory.path().join("next");
        let line = format!("some avg10=0.00 avg60=0.00 avg300=0.00 total={}\n", self.stalled_us);
        std::fs::write(&next, line).unwrap();
        std::fs::rename(next, self.path()).unwrap();
    }

    /// As if every process had waited for memory all the time, however little has passed since the last reading.
    fn rise(&mut self) {
        self.stalled_us += 60_000_000;
        self.write();
    }

    fn watched(&self, mut config: Config) -> Config {
        config.pressure.file = PressureFile::Path(self.path());
        config.pressure.interval = Duration::from_millis(100);
        config.pressure.calm = Duration::from_millis(300);
        config
    }
}

#[test]
fn pool_under_memory_pressure_gives_up_all_but_the_least_and_makes_no_template_until_it_is_over() {
    alone(async || {
        let mut gauge = Gauge::new();
        let mut config = gauge.watched(elastic());
        config.pool.templates_max = 4;
        config.pool.template_after = 2;
        let rig = Rig::start_with(config).await;
        assert_eq!(readiness(&rig).memory_pressed, Some(false));
        assert_eq!(readiness(&rig).memory_pressure_source, gauge.path().to_str().unwrap());
        // Code that counts fuel is not held.
        let mut metered = honest();
        metered.limits.fuel = Some(1_000_000);
        rush_of(&rig, 16, &metered).await;
        eventually("more workers", || rig.supervisor.statistics().warm > 2).await;
        eventually("the pool to shrink", || {
            gauge.rise();
            rig.supervisor.statistics().warm == 1
        })
        .await;
        let now = readiness(&rig);
        assert_eq!((now.memory_pressed, now.memory_pressure_periods, now.warm_target), (Some(true), 1, 1));
        for _ in 0..6 {
            gauge.rise();
            rush(&rig, 1).await;
        }
        assert_eq!(rig.supervisor.statistics().templates, 0);
        assert_eq!(readiness(&rig).memory_pressed, Some(true));
        eventually("the pressure to be over", || readiness(&rig).memory_pressed == Some(false)).await;
        rush(&rig, 1).await;
        eventually("a template", || rig.supervisor.statistics().templates == 1).await;
        assert_eq!(readiness(&rig).memory_pressure_periods, 1);
        rig.end().await;
        assert!(children().is_empty());
    });
}

#[test]
fn pressure_that_is_not_known_is_told_and_hinders_nothing() {
    alone(async || {
        let gauge = Gauge::new();
        let rig = Rig::start_with(gauge.watched(elastic())).await;
        std::fs::remove_file(gauge.path()).unwrap();
        eventually("the loss to be told", || readiness(&rig).memory_pressed.is_none()).await;
        assert!(readiness(&rig).memory_pressure_source.contains("memory.pressure cannot be read"));
        rush(&rig, 16).await;
        eventually("as many as allowed", || rig.supervisor.statistics().warm == MOST as u64).await;
        rig.end().await;
        let rig = Rig::start_with(gauge.watched(elastic())).await;
        assert_eq!(readiness(&rig).memory_pressed, None);
        rig.end().await;
    });
}

/// A module in a file, listed for the daemon's own user.
struct Listed {
    directory: TempDir,
}

impl Listed {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str, module: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, module).unwrap();
        path
    }
}

fn warm_up(module: &Path) -> WarmUp {
    WarmUp { module: module.to_owned(), entry: None, uids: [].into(), ready: 2, required: true }
}

fn listing(config: Config, listed: &[(&str, WarmUp)]) -> Config {
    let warm_up = listed.iter().map(|(name, warm_up)| ((*name).to_owned(), warm_up.clone()));
    Config { warm_up: warm_up.collect(), ..config }
}

fn templates() -> Config {
    let mut config = config();
    config.pool.templates_max = 4;
    config.pool.template_after = 2;
    config.pool.template_idle = Duration::from_secs(1);
    config.pool.restart_window = Duration::from_secs(1);
    config
}

#[test]
fn required_module_has_its_workers_before_the_first_job_and_keeps_them() {
    alone(async || {
        let listed = Listed::new();
        let mut config = templates();
        config.pool.templates_max = 1;
        let module = warm_up(&listed.file("honest", HONEST));
        let rig = Rig::start_with(listing(config, &[("honest", module)])).await;
        let statistics = rig.supervisor.statistics();
        assert_eq!((statistics.templates, statistics.prepared), (1, 2));
        assert_eq!(statistics.readiness.warm_ups, [("honest".to_owned(), "ready".to_owned())]);
        rig.run(submission(HONEST)).await;
        assert_eq!(rig.supervisor.statistics().starts_prepared, 1);
        // Neither time nor another module takes its place.
        let other = format!("{HONEST} ;; another");
        let since = std::time::Instant::now();
        while since.elapsed() < Duration::from_millis(2500) {
            rig.run(submission(&other)).await;
        }
        assert_eq!(rig.supervisor.statistics().templates, 1);
        rig.run(submission(HONEST)).await;
        assert_eq!(rig.supervisor.statistics().starts_prepared, 2);
        signal(named(TEMPLATE)[0], Signal::SIGKILL);
        eventually("the loss to be made good", || {
            named(TEMPLATE).len() == 1 && rig.supervisor.statistics().prepared == 2
        })
        .await;
        rig.end().await;
        assert!(children().is_empty());
    });
}

#[test]
fn module_that_is_listed_twice_is_held_once() {
    alone(async || {
        let listed = Listed::new();
        let module = warm_up(&listed.file("honest", HONEST));
        let rig =
            Rig::start_with(listing(templates(), &[("first", module.clone()), ("second", module)])).await;
        assert_eq!(rig.supervisor.statistics().templates, 1);
        for _ in 0..8 {
            rig.run(submission(HONEST)).await;
        }
        // A fork of a template has its name for a moment.
        eventually("the first to make room", || named(TEMPLATE).len() == 1).await;
        rig.end().await;
        assert!(children().is_empty());
    });
}

#[test]
fn module_listed_for_some_users_is_ready_for_them_and_for_nobody_else() {
    alone(async || {
        let listed = Listed::new();
        let module = warm_up(&listed.file("honest", HONEST));
        let module = WarmUp { uids: [4242, 4243].into(), ..module };
        let rig = Rig::start_with(listing(templates(), &[("honest", module)])).await;
        assert_eq!(rig.supervisor.statistics().templates, 2);
        for (uid, prepared) in [(4242, 1), (4243, 2), (4244, 2), (Caller::own().uid, 2)] {
            let caller = Caller { uid, gid: uid, pid: 0 };
            let job = rig.supervisor.submit(&caller, submission(HONEST)).unwrap();
            let result = within("a job's end", rig.supervisor.wait(&caller, &job)).await.unwrap();
            assert_eq!(result.result.outcome.verdict, Verdict::Completed);
            assert_eq!(rig.supervisor.statistics().starts_prepared, prepared, "uid {uid}");
        }
        rig.end().await;
    });
}

#[test]
fn required_module_that_cannot_be_held_is_named_and_nothing_is_started() {
    alone(async || {
        let listed = Listed::new();
        let honest = listed.file("honest", HONEST);
        for (module, why) in [
            (warm_up(Path::new("/no/such/module")), "cannot be read"),
            (warm_up(listed.directory.path()), "is not a file"),
            (warm_up(&listed.file("broken", "(module (func $f (call $g)))")), "does not compile"),
            (warm_up(&listed.file("component", "(component)")), "is not held"),
            (WarmUp { entry: Some("shrink".to_owned()), ..warm_up(&honest) }, "is not held"),
        ] {
            let config = listing(templates(), &[("culprit", module)]);
            let started = Rig::start_from(Executable::named("stockade-hostile"), config).await;
            let Err(StartError::WarmUp { name, source }) = started else { panic!("it started: {why}") };
            assert_eq!(name, "culprit");
            assert!(source.to_string().contains(why), "{source}");
            assert!(children().is_empty());
        }
    });
}

#[test]
fn module_that_is_not_required_and_cannot_be_held_is_told_and_stops_nothing() {
    alone(async || {
        let listed = Listed::new();
        let optional = |module: WarmUp| WarmUp { required: false, ..module };
        let list = [
            ("a-missing", optional(warm_up(Path::new("/no/such/module")))),
            ("b-honest", optional(warm_up(&listed.file("honest", HONEST)))),
            ("c-component", optional(warm_up(&listed.file("component", "(component)")))),
        ];
        let rig = Rig::start_with(listing(templates(), &list)).await;
        rig.assert_serves().await;
        let state = |name: &str| {
            let all = readiness(&rig).warm_ups;
            all.into_iter().find(|(found, _)| found == name).unwrap().1
        };
        eventually("all to be tried", || state("c-component") != "coming").await;
        assert!(state("a-missing").contains("/no/such/module cannot be read"), "{}", state("a-missing"));
        assert_eq!(state("b-honest"), "ready");
        assert!(state("c-component").contains("components"), "{}", state("c-component"));
        rig.assert_serves().await;
        rig.end().await;
        assert!(children().is_empty());
    });
}

/// Says that it may be initialised ahead.
const INITIALISES: &str = r#"(module (memory (export "memory") 1) (global $g (mut i32) (i32.const 1))
    (func (export "stockade_initialise") (global.set $g (i32.const 42)))
    (func (export "answer") (result i32) (global.get $g)))"#;

#[test]
fn module_is_initialised_ahead_only_where_the_operator_lets_it() {
    alone(async || {
        let listed = Listed::new();
        for (initialise, of_listed, of_any) in
            [(Initialise::Never, 0, 0), (Initialise::Listed, 1, 1), (Initialise::Any, 1, 2)]
        {
            let mut config = templates();
            config.pool.initialise = initialise;
            config.pool.template_idle = Duration::from_mins(1);
            let module = warm_up(&listed.file("initialises", INITIALISES));
            let rig = Rig::start_with(listing(config, &[("initialises", module)])).await;
            assert_eq!(readiness(&rig).initialised, of_listed, "{initialise:?}");
            let other = format!("{INITIALISES} ;; another");
            for _ in 0..2 {
                rig.run(submission(&other)).await;
            }
            eventually("a second template", || rig.supervisor.statistics().prepared >= 4).await;
            assert_eq!(readiness(&rig).initialised, of_any, "{initialise:?}");
            for module in [INITIALISES, &other] {
                let before = rig.supervisor.statistics().starts_prepared;
                let result = rig.run(submission(module)).await;
                assert_eq!(result.output.0, b"42\n", "{initialise:?} {:?}", result.outcome);
                assert_eq!(rig.supervisor.statistics().starts_prepared, before + 1);
            }
            rig.end().await;
        }
    });
}
