//! Settings by name, from the defaults, a file and the environment, each with where it came from.
//!
//! Owns: precedence, and which names are refused.
//! Never: looks at more than one setting at a time; `build.rs` does.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Origin};
use super::schema::{
    self, FAMILIES, FILE_VARIABLE, FILTER, FILTER_VARIABLE, PROFILE_SETTINGS, PROFILES, SETTINGS,
    VARIABLE_PREFIX, WARM_UP,
};
use super::value::{Value, Written, quoted};

/// The defaults of everything outside the profiles.
const DEFAULTS: &str = include_str!("../../policies/stockade.toml");

/// The built-in profiles.
const DEFAULT_PROFILES: [(&str, &str); 3] = [
    ("script", include_str!("../../policies/profiles/script.toml")),
    (BASE_PROFILE, include_str!("../../policies/profiles/extension.toml")),
    ("batch", include_str!("../../policies/profiles/batch.toml")),
];

/// A new profile takes from this one what it leaves out.
const BASE_PROFILE: &str = "extension";

/// What a module to be held ready has where its table says nothing.
const WARM_UP_DEFAULTS: &str = include_str!("../../policies/warm-up.toml");

/// Longest name of a profile or a warm-up, bytes.
const NAME_BYTES_MAX: usize = 64;

/// Deepest that keys nest: `SECTION.NAME.KEY`.
const DEPTH_MAX: usize = 3;

/// One setting as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// Every setting by its dotted name.
#[derive(Debug, Clone)]
pub(super) struct Layers {
    entries: BTreeMap<String, Entry>,
}

/// What the lines of a text are attributed to.
#[derive(Debug, Clone, Copy)]
enum Source<'a> {
    Default,
    File(&'a Path),
}

impl Source<'_> {
    fn at(self, text: &str, offset: usize) -> Origin {
        match self {
            Self::Default => Origin::Default,
            Self::File(path) => Origin::File { path: path.to_owned(), line: line_of(text, offset) },
        }
    }
}

impl Layers {
    /// What is built in.
    pub(super) fn defaults() -> Result<Self, ConfigError> {
        let mut layers = Self { entries: BTreeMap::new() };
        layers.add(DEFAULTS, Source::Default, "")?;
        for (name, text) in DEFAULT_PROFILES {
            layers.add(text, Source::Default, &format!("{PROFILES}.{name}"))?;
        }
        Ok(layers)
    }

    /// Puts a file's settings over what is there.
    pub(super) fn add_file(&mut self, text: &str, path: &Path) -> Result<(), ConfigError> {
        self.add(text, Source::File(path), "")
    }

    /// Puts the settings among the environment's variables over what is there. A name that is none is refused when it
    /// was meant as one: when it begins as a section's settings do, or is a slip of the pen away from one. Others that
    /// begin with `STOCKADE_` are somebody else's (service managers make such names up) and are returned. `RUST_LOG`
    /// goes below them all.
    pub(super) fn add_environment(
        &mut self,
        variables: &[(OsString, OsString)],
    ) -> Result<Vec<String>, ConfigError> {
        let keys: BTreeMap<String, String> =
            self.entries.keys().map(|key| (schema::variable_of(key), key.clone())).collect();
        let mut ignored = Vec::new();
        let filter = variables.iter().find(|(name, value)| name == FILTER_VARIABLE && !value.is_empty());
        if let Some((name, value)) = filter {
            let origin = Origin::Environment { name: name.to_string_lossy().into_owned() };
            self.set(FILTER, &from_variable(value), origin)?;
        }
        for (name, value) in variables {
            let name = name.to_string_lossy().into_owned();
            if !name.starts_with(VARIABLE_PREFIX) || name == FILE_VARIABLE {
                continue;
            }
            let Some(key) = keys.get(&name) else {
                let nearest = schema::nearest_variable(&name, keys.keys().map(String::as_str));
                if nearest.is_none() && !schema::begins_like_a_setting(&name) {
                    ignored.push(name);
                    continue;
                }
                return Err(ConfigError::UnknownVariable { name, nearest });
            };
            self.set(key, &from_variable(value), Origin::Environment { name })?;
        }
        Ok(ignored)
    }

