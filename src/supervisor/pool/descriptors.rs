//! How many workers the daemon's descriptors are enough for.
//!
//! Owns: the share of `RLIMIT_NOFILE` that ready workers may take.
//! Never: opens or closes one.

/// Descriptors of one worker in the supervisor: link, output, two logs, pidfd, and the directory of its leaf.
const PER_WORKER: u64 = 6;

/// Ready workers leave half of the descriptors to jobs and clients.
const SHARE: u64 = 2;

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

    #[test]
    fn descriptors_are_enough_for_what_they_are_said_to_be_enough_for() {
        for workers in [0, 1, 4, 128, 1000, 8192] {
            assert_eq!(most_of(files_of(workers)), workers);
        }
        assert_eq!([64, 1024, u64::MAX].map(most_of).map(|most| most.min(10_000)), [5, 85, 10_000]);
    }
}
