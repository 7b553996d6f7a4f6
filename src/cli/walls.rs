//! Every layer on this machine as the configuration would have it, for `doctor` and `explain`.
//!
//! Owns: joining what the kernel offers or a worker had, what cgroups there are and what the configuration says.
//! Never: enters a layer itself.

use serde::Serialize;
use stockade_wire::job::Layer;
use stockade_wire::zygote::NamespacePolicy;
use stockade_worker::survey::Finding;

use super::trial::Trial;
use crate::config::{Config, Mode};
use crate::supervisor::Startup;
use crate::supervisor::cgroup::{self, Controller, Discovery};

/// One layer on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Wall {
    /// Its name, as in results.
    pub layer: &'static str,
    /// The configuration refuses to start without it.
    pub required: bool,
    /// A worker started from here and with this configuration has it, if one was tried; would be offered it, if not.
    pub present: bool,
    /// Version or kind, where there are several.
    pub version: Option<String>,
    /// Why it is missing, or less than it could be.
    pub reason: Option<String>,
    /// What to do about that.
    pub fix: Option<String>,
}

impl Wall {
    /// Missing although the configuration does not do without it.
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        self.required && !self.present
    }
}

/// What the kernel and this process's surroundings offer of every layer. A few short questions to the kernel and small
/// files; changes nothing.
#[must_use]
pub fn survey(config: &Config) -> Vec<Wall> {
    join(offered(config), config)
}

/// What a worker has of every layer, as the trial of `startup` shows it, and what came of that.
#[must_use]
pub fn tried(startup: &Startup) -> (Vec<Wall>, Trial) {
    // Before the trial, which may move this process in the cgroup tree.
    let offered = offered(&startup.config);
    let trial = Trial::of(startup);
    let seen = offered.into_iter().map(|finding| trial.seen(finding)).collect();
    (join(seen, &startup.config), trial)
}

fn offered(config: &Config) -> Vec<Finding> {
    let mut findings = stockade_worker::survey::survey();
    findings.push(leaves(&cgroup::discover(&config.cgroup.root)));
    findings
}

/// The findings in the order of [`Layer::ALL`], seen with the configuration's eyes.
fn join(findings: Vec<Finding>, config: &Config) -> Vec<Wall> {
    let found = |layer| findings.iter().find(|finding| finding.layer == layer).cloned();
    Layer::ALL
        .into_iter()
        .map(|layer| {
            let mut finding =
                found(layer).unwrap_or_else(|| absent(layer, "it was not looked for".to_owned(), ""));
            configured(&mut finding, config);
            Wall {
                layer: layer.name(),
                required: config.mode == Mode::Jailed && config.jail.require.contains(&layer),
                present: finding.present,
                version: finding.version,
                reason: finding.reason,
                fix: finding.fix.filter(|fix| !fix.is_empty()),
            }
        })
        .collect()
}

/// What the machine has is not what a worker gets when the configuration says otherwise.
fn configured(finding: &mut Finding, config: &Config) {
    if config.mode == Mode::InProcess {
        let reason = "mode = \"in-process\" runs jobs without a jail".to_owned();
        *finding = absent(finding.layer, reason, "set mode to \"jailed\"");
    } else if finding.layer == Layer::Namespaces && config.jail.namespaces == NamespacePolicy::Off {
        *finding =
            absent(finding.layer, "jail.namespaces is \"off\"".to_owned(), "set jail.namespaces to \"auto\"");
    } else if finding.layer == Layer::Landlock && finding.present {
        let abi = stockade_worker::jail::landlock::abi_in_force();
        if let Some(short) = short_landlock(abi, config.jail.landlock_abi_min) {
            *finding = short;
        }
    }
}

fn short_landlock(abi: u32, abi_min: u32) -> Option<Finding> {
    if abi >= abi_min {
        return None;
    }
    let reason = format!("ABI {abi} is all there is, and jail.landlock_abi_min asks for {abi_min}");
    Some(absent(Layer::Landlock, reason, "boot a newer kernel, or lower jail.landlock_abi_min"))
}

