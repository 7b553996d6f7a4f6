//! What a job costs, as ratios to what the machine itself takes, measured in one run.
//!
//! Owns: the figures the README prints: `cargo bench --bench jobs` makes them again.
//! Never: asserts a time; a noisy machine is no reason to fail.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a measurement that cannot be taken has nothing better to do than to stop"
)]

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use stockade::sealed::SealedFile;
use stockade_sys::rights;
use stockade_wire::client::{FromDaemon, ToDaemon};
use stockade_wire::frame::{self, HEADER_BYTES};
use stockade_wire::job::{Isolation, JobResult, LimitsWanted, ModuleSource, Submission, Verdict};
use stockade_wire::limits::{BESIDE_BYTES_MIN, FRAME_BODY_BYTES_MAX};
use stockade_wire::{CLIENT_PROTOCOL_VERSION, CLIENT_PROTOCOL_VERSION_WITHOUT_DESCRIPTORS};

const NOOP: &str = r#"(module (func (export "noop") (result i32) i32.const 0))"#;
const SPIN: &str = r#"(module (func (export "_start") (loop $l br $l)) (memory (export "memory") 1))"#;

/// Returns what it is handed.
const ECHO: &str = r#"(module (memory (export "memory") 257)
  (func (export "stockade_alloc") (param i32) (result i32) i32.const 65536)
  (func (export "echo") (param i32 i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32)) (i64.extend_i32_u (local.get 1)))))"#;

/// Lengths of inputs that come back as outputs, bytes, and what the rounds are divided by for each.
const SIZES: [(&str, usize, usize); 3] =
    [("1 KB", 1 << 10, 5), ("1 MB", 1 << 20, 20), ("16 MB", 16 << 20, 100)];

const ECHO_BYTES: usize = 256;
const WARM_UP: usize = 200;

fn main() {
    // `cargo test --benches` passes a flag of the test harness; a short run then shows that the bench works.
    let short = std::env::args().any(|argument| argument == "--test");
    let rounds = if short { 50 } else { 5_000 };
    let echo = two_hop_echo(rounds);
    println!("two-hop Unix socket echo, {ECHO_BYTES} B       {}", echo.line(None));

    let daemon = Daemon::start();
    println!("start to first answer                 {:>8.1} ms", daemon.started.as_secs_f64() * 1e3);
    // `cargo bench --bench jobs -- sizes`: these rows alone, in a fifth of the rounds.
    if std::env::args().any(|argument| argument == "sizes") {
        return [false, true].into_iter().for_each(|beside| sizes(&daemon, beside, rounds / 5, &echo));
    }
    let mut client = Connection::open(&daemon.socket);
    let noop = submission(NOOP, None);
    let first = client.run(&noop);
    assert_eq!(first.outcome.verdict, Verdict::Completed, "{:?}", first.outcome);
    let noop = Submission { module: ModuleSource::Digest(first.module), ..noop };
    for _ in 0..WARM_UP.min(rounds) {
        client.run(&noop);
    }
    let before = resident_kib(daemon.child.id());
    let (mut views, mut bills) = (Samples::default(), Bills::default());
    for _ in 0..rounds {
        let since = Instant::now();
        let result = client.run(&noop);
        views.push(since.elapsed());
        bills.add(&result);
    }
    println!("no-op job, fresh process, one at a time  {}", views.line(Some(&echo)));
    bills.print();
    for clients in [2, 4, 8] {
        let per_second = throughput(&daemon.socket, &noop, clients, rounds);
        println!("no-op jobs, fresh, {clients} clients            {per_second:>8.0} /s");
    }
    tenant(&daemon, &mut client, &noop, &echo, rounds);
    let after = resident_kib(daemon.child.id());
    println!("supervisor resident memory             {before:>8} KiB before, {after} KiB after these jobs");
    println!("idle warm worker, PSS                  {:>8} KiB", idle_worker_pss_kib(daemon.child.id()));
    for beside in [false, true] {
        sizes(&daemon, beside, rounds, &echo);
    }
    let late = lateness(&mut client, if short { 3 } else { 100 });
    println!("spinning guest, deadline to result       {}", late.line(Some(&echo)));
}

