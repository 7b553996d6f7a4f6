//! What a job used, what confined it and why it failed, for a person at a terminal.
//!
//! Owns: the words; one line of a failure says what, why and what to do.
//! Never: prints, or passes on a guest's control characters.

use std::fmt::Write;
use std::io::IsTerminal;

use stockade_wire::job::{Bill, JobResult, Stage, Verdict, Walls};

use super::exit::exit_status;
use crate::supervisor::logs::display::safe_text;

/// Longest piece of text that came from a guest, a worker or the system in one line, bytes.
const TEXT_BYTES_MAX: usize = 500;

/// The reason of a command that exited with another status than 0.
const EXIT_STATUS_REASON: &str = "exit_status";

/// Whether to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// For a terminal.
    On,
    /// For a file or a pipe, and where `NO_COLOR` is set.
    Off,
}

impl Colour {
    /// What suits `stream`.
    #[must_use]
    pub fn of(stream: &impl IsTerminal) -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if stream.is_terminal() && !unwanted { Self::On } else { Self::Off }
    }

    /// Something that is as it should be.
    #[must_use]
    pub fn good(self, text: &str) -> String {
        self.paint(BOLD_GREEN, text)
    }

    /// Something that is not.
    #[must_use]
    pub fn bad(self, text: &str) -> String {
        self.paint(BOLD_RED, text)
    }

    /// Something to know of.
    #[must_use]
    pub fn warn(self, text: &str) -> String {
        self.paint(YELLOW, text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::On => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            Self::Off => text.to_owned(),
        }
    }
}

const BOLD_GREEN: &str = "1;32";
const BOLD_RED: &str = "1;31";
const YELLOW: &str = "33";
const DIM: &str = "2";

/// The bill: several lines, the last one ended too.
#[must_use]
pub fn bill(result: &JobResult, colour: Colour) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        if !value.is_empty() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {} {value}", colour.paint(DIM, &format!("{name:<8}")));
        }
    };
    row("time", times(&result.bill));
    row(
        "cpu",
        joined(&[
            figure("user", result.bill.cpu_user_us, time),
            figure("system", result.bill.cpu_system_us, time),
            figure("fuel", result.bill.fuel, |fuel| fuel.to_string()),
        ]),
    );
    row(
        "memory",
        joined(&[
            figure("peak", result.bill.memory_peak_bytes, size),
            figure("wasm", result.bill.wasm_memory_peak_bytes, size),
            figure("page faults", result.bill.page_faults, |faults| faults.to_string()),
        ]),
    );
    row("bytes", bytes(result));
    row("walls", walls(&result.jail));
    for missing in &result.jail.missing {
        let line = format!("{}: {}; {}", missing.layer, missing.reason, missing.fix);
        row("missing", colour.paint(YELLOW, &safe_text(&line, TEXT_BYTES_MAX)));
    }
    format!("{}\n{text}", headline(result, colour))
}

/// One line that says why a job did not complete and what to do; `None` when it completed, or a command said by its
/// exit status that it failed: it has told its own story.
#[must_use]
pub fn failure(result: &JobResult) -> Option<String> {
    let outcome = &result.outcome;
    let silent = match outcome.verdict {
        Verdict::Completed => true,
        Verdict::GuestError => {
            outcome.reason.as_deref() == Some(EXIT_STATUS_REASON) || outcome.message.is_none()
        }
        _ => false,
    };
    if silent {
        return None;
    }
    let mut line = verdict_words(outcome.verdict).to_owned();
    if let Some(reason) = &outcome.reason {
        let _ = write!(line, " ({reason})");
    }
    if let Some(message) = &outcome.message {
        let _ = write!(line, ": {message}");
    }
    // Where a limit of the job's own ended it, the message says already what to do.
    let advised = message_advises(outcome.verdict) && outcome.message.is_some();
    let advice = match (outcome.verdict, &result.error) {
        (Verdict::InvalidModule, Some(_)) => advice_on_script(outcome.reason.as_deref()),
        (verdict, _) => advice(verdict, outcome.reason.as_deref()),
    };
    if let Some(advice) = advice.filter(|_| !advised) {
        let _ = write!(line, "; {advice}");
    }
    Some(safe_text(&line, 2 * TEXT_BYTES_MAX))
}

