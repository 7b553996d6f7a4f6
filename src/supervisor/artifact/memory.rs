//! Artifacts kept in memory, the least recently used given up first.
//!
//! Owns: which artifacts stay and what they weigh together.
//! Never: holds more bytes or open files than it was told to, however many jobs still hold what it gave up.

use std::collections::HashMap;
use std::rc::Rc;

use super::{Artifact, Key};

pub(super) struct Memory {
    bytes_max: u64,
    /// Each is an open file.
    files_max: usize,
    bytes: u64,
    turn: u64,
    kept: HashMap<Key, Kept>,
}

struct Kept {
    artifact: Rc<Artifact>,
    bytes: u64,
    used: u64,
}

impl Memory {
    pub(super) fn new(bytes_max: u64, files_max: usize) -> Self {
        Self { bytes_max, files_max, bytes: 0, turn: 0, kept: HashMap::new() }
    }

    pub(super) fn has(&self, key: Key) -> bool {
        self.kept.contains_key(&key)
    }

    pub(super) fn get(&mut self, key: Key) -> Option<Rc<Artifact>> {
        let kept = self.kept.get_mut(&key)?;
        self.turn += 1;
        kept.used = self.turn;
        Some(Rc::clone(&kept.artifact))
    }

    pub(super) fn insert(&mut self, key: Key, artifact: Rc<Artifact>, bytes: u64) {
        if bytes > self.bytes_max || self.files_max == 0 {
            return;
        }
        self.turn += 1;
        let kept = Kept { artifact, bytes, used: self.turn };
        if let Some(replaced) = self.kept.insert(key, kept) {
            self.bytes -= replaced.bytes;
        }
        self.bytes += bytes;
        while self.bytes > self.bytes_max || self.kept.len() > self.files_max {
            let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.used).map(|(key, _)| *key);
            let Some(given_up) = oldest.and_then(|key| self.kept.remove(&key)) else { return };
            self.bytes -= given_up.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> Key {
        Key { digest: [n; 32], metered: false }
    }

    fn artifact() -> Rc<Artifact> {
        Rc::new(Artifact::sealed(stockade_sys::memfd::create("test").unwrap()).unwrap())
    }

    #[test]
    fn least_recently_used_artifact_is_given_up_first() {
        let mut memory = Memory::new(20, 4);
        memory.insert(key(1), artifact(), 10);
        memory.insert(key(2), artifact(), 10);
        memory.get(key(1)).unwrap();
        memory.insert(key(3), artifact(), 10);
        assert_eq!([1, 2, 3].map(|n| memory.has(key(n))), [true, false, true]);
        assert_eq!(memory.bytes, 20);
    }

    #[test]
    fn artifact_larger_than_the_whole_is_not_kept() {
        let mut memory = Memory::new(20, 4);
        memory.insert(key(1), artifact(), 10);
        memory.insert(key(2), artifact(), 21);
        assert_eq!([1, 2].map(|n| memory.has(key(n))), [true, false]);
    }

    #[test]
    fn artifact_replaced_is_weighed_once() {
        let mut memory = Memory::new(20, 4);
        memory.insert(key(1), artifact(), 10);
        memory.insert(key(1), artifact(), 12);
        assert_eq!(memory.bytes, 12);
    }

    #[test]
    fn artifact_beyond_the_most_open_files_pushes_out_the_least_recently_used() {
        let mut memory = Memory::new(1000, 2);
        for n in [1, 2] {
            memory.insert(key(n), artifact(), 1);
        }
        memory.get(key(1)).unwrap();
        memory.insert(key(3), artifact(), 1);
        assert_eq!([1, 2, 3].map(|n| memory.has(key(n))), [true, false, true]);
        memory.insert(key(3), artifact(), 2);
        assert_eq!(([1, 3].map(|n| memory.has(key(n))), memory.bytes), ([true, true], 3));
        let mut none = Memory::new(1000, 0);
        none.insert(key(1), artifact(), 1);
        assert_eq!((none.has(key(1)), none.bytes), (false, 0));
    }
}
