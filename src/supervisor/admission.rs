//! Whether a submission becomes a job.
//!
//! Owns: every reason to refuse one before it costs anything.
//! Never: waits, touches a file or a worker: it looks at the submission, the configuration and the load alone.

use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use stockade_wire::client::{Refusal, RefusalReason};
use stockade_wire::job::{DirectoryGrant, Isolation, Layer, ModuleSource, Submission};
use stockade_wire::limits::{
    DIRECTORIES_BYTES_MAX, DIRECTORIES_MAX, INPUT_BYTES_MAX, MODULE_BYTES_MAX, NAME_BYTES_MAX,
    PATH_BYTES_MAX, STRINGS_BYTES_MAX, STRINGS_MAX,
};

use super::beside::Weight;
use super::job::{Admitted, Caller};
use crate::config::{Config, IsolationFloor, Limits, Pool, effective_limits};

/// Longest wait suggested to a caller that was refused for want of room, ms.
pub(crate) const RETRY_AFTER_FULL_MS: u64 = 100;

/// What the supervisor is carrying.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    /// Jobs admitted and not over.
    pub(crate) jobs: usize,
    /// Of those, the caller's.
    pub(crate) callers_jobs: usize,
    /// Bytes of modules and inputs held for them.
    pub(crate) held_bytes: u64,
    /// Files in memory held for them.
    pub(crate) files: usize,
    /// Of those, the caller's.
    pub(crate) callers_files: usize,
    /// The supervisor is stopping.
    pub(crate) draining: bool,
    /// No worker can be had for this long.
    pub(crate) unavailable: Option<Duration>,
    /// Layers that every worker has.
    pub(crate) layers: Vec<Layer>,
    /// User the supervisor runs as.
    pub(crate) own_uid: u32,
    /// Files and directories of the supervisor's own, by their resolved paths.
    pub(crate) own_files: Rc<[PathBuf]>,
}

/// Admits `submission`, or says why not.
///
/// # Errors
/// The refusal, for the caller to read.
pub(crate) fn admit(
    submission: &Submission,
    weight: Weight,
    caller: Caller,
    config: &Config,
    load: &Load,
) -> Result<Admitted, Refusal> {
    room(weight, config, load)?;
    sizes(submission, weight, config)?;
    names(submission)?;
    strings("arguments", submission.arguments.iter())?;
    strings("environment", submission.environment.iter().flat_map(|(key, value)| [key, value]))?;
    environment(&submission.environment)?;
    directories(&submission.directories, caller, config, load)?;
    layers(submission, load)?;
    let name = submission.profile.as_ref().unwrap_or(&config.default_profile);
    let profile = config.profiles.get(name).ok_or_else(|| {
        let known = config.profiles.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        refuse(RefusalReason::UnknownProfile, format!("no profile {name:?}; there are: {known}"))
    })?;
    let limits = effective_limits(profile, &submission.limits, &config.ceilings)
        .map_err(|error| refuse(RefusalReason::Limit, error.to_string()))?;
    Ok(Admitted {
        caller,
        tenant: tenant(caller, submission.tenant.as_deref()),
        name: submission.name.clone(),
        entry: submission.entry.clone(),
        arguments: submission.arguments.clone(),
        environment: submission.environment.clone(),
        directories: submission.directories.clone(),
        shares: may_share(submission, &limits, &config.pool),
        limits,
        traceparent: submission.traceparent.clone(),
        trace_id: submission.traceparent.as_deref().and_then(trace_id),
        request_id: submission.request_id.clone(),
        purpose: submission.purpose,
    })
}

/// Whether a job may be run by a tenant worker: it asked for it, the operator allows it, and its jail is that of every
/// other such job. Directories are part of a jail, and code that counts fuel is of another engine: those jobs have a
/// process of their own, and their results say so.
fn may_share(submission: &Submission, limits: &Limits, pool: &Pool) -> bool {
    submission.isolation == Some(Isolation::Tenant)
        && pool.isolation_floor == IsolationFloor::Tenant
        && pool.tenant_workers_max > 0
        && submission.directories.is_empty()
        && limits.fuel.is_none()
}

/// Whose a job is: the kernel's word first, the caller's own division second.
fn tenant(caller: Caller, name: Option<&str>) -> String {
    match name {
        Some(name) => format!("uid:{}/{name}", caller.uid),
        None => format!("uid:{}", caller.uid),
    }
}

