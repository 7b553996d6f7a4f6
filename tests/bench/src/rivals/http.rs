//! As much of HTTP/1.1 as a benchmark needs: one connection, one request after the other.
//!
//! Owns: the request's bytes, and finding the end of an answer.
//! Never: follows, redirects, compresses or reconnects.

use std::io::{self, BufRead, BufReader, Read, Write};

use super::server::Stream;

/// Largest body of an answer, bytes.
const BODY_BYTES_MAX: usize = 4 << 20;

/// A connection that is kept alive.
pub(super) struct Http<S = Box<dyn Stream>> {
    stream: BufReader<S>,
    request: Vec<u8>,
}

impl<S: Read + Write> Http<S> {
    /// Makes the same request each time: GET without a body, POST with one.
    pub(super) fn new(stream: S, body: &[u8]) -> Self {
        let method = if body.is_empty() { "GET" } else { "POST" };
        let mut request = format!("{method} / HTTP/1.1\r\nHost: localhost\r\n");
        if !body.is_empty() {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        let request = [request.as_bytes(), b"\r\n", body].concat();
        Self { stream: BufReader::new(stream), request }
    }

    /// Sends it; the answer's body.
    pub(super) fn request(&mut self) -> io::Result<Vec<u8>> {
        self.stream.get_mut().write_all(&self.request)?;
        let status = self.line()?;
        if !status.starts_with("HTTP/1.1 200") {
            return Err(io::Error::other(format!("answered {status:?}")));
        }
        let (mut length, mut chunked) = (None, false);
        loop {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = Some(value.trim().parse().map_err(io::Error::other)?);
            }
            chunked |= line.strip_prefix("transfer-encoding:").is_some_and(|value| value.trim() == "chunked");
        }
        match (chunked, length) {
            (true, _) => self.chunks(),
            (false, Some(length)) => self.bytes(length),
            (false, None) => Err(io::Error::other("an answer of unknown length")),
        }
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let length = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            if body.len() + length > BODY_BYTES_MAX {
                return Err(io::Error::other("an answer is too long"));
            }
            body.extend(self.bytes(length)?);
            // The end of the chunk; after the last the end of trailers, of which there are none.
            self.line()?;
            if length == 0 {
                return Ok(body);
            }
        }
    }

    fn bytes(&mut self, length: usize) -> io::Result<Vec<u8>> {
        if length > BODY_BYTES_MAX {
            return Err(io::Error::other("an answer is too long"));
        }
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// A line without its end.
    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if (&mut self.stream).take(BODY_BYTES_MAX as u64).read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Played(io::Cursor<Vec<u8>>);

    impl Read for Played {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Played {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn answers(text: &str) -> Http<Played> {
        Http::new(Played(io::Cursor::new(text.as_bytes().to_vec())), b"body")
    }

    #[test]
    fn bodies_with_a_length_and_in_chunks_are_read_to_their_end() {
        let mut http = answers(
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHELLO\
             HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nHEL\r\n2\r\nLO\r\n0\r\n\r\n\
             HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        );
        assert_eq!(http.request().unwrap(), b"HELLO");
        assert_eq!(http.request().unwrap(), b"HELLO");
        assert_eq!(http.request().unwrap(), b"");
        assert!(http.request().is_err());
    }

    #[test]
    fn answers_that_are_not_well_are_errors() {
        assert!(answers("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n").request().is_err());
        assert!(answers("HTTP/1.1 200 OK\r\n\r\n").request().is_err());
        assert!(answers("HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n").request().is_err());
    }
}
