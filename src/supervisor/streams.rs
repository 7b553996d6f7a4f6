//! Reading a guest's streams from their pipes.
//!
//! Owns: how much is read for one guest before the others get their turn.
//! Never: keeps what it reads, waits.

use std::cell::RefCell;

use super::guest_pipe::GuestPipe;

/// Most bytes of one guest's pipes that are read before the others get their turn: a flooding guest starves nobody. A
/// pipe holds as much by default.
const TURN_BYTES: usize = 64 << 10;

/// Most that a pipe holds: the kernel's default, which a worker may not raise. A reader that has once found less in it than
/// that has found all.
const PIPE_BYTES_MAX: usize = 64 << 10;

/// Most reads before the others get their turn. How much each finds is the guest's choice: a pipe that is full of short
/// writes holds little, and is full again at once.
const TURN_READS: usize = 16;

/// What one guest may still have read before the others get their turn.
#[derive(Debug)]
pub(super) struct Turn {
    bytes: usize,
    reads: usize,
}

impl Turn {
    pub(super) const fn new() -> Self {
        Self { bytes: TURN_BYTES, reads: TURN_READS }
    }

    const fn spend(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.reads = self.reads.saturating_sub(1);
    }

    const fn is_over(&self) -> bool {
        self.bytes == 0 || self.reads == 0
    }

    /// Lets the others have their turn if this one is over. To be awaited between any two reads.
    pub(super) async fn pass_on(&mut self) {
        if self.is_over() {
            *self = Self::new();
            tokio::task::yield_now().await;
        }
    }
}

thread_local! {
    /// One for all pipes: what is read is passed on at once, and zeroing a fresh one took longer than the call.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; TURN_BYTES]);
}

/// Reads once, if there is anything, at the expense of `turn`. Whether there may be more. `take` must not read a pipe.
pub(super) fn read(pipe: &GuestPipe, turn: &mut Turn, take: impl FnOnce(&[u8])) -> bool {
    BUFFER.with_borrow_mut(|buffer| match pipe.try_read(buffer) {
        Ok(0) => false,
        Ok(length) => {
            turn.spend(length);
            take(buffer.get(..length).unwrap_or_default());
            true
        }
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            turn.spend(0);
            true
        }
        Err(error) => {
            tracing::warn!(%error, "a guest's pipe failed");
            false
        }
    })
}

/// Reads what is left once its writer is gone. Past Tokio, whose idea of readiness may be older than the last write.
/// `take` must not read a pipe.
pub(super) fn rest(pipe: &GuestPipe, mut take: impl FnMut(&[u8])) {
    BUFFER.with_borrow_mut(|buffer| {
        while let Ok(length @ 1..) = nix::unistd::read(pipe, buffer) {
            take(buffer.get(..length).unwrap_or_default());
        }
    });
}

/// Reads what a writer that lives left in its pipe before it said that it was done: no more than a pipe holds. `false`
/// when there is more all the same, when the pipe fails, or when it is closed and that `may_close` is not so. `take` must not
/// read a pipe.
///
/// Tokio knows of what was written before a message that it knows of: the kernel's events come in their order. So an
/// empty pipe costs no system call here.
pub(super) fn left(pipe: &GuestPipe, may_close: bool, mut take: impl FnMut(&[u8])) -> bool {
    let mut room = PIPE_BYTES_MAX;
    BUFFER.with_borrow_mut(|buffer| {
        loop {
            match pipe.try_read(buffer) {
                Ok(length @ 1..) if length <= room => {
                    room -= length;
                    take(buffer.get(..length).unwrap_or_default());
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return true,
                Ok(0) => return may_close,
                Ok(_) | Err(_) => return false,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs::File;
    use std::io::Write;
    use std::rc::Rc;

    use tokio::task::LocalSet;

    use super::*;

    #[test]
    fn turn_is_over_after_its_bytes_or_its_reads_whichever_comes_first() {
        for (bytes, reads) in [(TURN_BYTES, 1), (TURN_BYTES - 1, 2), (2500, TURN_READS), (0, TURN_READS)] {
            let mut turn = Turn::new();
            for read in 1..=reads {
                assert!(!turn.is_over(), "{bytes} bytes, before read {read}");
                turn.spend(bytes);
            }
            assert!(turn.is_over(), "{reads} reads of {bytes} bytes");
        }
    }

    /// Reads a pipe that is never empty, as a full one of short writes is, and counts the reads between two turns of
    /// somebody else.
    #[test]
    fn reader_of_short_writes_that_never_end_lets_others_have_their_turns() {
        const TURNS: usize = 50;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let reads = Rc::new(Cell::new(0));
        LocalSet::new().block_on(&runtime, async {
            let (pipe, ours) = GuestPipe::make().unwrap();
            let ours = File::from(ours);
            let counted = Rc::clone(&reads);
            let reading = tokio::task::spawn_local(async move {
                let mut turn = Turn::new();
                loop {
                    (&ours).write_all(&[b'y'; 2500]).unwrap();
                    pipe.readable().await.unwrap();
                    assert!(read(&pipe, &mut turn, |_| counted.set(counted.get() + 1)));
                    turn.pass_on().await;
                }
            });
            let mut most = 0;
            for _ in 0..TURNS {
                let before = reads.get();
                tokio::task::yield_now().await;
                most = most.max(reads.get() - before);
            }
            reading.abort();
            assert!(most > 0, "nothing was read");
            assert!(most <= 2 * TURN_READS, "{most} reads between two turns");
        });
    }
}
