//! Frames to a client, queued within bounds.
//!
//! Owns: how much may wait for a client, and when a client that does not read is given up.
//! Never: drops a frame and goes on; a client either gets all answers in order or loses the connection.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::AsFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use stockade_wire::client::{FinishedRef, FromDaemon};
use stockade_wire::frame::{self, HEADER_BYTES};
use stockade_wire::limits::FRAME_BODY_BYTES_MAX;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout};

use crate::job_end::JobEnd;
use crate::observe::Causes;
use crate::sealed::SealedFile;
use crate::wire_end::WireEnd;

/// Most frames that wait for one client. Whoever has another waits until it is taken; their bytes are bounded besides, by
/// `clients.outbound_bytes_max`.
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
    line: Rc<Line>,
}

/// The end that they are written out from, where they have to wait.
pub(super) struct Queue {
    frames: mpsc::Receiver<Waiting>,
    line: Rc<Line>,
}

/// What both ends have in common.
struct Line {
    socket: WireEnd,
    /// The client takes descriptors.
    with_fds: Cell<bool>,
    /// Frames that wait for room or are queued. While there are none, the next goes out past the queue.
    queued: Cell<usize>,
    ahead: RefCell<Ahead>,
    /// There are frames ahead, and nobody looks at the clock for them.
    unwatched: Notify,
    watched: Cell<bool>,
}

/// A frame that goes through the queue, for as long as it does.
struct Queued(Rc<Line>);

impl Queued {
    fn new(line: &Rc<Line>) -> Self {
        line.queued.set(line.queued.get() + 1);
        Self(Rc::clone(line))
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.queued.set(self.0.queued.get() - 1);
    }
}

struct Waiting {
    frame: Vec<u8>,
    /// What is sent as a descriptor with the frame's body. Opened for this client when its turn comes, so that those who
    /// do not read hold no descriptors; its bytes count as the frame's do.
    beside: Option<Rc<JobEnd>>,
    /// The room it takes, given back once it is written.
    room: OwnedSemaphorePermit,
    queued: Queued,
}

/// A queue of about `bytes_max` bytes to that client. A frame larger than that goes through alone.
pub(super) fn queue(socket: WireEnd, bytes_max: u64) -> (Outbound, Queue) {
    let bytes_max = u32::try_from(bytes_max).unwrap_or(u32::MAX);
    let (sender, receiver) = mpsc::channel(FRAMES_MAX);
    let room = Arc::new(Semaphore::new(bytes_max as usize));
    let line = Rc::new(Line {
        socket,
        with_fds: Cell::new(false),
        queued: Cell::new(0),
        ahead: RefCell::default(),
        unwatched: Notify::new(),
        watched: Cell::new(false),
    });
    (Outbound { frames: sender, room, bytes_max, line: Rc::clone(&line) }, Queue { frames: receiver, line })
}

impl Outbound {
    /// From here on large outputs may go beside their frames.
    pub(super) fn allow_fds(&self) {
        self.line.with_fds.set(true);
    }

    /// Sends `message`, waiting for room. Room is given in the order of asking.
    pub(super) async fn send(&self, message: &FromDaemon) -> Result<(), Gone> {
        let blocks = match message {
            FromDaemon::Log { bytes, .. } => bytes.0.len(),
            FromDaemon::Jobs { jobs, .. } => jobs.len().saturating_mul(1 << 10),
            _ => 0,
        };
        self.pass(blocks, || Ok((encoded(message, 0)?, None))).await
    }

    /// As [`Outbound::send`], for an answer that another will follow: it may wait for that one, if that comes within
    /// [`LINGER`].
    pub(super) async fn send_ahead(&self, message: &FromDaemon) -> Result<(), Gone> {
        if self.line.queued.get() > 0 || self.frames.is_closed() {
            return self.send(message).await;
        }
        self.line.ahead.borrow_mut().add(&encoded(message, 0)?);
        if !self.line.watched.replace(true) {
            self.line.unwatched.notify_one();
        }
        Ok(())
    }

