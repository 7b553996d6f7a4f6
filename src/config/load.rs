//! Loading: which file, read how, and where an automatic directory is.
//!
//! Owns: [`Config::load`] and [`inspect`].
//! Never: creates or changes a file.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::build::Automatic;
use super::error::{ConfigError, FileRole, Origin};
use super::layers::{self, Layers};
use super::schema::FILE_VARIABLE;
use super::{Config, build};

/// The file that is read when none is named, if it is there.
const SYSTEM_FILE: &str = "/etc/stockade/stockade.toml";

/// Largest configuration file, bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A configuration with where every setting came from, for people.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// The configuration.
    pub config: Config,
    /// The file that was read, if one was.
    pub file: Option<PathBuf>,
    /// Every setting.
    pub settings: Vec<Effective>,
    /// Variables that begin with `STOCKADE_` and are nothing to do with it.
    pub ignored: Vec<String>,
}

/// One setting as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// Its dotted name.
    pub key: String,
    /// Its value, as it could be written.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

impl Config {
    /// The configuration of a machine where nobody set anything, without a cache on disk. Reads nothing.
    ///
    /// # Errors
    /// Never, unless the defaults built into this executable are at fault.
    pub fn defaults() -> Result<Self, ConfigError> {
        build::config(&Layers::defaults()?, Automatic::default())
    }

    /// The configuration: defaults, `file` (else `STOCKADE_CONFIG`, else the system's file if there is one), and the
    /// settings among `environment`'s variables. Reads the file, so it may block; called once, at the start.
    ///
    /// # Errors
    /// When the file cannot be read, or anything in it or in the environment is not a setting, not allowed, or
    /// contradicts the rest. The message names the place, the key and what is allowed.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        inspect(file, environment).map(|inspection| inspection.config)
    }
}

/// As [`Config::load`], with where every setting came from.
///
/// # Errors
/// As [`Config::load`].
pub fn inspect(
    file: Option<&Path>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Inspection, ConfigError> {
    let read = read_layers(file, environment)?;
    let config = build::config(&read.layers, read.automatic)?;
    let settings = read.layers.all().map(|(key, entry)| Effective {
        key: key.to_owned(),
        value: entry.value.shown(),
        origin: entry.origin.clone(),
    });
    Ok(Inspection { config, file: read.file, settings: settings.collect(), ignored: read.ignored })
}

/// The settings alone, as [`inspect`] reads them, and what is chosen where they say `auto`.
pub(super) fn layers(
    file: Option<&Path>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<(Layers, Automatic), ConfigError> {
    let read = read_layers(file, environment)?;
    Ok((read.layers, read.automatic))
}

/// Every source, read.
struct ReadLayers {
    layers: Layers,
    automatic: Automatic,
    file: Option<PathBuf>,
    ignored: Vec<String>,
}

fn read_layers(
    file: Option<&Path>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<ReadLayers, ConfigError> {
    let variables: Vec<(OsString, OsString)> = environment.collect();
    let mut layers = Layers::defaults()?;
    let file = chosen_file(file, &variables);
    if let Some(path) = &file {
        layers.add_file(&read(path, FileRole::Configuration)?, path)?;
    }
    let ignored = layers.add_environment(&variables)?;
    let root = nix::unistd::geteuid().is_root();
    let automatic =
        Automatic { cache: automatic_cache(&variables, root), state: automatic_state(&variables) };
    Ok(ReadLayers { layers, automatic, file, ignored })
}

fn chosen_file(named: Option<&Path>, variables: &[(OsString, OsString)]) -> Option<PathBuf> {
    let system = || Path::new(SYSTEM_FILE).exists().then(|| PathBuf::from(SYSTEM_FILE));
    named
        .map(Path::to_owned)
        .or_else(|| variable(variables, FILE_VARIABLE).map(PathBuf::from))
        .or_else(system)
}

/// The text of a file of settings, bounded.
///
/// # Errors
/// When it cannot be read, is not a regular file, is too large or is not UTF-8.
pub(super) fn read(path: &Path, role: FileRole) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read { role, path: path.to_owned(), source };
    // Looked at before it is opened: opening a FIFO would wait for a writer.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(ConfigError::NotAFile { role, path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(ConfigError::FileTooLarge { role, path: path.to_owned(), max: FILE_BYTES_MAX });
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = String::from_utf8_lossy(
            error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default(),
        );
        let line = layers::line_of(&good, good.len());
        ConfigError::FileNotUnicode { origin: Origin::File { path: path.to_owned(), line } }
    })
}