const fn message_advises(verdict: Verdict) -> bool {
    matches!(
        verdict,
        Verdict::TimedOut
            | Verdict::OutOfFuel
            | Verdict::OutOfMemory
            | Verdict::OutputLimit
            | Verdict::Denied
    )
}

fn headline(result: &JobResult, colour: Colour) -> String {
    let outcome = &result.outcome;
    let code = if outcome.verdict == Verdict::Completed { BOLD_GREEN } else { BOLD_RED };
    let mut line = colour.paint(code, verdict_words(outcome.verdict));
    if let Some(reason) = &outcome.reason {
        let _ = write!(line, " ({})", safe_text(reason, TEXT_BYTES_MAX));
    }
    if let Some(stage) = outcome.stage {
        let _ = write!(line, " · ended by {}", stage_words(stage));
    }
    let _ = write!(line, " · exit {}", exit_status(result));
    if let Some(wall_us) = result.bill.wall_us {
        let _ = write!(line, " · {}", time(wall_us));
    }
    // A job that was denied never had an id.
    if !result.job.is_empty() {
        let _ = write!(line, " · {}", colour.paint(DIM, &safe_text(&result.job, TEXT_BYTES_MAX)));
    }
    line
}

fn times(bill: &Bill) -> String {
    joined(&[
        figure("queue", bill.queue_us, time),
        figure("compile", bill.compile_us, time),
        figure("fork", bill.fork_us, time),
        figure("load", bill.load_us, time),
        figure("run", bill.run_us, time),
        figure("teardown", bill.teardown_us, time),
    ])
}

fn bytes(result: &JobResult) -> String {
    let dropped = result.logs.dropped_bytes;
    joined(&[
        figure("in", result.bill.input_bytes, size),
        figure("out", result.bill.output_bytes, size),
        figure("logged", result.bill.log_bytes, size),
        figure("dropped from the logs", Some(dropped).filter(|dropped| *dropped > 0), size),
        figure("host calls", result.bill.host_calls.filter(|calls| *calls > 0), |calls| calls.to_string()),
    ])
}

fn walls(walls: &Walls) -> String {
    let named = |have: bool, name: &str| have.then(|| name.to_owned());
    let listed =
        |name: &str, items: &[String]| (!items.is_empty()).then(|| format!("{name} {}", items.join("+")));
    let held: Vec<String> = [
        walls.seccomp.as_ref().map(|action| format!("seccomp {action}")),
        walls.landlock_abi.map(|abi| format!("landlock {abi}")),
        listed("cgroup", &walls.cgroup),
        listed("namespaces", &walls.namespaces),
        named(walls.no_new_privs, "no-new-privs"),
        named(walls.capabilities_dropped, "no capabilities"),
        listed("rlimits", &walls.rlimits),
        named(walls.mdwe, "mdwe"),
        walls.uid.map(|uid| format!("uid {uid}")),
        named(walls.fresh_process, "fresh process"),
    ]
    .into_iter()
    .flatten()
    .collect();
    if held.is_empty() { "none".to_owned() } else { safe_text(&held.join(", "), TEXT_BYTES_MAX) }
}

fn figure(name: &str, figure: Option<u64>, show: impl Fn(u64) -> String) -> Option<String> {
    figure.map(|figure| format!("{name} {}", show(figure)))
}

fn joined(figures: &[Option<String>]) -> String {
    figures.iter().flatten().map(String::as_str).collect::<Vec<_>>().join(" · ")
}

/// µs in the unit a person would use.
fn time(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{}.{} ms", us / 1_000, us % 1_000 / 100),
        _ => format!("{}.{:02} s", us / 1_000_000, us % 1_000_000 / 10_000),
    }
}

/// Bytes in the unit a person would use.
fn size(bytes: u64) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes >> shift > 0 {
            let tenths = (u128::from(bytes) * 10) >> shift;
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes} B")
}

fn stage_words(stage: Stage) -> &'static str {
    match stage {
        Stage::Epoch => "its deadline",
        Stage::Sigterm => "SIGTERM",
        Stage::Sigkill => "SIGKILL",
    }
}

