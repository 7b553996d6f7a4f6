//! What a store may hold and what it holds.
//!
//! Owns: the sum over a store's memories and tables, its limit and its peak.
//! Never: allocates, ends a guest.
//!
//! Wasmtime's own limits are per memory and per table, so a module with two memories would get twice its
//! limit; this one counts them together.

use wasmtime::ResourceLimiter;

use crate::engine::{CORE_INSTANCES_MAX, MEMORIES_MAX, TABLE_ELEMENT_BYTES, TABLE_ELEMENTS_MAX, TABLES_MAX};

/// The account of one store.
#[derive(Debug)]
pub(crate) struct Ledger {
    limit_bytes: u64,
    largest_memory_bytes: u64,
    held_bytes: u64,
    peak_bytes: u64,
    /// What the last granted request added, until the next one: taken back when the growth fails after all.
    last_bytes: u64,
    growth_refused: bool,
    instantiating: bool,
    minimum_refused_bytes: Option<u64>,
    stack_address: usize,
}

impl Ledger {
    /// An account with nothing in it, of a guest none of whose memories begins larger than `largest_memory_bytes`.
    pub(crate) const fn new(limit_bytes: u64, largest_memory_bytes: u64) -> Self {
        Self {
            limit_bytes,
            largest_memory_bytes,
            held_bytes: 0,
            peak_bytes: 0,
            last_bytes: 0,
            growth_refused: false,
            instantiating: true,
            minimum_refused_bytes: None,
            stack_address: 0,
        }
    }

    /// A place on the stack on which the guest's first memory was made, and on which the guest will run: close to where it
    /// begins. 0 before that.
    pub(crate) const fn stack_address(&self) -> usize {
        self.stack_address
    }

    /// The account of a guest that was instantiated before its limit was known; `None` when it holds more than that.
    pub(crate) const fn with_limit(self, limit_bytes: u64) -> Option<Self> {
        if self.held_bytes > limit_bytes {
            return None;
        }
        Some(Self { limit_bytes, ..self })
    }

    pub(crate) const fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// From here on a refusal is one of growth.
    pub(crate) const fn instantiated(&mut self) {
        self.instantiating = false;
    }

    pub(crate) const fn peak_bytes(&self) -> u64 {
        self.peak_bytes
    }

    pub(crate) const fn growth_refused(&self) -> bool {
        self.growth_refused
    }

    /// The sum that a declared minimum would have made, when it was refused.
    pub(crate) const fn minimum_refused_bytes(&self) -> Option<u64> {
        self.minimum_refused_bytes
    }

    /// What is held and what the next declared memory may have come to, while there can be a next one: a memory
    /// that the process itself has no room for is refused before it is asked for here.
    pub(crate) const fn next_minimum_bytes(&self) -> Option<u64> {
        if self.instantiating {
            return Some(self.held_bytes.saturating_add(self.largest_memory_bytes));
        }
        None
    }

    fn request(&mut self, current_bytes: u64, desired_bytes: u64) -> bool {
        let added_bytes = desired_bytes.saturating_sub(current_bytes);
        let sum_bytes = self.held_bytes.saturating_add(added_bytes);
        if sum_bytes > self.limit_bytes {
            self.refuse(current_bytes, sum_bytes);
            return false;
        }
        self.held_bytes = sum_bytes;
        self.last_bytes = added_bytes;
        self.peak_bytes = self.peak_bytes.max(sum_bytes);
        true
    }

    const fn refuse(&mut self, current: u64, sum_bytes: u64) {
        if self.instantiating && current == 0 {
            self.minimum_refused_bytes = Some(sum_bytes);
        } else {
            self.growth_refused = true;
        }
    }

    fn take_back(&mut self) {
        self.held_bytes = self.held_bytes.saturating_sub(self.last_bytes);
        self.last_bytes = 0;
        self.growth_refused = true;
    }
}

impl ResourceLimiter for Ledger {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if self.instantiating {
            self.stack_address = std::ptr::from_ref(&maximum).addr();
        }
        // What its own maximum forbids is the module's doing and is not counted.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        Ok(self.request(current as u64, desired as u64))
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // A pool gives its own bound for that of a table that has none.
        if maximum.is_some_and(|maximum| maximum < TABLE_ELEMENTS_MAX && desired > maximum) {
            return Ok(false);
        }
        let bytes = |elements: usize| (elements as u64).saturating_mul(TABLE_ELEMENT_BYTES);
        if desired > TABLE_ELEMENTS_MAX {
            self.refuse(current as u64, self.held_bytes.saturating_add(bytes(desired)));
            return Ok(false);
        }
        Ok(self.request(bytes(current), bytes(desired)))
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES_MAX as usize
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX as usize
    }

    fn tables(&self) -> usize {
        TABLES_MAX as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ledger_of_two_memories_limits_their_sum() {
        let mut ledger = Ledger::new(100, 0);
        assert!(ledger.memory_growing(0, 60, None).unwrap());
        assert!(ledger.memory_growing(0, 40, None).unwrap());
        ledger.instantiated();
        assert!(!ledger.memory_growing(40, 41, None).unwrap());
        assert!(ledger.growth_refused());
        assert_eq!(ledger.peak_bytes(), 100);
    }

    #[test]
    fn ledger_counts_table_elements_as_pointers() {
        let mut ledger = Ledger::new(80, 0);
        assert!(ledger.table_growing(0, 10, None).unwrap());
        assert!(!ledger.table_growing(0, 1, None).unwrap());
        assert_eq!(ledger.minimum_refused_bytes(), Some(88));
    }

    #[test]
    fn ledger_after_a_failed_growth_has_its_room_back() {
        let mut ledger = Ledger::new(100, 0);
        assert!(ledger.memory_growing(0, 90, None).unwrap());
        ledger.memory_grow_failed(wasmtime::Error::msg("no memory")).unwrap();
        assert!(ledger.memory_growing(0, 100, None).unwrap());
    }

    #[test]
    fn ledger_of_huge_requests_does_not_overflow() {
        let mut ledger = Ledger::new(u64::MAX - 1, 0);
        assert!(ledger.memory_growing(0, usize::MAX - 1, None).unwrap());
        assert!(!ledger.table_growing(0, usize::MAX, None).unwrap());
    }

    #[test]
    fn table_beyond_the_most_elements_there_can_be_is_refused_by_us() {
        let mut ledger = Ledger::new(u64::MAX, 0);
        assert!(!ledger.table_growing(1, 11, Some(10)).unwrap());
        assert!(!ledger.growth_refused());
        assert!(!ledger.table_growing(1, TABLE_ELEMENTS_MAX + 1, Some(TABLE_ELEMENTS_MAX)).unwrap());
        assert!(ledger.growth_refused());
    }

    #[test]
    fn growth_beyond_the_modules_own_maximum_is_not_a_refusal_of_ours() {
        let mut ledger = Ledger::new(100, 0);
        assert!(!ledger.memory_growing(10, 20, Some(15)).unwrap());
        assert!(!ledger.growth_refused());
    }
}
