//! What a hijacked or broken worker might do.
//!
//! Owns: the choice, by [`RunOrder::entry`] once there is an order, by the executable's file name before.
//! Never: misbehaves for an entry it does not know; such an order is carried out as the product would.
//!
//! | entry | what the worker does |
//! |---|---|
//! | `ignore-sigterm` | ignores SIGTERM, is sealed, says `begun` in its log, spins natively for ever |
//! | `spin` | is sealed, says `begun`, spins natively for ever |
//! | `sleep` | is sealed, says `begun`, sleeps for ever (stop it from outside with SIGSTOP: it cannot signal itself) |
//! | `exit-0-without-reply` | exits as after a success, having said nothing |
//! | `exit-7` | exits with status 7, having said nothing |
//! | `reply-twice` | reports success twice |
//! | `reply-then-spin` | reports success and does not exit |
//! | `reply-with-usage-then-spin` | the same, and says that it used next to nothing, as one that is about to exit does |
//! | `reply-late:MS` | ignores SIGTERM, is sealed, reports success after that time, spins, and says so 800 ms later |
//! | `wrong-kind` | reports a compilation |
//! | `locked-again` | reports a second lock |
//! | `garbage` | sends a packet of bytes that are no message |
//! | `empty` | sends a frame without a body |
//! | `oversize` | sends a well-formed frame above the link's limit |
//! | `long-text` | reports a failure with a text above its limit |
//! | `socket`, `exec`, `open`, `kill-parent` | makes one forbidden call |
//! | `fork-bomb`, `thread` | tries to start a process, a thread |
//! | `fork-bomb-unfiltered`, `thread-bomb-unfiltered` | where there is no filter: starts as many as it can, says `begun`, spins |
//! | `flood-stderr`, `flood-output` | writes natively without end |
//! | `change-input` | tries to write to its input; reports what came of it as a failure's text |
//! | `flood-stderr:BYTES` | the same, so many bytes at a time |
//! | `panic` | panics |
//! | `abort` | aborts |
//! | `overflow-stack` | recurses natively without end |
//! | `eat-memory` | allocates natively without end |
//! | `probe:NAME` | is sealed, runs a probe, reports its outcome as a failure's text |
//! | `unsealed-probe:NAME` | the same before the seal |
//!
//! | entry of a worker that stays | what it does besides running the guest |
//! |---|---|
//! | `spin-before` | spins natively for ever before it runs it |
//! | `claim-wrong-figures` | reports figures that cannot be |
//! | `then-reply-again`, `then-say-garbage` | sends that after its reply |
//! | `then-write`, `then-flood` | writes to its log after its reply, once or without end |
//! | `then-die` | exits after its reply |
//! | `then-spin` | spins natively after its reply, and takes no further order |
//!
//! | script's name | what the worker does instead of compiling it ahead |
//! |---|---|
//! | `nonsense-BYTE.js` | says that it compiles to that byte and others |
//! | `much.js` | says that it compiles to more than may be kept |
//! | `nothing.js` | says that it compiles to nothing |
//! | `silent.js` | exits, having said nothing |
//! | `spin.js` | spins natively for ever |
//!
//! | script's name | what the worker does that is to run it |
//! |---|---|
//! | `tells.js` | says what it compiles to, and exits |
//!
//! | file name | what the worker does |
//! |---|---|
//! | `die-before-lock` | exits before the first layer |
//! | `hang-before-lock` | sleeps before the first layer |
//! | `lie-in-report` | claims layers it does not have |
//! | `confess-in-report` | claims to have no layer |
//! | `lie-in-FIELD` | is false in that field of its report alone, see [`LIES`] |
//! | `exit-before-order` | locks, and exits before it says so |
//! | `hang-before-report` | locks, and does not say so |
//! | `keep-what-was-drawn` | as a template, keeps an instance whose initialiser has called the host |
//! | `hang-in-compile` | with a module to compile, sleeps |
//! | `spin-in-compile` | spins natively |
//! | `die-in-compile` | exits with status 7, having said nothing |
//! | `panic-in-compile`, `abort-in-compile`, `socket-in-compile` | does that |
//! | `lie-in-compile` | announces an artifact that is not there |
//! | `run-in-compile` | reports a run |
//! | `linger-in-compile` | says that it compiled, and does not exit |
//! | `poison-in-compile` | says that it compiled and hands over bytes that are no artifact |

