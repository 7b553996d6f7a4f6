//! Figures of the machine.
//!
//! Owns: when the machine is asked, so that asking often costs nothing.
//! Never: measures a job; bills come from the kernel's accounts of the job alone.

use std::time::{Duration, Instant};

use stockade_wire::client::HostFigures;
use sysinfo::{CpuRefreshKind, ProcessRefreshKind, ProcessesToUpdate, System};

/// A sample stands for this long.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// What was seen at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sample {
    /// The machine.
    pub host: HostFigures,
    /// Resident memory of this process, bytes.
    pub own_memory_bytes: Option<u64>,
}

/// Samples the machine at most once a second.
#[derive(Debug)]
pub struct HostSampler {
    /// `None` where the system cannot be asked; figures are then all zero.
    system: Option<System>,
    latest: Option<(Instant, Sample)>,
}

impl HostSampler {
    /// A sampler that has not looked yet.
    #[must_use]
    pub fn new() -> Self {
        let system = System::new().inspect_err(|error| tracing::warn!(%error, "no figures of this host"));
        Self { system: system.ok(), latest: None }
    }

    /// The figures at `now`, at most a second old. Reads a few files of `/proc` when they are older.
    pub fn sample(&mut self, now: Instant) -> Sample {
        match &self.latest {
            Some((at, sample)) if now.saturating_duration_since(*at) < SAMPLE_INTERVAL => sample.clone(),
            _ => {
                let sample = self.system.as_mut().map(look).unwrap_or_default();
                self.latest = Some((now, sample.clone()));
                sample
            }
        }
    }
}

impl Default for HostSampler {
    fn default() -> Self {
        Self::new()
    }
}

fn look(system: &mut System) -> Sample {
    system.refresh_memory();
    if system.cpus().is_empty() {
        system.refresh_cpu_list(CpuRefreshKind::nothing());
    }
    let load = System::load_average().map(|load| [load.one, load.five, load.fifteen]).unwrap_or_default();
    let host = HostFigures {
        cpus: system.cpus().len() as u64,
        load_hundredths: load.map(hundredths),
        memory_total_bytes: system.total_memory(),
        memory_available_bytes: system.available_memory(),
        swap_used_bytes: system.used_swap(),
    };
    Sample { host, own_memory_bytes: own_memory_bytes(system) }
}

fn own_memory_bytes(system: &mut System) -> Option<u64> {
    let own = sysinfo::get_current_pid().ok()?;
    let kind = ProcessRefreshKind::nothing().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[own]), true, kind);
    Some(system.process(own)?.memory())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float cast saturates: what is no load average becomes 0 or the largest number"
)]
fn hundredths(load: f64) -> u64 {
    (load * 100.0).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sample_on_this_machine_has_plausible_figures() {
        let sample = HostSampler::new().sample(Instant::now());
        assert!(sample.host.cpus >= 1);
        assert!(sample.host.memory_total_bytes > sample.host.memory_available_bytes);
        assert!(sample.host.memory_available_bytes > 0);
        let own = sample.own_memory_bytes.unwrap();
        assert!((1 << 20..sample.host.memory_total_bytes).contains(&own), "{own} bytes");
    }

    #[test]
    fn sample_within_a_second_is_the_same_one() {
        let mut sampler = HostSampler::new();
        let start = Instant::now();
        let mut first = sampler.sample(start);
        // Marks the kept sample, to tell it from a fresh one.
        first.host.cpus = 12345;
        sampler.latest = Some((start, first));
        assert_eq!(sampler.sample(start + Duration::from_millis(999)).host.cpus, 12345);
        assert_ne!(sampler.sample(start + Duration::from_secs(1)).host.cpus, 12345);
    }

    #[test]
    fn load_average_becomes_hundredths() {
        assert_eq!([0.0, 0.42, 12.345, f64::NAN, -1.0].map(hundredths), [0, 42, 1235, 0, 0]);
    }
}
