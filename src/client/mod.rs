//! The other end of the daemon's socket, for the command line.
//!
//! Owns: one connection, its hello, and which answer belongs to which request.
//! Never: prints, decides what a result means, starts a daemon.
//!
//! Requests are made one after another; what arrives for an earlier one that nobody waits for any more is
//! passed over.

mod stream;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use stockade_wire::CLIENT_PROTOCOL_VERSION;
use stockade_wire::client::{FromDaemon, Refusal, Statistics, ToDaemon};
use stockade_wire::frame::FrameError;
use stockade_wire::job::{JobResult, JobSummary, LogStream, ModuleSource, Submission};
use stockade_wire::limits::{BESIDE_BYTES_MIN, FRAME_BODY_BYTES_MAX};

use self::stream::{FrameStream, Received};
use crate::job_end::JobEnd;
use crate::sealed::{NotSealed, SealedFile};
use crate::supervisor::logs::safe_text;

/// What this client calls itself.
const AGENT: &str = concat!("stockade-cli/", env!("CARGO_PKG_VERSION"));

/// Longest text of the daemon's shown to a person, bytes.
const MESSAGE_BYTES_MAX: usize = 1 << 10;

/// Why the daemon did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("no daemon listens on {}: start one with `stockade serve`, or name its socket with --socket", .0.display())]
    NotRunning(PathBuf, #[source] std::io::Error),
    /// The socket is there and not for this user.
    #[error("may not connect to {}: ask for access to the socket, or name your own daemon's with --socket", .0.display())]
    NotAllowed(PathBuf, #[source] std::io::Error),
    /// Connecting failed otherwise.
    #[error("cannot connect to {}: is it the daemon's socket?", .0.display())]
    Connect(PathBuf, #[source] std::io::Error),
    /// The daemon speaks another version of the protocol.
    #[error(
        "the daemon speaks version {theirs} of the protocol, this client {CLIENT_PROTOCOL_VERSION}: use the \
             client that came with the daemon, or restart the daemon"
    )]
    Version {
        /// The daemon's version.
        theirs: u16,
    },
    /// The daemon closed the connection and said why.
    #[error("the daemon closed the connection: {0}")]
    ClosedWith(String),
    /// The daemon closed the connection without a word.
    #[error(
        "the daemon closed the connection: it may have been stopped, and what it had not answered is lost with it; \
         see its log, and submit again"
    )]
    Closed,
    /// The same, while a durable job was waited for.
    #[error(
        "the daemon closed the connection: it may have been stopped; the job {0} is durable, and `stockade result {0}` \
         says how it ended once a daemon runs again"
    )]
    ClosedDurable(String),
    /// Reading or writing failed.
    #[error("the connection to the daemon failed")]
    Io(#[source] std::io::Error),
    /// What the daemon sent is no frame of this protocol.
    #[error("the daemon sent something that is not its protocol: is it the daemon's socket?")]
    Frame(#[source] FrameError),
    /// The daemon answered something else.
    #[error(
        "the daemon gave an answer that does not belong to the question; use the client that came with it"
    )]
    Unexpected,
    /// The daemon sent a descriptor that is not what an output has to be.
    #[error("the output that the daemon sent {0}; is it the daemon's socket?")]
    Output(#[from] NotSealed),
    /// The job was not admitted.
    #[error("{}", refusal_text(.0))]
    Refused(Refusal),
    /// No such job, or another user's.
    #[error(
        "no job {0}: it was never there, is another user's, is over, its result is not kept any more, or the daemon \
         has been restarted since; submit it again if it is still wanted"
    )]
    NotFound(String),
    /// The request is larger than this daemon takes.
    #[error("the job is {bytes} bytes with its module and input; this daemon takes at most {max}")]
    TooLarge {
        /// The frame's body.
        bytes: usize,
        /// What the daemon said in its hello.
        max: u64,
    },
}

/// A connection that has said hello.
#[derive(Debug)]
pub struct Client {
    stream: FrameStream,
    frame_bytes_max: u64,
    requests: u64,
}

/// A job that was submitted with the wish to wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The job's id.
    pub job: String,
    request: u64,
}

/// Part of a log, or its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPart {
    /// Which stream.
    pub stream: LogStream,
    /// Bytes lost between the last part of this stream and this one.
    pub skipped_bytes: u64,
    /// The part; to be made safe before it is shown.
    pub bytes: Vec<u8>,
}

/// A log that is being read.
#[derive(Debug)]
pub struct LogRequest(u64);

