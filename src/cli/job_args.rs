//! From a job's flags to what is submitted.
//!
//! Owns: [`JobArgs::submission`], and reading the module and the input it needs.
//! Never: decides a limit; what is not asked for is left to the profile.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use nix::sys::stat::{SFlag, fstat};
use stockade_wire::job::{DirectoryGrant, LimitsWanted, ModuleSource, Purpose, Submission};
use stockade_wire::limits::{
    DIRECTORIES_BYTES_MAX, DIRECTORIES_MAX, INPUT_BYTES_MAX, MODULE_BYTES_MAX, NAME_BYTES_MAX,
    PATH_BYTES_MAX, STRINGS_BYTES_MAX, STRINGS_MAX,
};

use super::args::JobArgs;
use super::grant::DirectoryWish;
use crate::config::{ProfileFile, ProfileFileError};
use crate::supervisor::module_kind::{self, ModuleKindError};

/// What `--input` takes for standard input.
const STANDARD_INPUT: &str = "-";

/// Why a job cannot be submitted as it was typed.
#[derive(Debug, thiserror::Error)]
pub enum ArgsError {
    /// A flag where FILE belongs.
    #[error("there is no flag `{flag}`{}; a file of that name is ./{flag}", suggestion(.nearest.as_deref()))]
    UnknownFlag {
        /// What was typed.
        flag: String,
        /// The most similar flag.
        nearest: Option<String>,
    },
    /// A file that cannot be read.
    #[error("cannot read {what} {path}; check the name and your permissions")]
    Read {
        /// The module or the input.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Standard input that is no stream of bytes for a guest.
    #[error(
        "standard input is a {kind}, which no guest is given; redirect a file or a pipe, or use --input FILE"
    )]
    InputKind {
        /// What it is.
        kind: &'static str,
    },
    /// A file larger than can travel.
    #[error("{what} {path} is larger than {max} bytes, the most that can be submitted")]
    TooLarge {
        /// The module or the input.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What can.
        max: usize,
    },
    /// Not a module.
    #[error("{path} {kind}")]
    ModuleKind {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        kind: ModuleKindError,
    },
    /// A profile file that is refused.
    #[error(transparent)]
    Profile(#[from] ProfileFileError),
    /// A directory that cannot be granted.
    #[error("cannot grant the directory {host}; it has to be there and to be yours to open")]
    Directory {
        /// As it was typed.
        host: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Something else than a directory.
    #[error("cannot grant {host}: it is not a directory; grant the directory it is in")]
    NotADirectory {
        /// As it was typed.
        host: String,
    },
    /// Two directories under one name.
    #[error("two directories are granted as {guest}; give one of them another name with HOST::GUEST")]
    SameGuest {
        /// The name.
        guest: String,
    },
    /// An environment variable twice.
    #[error("the variable {name} is granted twice; give it once")]
    SameVariable {
        /// Its name.
        name: String,
    },
    /// Text that cannot travel.
    #[error("{what} `{text}` is not UTF-8; only UTF-8 can be handed to a guest")]
    NotUnicode {
        /// An argument or a path.
        what: &'static str,
        /// It, as well as it can be shown.
        text: String,
    },
    /// More of something than can travel.
    #[error("too many {what}; at most {max} {unit}")]
    TooMany {
        /// Arguments, variables or directories.
        what: &'static str,
        /// The bound.
        max: usize,
        /// What it counts.
        unit: &'static str,
    },
    /// A name that is empty or too long.
    #[error("--{flag} has to have 1 to {NAME_BYTES_MAX} bytes, without control characters")]
    Name {
        /// The flag.
        flag: &'static str,
    },
}

impl JobArgs {
    /// The module's bytes, seen to be something that can run, so that what is not gets a clear answer before it
    /// travels. Blocks.
    ///
    /// # Errors
    /// As for [`Self::read_module`], and when it is nothing that can run.
    pub fn read_recognised_module(&self) -> Result<Vec<u8>, ArgsError> {
        let bytes = self.read_module()?;
        let path = Path::new(self.file());
        module_kind::recognise(&bytes)
            .map_err(|kind| ArgsError::ModuleKind { path: path.to_owned(), kind })?;
        Ok(bytes)
    }

    /// The module's bytes, whatever they are. Blocks.
    ///
    /// # Errors
    /// When FILE is a flag that does not exist, cannot be read or is too large.
    pub fn read_module(&self) -> Result<Vec<u8>, ArgsError> {
        let path = Path::new(self.file());
        let shown = self.file().to_string_lossy();
        if shown.starts_with('-') {
            let nearest = super::parse::nearest_flag(&shown);
            return Err(ArgsError::UnknownFlag { flag: shown.into_owned(), nearest });
        }
        read("the module", path, MODULE_BYTES_MAX)
    }

    /// Refuses a standard input that is a directory or a disk: a guest would hold something other than its input.
    ///
    /// # Errors
    /// When it is one, or cannot be looked at.
    pub fn check_standard_input(&self) -> Result<(), ArgsError> {
        let unread = |errno| ArgsError::Read {
            what: "the input",
            path: PathBuf::from(STANDARD_INPUT),
            source: std::io::Error::from(errno),
        };
        let about = fstat(std::io::stdin()).map_err(unread)?;
        match no_input(SFlag::from_bits_retain(about.st_mode)) {
            Some(kind) => Err(ArgsError::InputKind { kind }),
            None => Ok(()),
        }
    }

    /// The guest's input: `--input`, else standard input unless it is a terminal, else nothing. Blocks until its end.
    ///
    /// # Errors
    /// When it cannot be read or is too large.
    pub fn read_input(&self) -> Result<Vec<u8>, ArgsError> {
        let stdin = std::io::stdin();
        match &self.input {
            Some(path) if path.as_os_str() != STANDARD_INPUT => read("the input", path, INPUT_BYTES_MAX),
            None if stdin.is_terminal() => Ok(Vec::new()),
            Some(_) | None => {
                self.check_standard_input()?;
                bounded("the input", Path::new(STANDARD_INPUT), stdin.lock(), INPUT_BYTES_MAX)
            }
        }
    }

    /// What is submitted, with `module` and `input` as they were read. Resolves host paths, and reads the profile when
    /// it is a file; blocks.
    ///
    /// # Errors
    /// When a flag makes no sense, a granted directory is not there, or something is more than can travel.
    pub fn submission(&self, module: Vec<u8>, input: Vec<u8>) -> Result<Submission, ArgsError> {
        name_fits("entry", self.entry.as_deref())?;
        name_fits("tenant", self.tenant.as_deref())?;
        name_fits("request-id", self.request_id.as_deref())?;
        let (profile, limits) = self.profile_and_limits()?;
        Ok(Submission {
            module: ModuleSource::Bytes(module.into()),
            name: self.module_name(),
            entry: self.entry.clone(),
            arguments: self.arguments()?,
            input: input.into(),
            environment: self.environment()?,
            directories: self.directories()?,
            profile,
            limits,
            isolation: self.isolation.map(Into::into),
            tenant: self.tenant.clone(),
            require: self.require.iter().copied().collect::<BTreeSet<_>>().into_iter().collect(),
            traceparent: None,
            request_id: self.request_id.clone(),
            purpose: match (&self.cpu_profile, self.debug) {
                (Some(_), _) => Purpose::Profile,
                (None, true) => Purpose::Debug,
                (None, false) => Purpose::Run,
            },
        })
    }

    /// A profile's name, and the limits asked for: flags over a profile's file.
    ///
    /// # Errors
    /// When the profile is a file that is refused.
    pub fn profile_and_limits(&self) -> Result<(Option<String>, LimitsWanted), ArgsError> {
        let flags = LimitsWanted {
            timeout_us: self.timeout,
            grace_us: self.grace,
            memory_bytes: self.memory,
            fuel: self.fuel,
            cpu_us: self.cpu,
            output_bytes: self.output_limit,
            log_bytes: self.log_buffer,
        };
        match &self.profile {
            Some(name) if is_file(name) => {
                let file = ProfileFile::read(Path::new(name))?;
                Ok((None, over(flags, file.limits)))
            }
            Some(name) => {
                name_fits("profile", Some(name))?;
                Ok((Some(name.clone()), flags))
            }
            None => Ok((None, flags)),
        }
    }

    /// What people call the module: the last part of FILE.
    #[must_use]
    pub fn module_name(&self) -> String {
        let path = Path::new(self.file());
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let plain: String = name.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        let mut end = plain.len().min(NAME_BYTES_MAX);
        while !plain.is_char_boundary(end) {
            end -= 1;
        }
        plain.get(..end).unwrap_or_default().to_owned()
    }

    fn arguments(&self) -> Result<Vec<String>, ArgsError> {
        let arguments = self.guest_arguments();
        let bytes = arguments.iter().map(|argument| argument.len()).sum();
        bounds("arguments", arguments.len(), bytes)?;
        arguments.iter().map(|argument| unicode("the argument", argument)).collect()
    }

    fn environment(&self) -> Result<Vec<(String, String)>, ArgsError> {
        let bytes = self.env.iter().map(|grant| grant.name.len() + grant.value.len()).sum();
        bounds("environment variables", self.env.len(), bytes)?;
        let mut seen = BTreeSet::new();
        if let Some(grant) = self.env.iter().find(|grant| !seen.insert(&grant.name)) {
            return Err(ArgsError::SameVariable { name: grant.name.clone() });
        }
        Ok(self.env.iter().map(|grant| (grant.name.clone(), grant.value.clone())).collect())
    }

    fn directories(&self) -> Result<Vec<DirectoryGrant>, ArgsError> {
        if self.dir.len() > DIRECTORIES_MAX {
            return Err(ArgsError::TooMany {
                what: "directories",
                max: DIRECTORIES_MAX,
                unit: "directories",
            });
        }
        let mut seen = BTreeSet::new();
        if let Some(wish) = self.dir.iter().find(|wish| !seen.insert(&wish.guest)) {
            return Err(ArgsError::SameGuest { guest: wish.guest.clone() });
        }
        let grants = self.dir.iter().map(resolve).collect::<Result<Vec<_>, _>>()?;
        let bytes: usize = grants.iter().map(|grant| grant.host.len() + grant.guest.len()).sum();
        if bytes > DIRECTORIES_BYTES_MAX {
            let max = DIRECTORIES_BYTES_MAX;
            return Err(ArgsError::TooMany { what: "and too long directories", max, unit: "bytes of paths" });
        }
        Ok(grants)
    }
}

/// What a file of this mode is, if it is nothing a guest reads its input from.
fn no_input(mode: SFlag) -> Option<&'static str> {
    match mode & SFlag::S_IFMT {
        SFlag::S_IFDIR => Some("directory"),
        SFlag::S_IFBLK => Some("block device"),
        _ => None,
    }
}

