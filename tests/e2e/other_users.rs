//! One user's jobs are nobody else's business.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use stockade_wire::job::{DirectoryGrant, Phase};

use crate::rig::{Daemon, Mode, Place, Ran, is_root, ran, submission, text};

/// A user who is neither root nor whom workers run as.
const SOMEBODY: u32 = 47_114;

/// A daemon whose socket anybody may use, and the program where anybody may execute it.
fn daemon_for_all(settings: &[(&str, &str)]) -> Option<(Daemon, PathBuf)> {
    if !is_root() {
        println!("not run: root");
        return None;
    }
    let place = Place::new(Mode::Jailed).set("CLIENTS_SOCKET_MODE", "0666");
    let place = settings.iter().fold(place, |place, (name, value)| place.set(name, value));
    let program = place.for_all(&["nothing", "flood_stderr_lines", "reads_a_file"]);
    Some((Daemon::start(place), program))
}

/// The program, run by somebody.
fn by_somebody(daemon: &Daemon, program: &Path, words: &[&str]) -> Ran {
    let mut command = Command::new(program);
    let socket = daemon.socket();
    command.env_clear().args(["--socket", socket.to_str().unwrap()]).args(words);
    command.current_dir("/").uid(SOMEBODY).gid(SOMEBODY);
    ran(command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()), b"")
}

#[test]
fn job_of_another_user_cannot_be_seen_read_or_ended() {
    let Some((daemon, program)) = daemon_for_all(&[]) else { return };
    let mut client = daemon.client();
    let job = client.submit(submission("flood_stderr_lines")).unwrap();
    daemon.await_log(&job);
    let theirs = |words: &[&str]| by_somebody(&daemon, &program, words);
    let listed = theirs(&["ps", "--json"]);
    assert_eq!((listed.status, text(&listed.stdout).trim()), (Some(0), "[]"), "{}", listed.stderr);
    for command in ["cancel", "logs"] {
        let refused = theirs(&[command, &job]);
        let never_there = theirs(&[command, "01JD8GQ0V7XJ5W3T9C0N4R6M2K"]);
        assert_eq!((refused.status, never_there.status), (Some(1), Some(1)), "{command}");
        assert!(refused.stdout.is_empty());
        let same = never_there.stderr.replace("01JD8GQ0V7XJ5W3T9C0N4R6M2K", &job);
        assert_eq!(refused.stderr, same, "the answer does not tell whether it exists");
    }
    client.await_phase(&job, Phase::Running);
    // Their own they see, and so does root.
    let path = daemon.place.path("nothing");
    let own = theirs(&["submit", "--detach", path.to_str().unwrap()]);
    assert_eq!(own.status, Some(0), "{}", own.stderr);
    let own = text(&own.stdout).trim().to_owned();
    assert!(text(&theirs(&["ps"]).stdout).contains(&own));
    assert_eq!(client.result(&own).tenant, format!("uid:{SOMEBODY}"));
    assert_eq!(theirs(&["logs", &own]).status, Some(0));
    client.ask(async |client| client.cancel(&job).await).unwrap();
}

#[test]
fn directory_of_the_daemons_is_not_another_users_to_grant() {
    let granted = tempfile::tempdir().unwrap();
    let granted = granted.path().canonicalize().unwrap();
    let listed = granted.join("listed");
    let private = listed.join("private");
    std::fs::create_dir_all(&private).unwrap();
    for (directory, mode) in [(&granted, 0o755), (&listed, 0o755), (&private, 0o700)] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::write(directory.join("letter"), "for all").unwrap();
        std::fs::set_permissions(directory, mode).unwrap();
    }
    let setting = [("GRANTS_DIRECTORIES", listed.to_str().unwrap())];
    let Some((daemon, program)) = daemon_for_all(&setting) else { return };
    let reads = daemon.place.path("reads_a_file");
    let read = |directory: &Path| {
        let grant = format!("{}::/data", directory.display());
        let words = ["submit", "--json", "--dir", &grant, reads.to_str().unwrap(), "letter"];
        let ran = by_somebody(&daemon, &program, &words);
        let result: serde_json::Value =
            serde_json::from_slice(&ran.stdout).unwrap_or_else(|_| panic!("no result: {}", ran.stderr));
        (ran.status, crate::rig::short(&result["outcome"]), result["output"].clone())
    };
    assert_eq!(read(&granted), (Some(126), "denied directory - operator".to_owned(), "".into()));
    assert_eq!(read(&listed), (Some(0), "completed - - -".to_owned(), "for all".into()));
    // Root may grant any directory.
    let mut client = daemon.client();
    let mut reading = submission("reads_a_file");
    reading.arguments = vec!["letter".to_owned()];
    let host = granted.to_str().unwrap().to_owned();
    reading.directories = vec![DirectoryGrant { host, guest: "/data".to_owned(), writable: false }];
    assert_eq!(client.run(reading).unwrap().output.0, b"for all");
    let _ = private;
}

#[test]
fn socket_that_is_not_for_all_lets_nobody_else_in() {
    let Some((daemon, program)) = daemon_for_all(&[("CLIENTS_SOCKET_MODE", "0600")]) else { return };
    let refused = by_somebody(&daemon, &program, &["ps"]);
    assert_eq!(refused.status, Some(1));
    assert!(refused.stderr.contains("may not connect"), "{}", refused.stderr);
}