/// The same job in a process that it shares with others of its tenant.
fn tenant(daemon: &Daemon, client: &mut Connection, noop: &Submission, echo: &Samples, rounds: usize) {
    let noop = Submission { isolation: Some(Isolation::Tenant), ..noop.clone() };
    let pid = daemon.child.id();
    for _ in 0..WARM_UP.min(rounds) {
        assert_eq!(client.run(&noop).isolation, Isolation::Tenant);
    }
    let (mut views, mut bills) = (Samples::default(), Bills::default());
    let cpu = cpu_us(pid);
    for _ in 0..rounds {
        let since = Instant::now();
        let result = client.run(&noop);
        views.push(since.elapsed());
        bills.add(&result);
    }
    let own = (cpu_us(pid) - cpu) / rounds as f64;
    println!("no-op job, tenant, one at a time         {}", views.line(Some(echo)));
    println!("    supervisor's CPU time a job            {own:>8.1} µs");
    bills.print();
    for clients in [1, 8, 64] {
        let rounds = rounds * 4;
        let cpu = cpu_us(pid);
        let per_second = throughput(&daemon.socket, &noop, clients, rounds);
        let own = (cpu_us(pid) - cpu) / rounds as f64;
        println!(
            "no-op jobs, tenant, {clients:>2} clients          {per_second:>8.0} /s  {own:>5.1} µs of the supervisor"
        );
    }
}

/// CPU time of a process's first thread, which is all the supervisor has on a job's way, µs.
fn cpu_us(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    text.split_whitespace().next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1e3
}

/// Durations, and what to say of them.
#[derive(Default)]
struct Samples(Vec<Duration>);

impl Samples {
    fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    fn percentile(&self, hundredth: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted[(sorted.len() - 1) * hundredth / 100].as_secs_f64() * 1e6
    }

    fn line(&self, floor: Option<&Self>) -> String {
        let (p50, p99) = (self.percentile(50), self.percentile(99));
        let ratio = floor
            .map_or_else(String::new, |floor| format!("  {:>5.1} × the echo", p50 / floor.percentile(50)));
        format!("p50 {p50:>8.1} µs  p99 {p99:>8.1} µs{ratio}")
    }
}

/// Where the time of a job goes, from its own bill.
#[derive(Default)]
struct Bills([Samples; 6]);

impl Bills {
    const NAMES: [&str; 6] = ["queue", "compile", "fork", "load", "run", "teardown"];

    fn add(&mut self, result: &JobResult) {
        let bill = &result.bill;
        let parts =
            [bill.queue_us, bill.compile_us, bill.fork_us, bill.load_us, bill.run_us, bill.teardown_us];
        for (samples, part) in self.0.iter_mut().zip(parts) {
            samples.push(Duration::from_micros(part.unwrap_or(0)));
        }
    }

    fn print(&self) {
        for (name, samples) in Self::NAMES.iter().zip(&self.0) {
            println!("    of which {name:<10}                  p50 {:>8.0} µs", samples.percentile(50));
        }
    }
}

/// A message to a neighbour's neighbour and back: what any daemon with a worker behind it takes at least.
fn two_hop_echo(rounds: usize) -> Samples {
    fn hop(mut from: UnixStream, mut to: Option<UnixStream>) {
        let mut buffer = [0; ECHO_BYTES];
        while from.read_exact(&mut buffer).is_ok() {
            if let Some(next) = &mut to {
                next.write_all(&buffer).unwrap();
                next.read_exact(&mut buffer).unwrap();
            }
            from.write_all(&buffer).unwrap();
        }
    }
    let (mut client, middle) = UnixStream::pair().unwrap();
    let (middle_out, end) = UnixStream::pair().unwrap();
    let threads = [
        std::thread::spawn(move || hop(middle, Some(middle_out))),
        std::thread::spawn(move || hop(end, None)),
    ];
    let mut samples = Samples::default();
    let mut buffer = [7; ECHO_BYTES];
    for _ in 0..rounds {
        let since = Instant::now();
        client.write_all(&buffer).unwrap();
        client.read_exact(&mut buffer).unwrap();
        samples.push(since.elapsed());
    }
    drop(client);
    for thread in threads {
        thread.join().unwrap();
    }
    samples
}

fn throughput(socket: &Path, job: &Submission, clients: usize, rounds: usize) -> f64 {
    let since = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                let mut client = Connection::open(socket);
                for _ in 0..rounds / clients {
                    client.run(job);
                }
            });
        }
    });
    (rounds / clients * clients) as f64 / since.elapsed().as_secs_f64()
}

