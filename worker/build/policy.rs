//! The policy files: their form and what makes one wrong.
//!
//! Owns: parsing, names of calls and constants, the check that stacked policies fit.
//! Never: knows BPF.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Why the allow-lists cannot be built.
#[derive(Debug)]
pub(crate) enum PolicyError {
    Variable { name: &'static str, source: std::env::VarError },
    Read { file: PathBuf, source: std::io::Error },
    Write { file: PathBuf, source: std::io::Error },
    Json { file: PathBuf, source: serde_json::Error },
    Rule { file: PathBuf, rule: usize, syscall: String, problem: String },
    File { file: PathBuf, problem: String },
    Compile { file: PathBuf, source: seccompiler::BackendError },
}

impl std::fmt::Display for PolicyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Variable { name, source } => write!(f, "{name}: {source}"),
            Self::Read { file, source } => write!(f, "{}: cannot be read: {source}", file.display()),
            Self::Write { file, source } => write!(f, "{}: cannot be written: {source}", file.display()),
            Self::Json { file, source } => write!(f, "{}: {source}", file.display()),
            Self::Rule { file, rule, syscall, problem } => {
                write!(f, "{}: rule {rule} ({syscall}): {problem}", file.display())
            }
            Self::File { file, problem } => write!(f, "{}: {problem}", file.display()),
            Self::Compile { file, source } => write!(f, "{}: {source}", file.display()),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    architecture: String,
    tested: bool,
    installed: String,
    rules: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    syscall: String,
    #[serde(default)]
    when: Vec<RawCondition>,
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCondition {
    argument: u8,
    name: String,
    #[serde(default)]
    bits: Option<u8>,
    #[serde(default)]
    mask: Option<Value>,
    is: Value,
}

/// A number, or names of constants joined by `|`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Value {
    Number(u64),
    Names(String),
}

/// One condition on one argument.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) argument: u8,
    pub(crate) name: String,
    pub(crate) wide: bool,
    pub(crate) mask: Option<u64>,
    pub(crate) value: u64,
}

/// One allowed call.
pub(crate) struct Rule {
    pub(crate) syscall: String,
    pub(crate) number: u32,
    pub(crate) when: Vec<Condition>,
    pub(crate) reason: String,
}

/// One file.
pub(crate) struct Policy {
    pub(crate) file: PathBuf,
    pub(crate) rules: Vec<Rule>,
}

/// Reads the table of numbers and names: one `number name` a line.
pub(crate) fn read_names(file: &Path) -> Result<Vec<(u32, String)>, PolicyError> {
    let text = text_of(file)?;
    let mut names = Vec::new();
    for (line, entry) in (1..).zip(text.lines()) {
        let parsed =
            entry.split_once(' ').and_then(|(number, name)| Some((number.parse().ok()?, name.to_owned())));
        names.push(parsed.ok_or_else(|| PolicyError::File {
            file: file.to_owned(),
            problem: format!("line {line} is not a number and a name"),
        })?);
    }
    Ok(names)
}

/// Reads and checks one policy.
pub(crate) fn read(file: &Path, architecture: &str, names: &[(u32, String)]) -> Result<Policy, PolicyError> {
    let raw: RawPolicy = serde_json::from_str(&text_of(file)?)
        .map_err(|source| PolicyError::Json { file: file.to_owned(), source })?;
    let wrong = |problem: String| Err(PolicyError::File { file: file.to_owned(), problem });
    if raw.architecture != architecture {
        return wrong(format!("is for {}, not {architecture}", raw.architecture));
    }
    if raw.installed.trim().is_empty() {
        return wrong("does not say when it is installed".to_owned());
    }
    if raw.rules.is_empty() {
        return wrong("has no rule".to_owned());
    }
    if !raw.tested {
        println!("cargo::warning={}: marked untested", file.display());
    }
    let mut rules: Vec<Rule> = Vec::new();
    for (index, raw) in (1..).zip(raw.rules) {
        let name = raw.syscall.clone();
        let problem = |problem| PolicyError::Rule {
            file: file.to_owned(),
            rule: index,
            syscall: name.clone(),
            problem,
        };
        let rule = check_rule(raw, names).map_err(problem)?;
        let twice = |other: &Rule| other.number == rule.number && other.when == rule.when;
        let shadowed =
            |other: &Rule| other.number == rule.number && other.when.is_empty() != rule.when.is_empty();
        if rules.iter().any(twice) {
            return Err(problem("is there twice".to_owned()));
        }
        if rules.iter().any(shadowed) {
            return Err(problem("is allowed with and without conditions".to_owned()));
        }
        rules.push(rule);
    }
    Ok(Policy { file: file.to_owned(), rules })
}

impl Policy {
    /// Whether the call `number` is allowed here on the same conditions as in `inner`, no more and no fewer.
    pub(crate) fn allows_just_as(&self, inner: &Self, number: u32) -> bool {
        let of = |policy: &Self| {
            let rules = policy.rules.iter().filter(|rule| rule.number == number);
            rules.map(|rule| rule.when.clone()).collect::<Vec<_>>()
        };
        let (here, there) = (of(self), of(inner));
        here.len() == there.len() && here.iter().all(|when| there.contains(when))
    }

