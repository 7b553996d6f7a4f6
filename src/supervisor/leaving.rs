//! Workers that have replied, whose end waits until their replies are with whoever asked.
//!
//! Owns: how long that is.
//! Never: keeps one whose place a job waits for, or which would not end by itself.
//!
//! The kernel takes longer to take a process apart than a client to be told, and when it does so is the scheduler's to say:
//! a client that is woken on the processor where a worker ends waits for that in nearly half of all jobs, and then for
//! half as long again as the job took. A worker therefore ends by itself a little after its reply, and is ended here where it does not.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use stockade_wire::worker::Usage;
use tokio::time::timeout;

use super::places::Place;
use super::worker::Worker;

/// When a worker is ended that has not done so by itself. No setting: it is several times what a worker takes to end by itself,
/// and a job that waits for a place does not wait for it.
const LINGER_MAX: Duration = Duration::from_millis(5);

/// Workers that may wait; with one more, all are ended. No setting: as many come in that time only under a load that has
/// long taken the first one's reply, and to end several at once takes less of the processors than each in its own time.
const LEAVING_MAX: usize = 4;

/// A worker that runs nothing any more.
pub(super) struct Spent {
    pub(super) worker: Worker,
    /// What it said that it used.
    pub(super) said: Option<Usage>,
    /// Its job's, free again when it is reaped.
    pub(super) place: Option<Place>,
}

impl Spent {
    /// Ends it now.
    pub(super) fn leave(self) {
        self.worker.leave(self.said, self.place);
    }
}

/// How things stand when a worker's reply is out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    /// It replied in order, was not waited for, and has its timer.
    pub(super) ends_by_itself: bool,
    /// A job that comes, or is there, has to wait for a place.
    pub(super) places_taken: bool,
    /// Its user's processes and memory are counted against limits of their own.
    pub(super) user_limited: bool,
}

/// Whether it may stay for that long.
pub(super) const fn may_linger(standing: Standing) -> bool {
    let Standing { ends_by_itself, places_taken, user_limited } = standing;
    ends_by_itself && !places_taken && !user_limited
}

/// Those that wait.
#[derive(Default)]
pub(super) struct Leaving {
    all: RefCell<Vec<Spent>>,
    /// How often all of them were ended.
    ended: Cell<u64>,
}

impl Leaving {
    /// Has one end by itself. To be called on a `LocalRuntime` or in a `LocalSet`.
    pub(super) fn add(self: &Rc<Self>, one: Spent) {
        let waiting = {
            let mut all = self.all.borrow_mut();
            all.push(one);
            all.len()
        };
        if waiting > LEAVING_MAX {
            self.end_all();
        } else if waiting == 1 {
            let (leaving, before) = (Rc::clone(self), self.ended.get());
            tokio::task::spawn_local(async move {
                let first_exited = poll_fn(|context| leaving.poll_first_exited(context, before));
                // Whether it ended or did not: the others came after it, and are on their way.
                let _ = timeout(LINGER_MAX, first_exited).await;
                if leaving.ended.get() == before {
                    leaving.end_all();
                }
            });
        }
    }

    /// Ready too once those that there were `before` are ended.
    fn poll_first_exited(&self, context: &mut Context<'_>, before: u64) -> Poll<()> {
        match self.all.borrow().first() {
            Some(first) if self.ended.get() == before => first.worker.poll_exited(context),
            Some(_) | None => Poll::Ready(()),
        }
    }

    /// Ends all of them now.
    pub(super) fn end_all(&self) {
        // Out of the borrow before any of them is ended.
        let all = self.all.take();
        self.ended.set(self.ended.get() + 1);
        all.into_iter().for_each(Spent::leave);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_lingers_only_where_it_ends_by_itself_and_holds_up_nobody() {
        for bits in 0..8 {
            let [ends_by_itself, places_taken, user_limited] = [1, 2, 4].map(|bit| bits & bit != 0);
            let lingers = may_linger(Standing { ends_by_itself, places_taken, user_limited });
            assert_eq!(lingers, bits == 1, "{bits}");
        }
    }
}
