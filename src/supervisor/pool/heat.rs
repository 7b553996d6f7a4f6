//! Which modules are asked for often enough to be held ready.
//!
//! Owns: the count of uses.
//! Never: reads a clock, makes anything.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Modules remembered; beyond that the one unused for longest is forgotten. As many as there can be templates: were so many
/// asked for in turn, none of them would be asked for often.
const REMEMBERED_MAX: usize = 1024;

/// Uses of modules, each named by a `K`.
#[derive(Debug)]
pub(super) struct Heat<K> {
    after: u32,
    window: Duration,
    uses: HashMap<K, Uses>,
}

#[derive(Debug, Clone, Copy)]
struct Uses {
    count: u32,
    last: Instant,
    /// It is not hot before, whatever the count.
    rests_until: Instant,
}

impl<K: Copy + Eq + Hash> Heat<K> {
    /// Hot after `after` uses, each within `window` of the last.
    pub(super) fn new(after: u32, window: Duration) -> Self {
        Self { after, window, uses: HashMap::new() }
    }

    /// Notes a use, and says whether the module is hot.
    pub(super) fn used(&mut self, key: K, now: Instant) -> bool {
        self.used_to_be_hot_after(self.after, key, now)
    }

    /// The same of a module that is hot from its first use on.
    pub(super) fn used_once(&mut self, key: K, now: Instant) -> bool {
        self.used_to_be_hot_after(1, key, now)
    }

    fn used_to_be_hot_after(&mut self, after: u32, key: K, now: Instant) -> bool {
        let uses = self.uses.entry(key).or_insert(Uses { count: 0, last: now, rests_until: now });
        let cooled = now.saturating_duration_since(uses.last) > self.window;
        uses.count = if cooled { 1 } else { uses.count.saturating_add(1) };
        uses.last = now;
        let hot = uses.count >= after && now >= uses.rests_until;
        self.forget_one();
        hot
    }

    /// The count begins anew: what was made of it is gone.
    pub(super) fn cool(&mut self, key: &K) {
        if let Some(uses) = self.uses.get_mut(key) {
            uses.count = 0;
        }
    }

    /// It is not hot before `until`: what was made of it failed, and may fail again.
    pub(super) fn rest(&mut self, key: &K, until: Instant) {
        if let Some(uses) = self.uses.get_mut(key) {
            uses.rests_until = until;
        }
    }

    fn forget_one(&mut self) {
        if self.uses.len() <= REMEMBERED_MAX {
            return;
        }
        if let Some(oldest) = self.uses.iter().min_by_key(|(_, uses)| uses.last).map(|(key, _)| *key) {
            self.uses.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    #[test]
    fn module_is_hot_at_its_count_and_stays_so_while_it_is_used() {
        let t = Instant::now();
        let mut heat = Heat::new(3, WINDOW);
        assert_eq!([t, t + WINDOW, t + 2 * WINDOW].map(|now| heat.used("a", now)), [false, false, true]);
        assert!(heat.used("a", t + 3 * WINDOW));
        assert!(!heat.used("b", t));
    }

    #[test]
    fn module_that_is_hot_at_once_is_so_unless_it_rests() {
        let t = Instant::now();
        let mut heat = Heat::new(3, WINDOW);
        assert!(heat.used_once("a", t) && !heat.used("b", t));
        heat.cool(&"a");
        heat.rest(&"a", t + WINDOW);
        assert_eq!([t, t + WINDOW].map(|now| heat.used_once("a", now)), [false, true]);
    }

    #[test]
    fn module_that_cooled_or_failed_begins_anew() {
        let t = Instant::now();
        let mut heat = Heat::new(2, WINDOW);
        heat.used("a", t);
        assert!(!heat.used("a", t + 2 * WINDOW), "too long after the last");
        assert!(heat.used("a", t + 2 * WINDOW));
        heat.cool(&"a");
        assert_eq!([0, 1].map(|_| heat.used("a", t + 2 * WINDOW)), [false, true]);
    }

    #[test]
    fn module_that_rests_is_hot_again_when_its_rest_is_over() {
        let t = Instant::now();
        let mut heat = Heat::new(1, WINDOW);
        heat.used("a", t);
        heat.rest(&"a", t + WINDOW);
        assert_eq!([t, t + WINDOW / 2, t + WINDOW].map(|now| heat.used("a", now)), [false, false, true]);
    }

    #[test]
    fn module_that_is_used_all_the_while_it_rests_is_hot_again_all_the_same() {
        let t = Instant::now();
        let mut heat = Heat::new(3, WINDOW);
        assert!(heat.used_once("a", t));
        heat.cool(&"a");
        heat.rest(&"a", t + 100 * WINDOW);
        for passed in 1..100 {
            assert!(!heat.used_once("a", t + passed * WINDOW), "{passed}");
        }
        assert!(heat.used_once("a", t + 100 * WINDOW));
    }

    #[test]
    fn modules_beyond_the_most_that_are_remembered_push_out_the_oldest() {
        let t = Instant::now();
        let mut heat = Heat::new(2, WINDOW);
        for number in 0..=REMEMBERED_MAX {
            heat.used(number, t + Duration::from_millis(number as u64));
        }
        assert_eq!(heat.uses.len(), REMEMBERED_MAX);
        let end = t + Duration::from_secs(2);
        assert!(!heat.used(0, end), "forgotten");
        assert!(heat.used(REMEMBERED_MAX, end), "remembered");
    }
}
