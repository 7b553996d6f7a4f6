//! `stockade explain FILE`: the jail a job would get, without running it.
//!
//! Owns: putting what the job asks for, the configuration and this machine together.
//! Never: starts a process; what it says is what a start from here would try, and a result says what held.

use std::collections::BTreeSet;

use serde::Serialize;
use stockade_wire::job::{DirectoryGrant, Submission};
use stockade_worker::jail::landlock::abi_in_force;
use stockade_worker::jail::seccomp::Policy;

use super::walls::{self, Wall};
use crate::config::{Config, LimitError, Limits, Mode, effective_limits};
use crate::supervisor::module_kind::{self, ModuleKind, ModuleKindError};

/// Why a job would not get as far as a jail.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// Not a module.
    #[error("the module {0}")]
    ModuleKind(#[from] ModuleKindError),
    /// A profile nobody knows.
    #[error("there is no profile `{name}`; there are: {known}")]
    UnknownProfile {
        /// As it was asked for.
        name: String,
        /// Those there are.
        known: String,
    },
    /// A module that is not taken.
    #[error("the module has {found} bytes; ceilings.module_bytes allows {most}")]
    TooLarge {
        /// What it has.
        found: u64,
        /// What it may have.
        most: u64,
    },
    /// A limit it cannot have.
    #[error(transparent)]
    Limit(#[from] LimitError),
}

/// The jail a job would get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// What people call the module.
    pub module: String,
    /// What it is: `module`, `component` or `text`.
    pub kind: &'static str,
    /// Its size.
    pub module_bytes: u64,
    /// Exported function; `None` means `_start` or the only one there is.
    pub entry: Option<String>,
    /// The guest's arguments.
    pub arguments: Vec<String>,
    /// The guest's environment, whole.
    pub environment: Vec<(String, String)>,
    /// Profile it gets.
    pub profile: String,
    /// Limits it gets.
    pub limits: LimitsShown,
    /// `fresh`, or `in-process` in the developer's mode.
    pub isolation: &'static str,
    /// Layers without which it would not run: the configuration's and its own.
    pub require: Vec<&'static str>,
    /// Every layer on this machine.
    pub layers: Vec<Wall>,
    /// Landlock's rules.
    pub landlock: Landlock,
    /// Syscall allow-lists, in the order in which they are put on.
    pub seccomp: Vec<AllowList>,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// Limits of its cgroup leaf; `None` without one.
    pub cgroup: Option<LeafShown>,
    /// User and group id it runs as.
    pub ids: (u32, u32),
}

/// Limits as they are printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LimitsShown {
    /// Wall time, µs.
    pub timeout_us: u64,
    /// From SIGTERM to SIGKILL, µs.
    pub grace_us: u64,
    /// Memories and tables, bytes.
    pub memory_bytes: u64,
    /// Fuel; `None` is unmetered.
    pub fuel: Option<u64>,
    /// CPU time, µs; `None` leaves it to the wall time.
    pub cpu_us: Option<u64>,
    /// Output, bytes.
    pub output_bytes: u64,
    /// Each log ring, bytes.
    pub log_bytes: u64,
    /// Each log ring, lines.
    pub log_lines: u64,
}

/// What Landlock would admit. Every right the ABI has is handled; without a rule none is left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Landlock {
    /// ABI in force; 0 without Landlock.
    pub abi: u32,
    /// One a granted directory.
    pub rules: Vec<LandlockRule>,
}

/// One granted directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LandlockRule {
    /// On the host.
    pub host: String,
    /// As the guest sees it.
    pub guest: String,
    /// `read` or `read and change`; never execute, never a device, socket or pipe.
    pub access: &'static str,
}

/// One syscall allow-list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AllowList {
    /// Its name, that of its file in `policies/seccomp/`.
    pub policy: &'static str,
    /// When it is put on.
    pub when: &'static str,
    /// Rules in it.
    pub rules: usize,
    /// Different system calls those allow.
    pub syscalls: usize,
}

/// One resource limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rlimit {
    /// Its name.
    pub name: &'static str,
    /// Its value; for `data`, above what a worker has before any job.
    pub value: u64,
}

/// Limits of a cgroup leaf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeafShown {
    /// `memory.max`, bytes.
    pub memory_max_bytes: u64,
    /// `pids.max`.
    pub pids_max: u64,
    /// `cpu.weight`.
    pub cpu_weight: u64,
}

