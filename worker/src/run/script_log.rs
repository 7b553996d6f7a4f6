//! What a script says while it runs, as lines of its job's log.
//!
//! Owns: which stream a line goes to, and what stands in front of it.
//! Never: bounds or keeps what is logged: the supervisor's rings do.

use std::io::Write;
use std::time::Instant;

use stockade_js::door::{Level, Phase};
use stockade_js::profile::CpuProfile;

use super::Sink;

/// The two streams of a script's log.
pub(super) struct ScriptLog {
    stdout: Sink,
    stderr: Sink,
    /// Since when lines are timed, for whoever debugs.
    timed_since: Option<Instant>,
}

impl ScriptLog {
    /// With `timed_since` all lines go to standard error, in the order in which they come, each with the time since then.
    pub(super) const fn new(stdout: Sink, stderr: Sink, timed_since: Option<Instant>) -> Self {
        Self { stdout, stderr, timed_since }
    }

    /// Logs what a script says; lines that matter go to standard error.
    pub(super) fn line(&mut self, level: Level, text: &[u8]) {
        let margin = match self.timed_since {
            Some(since) => format!("{} {:<5} ", time(since), name(level)),
            None if level == Level::Info => String::new(),
            None => format!("{}: ", name(level)),
        };
        self.write(level, &margin, text);
    }

    /// Logs where the job is and what the engine holds, for whoever debugs.
    pub(super) fn phase(&mut self, phase: Phase, held_bytes: u32, memory_bytes: usize) {
        let Some(since) = self.timed_since else { return };
        let what = match phase {
            Phase::Ready => "engine ready",
            Phase::Compiled => "source compiled",
            Phase::Ran => "script ran",
            Phase::Ended => "result written",
        };
        let text = format!("{what}: {} KiB held of {} KiB", held_bytes >> 10, memory_bytes >> 10);
        self.write(Level::Debug, &format!("{} ----- ", time(since)), text.as_bytes());
    }

    /// Writes a profile where it is alone: the lines of whoever debugs go to standard error.
    pub(super) fn profile(&mut self, profile: &CpuProfile) {
        if let Ok(json) = profile.to_json() {
            // Without it whoever asked is told that there is none.
            let _ = self.stdout.write_all(&json);
        }
    }

    /// That nobody reads the lines any more does not end the script.
    fn write(&mut self, level: Level, margin: &str, text: &[u8]) {
        let sink = match level {
            Level::Debug | Level::Info if self.timed_since.is_none() => &mut self.stdout,
            _ => &mut self.stderr,
        };
        let _ = sink.write_all(&lines(margin.as_bytes(), text));
    }
}

/// Each line of `text` behind `margin`, and ended.
fn lines(margin: &[u8], text: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(text.len() + margin.len() + 1);
    for line in text.split(|byte| *byte == b'\n') {
        lines.extend_from_slice(margin);
        lines.extend_from_slice(line);
        lines.push(b'\n');
    }
    lines
}

const fn name(level: Level) -> &'static str {
    match level {
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    }
}

fn time(since: Instant) -> String {
    format!("{:9.3} ms", since.elapsed().as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stand_behind_their_margin_one_by_one() {
        assert_eq!(lines(b"warn: ", b"a\nb"), b"warn: a\nwarn: b\n");
        assert_eq!(lines(b"", b"a\n\nb\xff"), b"a\n\nb\xff\n");
        assert_eq!(lines(b"error: ", b""), b"error: \n");
    }
}
