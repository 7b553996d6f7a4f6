//! Several builds of the daemon beside each other, each asked in turn.
//!
//! Owns: what `stockade-bench builds` does.
//! Never: adds to a report.
//!
//! A machine that changes its speed within a second does so for all of them: what differs by a twentieth is seen within a
//! minute, which runs one after the other do not show in ten.

use std::fmt::Write;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use stockade_wire::job::Isolation;

use crate::daemon::Home;
use crate::drive::{Warmed, warmed};
use crate::jobs::Job;
use crate::load::Effort;
use crate::samples::Samples;
use crate::stages::Stages;
use crate::stockade::DEFAULTS;

/// Those who have their turn, in another order: each is first as often as any other, and before each.
fn next_turns(turns: &[usize]) -> Vec<usize> {
    let mut next = turns.to_vec();
    next.rotate_left(1.min(turns.len()));
    if next.first() == Some(&0) {
        next.reverse();
        next.rotate_right(1);
    }
    next
}

/// Has one client ask daemons of all these executables in turn, a pause before each request, for `time`. What it saw of each,
/// in words.
///
/// # Errors
/// When a daemon does not start, or a job fails.
pub fn builds(
    programs: &[&str],
    kind: (Job, Isolation),
    time: Duration,
    effort: &Effort,
) -> io::Result<String> {
    let homes: Vec<Home> =
        programs.iter().map(|program| Home::new(Path::new(program), DEFAULTS)).collect::<io::Result<_>>()?;
    let daemons: Vec<_> = homes.iter().map(Home::start).collect::<io::Result<_>>()?;
    let mut clients = Vec::new();
    for daemon in &daemons {
        clients.push((warmed(daemon, kind)?, Samples::default(), Stages::default()));
    }
    let began = Instant::now();
    let mut turns: Vec<usize> = (0..clients.len()).collect();
    while began.elapsed() < time {
        // What one leaves behind another finds: each comes after each.
        turns = next_turns(&turns);
        for turn in &turns {
            let Some((Warmed { client, prepared, .. }, samples, stages)) = clients.get_mut(*turn) else {
                continue;
            };
            effort.pause();
            let asked = Instant::now();
            let result = client.run_prepared(prepared)?;
            let waited = asked.elapsed();
            samples.push(waited);
            stages.add(&result.bill, waited);
        }
    }
    let mut text = String::new();
    for (program, (_, samples, stages)) in programs.iter().zip(&clients) {
        let (p50, p99) = (samples.p50().unwrap_or_default(), samples.p99().unwrap_or_default());
        let _ = writeln!(text, "{program}: median {p50} µs, p99 {p99} µs; {}", stages.told());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_first_as_often_as_any_other() {
        for count in 1..5 {
            let (mut turns, mut firsts) = ((0..count).collect::<Vec<usize>>(), vec![0; count]);
            for _ in 0..count * 2 {
                turns = next_turns(&turns);
                firsts[turns[0]] += 1;
            }
            assert_eq!(firsts, vec![2; count], "{count}");
        }
        assert!(next_turns(&[]).is_empty());
    }
}
