//! What happens when a syscall filter answers `SECCOMP_RET_TRAP`.
//!
//! Owns: the `SIGSYS` handler, which names the call on the worker's link and dies.
//! Never: returns to the code that made the call, allocates, formats.
//!
//! The trapped call is not executed. While the handler runs every signal is blocked, so the forbidden call it
//! makes at its end cannot be delivered: the kernel then resets the disposition and kills the process with
//! `SIGSYS`, exactly as `SECCOMP_RET_KILL_PROCESS` would have.

use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Bytes of the frame the handler sends; the last four are the syscall number, little-endian.
pub const FRAME_BYTES: usize = 12;

/// Exit status if even the second forbidden call returned, which means no filter is in force.
pub const UNFILTERED_STATUS: i32 = 103;

/// A number no architecture has a call for and no allow-list allows.
const NO_SUCH_CALL: libc::c_long = 0x3fff_fff0;

/// `si_code` of a `SIGSYS` that comes from a filter.
const SYS_SECCOMP: libc::c_int = 1;

static LINK: AtomicI32 = AtomicI32::new(-1);
static FRAME: [AtomicU32; 2] = [AtomicU32::new(0), AtomicU32::new(0)];

/// Head of the kernel's `siginfo_t` for `SIGSYS`; libc leaves these fields unnamed.
#[repr(C)]
struct SigsysInfo {
    signo: libc::c_int,
    errno: libc::c_int,
    code: libc::c_int,
    call_address: *mut libc::c_void,
    call: libc::c_int,
    architecture: libc::c_uint,
}

/// Installs the handler. `frame` goes out on descriptor `link` with its last four bytes replaced by the number.
///
/// The caller sees to it that `link` stays the number of a `SOCK_SEQPACKET` socket and that the filter allows
/// `sendto` on it.
///
/// # Errors
/// What `sigaction` says.
pub fn install(link: i32, frame: [u8; FRAME_BYTES]) -> Result<(), Errno> {
    let [a, b, c, d, e, f, g, h, _number @ ..] = frame;
    let [head, tail] = &FRAME;
    head.store(u32::from_ne_bytes([a, b, c, d]), Ordering::Relaxed);
    tail.store(u32::from_ne_bytes([e, f, g, h]), Ordering::Relaxed);
    LINK.store(link, Ordering::Relaxed);
    // SA_ONSTACK: the guest's stack may be the reason something went wrong. A full mask: nothing interrupts.
    let flags = SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK;
    let action = SigAction::new(SigHandler::SigAction(handle), flags, SigSet::all());
    // SAFETY: `sigaction` wants a handler that is async-signal-safe for as long as it is installed. `handle` is
    // a function item, uses atomics, `send`, `syscall` and `_exit` only, and never returns.
    unsafe { sigaction(Signal::SIGSYS, &action) }.map(drop)
}

extern "C" fn handle(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a `siginfo_t`, which for SIGSYS begins with these fields and is
    // larger than them; it lives on the signal stack until this function ends.
    let info = unsafe { &*info.cast::<SigsysInfo>() };
    // A SIGSYS that somebody sent names no call.
    let call = if info.code == SYS_SECCOMP { info.call.unsigned_abs() } else { u32::MAX };
    say(call);
    die()
}

fn say(call: u32) {
    let [head, tail] = &FRAME;
    let frame: [u32; FRAME_BYTES / 4] =
        [head.load(Ordering::Relaxed), tail.load(Ordering::Relaxed), call.to_le()];
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `send` reads FRAME_BYTES bytes at `frame`, an array of that size that outlives the call. A full or
    // closed link makes it fail, which changes nothing about what follows.
    unsafe { libc::send(LINK.load(Ordering::Relaxed), frame.as_ptr().cast(), FRAME_BYTES, flags) };
}

fn die() -> ! {
    // SAFETY: no kernel has a call of this number, so without a filter it returns ENOSYS and touches nothing;
    // with one the process ends here.
    unsafe { libc::syscall(NO_SUCH_CALL) };
    // SAFETY: `_exit` has no precondition and does not return.
    unsafe { libc::_exit(UNFILTERED_STATUS) }
}
