//! What the kernel says about a locked process.
//!
//! Owns: the read-back.
//! Never: repeats what a layer believed it did.

use nix::sys::prctl;
use nix::unistd::{getgid, getuid};
use stockade_sys::fds::open_below;
use stockade_sys::prctl::seccomp_mode;
use stockade_wire::worker::JailReport;

use super::{Ledger, Namespaces, capabilities, rlimits};

/// Numbers below this are looked at, a call each; a worker with many granted directories has more.
pub const FDS_LOOKED_AT: u32 = 16;

pub(super) fn read_back(
    ledger: &Ledger,
    landlock_abi: u32,
    filtered: bool,
    namespaces: &Namespaces,
) -> JailReport {
    JailReport {
        // Landlock has no getter. The layer looked at / and was refused.
        landlock_abi,
        namespaces: namespaces.entered(),
        rlimits: rlimits::NAMED
            .into_iter()
            .filter_map(|(name, resource)| Some((name.to_owned(), resource.get_soft().ok()?)))
            .collect(),
        no_new_privs: prctl::get_no_new_privs().unwrap_or(false),
        not_dumpable: prctl::get_dumpable().is_ok_and(|dumpable| !dumpable),
        seccomp_mode: seccomp_mode().unwrap_or(0),
        // The mode is the same with anybody's filter; whose it is, only the layer knows.
        seccomp_filtered: filtered,
        capabilities_empty: capabilities::all_empty(),
        open_fds: open_below(FDS_LOOKED_AT),
        uid: getuid().as_raw(),
        gid: getgid().as_raw(),
        missing: ledger.missing.clone(),
    }
}