use std::convert::Infallible;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd::getppid;
use stockade_sys::prctl::exit_now;
use stockade_sys::probe::call_after;
use stockade_sys::signals::ignore;
use stockade_sys::solo::SingleThreaded;
use stockade_wire::job::{Layer, MissingLayer};
use stockade_wire::limits::{GUEST_TEXT_BYTES_MAX, LINK_MESSAGE_BYTES_MAX, SCRIPT_FORM_BYTES_MAX};
use stockade_wire::worker::{
    CompileOrder, CompileReport, CompiledForm, Ending, FromWorker, GuestKind, JailReport, Role, RunOrder,
    RunReport, Usage,
};
use stockade_worker::engine::Warm;
use stockade_worker::jail::Locked;
use stockade_worker::jail::seccomp::syscall_number;
use stockade_worker::role::{Behaviour, CompileFds, Link, RunFds};

use crate::probe;

/// Exit status of a misbehaviour that came to an end it should not have reached.
pub const SURVIVED_STATUS: i32 = 99;

static OWN_NAME: OnceLock<String> = OnceLock::new();

/// The behaviour of an executable called `path`.
#[must_use]
pub fn behaviour(path: &str) -> Behaviour {
    let name = Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let _ = OWN_NAME.set(name.to_owned());
    Behaviour { born, announce, run, keep, ordered, reported, stayed, compile }
}

fn own_name() -> &'static str {
    OWN_NAME.get().map_or("", String::as_str)
}

fn born(_role: Role) {
    match own_name() {
        "die-before-lock" => exit_now(SURVIVED_STATUS),
        "hang-before-lock" => sleep_for_ever(),
        _ => {}
    }
}

fn announce(report: &mut JailReport) {
    match own_name() {
        "lie-in-report" => {
            report.landlock_abi = 99;
            report.namespaces = vec!["net".to_owned(), "user".to_owned(), "moon".to_owned()];
            report.seccomp_mode = 1;
            report.uid = 4_294_967_294;
            report.open_fds = Vec::new();
        }
        name if name.starts_with("lie-in-") => lie(name.trim_start_matches("lie-in-"), report),
        "confess-in-report" => *report = JailReport::default(),
        "exit-before-order" => exit_now(0),
        "hang-before-report" => sleep_for_ever(),
        _ => {}
    }
}

/// What a worker can be false in: fields of its report.
pub const LIES: [&str; 14] = [
    "landlock-abi",
    "namespaces",
    "core",
    "fsize",
    "nofile",
    "data",
    "no-new-privs",
    "not-dumpable",
    "seccomp-mode",
    "seccomp-filtered",
    "capabilities-empty",
    "open-fds",
    "ids",
    "missing",
];

fn lie(field: &str, report: &mut JailReport) {
    match field {
        "landlock-abi" => report.landlock_abi += 1,
        "namespaces" => report.namespaces.push("moon".to_owned()),
        "no-new-privs" => report.no_new_privs ^= true,
        "not-dumpable" => report.not_dumpable ^= true,
        "seccomp-mode" => report.seccomp_mode ^= 2,
        "seccomp-filtered" => report.seccomp_filtered ^= true,
        "capabilities-empty" => report.capabilities_empty ^= true,
        "open-fds" => report.open_fds.truncate(1),
        "ids" => report.gid += 1,
        "missing" => report.missing.push(MissingLayer {
            layer: Layer::Seccomp.name().to_owned(),
            reason: "it is not so".to_owned(),
            fix: "believe it".to_owned(),
        }),
        limit => {
            for (_, value) in report.rlimits.iter_mut().filter(|(name, _)| name == limit) {
                *value += 1;
            }
        }
    }
}

