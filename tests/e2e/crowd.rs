//! Ten thousand jobs, sixteen at a time: each has its result, once, and nothing is left of any.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use stockade_wire::CLIENT_PROTOCOL_VERSION;
use stockade_wire::client::{FromDaemon, Statistics, ToDaemon};
use stockade_wire::frame::{self, HEADER_BYTES};
use stockade_wire::job::{ModuleSource, Submission, Verdict};
use stockade_wire::limits::FRAME_BODY_BYTES_MAX;

use crate::rig::{Daemon, Mode, PATIENCE, Peer, Place, children, eventually, status_bytes, submission};

const JOBS: usize = 10_000;
const CONNECTIONS: usize = 16;

/// Before the first look: as many as results are kept, so that their memory is in use by then.
const JOBS_BEFORE: usize = 320;

/// Workers kept ready.
const WARM: usize = 4;

/// Longest a descriptor stays open of which the daemon says that it is closed.
const CLOSED_BY: Duration = Duration::from_secs(10);

/// What the supervisor's memory may grow by: less than 1 KiB a job.
const GROWTH_BYTES_MAX: u64 = 8 << 20;

/// A connection that takes every message for what it is: no answer is passed over.
struct Connection(UnixStream);

impl Connection {
    fn open(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut connection = Self(stream);
        connection.send(&ToDaemon::Hello { version: CLIENT_PROTOCOL_VERSION, agent: "test".to_owned() });
        let hello = connection.next();
        assert!(matches!(hello, Some(FromDaemon::Hello { .. })), "{hello:?}");
        connection
    }

    fn send(&mut self, message: &ToDaemon) {
        self.0.write_all(&frame::encode(message, FRAME_BODY_BYTES_MAX).unwrap()).unwrap();
    }

    /// The next message; `None` at the end.
    fn next(&mut self) -> Option<FromDaemon> {
        let mut header = [0; HEADER_BYTES];
        match self.0.read(&mut header[..1]).unwrap() {
            0 => return None,
            _ => self.0.read_exact(&mut header[1..]).unwrap(),
        }
        let mut body = vec![0; frame::body_length(header, FRAME_BODY_BYTES_MAX).unwrap()];
        self.0.read_exact(&mut body).unwrap();
        Some(stockade_wire::codec::decode(&body).unwrap())
    }

    /// Runs `count` jobs one after another; their ids. The daemon says nothing but what it was asked.
    fn run(mut self, submission: &Submission, count: usize) -> Vec<String> {
        let ids = (1..=count as u64).map(|request| self.run_one(request, submission)).collect();
        self.0.shutdown(Shutdown::Write).unwrap();
        assert_eq!(self.next(), None, "a second result, or something nobody asked for");
        ids
    }

    fn run_one(&mut self, request: u64, submission: &Submission) -> String {
        self.send(&ToDaemon::Submit {
            request,
            wait: true,
            durable: false,
            submission: Box::new(submission.clone()),
        });
        let accepted = match self.next() {
            Some(FromDaemon::Accepted { request: answered, job }) if answered == request => job,
            other => panic!("{other:?}"),
        };
        match self.next() {
            Some(FromDaemon::Finished { request: answered, result }) if answered == request => {
                assert_eq!(result.job, accepted);
                assert_eq!(result.outcome.verdict, Verdict::Completed, "{:?}", result.outcome);
            }
            other => panic!("{other:?}"),
        }
        accepted
    }
}

/// Runs `count` jobs on all connections together; their ids.
fn crowd(socket: &Path, submission: &Submission, count: usize) -> Vec<String> {
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|_| scope.spawn(|| Connection::open(socket).run(submission, count / CONNECTIONS)))
            .collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    })
}

/// What a daemon has while it has nothing to do.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    /// Children by name, the dead that were not reaped included.
    children: BTreeMap<String, usize>,
    /// Descriptors by what they are, without numbers.
    descriptors: BTreeMap<String, usize>,
    files: BTreeSet<PathBuf>,
}