fn refuse(reason: RefusalReason, message: String) -> Refusal {
    Refusal { reason, message, retry_after_ms: None }
}

fn later(reason: RefusalReason, message: String, after_ms: u64) -> Refusal {
    Refusal { reason, message, retry_after_ms: Some(after_ms) }
}

fn room(weight: Weight, config: &Config, load: &Load) -> Result<(), Refusal> {
    if load.draining {
        return Err(refuse(RefusalReason::Draining, "the daemon is stopping".to_owned()));
    }
    if let Some(after) = load.unavailable {
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        let message = format!("workers failed too often; the next is tried in {after_ms} ms");
        return Err(later(RefusalReason::Unavailable, message, after_ms));
    }
    let most = config.queue.jobs_max;
    if load.jobs >= most {
        let message = format!("{most} jobs are waiting or running, which is queue.jobs_max");
        return Err(later(RefusalReason::QueueFull, message, RETRY_AFTER_FULL_MS));
    }
    let most = config.queue.jobs_per_caller_max;
    if load.callers_jobs >= most {
        let message = format!("you have {most} jobs waiting or running, which is queue.jobs_per_caller_max");
        return Err(later(RefusalReason::TooManyJobs, message, RETRY_AFTER_FULL_MS));
    }
    let most = config.queue.bytes_max;
    if load.held_bytes.saturating_add(weight.bytes()) > most {
        let message =
            format!("modules and inputs of waiting jobs would exceed queue.bytes_max, {most} bytes");
        return Err(later(RefusalReason::QueueFull, message, RETRY_AFTER_FULL_MS));
    }
    files(weight, config, load)
}

/// What is sent in frames is not held open, so there is a way for whoever is refused here.
fn files(weight: Weight, config: &Config, load: &Load) -> Result<(), Refusal> {
    let bounds = [
        (load.callers_files, config.queue.files_per_caller_max, "yours", "queue.files_per_caller_max"),
        (load.files, config.queue.files_max, "everybody's", "queue.files_max"),
    ];
    // A job without files is not refused for want of places for them.
    match bounds.into_iter().find(|(held, most, ..)| weight.files > 0 && held + weight.files > *most) {
        None => Ok(()),
        Some((_, most, whose, setting)) => {
            let message = format!(
                "modules and inputs sent as descriptors, {whose} together, would be more than {most}, which is {setting}; \
                 send the bytes in the frame, or try again later"
            );
            Err(later(RefusalReason::QueueFull, message, RETRY_AFTER_FULL_MS))
        }
    }
}

/// Of a submission whose module should have come beside it.
pub(crate) fn no_module() -> Refusal {
    refuse(RefusalReason::Malformed, "the module was to come as a descriptor and did not".to_owned())
}

fn sizes(submission: &Submission, weight: Weight, config: &Config) -> Result<(), Refusal> {
    let Weight { module_bytes: module, input_bytes: input, .. } = weight;
    for (what, found, most) in [
        ("module", module, config.ceilings.module_bytes.min(MODULE_BYTES_MAX as u64)),
        ("input", input, config.ceilings.input_bytes.min(INPUT_BYTES_MAX as u64)),
    ] {
        if found > most {
            let message = format!("the {what} has {found} bytes; ceilings.{what}_bytes allows {most}");
            return Err(refuse(RefusalReason::TooLarge, message));
        }
    }
    if module == 0 && !matches!(submission.module, ModuleSource::Digest(_)) {
        return Err(refuse(RefusalReason::Malformed, "the module is empty".to_owned()));
    }
    Ok(())
}

fn names(submission: &Submission) -> Result<(), Refusal> {
    let named = [
        ("name", Some(&submission.name)),
        ("entry", submission.entry.as_ref()),
        ("tenant", submission.tenant.as_ref()),
        ("profile", submission.profile.as_ref()),
        ("traceparent", submission.traceparent.as_ref()),
        ("request_id", submission.request_id.as_ref()),
    ];
    for (what, text) in named {
        let Some(text) = text else { continue };
        if text.is_empty() || text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control) {
            let message = format!("{what} must be 1 to {NAME_BYTES_MAX} bytes without control characters");
            return Err(refuse(RefusalReason::Malformed, message));
        }
    }
    Ok(())
}

