//! `stockade explain FILE` as it is read.
//!
//! Owns: the words, and the exit status.
//! Never: decides anything about the jail.

use std::fmt::Write;
use std::time::Duration;

use super::args::ExplainArgs;
use super::bill::Colour;
use super::explain::{Explanation, explain};
use super::output::Output;
use super::render;
use super::{ArgsError, exit};
use crate::config::Config;
use crate::config::units::{show_duration, show_size};
use crate::supervisor::logs::display::safe_text;

/// Longest line, bytes.
const LINE_BYTES_MAX: usize = 600;

/// What `explain` prints and exits with: as `run` does when it would not run the job. Reads the module and a profile's
/// file; blocks.
#[must_use]
pub fn report(ExplainArgs { json, job }: &ExplainArgs, config: &Config, colour: Colour) -> Output {
    let own = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    // What a guest would read does not bear on its jail, and standard input is left alone.
    let submission = job.read_recognised_module().and_then(|module| {
        let submission = job.submission(module.clone(), Vec::new())?;
        Ok((submission, module))
    });
    let (submission, module) = match submission {
        Ok(both) => both,
        Err(error @ ArgsError::ModuleKind { .. }) => return Output::error(&error, exit::DENIED),
        Err(error) => return Output::error(&error, exit::OWN_FAILURE),
    };
    let explanation = match explain(&submission, &module, config, own) {
        Ok(explanation) => explanation,
        Err(error) => return Output::error(&error, exit::DENIED),
    };
    let status = match explanation.missing() {
        // Nothing at all would run here.
        Some(wall) if wall.required => exit::OWN_FAILURE,
        Some(_) => exit::DENIED,
        None => exit::SUCCESS,
    };
    if !json {
        return Output { stdout: text(&explanation, colour), status, ..Output::default() };
    }
    match render::line(&explanation) {
        Ok(line) => Output { stdout: format!("{line}\n"), status, ..Output::default() },
        Err(error) => Output::error(&error, exit::OWN_FAILURE),
    }
}

fn text(made: &Explanation, colour: Colour) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<12} {}", safe_text(value, LINE_BYTES_MAX));
    };
    row("module", &format!("{} ({}, {})", made.module, made.kind, show_size(made.module_bytes)));
    row("entry", made.entry.as_deref().unwrap_or("_start, else the only function there is"));
    row("arguments", &list(made.arguments.iter().cloned()));
    row("environment", &list(made.environment.iter().map(|(name, value)| format!("{name}={value}"))));
    row("profile", &made.profile);
    row("limits", &limits(made));
    row("isolation", made.isolation);
    row("ids", &format!("uid {}, gid {}", made.ids.0, made.ids.1));
    row("require", &list(made.require.iter().map(|name| (*name).to_owned())));
    row("landlock", &landlock(made));
    for rule in &made.landlock.rules {
        row("", &format!("{} as {}: {}", rule.host, rule.guest, rule.access));
    }
    for (at, one) in made.seccomp.iter().enumerate() {
        let name = if at == 0 { "seccomp" } else { "" };
        let line =
            format!("{}: {} rules, {} system calls, {}", one.policy, one.rules, one.syscalls, one.when);
        row(name, &line);
    }
    row(
        "rlimits",
        &list(made.rlimits.iter().map(|limit| format!("{} {}", limit.name, show_size(limit.value)))),
    );
    row(
        "cgroup",
        &made.cgroup.as_ref().map_or_else(
            || "no leaf".to_owned(),
            |leaf| {
                let memory = show_size(leaf.memory_max_bytes);
                format!("memory.max {memory}, pids.max {}, cpu.weight {}", leaf.pids_max, leaf.cpu_weight)
            },
        ),
    );
    for wall in made.layers.iter().filter(|wall| !wall.present) {
        let why = wall.reason.as_deref().unwrap_or("not known");
        let fix = wall.fix.as_deref().unwrap_or("see `stockade doctor`");
        let line = safe_text(&format!("{}: {why}; {fix}", wall.layer), LINE_BYTES_MAX);
        let required = made.require.contains(&wall.layer);
        let (name, line) =
            if required { ("MISSING", colour.bad(&line)) } else { ("missing", colour.warn(&line)) };
        let _ = writeln!(text, "{name:<12} {line}");
    }
    if let Some(wall) = made.missing() {
        let line = match wall.required {
            true => format!("no job would run: the configuration requires {}, which is missing", wall.layer),
            false => format!("this job would be refused: it requires {}, which is missing", wall.layer),
        };
        let _ = writeln!(text, "{}", colour.bad(&line));
    }
    text
}

