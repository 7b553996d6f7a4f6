//! Jobs that wait for a tenant worker which another job has.
//!
//! Owns: which of them wait, whether one worker more is made meanwhile, and who is next.
//! Never: holds or makes a worker, reads a clock.

use std::collections::BTreeMap;

/// How things stand for a job that found none of its tenant's workers idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    /// Workers it could share, with a job or being made.
    pub(super) workers: usize,
    /// Of those, the ones that are made for whoever waits.
    pub(super) coming: usize,
    /// Jobs that wait for one already.
    pub(super) waiting: usize,
}

/// What becomes of that job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Course {
    /// It has a worker made for itself: there is none to wait for.
    Own,
    /// It waits for one to be given back.
    Wait,
    /// The same, and another is made for those who wait.
    WaitForMore,
}

/// The course of a job, where no more than `useful` workers get anything done at once. Short jobs are over long before a
/// worker is made, and more workers than processors do not have them over sooner.
pub(super) const fn course(standing: Standing, useful: usize) -> Course {
    let Standing { workers, coming, waiting } = standing;
    if workers == 0 {
        Course::Own
    } else if workers < useful && coming <= waiting {
        Course::WaitForMore
    } else {
        Course::Wait
    }
}

/// Who waits for what, each in the order of arrival.
#[derive(Debug)]
pub(super) struct Queue<K, T> {
    /// What nobody waits for has no entry.
    waiting: BTreeMap<K, BTreeMap<u64, T>>,
    /// The next number.
    number: u64,
}

impl<K: Ord + Clone, T> Queue<K, T> {
    pub(super) const fn new() -> Self {
        Self { waiting: BTreeMap::new(), number: 0 }
    }

    /// How many wait for that.
    pub(super) fn len(&self, key: &K) -> usize {
        self.waiting.get(key).map_or(0, BTreeMap::len)
    }

    /// Queues `one`. The number with which it can leave.
    pub(super) fn arrive(&mut self, key: &K, one: T) -> u64 {
        let number = self.number;
        self.number += 1;
        match self.waiting.get_mut(key) {
            Some(waiting) => waiting.insert(number, one),
            None => self.waiting.entry(key.clone()).or_default().insert(number, one),
        };
        number
    }

    /// Takes one out, if it is still there.
    pub(super) fn leave(&mut self, key: &K, number: u64) -> Option<T> {
        let waiting = self.waiting.get_mut(key)?;
        let left = waiting.remove(&number);
        if waiting.is_empty() {
            self.waiting.remove(key);
        }
        left
    }

    /// Takes out the one that has waited longest.
    pub(super) fn next(&mut self, key: &K) -> Option<T> {
        let waiting = self.waiting.get_mut(key)?;
        let next = waiting.pop_first();
        if waiting.is_empty() {
            self.waiting.remove(key);
        }
        next.map(|(_, one)| one)
    }

    /// Takes out all that wait for that.
    pub(super) fn all(&mut self, key: &K) -> impl Iterator<Item = T> + use<K, T> {
        self.waiting.remove(key).unwrap_or_default().into_values()
    }

    /// Takes out all.
    pub(super) fn everybody(&mut self) -> impl Iterator<Item = T> + use<K, T> {
        std::mem::take(&mut self.waiting).into_values().flat_map(BTreeMap::into_values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn course_of_any_standing_waits_only_where_there_is_a_worker_and_makes_no_more_than_are_useful_or_waited_for()
     {
        for useful in 0..=4 {
            for (workers, waiting) in
                (0..=6).flat_map(|workers| (0..=6).map(move |waiting| (workers, waiting)))
            {
                for coming in 0..=workers {
                    let found = course(Standing { workers, coming, waiting }, useful);
                    assert_eq!(found == Course::Own, workers == 0);
                    let more = workers > 0 && workers < useful && coming < waiting + 1;
                    assert_eq!(found == Course::WaitForMore, more, "{workers} {coming} {waiting} {useful}");
                }
            }
        }
    }

    /// However many jobs come while nothing is given back, there are in the end as many workers as are useful, and one.
    #[test]
    fn jobs_that_come_at_once_have_as_many_workers_made_as_are_useful() {
        for useful in 0..=4 {
            let mut standing = Standing { workers: 0, coming: 0, waiting: 0 };
            for _ in 0..20 {
                match course(standing, useful) {
                    Course::Own => standing.workers += 1,
                    Course::Wait => standing.waiting += 1,
                    Course::WaitForMore => {
                        standing.waiting += 1;
                        (standing.workers, standing.coming) = (standing.workers + 1, standing.coming + 1);
                    }
                }
                assert!(standing.coming <= standing.waiting);
            }
            assert_eq!(standing.workers, useful.max(1));
        }
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Arrive(char),
        LeaveFirst,
        LeaveLast,
        Next(char),
    }

    const STEPS: [Step; 6] = [
        Step::Arrive('a'),
        Step::Arrive('b'),
        Step::LeaveFirst,
        Step::LeaveLast,
        Step::Next('a'),
        Step::Next('b'),
    ];

    #[test]
    fn queue_of_any_history_serves_each_in_order_and_loses_nobody() {
        const LENGTH: u32 = 6;
        for number in 0..STEPS.len().pow(LENGTH) {
            let mut queue = Queue::new();
            let mut model: Vec<(char, u64)> = Vec::new();
            for digit in 0..LENGTH {
                match STEPS[number / STEPS.len().pow(digit) % STEPS.len()] {
                    Step::Arrive(key) => {
                        let ticket = queue.arrive(&key, u64::from(digit));
                        assert!(model.iter().all(|(_, other)| *other < ticket));
                        model.push((key, ticket));
                    }
                    step @ (Step::LeaveFirst | Step::LeaveLast) => {
                        let place =
                            if matches!(step, Step::LeaveFirst) { 0 } else { model.len().saturating_sub(1) };
                        if place < model.len() {
                            let (key, ticket) = model.remove(place);
                            assert!(queue.leave(&key, ticket).is_some());
                            assert!(queue.leave(&key, ticket).is_none());
                        }
                    }
                    Step::Next(key) => {
                        let place = model.iter().position(|(other, _)| *other == key);
                        let wanted = place.map(|place| model.remove(place).1);
                        assert_eq!(queue.next(&key).is_some(), wanted.is_some());
                    }
                }
                for key in ['a', 'b'] {
                    assert_eq!(queue.len(&key), model.iter().filter(|(other, _)| *other == key).count());
                    assert_eq!(queue.waiting.contains_key(&key), queue.len(&key) > 0);
                }
            }
        }
    }

    #[test]
    fn all_of_one_or_everybody_are_taken_out_in_order() {
        let mut queue = Queue::new();
        for (key, one) in [('b', 1), ('a', 2), ('a', 3), ('b', 4)] {
            queue.arrive(&key, one);
        }
        assert_eq!(queue.all(&'a').collect::<Vec<_>>(), [2, 3]);
        assert_eq!((queue.len(&'a'), queue.len(&'b')), (0, 2));
        assert_eq!(queue.everybody().collect::<Vec<_>>(), [1, 4]);
        assert!(queue.waiting.is_empty());
    }
}
