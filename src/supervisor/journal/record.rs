//! What the journal holds, as bytes.
//!
//! Owns: the form of a record, and what a file that may end anywhere says of each job.
//! Never: touches a file, reads a clock.
//!
//! ```text
//! ┌──────────────────┬──────────────┬──────────────┬───────────┬────────────┐
//! │ checksum, 8 bytes│ text, u32 LE │ rest, u32 LE │ text, JSON│ rest       │
//! └──────────────────┴──────────────┴──────────────┴───────────┴────────────┘
//! ```
//!
//! The checksum is the beginning of the SHA-256 of all that follows it. The text says what every release understands: who,
//! which, and how it ended. The rest is the whole result as this release encodes it; another release does without.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use stockade_wire::frame;
use stockade_wire::job::{JobResult, Outcome};
use stockade_wire::limits::FRAME_BODY_BYTES_MAX;

/// Which encoding the rest of a record is in: the release's, and the protocol's, which changes with the types.
const ENCODING: &str = concat!(env!("CARGO_PKG_VERSION"), "/1");

const CHECKSUM_BYTES: usize = 8;
const HEADER_BYTES: usize = CHECKSUM_BYTES + 8;

/// Longest text of a record, bytes: names and a message, each with a bound of its own.
const TEXT_BYTES_MAX: usize = 64 << 10;

/// Most bytes that the end of a job takes without its result.
pub(super) const BARE_END_BYTES_MAX: u64 = (HEADER_BYTES + TEXT_BYTES_MAX) as u64;

/// A job that was accepted as durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Accepted {
    pub(crate) job: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) tenant: String,
    pub(crate) name: String,
    /// Wall clock, ms since 1970.
    pub(crate) at_ms: u64,
}

/// How one ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) job: String,
    pub(crate) outcome: Outcome,
    pub(crate) exit_code: Option<i32>,
    /// Wall clock, ms since 1970.
    pub(crate) at_ms: u64,
    /// What the rest is encoded in.
    encoding: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Text {
    Accepted(Accepted),
    Ended(Ended),
}

/// What is known of one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) accepted: Accepted,
    /// `None`: it was not over when the last record was written.
    pub(crate) ended: Option<Ended>,
    /// Its result, where this release can read it.
    pub(crate) result: Option<Box<JobResult>>,
    /// Where its records are in the file, bytes.
    pub(super) records: Vec<std::ops::Range<usize>>,
}

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// By id, which is by time.
    pub(super) jobs: BTreeMap<String, Known>,
    /// Bytes up to which every record is whole.
    pub(super) whole: usize,
}

/// A record cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The text cannot be written.
    #[error("a journal record cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    /// The text is longer than any that can be.
    #[error("a journal record's text has {0} bytes, at most {TEXT_BYTES_MAX} are kept")]
    TooLong(usize),
}

/// The record that a job was accepted.
pub(super) fn accepted(job: &Accepted) -> Result<Vec<u8>, RecordError> {
    record(&Text::Accepted(job.clone()), &[])
}

/// The record of a job's end, with its result if that takes at most `room` bytes.
pub(super) fn ended(result: &JobResult, at_ms: u64, room: u64) -> Result<Vec<u8>, RecordError> {
    let whole = frame::encode(result, FRAME_BODY_BYTES_MAX).ok();
    let rest = whole.filter(|bytes| bytes.len() as u64 <= room).unwrap_or_default();
    let text = Ended {
        job: result.job.clone(),
        outcome: result.outcome.clone(),
        exit_code: result.exit_code,
        at_ms,
        encoding: ENCODING.to_owned(),
    };
    record(&Text::Ended(text), &rest)
}

fn record(text: &Text, rest: &[u8]) -> Result<Vec<u8>, RecordError> {
    let text = serde_json::to_vec(text)?;
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(|_| RecordError::TooLong(bytes.len()));
    if text.len() > TEXT_BYTES_MAX {
        return Err(RecordError::TooLong(text.len()));
    }
    let mut body = Vec::with_capacity(8 + text.len() + rest.len());
    body.extend_from_slice(&length(&text)?.to_le_bytes());
    body.extend_from_slice(&length(rest)?.to_le_bytes());
    body.extend_from_slice(&text);
    body.extend_from_slice(rest);
    let mut record = checksum(&body).to_vec();
    record.append(&mut body);
    Ok(record)
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest = Sha256::digest(body);
    let mut short = [0; CHECKSUM_BYTES];
    for (to, from) in short.iter_mut().zip(digest) {
        *to = from;
    }
    short
}

