//! A client of Stockade whose large input and output are files in memory beside the frames.
//!
//! Owns: one blocking connection of that version of the protocol.
//! Never: reads ahead: what comes beside a frame is lost to whoever reads it without room.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use stockade_sys::{memfd, rights};
use stockade_wire::CLIENT_PROTOCOL_VERSION;
use stockade_wire::client::{FromDaemon, ToDaemon};
use stockade_wire::codec;
use stockade_wire::frame::{self, HEADER_BYTES};
use stockade_wire::job::{JobResult, Submission};
use stockade_wire::limits::{FRAME_BODY_BYTES_MAX, FRAME_FDS_MAX};

use crate::client::{completed, unexpected};
use crate::polled::PATIENCE;

/// A connection that has said hello.
#[derive(Debug)]
pub struct Connection(UnixStream);

impl Connection {
    /// Connects and says hello.
    ///
    /// # Errors
    /// When nobody listens, or the daemon does not speak this version.
    pub fn open(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut connection = Self(stream);
        let hello = ToDaemon::Hello { version: CLIENT_PROTOCOL_VERSION, agent: "bench".to_owned() };
        connection.0.write_all(&frame::encode(&hello, FRAME_BODY_BYTES_MAX).map_err(io::Error::other)?)?;
        match connection.receive()? {
            (FromDaemon::Hello { .. }, None) => Ok(connection),
            (other, _) => Err(unexpected("the daemon did not say hello", &other)),
        }
    }

    /// Runs a job on `input`, which must complete with the output `expected`.
    ///
    /// # Errors
    /// When it was refused, ended otherwise, or the connection broke.
    pub fn run(&mut self, job: &Submission, input: &[u8], expected: &[u8]) -> io::Result<Box<JobResult>> {
        let file = memfd::sealed("bench", input)?;
        let submission = Box::new(Submission { input: Vec::new().into(), ..job.clone() });
        let submit = ToDaemon::Submit { request: 1, wait: true, durable: false, submission };
        let frame = frame::encode_with(&submit, FRAME_BODY_BYTES_MAX, 1).map_err(io::Error::other)?;
        let (header, body) = frame.split_at(HEADER_BYTES);
        self.0.write_all(header)?;
        let sent = rights::send(self.0.as_fd(), body, &[file.as_fd()])?;
        self.0.write_all(body.get(sent..).unwrap_or_default())?;
        loop {
            match self.receive()? {
                (FromDaemon::Accepted { .. }, None) => {}
                (FromDaemon::Finished { result, .. }, output) => return finished(result, output, expected),
                (other, _) => return Err(unexpected("a job was not run", &other)),
            }
        }
    }

    /// The next message, and the file that came beside it.
    fn receive(&mut self) -> io::Result<(FromDaemon, Option<File>)> {
        let mut header = [0; HEADER_BYTES];
        self.0.read_exact(&mut header)?;
        let header = frame::header(header, FRAME_BODY_BYTES_MAX).map_err(io::Error::other)?;
        let mut body = vec![0; header.body_bytes];
        let mut came = rights::receive(self.0.as_fd(), &mut body, FRAME_FDS_MAX)?;
        self.0.read_exact(body.get_mut(came.length..).unwrap_or_default())?;
        Ok((codec::decode(&body).map_err(io::Error::other)?, came.fds.pop().map(File::from)))
    }
}

/// The result with its output, wherever that came.
fn finished(mut result: Box<JobResult>, output: Option<File>, expected: &[u8]) -> io::Result<Box<JobResult>> {
    if let Some(file) = output {
        let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, 0)?;
        result.output = bytes.into();
    }
    completed(&result, expected)?;
    Ok(result)
}