fn strings<'s>(what: &str, all: impl Iterator<Item = &'s String>) -> Result<(), Refusal> {
    let (mut count, mut bytes) = (0_usize, 0_usize);
    for text in all {
        count += 1;
        // The length prefix travels too.
        bytes += text.len() + 8;
        if text.contains('\0') {
            return Err(refuse(RefusalReason::Malformed, format!("{what} must not hold NUL bytes")));
        }
    }
    if count > STRINGS_MAX || bytes > STRINGS_BYTES_MAX {
        let message = format!("{what}: at most {STRINGS_MAX} strings and {STRINGS_BYTES_MAX} bytes together");
        return Err(refuse(RefusalReason::TooLarge, message));
    }
    Ok(())
}

fn environment(variables: &[(String, String)]) -> Result<(), Refusal> {
    match variables.iter().find(|(key, _)| key.is_empty() || key.contains('=')) {
        Some((key, _)) => {
            let message = format!("{key:?} is no name for an environment variable");
            Err(refuse(RefusalReason::Malformed, message))
        }
        None => Ok(()),
    }
}

fn directories(
    grants: &[DirectoryGrant],
    caller: Caller,
    config: &Config,
    load: &Load,
) -> Result<(), Refusal> {
    let bytes: usize = grants.iter().map(|grant| grant.host.len() + grant.guest.len() + 17).sum();
    if grants.len() > DIRECTORIES_MAX || bytes > DIRECTORIES_BYTES_MAX {
        let message = format!(
            "at most {DIRECTORIES_MAX} directories and {DIRECTORIES_BYTES_MAX} bytes of their paths together"
        );
        return Err(refuse(RefusalReason::TooLarge, message));
    }
    for grant in grants {
        let path = Path::new(&grant.host);
        let plain = path.is_absolute()
            && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        let named = |text: &str| !text.is_empty() && text.len() <= PATH_BYTES_MAX && !text.contains('\0');
        if !plain || !named(&grant.host) || !named(&grant.guest) {
            let message =
                format!("{:?} must be an absolute path without `..`, as `realpath` prints it", grant.host);
            return Err(refuse(RefusalReason::Directory, message));
        }
        // Root and the daemon's own user could read it anyway. A daemon that is not root lends its own rights to
        // every job, so for others the operator has to have said that it may. That the path is what it says, without
        // a link in it, is for the worker to see to, which opens it.
        let trusted = caller.uid == 0 || caller.uid == load.own_uid;
        let listed = config.grants.directories.iter().any(|root| path.starts_with(root));
        if !trusted && !listed {
            let message = format!(
                "{} is not below a directory in grants.directories; ask the operator to list it",
                grant.host
            );
            return Err(refuse(RefusalReason::Directory, message));
        }
        not_own_files(path, &load.own_files)?;
    }
    Ok(())
}

/// Whoever submitted it: with the key, a guest could have its own native code taken for a compiled module in the jobs
/// of everybody else.
fn not_own_files(granted: &Path, own_files: &[PathBuf]) -> Result<(), Refusal> {
    let within = |own: &&PathBuf| own.starts_with(granted) || granted.starts_with(own);
    match own_files.iter().find(within) {
        Some(own) => {
            let message = format!(
                "{} would give the guest {}, which is Stockade's own; grant a directory that does not hold it, or \
                 have it elsewhere (cache.directory, cache.key_file, socket)",
                granted.display(),
                own.display()
            );
            Err(refuse(RefusalReason::Directory, message))
        }
        None => Ok(()),
    }
}

fn layers(submission: &Submission, load: &Load) -> Result<(), Refusal> {
    match submission.require.iter().find(|layer| !load.layers.contains(layer)) {
        Some(layer) => {
            let message = format!(
                "the job requires {}, which workers here do not have; `stockade doctor` says why and what to do",
                layer.name()
            );
            Err(refuse(RefusalReason::MissingLayer, message))
        }
        None => Ok(()),
    }
}

/// The trace id of a W3C `traceparent`: `version-traceid-parentid-flags`.
fn trace_id(traceparent: &str) -> Option<String> {
    let mut parts = traceparent.split('-');
    let (version, trace) = (parts.next()?, parts.next()?);
    let hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let valid = version.len() == 2 && trace.len() == 32 && hex(version) && hex(trace);
    (valid && trace.bytes().any(|byte| byte != b'0')).then(|| trace.to_owned())
}
