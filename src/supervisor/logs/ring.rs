//! The newest part of one log stream, bounded in bytes and in lines.
//!
//! Owns: what is kept, what is dropped, and exact counts of both.
//! Never: interprets what was written beyond the newline, grows past its bounds.
//!
//! A ring always keeps a suffix of the stream:
//!
//! ```text
//! offset 0                       start                    total_bytes
//! │ dropped (counted, forgotten) │ kept: at most bytes_max │
//! ```
//!
//! A line is a maximal run of bytes up to and including a newline, or to the end of what was written so far.

use std::rc::Rc;

use ringbuf::storage::Heap;
use ringbuf::traits::{Consumer, Observer, Producer, Split};
use ringbuf::{Cons, LocalRb, Prod};

/// What a ring first reserves, bytes. Most jobs print little or nothing; a ring takes its full size only
/// when its bytes come.
const FIRST_CAPACITY_BYTES: usize = 4 << 10;

type Ring = Rc<LocalRb<Heap<u8>>>;

/// A byte- and line-bounded log of one stream. Nothing here blocks.
pub struct LogRing {
    /// Both ends of the ring; `None` until the first byte, so that a silent stream costs no allocation.
    ends: Option<(Prod<Ring>, Cons<Ring>)>,
    bytes_max: usize,
    lines_max: usize,
    total_bytes: u64,
    dropped_lines: u64,
    /// Newlines among the kept bytes.
    kept_newlines: usize,
    /// The byte before the first kept one ends a line, or there is none: what is dropped next starts a line.
    at_line_start: bool,
    /// The newest byte written is a newline, or none was written.
    complete: bool,
}

/// Part of a stream, read by its offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Bytes between the offset asked for and the first one here: they were dropped before they were read.
    pub skipped_bytes: u64,
    /// The bytes; empty when there is nothing newer yet.
    pub bytes: Vec<u8>,
    /// The offset to ask for next.
    pub next: u64,
}

impl LogRing {
    /// An empty ring that keeps at most `bytes_max` bytes and at most `lines_max` lines, counting a line
    /// that is kept in part. A bound of 0 keeps nothing and still counts.
    ///
    /// Memory is taken as bytes come, in steps that double; while a ring moves from one step to the next it
    /// holds both.
    #[must_use]
    pub const fn new(bytes_max: usize, lines_max: usize) -> Self {
        Self {
            ends: None,
            bytes_max,
            lines_max,
            total_bytes: 0,
            dropped_lines: 0,
            kept_newlines: 0,
            at_line_start: true,
            complete: true,
        }
    }

    /// Appends `bytes`, dropping the oldest ones where a bound is reached. Takes time linear in `bytes` and in
    /// what is dropped; allocates for no more than `bytes_max`.
    pub fn push(&mut self, bytes: &[u8]) {
        let Some(&last) = bytes.last() else { return };
        let passing = bytes.len().saturating_sub(self.bytes_max);
        let (pass, keep) = bytes.split_at(passing);
        let room = self.bytes_max - keep.len();
        self.drop_oldest(self.kept_bytes().saturating_sub(room));
        // Bytes that can never be kept go straight to the count, after everything older than them.
        self.count_dropped(pass);
        self.keep(keep);
        self.total_bytes += bytes.len() as u64;
        self.complete = last == b'\n';
        self.drop_excess_lines();
    }

    /// Everything kept, oldest first.
    #[must_use]
    pub fn tail(&self) -> Vec<u8> {
        let (older, newer) = self.slices();
        [older, newer].concat()
    }

    /// Bytes written so far, kept or dropped; also the offset of the next byte.
    #[must_use]
    pub const fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Bytes that were written and are not kept any more. `total_bytes - dropped_bytes` are kept.
    #[must_use]
    pub fn dropped_bytes(&self) -> u64 {
        self.total_bytes - self.kept_bytes() as u64
    }

    /// Lines that lost at least one byte, each counted once. A line that is kept in part counts here; since
    /// the oldest byte goes first, these are the lines whose first byte is not kept.
    #[must_use]
    pub const fn dropped_lines(&self) -> u64 {
        self.dropped_lines
    }