/// Reads records until the first that is not whole. Of several ends of a job the first counts.
pub(super) fn replay(file: &[u8]) -> Replay {
    let mut replay = Replay::default();
    while let Some((text, rest, length)) = next(file.get(replay.whole..).unwrap_or_default()) {
        let place = replay.whole..replay.whole + length;
        replay.whole = place.end;
        match text {
            Text::Accepted(accepted) => {
                let known = Known { accepted, ended: None, result: None, records: vec![place] };
                replay.jobs.entry(known.accepted.job.clone()).or_insert(known);
            }
            Text::Ended(ended) => {
                let Some(known) = replay.jobs.get_mut(&ended.job).filter(|known| known.ended.is_none())
                else {
                    continue;
                };
                known.result = result(&ended, rest);
                known.ended = Some(ended);
                known.records.push(place);
            }
        }
    }
    replay
}

/// What is left of a file when the records of every job but `kept` are taken out, in their order.
pub(super) fn only(file: &[u8], kept: &BTreeSet<String>) -> Vec<u8> {
    let jobs = replay(file).jobs;
    let mut places: Vec<_> = jobs
        .iter()
        .filter(|(job, known)| kept.contains(*job) || known.ended.is_none())
        .flat_map(|(_, known)| known.records.clone())
        .collect();
    places.sort_unstable_by_key(|place| place.start);
    places.into_iter().filter_map(|place| file.get(place)).flatten().copied().collect()
}

fn result(ended: &Ended, rest: &[u8]) -> Option<Box<JobResult>> {
    if rest.is_empty() || ended.encoding != ENCODING {
        return None;
    }
    let result: JobResult = frame::decode_packet(rest, FRAME_BODY_BYTES_MAX).ok()?;
    (result.job == ended.job).then(|| Box::new(result))
}

