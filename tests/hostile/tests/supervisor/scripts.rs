//! Scripts compiled ahead by workers that lie: of one script, and to nobody else.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use stockade::config::Config;
use stockade_wire::job::{Blame, JobResult, Submission, Verdict};

use crate::families::children;
use crate::rig::{PATIENCE, Rig, alone, config, limited, submission, within};

const SOURCE: &str = "input * 2";

fn script(name: &str, input: u32) -> Submission {
    let script = Submission {
        name: name.to_owned(),
        input: input.to_string().into_bytes().into(),
        ..submission(SOURCE)
    };
    limited(script, PATIENCE, Duration::from_secs(1))
}

/// The engine is compiled once, not once a test.
fn ahead() -> Config {
    let mut config = config();
    config.cache.directory = Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("scripts-cache"));
    config.pool.templates_max = 8;
    config.pool.template_ready = 2;
    config.kill.epoch_head_start = Duration::from_secs(1);
    config
}

fn assert_doubled(result: &JobResult, input: u32, what: &str) {
    assert_eq!(result.outcome.verdict, Verdict::Completed, "{what}: {:?}", result.outcome);
    assert_eq!(result.output.0, (2 * input).to_string().into_bytes(), "{what}");
}

/// Runs a job; whether it was given a compiled form.
async fn given(rig: &Rig, job: Submission) -> (bool, Rc<JobResult>) {
    let before = rig.supervisor.statistics().script_hits;
    let result = rig.run(job).await;
    (rig.supervisor.statistics().script_hits > before, result)
}

/// Runs a script until it is given what it compiled to; the result of that job.
async fn compiled(rig: &Rig, name: &str) -> Rc<JobResult> {
    let running = async {
        loop {
            let (given, result) = given(rig, script(name, 1)).await;
            if given {
                return result;
            }
            assert_doubled(&result, 1, name);
        }
    };
    within("a script to be compiled ahead", running).await
}

/// With whatever byte it begins: what the engine looks at first is a version.
#[test]
fn script_whose_compiled_form_is_nonsense_fails_alone_or_is_compiled_after_all() {
    alone(async || {
        let rig = Rig::start_with(ahead()).await;
        assert_doubled(&*compiled(&rig, "honest.js").await, 1, "honest.js");
        let mut after_all = 0;
        for first in 0..48 {
            let name = format!("nonsense-{first}.js");
            let result = compiled(&rig, &name).await;
            if result.outcome.verdict == Verdict::Completed {
                assert_doubled(&result, 1, &name);
                after_all += 1;
            } else {
                assert_eq!(result.outcome.blame, Some(Blame::Guest), "{name}: {:?}", result.outcome);
            }
            let (given, result) = given(&rig, script("honest.js", first)).await;
            assert!(given, "{name}");
            assert_doubled(&result, first, &name);
        }
        assert!(after_all >= 47, "{after_all}");
        rig.end().await;
        assert!(children().is_empty());
    });
}

#[test]
fn script_whose_compilation_comes_to_nothing_runs_as_before_and_holds_up_no_other_for_long() {
    alone(async || {
        let rig = Rig::start_with(ahead()).await;
        for name in ["much.js", "nothing.js", "silent.js", "spin.js"] {
            for input in 0..8 {
                let (given, result) = given(&rig, script(name, input)).await;
                assert!(!given, "{name}");
                assert_doubled(&result, input, name);
            }
            let honest = format!("honest-after-{name}");
            assert_doubled(&*compiled(&rig, &honest).await, 1, &honest);
        }
        assert_eq!(rig.supervisor.statistics().scripts_compiled, 4);
        rig.end().await;
        assert!(children().is_empty());
    });
}

#[test]
fn worker_that_tells_unasked_what_its_script_compiles_to_is_not_believed() {
    alone(async || {
        let rig = Rig::start_with(ahead()).await;
        compiled(&rig, "honest.js").await;
        let mut told = 0;
        while told < 3 {
            let before = rig.supervisor.statistics().starts_prepared;
            let result = rig.run(script("tells.js", 1)).await;
            // One that was not forked with the engine behaves.
            if rig.supervisor.statistics().starts_prepared > before {
                let outcome = (result.outcome.verdict, result.outcome.reason.as_deref());
                assert_eq!(outcome, (Verdict::WorkerLost, Some("protocol")), "{:?}", result.outcome);
                told += 1;
            }
        }
        rig.end().await;
        assert!(children().is_empty());
    });
}

#[test]
fn supervisor_that_ends_while_a_script_is_compiled_leaves_nothing() {
    alone(async || {
        let rig = Rig::start_with(ahead()).await;
        compiled(&rig, "honest.js").await;
        for input in 0..3 {
            assert_doubled(&*rig.run(script("spin.js", input)).await, input, "spin.js");
        }
        rig.end().await;
        assert!(children().is_empty());
    });
}
