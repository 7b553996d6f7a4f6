//! Frames to a client, queued within bounds.
//!
//! Owns: how much may wait for a client, and when a client that does not read is given up.
//! Never: drops a frame and goes on; a client either gets all answers in order or loses the connection.

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use stockade_sys::rights;
use stockade_wire::client::{FinishedRef, FromDaemon};
use stockade_wire::frame::{self, HEADER_BYTES};
use stockade_wire::limits::FRAME_BODY_BYTES_MAX;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout};

use crate::job_end::JobEnd;
use crate::observe::Causes;
use crate::sealed::SealedFile;

/// Most frames that wait for one client; their bytes are bounded besides.
const FRAMES_MAX: usize = 1024;

/// What has to be taken by the client within the timeout, bytes. Reading a byte now and then is not reading.
const WRITE_BYTES: usize = 64 << 10;

/// Time an answer waits for the one that will follow it, so that both go out in one write and wake their client once.
/// Most jobs are over sooner.
const LINGER: Duration = Duration::from_millis(1);

/// What a frame is taken to weigh beyond its large blocks, bytes.
const FRAME_OVERHEAD_BYTES: usize = 4 << 10;

/// The client is gone or does not read; there is nobody to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client does not take answers any more")]
pub(super) struct Gone;

/// Why the queue stopped being written out.
#[derive(Debug, thiserror::Error)]
pub(super) enum OutboundError {
    #[error("the client did not read for {0:?}")]
    NotReading(Duration),
    #[error("writing to the client failed")]
    Write(#[source] io::Error),
    #[error("no descriptor for a large output is left")]
    NoDescriptor(#[source] io::Error),
}

/// The end that answers are put in.
#[derive(Clone)]
pub(super) struct Outbound {
    frames: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
    bytes_max: u32,
    /// The client takes descriptors.
    with_fds: Rc<Cell<bool>>,
}

/// The end that they are written out from.
pub(super) struct Queue {
    frames: mpsc::Receiver<Waiting>,
}

struct Waiting {
    frame: Vec<u8>,
    /// What is sent as a descriptor with the frame's body. Opened for this client when its turn comes, so that those who
    /// do not read hold no descriptors; its bytes count as the frame's do.
    beside: Option<Rc<JobEnd>>,
    /// Another will follow, and it may wait for that.
    lingers: bool,
    /// The room it takes, given back once it is written.
    room: OwnedSemaphorePermit,
}

/// A queue of about `bytes_max` bytes. A frame larger than that goes through alone.
pub(super) fn queue(bytes_max: u64) -> (Outbound, Queue) {
    let bytes_max = u32::try_from(bytes_max).unwrap_or(u32::MAX);
    let (sender, receiver) = mpsc::channel(FRAMES_MAX);
    let room = Arc::new(Semaphore::new(bytes_max as usize));
    let with_fds = Rc::default();
    (Outbound { frames: sender, room, bytes_max, with_fds }, Queue { frames: receiver })
}

impl Outbound {
    /// From here on large outputs may go beside their frames.
    pub(super) fn allow_fds(&self) {
        self.with_fds.set(true);
    }

    /// Queues `message`, waiting for room. Room is given in the order of asking.
    pub(super) async fn send(&self, message: &FromDaemon) -> Result<(), Gone> {
        let blocks = match message {
            FromDaemon::Log { bytes, .. } => bytes.0.len(),
            FromDaemon::Jobs { jobs, .. } => jobs.len().saturating_mul(1 << 10),
            _ => 0,
        };
        let room = self.room_for(blocks).await?;
        self.put(Waiting { frame: encoded(message, 0)?, beside: None, lingers: false, room }).await
    }

    /// As [`Outbound::send`], for an answer that another will follow: it may wait for that one, if that comes within
    /// [`LINGER`].
    pub(super) async fn send_ahead(&self, message: &FromDaemon) -> Result<(), Gone> {
        let room = self.room_for(0).await?;
        self.put(Waiting { frame: encoded(message, 0)?, beside: None, lingers: true, room }).await
    }

    /// Queues `FromDaemon::Finished` for `request`. Encodes only once there is room, so that results of a
    /// client that does not read are not held twice.
    pub(super) async fn finished(&self, request: u64, end: Rc<JobEnd>) -> Result<(), Gone> {
        let logs = &end.result.logs;
        let blocks = usize::try_from(end.output_bytes()).unwrap_or(usize::MAX);
        let blocks = blocks.saturating_add(logs.stdout.0.len() + logs.stderr.0.len());
        let room = self.room_for(blocks).await?;
        let (frame, beside) = if end.output.is_none() {
            (encoded(&FinishedRef::new(request, &end.result), 0)?, None)
        } else if self.with_fds.get() {
            (encoded(&FinishedRef::new(request, &end.result), 1)?, Some(end))
        } else {
            let whole = end.whole().map_err(|error| {
                tracing::error!(%error, "a large output cannot be read; closing the connection");
                Gone
            })?;
            (encoded(&FinishedRef::new(request, &whole), 0)?, None)
        };
        self.put(Waiting { frame, beside, lingers: false, room }).await
    }

    async fn room_for(&self, blocks: usize) -> Result<OwnedSemaphorePermit, Gone> {
        let weight = u32::try_from(blocks.saturating_add(FRAME_OVERHEAD_BYTES)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(weight.min(self.bytes_max));
        room.await.map_err(|_| Gone)
    }

    async fn put(&self, waiting: Waiting) -> Result<(), Gone> {
        self.frames.send(waiting).await.map_err(|_| Gone)
    }
}

fn encoded<T: Serialize>(message: &T, fds: usize) -> Result<Vec<u8>, Gone> {
    frame::encode_with(message, FRAME_BODY_BYTES_MAX, fds).map_err(|error| {
        tracing::error!(error = %Causes(&error), "an answer cannot be sent; closing the connection");
        Gone
    })
}

impl Queue {
    /// Writes the queue out until every [`Outbound`] is gone and it is empty.
    pub(super) async fn write_to(
        mut self,
        mut half: OwnedWriteHalf,
        patience: Duration,
    ) -> Result<(), OutboundError> {
        let mut ahead = Ahead::default();
        // Set again only once it has gone off, whatever has been written since: a timer for each answer would wake the
        // event loop for each.
        let mut timer = pin!(sleep(LINGER));
        let mut is_set = false;
        loop {
            let next = tokio::select! {
                biased;
                next = self.frames.recv() => next,
                () = timer.as_mut(), if is_set => {
                    is_set = false;
                    if let Some(until) = ahead.until.filter(|until| *until > Instant::now()) {
                        timer.as_mut().reset(until);
                        is_set = true;
                    } else {
                        write(&mut half, &ahead.take(), patience).await?;
                    }
                    continue;
                }
            };
            match next {
                None => return write(&mut half, &ahead.take(), patience).await,
                Some(waiting) if waiting.lingers => {
                    let until = ahead.add(waiting);
                    if !is_set {
                        timer.as_mut().reset(until);
                        is_set = true;
                    }
                }
                Some(Waiting { frame, beside: Some(end), room, .. }) => {
                    let begun = begin(&mut half, (ahead.take(), &frame), &end, patience).await?;
                    write(&mut half, frame.get(begun..).unwrap_or_default(), patience).await?;
                    drop(room);
                }
                Some(waiting) if ahead.until.is_none() => write(&mut half, &waiting.frame, patience).await?,
                Some(waiting) => {
                    let mut frames = ahead.take();
                    frames.extend_from_slice(&waiting.frame);
                    write(&mut half, &frames, patience).await?;
                }
            }
        }
    }
}

/// Answers that wait for those that follow them: as many at most as requests that are not answered.
#[derive(Default)]
struct Ahead {
    frames: Vec<u8>,
    rooms: Vec<OwnedSemaphorePermit>,
    /// When the first of them has waited long enough; `None` when there is none.
    until: Option<Instant>,
}

impl Ahead {
    /// When the first of them has waited long enough.
    fn add(&mut self, Waiting { frame, room, .. }: Waiting) -> Instant {
        self.frames.extend_from_slice(&frame);
        self.rooms.push(room);
        *self.until.get_or_insert_with(|| Instant::now() + LINGER)
    }

    fn take(&mut self) -> Vec<u8> {
        self.until = None;
        self.rooms.clear();
        std::mem::take(&mut self.frames)
    }
}

/// Writes what is ahead of `frame` and its header, and with the first bytes of its body a descriptor for the output of
/// `end`; how much of `frame` that was.
async fn begin(
    half: &mut OwnedWriteHalf,
    (mut ahead, frame): (Vec<u8>, &[u8]),
    end: &JobEnd,
    patience: Duration,
) -> Result<usize, OutboundError> {
    let (header, body) = frame.split_at_checked(HEADER_BYTES).unwrap_or_default();
    ahead.extend_from_slice(header);
    write(half, &ahead, patience).await?;
    // Opened anew: whoever is given it can move no position but its own.
    let fd = end.output.as_ref().map(SealedFile::reopen).transpose().map_err(OutboundError::NoDescriptor)?;
    let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
    let body = body.get(..WRITE_BYTES).unwrap_or(body);
    let socket = half.as_ref();
    let send = || Ok(rights::send(socket.as_fd(), body, &fds)?);
    let sent = timeout(patience, socket.async_io(Interest::WRITABLE, send))
        .await
        .map_err(|_| OutboundError::NotReading(patience))?
        .map_err(OutboundError::Write)?;
    Ok(header.len() + sent)
}

async fn write(half: &mut OwnedWriteHalf, frames: &[u8], patience: Duration) -> Result<(), OutboundError> {
    for part in frames.chunks(WRITE_BYTES) {
        timeout(patience, half.write_all(part))
            .await
            .map_err(|_| OutboundError::NotReading(patience))?
            .map_err(OutboundError::Write)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn accepted(request: u64) -> FromDaemon {
        FromDaemon::Accepted { request, job: "job".to_owned() }
    }

    fn frame(request: u64) -> Vec<u8> {
        frame::encode(&accepted(request), FRAME_BODY_BYTES_MAX).unwrap()
    }

    /// What a client gets in each of its reads of what is sent.
    async fn reads(count: usize, sending: impl AsyncFnOnce(Outbound)) -> Vec<Vec<u8>> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (outbound, queue) = queue(1 << 20);
        let reading = async {
            let mut reads = Vec::new();
            for _ in 0..count {
                let mut buffer = [0; 4096];
                let length = theirs.read(&mut buffer).await.unwrap();
                reads.push(buffer[..length].to_vec());
            }
            reads
        };
        let (_read, write) = ours.into_split();
        let (written, reads, ()) = tokio::join!(queue.write_to(write, PATIENCE), reading, sending(outbound));
        written.unwrap();
        reads
    }

    #[tokio::test(flavor = "current_thread")]
    async fn answer_that_another_follows_at_once_goes_out_with_it() {
        let reads = reads(1, async |outbound| {
            outbound.send_ahead(&accepted(1)).await.unwrap();
            outbound.send(&accepted(2)).await.unwrap();
        });
        assert_eq!(reads.await, [[frame(1), frame(2)].concat()]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn answers_that_nothing_follows_go_out_after_a_while_or_with_the_connections_end() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (outbound, queue) = queue(1 << 20);
        let (_read, write) = ours.into_split();
        let client = async {
            // Each before the next is sent: it went out by itself.
            for request in 1..=3 {
                outbound.send_ahead(&accepted(request)).await.unwrap();
                let mut buffer = vec![0; frame(request).len()];
                theirs.read_exact(&mut buffer).await.unwrap();
                assert_eq!(buffer, frame(request));
            }
            outbound.send_ahead(&accepted(4)).await.unwrap();
            drop(outbound);
            let mut rest = Vec::new();
            theirs.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, frame(4));
        };
        let writing = async {
            queue.write_to(write, PATIENCE).await.unwrap();
        };
        tokio::time::timeout(PATIENCE, async { tokio::join!(client, writing) }).await.unwrap();
    }
}
