//! From settings by name to [`Config`].
//!
//! Owns: which field a setting becomes, and what must hold between settings.
//! Never: reads a file or a variable.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use stockade_wire::job::Layer;
use stockade_wire::zygote::NamespacePolicy;

use super::error::ConfigError;
use super::layers::{Entry, Layers};
use super::schema::{PROFILES, WARM_UP};
use super::value::{Location, Value};
use super::{
    Cache, CallerLimits, Ceilings, Cgroup, CgroupRoot, Clients, Compile, Config, Durable, Grants, Initialise,
    IsolationFloor, Jail, Kill, Log, LogFormat, Mode, Pool, Pressure, PressureFile, Profile, Queue, Results,
    RunAs, WarmUp,
};

/// Directories that are chosen where the configuration says `auto`.
#[derive(Debug, Clone, Default)]
pub(super) struct Automatic {
    pub(super) cache: Option<PathBuf>,
    pub(super) state: Option<PathBuf>,
}

/// The configuration these settings make, its rules checked.
pub(super) fn config(layers: &Layers, automatic: Automatic) -> Result<Config, ConfigError> {
    let of = Typed(layers);
    let config = Config {
        mode: if of.choice("mode")? == "in-process" { Mode::InProcess } else { Mode::Jailed },
        production: of.flag("production")?,
        socket: of.path("socket")?,
        default_profile: of.text("default_profile")?,
        pool: pool(&of)?,
        pressure: pressure(&of)?,
        queue: Queue {
            jobs_max: of.count("queue.jobs_max")?,
            bytes_max: of.size("queue.bytes_max")?,
            jobs_per_caller_max: of.count("queue.jobs_per_caller_max")?,
            files_max: of.count("queue.files_max")?,
            files_per_caller_max: of.count("queue.files_per_caller_max")?,
        },
        jail: jail(&of)?,
        cgroup: Cgroup {
            root: match of.location("cgroup.root")? {
                Location::Auto => CgroupRoot::Auto,
                Location::Off => CgroupRoot::Off,
                Location::Path(path) => CgroupRoot::Path(path),
            },
            pids_max: of.number("cgroup.pids_max")?,
            memory_headroom_bytes: of.size("cgroup.memory_headroom_bytes")?,
            cpu_weight: of.number("cgroup.cpu_weight")?,
            cpu_max_percent: of.maybe_number("cgroup.cpu_max_percent")?,
            callers: CallerLimits {
                memory_bytes: of.maybe_size("cgroup.caller_memory_bytes")?,
                pids_max: of.maybe_number("cgroup.caller_pids_max")?,
                cpu_max_percent: of.maybe_number("cgroup.caller_cpu_max_percent")?,
                cpu_weight: of.maybe_number("cgroup.caller_cpu_weight")?,
            },
        },
        ceilings: ceilings(&of)?,
        compile: Compile {
            timeout: of.duration("compile.timeout")?,
            cpu: of.duration("compile.cpu")?,
            memory_bytes: of.size("compile.memory_bytes")?,
            artifact_bytes: of.size("compile.artifact_bytes")?,
        },
        cache: Cache {
            directory: match of.location("cache.directory")? {
                Location::Auto => automatic.cache,
                Location::Off => None,
                Location::Path(path) => Some(path),
            },
            disk_bytes: of.size("cache.disk_bytes")?,
            memory_bytes: of.size("cache.memory_bytes")?,
            files_max: of.count("cache.files_max")?,
            scripts_max: of.count("cache.scripts_max")?,
            scripts_bytes_max: of.size("cache.scripts_bytes_max")?,
            key_file: of.path("cache.key_file")?,
        },
        results: Results {
            kept_max: of.count("results.kept_max")?,
            bytes_max: of.size("results.bytes_max")?,
            kept_for: of.duration("results.kept_for")?,
            files_max: of.count("results.files_max")?,
        },
        durable: Durable {
            directory: match of.location("durable.directory")? {
                Location::Auto => automatic.state,
                Location::Off => None,
                Location::Path(path) => Some(path),
            },
            bytes_max: of.size("durable.bytes_max")?,
        },
        clients: clients(&of)?,
        grants: Grants { directories: of.paths("grants.directories")? },
        log: Log {
            filter: of.text("log.filter")?,
            format: if of.choice("log.format")? == "json" { LogFormat::Json } else { LogFormat::Text },
        },
        kill: Kill { epoch_head_start: of.duration("kill.epoch_head_start")? },
        profiles: profiles(&of)?,
        warm_up: warm_ups(&of)?,
    };
    super::rules::check(&config, layers)?;
    Ok(config)
}

