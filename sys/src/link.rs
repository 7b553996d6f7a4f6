//! Packets with descriptors over `SOCK_SEQPACKET` Unix sockets.
//!
//! Owns: making such a pair, sending and receiving one packet.
//! Never: interprets a packet, waits for readiness, keeps a descriptor it was not told to expect.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socketpair};

use crate::rights;

/// Why a packet could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The system call failed; `EAGAIN` means not ready on a non-blocking socket.
    #[error("{call} on a link failed")]
    System {
        /// The system call.
        call: &'static str,
        /// What the kernel said.
        #[source]
        errno: Errno,
    },
    /// The packet was larger than the buffer; it is lost and the peer is not to be trusted.
    #[error("packet on a link is larger than {max} bytes")]
    Truncated {
        /// The buffer's size.
        max: usize,
    },
    /// More descriptors came than were expected; all are closed.
    #[error("packet on a link carries more than {max} descriptors")]
    TooManyFds {
        /// How many were expected at most.
        max: usize,
    },
    /// Only part of a packet was sent, which `SOCK_SEQPACKET` rules out.
    #[error("only {sent} of {length} bytes of a packet were sent")]
    Partial {
        /// Bytes sent.
        sent: usize,
        /// Bytes meant to be sent.
        length: usize,
    },
}

impl LinkError {
    /// Whether trying again after the socket becomes ready is the right answer.
    #[must_use]
    pub fn would_block(&self) -> bool {
        matches!(self, Self::System { errno: Errno::EAGAIN, .. })
    }
}

/// One packet as it came.
#[derive(Debug)]
pub struct Received {
    /// Bytes of the packet; 0 means the peer is gone.
    pub length: usize,
    /// The descriptors that came with it, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// Two connected `SOCK_SEQPACKET` sockets, both close-on-exec and blocking.
///
/// # Errors
/// When the kernel has no descriptor or memory to give.
pub fn pair() -> Result<(OwnedFd, OwnedFd), LinkError> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .map_err(|errno| LinkError::System { call: "socketpair", errno })
}

/// Sends `packet` and copies of `fds` as one packet. Blocks only if the socket does. Never raises `SIGPIPE`.
///
/// # Errors
/// When the peer is gone (`EPIPE`), the socket is full (`EAGAIN`) or the packet too large (`EMSGSIZE`).
pub fn send(link: BorrowedFd<'_>, packet: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), LinkError> {
    let sent =
        rights::send(link, packet, fds).map_err(|errno| LinkError::System { call: "sendmsg", errno })?;
    if sent != packet.len() {
        return Err(LinkError::Partial { sent, length: packet.len() });
    }
    Ok(())
}

/// Receives one packet into `buffer` with at most `fds_max` descriptors, of which there may be [`rights::FDS_MAX`]. Blocks only if the socket does.
///
/// # Errors
/// When the packet does not fit, more descriptors came than expected (whatever came is closed), or the
/// system call fails.
pub fn receive(link: BorrowedFd<'_>, buffer: &mut [u8], fds_max: usize) -> Result<Received, LinkError> {
    to_the_end(|| receive_once(link, buffer, fds_max))
}

/// Asks a second time where the first time says that the peer is gone. The kernel looks for a packet first and for the end
/// second, and locks nothing in between (`unix_dgram_recvmsg`): of a peer that sends and closes just then it tells the end,
/// although its packet is there. A hundred of a million did when both happened at once. Nothing can come after the end, so
/// that the second answer holds.
fn to_the_end(mut receive: impl FnMut() -> Result<Received, LinkError>) -> Result<Received, LinkError> {
    let first = receive()?;
    if first.length > 0 {
        return Ok(first);
    }
    match receive() {
        // The peer lives, and sent an empty packet: to whoever receives it, that is its end.
        Err(error) if error.would_block() => Ok(first),
        second => second,
    }
}

fn receive_once(link: BorrowedFd<'_>, buffer: &mut [u8], fds_max: usize) -> Result<Received, LinkError> {
    let max = buffer.len();
    let received = rights::receive(link, buffer, fds_max)
        .map_err(|errno| LinkError::System { call: "recvmsg", errno })?;
    if received.more_bytes {
        return Err(LinkError::Truncated { max });
    }
    if received.more_fds {
        return Err(LinkError::TooManyFds { max: fds_max });
    }
    Ok(Received { length: received.length, fds: received.fds })
}

