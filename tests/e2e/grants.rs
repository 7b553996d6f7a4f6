//! Directories that clients ask for by paths of their own making.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use stockade::client::ClientError;
use stockade_wire::client::RefusalReason;
use stockade_wire::job::DirectoryGrant;
use stockade_wire::limits::DIRECTORIES_MAX;

use crate::rig::{Daemon, Mode, Place, Ran, guest, is_root, ran, short_of, submission, text};

/// Neither root nor whom workers run as, nor each other.
const DAEMON: u32 = 47_121;
const CLIENT: u32 = 47_122;

const WIRE_CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/wire_client.py");

fn grant(host: &Path, writable: bool) -> DirectoryGrant {
    DirectoryGrant { host: host.to_str().unwrap().to_owned(), guest: "/data".to_owned(), writable }
}

/// A job that reads a file in a granted directory, by the typed client: what became of it.
fn read(daemon: &Daemon, directory: &Path, name: &str) -> Result<(String, String, String), ClientError> {
    let mut reading = submission("reads_a_file");
    reading.arguments = vec![name.to_owned()];
    reading.directories = vec![grant(directory, false)];
    let result = daemon.client().run(reading)?;
    let message = result.outcome.message.clone().unwrap_or_default();
    Ok((short_of(&result), text(&result.output.0), message))
}

fn directory_with_a_link_in_its_path_is_denied(mode: Mode) {
    let place = Place::new(mode);
    let root = place.path("").canonicalize().unwrap();
    fs::create_dir_all(root.join("real/below")).unwrap();
    for directory in ["real", "real/below"] {
        fs::write(root.join(directory).join("letter"), directory).unwrap();
    }
    symlink("real", root.join("door")).unwrap();
    symlink("below", root.join("real/last")).unwrap();
    let daemon = Daemon::start(place);
    for (path, contents) in [("real", "real"), ("real/below", "real/below")] {
        let (outcome, output, message) = read(&daemon, &root.join(path), "letter").unwrap();
        assert_eq!((outcome.as_str(), output.as_str()), ("completed - - -", contents), "{path}: {message}");
    }
    for path in ["door", "door/below", "real/last"] {
        let (outcome, output, message) = read(&daemon, &root.join(path), "letter").unwrap();
        let denied = ("denied directory - operator", "");
        assert_eq!((outcome.as_str(), output.as_str()), denied, "{path}: {message}");
        assert!(message.contains(path) && message.contains("give the resolved path"), "{message}");
    }
    // The command line resolves what it is given.
    let wish = format!("{}::/data", root.join("door").display());
    let ended = daemon.submit_on(b"", &["--dir", &wish], &guest("reads_a_file"), &["letter"]);
    assert_eq!((ended.short().as_str(), ended.output()), ("completed - - - 0", "real"));
}

#[test]
fn directory_with_a_link_in_its_path_is_denied_in_the_jail() {
    directory_with_a_link_in_its_path_is_denied(Mode::Jailed);
}

#[test]
fn directory_with_a_link_in_its_path_is_denied_in_process() {
    directory_with_a_link_in_its_path_is_denied(Mode::InProcess);
}

#[test]
fn as_many_directories_as_may_be_are_granted_within_the_limit_on_open_files() {
    let place = Place::new(Mode::Jailed);
    let root = place.path("").canonicalize().unwrap();
    let mut reading = submission("reads_a_file");
    reading.arguments = vec!["letter".to_owned()];
    for number in 0..DIRECTORIES_MAX {
        let directory = root.join(format!("directory-{number}"));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("letter"), number.to_string()).unwrap();
        reading.directories.push(grant(&directory, false));
    }
    let daemon = Daemon::start(place);
    let result = daemon.client().run(reading).unwrap();
    assert_eq!((short_of(&result).as_str(), text(&result.output.0).as_str()), ("completed - - -", "0"));
}