fn pool(of: &Typed<'_>) -> Result<Pool, ConfigError> {
    Ok(Pool {
        warm: of.count("pool.warm")?,
        warm_max: of.count("pool.warm_max")?,
        workers_max: of.count("pool.workers_max")?,
        unawaited_bytes_max: of.size("pool.unawaited_bytes_max")?,
        spin: of.duration("pool.spin")?,
        compilers_max: of.count("pool.compilers_max")?,
        templates_max: of.count("pool.templates_max")?,
        template_ready: of.count("pool.template_ready")?,
        template_ready_max: of.count("pool.template_ready_max")?,
        script_ready: of.count("pool.script_ready")?,
        template_after: of.small("pool.template_after")?,
        template_idle: of.duration("pool.template_idle")?,
        ready_max: of.count("pool.ready_max")?,
        ready_bytes_max: of.size("pool.ready_bytes_max")?,
        initialise: match of.choice("pool.initialise")? {
            "never" => Initialise::Never,
            "any" => Initialise::Any,
            _ => Initialise::Listed,
        },
        initialise_time: of.duration("pool.initialise_time")?,
        initialise_bytes: of.size("pool.initialise_bytes")?,
        isolation_floor: if of.choice("pool.isolation_floor")? == "fresh" {
            IsolationFloor::Fresh
        } else {
            IsolationFloor::Tenant
        },
        tenant_workers_max: of.count("pool.tenant_workers_max")?,
        tenant_workers_per_user_max: of.count("pool.tenant_workers_per_user_max")?,
        tenant_jobs_max: of.number("pool.tenant_jobs_max")?,
        tenant_age: of.duration("pool.tenant_age")?,
        tenant_idle: of.duration("pool.tenant_idle")?,
        tenant_wait: of.duration("pool.tenant_wait")?,
        tenant_scripts_bytes_max: of.size("pool.tenant_scripts_bytes_max")?,
        lock_timeout: of.duration("pool.lock_timeout")?,
        inspect_every: of.count("pool.inspect_every")?,
        zygote_forks_max: of.number("pool.zygote_forks_max")?,
        restart_burst: of.small("pool.restart_burst")?,
        restart_window: of.duration("pool.restart_window")?,
        worker_failures_max: of.small("pool.worker_failures_max")?,
    })
}

fn pressure(of: &Typed<'_>) -> Result<Pressure, ConfigError> {
    Ok(Pressure {
        file: match of.location("pressure.file")? {
            Location::Auto => PressureFile::Auto,
            Location::Off => PressureFile::Off,
            Location::Path(path) => PressureFile::Path(path),
        },
        interval: of.duration("pressure.interval")?,
        high_percent: of.number("pressure.high_percent")?,
        low_percent: of.number("pressure.low_percent")?,
        calm: of.duration("pressure.calm")?,
    })
}

fn jail(of: &Typed<'_>) -> Result<Jail, ConfigError> {
    Ok(Jail {
        require: of.layers("jail.require")?,
        landlock_abi_min: of.small("jail.landlock_abi_min")?,
        namespaces: if of.choice("jail.namespaces")? == "off" {
            NamespacePolicy::Off
        } else {
            NamespacePolicy::Auto
        },
        open_files: of.number("jail.open_files")?,
        file_bytes: of.size("jail.file_bytes")?,
        run_as: of.ids("jail.run_as")?,
        data_headroom_bytes: of.size("jail.data_headroom_bytes")?,
    })
}

fn ceilings(of: &Typed<'_>) -> Result<Ceilings, ConfigError> {
    Ok(Ceilings {
        timeout: of.duration("ceilings.timeout")?,
        grace: of.duration("ceilings.grace")?,
        memory_bytes: of.size("ceilings.memory_bytes")?,
        output_bytes: of.size("ceilings.output_bytes")?,
        log_bytes: of.size("ceilings.log_bytes")?,
        module_bytes: of.size("ceilings.module_bytes")?,
        input_bytes: of.size("ceilings.input_bytes")?,
        cpu: of.duration("ceilings.cpu")?,
        fuel: of.number("ceilings.fuel")?,
    })
}

fn clients(of: &Typed<'_>) -> Result<Clients, ConfigError> {
    Ok(Clients {
        connections_max: of.count("clients.connections_max")?,
        connections_per_uid_max: of.count("clients.connections_per_uid_max")?,
        frame_timeout: of.duration("clients.frame_timeout")?,
        frame_bytes_max: of.size("clients.frame_bytes_max")?,
        buffered_bytes_max: of.size("clients.buffered_bytes_max")?,
        outbound_bytes_max: of.size("clients.outbound_bytes_max")?,
        requests_in_flight_max: of.count("clients.requests_in_flight_max")?,
        drain_timeout: of.duration("clients.drain_timeout")?,
        socket_mode: of.mode("clients.socket_mode")?,
    })
}