/// Whether `--profile` names a file rather than a profile the daemon knows.
fn is_file(profile: &str) -> bool {
    let toml = Path::new(profile).extension().is_some_and(|extension| extension == "toml");
    profile.contains('/') || toml
}

fn over(flags: LimitsWanted, file: LimitsWanted) -> LimitsWanted {
    LimitsWanted {
        timeout_us: flags.timeout_us.or(file.timeout_us),
        grace_us: flags.grace_us.or(file.grace_us),
        memory_bytes: flags.memory_bytes.or(file.memory_bytes),
        fuel: flags.fuel.or(file.fuel),
        cpu_us: flags.cpu_us.or(file.cpu_us),
        output_bytes: flags.output_bytes.or(file.output_bytes),
        log_bytes: flags.log_bytes.or(file.log_bytes),
    }
}

fn resolve(wish: &DirectoryWish) -> Result<DirectoryGrant, ArgsError> {
    let failed = |source| ArgsError::Directory { host: wish.host.clone(), source };
    let path = std::fs::canonicalize(&wish.host).map_err(failed)?;
    if !path.is_dir() {
        return Err(ArgsError::NotADirectory { host: wish.host.clone() });
    }
    let host = unicode("the directory", path.as_os_str())?;
    if host.len() > PATH_BYTES_MAX || wish.guest.len() > PATH_BYTES_MAX {
        return Err(ArgsError::TooMany {
            what: "bytes in a directory's path",
            max: PATH_BYTES_MAX,
            unit: "bytes",
        });
    }
    Ok(DirectoryGrant { host, guest: wish.guest.clone(), writable: wish.writable })
}

