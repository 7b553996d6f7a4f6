//! Where a guest's output and logs go.
//!
//! Owns: one descriptor, for as long as anybody may write to it.
//! Never: closes it with a job: the next job of the process writes to the same one.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use stockade_wire::limits::RETURNED_BYTES_MAX;
use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

/// Most bytes a guest hands over in one write.
const WRITE_BYTES: usize = 64 << 10;

/// A stream that a guest writes. Copies are the same stream; blocks while nobody reads.
#[derive(Debug, Clone)]
pub struct Sink {
    file: Arc<File>,
    returned: Option<Returned>,
}

/// Where a short value that a function returns is put, so that it can go with the report.
pub(crate) type Returned = Arc<OnceLock<Vec<u8>>>;

impl From<OwnedFd> for Sink {
    fn from(fd: OwnedFd) -> Self {
        Self { file: Arc::new(File::from(fd)), returned: None }
    }
}

impl Sink {
    /// The same stream, but for the value of a function: that is put in `place`, if it is short.
    pub(crate) fn returning(&self, place: &Returned) -> Self {
        Self { file: Arc::clone(&self.file), returned: Some(Arc::clone(place)) }
    }

    /// Passes on what a function returned: all that its job writes.
    pub(super) fn deliver(&mut self, value: &[u8]) -> io::Result<()> {
        match &self.returned {
            Some(place) if value.len() <= RETURNED_BYTES_MAX && place.set(value.to_vec()).is_ok() => Ok(()),
            Some(_) | None => self.write_all(value),
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.file).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl IsTerminal for Sink {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Sink {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Sink {
    async fn ready(&mut self) {}
}

impl OutputStream for Sink {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        (&*self.file).write_all(&bytes).map_err(|error| StreamError::LastOperationFailed(error.into()))
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES)
    }
}

impl AsyncWrite for Sink {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready((&*self.file).write(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
