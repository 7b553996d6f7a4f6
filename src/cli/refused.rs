//! The result of a job that was refused before it became one.
//!
//! Owns: what such a result holds: an outcome, and nothing that was never measured.
//! Never: decides a refusal.

use stockade_wire::bytes::ByteBuf;
use stockade_wire::client::Refusal;
use stockade_wire::job::{Bill, Isolation, JobResult, Logs, Outcome, Walls};

use super::args::JobArgs;
use crate::supervisor::{Caller, denied};

/// A result that says `refusal`, so that a refused job is reported as any other.
pub(super) fn result(refusal: &Refusal, args: &JobArgs) -> JobResult {
    let uid = Caller::own().uid;
    let tenant = match &args.tenant {
        Some(name) => format!("uid:{uid}/{name}"),
        None => format!("uid:{uid}"),
    };
    JobResult {
        job: String::new(),
        tenant,
        module: [0; 32],
        isolation: args.isolation.map_or(Isolation::Fresh, Into::into),
        outcome: outcome(refusal),
        exit_code: None,
        error: None,
        output: ByteBuf::default(),
        logs: Logs::default(),
        bill: Bill::default(),
        jail: Walls::default(),
        trace_id: None,
    }
}

fn outcome(refusal: &Refusal) -> Outcome {
    let outcome = denied(refusal);
    match (refusal.retry_after_ms, outcome.message) {
        (Some(ms), Some(message)) => {
            Outcome { message: Some(format!("{message} (try again in {ms} ms)")), ..outcome }
        }
        (_, message) => Outcome { message, ..outcome },
    }
}

#[cfg(test)]
mod tests {
    use stockade_wire::client::RefusalReason;
    use stockade_wire::job::Verdict;

    use super::*;

    #[test]
    fn result_of_a_refusal_says_why_and_when_to_come_back() {
        let refusal = Refusal {
            reason: RefusalReason::QueueFull,
            message: "the queue is full".to_owned(),
            retry_after_ms: Some(100),
        };
        let args = JobArgs { tenant: Some("t".to_owned()), ..JobArgs::default() };
        let result = result(&refusal, &args);
        assert_eq!(result.outcome.verdict, Verdict::Denied);
        assert_eq!(result.outcome.reason.as_deref(), Some("queue_full"));
        assert_eq!(result.outcome.message.as_deref(), Some("the queue is full (try again in 100 ms)"));
        assert!(result.outcome.retriable && result.tenant.ends_with("/t") && result.job.is_empty());
        assert_eq!(result.bill, Bill::default());
    }
}
