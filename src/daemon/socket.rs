//! The daemon's socket, made in the file system or handed to it.
//!
//! Owns: the socket's path, its permissions, and the lock that keeps a second daemon away.
//! Never: removes what is not a dead socket, follows a symbolic link, accepts a connection.
//!
//! Beside the socket `NAME` lies `NAME.lock`, held with `flock` for as long as the daemon lives; the kernel
//! lets go of it however the daemon ends. Whoever holds it may replace a socket that nobody listens on.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};

/// Permissions of a runtime directory made here.
const DIRECTORY_MODE: u32 = 0o750;

/// How often the lock is tried anew when its file was replaced under our hands.
const LOCK_ATTEMPTS: u32 = 8;

/// Longest process id read from a lock file, bytes.
const PID_BYTES_MAX: u64 = 16;

/// Why there is no socket to serve on.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The directory is not there and cannot be made.
    #[error("cannot make the runtime directory {}: make it, or name another socket with --socket", .0.display())]
    MakeDirectory(PathBuf, #[source] io::Error),
    /// The path's parent is no directory, or one in which anybody may replace the socket.
    #[error("{} cannot hold the socket: it has to be a directory that only its owner or group may write to, \
             or one with the sticky bit", .0.display())]
    UnsafeDirectory(PathBuf),
    /// Another daemon has the lock.
    #[error("a stockade daemon{} already serves {}: stop it, or name another socket with --socket",
            .pid.as_ref().map(|pid| format!(" (pid {pid})")).unwrap_or_default(), .path.display())]
    AlreadyServed {
        /// The socket.
        path: PathBuf,
        /// Its process id, as its lock file says.
        pid: Option<u32>,
    },
    /// The lock file cannot be opened or locked.
    #[error("cannot lock {}: is it another user's?", .0.display())]
    Lock(PathBuf, #[source] io::Error),
    /// Something that is not a daemon of ours listens there.
    #[error("another program listens on {}: stop it, or name another socket with --socket", .0.display())]
    ForeignListener(PathBuf),
    /// Something that is not a socket lies there.
    #[error("{} exists and is {what}, not a socket; it is left alone: move it away, or name another socket \
             with --socket", .path.display())]
    NotASocket {
        /// The socket's path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The path does not fit in a socket address.
    #[error("the path {} is too long for a socket (108 bytes): name a shorter one with --socket", .0.display())]
    PathTooLong(PathBuf),
    /// A system call on the path failed.
    #[error("cannot {operation} {}", .path.display())]
    System {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
}

/// The right to listen at a path, which no other daemon has while this is there.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    address: UnixAddr,
    lock: Lock,
}

/// A socket that is listened on, and the right to do so.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// What is in the file system because of us. Nothing, of a socket that was handed to this process: who made it
    /// sees to its name, and to it that no two daemons have it.
    ours: Option<(SocketFile, Lock)>,
}

/// The socket in the file system; removed when dropped, if it is still the same one.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// The lock beside the socket; its file is removed when dropped, while the lock is still held.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Claim {
    /// Takes the lock beside `path`. Makes the directory of `path` if only that is missing. Blocks on the file system
    /// alone.
    ///
    /// # Errors
    /// When another daemon serves the path, or the file system refuses.
    pub fn take(path: &Path) -> Result<Self, SocketError> {
        let address = UnixAddr::new(path).map_err(|_| SocketError::PathTooLong(path.into()))?;
        prepare_directory(path)?;
        Ok(Self { path: path.into(), address, lock: Lock::take(path)? })
    }

    /// Replaces a socket that nobody listens on, and listens with permission bits `mode`. Blocks on the file system alone.
    ///
    /// # Errors
    /// When something else is in its place, or the file system refuses.
    pub fn listen(self, mode: u32) -> Result<Listener, SocketError> {
        let Self { path, address, lock } = self;
        let path = path.as_path();
        clear_stale(path, &address)?;
        let failed = |operation| {
            move |source: Errno| SocketError::System { operation, path: path.into(), source: source.into() }
        };
        let socket = unconnected().map_err(failed("make a socket for"))?;
        socket::bind(socket.as_raw_fd(), &address).map_err(failed("bind"))?;
        let file = SocketFile::seen(path)?;
        // Nobody can connect before `listen`, so nobody can before the permissions are right.
        fs::set_permissions(path, Permissions::from_mode(mode)).map_err(|source| SocketError::System {
            operation: "set the permissions of",
            path: path.into(),
            source,
        })?;
        socket::listen(&socket, Backlog::MAXCONN).map_err(failed("listen on"))?;
        Ok(Listener { socket: UnixListener::from(socket), path: path.into(), ours: Some((file, lock)) })
    }
}

