//! What README and docs/ show of scripts, typed in and compared: commands, output, console, bill.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::rig::{Daemon, Mode, Place, Ran, ran, text};

/// A line of a document that stands for any lines.
const ANY_LINES: &str = "...";

/// At the end of a document's line: it goes on.
const GOES_ON: &str = "…";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The command that a document shows, and the lines that it shows below it.
#[derive(Debug)]
struct Shown {
    command: String,
    lines: Vec<String>,
}

/// All that a document shows of a console: what stands behind `$ `, and the lines until the next of these.
fn shown(document: &str) -> Vec<Shown> {
    let text = std::fs::read_to_string(root().join(document)).unwrap();
    let mut found: Vec<Shown> = Vec::new();
    for block in text.split("```console\n").skip(1) {
        for line in block.split("\n```").next().unwrap().lines() {
            match line.strip_prefix("$ ") {
                Some(command) => found.push(Shown { command: command.to_owned(), lines: Vec::new() }),
                None => found.last_mut().expect("a command first").lines.push(line.to_owned()),
            }
        }
    }
    found
}

/// What a line says but for what no two runs have in common: figures with a unit, counts of faults, ids, how wide they
/// are, and which walls and users a machine has.
fn shape(line: &str) -> String {
    if let Some(label) = ["  walls ", "  missing "].into_iter().find(|label| line.starts_with(label)) {
        return label.trim().to_owned();
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    let measured = |word: &str| word.parse::<f64>().is_ok();
    let unit = |word: &&str| ["µs", "ms", "s", "KiB", "MiB"].contains(word);
    let mut shape = Vec::new();
    let mut at = 0;
    while let Some(word) = words.get(at) {
        let bare = word.trim_end_matches([';', ',']);
        match words.get(at + 1) {
            Some(next) if measured(bare) && unit(next) => {
                // A figure of one run may be so many µs and that of another so many ms.
                shape.push(if next.ends_with('B') { "SIZE" } else { "TIME" });
                at += 1;
            }
            _ if words.get(at.wrapping_sub(1)) == Some(&"faults") => shape.push("COUNT"),
            _ if word.len() == 26 && word.chars().all(|c| c.is_ascii_alphanumeric()) => shape.push("ID"),
            _ => shape.push(word),
        }
        at += 1;
    }
    shape.join(" ")
}

/// Lines of a bill that continue the one before: which walls there are.
fn continues(line: &str) -> bool {
    line.starts_with("           ")
}

/// Whether what a document shows is what `streams` said, each line the next of one of them.
fn is_shown(shown: &[String], streams: &[&str]) -> Result<(), String> {
    // A machine that has every layer has none to miss.
    let told = |line: &&str| !continues(line) && !line.starts_with("  missing ");
    let streams: Vec<Vec<&str>> =
        streams.iter().map(|stream| stream.lines().filter(told).collect()).collect();
    let mut at = vec![0; streams.len()];
    let mut skips = false;
    for line in shown.iter().map(String::as_str).filter(told) {
        if line == ANY_LINES {
            skips = true;
            continue;
        }
        let fits = |found: &&str| match line.strip_suffix(GOES_ON) {
            Some(beginning) => shape(found).starts_with(&shape(beginning)),
            None => shape(found) == shape(line),
        };
        let next = streams
            .iter()
            .zip(&at)
            .map(|(lines, at)| lines[*at..].iter().position(&fits).filter(|skipped| skips || *skipped == 0));
        let next: Vec<Option<usize>> = next.collect();
        let Some(stream) = next.iter().position(Option::is_some) else {
            let there: Vec<_> = streams.iter().zip(&at).map(|(lines, at)| lines.get(*at)).collect();
            return Err(format!("{line:?} is shown, and {there:?} was there"));
        };
        at[stream] += next[stream].unwrap() + 1;
        skips = false;
    }
    match streams.iter().zip(&at).find_map(|(lines, at)| lines.get(*at)) {
        Some(line) if !skips => Err(format!("{line:?} is not shown")),
        _ => Ok(()),
    }
}

/// Types a command in where `examples` are.
fn typed(place: &Place, command: &str) -> Ran {
    let program = Path::new(env!("CARGO_BIN_EXE_stockade"));
    let mut shell: Command = place.command(Path::new("/bin/sh"), ["-c", command]);
    let path = format!("{}:/usr/bin:/bin", program.parent().unwrap().display());
    shell.env("PATH", path).current_dir(place.path("."));
    ran(&mut shell, b"")
}

/// Types in all commands of `document` that begin so, and compares.
fn compare(document: &str, place: &Place, beginning: &str) -> usize {
    let commands: Vec<Shown> =
        shown(document).into_iter().filter(|shown| shown.command.starts_with(beginning)).collect();
    for shown in &commands {
        let ran = typed(place, &shown.command);
        let (stdout, stderr) = (text(&ran.stdout), &ran.stderr);
        if let Err(why) = is_shown(&shown.lines, &[&stdout, stderr]) {
            panic!("{document}: $ {}\n{why}; all of it:\n{stdout}\n{stderr}", shown.command);
        }
    }
    commands.len()
}

/// A daemon that has run a script before, in a place that has the examples, and the files that a document shows.
fn daemon(document: &str) -> Daemon {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("scripts-cache");
    let place = Place::new(Mode::Jailed).set("CACHE_DIRECTORY", cache.to_str().unwrap());
    symlink(root().join("examples"), place.path("examples")).unwrap();
    for shown in shown(document) {
        if let Some(name) = shown.command.strip_prefix("cat ").filter(|name| !name.contains('/')) {
            place.file(name, format!("{}\n", shown.lines.join("\n")));
        }
    }
    let daemon = Daemon::start(place);
    let first = typed(&daemon.place, "stockade submit --timeout 60s examples/js/expression.js");
    assert!(first.stderr.contains("TypeError"), "it has no input: {}", first.stderr);
    daemon
}

#[test]
fn script_in_the_readme_has_the_input_the_output_the_console_and_the_bill_that_are_shown() {
    let daemon = daemon("README.md");
    assert_eq!(compare("README.md", &daemon.place, "cat examples/js/"), 1);
    assert_eq!(compare("README.md", &daemon.place, "stockade submit --bill examples/js/"), 1);
}

#[test]
fn scripts_in_the_documentation_say_what_is_shown() {
    let daemon = daemon("docs/javascript.md");
    daemon.place.file("failures.json", r#"{"failures": 9}"#);
    assert_eq!(compare("docs/javascript.md", &daemon.place, "stockade run "), 2);
    assert_eq!(compare("docs/javascript.md", &daemon.place, "stockade submit "), 1);
}

#[test]
fn script_at_a_terminal_has_its_console_and_then_its_value_on_a_line() {
    if Command::new("script").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("not run: script(1)");
        return;
    }
    let daemon = daemon("README.md");
    daemon.place.file("s.js", "console.log('a line'); 'value'");
    for (command, input) in [("submit", "--input /dev/null "), ("run", "--timeout 60s ")] {
        let line = format!("script --quiet --return --command 'stockade {command} {input}s.js' /dev/null");
        assert_eq!(text(&typed(&daemon.place, &line).stdout), "a line\r\n\"value\"\r\n", "{command}");
    }
    // For a program the value is the value.
    assert_eq!(text(&typed(&daemon.place, "stockade submit s.js").stdout), "\"value\"");
}

#[test]
fn shape_of_a_line_is_all_but_its_figures() {
    let bill = "completed · exit 0 · 2.2 ms · 01M7Y3JADYSHRTAMQDDYGEG8NX";
    assert_eq!(shape(bill), "completed · exit 0 · TIME · ID");
    assert_eq!(shape("  cpu      user 1.1 ms · system 0 µs"), "cpu user TIME · system TIME");
    assert_eq!(shape("  bytes    in 229 B · out 176 B"), "bytes in 229 B · out 176 B");
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(is_shown(&lines("a 1 ms\n...\nb…"), &["", "a 2.5 µs\nx\ny\nb and more"]).is_ok());
    for fits in [["a 1 ms\nb", ""], ["a 2 s", "b"], ["b", "a 1 µs"]] {
        assert_eq!(is_shown(&lines("a 1 ms\nb"), &fits), Ok(()));
    }
    for other in [["b", ""], ["a 1 ms\nb\nc", ""], ["a 1 ms\nb", "c"], ["a 2\nb", ""], ["b\na 1 ms", ""]] {
        assert!(is_shown(&lines("a 1 ms\nb"), &other).is_err(), "{other:?}");
    }
}