fn verdict_words(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Completed => "completed",
        Verdict::GuestError => "failed",
        Verdict::Trapped => "trapped",
        Verdict::TimedOut => "timed out",
        Verdict::OutOfFuel => "out of fuel",
        Verdict::OutOfMemory => "out of memory",
        Verdict::OutputLimit => "too much output",
        Verdict::Cancelled => "cancelled",
        Verdict::JailViolation => "tried to break out",
        Verdict::InvalidModule => "not a module that can run",
        Verdict::CompileLimit => "too much to compile",
        Verdict::Denied => "denied",
        Verdict::WorkerLost => "worker lost",
        Verdict::Internal => "stockade failed",
    }
}

/// What to do about a script that cannot run: mostly what the engine says of it already.
fn advice_on_script(reason: Option<&str>) -> Option<&'static str> {
    (reason == Some("no_entry")).then_some("name another with --entry")
}

/// What to do about it; `None` where it is the guest's own business.
fn advice(verdict: Verdict, reason: Option<&str>) -> Option<&'static str> {
    match verdict {
        // Which are wrong, and what is right, is in the message.
        Verdict::InvalidModule if reason == Some("arguments") => None,
        Verdict::InvalidModule if matches!(reason, Some("no_entry" | "entry_signature")) => {
            Some("call another with --entry")
        }
        Verdict::Completed | Verdict::GuestError => None,
        Verdict::Trapped => Some("a fault in the program; its logs may say more"),
        Verdict::TimedOut => Some("give it more time with --timeout (or --cpu), or less to do"),
        Verdict::OutOfFuel => Some("give it more with --fuel"),
        Verdict::OutOfMemory => Some("give it more with --memory"),
        Verdict::OutputLimit => Some("allow more with --output-limit"),
        Verdict::Cancelled => Some("submit it again if that was not meant"),
        Verdict::JailViolation => {
            Some("do not run this program again before you know why; its result names the call")
        }
        Verdict::InvalidModule => {
            Some("check what it was compiled for: WASI preview 1 or a WASI 0.2 command")
        }
        // Where the compiler itself ends, no setting helps.
        Verdict::CompileLimit if reason == Some("too_complex") => Some("make the module smaller"),
        Verdict::CompileLimit => Some("raise the limits under [compile], or make the module smaller"),
        Verdict::Denied => Some("change what it asks for"),
        Verdict::WorkerLost => Some("try it again; if it stays, the kernel's log may name a reason"),
        Verdict::Internal => Some("see the daemon's log, and `stockade doctor`"),
    }
}

#[cfg(test)]
mod tests {
    use stockade_wire::job::ScriptError;

    use super::super::render::sample;
    use super::*;

    #[test]
    fn bill_of_a_job_is_short_and_whole() {
        let expected = "\
completed · exit 0 · 12.3 ms · 01JD8G0000000000000000000
  time     queue 10 µs · compile 8.0 ms · fork 80 µs · load 250 µs · run 1.50 s
  cpu      user 900 µs · system 90 µs
  memory   peak 18.0 MiB · page faults 312
  bytes    out 6 B · dropped from the logs 7 B
  walls    seccomp kill, landlock 7, no-new-privs, no capabilities, rlimits nofile+data, mdwe, uid 65534, fresh process
  missing  cgroup: no controllers are delegated; run it as a systemd service with Delegate=yes
";
        assert_eq!(bill(&sample(), Colour::Off), expected);
    }

    #[test]
    fn bill_in_colour_says_the_same() {
        let coloured = bill(&sample(), Colour::On);
        assert!(coloured.starts_with("\u{1b}[1;32mcompleted\u{1b}[0m"), "{coloured:?}");
        let mut plain = coloured;
        for code in [BOLD_GREEN, BOLD_RED, YELLOW, DIM, "0"] {
            plain = plain.replace(&format!("\u{1b}[{code}m"), "");
        }
        assert_eq!(plain, bill(&sample(), Colour::Off));
    }

