//! `stockade doctor`: what this machine offers the jail, and what to do about the rest.
//!
//! Owns: looking at the places Stockade needs, and how findings are shown.
//! Never: says of a layer that it is there when no worker had it; runs a job.

use std::fmt::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::unistd::geteuid;
use serde::Serialize;

use super::bill::Colour;
use super::exit;
use super::output::{Output, message};
use super::render;
use super::walls::{self, Wall};
use crate::config::{self, Config, Mode};
use crate::supervisor::cgroup::{self, Discovery};
use crate::supervisor::logs::display::safe_text;
use crate::supervisor::{NoPressure, Startup, choose_pressure_file, examine_cache};

/// Longest line of a finding, bytes.
const LINE_BYTES_MAX: usize = 600;

/// Everything `doctor` found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Examination {
    /// Version of this executable.
    pub version: &'static str,
    /// Release of the running kernel.
    pub kernel: Option<String>,
    /// Architecture this executable was built for.
    pub architecture: &'static str,
    /// Effective user id.
    pub uid: u32,
    /// Where jobs would run: `jailed` or `in-process`.
    pub mode: &'static str,
    /// A service manager's own filter lies around this process.
    pub surrounding_filter: bool,
    /// Every layer.
    pub layers: Vec<Wall>,
    /// Why no start is possible from here, in a line; `None` when one is, and in the developer's mode.
    pub refused: Option<String>,
    /// The cache of compiled modules.
    pub cache: Place,
    /// The daemon's socket.
    pub socket: Place,
    /// Where it is known from how scarce memory is.
    pub pressure: Place,
    /// Jobs can run: a worker can be started, every required layer is there, and the cache can be used.
    pub ok: bool,
}

/// A place in the file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Where; `None` when there is none by configuration.
    pub path: Option<PathBuf>,
    /// Whether it can be used as it is meant.
    pub usable: bool,
    /// In words.
    pub state: String,
}

/// Looks: starts a zygote and one worker as a daemon would and ends them again, asks the kernel and the file system a
/// few short questions, and tries to connect to the socket. To be called on the main thread, outside any runtime.
#[must_use]
pub fn examine(startup: &Startup, socket_path: &Path) -> Examination {
    let config = &startup.config;
    let (layers, refused) = match config.mode {
        Mode::InProcess => (walls::survey(config), None),
        Mode::Jailed => {
            let (layers, trial) = walls::tried(startup);
            (layers, trial.refused)
        }
    };
    let cache = cache(&config.cache);
    Examination {
        version: env!("CARGO_PKG_VERSION"),
        kernel: stockade_worker::survey::kernel_release(),
        architecture: std::env::consts::ARCH,
        uid: geteuid().as_raw(),
        mode: match config.mode {
            Mode::Jailed => "jailed",
            Mode::InProcess => "in-process",
        },
        surrounding_filter: stockade_worker::survey::surrounding_filter(),
        socket: daemon(socket_path),
        pressure: pressure(config),
        ok: refused.is_none() && cache.usable && !layers.iter().any(Wall::is_fatal),
        cache,
        layers,
        refused,
    }
}

/// What `doctor` prints and exits with.
#[must_use]
pub fn report(examination: &Examination, json: bool, colour: Colour) -> Output {
    let status = if examination.ok { exit::SUCCESS } else { exit::FAILURE };
    if !json {
        return Output { stdout: text(examination, colour), status, ..Output::default() };
    }
    match render::line(examination) {
        Ok(line) => Output { stdout: format!("{line}\n"), status, ..Output::default() },
        Err(error) => Output::error(&error, exit::OWN_FAILURE),
    }
}

fn text(examination: &Examination, colour: Colour) -> String {
    let kernel = examination.kernel.as_deref().unwrap_or("of an unknown release");
    let mut text = format!(
        "stockade {} on Linux {kernel} ({}), as uid {}, mode {}\n",
        examination.version, examination.architecture, examination.uid, examination.mode
    );
    if let Some(refused) = &examination.refused {
        let _ = writeln!(
            text,
            "  {:<13} {} {}",
            "worker",
            colour.bad("REFUSED "),
            safe_text(refused, LINE_BYTES_MAX)
        );
    }
    for wall in &examination.layers {
        wall_lines(&mut text, wall, colour);
    }
    if examination.surrounding_filter {
        text.push_str(
            "a service manager's seccomp filter lies around this process; it holds for workers too\n",
        );
    }
    place_line(&mut text, "cache", &examination.cache, colour);
    place_line(&mut text, "socket", &examination.socket, colour);
    place_line(&mut text, "pressure", &examination.pressure, colour);
    let verdict = if examination.refused.is_some() {
        "no worker can be started: stockade will not run jobs here"
    } else if examination.layers.iter().any(Wall::is_fatal) {
        "a required layer is missing: stockade will not run jobs here"
    } else if !examination.cache.usable {
        "the cache cannot be used: stockade will not run jobs here"
    } else {
        "every required layer is there"
    };
    let _ = writeln!(text, "{}", if examination.ok { colour.good(verdict) } else { colour.bad(verdict) });
    text
}

