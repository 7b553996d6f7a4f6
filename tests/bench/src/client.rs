//! A client of Stockade that does nothing but wait: its own time counts as little as it can.
//!
//! Owns: one blocking connection.
//! Never: retries, or takes any end of a job but the one that was expected.

use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use stockade_wire::CLIENT_PROTOCOL_VERSION_WITHOUT_DESCRIPTORS;
use stockade_wire::client::{FromDaemon, Statistics, ToDaemon};
use stockade_wire::frame::{self, HEADER_BYTES};
use stockade_wire::job::{JobResult, ModuleSource, Submission, Verdict};
use stockade_wire::limits::FRAME_BODY_BYTES_MAX;

use crate::polled::{PATIENCE, Polled};

/// Room for what the daemon sends at once, bytes: a small job's two answers are one read.
const READ_BYTES: usize = 16 << 10;

/// A connection that has said hello.
#[derive(Debug)]
pub struct Connection(BufReader<Polled<UnixStream>>);

/// A request that is made again and again: its frame, made once.
#[derive(Debug, Clone)]
pub struct Prepared {
    frame: Vec<u8>,
    expected: Vec<u8>,
}

impl Prepared {
    /// For `submission`, whose output must be `expected`.
    ///
    /// # Errors
    /// When it is larger than any frame may be.
    pub fn new(submission: &Submission, expected: Vec<u8>) -> io::Result<Self> {
        Ok(Self { frame: submit_frame(1, submission)?, expected })
    }
}

/// The frame that submits a job and asks for its result.
///
/// # Errors
/// When it is larger than any frame may be.
pub fn submit_frame(request: u64, submission: &Submission) -> io::Result<Vec<u8>> {
    let message =
        ToDaemon::Submit { request, wait: true, durable: false, submission: Box::new(submission.clone()) };
    frame::encode(&message, FRAME_BODY_BYTES_MAX).map_err(io::Error::other)
}

/// An error about what was said.
#[must_use]
pub fn unexpected(what: &str, found: &dyn std::fmt::Debug) -> io::Error {
    io::Error::other(format!("{what}: {found:?}"))
}

impl Connection {
    /// Connects and says hello.
    ///
    /// # Errors
    /// When nobody listens, or the daemon does not say hello.
    pub fn open(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut connection = Self(BufReader::with_capacity(READ_BYTES, Polled(stream)));
        let hello = ToDaemon::Hello {
            version: CLIENT_PROTOCOL_VERSION_WITHOUT_DESCRIPTORS,
            agent: "bench".to_owned(),
        };
        connection.send(&frame::encode(&hello, FRAME_BODY_BYTES_MAX).map_err(io::Error::other)?)?;
        match connection.receive()? {
            FromDaemon::Hello { .. } => Ok(connection),
            other => Err(unexpected("the daemon did not say hello", &other)),
        }
    }

    /// A second handle to the same connection, to send while this one receives.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn sender(&self) -> io::Result<UnixStream> {
        self.0.get_ref().0.try_clone()
    }

    /// Runs a job to its result, however it ended.
    ///
    /// # Errors
    /// When it was refused, or the connection broke.
    pub fn run(&mut self, submission: &Submission) -> io::Result<Box<JobResult>> {
        self.send(&submit_frame(1, submission)?)?;
        self.finished()
    }

    /// Runs a job that must complete with the output that was named.
    ///
    /// # Errors
    /// When it ended otherwise.
    pub fn run_prepared(&mut self, prepared: &Prepared) -> io::Result<Box<JobResult>> {
        self.send(&prepared.frame)?;
        let result = self.finished()?;
        completed(&result, &prepared.expected)?;
        Ok(result)
    }

    /// Submits a module for the first time, and gives back the submission that names it by its digest.
    ///
    /// # Errors
    /// When it does not complete with `expected`.
    pub fn introduce(&mut self, submission: &Submission, expected: &[u8]) -> io::Result<Submission> {
        let result = self.run(submission)?;
        completed(&result, expected)?;
        Ok(Submission { module: ModuleSource::Digest(result.module), ..submission.clone() })
    }

    /// The daemon's figures.
    ///
    /// # Errors
    /// When the connection broke.
    pub fn statistics(&mut self) -> io::Result<Box<Statistics>> {
        let message = ToDaemon::Statistics { request: 1 };
        self.send(&frame::encode(&message, FRAME_BODY_BYTES_MAX).map_err(io::Error::other)?)?;
        match self.receive()? {
            FromDaemon::Statistics { statistics, .. } => Ok(statistics),
            other => Err(unexpected("the daemon did not tell its figures", &other)),
        }
    }

    fn finished(&mut self) -> io::Result<Box<JobResult>> {
        loop {
            match self.receive()? {
                FromDaemon::Accepted { .. } => {}
                FromDaemon::Finished { result, .. } => return Ok(result),
                other => return Err(unexpected("a job was not run", &other)),
            }
        }
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(frame)
    }

    /// The next message.
    ///
    /// # Errors
    /// When the connection broke, or what came is no message.
    pub fn receive(&mut self) -> io::Result<FromDaemon> {
        let mut header = [0; HEADER_BYTES];
        self.0.read_exact(&mut header)?;
        let length = frame::body_length(header, FRAME_BODY_BYTES_MAX).map_err(io::Error::other)?;
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        stockade_wire::codec::decode(&body).map_err(io::Error::other)
    }
}

/// That a job completed, with this output.
///
/// # Errors
/// When it did not.
pub fn completed(result: &JobResult, expected: &[u8]) -> io::Result<()> {
    if result.outcome.verdict != Verdict::Completed {
        return Err(unexpected("a job did not complete", &result.outcome));
    }
    if result.output.0 != expected {
        return Err(unexpected("a job's output is wrong, bytes", &result.output));
    }
    Ok(())
}
