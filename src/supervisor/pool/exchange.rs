//! Where tenant workers are between two jobs.
//!
//! Owns: the idle ones, the jobs that wait for one, and that each goes to whoever has waited longest.
//! Never: says which jobs may share, or how long a worker stays; loses a worker that was given to a job which stops waiting.

use std::cell::RefCell;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::waiting::Queue;

/// What a job that waits is told.
#[derive(Debug)]
enum Told<W> {
    /// This one is its own.
    Have(W),
    /// There is none to wait for any more.
    Nobody,
}

/// Workers `W` for whom `K` says.
pub(super) struct Exchange<K: Ord + Clone, W> {
    /// The one used last is last.
    idle: RefCell<Vec<(K, W)>>,
    waiting: RefCell<Queue<K, oneshot::Sender<Told<W>>>>,
}

impl<K: Ord + Clone, W> Exchange<K, W> {
    pub(super) const fn new() -> Self {
        Self { idle: RefCell::new(Vec::new()), waiting: RefCell::new(Queue::new()) }
    }

    /// An idle one for that: the last that was given back.
    pub(super) fn take(&self, key: &K) -> Option<W> {
        let mut idle = self.idle.borrow_mut();
        let place = idle.iter().rposition(|(whose, _)| whose == key)?;
        Some(idle.remove(place).1)
    }

    /// Waits for one, behind whoever waits already. `None` when there was none within `patience`, or there will be none.
    /// Dropping the future loses none.
    pub(super) async fn wait(&self, key: &K, patience: Duration) -> Option<W> {
        let (sender, told) = oneshot::channel();
        let number = self.waiting.borrow_mut().arrive(key, sender);
        let mut place = Place { exchange: self, key, number, told };
        match timeout(patience, &mut place.told).await {
            Ok(Ok(Told::Have(one))) => Some(one),
            Ok(Ok(Told::Nobody) | Err(_)) | Err(_) => None,
        }
    }

    /// How many wait.
    pub(super) fn waiting(&self, key: &K) -> usize {
        self.waiting.borrow().len(key)
    }

    /// Gives one to whoever has waited longest; where nobody waits it is idle, the first to be taken.
    pub(super) fn give(&self, key: K, one: W) {
        if let Some(one) = self.hand(&key, one) {
            self.idle.borrow_mut().push((key, one));
        }
    }

    /// The same of one that is taken last.
    pub(super) fn give_spare(&self, key: K, one: W) {
        if let Some(one) = self.hand(&key, one) {
            self.idle.borrow_mut().insert(0, (key, one));
        }
    }

    /// `one` again, when nobody waits.
    fn hand(&self, key: &K, mut one: W) -> Option<W> {
        loop {
            // Out of the borrow before it is sent: whoever is woken may come here.
            let next = self.waiting.borrow_mut().next(key);
            let Some(next) = next else { return Some(one) };
            match next.send(Told::Have(one)) {
                Ok(()) | Err(Told::Nobody) => return None,
                Err(Told::Have(back)) => one = back,
            }
        }
    }

    /// Tells the first who waits that there is none to wait for.
    pub(super) fn send_next_away(&self, key: &K) {
        loop {
            let next = self.waiting.borrow_mut().next(key);
            if next.is_none_or(|next| next.send(Told::Nobody).is_ok()) {
                return;
            }
        }
    }

    /// Tells all of them.
    pub(super) fn send_all_away(&self, key: &K) {
        let all = self.waiting.borrow_mut().all(key);
        all.for_each(|one| drop(one.send(Told::Nobody)));
    }

    /// Gives up the idle ones, and tells everybody who waits that there will be none.
    pub(super) fn close(&self) {
        drop(self.idle.take());
        let everybody = self.waiting.borrow_mut().everybody();
        everybody.for_each(|one| drop(one.send(Told::Nobody)));
    }

    /// Takes out the idle ones for which `keep` does not hold.
    pub(super) fn weed(&self, keep: impl Fn(&W) -> bool) -> Vec<W> {
        let gone = self.idle.borrow_mut().extract_if(.., |(_, one)| !keep(one)).collect::<Vec<_>>();
        gone.into_iter().map(|(_, one)| one).collect()
    }

    /// Takes out the idle one with the least of what `rank` says, where it says anything.
    pub(super) fn remove_least<R: Ord>(&self, rank: impl Fn(&K, &W) -> Option<R>) -> Option<W> {
        let mut idle = self.idle.borrow_mut();
        let ranked = idle.iter().enumerate().filter_map(|(place, (key, one))| Some((rank(key, one)?, place)));
        let (_, place) = ranked.min_by(|(a, _), (b, _)| a.cmp(b))?;
        Some(idle.remove(place).1)
    }

    /// For whom the idle ones are.
    pub(super) fn idle_keys(&self) -> Vec<K> {
        self.idle.borrow().iter().map(|(key, _)| key.clone()).collect()
    }

    /// Whether an idle one is so.
    pub(super) fn has_idle(&self, is_so: impl Fn(&K, &W) -> bool) -> bool {
        self.idle.borrow().iter().any(|(key, one)| is_so(key, one))
    }
}

/// The place of one who waits. What it was told and did not hear is for the next.
struct Place<'a, K: Ord + Clone, W> {
    exchange: &'a Exchange<K, W>,
    key: &'a K,
    number: u64,
    told: oneshot::Receiver<Told<W>>,
}

