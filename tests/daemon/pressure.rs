//! Clients that take more than their share: bounded, then closed, and never at another's cost.

use std::time::Duration;

use stockade::config::Clients;
use stockade_wire::client::{FromDaemon, ToDaemon};

use crate::jobs::FLOOD_PIECE_BYTES;
use crate::rig::{Daemon, eventually, limits};

fn impatient() -> Clients {
    Clients { frame_timeout: Duration::from_millis(300), ..limits() }
}

fn connections(peer: &mut crate::rig::Peer) -> u64 {
    peer.send(&ToDaemon::Statistics { request: 1 });
    match peer.receive() {
        FromDaemon::Statistics { statistics, .. } => statistics.connections,
        other => panic!("{other:?}"),
    }
}

#[test]
fn connections_above_the_users_share_are_refused_until_one_closes() {
    let daemon = Daemon::start(Clients { connections_per_uid_max: 2, ..limits() });
    let first = daemon.peer();
    let mut second = daemon.peer();
    daemon.stranger().assert_thrown_out("as many connections as one user may have");
    drop(first);
    eventually("the place to be free", || connections(&mut second) == 1);
    daemon.assert_serves();
}

#[test]
fn connections_in_a_flood_leave_nothing_behind() {
    let daemon = Daemon::start(Clients { connections_per_uid_max: 8, ..limits() });
    let mut peer = daemon.peer();
    for _ in 0..50 {
        let crowd: Vec<_> = (0..20).map(|_| daemon.stranger()).collect();
        drop(crowd);
    }
    // Some of the crowd may still wait to be accepted: whoever comes after it may be one too many, until it is gone.
    eventually("a place among the crowd", || daemon.stranger().is_welcome());
    eventually("the crowd to be gone", || connections(&mut peer) == 1);
    daemon.assert_serves();
}

#[test]
fn client_that_stops_reading_is_closed_and_its_job_recorded_once() {
    let daemon = Daemon::start(impatient());
    let mut deaf = daemon.peer();
    let output = vec![b'o'; 4 << 20];
    let job = deaf.submitted(1, "echo", &output, true);
    let mut peer = daemon.peer();
    // It is closed although it never closed anything itself.
    eventually("the deaf client to be closed", || connections(&mut peer) == 1);
    peer.send(&ToDaemon::Result { request: 2, job, wait: false });
    match peer.receive() {
        FromDaemon::Finished { request: 2, result } => assert_eq!(result.output.0, output),
        other => panic!("{other:?}"),
    }
    peer.send(&ToDaemon::Statistics { request: 3 });
    match peer.receive() {
        // One that was there from the start, and this one.
        FromDaemon::Statistics { statistics, .. } => assert_eq!(statistics.verdicts[0].1, 2),
        other => panic!("{other:?}"),
    }
}

#[test]
fn client_that_asks_on_without_reading_is_closed() {
    let daemon = Daemon::start(impatient());
    let mut deaf = daemon.peer();
    deaf.0.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut peer = daemon.peer();
    let question = stockade_wire::frame::encode(&ToDaemon::Statistics { request: 1 }, 100).unwrap();
    eventually("the deaf client to be closed", || {
        use std::io::Write;
        let _ = deaf.0.write(&question);
        connections(&mut peer) == 1
    });
}

#[test]
fn follower_that_does_not_keep_up_is_paced_and_the_job_goes_on() {
    let daemon = Daemon::start(limits());
    let mut slow = daemon.peer();
    let job = slow.submitted(1, "flood", b"", false);
    slow.send(&ToDaemon::Logs { request: 2, job: job.clone(), follow: true });
    // The flood is endless; that others are served meanwhile shows that it waits for its reader.
    for _ in 0..20 {
        daemon.assert_serves();
    }
    let mut last = 0;
    for _ in 0..100 {
        match slow.receive() {
            FromDaemon::Log { request: 2, bytes, skipped_bytes, .. } => {
                assert_eq!(bytes.0.len(), FLOOD_PIECE_BYTES);
                assert_eq!(skipped_bytes, last + 1, "the gaps are told in order");
                last = skipped_bytes;
            }
            other => panic!("{other:?}"),
        }
    }
    let mut peer = daemon.peer();
    peer.send(&ToDaemon::Cancel { request: 1, job });
    assert_eq!(peer.receive(), FromDaemon::Cancelling { request: 1 });
    while slow.receive() != (FromDaemon::LogEnd { request: 2 }) {}
}

