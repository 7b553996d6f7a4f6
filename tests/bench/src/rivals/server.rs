//! Rivals that are servers: started once, asked for each job.
//!
//! Owns: their start on a socket of this machine, their end, and how each is spoken to.
//! Never: listens on anything but a Unix socket or the loopback interface.

use std::io::{self, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::http::Http;
use super::{CLIENTS, SOURCES, on_path};
use crate::jobs::{Job, TRANSFORM};
use crate::load::{Effort, closed_loop, one_at_a_time_from, round};
use crate::polled::Polled;
use crate::procfs;
use crate::report::Figures;
use crate::rows::Measured;
use crate::stockade::one;

/// Longest wait for a server to listen, or for one answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pause between two attempts to connect.
const GLANCE: Duration = Duration::from_millis(5);

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    NodeFork,
    IsolateFresh,
    IsolateReused,
    Workerd,
    WasmtimeServe,
}

/// What is spoken on its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speech {
    Framed,
    Http,
}

impl Kind {
    pub(super) const fn id(self) -> &'static str {
        match self {
            Self::NodeFork => "node-fork",
            Self::IsolateFresh => "isolated-vm-fresh",
            Self::IsolateReused => "isolated-vm-reused",
            Self::Workerd => "workerd",
            Self::WasmtimeServe => "wasmtime-serve",
        }
    }

    pub(super) const fn speech(self) -> Speech {
        match self {
            Self::NodeFork | Self::IsolateFresh | Self::IsolateReused => Speech::Framed,
            Self::Workerd | Self::WasmtimeServe => Speech::Http,
        }
    }

    pub(super) const fn isolation(self) -> &'static str {
        match self {
            Self::NodeFork => "a process, not confined",
            Self::IsolateFresh => "a V8 heap in one process",
            Self::IsolateReused => "a V8 context in one heap of one process",
            Self::Workerd => "a V8 heap that all of its jobs share, in one process",
            Self::WasmtimeServe => "a WebAssembly instance in one process",
        }
    }
}

/// A server of the bench's own.
pub(super) struct Server {
    child: Child,
    address: Address,
    _directory: TempDir,
}

enum Address {
    Unix(std::path::PathBuf),
    Loopback(SocketAddr),
}

/// Starts a server and waits until it listens.
pub(super) fn start(program: &Path, kind: Kind, job: Job, isolate: &Path) -> io::Result<Server> {
    let directory = TempDir::with_prefix("stockade-bench-")?;
    let socket = directory.path().join("socket");
    let source = |name: &str| format!("{SOURCES}/{name}");
    // The kernel ends it should this process end before it can.
    let mut command = on_path("setpriv").map_or_else(
        || Command::new(program),
        |setpriv| {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL"]).arg(program);
            command
        },
    );
    let address = match kind {
        Kind::NodeFork | Kind::IsolateFresh | Kind::IsolateReused => {
            // isolated-vm must not be given Node's own snapshot.
            command.args(["--no-node-snapshot", &source("node_server.js")]);
            let way = match kind {
                Kind::NodeFork => "fork",
                Kind::IsolateFresh => "isolate-fresh",
                _ => "isolate-reused",
            };
            let job = match job {
                Job::Noop => "noop",
                Job::Transform => "transform",
                Job::Compute => "compute",
                _ => "upper",
            };
            command.args([way, job]).arg(&socket);
            command.env("ISOLATED_VM", isolate);
            Address::Unix(socket)
        }
        Kind::Workerd => {
            let listen = format!("--socket-addr=http=unix:{}", socket.display());
            let config = if job == Job::Transform {
                transforming_worker(directory.path())?
            } else {
                source("workerd.capnp")
            };
            command.args(["serve", &config, &listen]);
            Address::Unix(socket)
        }
        Kind::WasmtimeServe => {
            // A port that was free a moment ago.
            let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
            command.args([
                "serve",
                "-O",
                "pooling-allocator",
                "--addr",
                &address.to_string(),
                &source("serve.wat"),
            ]);
            Address::Loopback(address)
        }
    };
    let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let mut server = Server { child, address, _directory: directory };
    let since = Instant::now();
    while server.connect().is_err() {
        if let Some(status) = server.child.try_wait()? {
            return Err(io::Error::other(format!("it ended before it listened: {status}")));
        }
        if since.elapsed() > PATIENCE {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not listen"));
        }
        std::thread::park_timeout(GLANCE);
    }
    Ok(server)
}

/// The configuration of a worker that is [`TRANSFORM`], made in `directory`: workerd takes no script at run time.
fn transforming_worker(directory: &Path) -> io::Result<String> {
    let worker = format!(
        "const transform =\n{};\nexport default {{ async fetch(request) {{\n  return new \
         Response(JSON.stringify(transform(await request.json())));\n}} }};\n",
        TRANSFORM.trim_end()
    );
    std::fs::write(directory.join("worker.mjs"), worker)?;
    let config = directory.join("workerd.capnp");
    std::fs::copy(format!("{SOURCES}/workerd.capnp"), &config)?;
    Ok(config.display().to_string())
}

/// Both kinds of stream.
pub(super) trait Stream: Read + Write + Send {}

impl Stream for Polled<UnixStream> {}

impl Stream for Polled<TcpStream> {}

/// What makes one request.
type Request = Box<dyn FnMut() -> io::Result<()>>;

impl Server {
    fn connect(&self) -> io::Result<Box<dyn Stream>> {
        match &self.address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Ok(Box::new(Polled(stream)))
            }
            Address::Loopback(address) => {
                let stream = TcpStream::connect_timeout(address, PATIENCE)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Ok(Box::new(Polled(stream)))
            }
        }
    }

    /// A connection that speaks frames.
    pub(super) fn framed(&self, job: Job) -> io::Result<Request> {
        let mut stream = BufReader::new(self.connect()?);
        let (input, expected) = (job.input(), job.output());
        let mut frame = u32::try_from(input.len()).map_err(io::Error::other)?.to_le_bytes().to_vec();
        frame.extend(input);
        Ok(Box::new(move || {
            stream.get_mut().write_all(&frame)?;
            let mut header = [0; 4];
            stream.read_exact(&mut header)?;
            let length = u32::from_le_bytes(header) as usize;
            if length != expected.len() {
                return Err(io::Error::other(format!("answered {length} bytes")));
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body)?;
            if body == expected { Ok(()) } else { Err(io::Error::other("answered something else")) }
        }))
    }

    /// A connection that speaks HTTP.
    pub(super) fn http(&self, job: Job) -> io::Result<Request> {
        let mut http = Http::new(self.connect()?, &job.input());
        let expected = job.output();
        Ok(Box::new(move || {
            let body = http.request()?;
            if body == expected { Ok(()) } else { Err(io::Error::other("answered something else")) }
        }))
    }

    /// One at a time, then several.
    pub(super) fn measure(
        &self,
        effort: &Effort,
        isolation: &str,
        connect: impl Fn() -> io::Result<Request> + Sync,
    ) -> io::Result<Measured> {
        let mut request = connect()?;
        let mut before = Duration::ZERO;
        let pid = self.child.id();
        let samples = one_at_a_time_from(effort, &mut request, || before = procfs::cpu_time(pid))?;
        let used = procfs::cpu_time(pid).saturating_sub(before);
        let mut figures = Figures {
            cpu_us: Some(round(used.as_secs_f64() * 1e6 / samples.len().max(1) as f64)),
            ..one(&samples)
        };
        for clients in CLIENTS {
            figures.clients.push(closed_loop(clients, effort.closed_loop, &connect)?);
        }
        Ok(Measured { figures, isolation: Some(isolation.to_owned()) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
