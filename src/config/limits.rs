//! What one job may use: its profile, what it asked for, within the ceilings.
//!
//! Owns: [`effective_limits`], a pure function.
//! Never: clamps. A wish that cannot be granted is refused with what could be.

use std::time::Duration;

use stockade_wire::job::LimitsWanted;

use super::units::{show_duration, show_size};
use super::{Ceilings, Limits, Profile};

/// Least memory a job can ask for, bytes: one Wasm page.
const MEMORY_BYTES_MIN: u64 = 64 << 10;

/// Least size of a log ring, bytes.
const LOG_BYTES_MIN: u64 = 4 << 10;

/// Least time and CPU time a job can ask for, µs.
const TIME_US_MIN: u64 = 1_000;

/// A limit a job asked for and cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{limit} of {asked} is not allowed here; ask for {allowed}")]
pub struct LimitError {
    /// Which limit, as the command line calls it.
    pub limit: &'static str,
    /// What was asked for.
    pub asked: String,
    /// What could be asked for.
    pub allowed: String,
}

/// The limits of a job that has `profile` and asks for `wanted`.
///
/// # Errors
/// When a wish is zero where that makes no sense, or above its ceiling.
pub fn effective_limits(
    profile: &Profile,
    wanted: &LimitsWanted,
    ceilings: &Ceilings,
) -> Result<Limits, LimitError> {
    let time = |limit, wish: Option<u64>, min_us, ceiling: Duration| match wish {
        None => Ok(None),
        Some(us) => {
            let max_us = u64::try_from(ceiling.as_micros()).unwrap_or(u64::MAX);
            let show = |us| show_duration(Duration::from_micros(us));
            within(limit, us, (min_us, max_us), show).map(|us| Some(Duration::from_micros(us)))
        }
    };
    let size = |limit, wish: Option<u64>, min, max| match wish {
        None => Ok(None),
        Some(bytes) => within(limit, bytes, (min, max), show_size).map(Some),
    };
    let fuel = match wanted.fuel {
        None => None,
        Some(fuel) => Some(within("fuel", fuel, (1, ceilings.fuel), |fuel| fuel.to_string())?),
    };
    Ok(Limits {
        timeout: time("timeout", wanted.timeout_us, TIME_US_MIN, ceilings.timeout)?
            .unwrap_or(profile.timeout),
        grace: time("grace", wanted.grace_us, 0, ceilings.grace)?.unwrap_or(profile.grace),
        memory_bytes: size("memory", wanted.memory_bytes, MEMORY_BYTES_MIN, ceilings.memory_bytes)?
            .unwrap_or(profile.memory_bytes),
        fuel: fuel.or(profile.fuel),
        cpu: time("cpu", wanted.cpu_us, TIME_US_MIN, ceilings.cpu)?.or(profile.cpu),
        output_bytes: size("output-limit", wanted.output_bytes, 1, ceilings.output_bytes)?
            .unwrap_or(profile.output_bytes),
        log_bytes: size("log-buffer", wanted.log_bytes, LOG_BYTES_MIN, ceilings.log_bytes)?
            .unwrap_or(profile.log_bytes),
        log_lines: profile.log_lines,
    })
}

