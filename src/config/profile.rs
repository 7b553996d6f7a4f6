//! A job profile in a file of its own, as `--profile FILE` names it.
//!
//! Owns: what of a profile a client can ask for.
//! Never: grants anything; the daemon's ceilings hold all the same.

use std::path::Path;
use std::time::Duration;

use stockade_wire::job::LimitsWanted;

use super::error::{ConfigError, FileRole};
use super::value::Value;
use super::{layers, load};

/// The limits a profile file asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProfileFile {
    /// What it sets; `None` where it leaves the daemon's default profile as it is.
    pub limits: LimitsWanted,
}

/// Why a profile file is refused.
#[derive(Debug, thiserror::Error)]
pub enum ProfileFileError {
    /// As a file of settings.
    #[error(transparent)]
    Settings(#[from] ConfigError),
    /// A setting that a client cannot choose.
    #[error("{origin}: `{key}` can only be set in the daemon's own configuration; remove it here")]
    NotAWish {
        /// File and line.
        origin: super::Origin,
        /// The setting.
        key: &'static str,
    },
}

impl ProfileFile {
    /// Reads a profile from its own file. Blocks.
    ///
    /// # Errors
    /// As for a configuration file; also for settings that only the daemon's configuration can have.
    pub fn read(path: &Path) -> Result<Self, ProfileFileError> {
        Self::parse(&load::read(path, FileRole::Profile)?, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ProfileFileError> {
        let mut limits = LimitsWanted::default();
        for (key, entry) in layers::read_profile(text, path)? {
            let field = match key {
                "timeout" => &mut limits.timeout_us,
                "grace" => &mut limits.grace_us,
                "memory_bytes" => &mut limits.memory_bytes,
                "fuel" => &mut limits.fuel,
                "cpu" => &mut limits.cpu_us,
                "output_bytes" => &mut limits.output_bytes,
                "log_bytes" => &mut limits.log_bytes,
                _ => return Err(ProfileFileError::NotAWish { origin: entry.origin, key }),
            };
            *field = figure(&entry.value);
        }
        Ok(Self { limits })
    }
}

/// The number a limit travels as: µs, bytes or a count; `None` for `none`.
fn figure(value: &Value) -> Option<u64> {
    let us = |duration: &Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    match value {
        Value::Duration(duration) => Some(us(duration)),
        Value::Size(figure) | Value::Count(figure) => Some(*figure),
        Value::Flag(_)
        | Value::Choice(_)
        | Value::Text(_)
        | Value::MaybeText(_)
        | Value::Uids(_)
        | Value::Path(_)
        | Value::Paths(_)
        | Value::Location(_)
        | Value::Layers(_)
        | Value::Ids(_)
        | Value::Mode(_)
        | Value::None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ProfileFile, ProfileFileError> {
        ProfileFile::parse(text, Path::new("p.toml"))
    }

    #[test]
    fn profile_file_gives_the_limits_it_names() {
        let text = "timeout = \"2s\"\nmemory_bytes = \"64M\"\nfuel = 9\ncpu = \"none\"\n";
        let limits = parse(text).unwrap().limits;
        let wanted = LimitsWanted {
            timeout_us: Some(2_000_000),
            memory_bytes: Some(64 << 20),
            fuel: Some(9),
            ..LimitsWanted::default()
        };
        assert_eq!(limits, wanted);
    }

    #[test]
    fn profile_file_with_a_setting_that_is_none_is_refused() {
        let message = parse("\ntimout = \"2s\"").unwrap_err().to_string();
        assert!(
            message.starts_with("p.toml:2: there is no setting `timout`; did you mean `timeout`?"),
            "{message}"
        );
        let message = parse("log_lines = 5").unwrap_err().to_string();
        assert!(message.starts_with("p.toml:1: `log_lines` can only"), "{message}");
        let message = ProfileFile::read(Path::new("/nonexistent.toml")).unwrap_err().to_string();
        assert_eq!(message, "cannot read the profile file /nonexistent.toml; name another with --profile");
        let message = parse("timeout = \"0\"").unwrap_err().to_string();
        assert!(message.starts_with("p.toml:1: `timeout` cannot be \"0\""), "{message}");
        assert!(message.contains("1ms"), "{message}");
    }
}
