//! Exit statuses of the command line.
//!
//! Owns: which ending becomes which status; `docs/result.md` has the table.
//! Never: exits.

use stockade_wire::job::{JobResult, Verdict};

/// All went well.
pub const SUCCESS: u8 = 0;

/// The answer is no: a required layer is missing, there is no such job.
pub const FAILURE: u8 = 1;

/// The command line or the configuration makes no sense; `run` and `submit` say [`OWN_FAILURE`] instead, so
/// that it cannot be taken for a guest's own status, and so do `serve` and `explain` of a configuration.
pub const USAGE: u8 = 2;

/// A time limit ended the job, as timeout(1) says it.
pub const TIMED_OUT: u8 = 124;

/// Stockade itself failed, or was asked for nonsense, as timeout(1) and env(1) say it.
pub const OWN_FAILURE: u8 = 125;

/// Whoever read the output went away, as a shell reports SIGPIPE.
pub const BROKEN_PIPE: u8 = 128 + 13;

/// The job was refused or its module cannot run.
pub const DENIED: u8 = 126;

/// The guest trapped: 128 + SIGABRT.
pub const TRAPPED: u8 = 134;

/// The job was ended for what it used or because somebody asked: 128 + SIGKILL.
pub const KILLED: u8 = 137;

/// A guest that failed without saying how.
const GUEST_FAILURE: u8 = 1;

/// The status `run` and `submit` exit with.
#[must_use]
pub fn exit_status(result: &JobResult) -> u8 {
    match result.outcome.verdict {
        Verdict::Completed => own(result.exit_code.unwrap_or(0)),
        // A failure never looks like a success, not even as status 256.
        Verdict::GuestError => match result.exit_code.map(own) {
            None | Some(0) => GUEST_FAILURE,
            Some(status) => status,
        },
        Verdict::TimedOut | Verdict::OutOfFuel => TIMED_OUT,
        Verdict::OutOfMemory | Verdict::OutputLimit | Verdict::Cancelled | Verdict::JailViolation => KILLED,
        Verdict::Trapped => TRAPPED,
        Verdict::InvalidModule | Verdict::CompileLimit | Verdict::Denied => DENIED,
        Verdict::WorkerLost | Verdict::Internal => OWN_FAILURE,
    }
}

/// A guest's status as a parent process sees it: its low eight bits.
fn own(exit_code: i32) -> u8 {
    let [low, ..] = exit_code.to_le_bytes();
    low
}

#[cfg(test)]
mod tests {
    use super::super::render::sample;
    use super::*;

    #[test]
    fn document_has_every_verdict_with_its_exit_status() {
        let document = include_str!("../../docs/result.md");
        let (_, table) = document.split_once("## Verdicts").unwrap();
        let mut rows = 0;
        for row in table.split("## Reasons").next().unwrap().lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let mut result = sample();
            result.exit_code = None;
            let name = format!("\"{}\"", cells[1].trim_matches('`'));
            result.outcome.verdict = serde_json::from_str(&name).unwrap();
            let documented = match cells[3] {
                "the guest's" => 0,
                "the guest's, else 1" => 1,
                status => status.parse().unwrap(),
            };
            assert_eq!(exit_status(&result), documented, "{row}");
            rows += 1;
        }
        assert_eq!(rows, 14);
    }

    #[test]
    fn exit_status_of_every_verdict_is_the_documented_one() {
        for (verdict, exit_code, status) in [
            (Verdict::Completed, Some(0), 0),
            (Verdict::Completed, None, 0),
            (Verdict::GuestError, Some(3), 3),
            (Verdict::GuestError, Some(255), 255),
            (Verdict::GuestError, Some(-1), 255),
            (Verdict::GuestError, Some(256), 1),
            (Verdict::GuestError, Some(0), 1),
            (Verdict::GuestError, None, 1),
            (Verdict::Trapped, None, 134),
            (Verdict::TimedOut, None, 124),
            (Verdict::OutOfFuel, None, 124),
            (Verdict::OutOfMemory, None, 137),
            (Verdict::OutputLimit, None, 137),
            (Verdict::Cancelled, None, 137),
            (Verdict::JailViolation, None, 137),
            (Verdict::InvalidModule, None, 126),
            (Verdict::CompileLimit, None, 126),
            (Verdict::Denied, None, 126),
            (Verdict::WorkerLost, None, 125),
            (Verdict::Internal, None, 125),
            // Whatever a worker claims, a job that was stopped does not exit 0.
            (Verdict::TimedOut, Some(0), 124),
            (Verdict::Trapped, Some(0), 134),
        ] {
            let mut result = sample();
            result.outcome.verdict = verdict;
            result.exit_code = exit_code;
            assert_eq!(exit_status(&result), status, "{verdict:?} {exit_code:?}");
        }
    }
}