/// Copies the next packet into `buffer` and leaves it where it is; with its length, 0 when the peer is gone. To be asked of
/// a link whose next packet carries no descriptors. Blocks only if the socket does.
///
/// # Errors
/// When the packet does not fit, or the system call fails.
pub fn peek(link: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, LinkError> {
    loop {
        // MSG_TRUNC: the length is the packet's, also where it is more than the buffer's.
        match recv(link.as_raw_fd(), buffer, MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC) {
            Ok(length) if length > buffer.len() => return Err(LinkError::Truncated { max: buffer.len() }),
            Ok(length) => return Ok(length),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(LinkError::System { call: "recv", errno }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    use super::*;

    #[test]
    fn packet_with_descriptor_arrives_whole() {
        let (a, b) = pair().unwrap();
        let (c, _d) = pair().unwrap();
        send(a.as_fd(), b"hello", &[c.as_fd()]).unwrap();
        let mut buffer = [0; 16];
        let got = receive(b.as_fd(), &mut buffer, 1).unwrap();
        assert_eq!((&buffer[..got.length], got.fds.len()), (&b"hello"[..], 1));
    }

    #[test]
    fn packet_larger_than_buffer_is_refused() {
        let (a, b) = pair().unwrap();
        send(a.as_fd(), &[7; 64], &[]).unwrap();
        let refused = receive(b.as_fd(), &mut [0; 16], 0).unwrap_err();
        assert!(matches!(refused, LinkError::Truncated { max: 16 }));
    }

    #[test]
    fn unexpected_descriptors_are_refused_and_closed() {
        let (a, b) = pair().unwrap();
        let (c, d) = pair().unwrap();
        send(a.as_fd(), b"x", &[c.as_fd()]).unwrap();
        drop(c);
        let refused = receive(b.as_fd(), &mut [0; 16], 0).unwrap_err();
        assert!(matches!(refused, LinkError::TooManyFds { max: 0 }));
        // The last copy of `c` was the one in flight: its peer now reads the end of the stream.
        assert_eq!(receive(d.as_fd(), &mut [0; 16], 0).unwrap().length, 0);
    }

    #[test]
    fn packet_that_was_peeked_at_is_still_there() {
        let (a, b) = pair().unwrap();
        send(a.as_fd(), b"hello", &[]).unwrap();
        let mut buffer = [0; 5];
        assert_eq!(peek(b.as_fd(), &mut buffer).unwrap(), 5);
        assert_eq!(&buffer, b"hello");
        assert!(matches!(peek(b.as_fd(), &mut [0; 4]), Err(LinkError::Truncated { max: 4 })));
        assert_eq!(receive(b.as_fd(), &mut buffer, 0).unwrap().length, 5);
        drop(a);
        assert_eq!(peek(b.as_fd(), &mut buffer).unwrap(), 0);
    }

    #[test]
    fn gone_peer_reads_as_an_empty_packet() {
        let (a, b) = pair().unwrap();
        drop(a);
        assert_eq!(receive(b.as_fd(), &mut [0; 16], 0).unwrap().length, 0);
    }

    #[test]
    fn end_is_believed_when_it_is_told_twice_and_what_comes_after_the_first_time_is_not_lost() {
        let packet = |length| Ok(Received { length, fds: Vec::new() });
        let failed = |errno| Err(LinkError::System { call: "recvmsg", errno });
        let cases = [
            (vec![packet(7)], Ok(7)),
            (vec![packet(0), packet(7)], Ok(7)),
            (vec![packet(0), packet(0)], Ok(0)),
            (vec![packet(0), failed(Errno::EAGAIN)], Ok(0)),
            // It went away with something unread, and what it had sent comes after that.
            (vec![packet(0), failed(Errno::ECONNRESET)], Err(Errno::ECONNRESET)),
            (vec![failed(Errno::EAGAIN)], Err(Errno::EAGAIN)),
        ];
        for (nth, (answers, expected)) in cases.into_iter().enumerate() {
            let mut answers = answers.into_iter();
            let outcome = to_the_end(|| answers.next().unwrap());
            let outcome = outcome.map(|received| received.length).map_err(|error| match error {
                LinkError::System { errno, .. } => errno,
                other => panic!("{other}"),
            });
            assert_eq!((outcome, answers.next().is_none()), (expected, true), "case {nth}");
        }
    }

    /// The kernel tells the end before the packet now and then, where the two processors meet.
    #[test]
    fn packet_of_a_peer_that_closes_at_once_is_never_lost() {
        const PEERS: usize = 20_000;
        let (hand_over, peers) = std::sync::mpsc::sync_channel::<OwnedFd>(0);
        let sender = std::thread::spawn(move || {
            for peer in peers {
                send(peer.as_fd(), b"last words", &[]).unwrap();
            }
        });
        for nth in 0..PEERS {
            let (ours, theirs) = pair().unwrap();
            fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK)).unwrap();
            hand_over.send(theirs).unwrap();
            let received = loop {
                match receive(ours.as_fd(), &mut [0; 16], 0) {
                    Err(error) if error.would_block() => {}
                    received => break received.unwrap(),
                }
            };
            assert_eq!(received.length, b"last words".len(), "peer {nth}");
        }
        drop(hand_over);
        sender.join().unwrap();
    }
}
