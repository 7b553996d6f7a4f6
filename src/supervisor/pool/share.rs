//! Whether one more worker may stand ready.
//!
//! Owns: the bounds on all ready workers together, in number and in memory.
//! Never: forks or counts one.

/// What all ready workers together may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) ready_max: usize,
    pub(super) bytes_max: u64,
    /// Blank ones that have their room whatever else stands ready.
    pub(super) blank_least: usize,
}

/// Workers that stand ready or are being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) blank: usize,
    pub(super) prepared: usize,
    /// Private memory of one, bytes, at most; 0 while nobody has looked.
    pub(super) bytes_each: u64,
}

impl Room {
    /// Most there may be.
    pub(super) fn most(self, bytes_each: u64) -> usize {
        let fit = self.bytes_max.checked_div(bytes_each).unwrap_or(u64::MAX);
        self.ready_max.min(usize::try_from(fit).unwrap_or(usize::MAX))
    }

    /// Whether one more blank worker may be made.
    pub(super) fn admits_blank(self, standing: Standing) -> bool {
        standing.blank.saturating_add(standing.prepared) < self.most(standing.bytes_each)
    }

    /// Whether one more worker with a module may be made.
    pub(super) fn admits_prepared(self, standing: Standing) -> bool {
        let blank = standing.blank.max(self.blank_least);
        blank.saturating_add(standing.prepared) < self.most(standing.bytes_each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However it is asked for, in any order, there are never more than allowed, and the least blank ones find room.
    #[test]
    fn ready_workers_of_any_history_stay_within_both_bounds() {
        for (ready_max, bytes_max, bytes_each, blank_least) in
            [(6, 1000, 100, 2), (100, 1000, 250, 2), (5, 1000, 0, 5), (3, 10, 100, 2), (4, 1 << 40, 1, 0)]
        {
            let room = Room { ready_max, bytes_max, blank_least };
            let most = room.most(bytes_each);
            assert!(most <= ready_max && most as u64 * bytes_each <= bytes_max);
            for history in 0..1_u32 << 12 {
                let mut standing = Standing { blank: 0, prepared: 0, bytes_each };
                for step in 0..12 {
                    if history & (1 << step) == 0 {
                        standing.blank += usize::from(room.admits_blank(standing));
                    } else {
                        standing.prepared += usize::from(room.admits_prepared(standing));
                    }
                    assert!(standing.blank + standing.prepared <= most);
                }
                let wants = blank_least.min(most).saturating_sub(standing.blank);
                for _ in 0..wants {
                    assert!(room.admits_blank(standing), "{room:?} {standing:?}");
                    standing.blank += 1;
                }
            }
        }
    }
}
