//! A load and nothing else, for whoever looks at the daemon with a profiler meanwhile.
//!
//! Owns: what `stockade-bench drive` does.
//! Never: adds to a report.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use stockade_wire::job::{Isolation, Submission};

use crate::client::{Connection, Prepared};
use crate::daemon::{Daemon, Home};
use crate::floors::{echo, echo_back_to_back, echo_paced};
use crate::jobs::Job;
use crate::load::{Effort, closed_loop, one_at_a_time, round};
use crate::paced::{Pace, paced};
use crate::procfs::{Processors, own_cpu_time};
use crate::report::Paced;
use crate::stages::Stages;
use crate::stockade::DEFAULTS;

/// Jobs before anything is measured: the module is held ready by then.
const WARM_UP: usize = 500;

/// A client of a daemon that knows its jobs.
pub struct Warmed {
    /// Its connection.
    pub client: Connection,
    /// What it asks for.
    pub submission: Submission,
    /// The same, as it is sent.
    pub prepared: Prepared,
}

/// Has a new client of `daemon` run jobs of one kind until the module is held ready.
///
/// # Errors
/// When a job fails.
pub fn warmed(daemon: &Daemon<'_>, (job, isolation): (Job, Isolation)) -> io::Result<Warmed> {
    let mut client = Connection::open(daemon.socket())?;
    let (submission, output) = (job.submission(Some(isolation)), job.output());
    // A script comes with each job.
    let submission = if job.is_script() { submission } else { client.introduce(&submission, &output)? };
    let prepared = Prepared::new(&submission, output)?;
    for _ in 0..WARM_UP {
        client.run_prepared(&prepared)?;
    }
    Ok(Warmed { client, submission, prepared })
}

/// Has `clients` run jobs of one kind for `seconds`, one after the other each, on a daemon of its own. Returns what they saw and what
/// the daemon and its children used, in words.
///
/// # Errors
/// When the daemon does not start, or a job fails.
pub fn drive(
    program: &Path,
    (job, isolation): (Job, Isolation),
    clients: u64,
    seconds: u64,
) -> io::Result<String> {
    let home = Home::new(program, DEFAULTS)?;
    let daemon = home.start()?;
    let Warmed { mut client, submission, prepared } = warmed(&daemon, (job, isolation))?;
    let (own, all) = (own_cpu_time(daemon.pid()), daemon.cpu_time());
    let processors = Processors::now();
    let connect = || {
        let mut client = Connection::open(daemon.socket())?;
        let prepared = &prepared;
        Ok(move || client.run_prepared(prepared).map(drop))
    };
    let seen = closed_loop(clients, Duration::from_secs(seconds), connect)?;
    let jobs = seen.per_second * seconds as f64;
    let each = |time: Duration| round(time.as_secs_f64() * 1e6 / jobs.max(1.0));
    let supervisor = each(own_cpu_time(daemon.pid()).saturating_sub(own));
    let all = each(daemon.cpu_time().saturating_sub(all));
    let pace = Pace::new(seen.per_second / 2.0, Duration::from_secs(seconds));
    // A pace that cannot be held is a finding too, and not the end of this.
    let by_the_clock = paced(daemon.socket(), &submission, pace).ok();
    let by_the_clock =
        |figure: fn(&Paced) -> Option<f64>| by_the_clock.as_ref().and_then(figure).unwrap_or(f64::NAN);
    let effort = Effort { one_at_a_time: Duration::from_secs(seconds), ..Effort::FULL };
    let mut stages = Stages::default();
    let apart = one_at_a_time(&effort, || {
        let asked = Instant::now();
        let result = client.run_prepared(&prepared)?;
        stages.add(&result.bill, asked.elapsed());
        Ok(())
    })?;
    let echo = echo(&effort.few(), 2)?;
    let back_to_back = echo_back_to_back(&effort.few(), 2)?;
    let echo_paced = echo_paced(&Effort { paced: Duration::from_secs(seconds), ..effort }, 2, &back_to_back)?;
    Ok(format!(
        "{clients} clients: {} jobs a second, median {} µs, p99 {} µs; CPU a job {all} µs, of which the supervisor {supervisor} µs; \
         half as many sent by the clock: median {} µs, p99 {} µs (the sender's own {} µs); one client, {:?} apart: median {} µs, p99 {} µs; two-hop echo the same way {} µs, by the clock, {} a second, {} µs and {} µs; {:.1} % of the processors' time kept by the host\n\
         of that one client's jobs: {}\n",
        seen.per_second,
        seen.p50_us.unwrap_or_default(),
        seen.p99_us.unwrap_or_default(),
        by_the_clock(|paced| paced.p50_us),
        by_the_clock(|paced| paced.p99_us),
        by_the_clock(|paced| paced.sender_late_p99_us),
        effort.pause,
        apart.p50().unwrap_or_default(),
        apart.p99().unwrap_or_default(),
        echo.p50().unwrap_or_default(),
        echo_paced.per_second,
        echo_paced.p50_us.unwrap_or_default(),
        echo_paced.p99_us.unwrap_or_default(),
        Processors::now().stolen_percent_since(processors),
        stages.told(),
    ))
}