/// Where `cache.directory = "auto"` is; `None` when nothing says where a cache could be.
fn automatic_cache(variables: &[(OsString, OsString)], root: bool) -> Option<PathBuf> {
    let base = |name: &str| variable(variables, name).map(PathBuf::from).filter(|path| path.is_absolute());
    // What a service manager made for this process and nobody else (CacheDirectory=); a list is not meant for us.
    if let Some(cache) = base("CACHE_DIRECTORY").filter(|path| !path.as_os_str().as_bytes().contains(&b':')) {
        return Some(cache);
    }
    if let Some(cache) = base("XDG_CACHE_HOME") {
        return Some(cache.join("stockade"));
    }
    if root {
        // Not in $HOME, which may be another user's (sudo), nor where the packaged service has its own.
        return Some(PathBuf::from("/var/cache/stockade-root"));
    }
    base("HOME").map(|home| home.join(".cache/stockade"))
}

/// Where `durable.directory = "auto"` is: where the service manager says that this service's state belongs
/// (`StateDirectory=`), of several places the first; `None` where it says nothing.
fn automatic_state(variables: &[(OsString, OsString)]) -> Option<PathBuf> {
    let all = variable(variables, "STATE_DIRECTORY")?.to_str()?;
    all.split(':').map(PathBuf::from).next().filter(|path| path.is_absolute())
}

fn variable<'a>(variables: &'a [(OsString, OsString)], name: &str) -> Option<&'a OsStr> {
    let found = variables.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_os_str());
    found.filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    #[test]
    fn state_directory_automatic_is_the_service_managers_first_or_none() {
        let at = |text| automatic_state(&variables(&[("STATE_DIRECTORY", text), ("HOME", "/home/a")]));
        assert_eq!(at("/var/lib/stockade"), Some("/var/lib/stockade".into()));
        assert_eq!(at("/var/lib/a:/var/lib/b"), Some("/var/lib/a".into()));
        assert_eq!((at(""), at("relative")), (None, None));
        assert_eq!(automatic_state(&[]), None);
    }

    #[test]
    fn cache_directory_automatic_follows_the_environment() {
        let at = |pairs: &[(&str, &str)], root| automatic_cache(&variables(pairs), root);
        let both = [("HOME", "/home/a"), ("XDG_CACHE_HOME", "/c")];
        assert_eq!(at(&both, false), Some("/c/stockade".into()));
        assert_eq!(at(&both, true), Some("/c/stockade".into()));
        assert_eq!(at(&[("HOME", "/home/a")], false), Some("/home/a/.cache/stockade".into()));
        assert_eq!(at(&[("HOME", "/home/a")], true), Some("/var/cache/stockade-root".into()));
        assert_eq!(at(&[("HOME", "relative"), ("XDG_CACHE_HOME", "")], false), None);
        assert_eq!(at(&[], false), None);
        let unit = [("CACHE_DIRECTORY", "/var/cache/a"), ("HOME", "/home/a"), ("XDG_CACHE_HOME", "/c")];
        assert_eq!(at(&unit, false), Some("/var/cache/a".into()));
        let several = [("CACHE_DIRECTORY", "/var/cache/a:/var/cache/b"), ("HOME", "/home/a")];
        assert_eq!(at(&several, false), Some("/home/a/.cache/stockade".into()));
    }
}
