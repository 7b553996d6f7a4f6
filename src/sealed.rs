//! Files in memory that nobody can change any more: how large modules, inputs and outputs travel beside frames.
//!
//! Owns: what a descriptor has to be before its content is relied on, and reading that content.
//! Never: maps a file, believes a length that somebody says, moves a position that another process shares.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::SealFlag;
use nix::sys::stat::{SFlag, fstat};
use stockade_sys::memfd;

/// Why a descriptor is not taken.
#[derive(Debug, thiserror::Error)]
pub enum NotSealed {
    /// It is something else altogether.
    #[error("is a {0}; send a sealed file in memory (memfd_create), or the bytes in the frame")]
    Kind(&'static str),
    /// It is a file, but not one that can be sealed.
    #[error(
        "is no file in memory that can be sealed (memfd_create with MFD_ALLOW_SEALING); or send the bytes in the frame"
    )]
    NotInMemory,
    /// Its content or its length could still change.
    #[error("lacks {0}: add the seals before it is sent, or send the bytes in the frame")]
    Unsealed(String),
    /// It is larger than what it is for may be.
    #[error("has {bytes} bytes; at most {max} are taken")]
    TooLarge {
        /// Its length.
        bytes: u64,
        /// What is taken.
        max: u64,
    },
    /// It could not be looked at or opened for reading.
    #[error("cannot be read here: {0}; leave its mode as memfd_create made it")]
    Unreadable(#[source] io::Error),
}

/// A file in memory with a fixed content, open for reading, at a position that no other process can move.
#[derive(Debug)]
pub struct SealedFile {
    file: File,
    bytes: u64,
}

impl SealedFile {
    /// Takes a descriptor that somebody else made, if it is a file in memory that is sealed against writing, shrinking
    /// and growing and has at most `bytes_max` bytes. Looks at what the kernel says of it, reads nothing, and opens it
    /// anew, so that whoever sent it can neither write through it nor move its position. Does not block.
    ///
    /// # Errors
    /// What it is instead.
    pub fn examine(fd: &OwnedFd, bytes_max: u64) -> Result<Self, NotSealed> {
        let unreadable = |errno: Errno| NotSealed::Unreadable(errno.into());
        if let Some(kind) = other_than_file(SFlag::from_bits_truncate(fstat(fd).map_err(unreadable)?.st_mode))
        {
            return Err(NotSealed::Kind(kind));
        }
        let seals = memfd::seals(fd).map_err(|_| NotSealed::NotInMemory)?;
        let missing = memfd::FIXED - seals;
        if missing == memfd::FIXED && seals.contains(SealFlag::F_SEAL_SEAL) {
            // Any file of a tmpfs answers so: it has one seal, against being sealed.
            return Err(NotSealed::NotInMemory);
        }
        if !missing.is_empty() {
            let names: Vec<_> = missing.iter_names().map(|(name, _)| name).collect();
            return Err(NotSealed::Unsealed(names.join(", ")));
        }
        // Only now: before the seals were seen, it could still have grown.
        let bytes = u64::try_from(fstat(fd).map_err(unreadable)?.st_size).unwrap_or(0);
        if bytes > bytes_max {
            return Err(NotSealed::TooLarge { bytes, max: bytes_max });
        }
        let file = memfd::reopen(fd).map_err(NotSealed::Unreadable)?.into();
        Ok(Self { file, bytes })
    }

    /// Seals `file`, which nobody may have mapped writably, against every change. Blocks as [`memfd::seal`] does.
    ///
    /// # Errors
    /// When it cannot be sealed, its length not be read, or it cannot be opened for reading.
    pub fn seal(file: &File) -> io::Result<Self> {
        memfd::seal(file)?;
        let bytes = file.metadata()?.len();
        Ok(Self { file: memfd::reopen(file)?.into(), bytes })
    }

    /// A new one that holds `content`. `name` shows in `/proc/PID/fd` alone. Blocks as
    /// [`memfd::seal`] does.
    ///
    /// # Errors
    /// When the kernel has no descriptor or memory to give.
    pub fn holding(name: &str, content: &[u8]) -> io::Result<Self> {
        Ok(Self { file: File::from(memfd::sealed(name, content)?), bytes: content.len() as u64 })
    }

    /// Its length.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its first bytes, or those from `offset` on, as many as fit into `buffer`; how many those were, and 0 at the end.
    ///
    /// # Errors
    /// When the kernel cannot read them back, from swap for example.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    /// All of it.
    ///
    /// # Errors
    /// As for [`SealedFile::read_at`].
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let length = usize::try_from(self.bytes).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut content = vec![0; length];
        self.file.read_exact_at(&mut content, 0)?;
        Ok(content)
    }

    /// One that cannot be read, whatever it claims to have.
    #[cfg(test)]
    pub(crate) fn unreadable(bytes: u64) -> Self {
        Self { file: File::options().write(true).open("/dev/null").unwrap(), bytes }
    }

    /// Another descriptor for it, for reading, with a position of its own.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn reopen(&self) -> io::Result<OwnedFd> {
        memfd::reopen(&self.file)
    }
}

