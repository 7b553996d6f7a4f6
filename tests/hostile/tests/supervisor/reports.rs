//! Workers whose report is not what the kernel says of them.

use std::time::Duration;

use nix::sys::signal::Signal;
use stockade_wire::job::Verdict;

use crate::families::{children, signal, workers, zygote};
use crate::rig::{Executable, Rig, alone, config, eventually, honest};

#[test]
fn supervisor_does_not_start_with_workers_that_lie() {
    alone(async || {
        for name in ["lie-in-report", "confess-in-report"] {
            let refused = Rig::start_from(Executable::named(name), config()).await.map(|_| ()).unwrap_err();
            let mut text = refused.to_string();
            let mut source = std::error::Error::source(&refused);
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            assert!(text.contains("reports"), "{name}: {text}");
            assert!(children().is_empty());
        }
    });
}

#[test]
fn supervisor_does_not_start_with_workers_that_lie_in_one_field() {
    alone(async || {
        for field in stockade_hostile::misbehave::LIES {
            let liar = Executable::named(&format!("lie-in-{field}"));
            let refused = Rig::start_from(liar, config()).await.map(|_| ()).expect_err(field);
            let text = std::error::Error::source(&refused).map(ToString::to_string).unwrap_or_default();
            assert!(text.contains("worker reports"), "{field}: {refused}: {text}");
        }
    });
}

#[test]
fn worker_that_lies_never_has_a_job() {
    alone(async || {
        for name in ["lie-in-report", "confess-in-report", "exit-before-order"] {
            let mut config = config();
            config.pool.warm = 0;
            config.pool.restart_window = Duration::from_secs(1);
            let rig = Rig::start_with(config).await;
            rig.assert_serves().await;
            let before = rig.run(honest()).await;
            rig.executable.becomes(name);
            signal(zygote().unwrap(), Signal::SIGKILL);
            eventually("another zygote", || rig.supervisor.statistics().zygote_starts == 2).await;
            let result = rig.run(honest()).await;
            eprintln!("{name}: {:?}", result.outcome);
            assert_eq!(result.outcome.verdict, Verdict::Internal);
            assert_eq!(result.outcome.reason.as_deref(), Some("no_worker"));
            assert_ne!(before.jail, result.jail, "no worker, no walls");
            eventually("it to be gone", || workers().is_empty()).await;
            rig.end().await;
        }
    });
}