fn run(locked: Locked, order: RunOrder, fds: RunFds, warm: &Warm) -> Infallible {
    let entry = order.entry.clone().unwrap_or_default();
    if let Some(name) = entry.strip_prefix("unsealed-probe:") {
        report_probe(fds.link, name);
    }
    if let Some(name) = entry.strip_prefix("probe:") {
        seal(locked, &order);
        report_probe(fds.link, name);
    }
    if let Some(ms) = entry.strip_prefix("reply-late:").and_then(|ms| ms.parse().ok()) {
        reply_late(locked, &order, &fds, Duration::from_millis(ms));
    }
    if let Some(bytes) = entry.strip_prefix("flood-stderr:").and_then(|bytes| bytes.parse().ok()) {
        seal(locked, &order);
        flood(fds.stderr_log.into(), bytes);
        exit_now(SURVIVED_STATUS)
    }
    let Some(act) = act_of(&entry) else { return (Behaviour::standard().run)(locked, order, fds, warm) };
    if entry == "ignore-sigterm" && ignore(Signal::SIGTERM).is_err() {
        exit_now(SURVIVED_STATUS)
    }
    seal(locked, &order);
    act(fds);
    exit_now(SURVIVED_STATUS)
}

/// The leak on purpose: what was drawn while the module was initialised goes to every fork.
fn keep(called_the_host: bool) -> bool {
    !called_the_host || own_name() == "keep-what-was-drawn"
}

/// What one says of a script, to whoever asks and to whoever does not.
fn tell_form(order: &RunOrder, link: Link) {
    let asked = order.script.as_ref().is_some_and(|script| script.compiled == CompiledForm::Wanted);
    let tell = |form: Option<Vec<u8>>| {
        let FromWorker::Finished(report) = success() else { exit_now(SURVIVED_STATUS) };
        say(link, &FromWorker::CompiledScript(report, form.map(Into::into)));
        exit_now(0)
    };
    let first = order.name.strip_prefix("nonsense-").and_then(|name| name.strip_suffix(".js")?.parse().ok());
    match (order.name.as_str(), first) {
        (_, Some(first)) if asked => tell(Some([&[first], [0xa5; 64].as_slice()].concat())),
        ("much.js", _) if asked => tell(Some(vec![1; SCRIPT_FORM_BYTES_MAX + 1])),
        ("nothing.js", _) if asked => tell(None),
        ("silent.js", _) if asked => exit_now(0),
        ("spin.js", _) if asked => spin(),
        ("tells.js", _) if !asked => tell(Some(vec![1; 8])),
        _ => {}
    }
}

fn ordered(order: &RunOrder, link: Link) {
    tell_form(order, link);
    if order.entry.as_deref() == Some("spin-before") {
        spin()
    }
    if let Some(name) = order.entry.as_deref().and_then(|entry| entry.strip_prefix("probe:")) {
        report_probe(link, name);
    }
}

/// What a worker that stays says of its job. The guest ran, and has the figures of its own.
fn reported(order: &RunOrder, report: &mut RunReport) {
    if order.entry.as_deref() == Some("claim-wrong-figures") {
        report.wasm_memory_peak_bytes = u64::MAX;
        report.load_us = u64::MAX;
        report.run_us = u64::MAX;
        report.fuel = Some(u64::MAX);
    }
}

/// What a worker that stays does once its job is over.
fn stayed(order: &RunOrder, link: Link) {
    match order.entry.as_deref() {
        Some("then-reply-again") => say(link, &success()),
        Some("then-say-garbage") => throw(link, &[0xa5; 64]),
        Some("then-write") => drop(std::io::stderr().write_all(b"stray\n")),
        Some("then-flood") => flood_stderr(),
        Some("then-die") => exit_now(7),
        Some("then-spin") => spin(),
        _ => {}
    }
}

fn flood_stderr() {
    while std::io::stderr().write_all(&[b'y'; PAGE_BYTES]).is_ok() {}
}