    /// At most `max` bytes from `offset` on, counted from the first byte ever written. An `offset` beyond the
    /// end reads as the end.
    #[must_use]
    pub fn read_from(&self, offset: u64, max: usize) -> Chunk {
        let start = self.dropped_bytes();
        let offset = offset.min(self.total_bytes);
        let from = offset.max(start);
        // Kept bytes fit in memory, so a distance within them fits in a usize.
        let skip = usize::try_from(from - start).unwrap_or(usize::MAX);
        let (older, newer) = self.slices();
        let mut bytes = Vec::with_capacity(max.min(self.kept_bytes().saturating_sub(skip)));
        let first = older.get(skip..).unwrap_or_default();
        let second = newer.get(skip.saturating_sub(older.len())..).unwrap_or_default();
        bytes.extend_from_slice(first.get(..max).unwrap_or(first));
        let left = max - bytes.len();
        bytes.extend_from_slice(second.get(..left).unwrap_or(second));
        Chunk { skipped_bytes: from - offset, next: from + bytes.len() as u64, bytes }
    }

    fn slices(&self) -> (&[u8], &[u8]) {
        self.ends.as_ref().map_or((&[], &[]), |(_, oldest)| oldest.as_slices())
    }

    fn kept_bytes(&self) -> usize {
        self.ends.as_ref().map_or(0, |(_, oldest)| oldest.occupied_len())
    }

    fn capacity_bytes(&self) -> usize {
        self.ends.as_ref().map_or(0, |(_, oldest)| oldest.capacity().get())
    }

    /// Appends what is known to fit.
    fn keep(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.kept_newlines += newlines(bytes);
        let needed = self.kept_bytes() + bytes.len();
        if self.capacity_bytes() < needed {
            let doubled = self.capacity_bytes().saturating_mul(2).max(FIRST_CAPACITY_BYTES);
            let (mut newest, oldest) = LocalRb::new(needed.max(doubled).min(self.bytes_max)).split();
            let (older, newer) = self.slices();
            newest.push_slice(older);
            newest.push_slice(newer);
            self.ends = Some((newest, oldest));
        }
        if let Some((newest, _)) = &mut self.ends {
            newest.push_slice(bytes);
        }
    }

    fn drop_oldest(&mut self, count: usize) {
        let Some((newest, mut oldest)) = self.ends.take() else { return };
        let (older, newer) = oldest.as_slices();
        let first = older.get(..count).unwrap_or(older);
        let second = newer.get(..count - first.len()).unwrap_or(newer);
        self.kept_newlines -= newlines(first) + newlines(second);
        self.count_dropped(first);
        self.count_dropped(second);
        oldest.skip(count);
        self.ends = Some((newest, oldest));
    }

    /// Counts the lines that start within `dropped`, the bytes that directly follow the ones dropped last.
    fn count_dropped(&mut self, dropped: &[u8]) {
        let Some((&last, before)) = dropped.split_last() else { return };
        self.dropped_lines += u64::from(self.at_line_start) + newlines(before) as u64;
        self.at_line_start = last == b'\n';
    }

    fn drop_excess_lines(&mut self) {
        let unfinished = usize::from(!self.complete && self.kept_bytes() > 0);
        let excess = (self.kept_newlines + unfinished).saturating_sub(self.lines_max);
        if excess == 0 {
            return;
        }
        let (older, newer) = self.slices();
        let end = older
            .iter()
            .chain(newer)
            .enumerate()
            .filter(|(_, byte)| **byte == b'\n')
            .nth(excess - 1)
            .map_or(self.kept_bytes(), |(index, _)| index + 1);
        self.drop_oldest(end);
    }
}

