//! Why a configuration is refused.
//!
//! Owns: the words; each names the place, the key and what is allowed.
//! Never: decides.

use std::fmt;
use std::path::PathBuf;

/// Where a setting came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// A line of a file.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        name: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment { name } => f.write_str(name),
        }
    }
}

/// What a file of settings is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileRole {
    /// The configuration.
    Configuration,
    /// One job's profile.
    Profile,
}

impl FileRole {
    /// How another one is named.
    const fn flags(self) -> &'static str {
        match self {
            Self::Configuration => "--config or STOCKADE_CONFIG",
            Self::Profile => "--profile",
        }
    }
}

impl fmt::Display for FileRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configuration => "configuration",
            Self::Profile => "profile",
        })
    }
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the {role} file {path}; name another with {}", .role.flags())]
    Read {
        /// What it is for.
        role: FileRole,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is not a regular file.
    #[error("the {role} {path} is not a regular file; name one with {}", .role.flags())]
    NotAFile {
        /// What it is for.
        role: FileRole,
        /// What was named.
        path: PathBuf,
    },
    /// The file is larger than any configuration.
    #[error("the {role} file {path} is larger than {max} bytes; that is not a {role}")]
    FileTooLarge {
        /// What it is for.
        role: FileRole,
        /// The file.
        path: PathBuf,
        /// What is accepted.
        max: u64,
    },
    /// The file is not UTF-8.
    #[error("{origin}: not UTF-8; save the file as UTF-8")]
    FileNotUnicode {
        /// The file and the line of the first bad byte.
        origin: Origin,
    },
    /// The file is not TOML.
    #[error("{origin}: not TOML: {message}")]
    Syntax {
        /// File and line.
        origin: Origin,
        /// The parser's words.
        message: String,
    },
    /// There is no such setting.
    #[error("{origin}: there is no setting `{key}`{}; `stockade config check` lists all", suggestion(.nearest.as_deref()))]
    UnknownKey {
        /// Where.
        origin: Origin,
        /// Its dotted name.
        key: String,
        /// The most similar name there is.
        nearest: Option<String>,
    },
    /// The variable looks like a setting and is none.
    #[error("environment: `{name}` is no setting{}; unset it", suggestion(.nearest.as_deref()))]
    UnknownVariable {
        /// The variable.
        name: String,
        /// The most similar name there is.
        nearest: Option<String>,
    },
    /// A section was expected.
    #[error("{origin}: `{key}` is a section; write [{key}] and its settings below")]
    NotASection {
        /// Where.
        origin: Origin,
        /// Its name.
        key: String,
    },
    /// A value that is not allowed.
    #[error("{origin}: `{key}` cannot be {given}: {why}; allowed: {allowed}")]
    BadValue {
        /// Where.
        origin: Origin,
        /// Its dotted name.
        key: Box<str>,
        /// What was written, shortened.
        given: Box<str>,
        /// What is wrong with it.
        why: Box<str>,
        /// What could be written instead.
        allowed: Box<str>,
    },
    /// A name of a profile or a warm-up that is none.
    #[error("{origin}: `{name}` cannot name a {called}; allowed: up to 64 of a-z, 0-9 and -, a letter first")]
    Name {
        /// What it was to name.
        called: &'static str,
        /// Where.
        origin: Origin,
        /// The name, shortened.
        name: String,
    },
    /// Two settings that contradict each other.
    #[error("{origin}: `{key}` = {given} contradicts the rest of the configuration: {rule}")]
    Conflict {
        /// Where the first of them was set.
        origin: Origin,
        /// The setting.
        key: Box<str>,
        /// Its value.
        given: Box<str>,
        /// What must hold and what to change.
        rule: Box<str>,
    },
    /// The built-in defaults lack a setting: a fault of this build.
    #[error("this build has no default for `{key}`; set it, and report the fault")]
    NoDefault {
        /// The setting.
        key: String,
    },
}

impl ConfigError {
    /// The same of settings that are written without the section `prefix` they are read as.
    pub(super) fn below(mut self, prefix: &str) -> Self {
        let short = |key: &str| {
            let rest = key.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.'));
            rest.unwrap_or(key).to_owned()
        };
        match &mut self {
            Self::UnknownKey { key, nearest, .. } => {
                *key = short(key);
                *nearest = nearest.as_deref().map(short);
            }
            Self::BadValue { key, .. } => *key = short(key).into(),
            Self::Read { .. }
            | Self::NotAFile { .. }
            | Self::FileTooLarge { .. }
            | Self::FileNotUnicode { .. }
            | Self::Syntax { .. }
            | Self::UnknownVariable { .. }
            | Self::NotASection { .. }
            | Self::Name { .. }
            | Self::Conflict { .. }
            | Self::NoDefault { .. } => {}
        }
        self
    }
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}
