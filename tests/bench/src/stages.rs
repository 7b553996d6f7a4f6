//! Where the time of a job goes, by its bill.
//!
//! Owns: the stages of a job's way as bills tell of them, and what is left between those and what the client saw.
//! Never: measures anything; the daemon did.

use std::fmt::Write;
use std::time::Duration;

use stockade_wire::job::Bill;

use crate::samples::Samples;

/// What the jobs of one kind took, stage by stage.
#[derive(Debug, Clone, Default)]
pub struct Stages {
    to_and_from: Samples,
    bill: [Samples; 5],
    rest: Samples,
    cpu: Samples,
    faults: Vec<u64>,
}

/// The stages that a bill names, in their order.
const BILLED: [&str; 5] = ["queue", "compile", "fork", "load", "run"];

impl Stages {
    /// Takes a job in: its bill, and how long the client waited for its result.
    pub fn add(&mut self, bill: &Bill, waited: Duration) {
        let took = |us: Option<u64>| Duration::from_micros(us.unwrap_or(0));
        let billed = [bill.queue_us, bill.compile_us, bill.fork_us, bill.load_us, bill.run_us].map(took);
        let wall = took(bill.wall_us);
        self.to_and_from.push(waited.saturating_sub(wall));
        self.rest.push(wall.saturating_sub(billed.iter().sum()));
        for (samples, took) in self.bill.iter_mut().zip(billed) {
            samples.push(took);
        }
        self.cpu.push(took(bill.cpu_user_us) + took(bill.cpu_system_us));
        self.faults.extend(bill.page_faults);
    }

    /// The medians, in words.
    #[must_use]
    pub fn told(&self) -> String {
        let median = |samples: &Samples| samples.p50().unwrap_or_default();
        let mut text = format!("to the daemon and back {:.0} µs", median(&self.to_and_from));
        for (name, samples) in BILLED.iter().zip(&self.bill) {
            let _ = write!(text, ", {name} {:.0}", median(samples));
        }
        let _ = write!(
            text,
            ", order, wake-ups and reply {:.0}; the worker's CPU {:.0} µs",
            median(&self.rest),
            median(&self.cpu)
        );
        let mut faults = self.faults.clone();
        faults.sort_unstable();
        match faults.get(faults.len() / 2) {
            Some(median) => text + &format!(", page faults {median}"),
            None => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_and_what_is_left_between_them_come_to_what_the_client_waited() {
        let mut stages = Stages::default();
        assert!(stages.told().ends_with("the worker's CPU 0 µs"), "{}", stages.told());
        let bill = Bill {
            wall_us: Some(200),
            queue_us: Some(1),
            compile_us: Some(2),
            fork_us: Some(3),
            load_us: Some(4),
            run_us: Some(5),
            cpu_user_us: Some(60),
            cpu_system_us: Some(40),
            page_faults: Some(24),
            ..Bill::default()
        };
        stages.add(&bill, Duration::from_micros(300));
        assert_eq!(
            stages.told(),
            "to the daemon and back 100 µs, queue 1, compile 2, fork 3, load 4, run 5, order, wake-ups and reply 185; \
             the worker's CPU 100 µs, page faults 24"
        );
    }
}
