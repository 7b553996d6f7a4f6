//! Places for work that only so much of may go on at once, taken in turns by users.
//!
//! Owns: who is next when a place comes free.
//! Never: knows what the work is, takes a place from whoever has it.
//!
//! Users take turns, and one user's waiting work is served in the order in which it came: whoever has much of it waiting
//! holds up nobody who has little. Whoever stops waiting is out of the queue at once, so that it holds no more than live
//! jobs do.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use tokio::sync::oneshot;

/// Who waits, and whose turn it is. Pure.
#[derive(Debug)]
struct Turns<T> {
    /// By user, and of each by number; a user for whom nothing waits has no entry.
    waiting: BTreeMap<u32, BTreeMap<u64, T>>,
    /// The users in `waiting`, the next one first.
    order: VecDeque<u32>,
    /// The next number.
    number: u64,
}

impl<T> Turns<T> {
    const fn new() -> Self {
        Self { waiting: BTreeMap::new(), order: VecDeque::new(), number: 0 }
    }

    /// Queues `one` for a user. The number with which it can leave.
    fn arrive(&mut self, uid: u32, one: T) -> u64 {
        let number = self.number;
        self.number += 1;
        let own = self.waiting.entry(uid).or_default();
        if own.is_empty() {
            self.order.push_back(uid);
        }
        own.insert(number, one);
        number
    }

    /// Takes one out of the queue, if it is still there.
    fn leave(&mut self, uid: u32, number: u64) {
        let Some(own) = self.waiting.get_mut(&uid) else { return };
        own.remove(&number);
        if own.is_empty() {
            self.waiting.remove(&uid);
            self.order.retain(|other| *other != uid);
        }
    }

    /// Whose turn it is; the user's next comes after everybody else's.
    fn next(&mut self) -> Option<T> {
        let uid = self.order.pop_front()?;
        let own = self.waiting.get_mut(&uid)?;
        let (_, one) = own.pop_first()?;
        if own.is_empty() {
            self.waiting.remove(&uid);
        } else {
            self.order.push_back(uid);
        }
        Some(one)
    }
}

/// The places. A cheap handle.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    state: Rc<State>,
}

#[derive(Debug)]
struct State {
    /// None is free while somebody waits.
    free: Cell<usize>,
    turns: RefCell<Turns<oneshot::Sender<Place>>>,
}

/// One place, free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Places,
}

impl Places {
    /// So many places, at least one.
    pub(crate) fn new(count: usize) -> Self {
        let state = State { free: Cell::new(count.max(1)), turns: RefCell::new(Turns::new()) };
        Self { state: Rc::new(state) }
    }

    /// A place for work of that user's, when it is its turn. Dropping the future leaves the queue and loses no place.
    pub(crate) async fn take(&self, uid: u32) -> Place {
        let free = self.state.free.get();
        if free > 0 {
            self.state.free.set(free - 1);
            return Place { places: self.clone() };
        }
        let (sender, receiver) = oneshot::channel();
        let number = self.state.turns.borrow_mut().arrive(uid, sender);
        let _queued = Queued { places: self, uid, number };
        match receiver.await {
            Ok(place) => place,
            // The sender is in the queue until it is used, and the queue is here: there is nobody to drop it.
            Err(_) => std::future::pending().await,
        }
    }

    /// Whether whoever comes now must wait.
    pub(crate) fn are_taken(&self) -> bool {
        self.state.free.get() == 0
    }

