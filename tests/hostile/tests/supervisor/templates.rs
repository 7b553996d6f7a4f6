//! Modules held ready: when, for whom, and what becomes of them.

use std::time::Duration;

use nix::sys::signal::Signal;
use stockade::config::Config;
use stockade_wire::client::Statistics;
use stockade_wire::job::Verdict;

use crate::families::{children, named, signal};
use crate::readiness::rush;
use crate::rig::{HONEST, Rig, alone, config, eventually, hostile, limited, submission};

/// Name of a template's process.
const TEMPLATE: &str = "stockade:templ";

/// Name of a process that runs a job, or stands ready to.
const WORKER: &str = "stockade:run";

fn held() -> Config {
    let mut config = config();
    config.pool.templates_max = 8;
    config.pool.template_after = 2;
    config.pool.template_ready = 2;
    config.pool.restart_window = Duration::from_secs(3);
    config
}

fn statistics(rig: &Rig) -> Statistics {
    rig.supervisor.statistics()
}

/// Runs `module` until a template holds it and has workers ready.
async fn hold(rig: &Rig, module: &str) {
    let before = statistics(rig);
    for _ in 0..2 {
        rig.run(submission(module)).await;
    }
    eventually("a template with workers", || {
        let now = statistics(rig);
        now.templates > before.templates && now.prepared >= before.prepared + 2
    })
    .await;
}

#[test]
fn module_that_is_asked_for_often_is_there_when_its_next_job_comes() {
    alone(async || {
        let rig = Rig::start_with(held()).await;
        hold(&rig, HONEST).await;
        let before = statistics(&rig).starts_prepared;
        let result = rig.run(submission(HONEST)).await;
        assert_eq!(result.outcome.verdict, Verdict::Completed, "{:?}", result.outcome);
        assert!(result.jail.fresh_process && result.jail.missing.iter().all(|one| one.layer != "seccomp"));
        assert_eq!(statistics(&rig).starts_prepared, before + 1);
        for _ in 0..20 {
            rig.assert_serves().await;
        }
        eventually("workers ready again", || statistics(&rig).prepared >= 1).await;
        rig.end().await;
        assert!(children().is_empty());
    });
}

#[test]
fn template_that_is_killed_takes_nothing_with_it() {
    alone(async || {
        let rig = Rig::start_with(held()).await;
        hold(&rig, HONEST).await;
        signal(named(TEMPLATE)[0], Signal::SIGKILL);
        eventually("the loss to be seen", || statistics(&rig).templates == 0).await;
        let lost = statistics(&rig).starts_prepared;
        for _ in 0..10 {
            rig.assert_serves().await;
        }
        // What was ready has been used up by then; what comes once the module has rested has another template.
        eventually_async(&rig, HONEST, |_, now| now.starts_prepared > lost + 2).await;
        rig.end().await;
        assert!(children().is_empty());
    });
}

/// They are not looked at one by one before a job gets them.
#[test]
fn workers_that_die_while_they_stand_ready_get_no_job_and_their_template_forks_others() {
    alone(async || {
        let rig = Rig::start_with(held()).await;
        hold(&rig, HONEST).await;
        for _ in 0..3 {
            eventually("workers ready", || statistics(&rig).prepared >= 2).await;
            let workers = named(WORKER);
            for worker in &workers {
                signal(*worker, Signal::SIGKILL);
            }
            // Its memory is the first thing that goes.
            let is_dead = |pid| {
                !std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|of| of.contains("VmSize"))
            };
            eventually("their end", || workers.iter().all(is_dead)).await;
            for _ in 0..3 {
                rig.assert_serves().await;
            }
        }
        assert_eq!(statistics(&rig).templates, 1);
        rig.end().await;
        assert!(children().is_empty());
    });
}

#[test]
fn template_and_zygote_that_have_forked_enough_are_replaced_and_no_job_notices() {
    alone(async || {
        let mut config = held();
        config.pool.zygote_forks_max = 100;
        let rig = Rig::start_with(config).await;
        hold(&rig, HONEST).await;
        let (before, template) = (statistics(&rig), named(TEMPLATE));
        for _ in 0..350 {
            rig.assert_serves().await;
        }
        let after = statistics(&rig);
        assert!(after.zygote_starts >= before.zygote_starts + 2, "{before:?} {after:?}");
        assert_eq!(after.templates, 1);
        // Most jobs had a worker with their module: the one that replaces a template is there before it goes.
        let prepared = after.starts_prepared - before.starts_prepared;
        assert!(prepared > 300, "{prepared} of 350 jobs; {after:?}");
        assert!(named(TEMPLATE).iter().all(|pid| !template.contains(pid)));
        rig.end().await;
        assert!(children().is_empty());
    });
}

#[test]
fn template_with_the_fewest_descriptors_that_may_be_set_forks_for_a_rush_of_jobs() {
    alone(async || {
        let mut config = held();
        config.jail.open_files = 16;
        let rig = Rig::start_with(config).await;
        hold(&rig, HONEST).await;
        let template = named(TEMPLATE);
        rush(&rig, 32).await;
        // A fork has its template's name at first.
        assert!(statistics(&rig).templates == 1 && named(TEMPLATE).contains(&template[0]));
        rig.end().await;
        assert!(children().is_empty());
    });
}

