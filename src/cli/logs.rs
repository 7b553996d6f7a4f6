//! `stockade logs`: what a job printed.
//!
//! Owns: that the daemon is read from at its pace and the terminal written to at its own.
//! Never: lets a guest's control characters reach a terminal.
//!
//! ```text
//! daemon ──▶ read ──▶ one bounded ring a stream ──▶ write ──▶ standard output, standard error
//! ```
//!
//! The daemon closes clients that do not read; a paused pager only makes the rings forget.

use std::cell::{Cell, RefCell};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use stockade_wire::job::LogStream;
use tokio::sync::Notify;

use super::args::LogsArgs;
use super::exit;
use super::output::Output;
use super::remote::{self, RemoteError};
use crate::client::{Client, LogPart};
use crate::supervisor::logs::{Chunk, LogRing, TerminalText};

/// What is kept of each stream for a reader that does not keep up, bytes.
const RING_BYTES: usize = 4 << 20;

/// What is written at once, bytes.
const WRITE_BYTES: usize = 64 << 10;

/// Prints the logs of a job of the daemon on `path`.
pub(super) fn logs(path: &Path, args: &LogsArgs) -> ExitCode {
    match remote::ask(path, async |client| print(client, args).await) {
        Ok(()) => ExitCode::SUCCESS,
        Err(RemoteError::Write(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::from(exit::BROKEN_PIPE)
        }
        Err(error) => Output::error(&error, exit::FAILURE).print(),
    }
}

async fn print(client: &mut Client, args: &LogsArgs) -> Result<(), RemoteError> {
    let between = Between::new();
    let reading = async {
        let read = read(client, args, &between).await;
        between.end();
        read
    };
    // Everything that came is written even when the connection then breaks; a reader who went away ends both.
    let writing = async { write(&between).await.map_err(RemoteError::Write) };
    tokio::pin!(reading, writing);
    tokio::select! {
        read = &mut reading => {
            writing.await?;
            read
        }
        written = &mut writing => {
            written?;
            reading.await
        }
    }
}

async fn read(client: &mut Client, args: &LogsArgs, between: &Between) -> Result<(), RemoteError> {
    let log = client.logs(&args.job, args.follow).await?;
    while let Some(part) = client.log_part(&log, &args.job).await? {
        between.add(&part);
    }
    Ok(())
}

async fn write(between: &Between) -> std::io::Result<()> {
    let mut stdout = Printer::new(std::io::stdout().is_terminal());
    let mut stderr = Printer::new(std::io::stderr().is_terminal());
    loop {
        let news = between.news.notified();
        let ended = between.ended.get();
        let mut out = stdout.next(&between.stdout);
        let mut err = stderr.next(&between.stderr);
        let idle = out.is_empty() && err.is_empty();
        if idle && ended {
            out = stdout.finish();
            err = stderr.finish();
        }
        // On another thread, so that the daemon is read from meanwhile.
        let written = tokio::task::spawn_blocking(move || {
            std::io::stdout().write_all(&out).and_then(|()| std::io::stdout().flush())?;
            std::io::stderr().write_all(&err)
        });
        written.await.map_err(std::io::Error::other)??;
        match (idle, ended) {
            (true, true) => return Ok(()),
            (true, false) => news.await,
            (false, _) => {}
        }
    }
}

/// What was read and not written yet.
struct Between {
    stdout: RefCell<Stream>,
    stderr: RefCell<Stream>,
    ended: Cell<bool>,
    news: Notify,
}

struct Stream {
    ring: LogRing,
    /// Lost on the daemon's side since the last part written.
    skipped_bytes: u64,
}

impl Between {
    fn new() -> Self {
        let stream = || RefCell::new(Stream { ring: LogRing::new(RING_BYTES, usize::MAX), skipped_bytes: 0 });
        Self { stdout: stream(), stderr: stream(), ended: Cell::new(false), news: Notify::new() }
    }

    fn add(&self, part: &LogPart) {
        let mut stream = match part.stream {
            LogStream::Stdout => self.stdout.borrow_mut(),
            LogStream::Stderr => self.stderr.borrow_mut(),
        };
        stream.skipped_bytes = stream.skipped_bytes.saturating_add(part.skipped_bytes);
        stream.ring.push(&part.bytes);
        self.news.notify_one();
    }

    fn end(&self) {
        self.ended.set(true);
        self.news.notify_one();
    }
}

/// One stream on its way out.
struct Printer {
    offset: u64,
    terminal: Option<TerminalText>,
}

impl Printer {
    fn new(terminal: bool) -> Self {
        Self { offset: 0, terminal: terminal.then(TerminalText::default) }
    }

    /// What to write next; empty when there is nothing new. A character that has come in part is held back.
    fn next(&mut self, stream: &RefCell<Stream>) -> Vec<u8> {
        let mut stream = stream.borrow_mut();
        let Chunk { skipped_bytes, bytes, next } = stream.ring.read_from(self.offset, WRITE_BYTES);
        self.offset = next;
        let lost = skipped_bytes.saturating_add(std::mem::take(&mut stream.skipped_bytes));
        let text = match &mut self.terminal {
            Some(_) if bytes.is_empty() => Vec::new(),
            Some(terminal) => terminal.push(&bytes).into_bytes(),
            None => bytes,
        };
        match lost {
            0 => text,
            _ => [format!("[{lost} bytes lost]\n").into_bytes(), text].concat(),
        }
    }

    /// What was held back, now that nothing follows.
    fn finish(&mut self) -> Vec<u8> {
        self.terminal.as_mut().map(|terminal| terminal.finish().into_bytes()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(bytes: &[u8], skipped_bytes: u64) -> LogPart {
        LogPart { stream: LogStream::Stdout, skipped_bytes, bytes: bytes.to_vec() }
    }

    #[test]
    fn printer_for_a_terminal_makes_logs_harmless() {
        let between = Between::new();
        let mut printer = Printer::new(true);
        between.add(&part(b"\x1b[2Jcaf\xc3", 0));
        assert_eq!(printer.next(&between.stdout), b"\\x1b[2Jcaf");
        between.add(&part(b"\xa9\n", 0));
        assert_eq!(printer.next(&between.stdout), "é\n".as_bytes());
        assert!(printer.next(&between.stdout).is_empty());
        between.add(&part(b"\xc3", 0));
        assert!(printer.next(&between.stdout).is_empty());
        assert_eq!(printer.finish(), b"\\xc3");
        assert!(Printer::new(true).next(&between.stderr).is_empty());
    }

    #[test]
    fn printer_for_a_file_leaves_logs_as_they_are() {
        let between = Between::new();
        between.add(&part(b"\x1b\xff", 0));
        assert_eq!(Printer::new(false).next(&between.stdout), b"\x1b\xff");
    }

    #[test]
    fn printer_that_does_not_keep_up_tells_what_was_lost_on_either_side() {
        let between = Between::new();
        between.add(&part(b"x", 5));
        between.add(&part(&vec![b'y'; RING_BYTES], 7));
        let mut printer = Printer::new(false);
        let text = printer.next(&between.stdout);
        assert!(text.starts_with(b"[13 bytes lost]\nyyy"));
        assert!(printer.next(&between.stdout).starts_with(b"yyy"));
    }
}
