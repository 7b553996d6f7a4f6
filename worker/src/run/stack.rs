//! On which stack guest code runs.
//!
//! Owns: the choice between the thread's own stack and a fiber's, and the calls that follow from it.
//! Never: decides what is called.
//!
//! Host functions of WASI may wait, and so are called from a fiber that can be put aside. A module that imports
//! nothing can never wait: on the thread's own stack it is spared the fiber and the runtime that would drive it, a
//! fifth of the time that a small job runs. Scripts wait with their thread, and run on its stack in the forks
//! of the engine's template; in a process that stays they run on a fiber's, which is cleared between two of them.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use wasmtime::{Func, Instance, InstancePre, Module, Store, TypedFunc, Val, WasmParams, WasmResults};

use super::Host;
use crate::engine::{FIBER_STACK_BYTES, SCRIPT_STACK_BYTES};

/// Where guest code of one module runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stack {
    /// On the thread's own.
    Thread,
    /// On a fiber's, from which host functions can wait.
    Fiber,
}

impl Stack {
    /// For `module` on a thread with that stack.
    pub(super) fn of(module: &Module, thread: ThreadStack) -> Self {
        let waits = module.imports().len() > 0;
        if !waits && thread.has_room_for(FIBER_STACK_BYTES) { Self::Thread } else { Self::Fiber }
    }

    /// For a script that is the only one of its process, on a thread with that stack.
    pub(super) fn of_only_script(thread: ThreadStack) -> Self {
        if thread.has_room_for(SCRIPT_STACK_BYTES) { Self::Thread } else { Self::Fiber }
    }

    pub(super) async fn instantiate(
        self,
        pre: &InstancePre<Host>,
        store: &mut Store<Host>,
    ) -> wasmtime::Result<Instance> {
        match self {
            Self::Thread => pre.instantiate(store),
            Self::Fiber => pre.instantiate_async(store).await,
        }
    }

    pub(super) async fn call<P, R>(
        self,
        function: &TypedFunc<P, R>,
        store: &mut Store<Host>,
        parameters: P,
    ) -> wasmtime::Result<R>
    where
        P: WasmParams + Sync,
        R: WasmResults + Sync,
    {
        match self {
            Self::Thread => function.call(store, parameters),
            Self::Fiber => function.call_async(store, parameters).await,
        }
    }

    pub(super) async fn call_untyped(
        self,
        function: Func,
        store: &mut Store<Host>,
        arguments: &[Val],
        results: &mut [Val],
    ) -> wasmtime::Result<()> {
        match self {
            Self::Thread => function.call(store, arguments, results),
            Self::Fiber => function.call_async(store, arguments, results).await,
        }
    }
}

/// What `work` comes to, when it never waits.
pub(super) fn at_once<F: Future>(work: F) -> Option<F::Output> {
    match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}

/// The main thread's stack.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ThreadStack {
    /// How large it may become, bytes.
    bytes: u64,
}

impl ThreadStack {
    /// This process's. Asked before any filter: `prlimit64` is not on the lists for this.
    pub(crate) fn of_this_process() -> Self {
        Self { bytes: getrlimit(Resource::RLIMIT_STACK).map_or(0, |(soft, _)| soft) }
    }

    /// Whether a guest with that stack finds room on it, beside all that was there before.
    fn has_room_for(self, guest_bytes: usize) -> bool {
        self.bytes / 2 >= guest_bytes as u64
    }
}

/// Lets the main threads of this process and of the programs that it starts from now on have a stack on which scripts find room,
/// as far as the limits go. Whoever starts a zygote calls it: a program finds out when it begins where its stack ends, and would
/// not know an overflow for what it is beyond that.
pub fn make_room_for_scripts() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_STACK) {
        let wanted = soft.max(2 * SCRIPT_STACK_BYTES as u64).min(hard);
        // Where it stays as it is, scripts run on fibers.
        let _ = setrlimit(Resource::RLIMIT_STACK, wanted, hard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_waits_is_not_had_at_once() {
        assert_eq!(at_once(async { 7 }), Some(7));
        assert_eq!(at_once(std::future::pending::<u8>()), None);
    }

    #[test]
    fn module_that_imports_or_has_no_room_runs_on_a_fiber() {
        let engine = wasmtime::Engine::default();
        let plain = Module::new(&engine, "(module)").unwrap();
        let importing = Module::new(&engine, r#"(module (import "a" "b" (func)))"#).unwrap();
        let (room, none) = (ThreadStack { bytes: 8 << 20 }, ThreadStack { bytes: 1 << 20 });
        assert_eq!(Stack::of(&plain, room), Stack::Thread);
        assert_eq!(Stack::of(&plain, none), Stack::Fiber);
        assert_eq!(Stack::of(&importing, room), Stack::Fiber);
    }

    #[test]
    fn script_runs_on_the_thread_s_stack_where_that_may_become_large_enough() {
        let twice = 2 * SCRIPT_STACK_BYTES as u64;
        assert_eq!(Stack::of_only_script(ThreadStack { bytes: twice }), Stack::Thread);
        assert_eq!(Stack::of_only_script(ThreadStack { bytes: twice - 2 }), Stack::Fiber);
    }
}
