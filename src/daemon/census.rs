//! Who is connected, and how many of whom may be.
//!
//! Owns: the count of connections, and each user's and everybody's share of memory for request bodies.
//! Never: touches a socket.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::config::Clients;

/// Open connections. One daemon has one.
pub(super) struct Census {
    connections_max: usize,
    per_uid_max: usize,
    bodies: Arc<Semaphore>,
    bodies_per_uid: usize,
    open: RefCell<HashMap<u32, Present>>,
}

struct Present {
    connections: usize,
    bodies: Arc<Semaphore>,
}

/// Why a connection is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    #[error("the daemon has as many connections as it takes ({max}); try again later")]
    All { max: usize },
    #[error("uid {uid} has as many connections as one user may have ({max}); close some")]
    Uid { uid: u32, max: usize },
}

/// One open connection's place; leaving frees it.
pub(super) struct Seat {
    census: Rc<Census>,
    uid: u32,
    bodies: Arc<Semaphore>,
}

/// Memory set aside for one request body; dropping it gives it back.
pub(super) struct Reservation {
    _shares: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

impl Census {
    pub(super) fn new(limits: &Clients) -> Rc<Self> {
        let bytes = usize::try_from(limits.buffered_bytes_max).unwrap_or(usize::MAX);
        let bytes = bytes.min(Semaphore::MAX_PERMITS);
        Rc::new(Self {
            connections_max: limits.connections_max,
            per_uid_max: limits.connections_per_uid_max,
            bodies: Arc::new(Semaphore::new(bytes)),
            // Nobody can use up everything; but a share below one whole frame would make such frames impossible.
            bodies_per_uid: bytes
                .min((bytes / 2).max(usize::try_from(limits.frame_bytes_max).unwrap_or(bytes))),
            open: RefCell::default(),
        })
    }

    /// Takes a place for a connection of `uid`.
    pub(super) fn admit(self: &Rc<Self>, uid: u32) -> Result<Seat, Full> {
        if self.connections() >= self.connections_max {
            return Err(Full::All { max: self.connections_max });
        }
        let mut open = self.open.borrow_mut();
        let present = open.entry(uid).or_insert_with(|| Present {
            connections: 0,
            bodies: Arc::new(Semaphore::new(self.bodies_per_uid)),
        });
        if present.connections >= self.per_uid_max {
            return Err(Full::Uid { uid, max: self.per_uid_max });
        }
        present.connections += 1;
        Ok(Seat { census: Rc::clone(self), uid, bodies: Arc::clone(&present.bodies) })
    }

    /// Open connections.
    pub(super) fn connections(&self) -> usize {
        // Few users at a time; a sum cannot go out of step with the entries.
        self.open.borrow().values().map(|present| present.connections).sum()
    }
}

impl Seat {
    /// Sets `bytes` aside, from the user's share first and then from everybody's, in the order of asking.
    /// Waits at most `patience`; `None` when they were not to be had in that time.
    pub(super) async fn reserve(&self, bytes: usize, patience: Duration) -> Option<Reservation> {
        let bytes = u32::try_from(bytes).ok()?;
        let shares = async {
            let own = Arc::clone(&self.bodies).acquire_many_owned(bytes).await.ok()?;
            let everybodys = Arc::clone(&self.census.bodies).acquire_many_owned(bytes).await.ok()?;
            Some(Reservation { _shares: Some((own, everybodys)) })
        };
        timeout(patience, shares).await.ok().flatten()
    }
}

impl Reservation {
    /// For a body too small to be worth counting.
    pub(super) const fn none() -> Self {
        Self { _shares: None }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.census.open.borrow_mut();
        if let Some(present) = open.get_mut(&self.uid) {
            present.connections = present.connections.saturating_sub(1);
            if present.connections == 0 {
                open.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Limits small enough to reach.
    pub(in crate::daemon) fn small() -> Clients {
        Clients {
            connections_max: 3,
            connections_per_uid_max: 2,
            frame_timeout: Duration::from_millis(200),
            frame_bytes_max: 1 << 20,
            buffered_bytes_max: 3 << 20,
            outbound_bytes_max: 1 << 20,
            requests_in_flight_max: 4,
            drain_timeout: Duration::from_secs(2),
            socket_mode: 0o600,
        }
    }

    #[test]
    fn census_with_a_greedy_user_leaves_room_for_another() {
        let census = Census::new(&small());
        let first = census.admit(1).unwrap();
        let _second = census.admit(1).unwrap();
        assert_eq!(census.admit(1).err(), Some(Full::Uid { uid: 1, max: 2 }));
        let _other = census.admit(2).unwrap();
        assert_eq!(census.admit(3).err(), Some(Full::All { max: 3 }));
        drop(first);
        assert_eq!(census.connections(), 2);
        census.admit(3).unwrap();
    }

    #[test]
    fn census_when_everybody_left_remembers_nobody() {
        let census = Census::new(&small());
        for uid in 0..1000 {
            drop(census.admit(uid).unwrap());
        }
        assert!(census.open.borrow().is_empty());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn reservation_by_a_greedy_user_leaves_room_for_another() {
        let census = Census::new(&small());
        let (greedy, other) = (census.admit(1).unwrap(), census.admit(2).unwrap());
        let soon = Duration::from_millis(20);
        let held = greedy.reserve(3 << 19, soon).await.unwrap();
        assert!(greedy.reserve(1 << 20, soon).await.is_none(), "its share is used up");
        assert!(other.reserve(1 << 20, soon).await.is_some());
        drop(held);
        assert!(greedy.reserve(1 << 20, soon).await.is_some());
    }
}
