//! `stockade stats`: figures of the daemon and its host.
//!
//! Owns: how they look, for programs and for people.
//! Never: computes one.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde::Serialize;
use stockade_wire::client::{HostFigures, Readiness, Statistics};

use super::output::Output;
use super::{remote, render};
use crate::supervisor::logs::safe_text;

/// Longest verdict shown, bytes.
const NAME_BYTES_MAX: usize = 32;

/// Longest reason shown, bytes.
const STATE_BYTES_MAX: usize = 300;

/// The figures as they are printed. Field names are stable, and so is their order.
#[derive(Debug, Serialize)]
struct StatisticsObject<'a> {
    uptime_ms: u64,
    queued: u64,
    running: u64,
    warm: u64,
    accepted: u64,
    refused: u64,
    verdicts: BTreeMap<&'a str, u64>,
    forks: u64,
    templates: u64,
    prepared: u64,
    tenant_workers: u64,
    starts_reused: u64,
    starts_prepared: u64,
    starts_warm: u64,
    starts_cold: u64,
    zygote_starts: u64,
    compiled: u64,
    cache_hits: u64,
    scripts_compiled: u64,
    script_hits: u64,
    wall_p50_us: Option<u64>,
    wall_p99_us: Option<u64>,
    connections: u64,
    supervisor_memory_bytes: Option<u64>,
    readiness: ReadinessObject<'a>,
    host: &'a HostFigures,
}

#[derive(Debug, Serialize)]
struct ReadinessObject<'a> {
    warm_target: u64,
    prepared_target: u64,
    initialised: u64,
    worker_bytes: Option<u64>,
    memory_pressed: Option<bool>,
    memory_pressure_source: &'a str,
    memory_pressure_periods: u64,
    warm_ups: BTreeMap<&'a str, &'a str>,
}

/// Prints the figures of the daemon on `path`.
pub(super) fn stats(path: &Path, json: bool) -> Output {
    remote::output(remote::ask(path, async |client| {
        let statistics = client.statistics().await?;
        Ok(if json { format!("{}\n", render::line(&object(&statistics))?) } else { table(&statistics) })
    }))
}

fn object(statistics: &Statistics) -> StatisticsObject<'_> {
    let verdicts = statistics.verdicts.iter().map(|(name, count)| (name.as_str(), *count));
    StatisticsObject {
        uptime_ms: statistics.uptime_ms,
        queued: statistics.queued,
        running: statistics.running,
        warm: statistics.warm,
        accepted: statistics.accepted,
        refused: statistics.refused,
        verdicts: verdicts.collect(),
        forks: statistics.forks,
        templates: statistics.templates,
        prepared: statistics.prepared,
        tenant_workers: statistics.tenant_workers,
        starts_reused: statistics.starts_reused,
        starts_prepared: statistics.starts_prepared,
        starts_warm: statistics.starts_warm,
        starts_cold: statistics.starts_cold,
        zygote_starts: statistics.zygote_starts,
        compiled: statistics.compiled,
        cache_hits: statistics.cache_hits,
        scripts_compiled: statistics.scripts_compiled,
        script_hits: statistics.script_hits,
        wall_p50_us: statistics.wall_p50_us,
        wall_p99_us: statistics.wall_p99_us,
        connections: statistics.connections,
        supervisor_memory_bytes: statistics.supervisor_memory_bytes,
        readiness: readiness(&statistics.readiness),
        host: &statistics.host,
    }
}

fn readiness(readiness: &Readiness) -> ReadinessObject<'_> {
    let warm_ups = readiness.warm_ups.iter().map(|(name, state)| (name.as_str(), state.as_str()));
    ReadinessObject {
        warm_target: readiness.warm_target,
        prepared_target: readiness.prepared_target,
        initialised: readiness.initialised,
        worker_bytes: readiness.worker_bytes,
        memory_pressed: readiness.memory_pressed,
        memory_pressure_source: &readiness.memory_pressure_source,
        memory_pressure_periods: readiness.memory_pressure_periods,
        warm_ups: warm_ups.collect(),
    }
}

