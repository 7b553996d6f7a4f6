//! Reading a guest's streams from their pipes.
//!
//! Owns: how much is read from one pipe before the others get their turn.
//! Never: keeps what it reads, waits.

use std::cell::RefCell;

use tokio::net::unix::pipe::Receiver;

/// Most bytes read from one pipe before the others get their turn: a flooding guest starves nobody. A pipe holds
/// as much by default.
const TURN_BYTES: usize = 64 << 10;

thread_local! {
    /// One for all pipes: what is read is passed on at once, and zeroing a fresh one took longer than the call.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; TURN_BYTES]);
}

/// What became of one turn at a pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// There was less than a turn's worth.
    Part,
    /// There was a whole turn's worth, and there is more or soon will be.
    Full,
    /// There will be no more.
    Over,
}

/// Reads what is there, at most one turn's worth. `take` must not read a pipe.
pub(super) fn turn(pipe: &Receiver, take: impl FnOnce(&[u8])) -> Turn {
    BUFFER.with_borrow_mut(|buffer| match pipe.try_read(buffer) {
        Ok(0) => Turn::Over,
        Ok(length) => {
            take(buffer.get(..length).unwrap_or_default());
            if length == TURN_BYTES { Turn::Full } else { Turn::Part }
        }
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Turn::Part,
        Err(error) => {
            tracing::warn!(%error, "a guest's pipe failed");
            Turn::Over
        }
    })
}

/// Reads what is left once its writer is gone. Past Tokio, whose idea of readiness may be older than the last write.
/// `take` must not read a pipe.
pub(super) fn rest(pipe: &Receiver, mut take: impl FnMut(&[u8])) {
    BUFFER.with_borrow_mut(|buffer| {
        while let Ok(length @ 1..) = nix::unistd::read(pipe, buffer) {
            take(buffer.get(..length).unwrap_or_default());
        }
    });
}