impl Listener {
    /// Claims `path` and listens there, with nothing to be seen to in between.
    ///
    /// # Errors
    /// Those of [`Claim::take`] and [`Claim::listen`].
    pub fn bind(path: &Path, mode: u32) -> Result<Self, SocketError> {
        Claim::take(path)?.listen(mode)
    }

    /// One that this process was started with, and that is listened on at `path` already.
    pub(super) const fn handed(socket: UnixListener, path: PathBuf) -> Self {
        Self { socket, path, ours: None }
    }

    /// Where clients find it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The socket and its lock in the file system.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let lock = self.ours.as_ref().map(|(_, lock)| lock.path.clone());
        std::iter::once(self.path.clone()).chain(lock).collect()
    }

    /// The listening socket and its name in the file system, to be let go of first, and the lock, to be kept
    /// until the daemon is over. No name and no lock where neither is ours.
    pub(super) fn into_parts(self) -> (UnixListener, Option<SocketFile>, Option<Lock>) {
        let (file, lock) = self.ours.unzip();
        (self.socket, file, lock)
    }
}

impl SocketFile {
    fn seen(path: &Path) -> Result<Self, SocketError> {
        let found = fs::symlink_metadata(path).map_err(|source| SocketError::System {
            operation: "look at",
            path: path.into(),
            source,
        })?;
        Ok(Self { path: path.into(), device: found.dev(), inode: found.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| found.dev() == self.device && found.ino() == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

impl Lock {
    fn take(socket: &Path) -> Result<Self, SocketError> {
        let mut name = socket.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        let failed = |source| SocketError::Lock(path.clone(), source);
        for _ in 0..LOCK_ATTEMPTS {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
                .open(&path)
                .map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(SocketError::AlreadyServed {
                        path: socket.into(),
                        pid: written_pid(&mut file),
                    });
                }
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
            // A daemon that was just stopping may have removed the file between our opening and locking it.
            let held = file.metadata().map_err(failed)?;
            let same = fs::symlink_metadata(&path)
                .is_ok_and(|named| named.dev() == held.dev() && named.ino() == held.ino());
            if same {
                write_pid(&mut file).map_err(failed)?;
                return Ok(Self { path, _file: file });
            }
        }
        Err(failed(io::Error::from(io::ErrorKind::ResourceBusy)))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed while it is held: whoever opens the name from now on makes a new file.
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the lock file");
        }
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "{}", std::process::id())
}

fn written_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(PID_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.parse().ok()
}

/// Makes the socket's directory if it is missing, and refuses one in which others could replace the socket.
fn prepare_directory(path: &Path) -> Result<(), SocketError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    match DirBuilder::new().mode(DIRECTORY_MODE).create(directory) {
        Ok(()) => tracing::info!(path = %directory.display(), "made the runtime directory"),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(SocketError::MakeDirectory(directory.into(), error)),
    }
    let found = fs::metadata(directory).map_err(|source| SocketError::System {
        operation: "look at",
        path: directory.into(),
        source,
    })?;
    const WRITABLE_BY_OTHERS: u32 = 0o002;
    const STICKY: u32 = 0o1000;
    let exposed = found.mode() & WRITABLE_BY_OTHERS != 0 && found.mode() & STICKY == 0;
    if !found.is_dir() || exposed {
        return Err(SocketError::UnsafeDirectory(directory.into()));
    }
    Ok(())
}

/// Removes a socket that nobody listens on. Call with the lock held.
fn clear_stale(path: &Path, address: &UnixAddr) -> Result<(), SocketError> {
    let failed = |operation| move |source| SocketError::System { operation, path: path.into(), source };
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(failed("look at"))?.file_type(),
    };
    if !found.is_socket() {
        let what = match found {
            kind if kind.is_symlink() => "a symbolic link",
            kind if kind.is_dir() => "a directory",
            _ => "a file",
        };
        return Err(SocketError::NotASocket { path: path.into(), what });
    }
    let probe = unconnected().map_err(|errno| failed("make a socket for")(errno.into()))?;
    match socket::connect(probe.as_raw_fd(), address) {
        Err(Errno::ECONNREFUSED) => fs::remove_file(path).map_err(failed("remove the dead socket"))?,
        Err(Errno::ENOENT) => {}
        // EAGAIN: somebody listens, with a full backlog.
        Ok(()) | Err(Errno::EAGAIN) => return Err(SocketError::ForeignListener(path.into())),
        Err(errno) => return Err(failed("find out whether anybody listens on")(errno.into())),
    }
    Ok(())
}

fn unconnected() -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)
}
