//! Pages of the process's own in the place of a file's.
//!
//! Owns: putting a copy of what is mapped in its place, on huge pages where that is asked for.
//! Never: changes a byte or a right that is seen there, makes a page that is writable and executable.
//!
//! A fork copies no page tables of a mapped file: each page of it that the child uses is a fault, and every one that the
//! kernel maps around it is taken down again when the child ends. Pages of a process's own are inherited by a fork as they
//! are, and a huge page is one entry to inherit instead of five hundred and twelve.

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::raw::c_int;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, mprotect, munmap};

use crate::page_bytes;
use crate::solo::SingleThreaded;

/// Size and alignment of a huge page: 2 MiB with pages of 4 KiB, on x86-64 and aarch64 alike.
pub(crate) const HUGE_BYTES: usize = 2 << 20;

/// `MADV_COLLAPSE`, since Linux 6.1, which libc has no name for on every target.
const MADV_COLLAPSE: c_int = 25;

/// A call that the kernel refused. What is mapped is as it was.
#[derive(Debug, thiserror::Error)]
#[error("{call} for pages of the process's own failed")]
pub struct PagesError {
    /// The system call.
    pub call: &'static str,
    /// What the kernel said.
    #[source]
    pub errno: Errno,
}

fn refused(call: &'static str) -> impl Fn(Errno) -> PagesError {
    move |errno| PagesError { call, errno }
}

/// Whole pages that are to be replaced.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// What is mapped there.
    pub(crate) held: Range<usize>,
    /// The pages. There is nothing else in them.
    pub(crate) whole: Range<usize>,
    /// So many bytes of those, from the first on, which is aligned for it, are to be huge pages.
    pub(crate) huge_bytes: usize,
    pub(crate) rights: ProtFlags,
}

/// A copy of a part, with its rights.
///
/// # Safety
/// `held` is mapped, readable, and lies in `whole`, and nothing writes to it or unmaps it meanwhile.
pub(crate) unsafe fn copy(part: &Part) -> Result<Room, PagesError> {
    let Part { held, whole, huge_bytes, rights } = part;
    let room = Room::new(whole.len())?;
    let copy = room.aligned;
    if *huge_bytes > 0 {
        // SAFETY: the advice does not change what the memory holds, and it is the room's own.
        unsafe { madvise(copy, whole.len(), MmapAdvise::MADV_HUGEPAGE) }.map_err(refused("madvise"))?;
    }
    // SAFETY: `held` begins in `whole`, which is as long as the aligned part.
    let place = unsafe { copy.byte_add(held.start - whole.start) };
    // SAFETY: the caller says that `held` is mapped, readable and left alone. A `u8` may have any value.
    let from = unsafe { std::slice::from_raw_parts(held.start as *const u8, held.len()) };
    // SAFETY: the room is writable, long enough and just mapped, so that nothing else refers to it.
    let to = unsafe { std::slice::from_raw_parts_mut(place.as_ptr().cast::<u8>(), held.len()) };
    let page_bytes = page_bytes().map_err(refused("sysconf"))?;
    for (to, from) in to.chunks_mut(page_bytes).zip(from.chunks(page_bytes)) {
        // What nothing was ever written to needs no page.
        if from.iter().any(|byte| *byte != 0) {
            to.copy_from_slice(from);
        }
    }
    if *huge_bytes > 0 {
        // SAFETY: as for the advice above. It fails where there is not a huge page for every part: the caller says what is
        // better then.
        let collapsed = unsafe { libc::madvise(copy.as_ptr(), *huge_bytes, MADV_COLLAPSE) };
        Errno::result(collapsed).map_err(refused("madvise(MADV_COLLAPSE)"))?;
    }
    // SAFETY: the room is ours and nothing refers to it.
    unsafe { mprotect(copy, whole.len(), *rights) }.map_err(refused("mprotect"))?;
    Ok(room)
}

/// Puts a part's copy in its place.
///
/// # Safety
/// `room` is [`copy`]'s of `part`, `held` has not changed since, and there is nothing else in `whole`.
pub(crate) unsafe fn replace(part: &Part, room: Room) -> Result<(), PagesError> {
    let (whole, copy) = (&part.whole, room.aligned);
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: `mremap` moves the room's pages to `whole` and unmaps what was there, in one call. That was the part's `held`
    // alone, whose bytes are at their addresses again with the same rights, so that code that runs from there, this
    // function's and, linked statically, the call's own too, and references into it stay valid.
    let there =
        unsafe { libc::mremap(copy.as_ptr(), whole.len(), whole.len(), flags, whole.start as *mut c_void) };
    if there == libc::MAP_FAILED {
        return Err(PagesError { call: "mremap", errno: Errno::last() });
    }
    room.given_away(whole.len());
    Ok(())
}