    /// Sends `FromDaemon::Finished` for `request`. Encodes only once there is room, so that results of a
    /// client that does not read are not held twice.
    pub(super) async fn finished(&self, request: u64, end: Rc<JobEnd>) -> Result<(), Gone> {
        let logs = &end.result.logs;
        let blocks = usize::try_from(end.output_bytes()).unwrap_or(usize::MAX);
        let blocks = blocks.saturating_add(logs.stdout.0.len() + logs.stderr.0.len());
        let encode = || {
            if end.output.is_none() {
                Ok((encoded(&FinishedRef::new(request, &end.result), 0)?, None))
            } else if self.line.with_fds.get() {
                Ok((encoded(&FinishedRef::new(request, &end.result), 1)?, Some(Rc::clone(&end))))
            } else {
                let whole = end.whole().map_err(|error| {
                    tracing::error!(%error, "a large output cannot be read; closing the connection");
                    Gone
                })?;
                Ok((encoded(&FinishedRef::new(request, &whole), 0)?, None))
            }
        };
        self.pass(blocks, encode).await
    }

    /// Passes on a frame of about `blocks` bytes: to the kernel, or, as soon as that has no room, to the queue.
    async fn pass(
        &self,
        blocks: usize,
        encode: impl FnOnce() -> Result<(Vec<u8>, Option<Rc<JobEnd>>), Gone>,
    ) -> Result<(), Gone> {
        if self.frames.is_closed() {
            return Err(Gone);
        }
        let weight = u32::try_from(blocks.saturating_add(FRAME_OVERHEAD_BYTES)).unwrap_or(u32::MAX);
        let waits = self.line.queued.get() > 0;
        let queued = Queued::new(&self.line);
        if waits {
            let room = self.room_for(weight).await?;
            let (frame, beside) = encode()?;
            return self.put(Waiting { frame, beside, room, queued }).await;
        }
        let (mut frame, beside) = encode()?;
        if beside.is_none() {
            frame = self.line.ahead.borrow_mut().followed_by(frame);
            // What the kernel refuses for another reason it refuses again where that ends the connection.
            let sent = self.line.socket.send_now(&frame, &[]).unwrap_or(0);
            if sent == frame.len() {
                return Ok(());
            }
            frame.drain(..sent);
        }
        // At once: all of it is free.
        let room = self.room_for(weight).await?;
        self.put(Waiting { frame, beside, room, queued }).await
    }

    async fn room_for(&self, weight: u32) -> Result<OwnedSemaphorePermit, Gone> {
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
    /// Writes out what waits, until every [`Outbound`] is gone and nothing does.
    pub(super) async fn write_out(mut self, patience: Duration) -> Result<(), OutboundError> {
        let Line { socket, ahead, unwatched, watched, .. } = &*self.line;
        // Set again only once it has gone off, whatever has been written since: a timer for each answer would wake the
        // event loop for each.
        let mut timer = pin!(sleep(LINGER));
        let mut is_set = false;
        loop {
            let next = tokio::select! {
                biased;
                next = self.frames.recv() => next,
                () = timer.as_mut(), if is_set => {
                    let until = ahead.borrow().until;
                    if let Some(until) = until.filter(|until| *until > Instant::now()) {
                        timer.as_mut().reset(until);
                        continue;
                    }
                    is_set = false;
                    watched.set(false);
                    let _queued = Queued::new(&self.line);
                    let frames = ahead.borrow_mut().take();
                    write(socket, &frames, patience).await?;
                    continue;
                }
                () = unwatched.notified(), if !is_set => {
                    timer.as_mut().reset(ahead.borrow().until.unwrap_or_else(Instant::now));
                    is_set = true;
                    continue;
                }
            };
            let frames = ahead.borrow_mut().take();
            let Some(Waiting { frame, beside, room, queued }) = next else {
                return write(socket, &frames, patience).await;
            };
            let begun = match beside {
                Some(end) => begin(socket, (frames, &frame), &end, patience).await?,
                None => {
                    write(socket, &frames, patience).await?;
                    0
                }
            };
            write(socket, frame.get(begun..).unwrap_or_default(), patience).await?;
            drop((room, queued));
        }
    }
}

/// Answers that wait for those that follow them: as many at most as requests that are not answered.
#[derive(Default)]
struct Ahead {
    frames: Vec<u8>,
    /// When the first of them has waited long enough; `None` when there is none.
    until: Option<Instant>,
}

impl Ahead {
    fn add(&mut self, frame: &[u8]) {
        self.frames.extend_from_slice(frame);
        self.until.get_or_insert_with(|| Instant::now() + LINGER);
    }

    fn take(&mut self) -> Vec<u8> {
        self.until = None;
        std::mem::take(&mut self.frames)
    }

