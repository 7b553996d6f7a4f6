//! The jobs that are measured.
//!
//! Owns: the guests' text, their inputs, and what must come out.
//! Never: runs one.

use std::time::Duration;

use stockade_wire::job::{Isolation, LimitsWanted, ModuleSource, Submission};

/// Returns at once.
pub const NOOP: &str = include_str!("../rivals/noop.wat");

/// Makes ASCII letters capitals: bytes in, bytes out.
pub const UPPER: &str = include_str!("../rivals/upper.wat");

/// Computes for some milliseconds: [`SPIN_ROUNDS`] steps of a generator of numbers.
pub const SPIN: &str = include_str!("../rivals/spin.wat");

/// An expression of JavaScript: a function from an order to its sums.
pub const TRANSFORM: &str = include_str!("../rivals/transform.js");

/// An expression of JavaScript: a function that computes, and asks its host for nothing.
pub const COMPUTE: &str = include_str!("../rivals/compute.js");

/// What [`COMPUTE`] is given.
const COMPUTE_ROUNDS: u64 = 500_000;

/// Lines of the order that [`TRANSFORM`] is given: about 1 KiB of them.
const ORDER_LINES: u64 = 23;

/// Never ends.
pub const ENDLESS: &str =
    r#"(module (memory (export "memory") 1) (func (export "_start") (loop $again (br $again))))"#;

/// Which job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// [`NOOP`].
    Noop,
    /// [`UPPER`] on 1 KiB.
    Upper1K,
    /// [`UPPER`] on 1 MiB.
    Upper1M,
    /// [`SPIN`].
    Spin,
    /// [`NOOP`] in a module that was never seen before.
    Cold,
    /// [`TRANSFORM`] on 1 KiB of JSON.
    Transform,
    /// [`COMPUTE`].
    Compute,
}

impl Job {
    /// Its part of a row's id.
    #[must_use]
    pub const fn id(self) -> &'static str {
        match self {
            Self::Noop => "noop",
            Self::Upper1K => "upper-1k",
            Self::Upper1M => "upper-1m",
            Self::Spin => "spin",
            Self::Cold => "cold",
            Self::Transform => "js-transform",
            Self::Compute => "js-compute",
        }
    }

    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Noop => "no-op",
            Self::Upper1K => "1 KiB in, 1 KiB out",
            Self::Upper1M => "1 MiB in, 1 MiB out",
            Self::Spin => "fixed computation",
            Self::Cold => "no-op in a module never seen before",
            Self::Transform => "JavaScript, 1 KiB of JSON transformed",
            Self::Compute => "JavaScript that computes and sorts",
        }
    }

    /// What it is given.
    #[must_use]
    pub fn input(self) -> Vec<u8> {
        let length = match self {
            Self::Transform => return order().into_bytes(),
            Self::Compute => return COMPUTE_ROUNDS.to_string().into_bytes(),
            Self::Upper1K => 1 << 10,
            Self::Upper1M => 1 << 20,
            Self::Noop | Self::Spin | Self::Cold => 0,
        };
        b"the quick brown fox jumps over a lazy dog; ".iter().copied().cycle().take(length).collect()
    }

    /// What must come back.
    #[must_use]
    pub fn output(self) -> Vec<u8> {
        match self {
            Self::Spin => b"1488053888\n".to_vec(),
            Self::Transform => sums().into_bytes(),
            Self::Compute => b"[17711,3544800801,53900,4294274416]".to_vec(),
            _ => self.input().to_ascii_uppercase(),
        }
    }

    /// The text of its module; of [`Job::Cold`] another one for each number.
    #[must_use]
    pub fn module(self, number: u64) -> String {
        match self {
            Self::Noop => NOOP.to_owned(),
            Self::Upper1K | Self::Upper1M => UPPER.to_owned(),
            Self::Spin => SPIN.to_owned(),
            Self::Transform => format!("({})(input)", TRANSFORM.trim_end()),
            Self::Compute => format!("({})(input)", COMPUTE.trim_end()),
            Self::Cold => NOOP.replacen("(module", &format!("(module (global i64 (i64.const {number}))"), 1),
        }
    }

    /// Whether it is a script, which is submitted with each job and has no digest to be named by.
    #[must_use]
    pub const fn is_script(self) -> bool {
        matches!(self, Self::Transform | Self::Compute)
    }

    /// As it is submitted.
    #[must_use]
    pub fn submission(self, isolation: Option<Isolation>) -> Submission {
        let mut submission = of_text(&self.module(0), None);
        submission.input = self.input().into();
        submission.isolation = isolation;
        submission.tenant = (isolation == Some(Isolation::Tenant)).then(|| "bench".to_owned());
        submission
    }
}

/// SKU, quantity and price of the order's lines; every fourth is of nothing.
fn order_lines() -> impl Iterator<Item = (String, u64, u64)> {
    (0..ORDER_LINES).map(|number| (format!("part-{number:02}"), number % 4, 100 + 7 * number))
}

fn order() -> String {
    let line = |(sku, quantity, cents): (String, u64, u64)| {
        format!(r#"{{"sku":"{sku}","quantity":{quantity},"cents":{cents}}}"#)
    };
    let lines: Vec<String> = order_lines().map(line).collect();
    format!(r#"{{"customer":" Ada Lovelace ","lines":[{}]}}"#, lines.join(","))
}

/// What [`TRANSFORM`] makes of [`order`].
fn sums() -> String {
    let ordered = || order_lines().filter(|(_, quantity, _)| *quantity > 0);
    let line = |(sku, quantity, cents): (String, u64, u64)| {
        format!(r#"{{"sku":"{}","cents":{}}}"#, sku.to_ascii_uppercase(), quantity * cents)
    };
    let lines: Vec<String> = ordered().map(line).collect();
    let net: u64 = ordered().map(|(_, quantity, cents)| quantity * cents).sum();
    let tax = net * 19 / 100;
    format!(r#"{{"customer":"ADA LOVELACE","lines":[{}],"net":{net},"tax":{tax}}}"#, lines.join(","))
}

/// A job that has nothing but this module.
#[must_use]
pub fn of_text(text: &str, timeout: Option<Duration>) -> Submission {
    let timeout_us = timeout.map(|timeout| u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX));
    Submission {
        module: ModuleSource::Bytes(text.as_bytes().to_vec().into()),
        name: "bench".to_owned(),
        entry: None,
        arguments: Vec::new(),
        input: Vec::new().into(),
        environment: Vec::new(),
        directories: Vec::new(),
        profile: None,
        limits: LimitsWanted { timeout_us, ..LimitsWanted::default() },
        isolation: None,
        tenant: None,
        require: Vec::new(),
        traceparent: None,
        request_id: None,
        purpose: stockade_wire::job::Purpose::Run,
    }
}