fn wall_lines(text: &mut String, wall: &Wall, colour: Colour) {
    let state = match (wall.present, wall.required) {
        (true, _) => colour.good("present "),
        (false, true) => colour.bad("MISSING "),
        (false, false) => colour.warn("missing "),
    };
    let need = if wall.required { "required" } else { "optional" };
    let version = wall.version.as_deref().unwrap_or_default();
    let line = format!("  {:<13} {state} {need}  {}", wall.layer, safe_text(version, LINE_BYTES_MAX));
    let _ = writeln!(text, "{}", line.trim_end());
    for (label, words) in [("why", &wall.reason), ("fix", &wall.fix)] {
        if let Some(words) = words {
            let _ = writeln!(text, "{:>17}: {}", label, safe_text(words, LINE_BYTES_MAX));
        }
    }
}

fn place_line(text: &mut String, name: &str, place: &Place, colour: Colour) {
    let path = place.path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    let state = safe_text(&place.state, LINE_BYTES_MAX);
    let state = if place.usable { state } else { colour.warn(&state) };
    let _ = writeln!(text, "  {name:<13} {} {state}", safe_text(&path, LINE_BYTES_MAX));
}

fn cache(settings: &config::Cache) -> Place {
    let Some(directory) = &settings.directory else {
        let state = "off: modules are compiled again after every start".to_owned();
        return Place { path: None, usable: true, state };
    };
    let (usable, state) = match examine_cache(directory, settings.key_file.as_deref()) {
        Ok(true) => (true, "can be written".to_owned()),
        Ok(false) => (true, "will be made on first use".to_owned()),
        Err(error) => (false, message(&error)),
    };
    Place { path: Some(directory.clone()), usable, state }
}

/// Of a daemon started from here; one that runs says in its own statistics.
fn pressure(config: &Config) -> Place {
    let group = match cgroup::discover(&config.cgroup.root) {
        Discovery::Delegated(delegation) => Some(delegation.directory().to_owned()),
        Discovery::Absent(_) => None,
    };
    match choose_pressure_file(&config.pressure.file, group.as_deref()) {
        Ok(path) => Place { path: Some(path), usable: true, state: "can be read".to_owned() },
        Err(NoPressure::Off) => Place { path: None, usable: true, state: "off".to_owned() },
        Err(why) => {
            let state = format!("scarce memory is not noticed: {}", message(&why));
            Place { path: None, usable: false, state }
        }
    }
}

fn daemon(path: &Path) -> Place {
    let (usable, state) = match try_connect(path) {
        Ok(()) => (true, "a daemon answers"),
        // Its queue of connections is full, which takes a daemon.
        Err(Errno::EAGAIN) => (true, "a daemon is there and busy"),
        Err(Errno::ENOENT | Errno::ENOTDIR) => (true, "no daemon here; `stockade serve` starts one"),
        Err(Errno::ECONNREFUSED) => {
            (true, "a socket that a daemon left behind; `stockade serve` replaces it")
        }
        Err(Errno::EACCES) => (false, "not yours to connect to; join the group that owns it"),
        Err(Errno::ENAMETOOLONG) => (false, "too long for a socket's path; name a shorter one with --socket"),
        Err(_) => (false, "not a socket that can be used; name another with --socket"),
    };
    Place { path: Some(path.to_owned()), usable, state: state.to_owned() }
}

