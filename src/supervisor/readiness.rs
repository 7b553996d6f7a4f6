//! Waiting until a descriptor is ready.
//!
//! Owns: the calls that register a descriptor with the runtime.
//! Never: reads, writes or closes one.

use std::ops::Deref;
use std::os::fd::{AsRawFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers `fd` with the current Tokio runtime.
///
/// # Errors
/// When the kernel refuses it (no memory, or a kind of file that is always ready).
#[expect(
    deprecated,
    reason = "deprecated for types that may close or change their descriptor while registered, which an OwnedFd \
              cannot; its successor is unsafe, and this crate forbids unsafe code"
)]
pub(crate) fn watch(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}

/// The same of a descriptor that stays in use beside it.
///
/// # Errors
/// As for [`watch`].
#[expect(deprecated, reason = "as for `watch`")]
pub(crate) fn watch_shared<P>(fd: P) -> std::io::Result<AsyncFd<P>>
where
    P: Deref<Target = OwnedFd> + AsRawFd,
{
    AsyncFd::with_interest(fd, Interest::READABLE)
}

/// Registers `fd` with the current Tokio runtime for room to write, and nothing else.
///
/// # Errors
/// As for [`watch`].
#[expect(deprecated, reason = "as for `watch`")]
pub(crate) fn watch_writable(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::WRITABLE)
}

/// Registers `fd` with the current Tokio runtime for what the kernel marks as urgent (`POLLPRI`), and nothing else.
///
/// # Errors
/// As for [`watch`].
#[expect(deprecated, reason = "as for `watch`")]
pub(crate) fn watch_priority(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::PRIORITY)
}