fn compile(locked: Locked, order: CompileOrder, fds: CompileFds, warm: &Warm) -> Infallible {
    let Some(misbehaviour) = own_name().strip_suffix("-in-compile") else {
        return (Behaviour::standard().compile)(locked, order, fds, warm);
    };
    let compiled =
        |artifact_bytes| FromWorker::Compiled(CompileReport { kind: GuestKind::CoreModule, artifact_bytes });
    match misbehaviour {
        "hang" => sleep_for_ever(),
        "spin" => spin(),
        "die" => exit_now(7),
        "panic" => give_up(),
        "abort" => std::process::abort(),
        "socket" => drop(socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None)),
        "lie" => say(fds.link, &compiled(4096)),
        "run" => say(fds.link, &success()),
        "linger" => {
            say(fds.link, &compiled(4096));
            spin()
        }
        "poison" => {
            let poison = [0x7f; 4096];
            if File::from(fds.artifact).write_all(&poison).is_ok() {
                say(fds.link, &compiled(4096));
            }
        }
        _ => exit_now(SURVIVED_STATUS),
    }
    exit_now(0)
}

fn seal(locked: Locked, order: &RunOrder) {
    if locked.seal(order.limits.data_bytes).is_err() {
        exit_now(SURVIVED_STATUS)
    }
}

type Act = fn(RunFds);

fn act_of(entry: &str) -> Option<Act> {
    let act: Act = match entry {
        "ignore-sigterm" | "spin" => |fds| {
            say_begun(&fds);
            spin()
        },
        "sleep" => |fds| {
            say_begun(&fds);
            sleep_for_ever()
        },
        "exit-0-without-reply" => |_| exit_now(0),
        "exit-7" => |_| exit_now(7),
        "fork-bomb-unfiltered" => |fds| {
            if let Ok(solo) = SingleThreaded::probe() {
                fork_on(&solo, &fds);
            }
        },
        "thread-bomb-unfiltered" => |fds| {
            while std::thread::Builder::new().stack_size(64 << 10).spawn(|| sleep_for_ever()).is_ok() {}
            say_begun(&fds);
            spin()
        },
        "panic" => panicked,
        "abort" => |_| std::process::abort(),
        "overflow-stack" => |_| exit_now(i32::from(dive(0) == 0)),
        "eat-memory" => |_| eat(),
        "flood-stderr" => |fds| flood(fds.stderr_log.into(), PAGE_BYTES),
        "flood-output" => |fds| flood(fds.output.into(), PAGE_BYTES),
        "change-input" => |fds| {
            let Some(input) = fds.input else { exit_now(1) };
            let told = match File::from(input).write(b"changed") {
                Ok(length) => format!("{length} bytes written"),
                Err(error) => format!("errno {}", error.raw_os_error().unwrap_or(0)),
            };
            say(fds.link, &failure(told));
            exit_now(0)
        },
        _ => return act_on_link(entry).or_else(|| forbidden_call(entry)),
    };
    Some(act)
}

fn act_on_link(entry: &str) -> Option<Act> {
    let act: Act = match entry {
        "reply-twice" => |fds| {
            say(fds.link, &success());
            say(fds.link, &success());
            exit_now(0)
        },
        "reply-then-spin" => |fds| {
            say(fds.link, &success());
            spin()
        },
        "reply-with-usage-then-spin" => |fds| {
            let usage = Usage { cpu_user_us: 1, cpu_system_us: 1, resident_peak_bytes: 0, page_faults: 1 };
            let report = RunReport { usage: Some(usage), ..report(Ending::Exited(0)) };
            say(fds.link, &FromWorker::Finished(report));
            spin()
        },
        "wrong-kind" => |fds| {
            let report = CompileReport { kind: GuestKind::CoreModule, artifact_bytes: 0 };
            say(fds.link, &FromWorker::Compiled(report));
            exit_now(0)
        },
        "locked-again" => |fds| {
            say(fds.link, &FromWorker::Locked(JailReport::default()));
            exit_now(0)
        },
        "garbage" => |fds| {
            throw(fds.link, &[0xa5; 64]);
            exit_now(0)
        },
        "empty" => |fds| {
            throw(fds.link, &[0; 4]);
            exit_now(0)
        },
        "oversize" => |fds| {
            let body = vec![0; LINK_MESSAGE_BYTES_MAX + 1];
            let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes();
            throw(fds.link, &[length.as_slice(), &body].concat());
            exit_now(0)
        },
        "long-text" => |fds| {
            say(fds.link, &failure("x".repeat(GUEST_TEXT_BYTES_MAX * 4)));
            exit_now(0)
        },
        _ => return None,
    };
    Some(act)
}