    /// The setting of that name.
    pub(super) fn get(&self, key: &str) -> Result<&Entry, ConfigError> {
        self.entries.get(key).ok_or_else(|| ConfigError::NoDefault { key: key.to_owned() })
    }

    /// Names of the settings that have another value in `other`, or are in one of the two alone.
    pub(super) fn differing(&self, other: &Self) -> Vec<String> {
        let value = |layers: &Self, key: &str| layers.entries.get(key).map(|entry| entry.value.clone());
        let all: BTreeSet<&String> = self.entries.keys().chain(other.entries.keys()).collect();
        all.into_iter().filter(|key| value(self, key) != value(other, key)).cloned().collect()
    }

    /// These settings, with those of the names `kept` as they are in `old`.
    pub(super) fn with(&self, old: &Self, kept: &[String]) -> Self {
        let mut entries = self.entries.clone();
        for key in kept {
            match old.entries.get(key) {
                Some(entry) => drop(entries.insert(key.clone(), entry.clone())),
                None => drop(entries.remove(key)),
            }
        }
        Self { entries }
    }

    /// Every setting, in the order of the schema, profiles last.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &Entry)> {
        let plain = SETTINGS.iter().filter_map(|setting| self.entries.get_key_value(setting.key));
        let families = FAMILIES.into_iter().flat_map(move |family| {
            self.names(family.section).into_iter().flat_map(move |name| {
                family.settings.iter().filter_map(move |setting| {
                    self.entries.get_key_value(&format!("{}.{name}.{}", family.section, setting.key))
                })
            })
        });
        plain.chain(families).map(|(key, entry)| (key.as_str(), entry))
    }

    /// Names of all members of a family.
    pub(super) fn names(&self, section: &str) -> Vec<String> {
        let keys = self.entries.keys().filter_map(|key| schema::member_key(key));
        let of_it = keys.filter(|(family, _, _)| family.section == section);
        let mut names: Vec<String> = of_it.map(|(_, name, _)| name.to_owned()).collect();
        names.dedup();
        names
    }

    /// Reads `text` as TOML whose keys are below `prefix`.
    fn add(&mut self, text: &str, source: Source<'_>, prefix: &str) -> Result<(), ConfigError> {
        let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            origin: source.at(text, error.span().map_or(0, |span| span.start)),
            message: error.message().to_owned(),
        })?;
        self.add_table(table.get_ref(), &Reading { text, source }, prefix)
    }

    fn add_table(
        &mut self,
        table: &DeTable<'_>,
        reading: &Reading<'_>,
        prefix: &str,
    ) -> Result<(), ConfigError> {
        for (name, value) in table {
            let key = if prefix.is_empty() {
                name.get_ref().to_string()
            } else {
                format!("{prefix}.{}", name.get_ref())
            };
            let origin = reading.source.at(reading.text, name.span().start);
            match value.get_ref() {
                DeValue::Table(inner) if holds_settings(&key) => {
                    self.admit(&key, &origin)?;
                    self.add_table(inner, reading, &key)?;
                }
                _ if holds_settings(&key) => return Err(ConfigError::NotASection { origin, key }),
                other => self.set(&key, &written(other), origin)?,
            }
        }
        Ok(())
    }

    /// Makes room for a profile or a warm-up that is not there yet: a profile begins as a copy of the base profile, a
    /// warm-up with what is built in.
    fn admit(&mut self, key: &str, origin: &Origin) -> Result<(), ConfigError> {
        let member =
            key.split_once('.').and_then(|(section, name)| Some((schema::family_of(section)?, name)));
        let Some((family, name)) = member else { return Ok(()) };
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let letter_first = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
        if name.len() > NAME_BYTES_MAX || !letter_first || !name.bytes().all(plain) {
            let (origin, called) = (origin.clone(), family.called);
            return Err(ConfigError::Name { origin, name: quoted(name), called });
        }
        let known =
            family.settings.iter().any(|one| self.entries.contains_key(&format!("{key}.{}", one.key)));
        if family.section == WARM_UP {
            // Its keys are settings: this does not come here again.
            return if known { Ok(()) } else { self.add(WARM_UP_DEFAULTS, Source::Default, key) };
        }
        for setting in PROFILE_SETTINGS {
            let base = format!("{PROFILES}.{BASE_PROFILE}.{}", setting.key);
            let inherited = self.entries.get(&base).cloned();
            if let Some(entry) = inherited {
                self.entries.entry(format!("{key}.{}", setting.key)).or_insert(entry);
            }
        }
        Ok(())
    }

    fn set(&mut self, key: &str, written: &Written, origin: Origin) -> Result<(), ConfigError> {
        let Some(kind) = schema::kind_of(key) else {
            let nearest = match schema::member_key(key) {
                Some((family, member, name)) => schema::nearest(name, family.settings.iter().map(|s| s.key))
                    .map(|name| format!("{}.{member}.{name}", family.section)),
                None => schema::nearest(key, SETTINGS.iter().map(|s| s.key)),
            };
            return Err(ConfigError::UnknownKey { origin, key: shown_key(key), nearest });
        };
        match kind.read(written) {
            Ok(value) => {
                self.entries.insert(key.to_owned(), Entry { value, origin });
                Ok(())
            }
            Err(why) => Err(ConfigError::BadValue {
                origin,
                key: key.into(),
                given: written.shown().into(),
                why: why.into(),
                allowed: kind.allowed().into(),
            }),
        }
    }
}