impl Held {
    fn by(daemon: &Daemon) -> Self {
        let name = |pid: u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let descriptors = fs::read_dir(format!("/proc/{}/fd", daemon.pid)).unwrap();
        // One that is closed meanwhile is none.
        let targets = descriptors.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
        let mut files = BTreeSet::new();
        files_below(&daemon.place.path("."), &mut files);
        Self {
            children: counted(children(daemon.pid).into_iter().map(name)),
            descriptors: counted(
                targets
                    .map(|target| target.to_string_lossy().chars().filter(|c| !c.is_ascii_digit()).collect()),
            ),
            files,
        }
    }
}

fn counted(names: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    names.for_each(|name| *counts.entry(name).or_default() += 1);
    counts
}

fn files_below(directory: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            files_below(&entry.path(), found);
        }
        found.insert(entry.path());
    }
}

/// Its figures once it has nothing to do and its workers are back; `observer` stays its only client.
fn at_rest(daemon: &Daemon, observer: &mut Peer) -> Statistics {
    let mut figures = None;
    eventually("the daemon to be at rest", || {
        let now = observer.ask(async |client| client.statistics().await).unwrap();
        let idle = now.running + now.queued == 0 && now.connections == 1 && now.warm == WARM as u64;
        figures = Some(now);
        // The zygote is a child, too.
        idle && children(daemon.pid).len() == WARM + 1
    });
    figures.unwrap()
}

#[test]
fn ten_thousand_jobs_sixteen_at_a_time_each_have_one_result_and_leave_nothing() {
    let place = Place::new(Mode::Jailed)
        .set("POOL_WARM", &WARM.to_string())
        .set("POOL_WARM_MAX", "0")
        // The template serves the crowd, and is given up, with the workers it had ready, once that is gone.
        .set("POOL_TEMPLATE_IDLE", "1s")
        .set("RESULTS_KEPT_MAX", &JOBS_BEFORE.to_string())
        .set("LOG_FILTER", "warn");
    let daemon = Daemon::start(place);
    let mut observer = daemon.client();
    let whole = submission("nothing");
    let module = observer.run(whole.clone()).unwrap().module;
    let nothing = Submission { module: ModuleSource::Digest(module), ..whole };
    eventually("the module to be on disk", || daemon.place.artifacts().len() == 1);
    crowd(&daemon.socket(), &nothing, JOBS_BEFORE);
    let ended = |figures: &Statistics| figures.verdicts.iter().map(|(_, count)| count).sum::<u64>();
    let figures = at_rest(&daemon, &mut observer);
    let (held, ended_before) = (Held::by(&daemon), ended(&figures));
    let memory = status_bytes(daemon.pid, "VmRSS");

    let since = Instant::now();
    let ids = crowd(&daemon.socket(), &nothing, JOBS);
    let took = since.elapsed();

    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), JOBS, "each job has an id of its own");
    let figures = at_rest(&daemon, &mut observer);
    assert_eq!(ended(&figures) - ended_before, JOBS as u64, "each has ended, once: {figures:?}");
    assert_eq!(figures.verdicts, [("completed".to_owned(), figures.accepted)]);
    assert_eq!((figures.refused, figures.compiled), (0, 1));
    let mut now = Held::by(&daemon);
    let by = Instant::now() + CLOSED_BY;
    while now != held && Instant::now() < by {
        // The last connections may be on their way out.
        std::thread::yield_now();
        now = Held::by(&daemon);
    }
    assert_eq!(now, held, "nothing is left of {JOBS} jobs, and nothing is missing");
    let grown = status_bytes(daemon.pid, "VmRSS").saturating_sub(memory);
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes more after {JOBS} jobs, from {memory}");
    println!("{JOBS} jobs in {took:?}; the supervisor grew by {} KiB from {} KiB", grown >> 10, memory >> 10);
    daemon.stop();
}