/// Jobs whose output is their input, in frames or beside them, and what a job costs the supervisor.
fn sizes(daemon: &Daemon, beside: bool, rounds: usize, floor: &Samples) {
    let how = if beside { "beside" } else { "frames" };
    let mut client = Connection::open(&daemon.socket);
    let limits = LimitsWanted { output_bytes: Some(16 << 20), ..LimitsWanted::default() };
    let job = Submission { limits, ..submission(ECHO, None) };
    let first = client.run(&job);
    assert_eq!(first.outcome.verdict, Verdict::Completed, "{:?}", first.outcome);
    let job = Submission { module: ModuleSource::Digest(first.module), ..job };
    let mut with_files = if beside { WithFiles::open(&daemon.socket) } else { None };
    if beside && with_files.is_none() {
        return println!("in and out, beside                   not spoken by this daemon");
    }
    for (name, bytes, divisor) in SIZES {
        let rounds = (rounds / divisor).max(3);
        let input: Vec<u8> = (0..=255).cycle().take(bytes).collect();
        let mut samples = Samples::default();
        let before = cpu_time(daemon.child.id());
        for _ in 0..rounds {
            let since = Instant::now();
            let output = match &mut with_files {
                Some(client) => client.exchange(&job, &input),
                None => client.run(&Submission { input: input.clone().into(), ..job.clone() }).output.0,
            };
            samples.push(since.elapsed());
            assert!(output == input);
        }
        let cpu_us = (cpu_time(daemon.child.id()) - before).as_secs_f64() * 1e6 / rounds as f64;
        println!(
            "{name:>5} in and out, {how:<6}              {}  supervisor {cpu_us:>7.0} µs of CPU",
            samples.line(Some(floor))
        );
    }
}

fn lateness(client: &mut Connection, rounds: usize) -> Samples {
    let timeout = Duration::from_millis(20);
    let spin = submission(SPIN, Some(timeout));
    let first = client.run(&spin);
    assert_eq!(first.outcome.verdict, Verdict::TimedOut, "{:?}", first.outcome);
    let spin = Submission { module: ModuleSource::Digest(first.module), ..spin };
    let mut samples = Samples::default();
    for _ in 0..rounds {
        let since = Instant::now();
        client.run(&spin);
        samples.push(since.elapsed().saturating_sub(timeout));
    }
    samples
}

fn submission(text: &str, timeout: Option<Duration>) -> Submission {
    Submission {
        module: ModuleSource::Bytes(text.as_bytes().to_vec().into()),
        name: "bench".to_owned(),
        entry: None,
        arguments: Vec::new(),
        input: Vec::new().into(),
        environment: Vec::new(),
        directories: Vec::new(),
        profile: None,
        limits: LimitsWanted {
            timeout_us: timeout.map(|timeout| u64::try_from(timeout.as_micros()).unwrap()),
            ..LimitsWanted::default()
        },
        isolation: None,
        tenant: None,
        require: Vec::new(),
        traceparent: None,
        request_id: None,
        purpose: stockade_wire::job::Purpose::Run,
    }
}

/// A client that does nothing but wait: its own time counts as little as it can.
struct Connection {
    stream: UnixStream,
    /// What has come and is not read yet, from `next` on.
    buffer: Vec<u8>,
    next: usize,
}

impl Connection {
    fn open(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        let mut connection = Self { stream, buffer: Vec::new(), next: 0 };
        connection.send(&ToDaemon::Hello {
            version: CLIENT_PROTOCOL_VERSION_WITHOUT_DESCRIPTORS,
            agent: "bench".to_owned(),
        });
        assert!(matches!(connection.receive(), FromDaemon::Hello { .. }));
        connection
    }

    fn run(&mut self, submission: &Submission) -> Box<JobResult> {
        self.send(&ToDaemon::Submit {
            request: 1,
            wait: true,
            durable: false,
            submission: Box::new(submission.clone()),
        });
        loop {
            match self.receive() {
                FromDaemon::Accepted { .. } => {}
                FromDaemon::Finished { result, .. } => return result,
                other => panic!("{other:?}"),
            }
        }
    }

    fn send(&mut self, message: &ToDaemon) {
        self.stream.write_all(&frame::encode(message, FRAME_BODY_BYTES_MAX).unwrap()).unwrap();
    }

    fn receive(&mut self) -> FromDaemon {
        self.fill(HEADER_BYTES);
        let header = self.buffer[self.next..self.next + HEADER_BYTES].try_into().unwrap();
        let length = frame::body_length(header, FRAME_BODY_BYTES_MAX).unwrap();
        self.fill(HEADER_BYTES + length);
        let body = self.next + HEADER_BYTES;
        self.next = body + length;
        stockade_wire::codec::decode(&self.buffer[body..self.next]).unwrap()
    }

    /// Reads until there are so many bytes.
    fn fill(&mut self, length: usize) {
        let mut chunk = [0; 16 << 10];
        while self.buffer.len() - self.next < length {
            self.buffer.drain(..self.next);
            self.next = 0;
            let came = self.stream.read(&mut chunk).unwrap();
            assert!(came > 0, "the daemon closed the connection");
            self.buffer.extend_from_slice(&chunk[..came]);
        }
    }
}

/// A client that gives large inputs and takes large outputs as files.
struct WithFiles(UnixStream);