#[test]
fn template_that_is_stopped_holds_no_job_up() {
    alone(async || {
        let mut config = held();
        config.pool.template_ready = 1;
        let rig = Rig::start_with(config).await;
        for _ in 0..3 {
            rig.assert_serves().await;
        }
        eventually("a template", || !named(TEMPLATE).is_empty() && statistics(&rig).prepared == 1).await;
        signal(named(TEMPLATE)[0], Signal::SIGSTOP);
        for _ in 0..5 {
            rig.assert_serves().await;
        }
        eventually("it to be given up", || statistics(&rig).templates == 0).await;
        rig.end().await;
        assert!(children().is_empty());
    });
}

#[test]
fn template_nobody_asks_for_any_more_is_given_up() {
    alone(async || {
        let mut config = held();
        config.pool.template_idle = Duration::from_secs(1);
        let rig = Rig::start_with(config).await;
        hold(&rig, HONEST).await;
        eventually("it to be given up", || named(TEMPLATE).is_empty() && statistics(&rig).prepared == 0)
            .await;
        rig.end().await;
        assert!(children().is_empty());
    });
}

#[test]
fn templates_are_never_more_than_allowed_and_the_least_used_gives_way() {
    alone(async || {
        let mut config = held();
        config.pool.templates_max = 1;
        let rig = Rig::start_with(config).await;
        hold(&rig, HONEST).await;
        let first = named(TEMPLATE);
        assert_eq!(first.len(), 1, "{first:?}");
        let other = format!("{HONEST} ;; another");
        eventually_async(&rig, &other, |before, now| {
            assert!(now.templates <= 1, "{now:?}");
            now.starts_prepared > before.starts_prepared
        })
        .await;
        // The first was told to go before the second was begun; its process may take longer to.
        eventually("one template, another", || {
            let there = named(TEMPLATE);
            there.len() == 1 && there != first
        })
        .await;
        rig.end().await;
        assert!(children().is_empty());
    });
}

/// Runs `module` until the figures changed as wanted.
async fn eventually_async(rig: &Rig, module: &str, changed: impl Fn(&Statistics, &Statistics) -> bool) {
    let before = statistics(rig);
    let by = std::time::Instant::now() + crate::rig::PATIENCE;
    while !changed(&before, &statistics(rig)) {
        assert!(std::time::Instant::now() < by, "nothing changed");
        rig.run(submission(module)).await;
    }
}

#[test]
fn module_no_template_can_hold_runs_as_before() {
    alone(async || {
        let rig = Rig::start_with(held()).await;
        for _ in 0..6 {
            let result = rig.run(submission("(component)")).await;
            assert_eq!(result.outcome.verdict, Verdict::InvalidModule, "{:?}", result.outcome);
        }
        eventually("the try to be over", || named(TEMPLATE).is_empty()).await;
        assert_eq!(statistics(&rig).starts_prepared, 0);
        rig.assert_serves().await;
        rig.end().await;
    });
}

#[test]
fn job_on_a_held_module_ends_on_the_kill_ladder_and_by_its_own_limits() {
    alone(async || {
        let rig = Rig::start_with(held()).await;
        let spin = crate::rig::SPIN;
        let short =
            |module: &str| limited(submission(module), Duration::from_millis(200), Duration::from_secs(1));
        for _ in 0..2 {
            rig.run(short(spin)).await;
        }
        eventually("a template with workers", || statistics(&rig).prepared >= 2).await;
        let before = statistics(&rig).starts_prepared;
        let result = rig.run(short(spin)).await;
        assert_eq!(result.outcome.verdict, Verdict::TimedOut, "{:?}", result.outcome);
        assert_eq!(statistics(&rig).starts_prepared, before + 1);
        let mut small = submission(&crowded());
        small.limits.memory_bytes = Some(1 << 20);
        hold(&rig, &crowded()).await;
        let result = rig.run(small).await;
        assert_eq!(result.outcome.verdict, Verdict::OutOfMemory, "{:?}", result.outcome);
        rig.assert_serves().await;
        rig.end().await;
        assert!(children().is_empty());
    });
}

/// Begins with more memory than a MiB.
fn crowded() -> String {
    r#"(module (memory (export "memory") 32) (func (export "_start")))"#.to_owned()
}

#[test]
fn misbehaving_workers_of_a_held_module_are_ended_like_any_others() {
    alone(async || {
        let rig = Rig::start_with(held()).await;
        hold(&rig, HONEST).await;
        let result = rig.run(hostile("probe:map-executable")).await;
        assert_eq!(result.outcome.verdict, Verdict::JailViolation, "{:?}", result.outcome);
        assert_eq!(result.outcome.reason.as_deref(), Some("seccomp:mmap"));
        rig.assert_serves().await;
        rig.end().await;
        assert!(children().is_empty());
    });
}