fn unicode(what: &'static str, text: &OsStr) -> Result<String, ArgsError> {
    // No argument or path of the system holds a NUL; what is not UTF-8 is shown as well as it can be.
    text.to_str()
        .map(str::to_owned)
        .ok_or_else(|| ArgsError::NotUnicode { what, text: text.to_string_lossy().into_owned() })
}

fn bounds(what: &'static str, count: usize, bytes: usize) -> Result<(), ArgsError> {
    if count > STRINGS_MAX {
        return Err(ArgsError::TooMany { what, max: STRINGS_MAX, unit: "of them" });
    }
    if bytes > STRINGS_BYTES_MAX {
        return Err(ArgsError::TooMany { what, max: STRINGS_BYTES_MAX, unit: "bytes together" });
    }
    Ok(())
}

fn name_fits(flag: &'static str, name: Option<&str>) -> Result<(), ArgsError> {
    let fits = |name: &str| (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control);
    if name.is_none_or(fits) { Ok(()) } else { Err(ArgsError::Name { flag }) }
}

fn read(what: &'static str, path: &Path, max: usize) -> Result<Vec<u8>, ArgsError> {
    let failed = |source| ArgsError::Read { what, path: path.to_owned(), source };
    bounded(what, path, File::open(path).map_err(failed)?, max)
}

