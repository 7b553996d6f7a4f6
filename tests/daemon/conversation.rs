//! Requests and their answers.

use std::net::Shutdown;

use stockade_wire::client::{FromDaemon, RefusalReason, ToDaemon};
use stockade_wire::job::{LogStream, Phase, Verdict};

use crate::jobs::{ANOTHERS_JOB, FINISHED_JOB, FLOOD_PIECE_BYTES};
use crate::rig::{Daemon, limits};

#[test]
fn submission_with_wait_gets_its_id_then_its_result() {
    let daemon = Daemon::start(limits());
    let input = vec![7; 1 << 20];
    assert_eq!(daemon.peer().echo(&input), input);
}

#[test]
fn submission_that_is_refused_gets_the_reason() {
    let daemon = Daemon::start(limits());
    let mut peer = daemon.peer();
    peer.submit(9, "full", b"", true);
    match peer.receive() {
        FromDaemon::Refused { request: 9, refusal } => assert_eq!(refusal.reason, RefusalReason::QueueFull),
        other => panic!("{other:?}"),
    }
    assert_eq!(peer.echo(b"and the connection goes on"), b"and the connection goes on");
}

#[test]
fn result_asked_for_later_is_there() {
    let daemon = Daemon::start(limits());
    let job = daemon.peer().submitted(1, "hold", b"held", false);
    let mut peer = daemon.peer();
    peer.send(&ToDaemon::Result { request: 2, job: job.clone(), wait: false });
    match peer.receive() {
        FromDaemon::Running { request: 2, summary } => assert_eq!(summary.phase, Phase::Running),
        other => panic!("{other:?}"),
    }
    peer.send(&ToDaemon::Result { request: 3, job: job.clone(), wait: true });
    daemon.peer().submitted(1, "release", b"", false);
    match peer.receive() {
        FromDaemon::Finished { request: 3, result } => assert_eq!(result.job, job),
        other => panic!("{other:?}"),
    }
}

#[test]
fn requests_sent_at_once_are_all_answered() {
    let daemon = Daemon::start(limits());
    let mut peer = daemon.peer();
    // More than may be unanswered at a time: the rest waits in the socket.
    let count = 20 * limits().requests_in_flight_max as u64;
    let mut sender = crate::rig::Peer(peer.0.try_clone().unwrap(), peer.1);
    let sending = std::thread::spawn(move || {
        for request in 0..count {
            sender.submit(request, "echo", &request.to_le_bytes(), true);
        }
    });
    let mut finished = Vec::new();
    while (finished.len() as u64) < count {
        if let FromDaemon::Finished { request, result } = peer.receive() {
            assert_eq!(result.output.0, request.to_le_bytes());
            finished.push(request);
        }
    }
    sending.join().unwrap();
    finished.sort_unstable();
    assert_eq!(finished, (0..count).collect::<Vec<_>>());
}

#[test]
fn half_close_after_the_request_still_gets_the_result() {
    let daemon = Daemon::start(limits());
    let mut peer = daemon.peer();
    peer.submitted(1, "hold", b"kept", true);
    peer.0.shutdown(Shutdown::Write).unwrap();
    daemon.peer().submitted(1, "release", b"", false);
    match peer.next() {
        Some(FromDaemon::Finished { request: 1, result }) => assert_eq!(result.output.0, b"kept"),
        other => panic!("{other:?}"),
    }
    assert_eq!(peer.next(), None);
}

#[test]
fn job_that_is_not_there_is_the_same_as_anothers() {
    let daemon = Daemon::start(limits());
    let mut peer = daemon.peer();
    for job in ["unknown", ANOTHERS_JOB] {
        let (job, request) = (job.to_owned(), 5);
        for question in [
            ToDaemon::Result { request, job: job.clone(), wait: false },
            ToDaemon::Result { request, job: job.clone(), wait: true },
            ToDaemon::Logs { request, job: job.clone(), follow: false },
            ToDaemon::Logs { request, job: job.clone(), follow: true },
            ToDaemon::Cancel { request, job },
        ] {
            peer.send(&question);
            assert_eq!(peer.receive(), FromDaemon::NotFound { request });
        }
    }
}

#[test]
fn cancel_of_an_unknown_finished_or_anothers_job_is_the_same() {
    let daemon = Daemon::start(limits());
    let mut peer = daemon.peer();
    for job in ["unknown", FINISHED_JOB, ANOTHERS_JOB] {
        peer.send(&ToDaemon::Cancel { request: 1, job: job.into() });
        assert_eq!(peer.receive(), FromDaemon::NotFound { request: 1 });
    }
}

#[test]
fn cancel_ends_the_job_others_wait_for() {
    let daemon = Daemon::start(limits());
    let mut waiting = daemon.peer();
    let job = waiting.submitted(1, "hold", b"", true);
    let mut peer = daemon.peer();
    peer.send(&ToDaemon::Cancel { request: 4, job });
    assert_eq!(peer.receive(), FromDaemon::Cancelling { request: 4 });
    match waiting.receive() {
        FromDaemon::Finished { result, .. } => assert_eq!(result.outcome.verdict, Verdict::Cancelled),
        other => panic!("{other:?}"),
    }
}

#[test]
fn logs_longer_than_a_message_come_in_parts() {
    let daemon = Daemon::start(limits());
    let mut peer = daemon.peer();
    let job = peer.submitted(1, "echo", b"", false);
    for follow in [false, true] {
        peer.send(&ToDaemon::Logs { request: 2, job: job.clone(), follow });
        for (length, skipped) in [(FLOOD_PIECE_BYTES, 3), (1, 0)] {
            let bytes = vec![b'e'; length].into();
            let part =
                FromDaemon::Log { request: 2, stream: LogStream::Stderr, skipped_bytes: skipped, bytes };
            assert_eq!(peer.receive(), part);
        }
        assert_eq!(peer.receive(), FromDaemon::LogEnd { request: 2 });
    }
}

#[test]
fn list_and_statistics_tell_what_is_there() {
    let daemon = Daemon::start(limits());
    let mut peer = daemon.peer();
    let job = peer.submitted(1, "hold", b"", false);
    peer.send(&ToDaemon::List { request: 2 });
    match peer.receive() {
        FromDaemon::Jobs { request: 2, jobs } => {
            assert!(jobs.iter().any(|summary| summary.job == job));
            assert!(jobs.iter().all(|summary| summary.job != ANOTHERS_JOB));
        }
        other => panic!("{other:?}"),
    }
    let _second = daemon.peer();
    peer.send(&ToDaemon::Statistics { request: 3 });
    match peer.receive() {
        FromDaemon::Statistics { request: 3, statistics } => {
            assert_eq!(statistics.connections, 2);
            assert!(statistics.supervisor_memory_bytes.unwrap() > 0);
            assert!(statistics.host.cpus > 0 && statistics.host.memory_total_bytes > 0);
        }
        other => panic!("{other:?}"),
    }
}