/// The jail `submission` would get on this machine if it were run from here by user and group `own`. Asks the kernel
/// a few short questions.
///
/// # Errors
/// When it would be refused before it came to a jail.
pub fn explain(
    submission: &Submission,
    module: &[u8],
    config: &Config,
    own: (u32, u32),
) -> Result<Explanation, ExplainError> {
    let kind = match module_kind::recognise(module)? {
        ModuleKind::Module => "module",
        ModuleKind::Component => "component",
        ModuleKind::Text => "text",
        ModuleKind::Script => "script",
    };
    let (found, most) = (module.len() as u64, config.ceilings.module_bytes);
    if found > most {
        return Err(ExplainError::TooLarge { found, most });
    }
    let (profile, limits) = limits(submission, config)?;
    let layers = walls::survey(config);
    let leaf = layers.iter().any(|wall| wall.layer == "cgroup" && wall.present);
    let jailed = config.mode == Mode::Jailed;
    // The developer's mode has no jail, so that only the job itself can insist on one.
    let mut require = if jailed { config.jail.require.clone() } else { BTreeSet::new() };
    require.extend(submission.require.iter().copied());
    Ok(Explanation {
        module: submission.name.clone(),
        kind,
        module_bytes: module.len() as u64,
        entry: submission.entry.clone(),
        arguments: submission.arguments.clone(),
        environment: submission.environment.clone(),
        profile,
        isolation: if jailed { "fresh" } else { "in-process" },
        require: require.into_iter().map(|layer| layer.name()).collect(),
        landlock: Landlock {
            abi: if jailed { abi_in_force() } else { 0 },
            rules: submission.directories.iter().map(rule).collect(),
        },
        seccomp: if jailed { allow_lists(!submission.directories.is_empty()) } else { Vec::new() },
        rlimits: if jailed { rlimits(config, &limits) } else { Vec::new() },
        cgroup: leaf.then(|| LeafShown {
            memory_max_bytes: limits.memory_bytes.saturating_add(config.cgroup.memory_headroom_bytes),
            pids_max: config.cgroup.pids_max,
            cpu_weight: config.cgroup.cpu_weight,
        }),
        ids: ids(config, own, !submission.directories.is_empty()),
        layers,
        limits: shown(&limits),
    })
}

impl Explanation {
    /// A layer without which this job would not run, and that is missing here.
    #[must_use]
    pub fn missing(&self) -> Option<&Wall> {
        self.layers.iter().find(|wall| !wall.present && self.require.contains(&wall.layer))
    }
}

fn limits(submission: &Submission, config: &Config) -> Result<(String, Limits), ExplainError> {
    let name = submission.profile.as_ref().unwrap_or(&config.default_profile);
    let Some(profile) = config.profiles.get(name) else {
        let known = config.profiles.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        return Err(ExplainError::UnknownProfile { name: name.clone(), known });
    };
    Ok((name.clone(), effective_limits(profile, &submission.limits, &config.ceilings)?))
}

fn shown(limits: &Limits) -> LimitsShown {
    let us = |duration: std::time::Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    LimitsShown {
        timeout_us: us(limits.timeout),
        grace_us: us(limits.grace),
        memory_bytes: limits.memory_bytes,
        fuel: limits.fuel,
        cpu_us: limits.cpu.map(us),
        output_bytes: limits.output_bytes,
        log_bytes: limits.log_bytes,
        log_lines: limits.log_lines,
    }
}

fn rule(grant: &DirectoryGrant) -> LandlockRule {
    LandlockRule {
        host: grant.host.clone(),
        guest: grant.guest.clone(),
        access: if grant.writable { "read and change" } else { "read" },
    }
}

