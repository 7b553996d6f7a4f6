//! Durations, sizes and counts as people write them.
//!
//! Owns: the one grammar for them, in files, in the environment and on the command line.
//! Never: goes through a float; a figure is exact or refused.
//!
//! `NUMBER[UNIT]`, the number with an optional decimal fraction. Durations: `us`, `ms`, `s`, `m`, `h`; without a
//! unit, seconds. Sizes: `K`, `M`, `G`, `T` (also `KiB` … `TiB`) are powers of 1024, `B` and no unit are bytes.

use std::time::Duration;

/// Units of time and what they are in µs. The first match wins, so longer suffixes come first.
const TIME_UNITS: [(&str, u64); 6] =
    [("us", 1), ("µs", 1), ("ms", 1_000), ("s", 1_000_000), ("m", 60_000_000), ("h", 3_600_000_000)];

/// Units of size and what they are in bytes.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("T", 1 << 40),
    ("B", 1),
];

/// Most digits before and after the point: no figure that fits in 64 bits needs more.
const DIGITS_MAX: usize = 20;

/// Why a text is not a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a number, or with a sign, an exponent or blanks.
    #[error("not a plain number such as 500 or 1.5")]
    NotANumber,
    /// A duration's unit that is none.
    #[error("durations end in us, ms, s, m or h")]
    UnknownTimeUnit,
    /// A size's unit that is none.
    #[error("sizes end in K, M, G or T (powers of 1024)")]
    UnknownSizeUnit,
    /// A fraction finer than a µs or a byte.
    #[error("finer than the smallest unit, one µs or one byte")]
    TooFine,
    /// More than 64 bits hold.
    #[error("too large")]
    TooLarge,
}

/// A duration such as `500ms`, `2s`, `1m` or `0.5`.
///
/// # Errors
/// When `text` is not one, is negative, is finer than a µs, or has more µs than 64 bits hold.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let (number, suffix) = split(text);
    let unit_us = if suffix.is_empty() {
        1_000_000
    } else {
        unit(&TIME_UNITS, suffix).ok_or(UnitError::UnknownTimeUnit)?
    };
    scaled(number, unit_us).map(Duration::from_micros)
}

/// A size in bytes such as `64K`, `16M` or `65536`.
///
/// # Errors
/// When `text` is not one, is negative, is not a whole number of bytes, or is more than 64 bits hold.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let (number, suffix) = split(text);
    let unit_bytes =
        if suffix.is_empty() { 1 } else { unit(&SIZE_UNITS, suffix).ok_or(UnitError::UnknownSizeUnit)? };
    scaled(number, unit_bytes)
}

/// A plain whole number; digits may be grouped with `_`.
///
/// # Errors
/// When `text` is not one, is negative, or is more than 64 bits hold.
pub fn parse_count(text: &str) -> Result<u64, UnitError> {
    let grouped = !text.starts_with('_') && !text.ends_with('_');
    let digits: String = text.chars().filter(|c| *c != '_').collect();
    if !grouped || digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(UnitError::NotANumber);
    }
    digits.parse().map_err(|_| UnitError::TooLarge)
}

/// A duration in the largest unit that holds it as a whole number; [`parse_duration`] reads it back.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let us = duration.as_micros();
    let (suffix, unit_us) = TIME_UNITS
        .iter()
        .rev()
        .find(|(name, unit_us)| *name != "µs" && us != 0 && us.is_multiple_of(u128::from(*unit_us)))
        .copied()
        .unwrap_or(("s", 1_000_000));
    format!("{}{suffix}", us / u128::from(unit_us))
}

/// A size in the largest unit that holds it as a whole number; [`parse_size`] reads it back.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    let (suffix, unit_bytes) = SIZE_UNITS
        .iter()
        .rev()
        .find(|(name, unit_bytes)| {
            name.len() == 1 && *unit_bytes > 1 && bytes != 0 && bytes.is_multiple_of(*unit_bytes)
        })
        .copied()
        .unwrap_or(("", 1));
    format!("{}{suffix}", bytes / unit_bytes)
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text.split_at(end)
}

fn unit(units: &[(&str, u64)], suffix: &str) -> Option<u64> {
    units.iter().find(|(name, _)| *name == suffix).map(|(_, size)| *size)
}