    fn hand_on(&self) {
        loop {
            // Out of the borrow before it is sent: a place that finds nobody comes back here.
            let next = self.state.turns.borrow_mut().next();
            let Some(next) = next else {
                self.state.free.set(self.state.free.get() + 1);
                return;
            };
            if !next.is_closed() {
                // On one thread, whoever is there now is there still.
                let _ = next.send(Place { places: self.clone() });
                return;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.hand_on();
    }
}

/// Out of the queue when it is dropped.
struct Queued<'a> {
    places: &'a Places,
    uid: u32,
    number: u64,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.places.state.turns.borrow_mut().leave(self.uid, self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn turns(arrivals: &[(u32, &'static str)]) -> Turns<&'static str> {
        let mut turns = Turns::new();
        for (uid, one) in arrivals {
            turns.arrive(*uid, *one);
        }
        turns
    }

    fn all(turns: &mut Turns<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| turns.next()).collect()
    }

    #[test]
    fn users_take_turns_and_each_is_served_in_order() {
        let mut turns = turns(&[(1, "a1"), (1, "a2"), (1, "a3"), (2, "b1"), (3, "c1"), (2, "b2")]);
        assert_eq!(all(&mut turns), ["a1", "b1", "c1", "a2", "b2", "a3"]);
        assert!(turns.waiting.is_empty() && turns.order.is_empty());
    }

    #[test]
    fn newcomer_waits_for_one_of_each_other_user_at_most() {
        let mut turns = turns(&[(1, "a1"), (1, "a2"), (1, "a3"), (2, "b1"), (2, "b2")]);
        assert_eq!(turns.next(), Some("a1"));
        turns.arrive(3, "c1");
        assert_eq!(all(&mut turns), ["b1", "a2", "c1", "b2", "a3"]);
    }

    #[test]
    fn whoever_leaves_is_gone_and_leaves_nothing() {
        let mut turns = turns(&[]);
        let numbers: Vec<_> = [1, 1, 2].into_iter().map(|uid| (uid, turns.arrive(uid, "x"))).collect();
        let kept = turns.arrive(2, "kept");
        for (uid, number) in numbers {
            turns.leave(uid, number);
            turns.leave(uid, number);
        }
        assert_eq!(turns.order, [2]);
        assert_eq!(all(&mut turns), ["kept"]);
        turns.leave(2, kept);
        assert!(turns.waiting.is_empty() && turns.order.is_empty());
    }

    /// One look at a future; the place if it has one.
    fn look(taking: std::pin::Pin<&mut impl Future<Output = Place>>) -> Option<Place> {
        match taking.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(place) => Some(place),
            Poll::Pending => None,
        }
    }

    #[test]
    fn place_goes_to_whose_turn_it_is_when_it_is_given_back() {
        let places = Places::new(1);
        let first = look(std::pin::pin!(places.take(1))).unwrap();
        let mut again = std::pin::pin!(places.take(1));
        let mut more = std::pin::pin!(places.take(1));
        let mut other = std::pin::pin!(places.take(2));
        assert!(look(again.as_mut()).is_none() && look(more.as_mut()).is_none());
        assert!(look(other.as_mut()).is_none());
        drop(first);
        let place = look(again.as_mut()).unwrap();
        assert!(look(other.as_mut()).is_none());
        drop(place);
        assert!(look(more.as_mut()).is_none());
        let place = look(other.as_mut()).unwrap();
        drop(place);
        assert!(look(more.as_mut()).is_some());
        assert_eq!(places.state.free.get(), 1);
    }

    #[test]
    fn place_of_whoever_stops_waiting_is_not_lost() {
        let places = Places::new(1);
        let first = look(std::pin::pin!(places.take(1))).unwrap();
        let mut leaves_late = Box::pin(places.take(1));
        let mut leaves_early = Box::pin(places.take(2));
        let mut stays = std::pin::pin!(places.take(3));
        assert!(look(leaves_late.as_mut()).is_none() && look(leaves_early.as_mut()).is_none());
        assert!(look(stays.as_mut()).is_none());
        drop(leaves_early);
        assert_eq!(places.state.turns.borrow().order, [1, 3]);
        drop(first);
        // It has its place already, and does not know yet.
        drop(leaves_late);
        assert!(look(stays.as_mut()).is_some());
        assert_eq!(places.state.free.get(), 1);
        assert!(places.state.turns.borrow().waiting.is_empty());
    }
}