    #[test]
    fn bill_without_figures_or_walls_says_so() {
        let mut result = sample();
        result.bill = Bill::default();
        result.jail = Walls::default();
        result.logs.dropped_bytes = 0;
        let expected = "completed · exit 0 · 01JD8G0000000000000000000\n  walls    none\n";
        assert_eq!(bill(&result, Colour::Off), expected);
        result.job.clear();
        assert_eq!(bill(&result, Colour::Off), "completed · exit 0\n  walls    none\n");
    }

    #[test]
    fn failure_says_what_why_and_what_to_do_harmlessly() {
        let mut result = sample();
        assert_eq!(failure(&result), None);
        result.outcome.verdict = Verdict::Trapped;
        result.outcome.reason = Some("unreachable".to_owned());
        result.outcome.message = Some("in main\u{1b}[2J".to_owned());
        let expected =
            r"trapped (unreachable): in main\x1b[2J; a fault in the program; its logs may say more";
        assert_eq!(failure(&result).unwrap(), expected);
        result.outcome.verdict = Verdict::TimedOut;
        result.outcome.reason = Some("epoch_deadline".to_owned());
        result.outcome.stage = Some(Stage::Epoch);
        result.outcome.message = Some("its time was up; give it more with --timeout".to_owned());
        let expected = "timed out (epoch_deadline): its time was up; give it more with --timeout";
        assert_eq!(failure(&result).unwrap(), expected);
        let first = bill(&result, Colour::Off);
        assert!(
            first.starts_with("timed out (epoch_deadline) · ended by its deadline · exit 124 · "),
            "{first}"
        );
    }

    #[test]
    fn failure_of_a_guest_is_its_own_business_unless_it_left_words() {
        let mut result = sample();
        result.outcome.verdict = Verdict::GuestError;
        result.outcome.reason = Some(EXIT_STATUS_REASON.to_owned());
        result.outcome.message = Some("the guest exited with status 3".to_owned());
        assert_eq!(failure(&result), None);
        result.outcome.reason = Some("guest_failure".to_owned());
        result.outcome.message = Some("no such column".to_owned());
        assert_eq!(failure(&result).unwrap(), "failed (guest_failure): no such column");
    }

    #[test]
    fn failure_of_every_verdict_but_the_guest_s_own_has_advice() {
        for verdict in [
            Verdict::Trapped,
            Verdict::TimedOut,
            Verdict::OutOfFuel,
            Verdict::OutOfMemory,
            Verdict::OutputLimit,
            Verdict::Cancelled,
            Verdict::JailViolation,
            Verdict::InvalidModule,
            Verdict::CompileLimit,
            Verdict::Denied,
            Verdict::WorkerLost,
            Verdict::Internal,
        ] {
            let mut result = sample();
            result.outcome.verdict = verdict;
            assert!(failure(&result).unwrap().contains("; "), "{verdict:?}");
        }
    }

    #[test]
    fn failure_of_a_script_that_cannot_run_is_what_the_engine_says_of_it() {
        let mut result = sample();
        result.error = Some(ScriptError::default());
        result.outcome.verdict = Verdict::InvalidModule;
        result.outcome.reason = Some("syntax_error".to_owned());
        result.outcome.message = Some("SyntaxError: unexpected token (a.js:1:1)".to_owned());
        let expected = "not a module that can run (syntax_error): SyntaxError: unexpected token (a.js:1:1)";
        assert_eq!(failure(&result).unwrap(), expected);
        result.outcome.reason = Some("no_entry".to_owned());
        assert!(failure(&result).unwrap().ends_with("; name another with --entry"));
    }

    #[test]
    fn failure_for_arguments_says_what_is_wrong_with_them_and_nothing_else() {
        let mut result = sample();
        result.outcome.verdict = Verdict::InvalidModule;
        result.outcome.reason = Some("arguments".to_owned());
        result.outcome.message = Some("a script takes no arguments".to_owned());
        let expected = "not a module that can run (arguments): a script takes no arguments";
        assert_eq!(failure(&result).unwrap(), expected);
    }

    #[test]
    fn figures_are_in_the_unit_a_person_would_use() {
        for (us, text) in
            [(0, "0 µs"), (999, "999 µs"), (1_000, "1.0 ms"), (999_999, "999.9 ms"), (61_000_000, "61.00 s")]
        {
            assert_eq!(time(us), text);
        }
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (u64::MAX, "17179869183.9 GiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