#[test]
fn client_that_reads_late_gets_the_result_it_waits_for_although_it_is_forgotten_by_then() {
    let daemon = Daemon::start(limits());
    let mut slow = daemon.peer();
    // An answer that fills the queue; once it has begun to come, what follows waits behind it.
    let output = vec![b'o'; 4 << 20];
    slow.submitted(1, "echo", &output, true);
    let mut header = [0; 4];
    std::io::Read::read_exact(&mut slow.0, &mut header).unwrap();
    slow.submit(2, "hold", b"held", true);
    let mut peer = daemon.peer();
    let names = |peer: &mut crate::rig::Peer| {
        peer.send(&ToDaemon::List { request: 1 });
        match peer.receive() {
            FromDaemon::Jobs { jobs, .. } => jobs.into_iter().map(|job| job.name).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        }
    };
    eventually("the job to be there", || names(&mut peer).iter().any(|name| name == "hold"));
    peer.submitted(1, "release", b"", false);
    peer.submitted(1, "forget", b"", false);
    assert!(!names(&mut peer).iter().any(|name| name == "hold"));
    let mut body = vec![0; u32::from_le_bytes(header) as usize];
    std::io::Read::read_exact(&mut slow.0, &mut body).unwrap();
    assert!(matches!(slow.receive(), FromDaemon::Accepted { request: 2, .. }));
    match slow.receive() {
        FromDaemon::Finished { request: 2, result } => assert_eq!(result.output.0, b"held"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn client_gone_while_its_job_runs_frees_its_place_and_the_job_goes_on() {
    let daemon = Daemon::start(limits());
    let mut leaving = daemon.peer();
    let job = leaving.submitted(1, "hold", b"", true);
    drop(leaving);
    let mut peer = daemon.peer();
    eventually("the place to be free", || connections(&mut peer) == 1);
    peer.send(&ToDaemon::Result { request: 2, job, wait: false });
    assert!(matches!(peer.receive(), FromDaemon::Running { .. }));
}

#[test]
fn unanswered_requests_are_bounded_and_then_wait() {
    let daemon = Daemon::start(Clients { requests_in_flight_max: 2, ..limits() });
    let mut peer = daemon.peer();
    for request in 1..=2 {
        peer.submitted(request, "hold", b"", true);
    }
    peer.send(&ToDaemon::List { request: 3 });
    peer.0.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut byte = [0];
    let early = std::io::Read::read(&mut peer.0, &mut byte);
    assert!(early.is_err(), "nothing is read from a client with that many open requests: {early:?}");
    peer.0.set_read_timeout(Some(crate::rig::PATIENCE)).unwrap();
    daemon.peer().submitted(1, "release", b"", false);
    let answers: Vec<_> = (0..3).map(|_| peer.receive()).collect();
    assert!(answers.iter().any(|answer| matches!(answer, FromDaemon::Jobs { request: 3, .. })));
}

#[test]
fn bodies_that_fill_the_memory_for_them_make_way_in_time() {
    let limits = Clients { buffered_bytes_max: 8 << 20, ..impatient() };
    let daemon = Daemon::start(limits);
    // Most of the memory, announced and never sent.
    let mut hog = daemon.peer();
    hog.raw(&(6_u32 << 20).to_le_bytes());
    // Small requests are served all the same, and a large one as soon as the hog is thrown out.
    daemon.assert_serves();
    let input = vec![1; 3 << 20];
    assert_eq!(daemon.peer().echo(&input), input);
    hog.assert_thrown_out("took longer");
}
