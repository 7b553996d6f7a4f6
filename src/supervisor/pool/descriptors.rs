//! How many workers the daemon's descriptors are enough for.
//!
//! Owns: the share of `RLIMIT_NOFILE` that ready workers may take, and how many descriptors all together may come to.
//! Never: opens or closes one.

use crate::config::Config;

/// Descriptors of one worker in the supervisor: link, output, two logs, pidfd, and the directory of its leaf.
const PER_WORKER: u64 = 6;

/// Ready workers leave half of the descriptors to jobs and clients.
const SHARE: u64 = 2;

/// Descriptors of one client in the supervisor: its connection, a module and an input that it brings, an output on its way.
const PER_CLIENT: u64 = 4;

/// The daemon's own: standard streams, event loop, signals, socket, lock, cache, journal, pressure, zygote, and files that
/// are open for a moment.
const OWN: u64 = 64;

/// Most descriptors that a daemon with this configuration can come to have open at once.
#[must_use]
pub fn needed(config: &Config) -> u64 {
    let pool = &config.pool;
    let workers =
        [pool.workers_max, pool.compilers_max, pool.ready_max, pool.templates_max, pool.tenant_workers_max];
    let all = |counts: &[usize]| counts.iter().fold(0_u64, |sum, count| sum.saturating_add(*count as u64));
    all(&workers)
        .saturating_mul(PER_WORKER)
        .saturating_add(all(&[config.queue.files_max, config.results.files_max]))
        .saturating_add(all(&[config.clients.connections_max]).saturating_mul(PER_CLIENT))
        .saturating_add(OWN)
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
        let least = needed_with("STOCKADE_QUEUE_FILES_MAX", "1000");
        assert_eq!(needed_with("STOCKADE_QUEUE_FILES_MAX", "5000") - least, 4000);
        let least = needed_with("STOCKADE_CLIENTS_CONNECTIONS_MAX", "100");
        assert_eq!(needed_with("STOCKADE_CLIENTS_CONNECTIONS_MAX", "200") - least, 100 * PER_CLIENT);
        let least = needed_with("STOCKADE_POOL_TENANT_WORKERS_MAX", "10");
        assert_eq!(needed_with("STOCKADE_POOL_TENANT_WORKERS_MAX", "20") - least, 10 * PER_WORKER);
    }

    #[test]
    fn descriptors_are_enough_for_what_they_are_said_to_be_enough_for() {
        for workers in [0, 1, 4, 128, 1000, 8192] {
            assert_eq!(most_of(files_of(workers)), workers);
        }
        assert_eq!([64, 1024, u64::MAX].map(most_of).map(|most| most.min(10_000)), [5, 85, 10_000]);
    }
}
