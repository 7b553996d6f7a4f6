//! What kinds of settings there are, and reading one from a file or from text.
//!
//! Owns: the bounds and the words for what is allowed.
//! Never: knows which settings exist.

use std::collections::BTreeSet;
use std::path::{Component, PathBuf};
use std::time::Duration;

use stockade_wire::job::Layer;

use super::RunAs;
use super::units::{self, UnitError};

/// Longest piece of a refused value that a message repeats, characters.
const SHOWN_CHARS_MAX: usize = 60;

/// Longest text, path or list a setting may hold, bytes.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// Permission bits a socket can use: read and write.
const SOCKET_MODE_BITS: u32 = 0o666;

/// What a setting may be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// A duration within bounds, µs.
    Duration { min_us: u64, max_us: u64 },
    /// A duration within bounds, µs, or `none`.
    MaybeDuration { min_us: u64, max_us: u64 },
    /// A size within bounds, bytes.
    Size { min: u64, max: u64 },
    /// A size within bounds, bytes, or `none`.
    MaybeSize { min: u64, max: u64 },
    /// A whole number within bounds.
    Count { min: u64, max: u64 },
    /// A whole number within bounds, or `none`.
    MaybeCount { min: u64, max: u64 },
    /// `true` or `false`.
    Flag,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Any text that is not empty.
    Text,
    /// Any text, or empty for none.
    MaybeText,
    /// User ids; in text, separated by `,`.
    Uids,
    /// An absolute path, or empty for none.
    Path,
    /// Absolute paths; in text, separated by `:`.
    Paths,
    /// `auto`, `off` (or empty) or an absolute path.
    Location,
    /// Names of layers; in text, separated by `,`.
    Layers,
    /// `UID:GID`, neither 0.
    Ids,
    /// Octal permission bits.
    SocketMode,
}

/// A setting's value, checked against its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Duration(Duration),
    Size(u64),
    Count(u64),
    Flag(bool),
    Choice(&'static str),
    Text(String),
    MaybeText(Option<String>),
    Uids(BTreeSet<u32>),
    Path(Option<PathBuf>),
    Paths(Vec<PathBuf>),
    Location(Location),
    Layers(BTreeSet<Layer>),
    Ids(RunAs),
    Mode(u32),
    None,
}

/// A place that can be chosen by itself, be nowhere, or be named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Location {
    Auto,
    Off,
    Path(PathBuf),
}

/// A value as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Written {
    /// Text: a TOML string or an environment variable.
    Text(String),
    /// A TOML number, in decimal.
    Number(String),
    /// A TOML boolean.
    Flag(bool),
    /// A TOML array of strings.
    List(Vec<String>),
    /// Anything else TOML has, by its name.
    Other(&'static str),
}

impl Written {
    /// As a message repeats it.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Text(text) => quoted(text),
            Self::Number(text) => shortened(text),
            Self::Flag(flag) => flag.to_string(),
            Self::List(items) => shortened(&format!("{items:?}")),
            Self::Other(kind) => format!("a TOML {kind}"),
        }
    }

    fn text(&self) -> Result<&str, String> {
        match self {
            Self::Text(text) if text.len() > TEXT_BYTES_MAX => {
                Err(format!("longer than {TEXT_BYTES_MAX} bytes"))
            }
            Self::Text(text) if text.chars().any(char::is_control) => {
                Err("has control characters".to_owned())
            }
            Self::Text(text) => Ok(text),
            Self::Number(_) | Self::Flag(_) | Self::List(_) | Self::Other(_) => Err("not a text".to_owned()),
        }
    }

    fn figure(&self) -> Result<&str, String> {
        match self {
            Self::Number(text) | Self::Text(text) => Ok(text),
            Self::Flag(_) | Self::List(_) | Self::Other(_) => Err("not a figure".to_owned()),
        }
    }

    fn items(&self, separator: char) -> Result<Vec<String>, String> {
        match self {
            Self::List(items) => Ok(items.clone()),
            Self::Text(_) => {
                let text = self.text()?;
                let items = text.split(separator).map(str::trim).filter(|item| !item.is_empty());
                Ok(items.map(str::to_owned).collect())
            }
            // One is a list, too, where its members are numbers.
            Self::Number(number) => Ok(vec![number.clone()]),
            Self::Flag(_) | Self::Other(_) => Err("not a list".to_owned()),
        }
    }
}

