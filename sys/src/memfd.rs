//! Anonymous files in memory, and their seals.
//!
//! Owns: creating, filling and sealing them.
//! Never: says what is in them.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// The seals of a file nobody can change any more, not even by adding or removing seals.
pub const IMMUTABLE: SealFlag = SealFlag::F_SEAL_SHRINK
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_WRITE)
    .union(SealFlag::F_SEAL_SEAL);

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
    let seals = fcntl(file, FcntlArg::F_GET_SEALS)?;
    Ok(SealFlag::from_bits_truncate(seals).contains(IMMUTABLE))
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
    fn unsealed_file_is_told_apart() {
        assert!(!is_sealed(&create("test").unwrap()).unwrap());
    }
}