/// `number` times `unit`, exactly.
fn scaled(number: &str, unit: u64) -> Result<u64, UnitError> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let plain = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if !plain(whole) || !plain(fraction) {
        return Err(UnitError::NotANumber);
    }
    let whole: u64 = whole.parse().map_err(|_| UnitError::TooLarge)?;
    let fraction = fraction.trim_end_matches('0');
    let places = u32::try_from(fraction.len()).map_err(|_| UnitError::TooFine)?;
    if fraction.len() >= DIGITS_MAX {
        return Err(UnitError::TooFine);
    }
    let fraction: u64 =
        if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| UnitError::TooFine)? };
    let parts = u128::from(fraction) * u128::from(unit);
    let one = 10_u128.pow(places);
    if !parts.is_multiple_of(one) {
        return Err(UnitError::TooFine);
    }
    let total = u128::from(whole) * u128::from(unit) + parts / one;
    u64::try_from(total).map_err(|_| UnitError::TooLarge)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn duration_in_every_unit_is_exact() {
        for (text, us) in [
            ("0", 0),
            ("1", 1_000_000),
            ("0.5", 500_000),
            ("1us", 1),
            ("7µs", 7),
            ("500ms", 500_000),
            ("2s", 2_000_000),
            ("1.5s", 1_500_000),
            ("1m", 60_000_000),
            ("1h", 3_600_000_000),
            ("0.25m", 15_000_000),
            ("1.000000s", 1_000_000),
            ("18446744073709551615us", u64::MAX),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_micros(us)), "{text}");
        }
    }

    #[test]
    fn duration_that_makes_no_sense_is_refused() {
        for (text, error) in [
            ("", UnitError::NotANumber),
            ("-1s", UnitError::UnknownTimeUnit),
            ("-0", UnitError::UnknownTimeUnit),
            ("+1s", UnitError::UnknownTimeUnit),
            ("NaN", UnitError::UnknownTimeUnit),
            ("inf", UnitError::UnknownTimeUnit),
            ("1e3", UnitError::UnknownTimeUnit),
            ("1 s", UnitError::UnknownTimeUnit),
            ("1S", UnitError::UnknownTimeUnit),
            ("5 minutes", UnitError::UnknownTimeUnit),
            ("s", UnitError::NotANumber),
            (".", UnitError::NotANumber),
            (".5s", UnitError::NotANumber),
            ("1.", UnitError::NotANumber),
            ("1.2.3s", UnitError::NotANumber),
            ("0.5us", UnitError::TooFine),
            ("0.0000001s", UnitError::TooFine),
            ("0.00000000000000000000000001s", UnitError::TooFine),
            ("18446744073709551616us", UnitError::TooLarge),
            ("18446744073709551615s", UnitError::TooLarge),
            ("99999999999999999999999999", UnitError::TooLarge),
        ] {
            assert_eq!(parse_duration(text), Err(error), "{text}");
        }
    }

    #[test]
    fn size_in_every_unit_is_a_power_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("65536", 65_536),
            ("12B", 12),
            ("64K", 65_536),
            ("64KiB", 65_536),
            ("16M", 16 << 20),
            ("1.5M", 3 << 19),
            ("1G", 1 << 30),
            ("2TiB", 2 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn size_that_makes_no_sense_is_refused() {
        for (text, error) in [
            ("", UnitError::NotANumber),
            ("M", UnitError::NotANumber),
            ("-1M", UnitError::UnknownSizeUnit),
            ("1MB", UnitError::UnknownSizeUnit),
            ("1m", UnitError::UnknownSizeUnit),
            ("0.5", UnitError::TooFine),
            ("16777216T", UnitError::TooLarge),
        ] {
            assert_eq!(parse_size(text), Err(error), "{text}");
        }
    }

    #[test]
    fn count_that_is_not_a_whole_number_is_refused() {
        assert_eq!(parse_count("1_000_000"), Ok(1_000_000));
        for text in ["", "_1", "1_", "-1", "+1", "1.0", "1e6", "0x10", " 1"] {
            assert_eq!(parse_count(text), Err(UnitError::NotANumber), "{text}");
        }
        assert_eq!(parse_count("18446744073709551616"), Err(UnitError::TooLarge));
    }

    proptest! {
        #[test]
        fn duration_shown_reads_back(us in any::<u64>()) {
            let duration = Duration::from_micros(us);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }

        #[test]
        fn size_shown_reads_back(bytes in any::<u64>(), shift in 0_u32..40) {
            let bytes = bytes << shift;
            prop_assert_eq!(parse_size(&show_size(bytes)), Ok(bytes));
        }

        #[test]
        fn any_text_is_refused_or_exact(text in "[0-9.a-zA-Zµ_+ -]{0,30}") {
            let _ = parse_size(&text);
            let _ = parse_count(&text);
            if let Ok(duration) = parse_duration(&text) {
                prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
            }
        }
    }
}
