//! Something to be done while something else takes its time.
//!
//! Owns: whether there is time for it.
//! Never: knows what either is.

/// Does `work`, and the other meanwhile if `work` is not done at once.
pub(super) async fn unless_done_at_once<T>(work: impl Future<Output = T>, meanwhile: impl FnOnce()) -> T {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => return done,
        () = std::future::ready(()) => {}
    }
    meanwhile();
    work.await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn other_thing_is_done_first_where_work_takes_time_and_not_where_it_does_not() {
        let other = Cell::new(false);
        let done_at_once = unless_done_at_once(async { other.get() }, || other.set(true)).await;
        assert_eq!((done_at_once, other.get()), (false, false));
        let takes_time = async {
            tokio::task::yield_now().await;
            other.get()
        };
        let other_first = unless_done_at_once(takes_time, || other.set(true)).await;
        assert!(other_first && other.get());
    }
}