    /// Every call this policy allows is allowed by `outer`: by a rule without conditions or by the same rule.
    pub(crate) fn check_within(&self, outer: &Self) -> Result<(), PolicyError> {
        for (index, rule) in (1..).zip(&self.rules) {
            let mut same_call = outer.rules.iter().filter(|other| other.number == rule.number);
            if !same_call.any(|other| other.when.iter().all(|condition| rule.when.contains(condition))) {
                return Err(PolicyError::Rule {
                    file: self.file.clone(),
                    rule: index,
                    syscall: rule.syscall.clone(),
                    problem: format!(
                        "is not allowed by {}, on which this filter stacks",
                        outer.file.display()
                    ),
                });
            }
        }
        Ok(())
    }
}

fn text_of(file: &Path) -> Result<String, PolicyError> {
    std::fs::read_to_string(file).map_err(|source| PolicyError::Read { file: file.to_owned(), source })
}

fn check_rule(raw: RawRule, names: &[(u32, String)]) -> Result<Rule, String> {
    if raw.reason.trim().len() < 10 {
        return Err("has no reason that names the code that needs it".to_owned());
    }
    let number = names.iter().find(|(_, name)| *name == raw.syscall).map(|(number, _)| *number);
    let number = number.ok_or("is no system call of this architecture")?;
    let when = raw.when.into_iter().map(check_condition).collect::<Result<Vec<_>, _>>()?;
    Ok(Rule { syscall: raw.syscall, number, when, reason: raw.reason })
}

fn check_condition(raw: RawCondition) -> Result<Condition, String> {
    if raw.argument > 5 {
        return Err(format!("has no argument {}; they are numbered 0 to 5", raw.argument));
    }
    let wide = match raw.bits {
        None | Some(32) => false,
        Some(64) => true,
        Some(other) => return Err(format!("compares {other} bits; it can be 32 or 64")),
    };
    let mask = raw.mask.map(number_of).transpose()?;
    let value = number_of(raw.is)?;
    let largest = if wide { u64::MAX } else { u64::from(u32::MAX) };
    if value > largest || mask.is_some_and(|mask| mask > largest || value & !mask != 0) {
        return Err(format!("compares {} with a value that does not fit", raw.name));
    }
    Ok(Condition { argument: raw.argument, name: raw.name, wide, mask, value })
}

fn number_of(value: Value) -> Result<u64, String> {
    match value {
        Value::Number(number) => Ok(number),
        Value::Names(names) => names.split('|').map(str::trim).try_fold(0, |sum, name| {
            let known = CONSTANTS.iter().find(|(known, _)| *known == name);
            known
                .map(|(_, number)| sum | number)
                .ok_or(format!("names {name}, which build/policy.rs does not know"))
        }),
    }
}

/// Names policies may use, with values that are the same on every architecture.
const CONSTANTS: &[(&str, u64)] = &[
    ("PROT_WRITE", 2),
    ("PROT_EXEC", 4),
    ("PROT_GROWSDOWN", 0x0100_0000),
    ("PROT_GROWSUP", 0x0200_0000),
    ("F_DUPFD", 0),
    ("F_GETFD", 1),
    ("F_SETFD", 2),
    ("F_GETFL", 3),
    ("F_SETFL", 4),
    ("F_DUPFD_CLOEXEC", 1030),
    ("F_ADD_SEALS", 1033),
    ("F_GET_SEALS", 1034),
    ("PR_GET_DUMPABLE", 3),
    ("PR_SET_DUMPABLE", 4),
    ("PR_SET_PDEATHSIG", 1),
    ("PR_SET_NAME", 15),
    ("PR_GET_SECCOMP", 21),
    ("PR_CAPBSET_READ", 23),
    ("PR_CAPBSET_DROP", 24),
    ("PR_SET_NO_NEW_PRIVS", 38),
    ("PR_GET_NO_NEW_PRIVS", 39),
    ("PR_CAP_AMBIENT", 47),
    ("PR_CAP_AMBIENT_IS_SET", 1),
    ("PR_CAP_AMBIENT_CLEAR_ALL", 4),
    ("PR_SET_MDWE", 65),
    ("PR_GET_MDWE", 66),
    ("PR_SET_VMA", 0x5356_4d41),
    ("SECCOMP_SET_MODE_FILTER", 1),
    ("MADV_NORMAL", 0),
    ("MADV_WILLNEED", 3),
    ("MADV_DONTNEED", 4),
    ("MADV_FREE", 8),
    ("MADV_HUGEPAGE", 14),
    ("MADV_NOHUGEPAGE", 15),
    ("MADV_POPULATE_READ", 22),
    ("MADV_POPULATE_WRITE", 23),
    ("MADV_COLLAPSE", 25),
    ("RLIMIT_DATA", 2),
    ("CLONE_THREAD", 0x0001_0000),
    ("CLONE_PIDFD", 0x1000),
    ("CLONE_PARENT", 0x8000),
    ("CLOCK_REALTIME", 0),
    ("CLOCK_MONOTONIC", 1),
    ("SIGSYS", 31),
    ("FIONBIO", 0x5421),
    ("FIONREAD", 0x541b),
];