/// `text` in quotes, its control characters made visible, cut to a readable length.
pub(super) fn quoted(text: &str) -> String {
    shortened(&format!("{text:?}"))
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= SHOWN_CHARS_MAX {
        return text.to_owned();
    }
    text.chars().take(SHOWN_CHARS_MAX).chain(std::iter::once('…')).collect()
}

impl Kind {
    /// What may be written, for messages and documents.
    pub(super) fn allowed(self) -> String {
        match self {
            Self::Duration { min_us, max_us } => durations(min_us, max_us),
            Self::MaybeDuration { min_us, max_us } => format!("none, or {}", durations(min_us, max_us)),
            Self::Size { min, max } => sizes(min, max),
            Self::MaybeSize { min, max } => format!("none, or {}", sizes(min, max)),
            Self::Count { min, max } => format!("a whole number from {min} to {max}"),
            Self::MaybeCount { min, max } => format!("none, or a whole number from {min} to {max}"),
            Self::Flag => "true or false".to_owned(),
            Self::Choice(words) => words.join(" or "),
            Self::Text => "a text".to_owned(),
            Self::MaybeText => "a text, or nothing".to_owned(),
            Self::Uids => "user ids, such as 1000".to_owned(),
            Self::Path => "an absolute path, or nothing".to_owned(),
            Self::Paths => "absolute paths without `..`".to_owned(),
            Self::Location => "auto, off or an absolute path".to_owned(),
            Self::Layers => format!("any of {}", Layer::ALL.map(Layer::name).join(", ")),
            Self::Ids => "UID:GID, neither 0, such as 65534:65534".to_owned(),
            Self::SocketMode => "octal permissions of read and write, such as 0660".to_owned(),
        }
    }

    /// Reads a value of this kind.
    ///
    /// # Errors
    /// What is wrong with it, in a few words.
    pub(super) fn read(self, written: &Written) -> Result<Value, String> {
        match self {
            Self::MaybeDuration { .. } | Self::MaybeSize { .. } | Self::MaybeCount { .. }
                if *written == Written::Text("none".into()) =>
            {
                Ok(Value::None)
            }
            Self::Duration { min_us, max_us } | Self::MaybeDuration { min_us, max_us } => {
                let duration = units::parse_duration(written.figure()?).map_err(why)?;
                within(duration, Duration::from_micros(min_us), Duration::from_micros(max_us))
                    .map(Value::Duration)
            }
            Self::Size { min, max } | Self::MaybeSize { min, max } => {
                let bytes = units::parse_size(written.figure()?).map_err(why)?;
                within(bytes, min, max).map(Value::Size)
            }
            Self::Count { min, max } | Self::MaybeCount { min, max } => {
                let count = units::parse_count(written.figure()?).map_err(why)?;
                within(count, min, max).map(Value::Count)
            }
            Self::Flag => flag(written).map(Value::Flag),
            Self::Choice(words) => {
                let text = written.text()?;
                let word = words.iter().find(|word| **word == text);
                word.map(|word| Value::Choice(word)).ok_or_else(|| "not one of the words".to_owned())
            }
            Self::Text => match written.text()? {
                "" => Err("empty".to_owned()),
                text => Ok(Value::Text(text.to_owned())),
            },
            Self::MaybeText => match written.text()? {
                "" => Ok(Value::MaybeText(None)),
                text => Ok(Value::MaybeText(Some(text.to_owned()))),
            },
            Self::Uids => {
                let items = written.items(',')?;
                items.iter().map(|item| uid(item)).collect::<Result<_, _>>().map(Value::Uids)
            }
            Self::Path => match written.text()? {
                "" => Ok(Value::Path(None)),
                text => absolute(text).map(|path| Value::Path(Some(path))),
            },
            Self::Paths => {
                let items = written.items(':')?;
                items.iter().map(|item| absolute(item)).collect::<Result<_, _>>().map(Value::Paths)
            }
            Self::Location => match written.text()? {
                "auto" => Ok(Value::Location(Location::Auto)),
                "off" | "" => Ok(Value::Location(Location::Off)),
                text => absolute(text).map(|path| Value::Location(Location::Path(path))),
            },
            Self::Layers => {
                let items = written.items(',')?;
                items.iter().map(|item| layer(item)).collect::<Result<_, _>>().map(Value::Layers)
            }
            Self::Ids => ids(written.text()?).map(Value::Ids),
            Self::SocketMode => socket_mode(written).map(Value::Mode),
        }
    }
}

