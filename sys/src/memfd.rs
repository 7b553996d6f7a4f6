//! Anonymous files in memory, and their seals.
//!
//! Owns: creating, filling and sealing them.
//! Never: says what is in them.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;

/// The seals of a file nobody can change any more, not even by adding or removing seals.
pub const IMMUTABLE: SealFlag = SealFlag::F_SEAL_SHRINK
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_WRITE)
    .union(SealFlag::F_SEAL_SEAL);

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
/// # Errors
/// When the seals cannot be added.
pub fn seal(file: &impl AsFd) -> std::io::Result<()> {
    fcntl(file, FcntlArg::F_ADD_SEALS(IMMUTABLE))?;
    Ok(())
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

/// A sealed file that holds `bytes`, positioned at its start.
///
/// # Errors
/// When the kernel has no descriptor or memory to give.
pub fn sealed(name: &str, bytes: &[u8]) -> std::io::Result<OwnedFd> {
    use std::io::Seek;
    let mut file = create(name)?;
    file.write_all(bytes)?;
    file.rewind()?;
    seal(&file)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_file_refuses_writes() {
        let fd = sealed("test", b"abc").unwrap();
        assert!(is_sealed(&fd).unwrap());
        let refused = File::from(fd).write_all(b"x").unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
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
