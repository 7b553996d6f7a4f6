//! What must hold between settings.
//!
//! Owns: every rule about more than one setting, and those about one that need more than its own words.
//! Never: changes one to fit another; a contradiction is refused.

use stockade_wire::job::Layer;
use stockade_wire::limits::FRAME_BODY_BYTES_MAX;
use stockade_wire::zygote::NamespacePolicy;

use super::error::ConfigError;
use super::layers::Layers;
use super::schema::{FILTER, WARM_UP};
use super::units::show_size;
use super::value::{Kind, quoted};
use super::{CgroupRoot, Config, Mode, Profile, WarmUp};

/// Room in a frame for everything of a result but its output and logs.
const RESULT_OVERHEAD_BYTES: u64 = 1 << 20;

/// A rule that is broken, and the setting to name.
struct Broken {
    key: String,
    fault: Fault,
}

/// What is wrong with the setting.
enum Fault {
    /// It contradicts another: what must hold between them.
    Contradiction(String),
    /// It is wrong by itself.
    Alone { why: String, allowed: String },
}

/// Refuses a configuration that contradicts itself, by the first rule it breaks.
pub(super) fn check(config: &Config, layers: &Layers) -> Result<(), ConfigError> {
    let broken = mode(config)
        .or_else(|| counts(config))
        .or_else(|| readiness(config))
        .or_else(|| scripts(config))
        .or_else(|| config.warm_up.iter().find_map(|(name, warm_up)| held(config, name, warm_up)))
        .or_else(|| walls(config))
        .or_else(|| frames(config))
        .or_else(|| results(config))
        .or_else(|| filter(config))
        .or_else(|| default_profile(config))
        .or_else(|| config.profiles.iter().find_map(|(name, profile)| ceiling(config, name, profile)));
    let Some(Broken { key, fault }) = broken else { return Ok(()) };
    let entry = layers.get(&key)?;
    let (origin, given, key) = (entry.origin.clone(), entry.value.shown(), key.into());
    Err(match fault {
        Fault::Contradiction(rule) => {
            ConfigError::Conflict { origin, given: given.into(), key, rule: rule.into() }
        }
        Fault::Alone { why, allowed } => {
            let given = quoted(&given).into();
            ConfigError::BadValue { origin, given, key, why: why.into(), allowed: allowed.into() }
        }
    })
}

fn broken(key: &str, rule: impl Into<String>) -> Option<Broken> {
    Some(Broken { key: key.to_owned(), fault: Fault::Contradiction(rule.into()) })
}

fn wrong(key: &str, why: String, allowed: String) -> Option<Broken> {
    Some(Broken { key: key.to_owned(), fault: Fault::Alone { why, allowed } })
}

fn mode(config: &Config) -> Option<Broken> {
    if config.mode == Mode::InProcess && config.production {
        return broken(
            "mode",
            "in-process runs jobs without a jail, for developers only, and production = true refuses it; \
             set mode = \"jailed\"",
        );
    }
    None
}

fn counts(config: &Config) -> Option<Broken> {
    if config.pool.warm > config.pool.workers_max {
        return broken("pool.warm", "at most pool.workers_max");
    }
    if config.queue.jobs_per_caller_max > config.queue.jobs_max {
        return broken("queue.jobs_per_caller_max", "at most queue.jobs_max");
    }
    if config.queue.files_per_caller_max > config.queue.files_max {
        return broken("queue.files_per_caller_max", "at most queue.files_max");
    }
    if config.clients.connections_per_uid_max > config.clients.connections_max {
        return broken("clients.connections_per_uid_max", "at most clients.connections_max");
    }
    if config.clients.frame_bytes_max > config.clients.buffered_bytes_max {
        return broken(
            "clients.frame_bytes_max",
            "at most clients.buffered_bytes_max, or no such frame could be read",
        );
    }
    None
}

fn readiness(config: &Config) -> Option<Broken> {
    if config.pool.warm > config.pool.ready_max {
        return broken("pool.warm", "at most pool.ready_max");
    }
    if config.pressure.low_percent >= config.pressure.high_percent {
        return broken("pressure.low_percent", "below pressure.high_percent");
    }
    None
}