/// Replaces the whole pages of `bytes`, which nobody shares, by pages of this process's own, with the same bytes.
///
/// # Errors
/// When the kernel refuses. Nothing has changed then.
pub fn in_place(_solo: &SingleThreaded, bytes: &mut [u8]) -> Result<(), PagesError> {
    let page_bytes = page_bytes().map_err(refused("sysconf"))?;
    let range = bytes.as_ptr_range();
    let (start, end) = (range.start as usize, range.end as usize);
    let whole = start.next_multiple_of(page_bytes)..end - end % page_bytes;
    if whole.is_empty() {
        return Ok(());
    }
    let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let part = Part { held: whole.clone(), whole, huge_bytes: 0, rights };
    // SAFETY: the pages are within a slice that is borrowed, mutably, for this call: mapped, readable, and nobody else's.
    let room = unsafe { copy(&part) }?;
    // SAFETY: the copy was made just now, within the same borrow, and the pages are whole and within the slice.
    unsafe { replace(&part, room) }
}

/// Address space that is kept free of all else until this is dropped, but for one gap.
pub(crate) struct Berth {
    _around: Vec<Room>,
}

/// How many larger gaps are filled before it is given up.
const GAPS_MAX: usize = 16;

impl Berth {
    /// Sees to it that the next mapping of `length` bytes begins so that what is `offset` bytes behind its beginning is at a
    /// multiple of [`HUGE_BYTES`]. `None` when that cannot be had.
    pub(crate) fn new(length: usize, offset: usize) -> Result<Option<Self>, PagesError> {
        let mut around = Vec::new();
        for _ in 0..GAPS_MAX {
            let mut before = Room::reserve(length + HUGE_BYTES)?;
            let start = before.start.addr().get();
            let wanted = (start + offset).next_multiple_of(HUGE_BYTES) - offset;
            let after = before.split_off(wanted - start + length);
            drop(before.split_off(wanted - start));
            // The kernel takes the first gap that is large enough: is it this?
            let found = Room::reserve(length)?;
            if found.start.addr().get() == wanted {
                around.extend([before, after]);
                return Ok(Some(Self { _around: around }));
            }
            around.push(found);
        }
        Ok(None)
    }
}

/// Memory of our own with an aligned part. Unmapped when dropped.
pub(crate) struct Room {
    start: NonNull<c_void>,
    bytes: usize,
    aligned: NonNull<c_void>,
}

impl Room {
    /// Room for `length` bytes from a multiple of [`HUGE_BYTES`].
    fn new(length: usize) -> Result<Self, PagesError> {
        let mut room = Self::map(length + HUGE_BYTES, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
        let start = room.start;
        let skipped = start.as_ptr().cast::<u8>().align_offset(HUGE_BYTES);
        // SAFETY: the offset is below `HUGE_BYTES`, and the mapping is that much longer than `length`.
        room.aligned = unsafe { start.byte_add(skipped) };
        Ok(room)
    }

    /// `length` bytes of address space, with nothing in it.
    fn reserve(length: usize) -> Result<Self, PagesError> {
        Self::map(length, ProtFlags::PROT_NONE)
    }

    fn map(length: usize, rights: ProtFlags) -> Result<Self, PagesError> {
        let bytes = NonZeroUsize::new(length).ok_or(Errno::EINVAL).map_err(refused("mmap"))?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new mapping wherever the kernel puts it replaces none.
        let start = unsafe { mmap_anonymous(None, bytes, rights, flags) }.map_err(refused("mmap"))?;
        Ok(Self { start, bytes: length, aligned: start })
    }

    /// Takes what is behind the first `length` bytes, of whole pages, from it.
    fn split_off(&mut self, length: usize) -> Self {
        let length = length.min(self.bytes);
        // SAFETY: within the mapping's length.
        let start = unsafe { self.start.byte_add(length) };
        let rest = Self { start, bytes: self.bytes - length, aligned: start };
        self.bytes = length;
        rest
    }

    /// The first `length` bytes of the aligned part are somewhere else now; what is left is unmapped.
    fn given_away(self, length: usize) {
        let before = self.aligned.as_ptr() as usize - self.start.as_ptr() as usize;
        let after = self.bytes - before - length;
        // SAFETY: within the mapping's length.
        let rest = unsafe { self.aligned.byte_add(length) };
        let start = self.start;
        std::mem::forget(self);
        for (start, bytes) in [(start, before), (rest, after)] {
            if bytes > 0 {
                // SAFETY: a part of the room that was not moved; nothing refers to it. Kept, it would do no harm.
                let _ = unsafe { munmap(start, bytes) };
            }
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // SAFETY: the room is this value's own, whole, and nothing refers to it any more.
        let _ = unsafe { munmap(self.start, self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_are_replaced_hold_what_they_held_and_can_be_written_to() {
        let mut room = vec![0_u8; 64 << 10];
        room[9_000..20_000].fill(7);
        let expected = room.clone();
        // The other threads have no part in it.
        in_place(&SingleThreaded::after_fork(), &mut room).unwrap();
        assert_eq!(room, expected);
        room.fill(9);
        assert!(room.iter().all(|byte| *byte == 9));
    }

    #[test]
    fn slice_without_a_whole_page_stays_as_it_is() {
        let mut few = [1, 2, 3];
        in_place(&SingleThreaded::after_fork(), &mut few).unwrap();
        assert_eq!(few, [1, 2, 3]);
    }
}
