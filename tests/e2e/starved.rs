//! A daemon that has no descriptors left, and after it has them back.

use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;
use stockade::client::ClientError;
use stockade_wire::client::RefusalReason;
use stockade_wire::job::{JobResult, Verdict};

use crate::rig::{Daemon, Mode, Peer, Place, eventually, ran, short_of, submission};

/// Enough to start with, and for a few workers.
const FILES_MAX: u32 = 64;

/// More than can have a worker of their own then.
const JOBS: usize = 30;

fn open_files(daemon: &Daemon) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", daemon.pid)).unwrap().count()
}

/// The result of a job that runs to its end, however often it is refused for now or fails for want of a worker.
fn at_last(client: &mut Peer) -> JobResult {
    let mut last = None;
    eventually("a job to complete", || {
        match client.run(submission("nothing")) {
            Ok(result) => {
                assert!(
                    matches!(result.outcome.verdict, Verdict::Completed | Verdict::Internal),
                    "{result:?}"
                );
                last = Some(result);
            }
            Err(ClientError::Refused(refusal)) => {
                assert_eq!(refusal.reason, RefusalReason::Unavailable, "{refusal:?}");
                assert!(refusal.retry_after_ms.is_some(), "{refusal:?}");
            }
            Err(error) => panic!("{error}"),
        }
        last.as_ref().is_some_and(|result| result.outcome.verdict == Verdict::Completed)
    });
    last.unwrap()
}

#[test]
fn daemon_in_production_that_could_run_out_of_descriptors_does_not_start_and_says_what_to_raise_or_lower() {
    let place = Place::new(Mode::Jailed).set("PRODUCTION", "true");
    let refused = ran(&mut Daemon::with_files(&place, 512), b"");
    assert_eq!(refused.status, Some(125), "{refused:?}");
    for words in [
        "512 open files are too few",
        "LimitNOFILE=",
        "queue.files_max",
        "cache.files_max",
        "results.files_max",
    ] {
        assert!(refused.stderr.contains(words), "{words}: {}", refused.stderr);
    }
    assert!(!place.path("socket").exists());
}

#[test]
fn daemon_without_descriptors_left_says_so_and_recovers() {
    let place = Place::new(Mode::Jailed)
        .set("POOL_WORKERS_MAX", "32")
        .set("POOL_WARM", "1")
        .set("POOL_WARM_MAX", "0")
        .set("POOL_RESTART_WINDOW", "1s")
        // A template holds descriptors of the daemon for as long as it stands.
        .set("POOL_TEMPLATE_IDLE", "1s");
    let daemon = Daemon::start_with_files(place, FILES_MAX);
    let mut client = daemon.client();
    at_last(&mut client);
    eventually("the daemon to be idle", || open_files(&daemon) < 40);
    let before = open_files(&daemon);
    let mut jobs = Vec::new();
    for _ in 0..JOBS {
        match client.submit(submission("spin_forever")) {
            Ok(job) => jobs.push(job),
            // Workers failed too often.
            Err(ClientError::Refused(refusal)) => {
                assert_eq!(refusal.reason, RefusalReason::Unavailable, "{refusal:?}");
                assert!(refusal.retry_after_ms.is_some(), "{refusal:?}");
            }
            Err(error) => panic!("{error}"),
        }
    }
    // Some run. For others no worker could be had, and each of them is told so.
    let mut ended = |job: &String| client.ask(async |client| client.result(job, false).await).unwrap();
    let mut failed = Vec::new();
    eventually("a job to fail", || {
        failed = jobs.iter().filter_map(&mut ended).collect();
        !failed.is_empty()
    });
    for result in &failed {
        assert_eq!(result.outcome.verdict, Verdict::Internal, "{result:?}");
        let message = result.outcome.message.as_deref().unwrap_or_default();
        let typed = message.contains("Too many open files") || message.contains("workers failed too often");
        assert!(result.outcome.retriable && typed, "{result:?}");
        assert_eq!(short_of(result), "internal no_worker - platform");
    }
    // A client that comes now waits at the door and is let in later.
    let waiting = UnixStream::connect(daemon.socket()).unwrap();
    for job in &jobs {
        match client.ask(async |client| client.cancel(job).await) {
            Ok(()) | Err(ClientError::NotFound(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    for job in &jobs {
        client.result(job);
    }
    at_last(&mut client);
    at_last(&mut daemon.client());
    drop((waiting, client));
    eventually("every descriptor to be closed", || open_files(&daemon) <= before);
    daemon.signal(Signal::SIGTERM);
    let (status, log, _) = daemon.end();
    assert_eq!(status, Some(0), "{log}");
    assert!(log.contains("Too many open files"), "{log}");
}
