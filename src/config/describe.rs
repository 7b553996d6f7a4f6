//! Every setting in words, for the manual page.
//!
//! Owns: putting the schema and what `docs/configuration.md` says together.
//! Never: says anything of its own: which settings there are, what they may be and their defaults are the schema's.

use super::error::ConfigError;
use super::layers::Layers;
use super::schema::{PROFILE_SETTINGS, PROFILES, SETTINGS, Setting, variable_of};

/// Checked against the schema by a test.
const DOCUMENT: &str = include_str!("../../docs/configuration.md");

/// The profile whose values stand for those of all.
const ANY_PROFILE: &str = "extension";

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// The section it is in; empty at the top level.
    pub section: String,
    /// Its name there.
    pub name: String,
    /// The environment variable that sets it.
    pub variable: String,
    /// What it may be.
    pub allowed: String,
    /// Its default, as it could be written; empty for nothing.
    pub default: String,
    /// What it does. Names are in backticks.
    pub text: String,
}

/// Every setting, in the order of `policies/stockade.toml`; those of a profile last, in a section `profiles.NAME`.
///
/// # Errors
/// Never, unless the defaults built into this executable are at fault.
pub fn settings() -> Result<Vec<Described>, ConfigError> {
    let layers = Layers::defaults()?;
    let default = |key: &str| {
        layers
            .all()
            .find(|(known, _)| *known == key)
            .map(|(_, entry)| entry.value.shown())
            .unwrap_or_default()
    };
    let plain = SETTINGS.iter().map(|setting| {
        let (section, name) = setting.key.split_once('.').unwrap_or(("", setting.key));
        described(setting, section, name, variable_of(setting.key), default(setting.key))
    });
    let profiles = PROFILE_SETTINGS.iter().map(|setting| {
        let default = default(&format!("{PROFILES}.{ANY_PROFILE}.{}", setting.key));
        let name = setting.key;
        described(setting, "profiles.NAME", name, variable_of(&format!("{PROFILES}.NAME.{name}")), default)
    });
    Ok(plain.chain(profiles).collect())
}

fn described(setting: &Setting, section: &str, name: &str, variable: String, default: String) -> Described {
    Described {
        section: section.to_owned(),
        name: name.to_owned(),
        variable,
        allowed: setting.kind.allowed(),
        default,
        text: text_of(setting.key),
    }
}

/// The last column of the setting's row.
fn text_of(key: &str) -> String {
    let start = format!("| `{key}` |");
    let row = DOCUMENT.lines().find(|line| line.starts_with(&start)).unwrap_or_default();
    let row = row.trim_end().trim_end_matches('|').trim_end();
    row.rsplit_once(" | ").map(|(_, text)| text.to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_described_with_a_text_and_what_is_allowed() {
        let all = settings().unwrap();
        assert_eq!(all.len(), SETTINGS.len() + PROFILE_SETTINGS.len());
        for one in &all {
            assert!(one.text.len() > 10 && !one.text.contains('|'), "{one:?}");
            assert!(!one.allowed.is_empty() && one.variable.starts_with("STOCKADE_"), "{one:?}");
        }
        let find = |section: &str, name: &str| {
            all.iter().find(|one| one.section == section && one.name == name).unwrap()
        };
        let warm = find("pool", "warm");
        assert_eq!((warm.variable.as_str(), warm.default.as_str()), ("STOCKADE_POOL_WARM", "4"));
        assert!(find("profiles.NAME", "timeout").text.starts_with("Wall time"));
        assert!(find("", "production").text.contains("`mode = \"in-process\"`"));
    }
}