fn from_variable(value: &OsStr) -> Written {
    match value.to_str() {
        Some(text) => Written::Text(text.to_owned()),
        None => Written::Other("text that is not UTF-8"),
    }
}

/// A text being read.
struct Reading<'a> {
    text: &'a str,
    source: Source<'a>,
}

/// A profile's own file: `KEY = VALUE` without a section. Each setting with its line.
///
/// # Errors
/// As for a configuration file.
pub(super) fn read_profile(text: &str, path: &Path) -> Result<Vec<(&'static str, Entry)>, ConfigError> {
    let prefix = format!("{PROFILES}.file");
    let mut layers = Layers { entries: BTreeMap::new() };
    layers.add(text, Source::File(path), &prefix).map_err(|error| error.below(&prefix))?;
    Ok(PROFILE_SETTINGS
        .iter()
        .filter_map(|setting| {
            Some((setting.key, layers.entries.remove(&format!("{prefix}.{}", setting.key))?))
        })
        .collect())
}

/// Whether `key` names a section or a profile rather than a setting.
fn holds_settings(key: &str) -> bool {
    let depth = key.split('.').count();
    match key.split_once('.') {
        None => schema::is_section(key),
        Some((section, _)) => schema::family_of(section).is_some() && depth < DEPTH_MAX,
    }
}

fn shown_key(key: &str) -> String {
    let quoted = quoted(key);
    quoted.trim_matches('"').to_owned()
}

fn written(value: &DeValue<'_>) -> Written {
    match value {
        DeValue::String(text) => Written::Text(text.to_string()),
        // `i128` holds whatever fits a setting; what it does not hold is refused as too large all the same.
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Written::Number(number.to_string()),
            Err(_) => Written::Number(number.as_str().to_owned()),
        },
        DeValue::Float(number) => Written::Number(number.as_str().to_owned()),
        DeValue::Boolean(flag) => Written::Flag(*flag),
        DeValue::Datetime(_) => Written::Other("date"),
        DeValue::Table(_) => Written::Other("table"),
        DeValue::Array(items) => {
            let texts = items.iter().map(|item| match written(item.get_ref()) {
                Written::Text(text) | Written::Number(text) => Some(text),
                Written::Flag(_) | Written::List(_) | Written::Other(_) => None,
            });
            texts
                .collect::<Option<Vec<_>>>()
                .map_or(Written::Other("array of other things than texts and numbers"), Written::List)
        }
    }
}

/// The line of a byte offset, from 1.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
}
