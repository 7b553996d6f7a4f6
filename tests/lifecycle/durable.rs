//! Durable jobs: accepted means one final record, whatever ends the daemon.

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::rig::{Daemon, SPIN, eventually, file, laborious, stockade};

const SAYS_HELLO: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 8) "hello\n")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 8))
    (i32.store (i32.const 4) (i32.const 6))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 40)))))"#;

/// A directory in which one daemon after the other keeps the same journal.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: TempDir::new().unwrap() }
    }

    fn journal(&self) -> String {
        self.directory.path().join("state").to_str().unwrap().to_owned()
    }

    /// A daemon with a socket of its own, since the last one's lies where it died.
    fn daemon(&self) -> Daemon {
        let journal = self.journal();
        Daemon::start(&[("STOCKADE_DURABLE_DIRECTORY", &journal), ("STOCKADE_POOL_WARM", "1")])
    }

    /// How many ends of that job the journal has.
    fn ends(&self, job: &str) -> usize {
        let bytes = std::fs::read(self.directory.path().join("state/journal")).unwrap();
        let end = format!(r#"{{"ended":{{"job":"{job}""#);
        bytes.windows(end.len()).filter(|part| *part == end.as_bytes()).count()
    }
}

fn ask(daemon: &Daemon, arguments: &[&str]) -> Output {
    stockade(&daemon.directory).args(arguments).output().unwrap()
}

/// The outcome of a job by its id: verdict and reason.
fn outcome(daemon: &Daemon, job: &str) -> (String, String) {
    let output = ask(daemon, &["result", "--json", job]);
    let result: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(result["job"], job);
    let text = |name: &str| result["outcome"][name].as_str().unwrap_or_default().to_owned();
    (text("verdict"), text("reason"))
}

/// When a daemon is killed.
enum Moment {
    /// So long after the first submission.
    After(Duration),
    /// Once so many jobs have completed.
    Over(usize),
}

#[test]
fn durable_jobs_of_daemons_killed_at_any_moment_have_one_end_each() {
    let place = Place::new();
    let mut reasons: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut accepted: Vec<String> = Vec::new();
    let after = |ms| Moment::After(Duration::from_millis(ms));
    let moments = [after(0), after(100), Moment::Over(1), after(300), Moment::Over(2), after(600)];
    for moment in moments {
        let mut daemon = place.daemon();
        let modules = [SAYS_HELLO.to_owned(), SPIN.to_owned(), SAYS_HELLO.to_owned(), laborious()];
        let clients: Vec<_> = modules
            .iter()
            .enumerate()
            .map(|(number, module)| {
                let module = file(&daemon.directory, &format!("{number}.wat"), module);
                stockade(&daemon.directory)
                    .args(["submit", "--durable", "--detach", "--timeout", "10m"])
                    .arg(module)
                    .stdout(Stdio::piped())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap()
            })
            .collect();
        let since = Instant::now();
        eventually("the moment", || match moment {
            Moment::After(time) => since.elapsed() >= time,
            Moment::Over(jobs) => {
                let listed = ask(&daemon, &["ps"]).stdout;
                String::from_utf8(listed).unwrap().matches(" completed ").count() >= jobs
            }
        });
        daemon.signal(Signal::SIGKILL);
        daemon.end();
        let since = Instant::now();
        let next = place.daemon();
        println!("serving again {:?} after the end of the last", since.elapsed());
        for client in clients {
            let output = client.wait_with_output().unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            // Whoever was not told that the job is accepted knows nothing of it.
            assert_eq!(output.status.success(), !said.is_empty(), "{said}");
            accepted.extend(said.lines().map(str::to_owned));
        }
        for job in &accepted {
            let first = outcome(&next, job);
            assert_eq!(outcome(&next, job), first);
            assert_eq!(place.ends(job), 1, "{job}");
            *reasons.entry(first).or_default() += 1;
        }
    }
    println!("{} accepted; their ends: {reasons:?}", accepted.len());
    let of = |verdict: &str, reason: &str| reasons.contains_key(&(verdict.to_owned(), reason.to_owned()));
    assert!(of("worker_lost", "supervisor_restarted"), "{reasons:?}");
    assert!(of("completed", ""), "no daemon lived long enough: {reasons:?}");
    assert_eq!(reasons.len(), 2, "{reasons:?}");
}

#[test]
fn result_of_a_durable_job_outlives_the_daemon_that_ran_it() {
    let place = Place::new();
    let mut daemon = place.daemon();
    let module = file(&daemon.directory, "hello.wat", SAYS_HELLO);
    let output = ask(&daemon, &["submit", "--durable", "--detach", module.to_str().unwrap()]);
    let job = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    let first = ask(&daemon, &["result", &job]);
    assert_eq!((first.stdout.as_slice(), first.status.code()), (&b"hello\n"[..], Some(0)), "{first:?}");
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.end().success());
    let daemon = place.daemon();
    let again = ask(&daemon, &["result", &job]);
    assert_eq!((again.stdout, again.status), (first.stdout, first.status));
    let unknown = ask(&daemon, &["result", "01JD8GQ0V7XJ5W3T9C0N4R6M2K"]);
    assert_eq!(unknown.status.code(), Some(125));
}

#[test]
fn client_of_a_daemon_that_is_killed_is_told_how_to_ask_for_its_durable_job() {
    let place = Place::new();
    let mut daemon = place.daemon();
    let client = daemon.submit(SPIN, &["--durable", "--timeout", "10m"]);
    let mut listed = String::new();
    eventually("the job to run", || {
        listed = String::from_utf8(ask(&daemon, &["ps"]).stdout).unwrap();
        listed.contains("running")
    });
    daemon.signal(Signal::SIGKILL);
    daemon.end();
    let output = client.output();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125), "{said}");
    let (_, job) = said.split_once("`stockade result ").unwrap_or_else(|| panic!("{said}"));
    let job = job.split_once('`').unwrap().0;
    assert!(listed.contains(job));
    let daemon = place.daemon();
    assert_eq!(outcome(&daemon, job), ("worker_lost".to_owned(), "supervisor_restarted".to_owned()));
}

#[test]
fn durable_job_where_no_journal_is_kept_is_refused() {
    let daemon = Daemon::start(&[]);
    let client = daemon.submit(SAYS_HELLO, &["--durable"]);
    assert_eq!(client.outcome(), ("denied".to_owned(), "not_durable".to_owned()));
}

/// What a daemon says that is started on this socket with the journal of that place.
fn refused(place: &Place, directory: &TempDir) -> String {
    let output =
        stockade(directory).arg("serve").env("STOCKADE_DURABLE_DIRECTORY", place.journal()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{said}");
    said
}

#[test]
fn journal_is_a_daemons_own_from_before_its_first_connection() {
    let place = Place::new();
    // Returns once it accepts connections, which may be long before its walls are tried.
    let first = place.daemon();
    let said = refused(&place, &TempDir::new().unwrap());
    assert!(said.contains("another daemon keeps its journal"), "{said}");
    // Whoever finds the journal another's has not come to its socket, be that as it may: this one could not be had.
    let directory = TempDir::new().unwrap();
    let _foreign = UnixListener::bind(directory.path().join("socket")).unwrap();
    let said = refused(&place, &directory);
    assert!(said.contains("another daemon keeps its journal"), "{said}");
    // The same daemon twice is told so, and not that its journal is in use.
    let said = refused(&place, &first.directory);
    assert!(said.contains(&format!("a stockade daemon (pid {}) already serves", first.pid())), "{said}");
}