fn newlines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// The same promises kept the wasteful way: the whole stream, and where the kept part of it starts.
    struct Model {
        stream: Vec<u8>,
        start: usize,
    }

    impl Model {
        fn push(&mut self, bytes: &[u8], bytes_max: usize, lines_max: usize) {
            self.stream.extend_from_slice(bytes);
            self.start = self.start.max(self.stream.len().saturating_sub(bytes_max));
            while self.stream[self.start..].split_inclusive(|b| *b == b'\n').count() > lines_max {
                let line = self.stream[self.start..].split_inclusive(|b| *b == b'\n').next().unwrap();
                self.start += line.len();
            }
        }

        fn dropped_lines(&self) -> u64 {
            let mut begin = 0;
            let mut count = 0;
            for line in self.stream.split_inclusive(|b| *b == b'\n') {
                count += u64::from(begin < self.start);
                begin += line.len();
            }
            count
        }
    }

    fn text() -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![3 => Just(b'a'), 2 => Just(b'\n'), 1 => any::<u8>()], 0..40)
    }

    proptest! {
        #[test]
        fn ring_under_any_writes_equals_model(
            writes in vec(text(), 0..20), bytes_max in 0_usize..50, lines_max in 0_usize..8,
        ) {
            let mut ring = LogRing::new(bytes_max, lines_max);
            let mut model = Model { stream: Vec::new(), start: 0 };
            for write in &writes {
                ring.push(write);
                model.push(write, bytes_max, lines_max);
                prop_assert_eq!(ring.tail(), &model.stream[model.start..]);
                prop_assert_eq!(ring.total_bytes(), model.stream.len() as u64);
                prop_assert_eq!(ring.dropped_bytes(), model.start as u64);
                prop_assert_eq!(ring.dropped_lines(), model.dropped_lines());
            }
        }

        #[test]
        fn ring_with_line_bound_out_of_reach_is_indifferent_to_how_writes_are_cut(
            stream in vec(prop_oneof![Just(b'a'), Just(b'\n')], 0..200), cut in 1_usize..30, bytes_max in 1_usize..64,
        ) {
            let mut whole = LogRing::new(bytes_max, usize::MAX);
            whole.push(&stream);
            let mut pieces = LogRing::new(bytes_max, usize::MAX);
            stream.chunks(cut).for_each(|piece| pieces.push(piece));
            prop_assert_eq!(whole.tail(), pieces.tail());
            prop_assert_eq!(whole.dropped_lines(), pieces.dropped_lines());
        }

        #[test]
        fn reader_at_any_pace_sees_every_byte_or_its_loss(
            writes in vec(text(), 0..20), max in 1_usize..20, every in 1_usize..5,
        ) {
            let mut ring = LogRing::new(32, 5);
            let mut stream = Vec::new();
            let mut next = 0;
            for (turn, write) in writes.iter().enumerate() {
                ring.push(write);
                stream.extend_from_slice(write);
                if turn % every == 0 {
                    let chunk = ring.read_from(next, max);
                    prop_assert!(chunk.bytes.len() <= max);
                    let begin = usize::try_from(next + chunk.skipped_bytes).unwrap();
                    prop_assert_eq!(&stream[begin..begin + chunk.bytes.len()], &chunk.bytes[..]);
                    prop_assert_eq!(chunk.next, (begin + chunk.bytes.len()) as u64);
                    next = chunk.next;
                }
            }
        }
    }

    #[test]
    fn ring_that_grows_step_by_step_keeps_its_bytes() {
        let mut ring = LogRing::new(20_000, usize::MAX);
        let mut model = Model { stream: Vec::new(), start: 0 };
        for turn in 0..40_u8 {
            let write = [vec![turn; 1500], vec![b'\n']].concat();
            ring.push(&write);
            model.push(&write, 20_000, usize::MAX);
            assert!(ring.capacity_bytes() <= 20_000);
            assert_eq!(ring.tail(), model.stream[model.start..]);
            assert_eq!(ring.dropped_lines(), model.dropped_lines());
        }
    }

    #[test]
    fn ring_with_one_line_of_100_mb_keeps_its_bound() {
        let mut ring = LogRing::new(1 << 20, 1000);
        let piece = vec![b'x'; 1_000_000];
        for _ in 0..100 {
            ring.push(&piece);
            assert!(ring.capacity_bytes() <= 1 << 20);
        }
        ring.push(b"\n");
        assert_eq!(ring.total_bytes(), 100_000_001);
        assert_eq!(ring.dropped_bytes(), 100_000_001 - (1 << 20));
        assert_eq!(ring.dropped_lines(), 1);
        assert_eq!(ring.tail().len(), 1 << 20);
    }

    #[test]
    fn ring_with_one_write_of_100_mb_allocates_its_bound_alone() {
        let mut ring = LogRing::new(1 << 20, 1000);
        ring.push(&vec![b'\n'; 100 << 20]);
        assert_eq!(ring.capacity_bytes(), 1 << 20);
        assert_eq!(ring.tail().len(), 1000, "the line bound holds too");
        assert_eq!(ring.dropped_lines(), (100 << 20) - 1000);
    }

    #[test]
    fn ring_without_writes_allocates_nothing() {
        let mut ring = LogRing::new(1 << 20, 1000);
        ring.push(b"");
        assert!(ring.capacity_bytes() == 0);
        assert_eq!(ring.read_from(7, 10), Chunk { skipped_bytes: 0, bytes: vec![], next: 0 });
    }
}