impl<K: Ord + Clone, W> Drop for Place<'_, K, W> {
    fn drop(&mut self) {
        let left = self.exchange.waiting.borrow_mut().leave(self.key, self.number);
        drop(left);
        match self.told.try_recv() {
            Ok(Told::Have(one)) => self.exchange.give(self.key.clone(), one),
            Ok(Told::Nobody) => self.exchange.send_next_away(self.key),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    type Waiting<'a> = Pin<Box<dyn Future<Output = Option<u32>> + 'a>>;

    fn look(waiting: &mut Waiting<'_>) -> Poll<Option<u32>> {
        waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    fn waiting<'a>(exchange: &'a Exchange<char, u32>, key: &'static char) -> Waiting<'a> {
        let mut waiting: Waiting<'a> = Box::pin(exchange.wait(key, LONG));
        assert_eq!(look(&mut waiting), Poll::Pending);
        waiting
    }

    /// Within a runtime, for its timers.
    fn timed(test: impl AsyncFnOnce()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.unwrap().block_on(test());
    }

    #[test]
    fn one_that_is_given_goes_to_whoever_of_its_kind_has_waited_longest_and_else_is_idle() {
        timed(async || {
            let exchange = Exchange::new();
            let (mut a1, mut b1, mut a2) =
                (waiting(&exchange, &'a'), waiting(&exchange, &'b'), waiting(&exchange, &'a'));
            for one in [1, 2, 3] {
                exchange.give('a', one);
            }
            assert_eq!((look(&mut a1), look(&mut a2)), (Poll::Ready(Some(1)), Poll::Ready(Some(2))));
            assert_eq!(
                (look(&mut b1), exchange.take(&'b'), exchange.take(&'a')),
                (Poll::Pending, None, Some(3))
            );
            assert_eq!((exchange.waiting(&'a'), exchange.waiting(&'b')), (0, 1));
        });
    }

    #[test]
    fn idle_ones_are_taken_from_the_last_and_spare_ones_at_the_end() {
        let exchange = Exchange::new();
        exchange.give('a', 1);
        exchange.give_spare('a', 2);
        exchange.give('a', 3);
        exchange.give('b', 4);
        let taken: Vec<_> = std::iter::from_fn(|| exchange.take(&'a')).collect();
        assert_eq!(taken, [3, 1, 2]);
        assert_eq!(exchange.idle_keys(), ['b']);
    }

    #[test]
    fn one_given_to_a_job_that_stops_waiting_goes_to_the_next_or_is_idle() {
        timed(async || {
            let exchange = Exchange::new();
            let (first, mut second) = (waiting(&exchange, &'a'), waiting(&exchange, &'a'));
            exchange.give('a', 1);
            drop(first);
            assert_eq!(look(&mut second), Poll::Ready(Some(1)));
            let third = waiting(&exchange, &'a');
            exchange.give('a', 2);
            drop(third);
            assert_eq!(exchange.take(&'a'), Some(2));
            let (early, mut late) = (waiting(&exchange, &'a'), waiting(&exchange, &'a'));
            drop(early);
            exchange.give('a', 3);
            assert_eq!(look(&mut late), Poll::Ready(Some(3)));
            assert_eq!(exchange.waiting(&'a'), 0);
        });
    }

    #[test]
    fn whoever_is_sent_away_and_does_not_hear_it_passes_it_on() {
        timed(async || {
            let exchange = Exchange::new();
            let (first, mut second, mut third) =
                (waiting(&exchange, &'a'), waiting(&exchange, &'a'), waiting(&exchange, &'a'));
            exchange.send_next_away(&'a');
            assert_eq!(look(&mut second), Poll::Pending);
            drop(first);
            assert_eq!((look(&mut second), look(&mut third)), (Poll::Ready(None), Poll::Pending));
            exchange.send_all_away(&'a');
            assert_eq!(look(&mut third), Poll::Ready(None));
            // Nobody is there to be sent away.
            exchange.send_next_away(&'a');
        });
    }

    #[test]
    fn whoever_waits_goes_without_when_time_is_up_or_all_is_closed() {
        timed(async || {
            let exchange: Exchange<char, u32> = Exchange::new();
            assert_eq!(exchange.wait(&'a', Duration::from_millis(10)).await, None);
            assert_eq!(exchange.waiting(&'a'), 0);
            exchange.give('b', 1);
            let mut one = waiting(&exchange, &'a');
            exchange.close();
            assert_eq!((look(&mut one), exchange.take(&'b')), (Poll::Ready(None), None));
        });
    }

    #[test]
    fn least_of_the_idle_ones_is_removed_of_those_that_have_a_rank() {
        let exchange = Exchange::new();
        for one in [5, 3, 4] {
            exchange.give('a', one);
        }
        exchange.give('b', 1);
        assert_eq!(exchange.remove_least(|key, one| (*key == 'a').then_some(*one)), Some(3));
        assert_eq!(exchange.remove_least(|_, _| None::<u32>), None);
        assert_eq!(exchange.weed(|one| *one != 4), [4]);
        assert!(
            exchange.has_idle(|key, one| (*key, *one) == ('b', 1)) && !exchange.has_idle(|_, one| *one == 4)
        );
    }
}