impl AsFd for SealedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl From<SealedFile> for OwnedFd {
    fn from(sealed: SealedFile) -> Self {
        sealed.file.into()
    }
}

/// What a descriptor is, unless it is a file.
fn other_than_file(kind: SFlag) -> Option<&'static str> {
    match kind & SFlag::S_IFMT {
        SFlag::S_IFREG => None,
        SFlag::S_IFDIR => Some("directory"),
        SFlag::S_IFIFO => Some("pipe"),
        SFlag::S_IFSOCK => Some("socket"),
        SFlag::S_IFCHR => Some("device or terminal"),
        SFlag::S_IFBLK => Some("block device"),
        SFlag::S_IFLNK => Some("symbolic link"),
        // What has no type at all: event counters, pidfds and the like.
        _ => Some("descriptor of another kind"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, SeekFrom, Write};

    use nix::fcntl::{FcntlArg, fcntl};

    use super::*;

    fn in_memory(content: &[u8], seals: SealFlag) -> File {
        let mut file = memfd::create("test").unwrap();
        file.write_all(content).unwrap();
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
        file
    }

    fn examined(file: impl Into<OwnedFd>, bytes_max: u64) -> Result<SealedFile, String> {
        SealedFile::examine(&file.into(), bytes_max).map_err(|error| error.to_string())
    }

    #[test]
    fn file_with_the_three_seals_is_taken_and_read() {
        for seals in [memfd::FIXED, memfd::IMMUTABLE] {
            let sealed = examined(in_memory(b"content", seals), 7).unwrap();
            assert_eq!((sealed.bytes(), sealed.read().unwrap()), (7, b"content".to_vec()));
            let mut buffer = [0; 4];
            assert_eq!(sealed.read_at(&mut buffer, 5).unwrap(), 2);
            assert_eq!(&buffer[..2], b"nt");
        }
        assert_eq!(examined(in_memory(b"", memfd::FIXED), 0).unwrap().bytes(), 0);
    }

    #[test]
    fn file_without_any_one_of_the_seals_is_refused_by_that_name() {
        let all = [SealFlag::F_SEAL_SHRINK, SealFlag::F_SEAL_GROW, SealFlag::F_SEAL_WRITE];
        for missing in all {
            let error = examined(in_memory(b"content", memfd::FIXED - missing), 100).unwrap_err();
            let (name, _) = missing.iter_names().next().unwrap();
            assert!(error.starts_with(&format!("lacks {name}: ")), "{error}");
        }
        let error = examined(in_memory(b"content", SealFlag::empty()), 100).unwrap_err();
        assert!(error.contains("F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE"), "{error}");
        // Not to be written any more, but for whoever mapped it before.
        let future = (memfd::FIXED - SealFlag::F_SEAL_WRITE) | SealFlag::from_bits_retain(0x10);
        assert!(examined(in_memory(b"content", future), 100).unwrap_err().contains("F_SEAL_WRITE"));
    }

    #[test]
    fn file_larger_than_its_limit_is_refused() {
        let error = examined(in_memory(b"content", memfd::FIXED), 6).unwrap_err();
        assert_eq!(error, "has 7 bytes; at most 6 are taken");
        let sparse = memfd::create("test").unwrap();
        sparse.set_len(1 << 40).unwrap();
        fcntl(&sparse, FcntlArg::F_ADD_SEALS(memfd::FIXED)).unwrap();
        assert!(examined(sparse, 1 << 24).unwrap_err().starts_with("has 1099511627776 bytes"));
    }

    #[test]
    fn what_is_no_file_in_memory_is_refused_by_what_it_is() {
        let (pipe, _writer) = std::io::pipe().unwrap();
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let open = |path: &str| File::open(path).unwrap();
        let pidfd = stockade_sys::pidfd::open(std::process::id()).unwrap();
        let disk = tempfile::tempfile().unwrap();
        let cases: [(OwnedFd, &str); 7] = [
            (pipe.into(), "is a pipe"),
            (socket.into(), "is a socket"),
            (open("/").into(), "is a directory"),
            (open("/dev/null").into(), "is a device"),
            (disk.into(), "is no file in memory"),
            (open("/proc/self/status").into(), "is no file in memory"),
            (pidfd, "is"),
        ];
        for (fd, said) in cases {
            let error = examined(fd, 100).unwrap_err();
            assert!(error.starts_with(said), "{error}");
        }
        if let Ok(shared) = tempfile::tempfile_in("/dev/shm") {
            assert!(examined(shared, 100).unwrap_err().starts_with("is no file in memory"));
        } else {
            println!("not run: /dev/shm");
        }
    }

    #[test]
    fn taken_file_has_a_position_of_its_own_and_cannot_be_written() {
        let mut theirs = in_memory(b"content", memfd::FIXED);
        let sealed = SealedFile::examine(&theirs.try_clone().unwrap().into(), 100).unwrap();
        let mut ours = File::from(OwnedFd::from(sealed));
        theirs.seek(SeekFrom::Start(3)).unwrap();
        let mut text = String::new();
        ours.read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        assert!(ours.write_all(b"x").is_err());
        assert!(theirs.write_all(b"x").is_err());
        assert!(theirs.set_len(3).is_err() && theirs.set_len(30).is_err());
    }
}
