//! What one run found, as `--json` writes it.
//!
//! Owns: the keys, which docs/performance.md explains one by one.
//! Never: measures, formats for people.
//!
//! A figure that was not taken is `null`, never 0, and never left out.

use serde::{Deserialize, Serialize};

use crate::samples::median;

/// Version of the keys: another number where one changes its meaning or goes.
pub const SCHEMA: u32 = 1;

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When it began, UTC.
    pub taken: String,
    /// A smoke run: its figures mean nothing.
    pub quick: bool,
    /// How often everything was measured, in turn.
    pub rounds: u32,
    /// Where.
    pub machine: Machine,
    /// What else went on.
    pub load: Load,
    /// Of what.
    pub versions: Vec<Version>,
    /// What was measured.
    pub rows: Vec<Row>,
    /// What follows from it.
    pub ratios: Vec<Ratio>,
    /// Cost as workers and clients grow.
    pub scale: Vec<ScalePoint>,
    /// The supervisor's memory along a long run.
    pub endurance: Option<Endurance>,
}

/// The machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Model of its processor.
    pub processor: String,
    /// Processors this process may use.
    pub processors: u64,
    /// Architecture.
    pub architecture: String,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Kernel's name and release.
    pub kernel: String,
    /// Whether a hypervisor says it is one.
    pub virtual_machine: bool,
    /// Controllers of the cgroup v2 tree there is.
    pub cgroup_controllers: Vec<String>,
}

/// Load averages of the last minute.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Before the first measurement.
    pub before: f64,
    /// After the last, this run's own load included.
    pub after: f64,
    /// What of the processors' time the hypervisor kept for others meanwhile, of a hundred. A run that was written before
    /// this was measured has none.
    #[serde(default)]
    pub stolen_percent: f64,
}

/// One program or library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Its name.
    pub name: String,
    /// Its version as it tells it; `null` where it is not installed.
    pub version: Option<String>,
}

/// One thing that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Stable name, for `--only`.
    pub id: String,
    /// In words.
    pub what: String,
    /// What keeps one job from the next and from the host: of Stockade what its results state.
    pub isolation: Option<String>,
    /// Why there are no figures.
    pub missing: Option<String>,
    /// The figures, medians over the rounds.
    pub figures: Option<Figures>,
}

/// Figures of one row.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Samples of the latency, of all rounds together.
    pub samples: u64,
    /// Median latency, one at a time, µs.
    pub p50_us: Option<f64>,
    /// 99th percentile of it, µs; `null` of fewer than 100 samples a round.
    pub p99_us: Option<f64>,
    /// CPU time that all processes of the measured system used for one job, µs.
    pub cpu_us: Option<f64>,
    /// Private memory of one idle worker, KiB.
    pub worker_private_kib: Option<f64>,
    /// Proportional share of one idle worker, KiB.
    pub worker_pss_kib: Option<f64>,
    /// Private memory of one idle worker that stands ready with a module, KiB.
    pub ready_private_kib: Option<f64>,
    /// Closed loop: every client asks again as soon as it is answered.
    pub clients: Vec<Clients>,
    /// Open loop at half of the greatest throughput above.
    pub paced: Option<Paced>,
    /// Closed loop for a long time.
    pub sustained: Option<Sustained>,
}

/// Several clients in a closed loop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Clients {
    /// How many.
    pub clients: u64,
    /// Jobs a second, all together.
    pub per_second: f64,
    /// Median latency, µs.
    pub p50_us: Option<f64>,
    /// 99th percentile, µs.
    pub p99_us: Option<f64>,
}

/// Jobs sent by the clock, whether or not the ones before are over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Paced {
    /// Jobs a second asked for.
    pub per_second: f64,
    /// Median, from the moment a job was due to be sent, µs.
    pub p50_us: Option<f64>,
    /// 99th percentile of the same, µs.
    pub p99_us: Option<f64>,
    /// 99th percentile of how late the sender itself was, which is part of the above, µs.
    pub sender_late_p99_us: Option<f64>,
}

/// Throughput over a long time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sustained {
    /// How long, s.
    pub seconds: f64,
    /// Clients.
    pub clients: u64,
    /// Jobs a second over all of it.
    pub per_second: f64,
    /// Jobs in the worst whole second.
    pub worst_second: f64,
}

/// One figure against another of the same run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// Stable name.
    pub id: String,
    /// In words.
    pub what: String,
    /// The figure; `null` when a part of it is missing.
    pub value: Option<f64>,
    /// What it should be; `null` where nothing is asked.
    pub wanted: Option<f64>,
    /// Whether `wanted` is the most it may be, and not the least.
    pub at_most: bool,
    /// Whether it is; `null` where nothing is asked, or there is no value.
    pub met: Option<bool>,
}

/// Cost with so many warm workers and so many clients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScalePoint {
    /// Idle workers kept ready.
    pub workers: u64,
    /// Clients in a closed loop.
    pub clients: u64,
    /// Jobs a second, all together.
    pub per_second: f64,
    /// Median latency, µs.
    pub p50_us: Option<f64>,
    /// 99th percentile, µs.
    pub p99_us: Option<f64>,
    /// CPU time of all of Stockade's processes for one job, µs.
    pub cpu_us: Option<f64>,
    /// Proportional share of one idle worker before the jobs, KiB.
    pub worker_pss_kib: Option<f64>,
    /// Proportional shares of all of Stockade's processes before the jobs, MiB.
    pub all_pss_mib: f64,
    /// Resident memory of the supervisor after the jobs, MiB.
    pub supervisor_mib: f64,
}

