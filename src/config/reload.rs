//! Taking a new configuration while the daemon runs.
//!
//! Owns: which settings of a new configuration take effect at once, which at the next start, and that a bad one changes
//! nothing.
//! Never: changes anything that runs; the supervisor takes what comes of it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::build::{self, Automatic};
use super::error::ConfigError;
use super::layers::Layers;
use super::{Config, load, schema};

/// The configuration that is in force, with what is needed to compare another with it.
#[derive(Debug, Clone)]
pub struct InForce {
    file: Option<PathBuf>,
    layers: Layers,
    config: Config,
}

/// What came of a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reload {
    /// The configuration from now on.
    pub config: Config,
    /// Settings that changed with it.
    pub applied: Vec<String>,
    /// Settings that differ and stay as they were until the daemon is started again.
    pub at_restart: Vec<String>,
}

impl InForce {
    /// As [`Config::load`]; `file` is looked at again at every reload.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let (layers, automatic) = load::layers(file, environment)?;
        let config = build::config(&layers, automatic)?;
        Ok(Self { file: file.map(Path::to_owned), layers, config })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Reads everything again, and takes of it what can change while the daemon runs. Blocks on the file.
    ///
    /// # Errors
    /// When the new configuration is refused, or contradicts a setting that stays as it was. What was in force stays then.
    pub fn reload(
        &mut self,
        environment: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Reload, ConfigError> {
        let (new, automatic) = load::layers(self.file.as_deref(), environment)?;
        // All of it has to make sense: what waits for the next start must not keep that from happening.
        build::config(&new, automatic.clone())?;
        let (merged, applied, at_restart) = merged(&self.layers, &new);
        let config = build::config(&merged, self.places(automatic))?;
        (self.layers, self.config) = (merged, config.clone());
        Ok(Reload { config, applied, at_restart })
    }

    /// Directories that were chosen at the start stay, wherever they would be chosen now.
    fn places(&self, now: Automatic) -> Automatic {
        let (cache, state) = (self.config.cache.directory.clone(), self.config.durable.directory.clone());
        Automatic { cache: cache.or(now.cache), state: state.or(now.state) }
    }
}

/// The new settings where they can change while the daemon runs and the old ones elsewhere, and the names of those that
/// differ, of both kinds.
fn merged(old: &Layers, new: &Layers) -> (Layers, Vec<String>, Vec<String>) {
    let (mut applied, mut at_restart) = (Vec::new(), Vec::new());
    for key in old.differing(new) {
        if schema::is_live(&key) { applied.push(key) } else { at_restart.push(key) }
    }
    (new.with(old, &at_restart), applied, at_restart)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_force(directory: &Path, text: &str) -> InForce {
        let file = directory.join("stockade.toml");
        std::fs::write(&file, text).unwrap();
        InForce::load(Some(&file), std::iter::empty()).unwrap()
    }

    fn reload(in_force: &mut InForce, text: &str) -> Result<Reload, ConfigError> {
        std::fs::write(in_force.file.as_ref().unwrap(), text).unwrap();
        in_force.reload(std::iter::empty())
    }

    #[test]
    fn reload_takes_what_can_change_and_names_what_waits_for_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let mut now = in_force(directory.path(), "[queue]\njobs_max = 500\n[pool]\nwarm = 2\n");
        let text = "[queue]\njobs_max = 600\n[pool]\nwarm = 3\n[profiles.mine]\ntimeout = \"7s\"\n";
        let Reload { config, applied, at_restart } = reload(&mut now, text).unwrap();
        assert_eq!((config.queue.jobs_max, config.pool.warm), (600, 2));
        assert_eq!(config.profiles["mine"].timeout, std::time::Duration::from_secs(7));
        assert!(
            applied.contains(&"queue.jobs_max".to_owned()) && applied.iter().any(|key| key.contains("mine"))
        );
        assert_eq!(at_restart, ["pool.warm"]);
        let again = reload(&mut now, text).unwrap();
        assert_eq!((again.applied.len(), again.at_restart.as_slice()), (0, &["pool.warm".to_owned()][..]));
        let back = reload(&mut now, "[pool]\nwarm = 2\n").unwrap();
        assert!(!back.config.profiles.contains_key("mine") && back.at_restart.is_empty());
        assert_eq!(back.config.queue.jobs_max, 1000);
    }

    #[test]
    fn reload_of_a_bad_configuration_leaves_the_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let mut now = in_force(directory.path(), "[queue]\njobs_max = 500\n");
        let before = now.config().clone();
        for bad in [
            "[queue]\njobs_max = \"many\"\n",
            "nonsense",
            "default_profile = \"none\"\n",
            // Each would do alone: of these the first has to wait, and the second contradicts what stays.
            "[pool]\nworkers_max = 0\n[queue]\njobs_max = 600\n",
        ] {
            reload(&mut now, bad).unwrap_err();
            assert_eq!(now.config(), &before, "{bad}");
        }
        std::fs::remove_file(now.file.as_ref().unwrap()).unwrap();
        now.reload(std::iter::empty()).unwrap_err();
        assert_eq!(now.config(), &before);
    }

    #[test]
    fn every_setting_changes_at_once_or_at_the_next_start() {
        for setting in schema::SETTINGS {
            let live = schema::is_live(setting.key);
            let document = include_str!("../../docs/configuration.md");
            let (_, after) = document.split_once("### What a reload changes").unwrap();
            let listed = after.split("\n#").next().unwrap().contains(&format!("`{}`", setting.key));
            assert_eq!(listed, live, "{} in docs/configuration.md", setting.key);
        }
        assert!(schema::is_live("profiles.script.timeout"));
    }
}