fn allow_lists(files: bool) -> Vec<AllowList> {
    let list = |name, when, policy: Policy| {
        let rules = policy.rules();
        let mut numbers: Vec<u32> = rules.iter().map(|rule| rule.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        AllowList { policy: name, when, rules: rules.len(), syscalls: numbers.len() }
    };
    let (name, last) = if files { ("run-files", Policy::RunFiles) } else { ("run", Policy::Run) };
    vec![
        list("zygote", "inherited from the zygote", Policy::Zygote),
        list("lock", "before it is given the job", Policy::Lock),
        list(name, "before the first guest instruction", last),
    ]
}

fn rlimits(config: &Config, limits: &Limits) -> Vec<Rlimit> {
    let limit = |name, value| Rlimit { name, value };
    vec![
        limit("core", 0),
        limit("fsize", config.jail.file_bytes),
        limit("nofile", config.jail.open_files),
        limit("data", config.jail.data_bytes(limits.memory_bytes)),
    ]
}

/// Only root has other ids to give; then granted directories are entered as whoever granted them.
const fn ids(config: &Config, own: (u32, u32), files: bool) -> (u32, u32) {
    let jailed = matches!(config.mode, Mode::Jailed);
    if own.0 == 0 && jailed && !files {
        return (config.jail.run_as.uid, config.jail.run_as.gid);
    }
    own
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use stockade_wire::job::Layer;

    use super::super::args::{Cli, Command};
    use super::*;

    const MODULE: &[u8] = b"(module)";

    fn submission(words: &str) -> Submission {
        let words = ["stockade", "explain"].into_iter().chain(words.split(' '));
        match Cli::try_parse_from(words).unwrap().command {
            Command::Explain(explain) => explain.job.submission(MODULE.to_vec(), vec![]).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn explained(words: &str, own: (u32, u32)) -> Result<Explanation, ExplainError> {
        explain(&submission(words), MODULE, &Config::defaults().unwrap(), own)
    }

    #[test]
    fn explanation_has_the_profile_s_limits_with_the_job_s_own() {
        let made = explained("--profile script --memory 1M --env A=1 --require cgroup p.wat x", (1000, 1000))
            .unwrap();
        assert_eq!((made.profile.as_str(), made.kind, made.module.as_str()), ("script", "text", "p.wat"));
        assert_eq!((made.limits.memory_bytes, made.limits.timeout_us), (1 << 20, 500_000));
        assert_eq!(made.arguments, ["x"]);
        assert_eq!(made.environment, [("A".to_owned(), "1".to_owned())]);
        assert!(made.require.contains(&"cgroup") && made.require.contains(&"seccomp"));
        let data = made.rlimits.iter().find(|limit| limit.name == "data").unwrap();
        assert_eq!(data.value, (1 << 20) + (64 << 20));
    }

    #[test]
    fn explanation_of_a_job_with_directories_names_rules_policy_and_ids() {
        let made = explained("--dir /:ro --dir /tmp::/t p.wat", (0, 0)).unwrap();
        let rules: Vec<_> =
            made.landlock.rules.iter().map(|rule| (rule.guest.as_str(), rule.access)).collect();
        assert_eq!(rules, [("/", "read"), ("/t", "read and change")]);
        let names: Vec<_> = made.seccomp.iter().map(|list| list.policy).collect();
        assert_eq!(names, ["zygote", "lock", "run-files"]);
        assert!(made.seccomp.iter().all(|list| list.rules >= list.syscalls && list.syscalls > 5));
        assert_eq!(made.ids, (0, 0));
        let plain = explained("p.wat", (0, 0)).unwrap();
        assert_eq!((plain.ids, plain.seccomp[2].policy), ((65534, 65534), "run"));
        assert_eq!(explained("p.wat", (7, 8)).unwrap().ids, (7, 8));
    }

    #[test]
    fn explanation_of_what_would_be_refused_is_the_refusal() {
        let message = |words: &str| explained(words, (1, 1)).unwrap_err().to_string();
        assert_eq!(
            message("--profile huge p"),
            "there is no profile `huge`; there are: batch, extension, script"
        );
        assert_eq!(message("--timeout 1h p"), "timeout of 1h is not allowed here; ask for 1ms to 10m");
        let error =
            explain(&submission("p"), b"\xffprint(1)", &Config::defaults().unwrap(), (1, 1)).unwrap_err();
        assert!(matches!(error, ExplainError::ModuleKind(ModuleKindError::Unrecognised)));
    }

    #[test]
    fn explanation_in_process_has_no_walls() {
        let mut config = Config::defaults().unwrap();
        config.mode = Mode::InProcess;
        let made = explain(&submission("p"), MODULE, &config, (0, 0)).unwrap();
        assert_eq!((made.isolation, made.landlock.abi, made.ids), ("in-process", 0, (0, 0)));
        assert!(made.seccomp.is_empty() && made.rlimits.is_empty() && made.cgroup.is_none());
        assert!(made.layers.iter().all(|wall| !wall.present));
        assert_eq!(made.layers.len(), Layer::ALL.len());
        assert!(made.require.is_empty() && made.missing().is_none(), "the job would run all the same");
        let made = explain(&submission("--require mdwe p"), MODULE, &config, (0, 0)).unwrap();
        assert_eq!(made.missing().map(|wall| wall.layer), Some("mdwe"));
    }
}