/// A long run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Endurance {
    /// Jobs that ended well.
    pub jobs: u64,
    /// How long it took, s.
    pub seconds: f64,
    /// Clients.
    pub clients: u64,
    /// The supervisor along the way.
    pub samples: Vec<EnduranceSample>,
}

/// The supervisor at one point of a long run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EnduranceSample {
    /// Jobs ended by then.
    pub jobs: u64,
    /// Its resident memory, KiB.
    pub supervisor_kib: u64,
    /// Its open descriptors.
    pub supervisor_fds: u64,
    /// Processes that are its children.
    pub children: u64,
}

impl Figures {
    /// One row's figures of several rounds: the median of each.
    #[must_use]
    pub fn median_of(rounds: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> Option<f64>| median(rounds.iter().filter_map(figure));
        Self {
            samples: rounds.iter().map(|round| round.samples).sum(),
            p50_us: of(|round| round.p50_us),
            p99_us: of(|round| round.p99_us),
            cpu_us: of(|round| round.cpu_us),
            worker_private_kib: of(|round| round.worker_private_kib),
            worker_pss_kib: of(|round| round.worker_pss_kib),
            ready_private_kib: of(|round| round.ready_private_kib),
            clients: Clients::median_of(rounds),
            paced: Paced::median_of(&rounds.iter().filter_map(|r| r.paced.clone()).collect::<Vec<_>>()),
            // Measured in one round only: a minute is long enough.
            sustained: rounds.iter().find_map(|round| round.sustained.clone()),
        }
    }

    /// The greatest throughput of any number of clients.
    #[must_use]
    pub fn per_second_most(&self) -> Option<f64> {
        self.clients.iter().map(|clients| clients.per_second).reduce(f64::max)
    }
}

impl Clients {
    fn median_of(rounds: &[Figures]) -> Vec<Self> {
        let Some(first) = rounds.first() else { return Vec::new() };
        let counts = first.clients.iter().map(|row| row.clients);
        counts
            .map(|count| {
                let same: Vec<&Self> = rounds
                    .iter()
                    .flat_map(|round| &round.clients)
                    .filter(|row| row.clients == count)
                    .collect();
                Self {
                    clients: count,
                    per_second: median(same.iter().map(|row| row.per_second)).unwrap_or_default(),
                    p50_us: median(same.iter().filter_map(|row| row.p50_us)),
                    p99_us: median(same.iter().filter_map(|row| row.p99_us)),
                }
            })
            .collect()
    }
}

impl Paced {
    fn median_of(rounds: &[Self]) -> Option<Self> {
        Some(Self {
            per_second: median(rounds.iter().map(|round| round.per_second))?,
            p50_us: median(rounds.iter().filter_map(|round| round.p50_us)),
            p99_us: median(rounds.iter().filter_map(|round| round.p99_us)),
            sender_late_p99_us: median(rounds.iter().filter_map(|round| round.sender_late_p99_us)),
        })
    }
}

impl Report {
    /// The figures of a row that was measured.
    #[must_use]
    pub fn figures(&self, id: &str) -> Option<&Figures> {
        self.rows.iter().find(|row| row.id == id)?.figures.as_ref()
    }

    /// A report in which nothing is missing, to see all keys there are.
    #[must_use]
    pub fn specimen() -> Self {
        let clients = Clients { clients: 8, per_second: 1.0, p50_us: Some(1.0), p99_us: Some(1.0) };
        let figures = Figures {
            clients: vec![clients],
            paced: Some(Paced { per_second: 1.0, p50_us: None, p99_us: None, sender_late_p99_us: None }),
            sustained: Some(Sustained { seconds: 1.0, clients: 1, per_second: 1.0, worst_second: 1.0 }),
            ..Figures::default()
        };
        let text = || "specimen".to_owned();
        let sample = EnduranceSample { jobs: 1, supervisor_kib: 1, supervisor_fds: 1, children: 1 };
        Self {
            schema: SCHEMA,
            taken: text(),
            quick: true,
            rounds: 1,
            machine: Machine {
                processor: text(),
                processors: 1,
                architecture: text(),
                memory_mib: 1,
                kernel: text(),
                virtual_machine: true,
                cgroup_controllers: Vec::new(),
            },
            load: Load { before: 0.0, after: 0.0, stolen_percent: 0.0 },
            versions: vec![Version { name: text(), version: None }],
            rows: vec![Row {
                id: text(),
                what: text(),
                isolation: None,
                missing: None,
                figures: Some(figures),
            }],
            ratios: vec![Ratio {
                id: text(),
                what: text(),
                value: None,
                wanted: None,
                at_most: true,
                met: None,
            }],
            scale: vec![ScalePoint {
                workers: 1,
                clients: 1,
                per_second: 1.0,
                p50_us: None,
                p99_us: None,
                cpu_us: None,
                worker_pss_kib: None,
                all_pss_mib: 1.0,
                supervisor_mib: 1.0,
            }],
            endurance: Some(Endurance { jobs: 1, seconds: 1.0, clients: 1, samples: vec![sample] }),
        }
    }
}

/// Every key of a document, as `rows[].figures.p50_us`, in the order of their names.
#[must_use]
pub fn keys(document: &serde_json::Value) -> std::collections::BTreeSet<String> {
    fn walk(value: &serde_json::Value, path: &str, found: &mut std::collections::BTreeSet<String>) {
        match value {
            serde_json::Value::Object(members) => {
                for (name, member) in members {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    walk(member, &path, found);
                    found.insert(path);
                }
            }
            serde_json::Value::Array(items) => {
                items.iter().for_each(|item| walk(item, &format!("{path}[]"), found));
            }
            _ => {}
        }
    }
    let mut found = std::collections::BTreeSet::new();
    walk(document, "", &mut found);
    found
}