fn within(
    limit: &'static str,
    wish: u64,
    (min, max): (u64, u64),
    show: impl Fn(u64) -> String,
) -> Result<u64, LimitError> {
    if (min..=max).contains(&wish) {
        return Ok(wish);
    }
    Err(LimitError { limit, asked: show(wish), allowed: format!("{} to {}", show(min), show(max)) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Config;
    use super::*;

    fn config() -> Config {
        Config::defaults().unwrap()
    }

    #[test]
    fn limits_nothing_wanted_are_the_profile() {
        let config = config();
        let profile = &config.profiles["script"];
        let limits = effective_limits(profile, &LimitsWanted::default(), &config.ceilings).unwrap();
        assert_eq!(limits.timeout, Duration::from_millis(500));
        assert_eq!(limits.memory_bytes, 16 << 20);
        assert_eq!((limits.fuel, limits.cpu), (None, None));
        assert_eq!(limits.log_lines, profile.log_lines);
    }

    #[test]
    fn limits_wanted_win_over_the_profile() {
        let config = config();
        let wanted = LimitsWanted {
            timeout_us: Some(2_000_000),
            grace_us: Some(0),
            memory_bytes: Some(1 << 30),
            fuel: Some(7),
            cpu_us: Some(3_000),
            output_bytes: Some(1),
            log_bytes: Some(4096),
        };
        let limits = effective_limits(&config.profiles["batch"], &wanted, &config.ceilings).unwrap();
        assert_eq!(limits.timeout, Duration::from_secs(2));
        assert_eq!(limits.grace, Duration::ZERO);
        assert_eq!(limits.memory_bytes, 1 << 30);
        assert_eq!(limits.fuel, Some(7));
        assert_eq!(limits.cpu, Some(Duration::from_millis(3)));
        assert_eq!(limits.output_bytes, 1);
        assert_eq!(limits.log_bytes, 4096);
    }

    #[test]
    fn limit_zero_or_overflowing_is_refused_with_what_is_allowed() {
        let config = config();
        let none = LimitsWanted::default();
        for (limit, wanted) in [
            ("timeout", LimitsWanted { timeout_us: Some(0), ..none }),
            ("timeout", LimitsWanted { timeout_us: Some(u64::MAX), ..none }),
            ("grace", LimitsWanted { grace_us: Some(u64::MAX), ..none }),
            ("memory", LimitsWanted { memory_bytes: Some(0), ..none }),
            ("memory", LimitsWanted { memory_bytes: Some((1 << 30) + 1), ..none }),
            ("fuel", LimitsWanted { fuel: Some(0), ..none }),
            ("fuel", LimitsWanted { fuel: Some(u64::MAX), ..none }),
            ("cpu", LimitsWanted { cpu_us: Some(0), ..none }),
            ("output-limit", LimitsWanted { output_bytes: Some(0), ..none }),
            ("log-buffer", LimitsWanted { log_bytes: Some(0), ..none }),
        ] {
            let error = effective_limits(&config.profiles["batch"], &wanted, &config.ceilings).unwrap_err();
            assert_eq!(error.limit, limit);
            assert!(error.allowed.contains(" to "), "{error}");
        }
        let error = effective_limits(
            &config.profiles["batch"],
            &LimitsWanted { timeout_us: Some(3_600_000_000), ..none },
            &config.ceilings,
        );
        let message = "timeout of 1h is not allowed here; ask for 1ms to 10m";
        assert_eq!(error.unwrap_err().to_string(), message);
    }

    proptest! {
        #[test]
        fn limits_granted_are_within_the_ceilings(
            timeout_us in any::<Option<u64>>(), grace_us in any::<Option<u64>>(),
            memory_bytes in any::<Option<u64>>(), fuel in any::<Option<u64>>(), cpu_us in any::<Option<u64>>(),
            output_bytes in any::<Option<u64>>(), log_bytes in any::<Option<u64>>(), shift in 0_u32..64,
        ) {
            let config = config();
            let less = |wish: Option<u64>| wish.map(|wish| wish >> shift);
            let wanted = LimitsWanted {
                timeout_us: less(timeout_us), grace_us: less(grace_us), memory_bytes: less(memory_bytes),
                fuel: less(fuel), cpu_us: less(cpu_us), output_bytes: less(output_bytes),
                log_bytes: less(log_bytes),
            };
            let ceilings = &config.ceilings;
            if let Ok(limits) = effective_limits(&config.profiles["extension"], &wanted, ceilings) {
                prop_assert!(limits.timeout > Duration::ZERO && limits.timeout <= ceilings.timeout);
                prop_assert!(limits.grace <= ceilings.grace);
                prop_assert!(limits.memory_bytes >= 65_536 && limits.memory_bytes <= ceilings.memory_bytes);
                prop_assert!(limits.fuel.is_none_or(|fuel| fuel > 0 && fuel <= ceilings.fuel));
                prop_assert!(limits.cpu.is_none_or(|cpu| cpu <= ceilings.cpu));
                prop_assert!(limits.output_bytes <= ceilings.output_bytes);
                prop_assert!(limits.log_bytes >= 4096 && limits.log_bytes <= ceilings.log_bytes);
            }
        }
    }
}
