//! What follows from the figures of one run.
//!
//! Owns: which figures are set against which, and what is asked of them.
//! Never: sets a figure against one of another run, or one that was not given the isolation it stands for.

use crate::report::{Figures, Ratio, Row};

/// What is asked of a ratio.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    Nothing,
    AtMost(f64),
    AtLeast(f64),
}

/// All ratios of these rows, those without a value included.
#[must_use]
pub fn of(rows: &[Row]) -> Vec<Ratio> {
    let found = Found(rows);
    let echo = found.p50("floor.echo-two-hop");
    let fresh = found.p50("stockade.fresh.noop");
    let tenant = found.p50("stockade.tenant.noop");
    let mut ratios = vec![
        ratio("fresh-p50-us", "fresh, no-op, median, µs", fresh, Wanted::AtMost(100.0)),
        ratio("fresh-to-echo", "fresh, no-op, median / two-hop echo", over(fresh, echo), Wanted::AtMost(5.5)),
        ratio(
            "fresh-to-echo-back-to-back",
            "fresh, no-op, median / two-hop echo, one after the other without a pause",
            found.back_to_back("stockade.fresh.noop"),
            Wanted::AtMost(5.5),
        ),
        ratio(
            "fresh-sustained",
            "fresh, no-op, jobs a second, sustained",
            found.sustained("stockade.fresh.noop"),
            Wanted::AtLeast(3_000.0),
        ),
        ratio(
            "tenant-to-echo",
            "tenant, no-op, median / two-hop echo",
            over(tenant, echo),
            Wanted::AtMost(1.5),
        ),
        ratio(
            "tenant-to-echo-back-to-back",
            "tenant, no-op, median / two-hop echo, one after the other without a pause",
            found.back_to_back("stockade.tenant.noop"),
            Wanted::AtMost(1.5),
        ),
        ratio(
            "tenant-sustained",
            "tenant, no-op, jobs a second, sustained",
            found.sustained("stockade.tenant.noop"),
            Wanted::AtLeast(25_000.0),
        ),
        ratio(
            "idle-worker-kib",
            "private memory of one idle worker, KiB",
            found.figures("stockade.fresh.noop").and_then(|figures| figures.worker_private_kib),
            Wanted::AtMost(1024.0),
        ),
        ratio(
            "start-ms",
            "start to first answer, warm cache, ms",
            found.p50("stockade.start").map(|us| us / 1e3),
            Wanted::AtMost(50.0),
        ),
        ratio(
            "lateness-p99-ms",
            "deadline of a spinning guest to its result, p99, ms",
            found.figures("stockade.lateness").and_then(|figures| figures.p99_us).map(|us| us / 1e3),
            Wanted::AtMost(2.0),
        ),
        ratio(
            "namespaces",
            "fresh, no-op, median, with namespaces / without",
            over(fresh, found.p50("stockade.fresh.noop-without-namespaces")),
            Wanted::Nothing,
        ),
    ];
    ratios.extend(of_tails(&found));
    ratios.extend(of_scripts(&found));
    ratios.extend(of_rivals(rows, &found));
    ratios
}

/// How far the slowest are from the rest, of what is sent by the clock.
fn of_tails(found: &Found<'_>) -> Vec<Ratio> {
    vec![
        ratio(
            "echo-p99-to-p50",
            "two-hop echo, p99 / p50 at half of what it is back to back",
            found.paced_spread("floor.echo-two-hop"),
            Wanted::Nothing,
        ),
        ratio(
            "fresh-p99-to-p50",
            "fresh, no-op, p99 / p50 at half of the greatest throughput",
            found.paced_spread("stockade.fresh.noop"),
            Wanted::AtMost(4.0),
        ),
        ratio(
            "tenant-p99-to-p50",
            "tenant, no-op, p99 / p50 at half of the greatest throughput",
            found.paced_spread("stockade.tenant.noop"),
            Wanted::AtMost(4.0),
        ),
    ]
}

/// What is asked of scripts.
fn of_scripts(found: &Found<'_>) -> Vec<Ratio> {
    vec![
        ratio(
            "js-fresh-p50-us",
            "fresh, JavaScript, median, µs",
            found.p50("stockade.fresh.js-transform"),
            Wanted::AtMost(300.0),
        ),
        ratio(
            "js-tenant-p50-us",
            "tenant, JavaScript, median, µs",
            found.p50("stockade.tenant.js-transform"),
            Wanted::AtMost(150.0),
        ),
        ratio(
            "js-per-second",
            "fresh, JavaScript, scripts a second at most",
            found.figures("stockade.fresh.js-transform").and_then(Figures::per_second_most),
            Wanted::AtLeast(2_500.0),
        ),
        ratio(
            "js-fresh-to-ready-script",
            "fresh, JavaScript, median / the same script in a fork that stood ready, and nothing around it",
            over(found.p50("stockade.fresh.js-transform"), found.p50("floor.ready-script")),
            Wanted::Nothing,
        ),
        ratio(
            "js-idle-worker-kib",
            "private memory of one idle worker with the engine set up, KiB",
            found.figures("stockade.fresh.js-transform").and_then(|figures| figures.ready_private_kib),
            Wanted::AtMost(1536.0),
        ),
        ratio(
            "js-interpreter-to-jit",
            "JavaScript that computes: fresh / a fresh isolate of V8, which compiles it, medians",
            over(found.p50("stockade.fresh.js-compute"), found.p50("rival.isolated-vm-fresh.js-compute")),
            Wanted::Nothing,
        ),
    ]
}