impl WithFiles {
    /// `None` when the daemon does not speak that version.
    fn open(socket: &Path) -> Option<Self> {
        let mut connection = Self(UnixStream::connect(socket).unwrap());
        let hello = ToDaemon::Hello { version: CLIENT_PROTOCOL_VERSION, agent: "bench".to_owned() };
        connection.0.write_all(&frame::encode(&hello, FRAME_BODY_BYTES_MAX).unwrap()).unwrap();
        matches!(connection.receive(), (FromDaemon::Hello { .. }, _)).then_some(connection)
    }

    /// Runs a job with that input, for its output.
    fn exchange(&mut self, job: &Submission, input: &[u8]) -> Vec<u8> {
        let file = (input.len() >= BESIDE_BYTES_MIN).then(|| SealedFile::holding("bench", input).unwrap());
        let fds: Vec<_> = file.iter().map(AsFd::as_fd).collect();
        let in_frame = if fds.is_empty() { input.to_vec() } else { Vec::new() };
        let submission = Box::new(Submission { input: in_frame.into(), ..job.clone() });
        let submit = ToDaemon::Submit { request: 1, wait: true, durable: false, submission };
        let frame = frame::encode_with(&submit, FRAME_BODY_BYTES_MAX, fds.len()).unwrap();
        if fds.is_empty() {
            self.0.write_all(&frame).unwrap();
        } else {
            let (header, body) = frame.split_at(HEADER_BYTES);
            self.0.write_all(header).unwrap();
            assert_eq!(rights::send(self.0.as_fd(), body, &fds), Ok(body.len()));
        }
        assert!(matches!(self.receive(), (FromDaemon::Accepted { .. }, None)));
        match self.receive() {
            (FromDaemon::Finished { .. }, Some(output)) => output.read().unwrap(),
            (FromDaemon::Finished { result, .. }, None) => result.output.0,
            other => panic!("{other:?}"),
        }
    }

    fn receive(&mut self) -> (FromDaemon, Option<SealedFile>) {
        let mut header = [0; HEADER_BYTES];
        self.0.read_exact(&mut header).unwrap();
        let header = frame::header(header, FRAME_BODY_BYTES_MAX).unwrap();
        let mut body = vec![0; header.body_bytes];
        let came = rights::receive(self.0.as_fd(), &mut body, header.fds).unwrap();
        self.0.read_exact(&mut body[came.length..]).unwrap();
        let file = came.fds.first().map(|fd| SealedFile::examine(fd, u64::MAX).unwrap());
        (stockade_wire::codec::decode(&body).unwrap(), file)
    }
}

/// A daemon of its own, with nothing cached but what this run makes.
struct Daemon {
    child: Child,
    socket: PathBuf,
    started: Duration,
    _directory: tempfile::TempDir,
}

impl Daemon {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let since = Instant::now();
        // Another build can be measured by naming it.
        let executable = std::env::var_os("STOCKADE_EXECUTABLE");
        let child = Command::new(executable.unwrap_or_else(|| env!("CARGO_BIN_EXE_stockade").into()))
            .arg("serve")
            .env("STOCKADE_SOCKET", &socket)
            .env("STOCKADE_CACHE_DIRECTORY", directory.path().join("cache"))
            .env("STOCKADE_LOG_FILTER", "warn")
            // Those of one user are fewer by default than there are clients here.
            .env("STOCKADE_CLIENTS_CONNECTIONS_PER_UID_MAX", "128")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        while UnixStream::connect(&socket).is_err() {
            assert!(since.elapsed() < Duration::from_secs(20), "the daemon does not listen");
            std::thread::yield_now();
        }
        // It listens before it has tried its walls, and answers after.
        Connection::open(&socket);
        Self { child, socket, started: since.elapsed(), _directory: directory }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Workers and zygote die with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time of all threads of a process, to the nanosecond.
fn cpu_time(pid: u32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let files = threads.map(|thread| thread.unwrap().path().join("schedstat"));
    let first =
        |text: String| text.split(' ').next().and_then(|ns| ns.parse().ok()).map(Duration::from_nanos);
    files.filter_map(|file| first(std::fs::read_to_string(file).ok()?)).sum()
}

fn resident_kib(pid: u32) -> u64 {
    kib_of(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// The proportional share of one idle worker: what one more of them costs.
fn idle_worker_pss_kib(supervisor: u32) -> u64 {
    let children = std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).unwrap();
    let workers = children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok());
    let shares = workers.map(|pid| kib_of(&format!("/proc/{pid}/smaps_rollup"), "Pss_Anon:"));
    shares.filter(|share| *share > 0).min().unwrap_or(0)
}

fn kib_of(file: &str, field: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
