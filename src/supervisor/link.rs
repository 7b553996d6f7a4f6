//! The supervisor's end of a zygote's control socket or a worker's link.
//!
//! Owns: waiting for readiness, one frame a packet, typed by direction.
//! Never: decides whether a message was allowed; who holds the link does.

use std::cell::RefCell;
use std::future::pending;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;
use nix::sys::socket::{Shutdown, shutdown};
use serde::Serialize;
use serde::de::DeserializeOwned;
use stockade_sys::link::{self, LinkError, Received};
use stockade_wire::frame::{self, FrameError, HEADER_BYTES};
use stockade_wire::limits::LINK_MESSAGE_BYTES_MAX;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::readiness::{watch_shared, watch_writable};

/// Why a message could not be exchanged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// The socket failed.
    #[error("link failed")]
    Socket(#[source] std::io::Error),
    /// The packet itself was wrong.
    #[error(transparent)]
    Packet(#[from] LinkError),
    /// What was in it was.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The peer is gone and has not read what it was sent. Said once, before what the peer itself had sent.
    #[error("the other end of the link went away without reading what it was sent")]
    Unread,
}

/// One end of a link that sends `S` and receives `R`.
///
/// The runtime knows of it for what there is to receive, and not for room to send: there is room for what a peer is sent,
/// and each message that one takes out would wake this process to be told so.
#[derive(Debug)]
pub(crate) struct Link<S, R> {
    socket: Rc<OwnedFd>,
    watched: RefCell<Option<Rc<AsyncFd<Rc<OwnedFd>>>>>,
    says: PhantomData<fn(S)>,
    hears: PhantomData<fn() -> R>,
}

impl<S: Serialize, R: DeserializeOwned> Link<S, R> {
    /// Takes over one end of a pair. Needs a Tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot be made non-blocking or registered.
    pub(crate) fn new(socket: OwnedFd) -> Result<Self, ExchangeError> {
        set_nonblocking(&socket).map_err(ExchangeError::Socket)?;
        let socket = Rc::new(socket);
        let watched = watch_shared(Rc::clone(&socket)).map_err(ExchangeError::Socket)?;
        let watched = RefCell::new(Some(Rc::new(watched)));
        Ok(Self { socket, watched, says: PhantomData, hears: PhantomData })
    }

    /// Sends one message with copies of `fds`. Waits while the peer's queue is full.
    ///
    /// # Errors
    /// When the peer is gone or the message too large.
    pub(crate) async fn send(&self, message: &S, fds: &[BorrowedFd<'_>]) -> Result<(), ExchangeError> {
        let packet = frame::encode(message, LINK_MESSAGE_BYTES_MAX)?;
        match link::send(self.socket.as_fd(), &packet, fds) {
            Err(error) if error.would_block() => self.send_with_room(&packet, fds).await,
            sent => Ok(sent?),
        }
    }

    /// Through a descriptor of its own, which alone is watched for room.
    async fn send_with_room(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), ExchangeError> {
        let socket = self.socket.try_clone().and_then(watch_writable).map_err(ExchangeError::Socket)?;
        socket
            .async_io(Interest::WRITABLE, |socket| retryable(link::send(socket.as_fd(), packet, fds)))
            .await
            .map_err(ExchangeError::Socket)??;
        Ok(())
    }

    /// Has the runtime know of it no longer, of whose peer nothing more is waited for: its end alone would wake this process.
    /// What it says all the same is there for [`Link::receive_now`], and [`Link::receive`] waits for ever.
    pub(crate) fn unwatch(&self) {
        self.watched.take();
    }

    /// Sends nothing more, which the peer sees. What it says is still received.
    pub(crate) fn hang_up(&self) {
        // It fails where there is no peer left to see it.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Write);
    }

    /// Receives one message and exactly the descriptors it may carry at most; `None` when the peer is gone.
    /// Dropping the future loses no message.
    ///
    /// # Errors
    /// When the packet is too large, carries too many descriptors or is no message; [`ExchangeError::Unread`] when
    /// the peer died with something of ours unread, after which there may be more to receive.
    pub(crate) async fn receive(&self, fds_max: usize) -> Result<Option<Message<R>>, ExchangeError> {
        let Some(watched) = self.watched.borrow().clone() else { return pending().await };
        let packet = watched
            .async_io(Interest::READABLE, |socket| receive_packet(socket.as_fd(), fds_max))
            .await
            .map_err(ExchangeError::Socket)?;
        decode(packet)
    }

    /// Forgets that there may be something to receive, of a link that the kernel says is empty: the next receiver waits
    /// for what comes from now on, and does not try first.
    pub(crate) fn is_empty_now(&self) {
        // Tokio knows what the kernel had told it by the last turn; an answer of "not ready" is how it is told better.
        if let Some(watched) = self.watched.borrow().as_ref() {
            let _ = watched.try_io(Interest::READABLE, |_| -> std::io::Result<()> {
                Err(std::io::ErrorKind::WouldBlock.into())
            });
        }
    }

    /// Receives a message that is already there; `None` when there is none.
    pub(crate) fn receive_now(&self, fds_max: usize) -> Option<Result<Option<Message<R>>, ExchangeError>> {
        // Past Tokio, whose idea of readiness may be older than the peer's last message.
        receive_packet(self.socket.as_fd(), fds_max).ok().map(decode)
    }
}

impl<S, R> AsFd for Link<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A message and the descriptors that came with it.
pub(crate) type Message<R> = (R, Vec<OwnedFd>);

fn decode<R: DeserializeOwned>(
    packet: Result<Packet, LinkError>,
) -> Result<Option<Message<R>>, ExchangeError> {
    let (packet, received) = packet.map_err(|error| match error {
        LinkError::System { errno: Errno::ECONNRESET, .. } => ExchangeError::Unread,
        error => error.into(),
    })?;
    if received.length == 0 {
        return Ok(None);
    }
    Ok(Some((frame::decode_packet(&packet, LINK_MESSAGE_BYTES_MAX)?, received.fds)))
}

type Packet = (Vec<u8>, Received);

thread_local! {
    /// One for all links: a packet is copied out of it at once, and zeroing a fresh one took longer than the call.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; HEADER_BYTES + LINK_MESSAGE_BYTES_MAX]);
}

fn receive_packet(socket: BorrowedFd<'_>, fds_max: usize) -> std::io::Result<Result<Packet, LinkError>> {
    BUFFER.with_borrow_mut(|buffer| {
        retryable(link::receive(socket, buffer, fds_max).map(|received| {
            let packet = buffer.get(..received.length).unwrap_or_default().to_vec();
            (packet, received)
        }))
    })
}

/// Turns "not ready" into the error that makes Tokio wait, and leaves every other outcome as it is.
fn retryable<T>(outcome: Result<T, LinkError>) -> std::io::Result<Result<T, LinkError>> {
    match outcome {
        Err(error) if error.would_block() => Err(std::io::ErrorKind::WouldBlock.into()),
        outcome => Ok(outcome),
    }
}

fn set_nonblocking(fd: &impl AsFd) -> std::io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    // A socket has no other flags.
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))?;
    Ok(())
}