fn limits(made: &Explanation) -> String {
    let limits = &made.limits;
    let time = |us| show_duration(Duration::from_micros(us));
    let mut words = vec![
        format!("timeout {}", time(limits.timeout_us)),
        format!("grace {}", time(limits.grace_us)),
        format!("memory {}", show_size(limits.memory_bytes)),
        format!("output {}", show_size(limits.output_bytes)),
        format!("logs {} and {} lines each", show_size(limits.log_bytes), limits.log_lines),
    ];
    words.extend(limits.cpu_us.map(|us| format!("cpu {}", time(us))));
    words.extend(limits.fuel.map(|fuel| format!("fuel {fuel}")));
    words.join(", ")
}

fn landlock(made: &Explanation) -> String {
    let rules = made.landlock.rules.len();
    match (made.landlock.abi, rules) {
        (0, _) => "not in force".to_owned(),
        (abi, 0) => format!("ABI {abi}, every right handled, no rule: no file can be opened"),
        (abi, _) => format!("ABI {abi}, every right handled, rules for granted directories only: {rules}"),
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::args::{Cli, Command};
    use super::*;

    fn run(words: &[&str]) -> Output {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("p.wat");
        std::fs::write(&path, "(module)").unwrap();
        let file = path.to_str().unwrap();
        let words = words.iter().map(|word| if *word == "FILE" { file } else { word });
        match Cli::try_parse_from(["stockade", "explain"].into_iter().chain(words)).unwrap().command {
            Command::Explain(job) => report(&job, &Config::defaults().unwrap(), Colour::Off),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn explain_prints_the_whole_jail() {
        let output = run(&["--env", "A=\u{1b}[2J", "--fuel", "5", "--cpu", "1s", "FILE", "a", "b"]);
        for line in [
            "module       p.wat (text, 8)",
            "arguments    a, b",
            r"environment  A=\x1b[2J",
            "profile      extension",
            "limits       timeout 30s, grace 1s, memory 128M, output 16M, logs 1M and 10000 lines each, cpu 1s, fuel 5",
            "require      seccomp, landlock, no-new-privs, rlimits, capabilities",
            "rlimits      core 0, fsize 1G, nofile 64, data 192M",
        ] {
            assert!(output.stdout.lines().any(|have| have == line), "{line} is not in\n{}", output.stdout);
        }
        assert!(output.stdout.contains("\nseccomp      zygote: "), "{}", output.stdout);
    }

    #[test]
    fn explain_in_json_is_one_object() {
        let output = run(&["--json", "--require", "seccomp", "FILE"]);
        let object: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!((&object["kind"], &object["limits"]["fuel"]), (&"text".into(), &serde_json::Value::Null));
        assert_eq!(object["layers"].as_array().unwrap().len(), 8);
    }

    #[test]
    fn explain_of_a_job_that_would_be_refused_has_its_status() {
        let refused = run(&["--timeout", "1h", "FILE"]);
        assert_eq!((refused.status, refused.stdout.as_str()), (126, ""));
        assert_eq!(refused.stderr, "stockade: timeout of 1h is not allowed here; ask for 1ms to 10m\n");
        assert_eq!(run(&["/nonexistent"]).status, 125);
        let no_module = run(&["--json", "/dev/null"]);
        assert_eq!((no_module.status, no_module.stdout.as_str()), (126, ""));
        assert!(no_module.stderr.contains("/dev/null is empty"), "{}", no_module.stderr);
    }
}