/// The first record of `bytes`, if it is whole and true: its text, its rest, and its length.
fn next(bytes: &[u8]) -> Option<(Text, &[u8], usize)> {
    let (sum, body) = bytes.split_first_chunk::<CHECKSUM_BYTES>()?;
    let (text_length, after) = body.split_first_chunk::<4>()?;
    let (rest_length, after) = after.split_first_chunk::<4>()?;
    let text_length = u32::from_le_bytes(*text_length) as usize;
    let rest_length = u32::from_le_bytes(*rest_length) as usize;
    if text_length > TEXT_BYTES_MAX {
        return None;
    }
    let text = after.get(..text_length)?;
    let rest = after.get(text_length..)?.get(..rest_length)?;
    let length = HEADER_BYTES + text_length + rest_length;
    if checksum(bytes.get(CHECKSUM_BYTES..length)?) != *sum {
        return None;
    }
    Some((serde_json::from_slice(text).ok()?, rest, length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::blank_result;
    use crate::supervisor::job::{Job, outcome};

    fn begin(job: &str) -> Accepted {
        let (tenant, name) = ("uid:7".to_owned(), "guest".to_owned());
        Accepted { job: job.to_owned(), uid: 7, gid: 8, tenant, name, at_ms: 1 }
    }

    fn end(job: &str, output: &[u8]) -> JobResult {
        JobResult { output: output.to_vec().into(), ..blank_result(&Job::sample(job, 7)) }
    }

    /// Three jobs, of which one is not over, and where the records end.
    fn journal() -> (Vec<u8>, Vec<usize>) {
        let records = [
            accepted(&begin("a")).unwrap(),
            accepted(&begin("b")).unwrap(),
            ended(&end("a", b"of a"), 2, u64::MAX).unwrap(),
            accepted(&begin("c")).unwrap(),
            ended(&end("c", &[7; 100]), 3, 10).unwrap(),
        ];
        let mut ends = vec![0];
        for record in &records {
            ends.push(ends.last().unwrap() + record.len());
        }
        (records.concat(), ends)
    }

    #[test]
    fn journal_says_of_each_job_whether_and_how_it_ended() {
        let (bytes, _) = journal();
        let Replay { jobs, whole } = replay(&bytes);
        assert_eq!(whole, bytes.len());
        assert_eq!(jobs.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(jobs["a"].accepted, begin("a"));
        assert_eq!(jobs["a"].result.as_deref(), Some(&end("a", b"of a")));
        assert_eq!((jobs["b"].ended.as_ref(), jobs["b"].result.as_ref()), (None, None));
        let c = jobs["c"].ended.as_ref().unwrap();
        assert_eq!((&c.outcome, c.at_ms, jobs["c"].result.as_ref()), (&end("c", b"").outcome, 3, None));
    }

    #[test]
    fn journal_torn_at_any_byte_is_what_was_whole_before() {
        let (bytes, ends) = journal();
        for torn in 0..=bytes.len() {
            let Replay { jobs, whole } = replay(&bytes[..torn]);
            let before = *ends.iter().rev().find(|end| **end <= torn).unwrap();
            assert_eq!(whole, before, "torn at {torn}");
            let known = |job: &str| jobs.get(job).map(|known| known.ended.is_some());
            assert_eq!(known("a"), (torn >= ends[1]).then_some(torn >= ends[3]));
            assert_eq!(known("b"), (torn >= ends[2]).then_some(false));
            assert_eq!(known("c"), (torn >= ends[4]).then_some(torn >= ends[5]));
        }
    }

    #[test]
    fn bit_that_flipped_ends_what_is_believed_before_it() {
        let (bytes, ends) = journal();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            let before = *ends.iter().rev().find(|end| **end <= at).unwrap();
            assert_eq!(replay(&damaged).whole, before, "flipped in byte {at}");
        }
    }

    #[test]
    fn bytes_that_are_no_record_are_none() {
        for bytes in [&[0_u8; 64][..], &[0xff; 64], b"stockade"] {
            let Replay { jobs, whole } = replay(bytes);
            assert!(jobs.is_empty() && whole == 0);
        }
    }

    #[test]
    fn second_end_of_a_job_and_one_of_an_unknown_job_count_for_nothing() {
        let mut first = end("a", b"first");
        first.outcome = outcome::internal("first", "it".to_owned());
        let records = [
            ended(&end("a", b"too early"), 1, u64::MAX).unwrap(),
            accepted(&begin("a")).unwrap(),
            ended(&first, 2, u64::MAX).unwrap(),
            ended(&end("a", b"second"), 3, u64::MAX).unwrap(),
        ];
        let bytes = records.concat();
        let jobs = replay(&bytes).jobs;
        assert_eq!(jobs["a"].result.as_deref(), Some(&first));
        assert_eq!(jobs["a"].ended.as_ref().unwrap().at_ms, 2);
        // What counts for nothing is not kept either.
        let kept = only(&bytes, &BTreeSet::from(["a".to_owned()]));
        assert_eq!(kept, [records[1].as_slice(), &records[2]].concat());
    }

    #[test]
    fn jobs_that_nobody_knows_any_more_are_taken_out_and_those_that_are_not_over_stay() {
        let (bytes, _) = journal();
        let kept = only(&bytes, &BTreeSet::from(["c".to_owned()]));
        let Replay { jobs, whole } = replay(&kept);
        assert!(jobs.keys().eq(["b", "c"]) && whole == kept.len());
    }

    #[test]
    fn result_of_another_release_is_passed_over_and_its_outcome_is_not() {
        let text = serde_json::to_value(Text::Ended(Ended {
            job: "a".to_owned(),
            outcome: end("a", b"").outcome,
            exit_code: Some(3),
            at_ms: 2,
            encoding: "0.0.0/0".to_owned(),
        }));
        let text: Text = serde_json::from_value(text.unwrap()).unwrap();
        let bytes = [accepted(&begin("a")).unwrap(), record(&text, b"whatever it was").unwrap()].concat();
        let known = &replay(&bytes).jobs["a"];
        assert_eq!((known.result.as_ref(), known.ended.as_ref().unwrap().exit_code), (None, Some(3)));
    }
}