fn leaves(discovery: &Discovery) -> Finding {
    match discovery {
        Discovery::Absent(absence) => absent(Layer::Cgroup, absence.reason(), absence.fix()),
        Discovery::Delegated(tree) => {
            let has = |one: &&Controller| tree.controllers().contains(one);
            let names = |have: bool| {
                let chosen = Controller::ALL.iter().filter(|one| has(one) == have);
                chosen.map(|one| one.name()).collect::<Vec<_>>().join(", ")
            };
            let (held, lacking) = (names(true), names(false));
            let directory = tree.directory().display();
            if lacking.is_empty() {
                let version = Some(format!("{held} in {directory}"));
                return Finding { layer: Layer::Cgroup, present: true, version, reason: None, fix: None };
            }
            let reason = format!(
                "{directory} has no controller {lacking}; kills and CPU time work in it all the same"
            );
            absent(Layer::Cgroup, reason, "delegate a tree with memory, pids and cpu (systemd: Delegate=yes)")
        }
    }
}

fn absent(layer: Layer, reason: String, fix: &str) -> Finding {
    Finding { layer, present: false, version: None, reason: Some(reason), fix: Some(fix.to_owned()) }
}

/// Layers to test with: all present but the cgroup.
#[cfg(test)]
pub(super) fn sample() -> Vec<Wall> {
    let present = |layer: Layer| Wall {
        layer: layer.name(),
        required: layer != Layer::Namespaces && layer != Layer::Mdwe,
        present: true,
        version: (layer == Layer::Landlock).then(|| "ABI 7".to_owned()),
        reason: None,
        fix: None,
    };
    let mut walls: Vec<Wall> = Layer::ALL.into_iter().map(present).collect();
    for wall in walls.iter_mut().filter(|wall| wall.layer == "cgroup") {
        wall.required = false;
        wall.present = false;
        wall.reason = Some("it is not delegated".to_owned());
        wall.fix = Some("set Delegate=yes".to_owned());
    }
    walls
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::cgroup::Absence;

    fn config(change: impl Fn(&mut Config)) -> Config {
        let mut config = Config::defaults().unwrap();
        change(&mut config);
        config
    }

    fn present(layer: Layer) -> Finding {
        Finding { layer, present: true, version: None, reason: None, fix: None }
    }

    fn wall(walls: &[Wall], layer: Layer) -> &Wall {
        walls.iter().find(|wall| wall.layer == layer.name()).unwrap()
    }

    #[test]
    fn walls_are_all_there_in_order_and_know_what_is_required() {
        let walls = join(Layer::ALL.into_iter().rev().map(present).collect(), &config(|_| {}));
        let names: Vec<&str> = walls.iter().map(|wall| wall.layer).collect();
        assert_eq!(names, Layer::ALL.map(Layer::name));
        assert!(wall(&walls, Layer::Seccomp).required);
        assert!(!wall(&walls, Layer::Cgroup).required);
    }

    #[test]
    fn wall_nobody_looked_for_is_missing() {
        let walls = join(vec![], &config(|_| {}));
        assert!(walls.iter().all(|wall| !wall.present));
        assert!(wall(&walls, Layer::Seccomp).is_fatal());
        assert!(!wall(&walls, Layer::Mdwe).is_fatal());
    }

    #[test]
    fn walls_that_the_configuration_turns_off_are_missing() {
        let all = || Layer::ALL.into_iter().map(present).collect::<Vec<_>>();
        let walls = join(all(), &config(|config| config.jail.namespaces = NamespacePolicy::Off));
        assert!(!wall(&walls, Layer::Namespaces).present);
        let walls = join(all(), &config(|config| config.mode = Mode::InProcess));
        assert!(walls.iter().all(|wall| !wall.present && !wall.required));
        let short = short_landlock(2, 6).unwrap();
        assert_eq!(
            short.reason.as_deref(),
            Some("ABI 2 is all there is, and jail.landlock_abi_min asks for 6")
        );
        assert_eq!(short_landlock(6, 6), None);
    }

    #[test]
    fn leaves_that_are_absent_say_why_and_what_to_do() {
        let finding = leaves(&Discovery::Absent(Absence::Off));
        assert!(!finding.present && finding.reason.is_some() && finding.fix.is_some());
    }

    #[test]
    fn survey_of_this_machine_gives_a_reason_and_a_fix_for_all_that_is_missing() {
        for wall in survey(&config(|_| {})) {
            assert!(wall.present || (wall.reason.is_some() && wall.fix.is_some()), "{wall:?}");
        }
    }
}