#[test]
fn directory_that_holds_what_is_stockade_s_own_is_granted_to_nobody() {
    let place = Place::new(Mode::Jailed);
    let root = place.path("").canonicalize().unwrap();
    let beside = root.join("beside");
    fs::create_dir(&beside).unwrap();
    fs::write(beside.join("letter"), "for the guest").unwrap();
    let key = place.path("keys/key");
    fs::create_dir(root.join("keys")).unwrap();
    let daemon = Daemon::start(place.set("CACHE_KEY_FILE", key.to_str().unwrap()));
    let above = root.parent().unwrap().to_owned();
    for path in [above, root.clone(), root.join("cache"), root.join("keys"), Path::new("/").to_owned()] {
        match read(&daemon, &path, "key") {
            Err(ClientError::Refused(refusal)) => {
                assert_eq!(refusal.reason, RefusalReason::Directory);
                assert!(refusal.message.contains("Stockade's own"), "{}", refusal.message);
            }
            other => panic!("{}: {other:?}", path.display()),
        }
    }
    let engine = fs::read_dir(root.join("cache")).unwrap().next().unwrap().unwrap().path();
    assert!(matches!(read(&daemon, &engine, "any"), Err(ClientError::Refused(_))));
    assert_eq!(read(&daemon, &beside, "letter").unwrap().1, "for the guest");
}

/// A client that resolves nothing, run by `user`.
fn by_wire(user: u32, daemon: &Daemon, grant: &str, (program, arguments): (&str, &[&str])) -> Ran {
    let path = |name: &str| daemon.place.path(name);
    let mut client = Command::new("python3");
    client.env_clear().arg(path("wire_client.py")).arg(daemon.socket()).args(["--dir", grant]);
    client.arg(path(program)).args(arguments).current_dir("/").uid(user).gid(user);
    ran(client.stdout(Stdio::piped()).stderr(Stdio::piped()), b"")
}

#[test]
fn link_made_in_a_listed_directory_does_not_lead_to_what_the_daemon_may_read() {
    if !is_root() {
        println!("not run: root");
        return;
    }
    if Command::new("python3").arg("--version").output().is_err() {
        println!("not run: python3");
        return;
    }
    let place = Place::new(Mode::Jailed);
    let root = place.path("").canonicalize().unwrap();
    let (shared, private) = (root.join("shared"), root.join("private"));
    let place = place.set("CLIENTS_SOCKET_MODE", "0666").set("GRANTS_DIRECTORIES", shared.to_str().unwrap());
    let program = place.for_all(&["makes_a_link", "reads_a_file"]);
    fs::copy(WIRE_CLIENT, root.join("wire_client.py")).unwrap();
    for (directory, owner, mode) in
        [(&root, DAEMON, 0o755), (&shared, CLIENT, 0o777), (&private, DAEMON, 0o700)]
    {
        fs::create_dir_all(directory).unwrap();
        fs::write(directory.join("letter"), "for whoever may").unwrap();
        chown(directory, Some(owner), Some(owner)).unwrap();
        fs::set_permissions(directory, fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut serve = place.command(&program, ["serve"]);
    serve.current_dir("/").uid(DAEMON).gid(DAEMON);
    let daemon = Daemon::started(place, serve);
    let below = |path: &str| format!("{}::/data", shared.join(path).display());

    // What there is to be had: the guest may make links, and the directory is readable to the daemon alone.
    for (target, name) in [("../private", "door"), ("../cache", "vault"), (".", "self")] {
        let made = by_wire(CLIENT, &daemon, &below(""), ("makes_a_link", &[target, name]));
        assert_eq!(made.status, Some(0), "{}", made.stderr);
    }
    assert!(root.join("cache/key").is_file(), "the key is where it is looked for");
    let through = by_wire(CLIENT, &daemon, &below(""), ("reads_a_file", &["letter"]));
    assert_eq!((through.status, text(&through.stdout).as_str()), (Some(0), "for whoever may"));

    for (path, file) in [("door", "letter"), ("vault", "key"), ("self/door", "letter"), ("self", "letter")] {
        let refused = by_wire(CLIENT, &daemon, &below(path), ("reads_a_file", &[file]));
        assert_eq!((refused.status, refused.stdout.as_slice()), (Some(1), &b""[..]), "{path}");
        assert!(refused.stderr.contains(": denied"), "{path}: {}", refused.stderr);
    }
    // It was not the daemon's lack of rights.
    let private = format!("{}::/data:ro", private.display());
    let own = by_wire(DAEMON, &daemon, &private, ("reads_a_file", &["letter"]));
    assert_eq!((own.status, text(&own.stdout).as_str()), (Some(0), "for whoever may"), "{}", own.stderr);
}