fn bounded(what: &'static str, path: &Path, from: impl Read, max: usize) -> Result<Vec<u8>, ArgsError> {
    let mut bytes = Vec::new();
    from.take(max as u64 + 1).read_to_end(&mut bytes).map_err(|source| ArgsError::Read {
        what,
        path: path.to_owned(),
        source,
    })?;
    if bytes.len() > max {
        return Err(ArgsError::TooLarge { what, path: path.to_owned(), max });
    }
    Ok(bytes)
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map(|flag| format!("; did you mean `{flag}`?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use clap::Parser;
    use stockade_wire::job::{Isolation, Layer};

    use super::super::args::{Cli, Command};
    use super::*;

    fn job(arguments: &[&str]) -> JobArgs {
        let line = ["stockade", "run"].iter().chain(arguments);
        match Cli::try_parse_from(line).unwrap().command {
            Command::Run(run) => run.job,
            other => panic!("{other:?}"),
        }
    }

    fn submission(arguments: &[&str]) -> Result<Submission, ArgsError> {
        job(arguments).submission(b"module".to_vec(), b"input".to_vec())
    }

    #[test]
    fn submission_without_flags_asks_for_nothing() {
        let made = submission(&["dir/prog.wasm"]).unwrap();
        let ModuleSource::Bytes(bytes) = &made.module else { panic!("no bytes") };
        assert_eq!((bytes.0.as_slice(), made.input.0.as_slice()), (&b"module"[..], &b"input"[..]));
        assert_eq!(made.name, "prog.wasm");
        assert_eq!(made.limits, LimitsWanted::default());
        assert_eq!((made.profile, made.isolation, made.tenant, made.entry), (None, None, None, None));
        assert!(made.arguments.is_empty() && made.environment.is_empty() && made.directories.is_empty());
    }

    #[test]
    fn submission_carries_every_flag() {
        let made = submission(&[
            "--env",
            "A=1",
            "--env=B=x=y",
            "--timeout",
            "500ms",
            "--grace",
            "0",
            "--memory",
            "64M",
            "--fuel",
            "1000",
            "--cpu",
            "2s",
            "--isolation",
            "tenant",
            "--profile",
            "script",
            "--entry",
            "go",
            "--tenant",
            "t",
            "--request-id",
            "r 1",
            "--debug",
            "--log-buffer",
            "4K",
            "--output-limit",
            "1M",
            "--require",
            "cgroup",
            "--require",
            "seccomp",
            "--require",
            "cgroup",
            "p.wat",
            "--json",
            "-x",
            "--",
            "last",
        ])
        .unwrap();
        assert_eq!(made.arguments, ["--json", "-x", "--", "last"]);
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(made.environment, [pair("A", "1"), pair("B", "x=y")]);
        assert_eq!(made.require, [Layer::Seccomp, Layer::Cgroup]);
        assert_eq!(made.isolation, Some(Isolation::Tenant));
        assert_eq!(made.profile.as_deref(), Some("script"));
        assert_eq!((made.entry.as_deref(), made.tenant.as_deref()), (Some("go"), Some("t")));
        assert_eq!((made.request_id.as_deref(), made.purpose), (Some("r 1"), Purpose::Debug));
        let wanted = LimitsWanted {
            timeout_us: Some(500_000),
            grace_us: Some(0),
            memory_bytes: Some(64 << 20),
            fuel: Some(1000),
            cpu_us: Some(2_000_000),
            output_bytes: Some(1 << 20),
            log_bytes: Some(4096),
        };
        assert_eq!(made.limits, wanted);
    }

    #[test]
    fn submission_has_absolute_host_paths_and_names_as_given() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().canonicalize().unwrap();
        std::fs::create_dir(real.join("data")).unwrap();
        std::os::unix::fs::symlink(real.join("data"), real.join("link")).unwrap();
        let link = real.join("link").display().to_string();
        let made =
            submission(&["--dir", &format!("{link}:ro"), "--dir", &format!("{link}::/in"), "p"]).unwrap();
        let host = real.join("data").display().to_string();
        let grant =
            |guest: &str, writable| DirectoryGrant { host: host.clone(), guest: guest.into(), writable };
        assert_eq!(made.directories, [grant(&link, false), grant("/in", true)]);
    }

    #[test]
    fn submission_that_makes_no_sense_is_refused() {
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        let message = |arguments: &[&str]| submission(arguments).unwrap_err().to_string();
        assert!(
            message(&["--dir", "/nonexistent", "p"]).starts_with("cannot grant the directory /nonexistent")
        );
        assert!(message(&["--dir", "/dev/null", "p"]).contains("not a directory"));
        assert!(message(&["--dir", "/", "--dir", "/tmp::/", "p"]).contains("granted as /;"));
        assert!(message(&["--env", "A=1", "--env", "A=2", "p"]).contains("A is granted twice"));
        assert!(message(&["--entry", "", "p"]).starts_with("--entry has to have 1 to 256 bytes"));
        assert!(message(&["--tenant", &long, "p"]).starts_with("--tenant"));
        assert!(message(&["--profile", &long, "p"]).starts_with("--profile"));
        assert!(message(&["--profile", "/nonexistent.toml", "p"]).contains("/nonexistent.toml"));
        let many = vec!["p"; STRINGS_MAX + 2];
        assert!(message(&many).contains("at most 1024 of them"));
        let large = "x".repeat(STRINGS_BYTES_MAX + 1);
        assert!(message(&["p", &large]).contains("bytes together"));
        let mut job = job(&["p"]);
        job.program.push(std::ffi::OsString::from_vec(vec![b'a', 0xff]));
        assert!(job.submission(vec![], vec![]).unwrap_err().to_string().contains("not UTF-8"));
    }

    #[test]
    fn profile_in_a_file_gives_way_to_flags() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mine.toml");
        std::fs::write(&path, "timeout = \"3s\"\nmemory_bytes = \"32M\"\n").unwrap();
        let made = submission(&["--profile", path.to_str().unwrap(), "--timeout", "1s", "p"]).unwrap();
        assert_eq!(made.profile, None);
        assert_eq!((made.limits.timeout_us, made.limits.memory_bytes), (Some(1_000_000), Some(32 << 20)));
    }

    #[test]
    fn module_is_read_and_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let read = |name: &str, bytes: &[u8]| {
            let path = directory.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            job(&[path.to_str().unwrap()]).read_recognised_module().map_err(|error| error.to_string())
        };
        assert_eq!(read("a.wat", b"(module)").unwrap(), b"(module)");
        assert_eq!(read("a.js", b"console.log(1)").unwrap(), b"console.log(1)");
        assert!(read("a.png", b"\x89PNG").unwrap_err().contains("neither WebAssembly nor text"));
        assert!(read("empty", b"").unwrap_err().contains("is empty"));
        let sparse = File::create(directory.path().join("big")).unwrap();
        sparse.set_len(MODULE_BYTES_MAX as u64 + 1).unwrap();
        let big = directory.path().join("big");
        let error = job(&[big.to_str().unwrap()]).read_module().unwrap_err();
        assert!(matches!(error, ArgsError::TooLarge { .. }), "{error}");
        let error = job(&["/nonexistent"]).read_module().unwrap_err();
        assert!(matches!(error, ArgsError::Read { .. }), "{error}");
    }

    #[test]
    fn flag_that_does_not_exist_is_refused_with_the_nearest() {
        let message = job(&["--timout", "5s", "p.wasm"]).read_module().unwrap_err().to_string();
        assert_eq!(
            message,
            "there is no flag `--timout`; did you mean `--timeout`?; a file of that name is ./--timout"
        );
        let message = job(&["-x", "p.wasm"]).read_module().unwrap_err().to_string();
        assert!(message.starts_with("there is no flag `-x`; a file"), "{message}");
        let message = job(&["--detach", "p.wasm"]).read_module().unwrap_err().to_string();
        assert!(message.starts_with("there is no flag `--detach`; a file"), "{message}");
    }

    #[test]
    fn input_from_a_directory_or_a_disk_is_none() {
        let executable = SFlag::from_bits_retain(0o755);
        assert_eq!(no_input(SFlag::S_IFDIR | executable), Some("directory"));
        assert_eq!(no_input(SFlag::S_IFBLK | executable), Some("block device"));
        for kind in [SFlag::S_IFREG, SFlag::S_IFIFO, SFlag::S_IFCHR, SFlag::S_IFSOCK] {
            assert_eq!(no_input(kind | executable), None);
        }
    }

    #[test]
    fn input_in_a_file_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("in");
        std::fs::write(&path, b"abc").unwrap();
        assert_eq!(job(&["--input", path.to_str().unwrap(), "p"]).read_input().unwrap(), b"abc");
    }
}
