//! The first link: a process with one thread, just forked.
//!
//! Owns: [`Alone`].
//! Never: asks procfs; a fork's child has one thread by the kernel's rule, and [`Newborn`] says it is one.

use stockade_sys::fork::Newborn;

use super::Ledger;

/// One thread, nothing done yet.
#[derive(Debug)]
pub struct Alone {
    pub(super) newborn: Newborn,
    pub(super) ledger: Ledger,
}

/// Begins the chain.
#[must_use]
pub const fn begin(newborn: Newborn, ledger: Ledger) -> Alone {
    Alone { newborn, ledger }
}