fn profiles(of: &Typed<'_>) -> Result<BTreeMap<String, Profile>, ConfigError> {
    let names = of.0.names(PROFILES);
    names.into_iter().map(|name| profile(of, &name).map(|profile| (name, profile))).collect()
}

fn profile(of: &Typed<'_>, name: &str) -> Result<Profile, ConfigError> {
    let key = |setting: &str| format!("profiles.{name}.{setting}");
    Ok(Profile {
        timeout: of.duration(&key("timeout"))?,
        grace: of.duration(&key("grace"))?,
        memory_bytes: of.size(&key("memory_bytes"))?,
        fuel: of.maybe_number(&key("fuel"))?,
        cpu: of.maybe_duration(&key("cpu"))?,
        output_bytes: of.size(&key("output_bytes"))?,
        log_bytes: of.size(&key("log_bytes"))?,
        log_lines: of.number(&key("log_lines"))?,
    })
}

fn warm_ups(of: &Typed<'_>) -> Result<BTreeMap<String, WarmUp>, ConfigError> {
    let names = of.0.names(WARM_UP);
    names.into_iter().map(|name| warm_up(of, &name).map(|warm_up| (name, warm_up))).collect()
}

fn warm_up(of: &Typed<'_>, name: &str) -> Result<WarmUp, ConfigError> {
    let key = |setting: &str| format!("{WARM_UP}.{name}.{setting}");
    Ok(WarmUp {
        // One without a path is refused by a rule.
        module: of.path(&key("module"))?.unwrap_or_default(),
        entry: of.maybe_text(&key("entry"))?,
        uids: of.uids(&key("uids"))?,
        ready: of.count(&key("ready"))?,
        required: of.flag(&key("required"))?,
    })
}

/// Settings by name and type. A setting of another type than its reader expects is a fault of this build, like
/// one without a default; the tests read every one.
struct Typed<'a>(&'a Layers);

/// `$name` reads a `$ty` where the setting's value matches `$pattern`.
macro_rules! typed {
    ($($name:ident -> $ty:ty: $pattern:pat => $value:expr;)*) => {
        $(fn $name(&self, key: &str) -> Result<$ty, ConfigError> {
            match &self.entry(key)?.value {
                $pattern => Ok($value),
                _ => Err(ConfigError::NoDefault { key: key.to_owned() }),
            }
        })*
    };
}

impl<'a> Typed<'a> {
    fn entry(&self, key: &str) -> Result<&'a Entry, ConfigError> {
        self.0.get(key)
    }

    typed! {
        duration -> Duration: Value::Duration(duration) => *duration;
        size -> u64: Value::Size(bytes) => *bytes;
        number -> u64: Value::Count(count) => *count;
        flag -> bool: Value::Flag(flag) => *flag;
        choice -> &'static str: Value::Choice(word) => word;
        text -> String: Value::Text(text) => text.clone();
        maybe_text -> Option<String>: Value::MaybeText(text) => text.clone();
        uids -> BTreeSet<u32>: Value::Uids(uids) => uids.clone();
        path -> Option<PathBuf>: Value::Path(path) => path.clone();
        paths -> Vec<PathBuf>: Value::Paths(paths) => paths.clone();
        location -> Location: Value::Location(location) => location.clone();
        layers -> BTreeSet<Layer>: Value::Layers(layers) => layers.clone();
        ids -> RunAs: Value::Ids(ids) => *ids;
        mode -> u32: Value::Mode(bits) => *bits;
    }

    /// A count that is within what the schema allows, all of which fits.
    fn count(&self, key: &str) -> Result<usize, ConfigError> {
        let count = self.number(key)?;
        usize::try_from(count).map_err(|_| ConfigError::NoDefault { key: key.to_owned() })
    }

    fn small(&self, key: &str) -> Result<u32, ConfigError> {
        let count = self.number(key)?;
        u32::try_from(count).map_err(|_| ConfigError::NoDefault { key: key.to_owned() })
    }

    fn maybe_number(&self, key: &str) -> Result<Option<u64>, ConfigError> {
        if self.entry(key)?.value == Value::None { Ok(None) } else { self.number(key).map(Some) }
    }

    fn maybe_size(&self, key: &str) -> Result<Option<u64>, ConfigError> {
        if self.entry(key)?.value == Value::None { Ok(None) } else { self.size(key).map(Some) }
    }

    fn maybe_duration(&self, key: &str) -> Result<Option<Duration>, ConfigError> {
        if self.entry(key)?.value == Value::None { Ok(None) } else { self.duration(key).map(Some) }
    }
}
