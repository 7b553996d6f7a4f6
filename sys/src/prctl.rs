//! Questions to and orders for the kernel about the calling process that `nix` does not wrap.
//!
//! Owns: `PR_SET_MDWE`, the seccomp mode, the capability sets, the Landlock version, `_exit`.
//! Never: decides what a missing feature means.

use nix::errno::Errno;

const PR_SET_MDWE: libc::c_int = 65;
const PR_GET_MDWE: libc::c_int = 66;
const PR_MDWE_REFUSE_EXEC_GAIN: libc::c_ulong = 1;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
const LANDLOCK_CREATE_RULESET_VERSION: libc::c_ulong = 1;

fn prctl(option: libc::c_int, argument: libc::c_ulong) -> Result<libc::c_int, Errno> {
    let zero: libc::c_ulong = 0;
    // SAFETY: every option this private function is called with takes integers only; none reads or writes
    // memory of ours.
    let value = unsafe { libc::prctl(option, argument, zero, zero, zero) };
    Errno::result(value)
}

/// From now on no memory of this process becomes executable that was not. Cannot be undone.
///
/// # Errors
/// `EINVAL` before Linux 6.3 and on architectures without it.
pub fn set_mdwe() -> Result<(), Errno> {
    prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN).map(drop)
}

/// Whether [`set_mdwe`] is in force.
///
/// # Errors
/// `EINVAL` before Linux 6.3.
pub fn mdwe() -> Result<bool, Errno> {
    prctl(PR_GET_MDWE, 0).map(|bits| libc::c_ulong::from(bits.unsigned_abs()) & PR_MDWE_REFUSE_EXEC_GAIN != 0)
}

/// `PR_GET_SECCOMP`: 0 without, 2 with a filter.
///
/// # Errors
/// `EINVAL` where the kernel is built without seccomp.
pub fn seccomp_mode() -> Result<u32, Errno> {
    prctl(libc::PR_GET_SECCOMP, 0).map(libc::c_int::unsigned_abs)
}

/// The calling thread's capability sets as bit masks: effective, permitted, inheritable. In one call, which
/// matters to a worker that has a few hundred microseconds to be born.
///
/// The ambient set needs no look of its own: the kernel keeps it within the permitted and the inheritable set.
///
/// # Errors
/// What `capget` says.
pub fn capabilities() -> Result<[u64; 3], Errno> {
    let mut header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut halves = [CapabilityHalf::default(), CapabilityHalf::default()];
    let (header, data) = (std::ptr::from_mut(&mut header), halves.as_mut_ptr());
    // SAFETY: with version 3 `capget` reads and writes one header and writes two data structs; `header` and
    // `halves` are those, laid out as the kernel's, and outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_capget, header, data) };
    Errno::result(done)?;
    let [low, high] = halves;
    let whole = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
    Ok([
        whole(low.effective, high.effective),
        whole(low.permitted, high.permitted),
        whole(low.inheritable, high.inheritable),
    ])
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Default)]
struct CapabilityHalf {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Version of the Landlock interface, at least 1.
///
/// # Errors
/// `ENOSYS` where the kernel is built without Landlock, `EOPNOTSUPP` where it was not enabled at boot.
pub fn landlock_abi() -> Result<u32, Errno> {
    let (null, size) = (std::ptr::null::<libc::c_void>(), 0usize);
    // SAFETY: with the VERSION flag the kernel wants a null pointer and size 0 and reads no memory.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, null, size, LANDLOCK_CREATE_RULESET_VERSION)
    };
    Errno::result(version).map(|version| u32::try_from(version).unwrap_or(u32::MAX))
}

/// Whether the kernel can deliver `SECCOMP_RET_TRAP` from a filter.
///
/// # Errors
/// `ENOSYS` without seccomp, `EOPNOTSUPP` without the action.
pub fn seccomp_traps() -> Result<(), Errno> {
    let action: u32 = libc::SECCOMP_RET_TRAP;
    // SAFETY: SECCOMP_GET_ACTION_AVAIL reads one u32 at the pointer; `action` is one and outlives the call.
    let done = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, std::ptr::from_ref(&action))
    };
    Errno::result(done).map(drop)
}

/// Ends the process at once: no destructor, no flushing, no `atexit`.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: `_exit` has no precondition and does not return.
    unsafe { libc::_exit(status) }
}
