//! Descriptors that travel with bytes over a Unix socket (`SCM_RIGHTS`).
//!
//! Owns: sending bytes with copies of descriptors, receiving them with room for no more than were announced.
//! Never: leaves a descriptor that came without an owner, whatever else went wrong; waits for readiness.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// Most descriptors that can be received at once.
pub const FDS_MAX: usize = 20;

/// Bytes of a control message before its descriptors: `struct cmsghdr` of 64-bit Linux.
const HEADER_BYTES: usize = 16;

/// What came with one `recvmsg`.
#[derive(Debug)]
pub struct Received {
    /// Bytes received; 0 is the end.
    pub length: usize,
    /// The descriptors that came and had room, close-on-exec.
    pub fds: Vec<OwnedFd>,
    /// There were more descriptors than room (`MSG_CTRUNC`). The kernel has closed those.
    pub more_fds: bool,
    /// There were more bytes in the packet than room (`MSG_TRUNC`). They are lost.
    pub more_bytes: bool,
}

/// Where control messages are received, aligned as the kernel wants them.
#[repr(C, align(8))]
struct Control([u8; HEADER_BYTES + FDS_MAX * size_of::<RawFd>()]);

/// Sends `bytes` with copies of `fds` by one `sendmsg`; how many bytes went out, of which the first carries the
/// descriptors. Blocks only if the socket does. Never raises `SIGPIPE`.
///
/// # Errors
/// What the kernel says: `EPIPE` when the peer is gone, `EAGAIN` when a non-blocking socket is full.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize, Errno> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    loop {
        let slices = [IoSlice::new(bytes)];
        match sendmsg::<()>(socket.as_raw_fd(), &slices, control, MsgFlags::MSG_NOSIGNAL, None) {
            Err(Errno::EINTR) => {}
            done => return done,
        }
    }
}

/// Receives into `buffer` by one `recvmsg`, with room for exactly `room` descriptors, at most [`FDS_MAX`]: with none,
/// the kernel closes whatever came and [`Received::more_fds`] says so. Blocks only if the socket does.
///
/// # Errors
/// What the kernel says: `EAGAIN` when a non-blocking socket has nothing.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], room: usize) -> Result<Received, Errno> {
    let mut control = Control([0; HEADER_BYTES + FDS_MAX * size_of::<RawFd>()]);
    let mut slices = [IoSliceMut::new(buffer)];
    let mut message = nothing();
    message.msg_iov = slices.as_mut_ptr().cast();
    message.msg_iovlen = slices.len();
    if room > 0 {
        message.msg_control = control.0.as_mut_ptr().cast();
        // Without the padding up to the next control message, which would be room for one more.
        message.msg_controllen = HEADER_BYTES + room.min(FDS_MAX) * size_of::<RawFd>();
    }
    let length = loop {
        // SAFETY: `recvmsg(2)` writes through the pointers of `message`: at most as many bytes as `slices` says are
        // `buffer`'s, whose layout is that of `iovec` (documented of `IoSliceMut`), and at most `msg_controllen`,
        // which is no more than `control` has. All three live until after the call.
        let done = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        match Errno::result(done) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
            Ok(length) => break usize::try_from(length).unwrap_or(0),
        }
    };
    let came = control.0.get(..message.msg_controllen).unwrap_or_default();
    let fds = descriptors_in(came)
        .into_iter()
        // SAFETY: `from_raw_fd` wants open descriptors that nobody else owns. The kernel installed these in this
        // process for the call above, named each once, and `descriptors_in` names each it wrote once.
        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
        .collect();
    Ok(Received {
        length,
        fds,
        more_fds: message.msg_flags & libc::MSG_CTRUNC != 0,
        more_bytes: message.msg_flags & libc::MSG_TRUNC != 0,
    })
}

/// A message without an address, bytes or control messages.
fn nothing() -> libc::msghdr {
    // SAFETY: `msghdr` is a C structure of integers and pointers, for which all zeroes are values: null and 0.
    unsafe { std::mem::zeroed() }
}