    /// All of them, and `frame`.
    fn followed_by(&mut self, frame: Vec<u8>) -> Vec<u8> {
        if self.until.is_none() {
            return frame;
        }
        let mut frames = self.take();
        frames.extend_from_slice(&frame);
        frames
    }
}

/// Writes what is ahead of `frame` and its header, and with the first bytes of its body a descriptor for the output of
/// `end`; how much of `frame` that was.
async fn begin(
    socket: &WireEnd,
    (mut ahead, frame): (Vec<u8>, &[u8]),
    end: &JobEnd,
    patience: Duration,
) -> Result<usize, OutboundError> {
    let (header, body) = frame.split_at_checked(HEADER_BYTES).unwrap_or_default();
    ahead.extend_from_slice(header);
    write(socket, &ahead, patience).await?;
    // Opened anew: whoever is given it can move no position but its own.
    let fd = end.output.as_ref().map(SealedFile::reopen).transpose().map_err(OutboundError::NoDescriptor)?;
    let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
    let body = body.get(..WRITE_BYTES).unwrap_or(body);
    let sent = timeout(patience, socket.send(body, &fds))
        .await
        .map_err(|_| OutboundError::NotReading(patience))?
        .map_err(OutboundError::Write)?;
    Ok(header.len() + sent)
}

async fn write(socket: &WireEnd, frames: &[u8], patience: Duration) -> Result<(), OutboundError> {
    for part in frames.chunks(WRITE_BYTES) {
        timeout(patience, socket.write_all(part))
            .await
            .map_err(|_| OutboundError::NotReading(patience))?
            .map_err(OutboundError::Write)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use stockade_wire::job::LogStream;
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;

    use super::*;
    use crate::supervisor::sample_result;

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
        let (outbound, queue) = queue(WireEnd::new(ours).unwrap(), 1 << 20);
        let reading = async {
            let mut reads = Vec::new();
            for _ in 0..count {
                let mut buffer = [0; 4096];
                let length = theirs.read(&mut buffer).await.unwrap();
                reads.push(buffer[..length].to_vec());
            }
            reads
        };
        let (written, reads, ()) = tokio::join!(queue.write_out(PATIENCE), reading, sending(outbound));
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

    /// Of a client that does not read for a while: what the kernel has no room for waits, and what comes after it, too.
    #[tokio::test(flavor = "current_thread")]
    async fn answers_to_a_slow_reader_come_whole_and_in_order() {
        const COUNT: u64 = 200;
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (outbound, queue) = queue(WireEnd::new(ours).unwrap(), 64 << 10);
        let logged = |request: u64| {
            let bytes = vec![u8::try_from(request % 251).unwrap(); 5000 + usize::try_from(request).unwrap()];
            FromDaemon::Log { request, stream: LogStream::Stdout, skipped_bytes: 0, bytes: bytes.into() }
        };
        let sending = async move {
            for request in 0..COUNT {
                match request % 3 {
                    0 => outbound.send_ahead(&accepted(request)).await.unwrap(),
                    1 => outbound.send(&logged(request)).await.unwrap(),
                    _ => outbound.finished(request, Rc::new(JobEnd::of(sample_result()))).await.unwrap(),
                }
            }
        };
        let wanted: Vec<u8> = (0..COUNT)
            .flat_map(|request| match request % 3 {
                0 => frame(request),
                1 => frame::encode(&logged(request), FRAME_BODY_BYTES_MAX).unwrap(),
                _ => {
                    frame::encode(&FinishedRef::new(request, &sample_result()), FRAME_BODY_BYTES_MAX).unwrap()
                }
            })
            .collect();
        let reading = async {
            let mut read = Vec::new();
            while theirs.read_buf(&mut read).await.unwrap() > 0 {
                tokio::task::yield_now().await;
            }
            read
        };
        let all = async { tokio::join!(queue.write_out(PATIENCE), sending, reading) };
        let (written, (), read) = tokio::time::timeout(PATIENCE, all).await.unwrap();
        written.unwrap();
        assert!(read == wanted, "{} bytes of {}", read.len(), wanted.len());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn answers_that_nothing_follows_go_out_after_a_while_or_with_the_connections_end() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (outbound, queue) = queue(WireEnd::new(ours).unwrap(), 1 << 20);
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
            queue.write_out(PATIENCE).await.unwrap();
        };
        tokio::time::timeout(PATIENCE, async { tokio::join!(client, writing) }).await.unwrap();
    }
}
