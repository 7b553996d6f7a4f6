//! How many workers the daemon's descriptors are enough for.
//!
//! Owns: the share of `RLIMIT_NOFILE` that ready workers may take, and how many descriptors all together may come to.
//! Never: opens or closes one.

use stockade_wire::limits::FORKS_MAX;

use super::ready::REFILLS_AT_ONCE;
use crate::config::Config;
use crate::supervisor::scripts::COMPILING_MAX;

/// Descriptors of one worker in the supervisor: link, output, two logs, pidfd, and the directory of its leaf.
const PER_WORKER: u64 = 6;

/// The worker's own ends of the first four, which the supervisor has until it is forked.
const PER_BIRTH: u64 = 4;

/// Of a job that runs or a module that is compiled: a file with what the client sent in its frame, and a script's source, or
/// what the compiler made.
const PER_JOB: u64 = 2;

/// Templates of one module, and zygotes: the last's successor is made while it still forks.
const AT_ONCE: usize = 2;

/// Descriptors of one zygote in the supervisor: its socket and its pidfd.
const PER_ZYGOTE: u64 = 2;

/// Ready workers leave half of the descriptors to jobs and clients.
const SHARE: u64 = 2;

/// Descriptors of one client in the supervisor: its connection, a module and an input that it brings, an output on its way.
const PER_CLIENT: u64 = 4;

/// The daemon's own: standard streams, event loop, signals, socket, lock, cache, journal, pressure, and files that are open
/// for a moment.
const OWN: u64 = 64;

/// Most descriptors that a daemon with this configuration can come to have open at once.
#[must_use]
pub fn needed(config: &Config) -> u64 {
    let pool = &config.pool;
    let templates = pool.templates_max.saturating_mul(AT_ONCE);
    let jobs = [pool.workers_max, pool.compilers_max];
    let workers = [pool.ready_max, templates, pool.tenant_workers_max, COMPILING_MAX].into_iter().chain(jobs);
    // Of a template and its successor, one forks and the other is forked.
    let forks = pool.templates_max.saturating_mul(FORKS_MAX);
    let births = [forks, pool.templates_max, REFILLS_AT_ONCE].into_iter().chain(jobs);
    // Jobs that wait, and templates, hold artifacts that the cache may have given up.
    let held = [config.queue.jobs_max, templates];
    let files =
        [config.queue.files_max, config.results.files_max, config.cache.files_max].into_iter().chain(held);
    [
        times(workers, PER_WORKER),
        times(births, PER_BIRTH),
        times(jobs, PER_JOB),
        times(files, 1),
        times([config.clients.connections_max], PER_CLIENT),
        times([AT_ONCE], PER_ZYGOTE),
    ]
    .into_iter()
    .fold(OWN, u64::saturating_add)
}

/// So many descriptors for each of all of these.
fn times(counts: impl IntoIterator<Item = usize>, each: u64) -> u64 {
    counts.into_iter().fold(0_u64, |sum, count| sum.saturating_add(count as u64)).saturating_mul(each)
}

/// Most workers that may stand ready of `wanted`, and the limit that says so.
pub(super) fn ready_max(wanted: usize) -> usize {
    match rlimit::Resource::NOFILE.get_soft() {
        Ok(files_max) => {
            let most = most_of(files_max);
            if most < wanted {
                tracing::warn!(
                    "pool.ready_max is {wanted}, but {files_max} open files are enough for {most} ready workers; raise \
                     LimitNOFILE= of the unit (ulimit -n) to {}",
                    files_of(wanted)
                );
            }
            most.min(wanted)
        }
        Err(error) => {
            tracing::warn!(%error, "the limit on open files cannot be read: ready workers are bounded by pool.ready_max alone");
            wanted
        }
    }
}

fn most_of(files_max: u64) -> usize {
    usize::try_from(files_max / SHARE / PER_WORKER).unwrap_or(usize::MAX)
}

fn files_of(workers: usize) -> u64 {
    (workers as u64).saturating_mul(SHARE * PER_WORKER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn needed_with(setting: &str, value: &str) -> u64 {
        let settings = [(setting.into(), value.into())].into_iter();
        needed(&config::inspect(None, settings).unwrap().config)
    }

    #[test]
    fn every_bound_on_what_holds_a_descriptor_counts() {
        let least = needed_with("STOCKADE_RESULTS_FILES_MAX", "0");
        assert_eq!(needed_with("STOCKADE_RESULTS_FILES_MAX", "1000") - least, 1000);
        let least = needed_with("STOCKADE_QUEUE_JOBS_MAX", "2000");
        assert_eq!(needed_with("STOCKADE_QUEUE_JOBS_MAX", "3000") - least, 1000);
        let least = needed_with("STOCKADE_QUEUE_FILES_MAX", "1000");
        assert_eq!(needed_with("STOCKADE_QUEUE_FILES_MAX", "5000") - least, 4000);
        let least = needed_with("STOCKADE_CLIENTS_CONNECTIONS_MAX", "100");
        assert_eq!(needed_with("STOCKADE_CLIENTS_CONNECTIONS_MAX", "200") - least, 100 * PER_CLIENT);
        let least = needed_with("STOCKADE_POOL_TENANT_WORKERS_MAX", "10");
        assert_eq!(needed_with("STOCKADE_POOL_TENANT_WORKERS_MAX", "20") - least, 10 * PER_WORKER);
        let least = needed_with("STOCKADE_CACHE_FILES_MAX", "0");
        assert_eq!(needed_with("STOCKADE_CACHE_FILES_MAX", "1000") - least, 1000);
        let least = needed_with("STOCKADE_POOL_COMPILERS_MAX", "1");
        let compiler = PER_WORKER + PER_BIRTH + PER_JOB;
        assert_eq!(needed_with("STOCKADE_POOL_COMPILERS_MAX", "11") - least, 10 * compiler);
    }

    #[test]
    fn template_counts_with_its_successor_and_with_what_it_is_forking() {
        let least = needed_with("STOCKADE_POOL_TEMPLATES_MAX", "0");
        let each = 2 * (PER_WORKER + 1) + (1 + FORKS_MAX as u64) * PER_BIRTH;
        assert_eq!(needed_with("STOCKADE_POOL_TEMPLATES_MAX", "10") - least, 10 * each);
    }

    #[test]
    fn descriptors_are_enough_for_what_they_are_said_to_be_enough_for() {
        for workers in [0, 1, 4, 128, 1000, 8192] {
            assert_eq!(most_of(files_of(workers)), workers);
        }
        assert_eq!([64, 1024, u64::MAX].map(most_of).map(|most| most.min(10_000)), [5, 85, 10_000]);
    }
}
