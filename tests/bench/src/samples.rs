//! Durations, and what is said of them.
//!
//! Owns: percentiles of samples, and medians over rounds.
//! Never: reads a clock.

use std::time::Duration;

/// Fewest samples of which a 99th percentile is told: with fewer it is the worst one, or nearly.
pub const P99_SAMPLES_MIN: usize = 100;

/// Durations of the same thing, in µs.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds one.
    pub fn push(&mut self, sample: Duration) {
        self.0.push(sample.as_nanos() as f64 / 1e3);
    }

    /// Adds all of another's.
    pub fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them together.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_secs_f64(self.0.iter().sum::<f64>() / 1e6)
    }

    /// The smallest sample that at least this share of all does not exceed, µs; `None` of no samples.
    #[must_use]
    pub fn percentile(&self, hundredth: usize) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let rank = (sorted.len() * hundredth).div_ceil(100).max(1);
        sorted.get(rank - 1).copied()
    }

    /// The median, µs.
    #[must_use]
    pub fn p50(&self) -> Option<f64> {
        self.percentile(50)
    }

    /// The 99th percentile, µs; `None` of fewer than [`P99_SAMPLES_MIN`].
    #[must_use]
    pub fn p99(&self) -> Option<f64> {
        if self.len() < P99_SAMPLES_MIN { None } else { self.percentile(99) }
    }
}

/// The median of what rounds gave; of an even number of them the lower middle one, which was really measured.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len().checked_sub(1)? / 2;
    sorted.get(middle).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(micros: impl IntoIterator<Item = u64>) -> Samples {
        let mut samples = Samples::default();
        micros.into_iter().for_each(|us| samples.push(Duration::from_micros(us)));
        samples
    }

    #[test]
    fn percentiles_of_a_hundred_are_their_ranks() {
        let samples = samples((1..=100).rev());
        assert_eq!(samples.p50(), Some(50.0));
        assert_eq!(samples.p99(), Some(99.0));
        assert_eq!(samples.percentile(100), Some(100.0));
    }

    #[test]
    fn p99_of_few_samples_is_not_told() {
        assert_eq!(samples(1..=99).p99(), None);
        assert_eq!(samples(1..=3).p50(), Some(2.0));
        assert_eq!(samples([]).p50(), None);
    }

    #[test]
    fn median_of_an_even_number_is_one_of_them() {
        assert_eq!(median([4.0, 1.0, 3.0, 2.0]), Some(2.0));
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([]), None);
    }
}