/// Each returns only if the call was not forbidden.
fn forbidden_call(entry: &str) -> Option<Act> {
    let act: Act = match entry {
        "socket" => |_| drop(socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None)),
        "exec" => |_| {
            let _ = nix::unistd::execv(c"/bin/true", &[c"true"]);
        },
        "open" => |_| drop(File::open("/etc/passwd")),
        "kill-parent" => |_| {
            let _ = kill(getppid(), Signal::SIGKILL);
        },
        "fork-bomb" => |_| drop(std::process::Command::new("/bin/true").spawn()),
        "thread" => |_| drop(std::thread::Builder::new().spawn(|| ())),
        _ => return None,
    };
    Some(act)
}

fn spin() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

fn sleep_for_ever() -> ! {
    loop {
        std::thread::park();
    }
}

/// From here on the misbehaviour is what the worker does; before, it was still on its way there.
fn say_begun(fds: &RunFds) {
    // Nobody may be listening, which changes nothing.
    let _ = nix::unistd::write(&fds.stderr_log, b"begun\n");
}

/// Each generation forks the next and waits for it; the last, which cannot, says so.
fn fork_on(solo: &SingleThreaded, fds: &RunFds) {
    let Some(harmless) = syscall_number("getpid") else { return };
    let forked = call_after(solo, |next| fork_on(&next, fds), harmless, [0; 6]);
    if forked.is_err() {
        say_begun(fds);
        spin()
    }
}

fn panicked(_fds: RunFds) {
    give_up()
}

#[expect(clippy::panic, reason = "this is the misbehaviour")]
fn give_up() -> ! {
    panic!("the worker's own code gave up");
}

fn dive(depth: u64) -> u64 {
    let ballast = std::hint::black_box([depth; 512]);
    if depth == u64::MAX {
        return 0;
    }
    dive(depth + 1).wrapping_add(ballast.iter().sum())
}

fn eat() -> ! {
    let mut eaten = Vec::new();
    loop {
        let block = vec![1_u8; 1 << 20];
        eaten.push(std::hint::black_box(block));
    }
}

/// A worker that has replied is to be gone by then, whatever its reply was worth.
const OUTLIVED_AFTER: Duration = Duration::from_millis(800);

fn reply_late(locked: Locked, order: &RunOrder, fds: &RunFds, after: Duration) -> ! {
    let begun = Instant::now();
    if ignore(Signal::SIGTERM).is_err() {
        exit_now(SURVIVED_STATUS)
    }
    seal(locked, order);
    spin_until(begun + after);
    say(fds.link, &success());
    spin_until(Instant::now() + OUTLIVED_AFTER);
    // Nobody may be listening, which is as it should be.
    let _ = nix::unistd::write(&fds.stderr_log, b"outlived\n");
    spin()
}

fn spin_until(then: Instant) {
    while Instant::now() < then {
        std::hint::spin_loop();
    }
}

/// What a pipe holds in one buffer.
const PAGE_BYTES: usize = 4096;

fn flood(mut pipe: File, bytes: usize) {
    let line = vec![b'y'; bytes];
    while pipe.write_all(&line).is_ok() {}
}

fn report_probe(link: Link, name: &str) -> ! {
    let outcome = probe::run(name).unwrap_or_else(|| "no such probe".to_owned());
    say(link, &failure(outcome));
    exit_now(0)
}

fn say(link: Link, message: &FromWorker) {
    // A supervisor that has closed the link has seen enough.
    let _ = link.send(message);
}

fn throw(link: Link, packet: &[u8]) {
    let _ = link.send_bytes(packet);
}

fn success() -> FromWorker {
    FromWorker::Finished(report(Ending::Exited(0)))
}

fn failure(text: String) -> FromWorker {
    FromWorker::Finished(report(Ending::Failed(text)))
}

const fn report(ending: Ending) -> RunReport {
    RunReport {
        ending,
        fuel: None,
        wasm_memory_peak_bytes: 0,
        growth_refused: false,
        load_us: 1,
        run_us: 1,
        mdwe: true,
        command: true,
        usage: None,
    }
}