fn try_connect(path: &Path) -> Result<(), Errno> {
    let address = UnixAddr::new(path)?;
    // connect(2) on a Unix socket waits while the listener's backlog is full, unless it must not block.
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(socket.as_raw_fd(), &address)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::config::{CgroupRoot, PressureFile};

    fn sample() -> Examination {
        Examination {
            version: "0.1.0",
            kernel: Some("6.1.0".to_owned()),
            architecture: "x86_64",
            uid: 1000,
            mode: "jailed",
            surrounding_filter: false,
            layers: walls::sample(),
            refused: None,
            cache: Place { path: Some("/c".into()), usable: true, state: "can be written".to_owned() },
            socket: Place { path: Some("/s".into()), usable: true, state: "a daemon answers".to_owned() },
            pressure: Place { path: Some("/p".into()), usable: true, state: "can be read".to_owned() },
            ok: true,
        }
    }

    #[test]
    fn doctor_prints_every_layer_with_why_and_fix() {
        let expected = "\
stockade 0.1.0 on Linux 6.1.0 (x86_64), as uid 1000, mode jailed
  seccomp       present  required
  landlock      present  required  ABI 7
  cgroup        missing  optional
              why: it is not delegated
              fix: set Delegate=yes
  namespaces    present  optional
  no-new-privs  present  required
  rlimits       present  required
  capabilities  present  required
  mdwe          present  optional
  cache         /c can be written
  socket        /s a daemon answers
  pressure      /p can be read
every required layer is there
";
        let output = report(&sample(), false, Colour::Off);
        assert_eq!((output.stdout.as_str(), output.status), (expected, 0));
    }

    #[test]
    fn doctor_with_a_required_layer_missing_exits_1() {
        let mut examination = sample();
        examination.ok = false;
        examination.layers[2].required = true;
        let output = report(&examination, false, Colour::Off);
        assert_eq!(output.status, 1);
        assert!(output.stdout.contains("cgroup        MISSING  required\n"), "{}", output.stdout);
        let output = report(&examination, true, Colour::Off);
        let object: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!((output.status, &object["ok"]), (1, &false.into()));
        assert_eq!(object["layers"][2]["fix"], "set Delegate=yes");
    }

    #[test]
    fn doctor_with_no_worker_to_be_had_says_what_refused_it() {
        let mut examination = sample();
        examination.refused = Some("no zygote (it is tired)".to_owned());
        examination.ok = false;
        let output = report(&examination, false, Colour::Off);
        assert_eq!(output.status, 1);
        assert!(
            output.stdout.contains("  worker        REFUSED  no zygote (it is tired)\n"),
            "{}",
            output.stdout
        );
        assert!(output.stdout.ends_with("no worker can be started: stockade will not run jobs here\n"));
    }

    #[test]
    fn doctor_in_process_tries_no_worker() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::defaults().unwrap();
        config.mode = Mode::InProcess;
        let startup = Startup { executable: "/no/such/program".into(), ..Startup::new(config) };
        let examination = examine(&startup, &directory.path().join("none.sock"));
        assert!(examination.ok && examination.refused.is_none() && examination.kernel.is_some());
        assert!(examination.layers.iter().all(|wall| !wall.present && !wall.required));
    }

    #[test]
    fn doctor_whose_worker_cannot_be_started_finds_no_layer() {
        let directory = tempfile::tempdir().unwrap();
        let config = Config::defaults().unwrap();
        let startup = Startup { executable: "/no/such/program".into(), ..Startup::new(config) };
        let examination = examine(&startup, &directory.path().join("none.sock"));
        assert!(!examination.ok);
        assert!(examination.refused.unwrap().contains("/no/such/program"));
        assert!(examination.layers.iter().all(|wall| !wall.present || wall.layer == "cgroup"));
    }

    #[test]
    fn socket_is_told_by_who_answers() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let state = |path: &Path| daemon(path).state;
        assert!(state(&path).starts_with("no daemon here"));
        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(state(&path), "a daemon answers");
        drop(listener);
        assert!(state(&path).starts_with("a socket that a daemon left behind"));
        assert!(state(&directory.path().join("x".repeat(200))).starts_with("too long"));
        std::fs::write(directory.path().join("file"), b"").unwrap();
        assert!(!daemon(&directory.path().join("file/s")).state.is_empty());
    }

    #[test]
    fn cache_that_is_not_there_yet_will_be_made() {
        let directory = tempfile::tempdir().unwrap();
        let cache = |path: Option<&Path>| {
            let mut settings = Config::defaults().unwrap().cache;
            settings.directory = path.map(Path::to_owned);
            super::cache(&settings)
        };
        assert_eq!(cache(Some(directory.path())).state, "can be written");
        let deeper = cache(Some(&directory.path().join("a/b")));
        assert_eq!((deeper.usable, deeper.state.as_str()), (true, "will be made on first use"));
        assert!(cache(None).state.starts_with("off"));
        let unusable = cache(Some(Path::new("/dev/null/stockade")));
        assert!(!unusable.usable && unusable.state.contains("cannot "), "{}", unusable.state);
    }

    #[test]
    fn pressure_that_is_not_known_is_said_with_the_reason() {
        let mut config = Config::defaults().unwrap();
        config.cgroup.root = CgroupRoot::Off;
        let mut place = |file| {
            config.pressure.file = file;
            pressure(&config)
        };
        assert_eq!(place(PressureFile::Off).state, "off");
        let missing = place(PressureFile::Path("/no/such/file".into()));
        assert!(!missing.usable && missing.state.contains("/no/such/file"), "{}", missing.state);
        let found = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(found.path(), "some total=0\n").unwrap();
        assert_eq!(place(PressureFile::Path(found.path().into())).path.unwrap(), found.path());
    }

    #[test]
    fn doctor_with_a_cache_that_cannot_be_used_exits_1() {
        let mut examination = sample();
        examination.ok = false;
        examination.cache.usable = false;
        let output = report(&examination, false, Colour::Off);
        assert_eq!(output.status, 1);
        let last = output.stdout.lines().last();
        assert_eq!(last, Some("the cache cannot be used: stockade will not run jobs here"));
    }
}