fn table(statistics: &Statistics) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<14}{value}");
    };
    line("up", format!("{} s", statistics.uptime_ms / 1000));
    line("jobs", format!("{} running, {} queued", statistics.running, statistics.queued));
    line("since start", format!("{} accepted, {} refused", statistics.accepted, statistics.refused));
    for (verdict, count) in &statistics.verdicts {
        line("", format!("{count} {}", safe_text(verdict, NAME_BYTES_MAX)));
    }
    line(
        "wall time",
        format!("p50 {}, p99 {}", milliseconds(statistics.wall_p50_us), milliseconds(statistics.wall_p99_us)),
    );
    let ready = &statistics.readiness;
    line(
        "workers",
        format!("{} of {} warm, {} forked since start", statistics.warm, ready.warm_target, statistics.forks),
    );
    line(
        "templates",
        format!(
            "{} modules held ready ({} initialised), {} of {} workers",
            statistics.templates, ready.initialised, statistics.prepared, ready.prepared_target
        ),
    );
    for (name, state) in &ready.warm_ups {
        line("", format!("{}: {}", safe_text(name, NAME_BYTES_MAX), safe_text(state, STATE_BYTES_MAX)));
    }
    line("pressure", pressure(ready));
    let (prepared, warm, cold) = (statistics.starts_prepared, statistics.starts_warm, statistics.starts_cold);
    line("starts", format!("{prepared} with the module there, {warm} warm, {cold} cold"));
    line(
        "tenants",
        format!("{} workers, {} jobs in a used one", statistics.tenant_workers, statistics.starts_reused),
    );
    line("zygote", format!("started {} times", statistics.zygote_starts));
    line(
        "modules",
        format!("{} compiled, {} found in the cache", statistics.compiled, statistics.cache_hits),
    );
    line(
        "scripts",
        format!(
            "{} compiled ahead, {} jobs given one that was",
            statistics.scripts_compiled, statistics.script_hits
        ),
    );
    line("connections", statistics.connections.to_string());
    line("memory", statistics.supervisor_memory_bytes.map_or_else(|| "unknown".to_owned(), mebibytes));
    let host = &statistics.host;
    let [one, five, fifteen] = host.load_hundredths.map(|load| format!("{}.{:02}", load / 100, load % 100));
    line("host", format!("{} processors, load {one} {five} {fifteen}", host.cpus));
    let (available, total) = (mebibytes(host.memory_available_bytes), mebibytes(host.memory_total_bytes));
    line(
        "",
        format!("{available} of {total} memory available, {} swap used", mebibytes(host.swap_used_bytes)),
    );
    text
}

fn pressure(ready: &Readiness) -> String {
    let source = safe_text(&ready.memory_pressure_source, STATE_BYTES_MAX);
    let times = ready.memory_pressure_periods;
    match ready.memory_pressed {
        Some(true) => format!("memory is scarce, {times} times since start ({source})"),
        Some(false) => format!("memory is not scarce, was {times} times since start ({source})"),
        None => format!("not known: {source}"),
    }
}

fn milliseconds(us: Option<u64>) -> String {
    us.map_or_else(|| "unknown".to_owned(), |us| format!("{}.{:03} ms", us / 1000, us % 1000))
}

fn mebibytes(bytes: u64) -> String {
    let tenths = (bytes >> 10).saturating_mul(10) >> 10;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Statistics {
        Statistics {
            uptime_ms: 61_500,
            running: 2,
            accepted: 10,
            verdicts: vec![("completed".into(), 7), ("timed_out".into(), 1)],
            wall_p50_us: Some(1_234),
            connections: 3,
            supervisor_memory_bytes: Some(5 << 19),
            host: HostFigures { cpus: 2, load_hundredths: [5, 120, 0], ..HostFigures::default() },
            ..Statistics::default()
        }
    }

    #[test]
    fn json_of_statistics_has_verdicts_by_name() {
        let line = render::line(&object(&figures())).unwrap();
        assert!(line.contains(r#""verdicts":{"completed":7,"timed_out":1}"#), "{line}");
        assert!(line.contains(r#""wall_p99_us":null"#), "{line}");
        assert!(line.contains(r#""load_hundredths":[5,120,0]"#), "{line}");
    }

    #[test]
    fn table_of_statistics_says_unknown_for_what_is_not_known() {
        let text = table(&figures());
        assert!(text.contains("wall time     p50 1.234 ms, p99 unknown\n"), "{text}");
        assert!(text.contains("memory        2.5 MiB\n"), "{text}");
        assert!(text.contains("load 0.05 1.20 0.00\n"), "{text}");
    }
}