fn scripts(config: &Config) -> Option<Broken> {
    let headroom = config.jail.data_headroom_bytes.min(config.cgroup.memory_headroom_bytes);
    if config.pool.tenant_scripts_bytes_max > headroom / 4 {
        return broken(
            "pool.tenant_scripts_bytes_max",
            "at most a quarter of jail.data_headroom_bytes and of cgroup.memory_headroom_bytes, of which it is a part",
        );
    }
    None
}

fn held(config: &Config, name: &str, warm_up: &WarmUp) -> Option<Broken> {
    let key = |setting: &str| format!("{WARM_UP}.{name}.{setting}");
    if warm_up.module.as_os_str().is_empty() {
        return wrong(&key("module"), "it is to be a file".to_owned(), Kind::Path.allowed());
    }
    // Each is a template, and has its workers.
    let templates = |warm_up: &WarmUp| warm_up.uids.len().max(1);
    if config.warm_up.values().map(templates).sum::<usize>() > config.pool.templates_max {
        return broken(&key("uids"), "all warm-ups and their users together at most pool.templates_max");
    }
    let workers = config.warm_up.values().map(|one| templates(one).saturating_mul(one.ready));
    if workers.fold(config.pool.warm, usize::saturating_add) > config.pool.ready_max {
        let rule = "for all warm-ups and their users together, and with pool.warm, at most pool.ready_max";
        return broken(&key("ready"), rule);
    }
    None
}

fn walls(config: &Config) -> Option<Broken> {
    let required = |layer| config.jail.require.contains(&layer);
    if required(Layer::Landlock) && config.jail.landlock_abi_min == 0 {
        return broken("jail.landlock_abi_min", "at least 1 while jail.require has landlock");
    }
    if required(Layer::Namespaces) && config.jail.namespaces == NamespacePolicy::Off {
        return broken("jail.namespaces", "auto while jail.require has namespaces");
    }
    if required(Layer::Cgroup) && config.cgroup.root == CgroupRoot::Off {
        return broken("cgroup.root", "auto or a directory while jail.require has cgroup");
    }
    None
}

fn frames(config: &Config) -> Option<Broken> {
    let result = config
        .ceilings
        .log_bytes
        .saturating_mul(2)
        .saturating_add(config.ceilings.output_bytes)
        .saturating_add(RESULT_OVERHEAD_BYTES);
    if result > FRAME_BODY_BYTES_MAX as u64 {
        return broken(
            "ceilings.output_bytes",
            "with twice ceilings.log_bytes at most 95M, since a result has to fit in one frame of 96M",
        );
    }
    None
}

fn results(config: &Config) -> Option<Broken> {
    let least = config.ceilings.kept_bytes_max();
    if config.results.bytes_max < least {
        let rule = format!(
            "at least {}, ceilings.output_bytes and four times ceilings.log_bytes, or the result of a job that is allowed \
             could not be kept; results.kept_max = 0 keeps none",
            show_size(least)
        );
        return broken("results.bytes_max", rule);
    }
    None
}

fn filter(config: &Config) -> Option<Broken> {
    let filter = tracing_subscriber::EnvFilter::builder().parse(&config.log.filter);
    filter.err().and_then(|error| {
        let allowed = "levels by module, as RUST_LOG has them, such as stockade=debug,info";
        wrong(FILTER, error.to_string(), allowed.to_owned())
    })
}

fn default_profile(config: &Config) -> Option<Broken> {
    if config.profiles.contains_key(&config.default_profile) {
        return None;
    }
    let names: Vec<&str> = config.profiles.keys().map(String::as_str).collect();
    wrong("default_profile", "there is no such profile".to_owned(), names.join(", "))
}

fn ceiling(config: &Config, name: &str, profile: &Profile) -> Option<Broken> {
    let ceilings = &config.ceilings;
    let above = [
        ("timeout", profile.timeout > ceilings.timeout),
        ("grace", profile.grace > ceilings.grace),
        ("memory_bytes", profile.memory_bytes > ceilings.memory_bytes),
        ("fuel", profile.fuel.is_some_and(|fuel| fuel > ceilings.fuel)),
        ("cpu", profile.cpu.is_some_and(|cpu| cpu > ceilings.cpu)),
        ("output_bytes", profile.output_bytes > ceilings.output_bytes),
        ("log_bytes", profile.log_bytes > ceilings.log_bytes),
    ];
    let (setting, _) = above.into_iter().find(|(_, above)| *above)?;
    broken(&format!("profiles.{name}.{setting}"), format!("at most ceilings.{setting}"))
}