/// The descriptors in received control messages. Only the kernel writes these, and only for what `receive` gave room.
fn descriptors_in(mut control: &[u8]) -> Vec<RawFd> {
    let mut fds = Vec::new();
    while let Some((header, _)) = control.split_first_chunk::<HEADER_BYTES>() {
        let [length @ .., _, _, _, _, _, _, _, _] = *header;
        let [_, _, _, _, _, _, _, _, a, b, c, d, e, f, g, h] = *header;
        let length = usize::from_ne_bytes(length);
        let (level, kind) = (i32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes([e, f, g, h]));
        let Some(content) = control.get(HEADER_BYTES..length) else { break };
        if (level, kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            fds.extend(content.as_chunks().0.iter().map(|bytes| RawFd::from_ne_bytes(*bytes)));
        }
        control = control.get(length.next_multiple_of(size_of::<usize>())..).unwrap_or_default();
    }
    fds
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Sockets whose closing can be seen at their other ends.
    fn witnesses<const N: usize>() -> ([UnixStream; N], [UnixStream; N]) {
        let pairs: [_; N] = std::array::from_fn(|_| UnixStream::pair().unwrap());
        let theirs = std::array::from_fn(|nth| pairs[nth].1.try_clone().unwrap());
        (pairs.map(|(ours, _)| ours), theirs)
    }

    fn is_closed(witness: &mut UnixStream) -> bool {
        witness.set_nonblocking(true).unwrap();
        matches!(witness.read(&mut [0]), Ok(0))
    }

    #[test]
    fn descriptors_arrive_in_order_and_no_more_of_them_than_there_is_room_for() {
        for (sent, room) in (0..=FDS_MAX + 2).flat_map(|sent| (0..=FDS_MAX).map(move |room| (sent, room))) {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let (gifts, mut witnesses) = witnesses::<{ FDS_MAX + 2 }>();
            let fds: Vec<_> = gifts[..sent].iter().map(AsFd::as_fd).collect();
            assert_eq!(send(ours.as_fd(), b"bytes", &fds), Ok(5));
            let mut buffer = [0; 16];
            let received = receive(theirs.as_fd(), &mut buffer, room).unwrap();
            assert_eq!(&buffer[..received.length], b"bytes");
            assert_eq!(received.fds.len(), sent.min(room), "{sent} sent, room for {room}");
            assert_eq!(received.more_fds, sent > room, "{sent} sent, room for {room}");
            drop(gifts);
            for (nth, fd) in received.fds.iter().enumerate() {
                nix::unistd::write(fd, &[7]).unwrap();
                assert_eq!(witnesses[nth].read(&mut [0]).unwrap(), 1, "the {nth}th is the {nth}th sent");
            }
            drop(received);
            for witness in &mut witnesses {
                assert!(is_closed(witness), "{sent} sent, room for {room}: one is still open");
            }
        }
    }

    #[test]
    fn descriptors_come_with_the_first_of_their_bytes() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let ([gift], _) = witnesses::<1>();
        ours.write_all(b"before").unwrap();
        assert_eq!(send(ours.as_fd(), b"with", &[gift.as_fd()]), Ok(4));
        ours.write_all(b"after").unwrap();
        let receive = |bytes| {
            let mut buffer = vec![0; bytes];
            let received = receive(theirs.as_fd(), &mut buffer, 1).unwrap();
            (String::from_utf8(buffer[..received.length].to_vec()).unwrap(), received.fds.len())
        };
        assert_eq!(receive(6), ("before".to_owned(), 0));
        assert_eq!(receive(1), ("w".to_owned(), 1));
        assert_eq!(receive(3), ("ith".to_owned(), 0));
        assert_eq!(receive(9), ("after".to_owned(), 0));
    }

    #[test]
    fn gone_peer_reads_as_nothing() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(ours);
        let received = receive(theirs.as_fd(), &mut [0; 4], 2).unwrap();
        assert_eq!((received.length, received.fds.len()), (0, 0));
    }
}