/// What others take for the same job.
fn of_rivals(rows: &[Row], found: &Found<'_>) -> Vec<Ratio> {
    let mut ratios = Vec::new();
    for row in rows.iter().filter(|row| row.id.starts_with("rival.")) {
        let job = row.id.rsplit('.').next().unwrap_or_default();
        let ours = found.p50(&format!("stockade.fresh.{}", if job == "true" { "noop" } else { job }));
        // What is promised is about a sandboxed process for each job, and about a heap for each script.
        let wanted = match row.id.as_str() {
            "rival.bwrap-node.js-transform" => Wanted::AtLeast(150.0),
            "rival.isolated-vm-fresh.js-transform" => Wanted::AtLeast(4.0),
            id if id.starts_with("rival.bwrap") => Wanted::AtLeast(40.0),
            _ => Wanted::Nothing,
        };
        let theirs = row.figures.as_ref().and_then(|figures| figures.p50_us);
        ratios.push(ratio(
            &format!("{}-to-fresh", row.id),
            &format!("{} / Stockade, fresh, the same job, medians", row.what),
            over(theirs, ours),
            wanted,
        ));
    }
    ratios
}

fn over(part: Option<f64>, whole: Option<f64>) -> Option<f64> {
    Some(part? / whole.filter(|whole| *whole > 0.0)?)
}

fn ratio(id: &str, what: &str, value: Option<f64>, wanted: Wanted) -> Ratio {
    let value = value.map(|value| (value * 100.0).round() / 100.0);
    let (wanted, at_most) = match wanted {
        Wanted::Nothing => (None, true),
        Wanted::AtMost(most) => (Some(most), true),
        Wanted::AtLeast(least) => (Some(least), false),
    };
    let met =
        value.zip(wanted).map(|(value, wanted)| if at_most { value <= wanted } else { value >= wanted });
    Ratio { id: id.to_owned(), what: what.to_owned(), value, wanted, at_most, met }
}

struct Found<'a>(&'a [Row]);

impl Found<'_> {
    /// Figures that stand for what the row's name says: of a row that asked for an isolation and got another, none.
    fn figures(&self, id: &str) -> Option<&Figures> {
        let row = self.0.iter().find(|row| row.id == id)?;
        let asked = id.strip_prefix("stockade.").and_then(|rest| rest.split_once('.'));
        if let (Some((asked, _)), Some(given)) = (asked, &row.isolation)
            && given.split(':').next() != Some(asked)
        {
            return None;
        }
        row.figures.as_ref()
    }

    fn p50(&self, id: &str) -> Option<f64> {
        self.figures(id)?.p50_us
    }

    /// Its median of one client in a closed loop, over the two-hop echo's.
    fn back_to_back(&self, id: &str) -> Option<f64> {
        let one = |id| self.figures(id)?.clients.iter().find(|clients| clients.clients == 1)?.p50_us;
        over(one(id), one("floor.echo-two-hop"))
    }

    fn sustained(&self, id: &str) -> Option<f64> {
        Some(self.figures(id)?.sustained.as_ref()?.per_second)
    }

    fn paced_spread(&self, id: &str) -> Option<f64> {
        let paced = self.figures(id)?.paced.as_ref()?;
        over(paced.p99_us, paced.p50_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, isolation: Option<&str>, p50_us: f64) -> Row {
        Row {
            id: id.to_owned(),
            what: id.to_owned(),
            isolation: isolation.map(str::to_owned),
            missing: None,
            figures: Some(Figures { p50_us: Some(p50_us), ..Figures::default() }),
        }
    }

    fn value(rows: &[Row], id: &str) -> (Option<f64>, Option<bool>) {
        let ratio = of(rows).into_iter().find(|ratio| ratio.id == id).unwrap();
        (ratio.value, ratio.met)
    }

    #[test]
    fn ratios_set_rows_of_one_run_against_each_other() {
        let rows = [
            row("floor.echo-two-hop", None, 20.0),
            row("stockade.fresh.noop", Some("fresh: seccomp"), 90.0),
            row("rival.bwrap-node.noop", None, 1800.0),
        ];
        assert_eq!(value(&rows, "fresh-p50-us"), (Some(90.0), Some(true)));
        assert_eq!(value(&rows, "fresh-to-echo"), (Some(4.5), Some(true)));
        assert_eq!(value(&rows, "rival.bwrap-node.noop-to-fresh"), (Some(20.0), Some(false)));
        assert_eq!(value(&rows, "tenant-to-echo"), (None, None));
    }

    #[test]
    fn row_that_was_given_another_isolation_stands_for_nothing() {
        let echo = row("floor.echo-two-hop", None, 20.0);
        let fresh = row("stockade.tenant.noop", Some("fresh: seccomp"), 30.0);
        assert_eq!(value(&[echo.clone(), fresh], "tenant-to-echo"), (None, None));
        let tenant = row("stockade.tenant.noop", Some("tenant: seccomp"), 30.0);
        assert_eq!(value(&[echo.clone(), tenant], "tenant-to-echo"), (Some(1.5), Some(true)));
        let mixed = row("stockade.tenant.noop", Some("2 of 9 fresh, 7 of 9 tenant"), 30.0);
        assert_eq!(value(&[echo, mixed], "tenant-to-echo"), (None, None));
    }
}
