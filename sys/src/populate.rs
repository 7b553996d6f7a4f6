//! Pages that are had before they are needed.
//!
//! Owns: asking the kernel for a whole range at once instead of taking a fault for each page of it.
//! Never: changes a byte.

use std::ffi::c_void;
use std::ptr::NonNull;

use nix::errno::Errno;

use crate::page_bytes;

/// Has the kernel map the pages of `bytes` for reading. One that nothing was ever written to stays shared.
///
/// # Errors
/// Where the kernel does not know how (before Linux 5.14), or has not the memory. What is not had now is had on the first
/// access, as always.
pub fn for_reading(bytes: &[u8]) -> Result<(), Errno> {
    populate(NonNull::from(bytes), libc::MADV_POPULATE_READ)
}

/// Has the kernel make the pages of `bytes` private and writable: those that were shared are copied.
///
/// # Errors
/// As [`for_reading`].
pub fn for_writing(bytes: &mut [u8]) -> Result<(), Errno> {
    populate(NonNull::from(bytes), libc::MADV_POPULATE_WRITE)
}

/// Has the kernel make so many bytes of the calling thread's stack private and writable, from the caller's frame downwards:
/// those that functions are going to use that are called from there.
///
/// # Errors
/// As [`for_reading`], and where the stack does not reach that far yet.
pub fn stack(bytes: usize) -> Result<(), Errno> {
    let frame = 0_u8;
    let lowest = (&raw const frame).wrapping_sub(bytes).cast_mut();
    let range = NonNull::new(lowest).ok_or(Errno::EFAULT)?;
    populate(NonNull::slice_from_raw_parts(range, bytes), libc::MADV_POPULATE_WRITE)
}

fn populate(bytes: NonNull<[u8]>, advice: i32) -> Result<(), Errno> {
    let page_bytes = page_bytes()?;
    let before = bytes.addr().get() % page_bytes;
    let start = bytes.cast::<u8>().as_ptr().wrapping_sub(before).cast::<c_void>();
    // SAFETY: madvise with MADV_POPULATE_READ or MADV_POPULATE_WRITE, the two that the callers above name, has no
    // precondition on memory: it faults pages in as an access would and changes neither content nor protection; outside a
    // mapping it fails. Nothing is read or written through the pointer.
    let done = unsafe { libc::madvise(start, bytes.len().saturating_add(before), advice) };
    Errno::result(done).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stack_that_is_populated_is_as_it_was() {
        let on_it = [7_u8; 64];
        match stack(8 << 10) {
            Ok(()) => {}
            Err(Errno::EINVAL) => {
                return println!("not run: this kernel does not populate (before Linux 5.14)");
            }
            Err(errno) => panic!("{errno}"),
        }
        assert_eq!(stack(1 << 40), Err(Errno::ENOMEM), "no stack is that large");
        assert!(std::hint::black_box(on_it).iter().all(|byte| *byte == 7));
    }

    #[test]
    fn pages_that_are_populated_hold_what_they_held() {
        let mut bytes = vec![7; 64 << 10];
        let part = &mut bytes[100..40_000];
        match for_writing(part).and_then(|()| for_reading(part)) {
            Ok(()) => {}
            Err(Errno::EINVAL) => println!("not run: this kernel does not populate (before Linux 5.14)"),
            Err(errno) => panic!("{errno}"),
        }
        assert!(bytes.iter().all(|byte| *byte == 7));
    }
}
