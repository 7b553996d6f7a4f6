//! Anonymous files in memory, and their seals.
//!
//! Owns: creating, filling and sealing them.
//! Never: says what is in them.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;

/// The seals of a file nobody can change any more, not even by adding or removing seals.
pub const IMMUTABLE: SealFlag = SealFlag::F_SEAL_SHRINK
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_WRITE)
    .union(SealFlag::F_SEAL_SEAL);

/// The seals of a file to which nobody can write any more by whatever descriptor, and which nobody can map writably from
/// now on (Linux 5.1). Whoever had mapped it before still could: as good as [`IMMUTABLE`] for a file that was never mapped,
/// and nobody but who made it knows that.
const NEVER_MAPPED: SealFlag = SealFlag::F_SEAL_SHRINK
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::from_bits_retain(libc::F_SEAL_FUTURE_WRITE))
    .union(SealFlag::F_SEAL_SEAL);

/// How often a file is tried to be sealed while the kernel holds on to a page of it (compaction, migration and reclaim do
/// for a moment). Each time it waits for about 150 ms itself before it says so (`memfd_wait_for_pins`),
/// so that this comes to two seconds and a half. No setting: what
/// holds on for longer than that is no passing business of the kernel's, and would for any time that a job can wait.
const SEAL_TRIES_MAX: u32 = 16;

/// The seals of a file whose content nobody can change any more; further seals may be added.
pub const FIXED: SealFlag =
    SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_WRITE);

/// An empty, sealable, close-on-exec file in memory. `name` shows in `/proc/PID/fd` and nowhere else.
///
/// # Errors
/// When the kernel has no descriptor or memory to give.
pub fn create(name: &str) -> std::io::Result<File> {
    Ok(File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?))
}

/// Makes `file` immutable. Fails while a writable shared mapping of it exists anywhere.
///
/// Blocks: the kernel waits until nothing but its cache refers to any page, most often for microseconds and for two
/// seconds and a half at worst. Not to be called by a thread that others wait for.
///
/// # Errors
/// When the seals cannot be added; `EBUSY` when a page was in use all the while.
pub fn seal(file: &impl AsFd) -> std::io::Result<()> {
    Ok(while_busy(|| fcntl(file, FcntlArg::F_ADD_SEALS(IMMUTABLE)).map(drop))?)
}

/// Tries again while the kernel says that the file is in use, within [`SEAL_TRIES_MAX`].
fn while_busy(mut attempt: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
    for _ in 1..SEAL_TRIES_MAX {
        match attempt() {
            Err(Errno::EBUSY) => {}
            outcome => return outcome,
        }
    }
    attempt()
}

/// Whether `file` has every seal of [`IMMUTABLE`].
///
/// # Errors
/// When `file` is not one that can have seals.
pub fn is_sealed(file: &impl AsFd) -> std::io::Result<bool> {
    Ok(seals(file)?.contains(IMMUTABLE))
}

/// The seals that `file` has. Seals are never taken off again.
///
/// # Errors
/// `EINVAL` when `file` is not one that can have seals: no file in memory, or none at all.
pub fn seals(file: &impl AsFd) -> std::io::Result<SealFlag> {
    Ok(SealFlag::from_bits_truncate(fcntl(file, FcntlArg::F_GET_SEALS)?))
}

/// The same file opened anew, for reading alone, at its start: with a position of its own, which nobody else who has
/// `file` can move. Takes /proc.
///
/// # Errors
/// When /proc is not mounted, the file's mode keeps this user from reading it, or there is no descriptor left.
pub fn reopen(file: &impl AsFd) -> std::io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    Ok(open(path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOCTTY, Mode::empty())?)
}

/// A sealed file that holds `bytes`, positioned at its start. Blocks as [`seal`] does.
///
/// # Errors
/// When the kernel has no descriptor or memory to give, and as for [`seal`].
pub fn sealed(name: &str, bytes: &[u8]) -> std::io::Result<OwnedFd> {
    let file = holding(name, bytes)?;
    seal(&file)?;
    Ok(file.into())
}

