//! System calls as an attacker would make them, for the tests of the jail.
//!
//! Owns: a raw call in a child that does nothing else, the 32-bit entry, executable memory.
//! Never: makes a raw call in a process whose memory anybody still uses.

use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use crate::fork::ExitGuard;
use crate::solo::SingleThreaded;

/// How a child that made one raw call ended.
pub type Ending = WaitStatus;

/// Forks, runs `prepare` in the child (which may put filters on), makes the call there, and exits with its errno,
/// 0 for success, as status. Blocks until the child has ended.
///
/// The child runs nothing else, so that a call which garbles its memory garbles nothing that is used. Calls that
/// reach beyond the process (files, signals) are the caller's to avoid.
///
/// # Errors
/// When there is no forking or waiting.
pub fn call_after<F: FnOnce(SingleThreaded)>(
    _solo: &SingleThreaded,
    prepare: F,
    number: u32,
    arguments: [u64; 6],
) -> Result<Ending, Errno> {
    in_child(prepare, || {
        let [a, b, c, d, e, f] = arguments;
        // SAFETY: nothing can be said of a call of any number with any arguments, but that the only code that runs
        // in this process after it is `_exit`, which needs no memory.
        let value = unsafe { libc::syscall(libc::c_long::from(number), a, b, c, d, e, f) };
        if value < 0 { Errno::last_raw() } else { 0 }
    })
}

/// The same with `getpid` by way of `int 0x80`, the entry for 32-bit programs.
///
/// # Errors
/// When there is no forking or waiting.
#[cfg(target_arch = "x86_64")]
pub fn call_by_32_bit_entry<F: FnOnce(SingleThreaded)>(
    _solo: &SingleThreaded,
    prepare: F,
) -> Result<Ending, Errno> {
    const GETPID_32: i32 = 20;
    in_child(prepare, || {
        let value: i32;
        // SAFETY: number 20 of the 32-bit table is `getpid`, which takes no argument and touches no memory. The
        // kernel keeps all registers but eax, and r8 to r11, which it clears.
        unsafe {
            std::arch::asm!(
                "int 0x80", inlateout("eax") GETPID_32 => value,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            );
        }
        i32::from(value <= 0)
    })
}

fn in_child<F: FnOnce(SingleThreaded), C: FnOnce() -> i32>(prepare: F, call: C) -> Result<Ending, Errno> {
    // SAFETY: `fork` asks that a child of a process with several threads do only what is async-signal-safe; the
    // callers hold the proof that there is one thread.
    let child = match unsafe { fork() }? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let _guard = ExitGuard;
            prepare(SingleThreaded::after_fork());
            let status = call();
            // SAFETY: `_exit` has no precondition and does not return.
            unsafe { libc::_exit(status) }
        }
    };
    waitpid(child, None)
}

/// Maps a page that can be executed, and gives it back.
///
/// # Errors
/// What the kernel says.
pub fn map_executable() -> Result<(), Errno> {
    let page = page(ProtFlags::PROT_READ | ProtFlags::PROT_EXEC)?;
    give_back(page)
}

/// Makes a page that was written executable, and gives it back: what a compiler, or an attacker, needs.
///
/// # Errors
/// What the kernel says.
pub fn make_executable() -> Result<(), Errno> {
    let page = page(ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
    // SAFETY: `page` is a mapping of this length that was made here and that no reference points into.
    let changed = unsafe { mprotect(page, PAGE_BYTES, ProtFlags::PROT_READ | ProtFlags::PROT_EXEC) };
    give_back(page)?;
    changed
}

const PAGE_BYTES: usize = 4096;

fn page(protection: ProtFlags) -> Result<NonNull<libc::c_void>, Errno> {
    let length = NonZeroUsize::new(PAGE_BYTES).ok_or(Errno::EINVAL)?;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice replaces none.
    unsafe { mmap_anonymous(None, length, protection, MapFlags::MAP_PRIVATE) }
}

fn give_back(page: NonNull<libc::c_void>) -> Result<(), Errno> {
    // SAFETY: `page` was mapped by `page` above with this length, and no reference points into it.
    unsafe { munmap(page, PAGE_BYTES) }
}
