//! What the daemon logs, and what it never does.

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::rig::{Daemon, Mode, Place, guest, submission};

const SECRET: &str = "hunter2-correct-horse";

/// Runs one job and gives the daemon's whole log.
fn log_of_one_job(place: Place) -> (String, String) {
    let daemon = Daemon::start(place);
    let mut submission = submission("print_args_env");
    submission.arguments = vec![format!("argument-{SECRET}")];
    submission.environment = vec![("TOKEN".to_owned(), format!("value-{SECRET}"))];
    submission.input = format!("input-{SECRET}").into_bytes().into();
    let mut client = daemon.client();
    let job = client.submit(submission).unwrap();
    let result = client.result(&job);
    assert!(String::from_utf8_lossy(&result.output.0).contains(&format!("TOKEN=value-{SECRET}")));
    drop(client);
    daemon.signal(Signal::SIGTERM);
    let (status, log, _) = daemon.end();
    assert_eq!(status, Some(0), "{log}");
    (job, log)
}

#[test]
fn json_log_is_an_object_a_line_with_the_jobs_id_from_beginning_to_end() {
    let place = Place::new(Mode::Jailed).set("LOG_FORMAT", "json").set("LOG_FILTER", "stockade=debug,info");
    let (job, log) = log_of_one_job(place);
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    for line in &lines {
        for field in ["timestamp", "level", "fields"] {
            assert!(!line[field].is_null(), "{line}");
        }
    }
    let mine: Vec<&str> = lines
        .iter()
        .filter(|line| line["span"]["job"] == job.as_str())
        .map(|line| line["fields"]["message"].as_str().unwrap())
        .collect();
    for step in ["module ready", "place free", "worker has the job", "run over", "job over", "close"] {
        assert!(mine.contains(&step), "no line {step:?} of {job}: {mine:?}");
    }
    let over = lines.iter().find(|line| line["fields"]["message"] == "job over").unwrap();
    assert_eq!(over["fields"]["verdict"], "completed");
    assert!(over["fields"]["wall_us"].as_u64() > Some(0));
}

#[test]
fn log_never_holds_what_a_job_was_given() {
    for format in ["text", "json"] {
        let place = Place::new(Mode::Jailed).set("LOG_FORMAT", format).set("LOG_FILTER", "trace");
        let (job, log) = log_of_one_job(place);
        assert!(log.contains(&job));
        assert!(!log.contains(SECRET), "{format}: {log}");
    }
}

#[test]
fn filter_chooses_levels_by_module() {
    let messages = |filter: &str| log_of_one_job(Place::new(Mode::Jailed).set("LOG_FILTER", filter)).1;
    let debug = messages("stockade=debug");
    assert!(debug.contains("DEBUG") && debug.contains("job over"), "{debug}");
    let one = messages("stockade::supervisor=info");
    assert!(one.contains("job over") && !one.contains("DEBUG") && !one.contains("ready"), "{one}");
    assert_eq!(messages("error"), "", "nothing went wrong");
    let refused = Place::new(Mode::Jailed).set("LOG_FILTER", "stockade=loud");
    let ran = crate::rig::ran(&mut refused.stockade(["serve"]), b"");
    assert!(ran.status == Some(125) && ran.stderr.contains("log.filter"), "{}", ran.stderr);
}

#[test]
fn failure_is_logged_with_what_the_system_said() {
    let place = Place::new(Mode::Jailed);
    place.run(&[], &guest("nothing"));
    let kept = place.artifacts().remove(0);
    std::fs::remove_file(&kept).unwrap();
    std::fs::create_dir(&kept).unwrap();
    // Neither can be read what is there, nor written what should be.
    let daemon = Daemon::start(place.set("LOG_FORMAT", "json"));
    assert_eq!(daemon.submit(&[], &guest("nothing")).short(), "completed - - - 0");
    daemon.signal(Signal::SIGTERM);
    let (_, log, _) = daemon.end();
    for what in ["cached artifact not used", "artifact not kept on disk"] {
        let line = log.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("{what}: {log}"));
        let line: Value = serde_json::from_str(line).unwrap();
        let error = line["fields"]["error"].as_str().unwrap();
        assert!(error.contains(kept.to_str().unwrap()) && error.contains("(Is a directory"), "{error}");
    }
}

#[test]
fn run_says_nothing_of_its_own_unless_it_is_asked_to() {
    let place = Place::new(Mode::Jailed);
    let quiet = crate::rig::ran(place.stockade(["run"]).arg(guest("nothing")), b"");
    assert_eq!(quiet.stderr, "");
    let told = |variable: &str, filter: &str| {
        crate::rig::ran(place.stockade(["run"]).env(variable, filter).arg(guest("nothing")), b"")
    };
    for variable in ["STOCKADE_LOG_FILTER", "RUST_LOG"] {
        let stderr = told(variable, "info").stderr;
        assert!(stderr.contains("job over"), "{variable}: {stderr}");
    }
    // It is a filter, and not only there.
    assert_eq!(told("RUST_LOG", "error").stderr, "");
    assert!(told("RUST_LOG", "stockade=debug").stderr.contains("DEBUG"));
    let refused = told("RUST_LOG", "stockade=loud");
    assert_eq!(refused.status, Some(125));
    assert!(refused.stderr.starts_with("stockade: RUST_LOG: `log.filter` cannot be "), "{}", refused.stderr);
}