/// The same for whoever takes this process's word that it never mapped the file, such as our own workers: nobody can change
/// what is in it either, and the kernel has nothing to wait for.
///
/// # Errors
/// When the kernel has no descriptor or memory to give.
pub fn unwritable(name: &str, bytes: &[u8]) -> std::io::Result<OwnedFd> {
    let file = holding(name, bytes)?;
    // It was made here and written, and nobody else has it yet: there is no mapping that could outlive this.
    fcntl(&file, FcntlArg::F_ADD_SEALS(NEVER_MAPPED))?;
    Ok(file.into())
}

fn holding(name: &str, bytes: &[u8]) -> std::io::Result<File> {
    use std::io::Seek;
    let mut file = create(name)?;
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

    use super::*;

    #[test]
    fn sealed_file_refuses_writes() {
        let fd = sealed("test", b"abc").unwrap();
        assert!(is_sealed(&fd).unwrap());
        let refused = File::from(fd).write_all(b"x").unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn file_that_was_never_mapped_cannot_be_changed_by_any_descriptor_of_it() {
        use nix::fcntl::{FallocateFlags, fallocate};
        let ours = File::from(unwritable("test", b"abc").unwrap());
        let path = format!("/proc/self/fd/{}", ours.as_raw_fd());
        let anew = File::options().read(true).write(true).open(path).unwrap();
        for mut file in [&ours, &anew] {
            assert_eq!(file.write_all(b"x").unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
            assert!(file.set_len(2).is_err() && file.set_len(4).is_err());
            let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            assert_eq!(fallocate(file, hole, 0, 3), Err(Errno::EPERM));
            assert_eq!(fcntl(file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)), Err(Errno::EPERM));
            assert_eq!(map_shared(file, ProtFlags::PROT_WRITE), Err(Errno::EPERM));
            assert_eq!(map_shared(file, ProtFlags::PROT_READ), Ok(()));
        }
        assert_eq!(std::io::read_to_string(&ours).unwrap(), "abc", "it begins at its start");
    }

    /// Maps its first page, and takes the mapping away again.
    fn map_shared(file: &File, protection: ProtFlags) -> Result<(), Errno> {
        let page = NonZeroUsize::new(4096).unwrap();
        // SAFETY: mmap asks that no mapping in use be replaced: no address is given and MAP_FIXED is not set.
        let mapped = unsafe { mmap(None, page, protection, MapFlags::MAP_SHARED, file, 0) }?;
        // SAFETY: munmap asks that nothing refer to the range: it was mapped on the line above, and nobody was told.
        unsafe { munmap(mapped, page.get()) }
    }

    #[test]
    fn file_in_use_is_tried_again_as_often_as_the_limit_says_and_no_other_failure_is() {
        for (busy, last, expected, tries) in [
            (0, Ok(()), Ok(()), 1),
            (1, Ok(()), Ok(()), 2),
            (SEAL_TRIES_MAX - 1, Ok(()), Ok(()), SEAL_TRIES_MAX),
            (SEAL_TRIES_MAX, Ok(()), Err(Errno::EBUSY), SEAL_TRIES_MAX),
            (u32::MAX, Ok(()), Err(Errno::EBUSY), SEAL_TRIES_MAX),
            (0, Err(Errno::EPERM), Err(Errno::EPERM), 1),
            (3, Err(Errno::EINVAL), Err(Errno::EINVAL), 4),
        ] {
            let mut tried = 0;
            let outcome = while_busy(|| {
                tried += 1;
                if tried <= busy { Err(Errno::EBUSY) } else { last }
            });
            assert_eq!((outcome, tried), (expected, tries), "busy {busy} times, then {last:?}");
        }
    }

    #[test]
    fn file_opened_anew_has_a_place_of_its_own_and_cannot_be_written() {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = create("test").unwrap();
        file.write_all(b"abc").unwrap();
        let mut again = File::from(reopen(&file).unwrap());
        file.seek(SeekFrom::Start(1)).unwrap();
        assert!(again.write_all(b"x").is_err());
        let mut text = String::new();
        again.read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc");
        assert_eq!(seals(&file).unwrap(), SealFlag::empty());
        assert!(seals(&std::io::pipe().unwrap().0).is_err());
    }

    #[test]
    fn unsealed_file_is_told_apart() {
        assert!(!is_sealed(&create("test").unwrap()).unwrap());
    }
}