impl Client {
    /// Connects and says hello.
    ///
    /// # Errors
    /// When nobody listens on `path`, the kernel does not let this user in, or the daemon speaks another version.
    pub async fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = FrameStream::connect(path).await?;
        let mut client = Self { stream, frame_bytes_max: u64::MAX, requests: 0 };
        let hello = ToDaemon::Hello { version: CLIENT_PROTOCOL_VERSION, agent: AGENT.to_owned() };
        client.stream.send(&hello).await?;
        match client.stream.receive().await?.0 {
            FromDaemon::Hello { version: CLIENT_PROTOCOL_VERSION, frame_bytes_max, .. } => {
                client.frame_bytes_max = frame_bytes_max;
                client.stream.expect_fds();
                Ok(client)
            }
            FromDaemon::Hello { version, .. } => Err(ClientError::Version { theirs: version }),
            other => Err(strange(other)),
        }
    }

    /// Submits a job without waiting for its end; its id. A module or an input of [`BESIDE_BYTES_MIN`] bytes and more
    /// goes as a sealed file in memory instead of in the frame.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when it is not admitted.
    pub async fn submit(&mut self, submission: Submission) -> Result<String, ClientError> {
        Ok(self.submit_with(submission, false, false).await?.job)
    }

    /// The same of a job that has exactly one final record from then on, whatever crashes.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when it is not admitted.
    pub async fn submit_durable(&mut self, submission: Submission) -> Result<String, ClientError> {
        Ok(self.submit_with(submission, false, true).await?.job)
    }

    /// As [`Client::submit`], a job whose result [`Client::finished`] then waits for.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when it is not admitted.
    pub async fn submit_and_wait(&mut self, submission: Submission) -> Result<Ticket, ClientError> {
        self.submit_with(submission, true, false).await
    }

    /// The same of a job that has exactly one final record from then on, whatever crashes.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when it is not admitted.
    pub async fn submit_durable_and_wait(&mut self, submission: Submission) -> Result<Ticket, ClientError> {
        self.submit_with(submission, true, true).await
    }

    async fn submit_with(
        &mut self,
        mut submission: Submission,
        wait: bool,
        durable: bool,
    ) -> Result<Ticket, ClientError> {
        let request = self.next_request();
        let files = put_beside(&mut submission);
        let fds: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        let message = ToDaemon::Submit { request, wait, durable, submission: Box::new(submission) };
        self.stream.send_within(&message, &fds, self.frame_bytes_max).await?;
        match self.answer(request).await? {
            FromDaemon::Accepted { job, .. } => Ok(Ticket { job, request }),
            FromDaemon::Refused { refusal, .. } => Err(ClientError::Refused(refusal)),
            other => Err(strange(other)),
        }
    }

    /// Waits for the end of a submitted job; its result, with its output in it. Dropping the future loses nothing; it
    /// may be asked again.
    ///
    /// # Errors
    /// [`ClientError::NotFound`] when its result was not kept long enough.
    pub async fn finished(&mut self, ticket: &Ticket) -> Result<JobResult, ClientError> {
        whole(&self.end_of(ticket).await?)
    }

    /// As [`Client::finished`], with the output where it came: a large one in a file, of which nothing was copied.
    ///
    /// # Errors
    /// As [`Client::finished`].
    pub async fn end_of(&mut self, ticket: &Ticket) -> Result<JobEnd, ClientError> {
        match self.answer_with_fds(ticket.request).await? {
            (FromDaemon::Finished { result, .. }, fds) => end(*result, fds),
            (FromDaemon::NotFound { .. }, _) => Err(ClientError::NotFound(ticket.job.clone())),
            (other, _) => Err(strange(other)),
        }
    }

    /// Asks for a submitted job's end without waiting for the answer: its result will tell.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn abandon(&mut self, ticket: &Ticket) -> Result<(), ClientError> {
        let request = self.next_request();
        self.stream.send(&ToDaemon::Cancel { request, job: ticket.job.clone() }).await
    }

    /// Asks for a job's end; returns once it is being ended.
    ///
    /// # Errors
    /// [`ClientError::NotFound`] when there is nothing to end.
    pub async fn cancel(&mut self, job: &str) -> Result<(), ClientError> {
        let request = self.next_request();
        match self.ask(request, ToDaemon::Cancel { request, job: job.to_owned() }).await? {
            FromDaemon::Cancelling { .. } => Ok(()),
            FromDaemon::NotFound { .. } => Err(ClientError::NotFound(job.to_owned())),
            other => Err(strange(other)),
        }
    }

    /// The result of a job: at once `None` if it is not over, or with `wait` when it is.
    ///
    /// # Errors
    /// [`ClientError::NotFound`] when there is no such job.
    pub async fn result(&mut self, job: &str, wait: bool) -> Result<Option<JobResult>, ClientError> {
        let request = self.next_request();
        self.stream.send(&ToDaemon::Result { request, job: job.to_owned(), wait }).await?;
        match self.answer_with_fds(request).await? {
            (FromDaemon::Finished { result, .. }, fds) => whole(&end(*result, fds)?).map(Some),
            (FromDaemon::Running { .. }, _) => Ok(None),
            (FromDaemon::NotFound { .. }, _) => Err(ClientError::NotFound(job.to_owned())),
            (other, _) => Err(strange(other)),
        }
    }

    /// The caller's jobs, newest last.
    ///
    /// # Errors
    /// When the connection ends first.
    pub async fn list(&mut self) -> Result<Vec<JobSummary>, ClientError> {
        let request = self.next_request();
        match self.ask(request, ToDaemon::List { request }).await? {
            FromDaemon::Jobs { jobs, .. } => Ok(jobs),
            other => Err(strange(other)),
        }
    }

    /// Figures of the daemon and its host.
    ///
    /// # Errors
    /// When the connection ends first.
    pub async fn statistics(&mut self) -> Result<Statistics, ClientError> {
        let request = self.next_request();
        match self.ask(request, ToDaemon::Statistics { request }).await? {
            FromDaemon::Statistics { statistics, .. } => Ok(*statistics),
            other => Err(strange(other)),
        }
    }

    /// Asks for a job's logs; [`Client::log_part`] then reads them.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn logs(&mut self, job: &str, follow: bool) -> Result<LogRequest, ClientError> {
        let request = self.next_request();
        self.stream.send(&ToDaemon::Logs { request, job: job.to_owned(), follow }).await?;
        Ok(LogRequest(request))
    }

    /// The next part of a log; `None` at its end.
    ///
    /// # Errors
    /// [`ClientError::NotFound`] when there is no such job.
    pub async fn log_part(&mut self, log: &LogRequest, job: &str) -> Result<Option<LogPart>, ClientError> {
        match self.answer(log.0).await? {
            FromDaemon::Log { stream, skipped_bytes, bytes, .. } => {
                Ok(Some(LogPart { stream, skipped_bytes, bytes: bytes.0 }))
            }
            FromDaemon::LogEnd { .. } => Ok(None),
            FromDaemon::NotFound { .. } => Err(ClientError::NotFound(job.to_owned())),
            other => Err(strange(other)),
        }
    }

    async fn ask(&mut self, request: u64, message: ToDaemon) -> Result<FromDaemon, ClientError> {
        self.stream.send(&message).await?;
        self.answer(request).await
    }

    /// The next answer to `request`, with which no descriptor may come. Safe to drop: nothing that came is lost.
    async fn answer(&mut self, request: u64) -> Result<FromDaemon, ClientError> {
        match self.answer_with_fds(request).await? {
            (message, fds) if fds.is_empty() => Ok(message),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// The next answer to `request` and what came with it. Safe to drop: nothing that came is lost.
    async fn answer_with_fds(&mut self, request: u64) -> Result<Received, ClientError> {
        loop {
            let (message, fds) = self.stream.receive().await?;
            match answered(&message) {
                None => return Err(strange(message)),
                Some(number) if number == request => return Ok((message, fds)),
                Some(_) => {}
            }
        }
    }

    const fn next_request(&mut self) -> u64 {
        self.requests += 1;
        self.requests
    }
}

/// Takes what is large out of `submission` and into files, in the order in which they are announced. What the kernel
/// gives no file for stays.
fn put_beside(submission: &mut Submission) -> Vec<SealedFile> {
    let put = |name, bytes: &[u8]| {
        let large = bytes.len() >= BESIDE_BYTES_MIN;
        large.then(|| SealedFile::holding(name, bytes).ok()).flatten()
    };
    let mut files = Vec::new();
    if let ModuleSource::Bytes(bytes) = &submission.module
        && let Some(file) = put("stockade-module", &bytes.0)
    {
        submission.module = ModuleSource::Descriptor;
        files.push(file);
    }
    if let Some(file) = put("stockade-input", &submission.input.0) {
        submission.input = Vec::new().into();
        files.push(file);
    }
    files
}

/// A job's result with its output, wherever that came.
fn end(result: JobResult, fds: Vec<OwnedFd>) -> Result<JobEnd, ClientError> {
    let mut fds = fds.into_iter();
    match (fds.next(), fds.next()) {
        (None, _) => Ok(JobEnd::of(result)),
        (Some(output), None) if result.output.0.is_empty() => {
            let output = SealedFile::examine(&output, FRAME_BODY_BYTES_MAX as u64)?;
            Ok(JobEnd::with_output(result, output, None))
        }
        _ => Err(ClientError::Unexpected),
    }
}

fn whole(end: &JobEnd) -> Result<JobResult, ClientError> {
    end.whole().map_err(ClientError::Io)
}

/// Which request a message answers, if any.
const fn answered(message: &FromDaemon) -> Option<u64> {
    match message {
        FromDaemon::Hello { .. } | FromDaemon::Protocol { .. } => None,
        FromDaemon::Accepted { request, .. }
        | FromDaemon::Refused { request, .. }
        | FromDaemon::Finished { request, .. }
        | FromDaemon::Running { request, .. }
        | FromDaemon::Log { request, .. }
        | FromDaemon::LogEnd { request }
        | FromDaemon::Cancelling { request }
        | FromDaemon::Jobs { request, .. }
        | FromDaemon::Statistics { request, .. }
        | FromDaemon::NotFound { request } => Some(*request),
    }
}

fn strange(message: FromDaemon) -> ClientError {
    match message {
        FromDaemon::Protocol { message } => ClientError::ClosedWith(safe_text(&message, MESSAGE_BYTES_MAX)),
        _ => ClientError::Unexpected,
    }
}

fn refusal_text(refusal: &Refusal) -> String {
    let message = safe_text(&refusal.message, MESSAGE_BYTES_MAX);
    match refusal.retry_after_ms {
        Some(ms) => format!("the job was refused: {message} (try again in {ms} ms)"),
        None => format!("the job was refused: {message}"),
    }
}
