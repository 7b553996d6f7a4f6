//! On which stack guest code runs.
//!
//! Owns: the choice between the thread's own stack and a fiber's, and the calls that follow from it.
//! Never: decides what is called.
//!
//! Host functions of WASI may wait, and so are called from a fiber that can be put aside. A module that imports
//! nothing can never wait: on the thread's own stack it is spared the fiber and the runtime that would drive it, a
//! fifth of the time that a small job runs.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use nix::sys::resource::{Resource, getrlimit};
use wasmtime::{Func, Instance, InstancePre, Module, Store, TypedFunc, Val, WasmParams, WasmResults};

use super::Host;
use crate::engine::FIBER_STACK_BYTES;

/// Where guest code of one module runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stack {
    /// On the thread's own.
    Thread,
    /// On a fiber's, from which host functions can wait.
    Fiber,
}

impl Stack {
    /// For `module` on this thread, whose stack has room for a guest or not.
    pub(super) fn of(module: &Module, thread_has_room: bool) -> Self {
        if thread_has_room && module.imports().len() == 0 { Self::Thread } else { Self::Fiber }
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

/// Whether the main thread's stack may grow as large as a fiber's is. Asked before any filter: `prlimit64` is not on
/// the lists for this.
pub(crate) fn thread_has_room() -> bool {
    getrlimit(Resource::RLIMIT_STACK).is_ok_and(|(soft, _)| soft / 2 >= FIBER_STACK_BYTES as u64)
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
        assert_eq!(Stack::of(&plain, true), Stack::Thread);
        assert_eq!(Stack::of(&plain, false), Stack::Fiber);
        assert_eq!(Stack::of(&importing, true), Stack::Fiber);
    }
}
