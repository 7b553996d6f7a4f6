//! Whether the memory of a process keeps growing.
//!
//! Owns: the last samples' directions.
//! Never: reads a figure, ends a process.

/// Samples that are looked at.
const LOOKED_AT: u32 = 10;

/// Of those, the most that may be above the one before.
const RISES_MAX: u32 = 8;

/// What the samples of one process's memory say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Growth {
    last_bytes: Option<u64>,
    /// One bit a sample, the newest lowest: it was above the one before.
    rises: u16,
}

impl Growth {
    /// Takes a sample. Whether memory rose in more than 8 of the last 10.
    #[must_use]
    pub(super) fn keeps_on_after(&mut self, bytes: u64) -> bool {
        let rose = self.last_bytes.is_some_and(|last| bytes > last);
        self.last_bytes = Some(bytes);
        self.rises = (self.rises << 1 | u16::from(rose)) & ((1 << LOOKED_AT) - 1);
        self.rises.count_ones() > RISES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After which of the samples, the first being 1, growth was seen.
    fn seen(samples: impl IntoIterator<Item = u64>) -> Option<usize> {
        let mut growth = Growth::default();
        samples.into_iter().position(|bytes| growth.keeps_on_after(bytes)).map(|place| place + 1)
    }

    #[test]
    fn steady_growth_is_seen_at_the_ninth_rise() {
        assert_eq!(seen(1..=100), Some(10));
    }

    #[test]
    fn level_or_falling_memory_is_no_growth() {
        assert_eq!(seen(std::iter::repeat_n(7, 100)), None);
        assert_eq!(seen((0..100).rev()), None);
    }

    #[test]
    fn saw_that_falls_twice_in_ten_is_no_growth() {
        assert_eq!(seen((0..100).map(|at| at % 5)), None);
    }

    #[test]
    fn every_pattern_of_ten_directions_is_growth_exactly_when_more_than_eight_rise() {
        for pattern in 0_u32..1 << LOOKED_AT {
            let mut growth = Growth::default();
            let mut bytes = 1000;
            let mut found = growth.keeps_on_after(bytes);
            for place in (0..LOOKED_AT).rev() {
                bytes = if pattern >> place & 1 == 1 { bytes + 1 } else { bytes - 1 };
                found = growth.keeps_on_after(bytes);
            }
            assert_eq!(found, pattern.count_ones() > RISES_MAX, "{pattern:010b}");
        }
    }

    #[test]
    fn what_is_further_back_than_ten_samples_is_forgotten() {
        let rises = 0..=8;
        let level = std::iter::repeat_n(8, 10);
        assert_eq!(seen(rises.chain(level).chain(9..=16)), None);
    }
}