impl Value {
    /// As it could be written in the file, without quotes; lists as in the environment.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Duration(duration) => units::show_duration(*duration),
            Self::Size(bytes) => units::show_size(*bytes),
            Self::Count(count) => count.to_string(),
            Self::Flag(flag) => flag.to_string(),
            Self::Choice(word) => (*word).to_owned(),
            Self::Text(text) => text.clone(),
            Self::MaybeText(text) => text.clone().unwrap_or_default(),
            Self::Uids(uids) => uids.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
            Self::Path(path) => path.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            Self::Paths(paths) => {
                paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(":")
            }
            Self::Location(Location::Auto) => "auto".to_owned(),
            Self::Location(Location::Off) => "off".to_owned(),
            Self::Location(Location::Path(path)) => path.display().to_string(),
            Self::Layers(layers) => layers.iter().map(|layer| layer.name()).collect::<Vec<_>>().join(","),
            Self::Ids(ids) => format!("{}:{}", ids.uid, ids.gid),
            Self::Mode(bits) => format!("{bits:04o}"),
            Self::None => "none".to_owned(),
        }
    }
}

fn durations(min_us: u64, max_us: u64) -> String {
    let show = |us| units::show_duration(Duration::from_micros(us));
    format!("a duration from {} to {}", show(min_us), show(max_us))
}

fn sizes(min: u64, max: u64) -> String {
    format!("a size from {} to {}", units::show_size(min), units::show_size(max))
}

fn why(error: UnitError) -> String {
    error.to_string()
}

fn within<T: PartialOrd>(figure: T, min: T, max: T) -> Result<T, String> {
    if figure < min {
        Err("too small".to_owned())
    } else if figure > max {
        Err("too large".to_owned())
    } else {
        Ok(figure)
    }
}

fn flag(written: &Written) -> Result<bool, String> {
    match written {
        Written::Flag(flag) => Ok(*flag),
        Written::Text(text) if text == "true" => Ok(true),
        Written::Text(text) if text == "false" => Ok(false),
        Written::Text(_) | Written::Number(_) | Written::List(_) | Written::Other(_) => {
            Err("neither true nor false".to_owned())
        }
    }
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if text.chars().any(char::is_control) {
        return Err("has control characters".to_owned());
    }
    if !path.is_absolute() {
        return Err(format!("{} is not absolute", quoted(text)));
    }
    if path.components().any(|component| component == Component::ParentDir) {
        return Err(format!("{} has a `..`", quoted(text)));
    }
    Ok(path)
}

/// The layer of that name.
///
/// # Errors
/// When there is none, with the names there are.
pub(super) fn layer(name: &str) -> Result<Layer, String> {
    let found = Layer::ALL.into_iter().find(|layer| layer.name() == name);
    found.ok_or_else(|| format!("{} is no layer", quoted(name)))
}

fn uid(text: &str) -> Result<u32, String> {
    let id = units::parse_count(text).ok().and_then(|id| u32::try_from(id).ok());
    // (uid_t) -1 is nobody's.
    id.filter(|id| *id != u32::MAX).ok_or_else(|| format!("{} is no user id", quoted(text)))
}

fn ids(text: &str) -> Result<RunAs, String> {
    let (uid, gid) = text.split_once(':').ok_or("not two ids with a `:` between")?;
    let id = |text: &str| {
        let id = units::parse_count(text).ok().and_then(|id| u32::try_from(id).ok());
        // (uid_t) -1 means "leave it as it is" to setresuid(2).
        id.filter(|id| *id != 0 && *id != u32::MAX)
            .ok_or_else(|| format!("{} is not such an id", quoted(text)))
    };
    Ok(RunAs { uid: id(uid)?, gid: id(gid)? })
}

fn socket_mode(written: &Written) -> Result<u32, String> {
    let bits = match written {
        Written::Number(text) => text.parse().map_err(|_| "not permission bits".to_owned())?,
        Written::Text(text) if !text.is_empty() && text.bytes().all(|b| matches!(b, b'0'..=b'7')) => {
            u32::from_str_radix(text, 8).map_err(|_| "not permission bits".to_owned())?
        }
        Written::Text(_) | Written::Flag(_) | Written::List(_) | Written::Other(_) => {
            return Err("not octal".to_owned());
        }
    };
    match bits {
        0 => Err("nobody could connect".to_owned()),
        bits if bits & !SOCKET_MODE_BITS != 0 => Err("has other bits than read and write".to_owned()),
        bits => Ok(bits),
    }
}
