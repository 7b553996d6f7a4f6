//! Runs test262, the public conformance suite, in the engine: `cargo run --release --workspace --example test262 --
//! DIRECTORY [--every FIRST/OF] [PART…]`, with DIRECTORY a checkout of it and PART what is run of it (`language`).
//!
//! Each file runs as its header says: as a script, sloppy and strict, or as a module; it passes if it does in each. Left out
//! are files that import others or need more of a test host (`$262`) than the language itself can do. Printed are the files
//! that fail, with what they say, and how many pass of each group (`language/expressions`) and of each feature that a failing
//! file names.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "it is for developers alone: a panic is how it fails"
)]

#[path = "../tests/engine/rig.rs"]
#[expect(dead_code, reason = "of what tests need of a host, this needs a part")]
mod rig;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use rig::{End, Job};
use stockade_js::reply::Fault;
use stockade_js::request::Form;

/// How long a file may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What asynchronous files say when they are done, with [`PRINT`].
const DONE: &str = "Test262:AsyncTestComplete";

/// What all others are made to say at their end. What is left over then, such as a promise that was rejected and that nobody
/// looks at, is nothing to the suite, though it ends a job.
const ENDED: &str = "Test262:Done";

/// What the suite expects of whoever runs it: a way to say something, and of its `$262` as much as the language can do.
const PRINT: &str = "globalThis.print = (...words) => console.log(words.map(String).join(' '));
globalThis.stockadeDone = ((log) => () => { log('Test262:Done'); return 0; })(console.log);
globalThis.$262 = { global: globalThis, detachArrayBuffer: (buffer) => void buffer.transfer() };\n";

/// The members of `$262` that are there.
const HOST: [&str; 2] = ["global", "detachArrayBuffer"];

/// In the name of each file that is there for others to import.
const FIXTURE: &str = "_FIXTURE";

/// Most characters of what a failing file says.
const WORDS_MAX: usize = 160;

/// How one file is to be run.
#[derive(Debug, Default)]
struct Header {
    flags: Vec<String>,
    features: Vec<String>,
    includes: Vec<String>,
    /// Phase and type of the error that must come.
    negative: Option<(String, String)>,
}

impl Header {
    /// Of the comment that each file has, in the few forms of YAML that the suite uses.
    fn of(source: &str) -> Self {
        let source = source.replace('\r', "\n");
        let text = source
            .split_once("/*---")
            .and_then(|(_, rest)| rest.split_once("---*/"))
            .map_or("", |(yaml, _)| yaml);
        let mut header = Self::default();
        let (mut key, mut phase) = (String::new(), String::new());
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let indented = line.starts_with([' ', '\t']);
            let line = line.trim();
            if let (false, Some((name, value))) = (indented, line.split_once(':')) {
                key = name.to_owned();
                let listed = value.trim().trim_start_matches('[').trim_end_matches(']').split(',');
                header.take(&key, listed.map(str::trim));
            } else if key == "negative" {
                match line.split_once(':') {
                    Some(("phase", value)) => phase = value.trim().to_owned(),
                    Some(("type", value)) => header.negative = Some((phase.clone(), value.trim().to_owned())),
                    _ => {}
                }
            } else if let Some(item) = line.strip_prefix("- ") {
                header.take(&key, [item.trim()].into_iter());
            }
        }
        header
    }

    fn take<'a>(&mut self, key: &str, values: impl Iterator<Item = &'a str>) {
        let values = values.filter(|value| !value.is_empty()).map(str::to_owned);
        match key {
            "flags" => self.flags.extend(values),
            "includes" => self.includes.extend(values),
            "features" => self.features.extend(values),
            _ => {}
        }
    }

    fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|known| known == flag)
    }
}

/// The suite's own functions, by file.
struct Harness(BTreeMap<String, String>);

impl Harness {
    fn read(suite: &Path) -> Self {
        let files = fs::read_dir(suite.join("harness")).unwrap().map(|entry| entry.unwrap().path());
        let named = files.filter(|path| path.is_file());
        Self(
            named
                .map(|path| {
                    (
                        path.file_name().unwrap().to_str().unwrap().to_owned(),
                        fs::read_to_string(path).unwrap(),
                    )
                })
                .collect(),
        )
    }

    /// What is evaluated before a file.
    fn before(&self, header: &Header) -> String {
        let mut names = vec!["assert.js", "sta.js"];
        if header.has("async") {
            names.push("doneprintHandle.js");
        }
        names.extend(header.includes.iter().map(String::as_str));
        let parts = names.iter().map(|name| self.0[*name].as_str());
        [PRINT].into_iter().chain(parts).fold(String::new(), |text, part| text + part + "\n")
    }
}

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Passes,
    /// Why.
    LeftOut(&'static str),
    /// What it said.
    Fails(String),
}

/// Whether `text` asks for something of the test host that is not there.
fn needs_more(text: &str) -> bool {
    text.match_indices("$262").any(|(at, found)| {
        let rest = &text[at + found.len()..];
        rest.strip_prefix('.').is_some_and(|rest| !HOST.iter().any(|name| rest.starts_with(name)))
    })
}

/// Runs one file in all its modes.
fn judge(source: &str, header: &Header, harness: &Harness) -> Verdict {
    let parses = header.negative.as_ref().is_some_and(|(phase, _)| phase == "parse");
    let host = needs_more(source) || header.includes.iter().any(|name| needs_more(&harness.0[name]));
    if !parses && host {
        return Verdict::LeftOut("needs a test host");
    }
    if !parses && source.contains(FIXTURE) {
        return Verdict::LeftOut("imports others");
    }
    let before = if header.has("raw") { String::new() } else { harness.before(header) };
    let modes: &[(bool, bool)] = if header.has("module") {
        &[(true, true)]
    } else if header.has("raw") || header.has("noStrict") {
        &[(false, false)]
    } else if header.has("onlyStrict") {
        &[(false, true)]
    } else {
        &[(false, false), (false, true)]
    };
    let mut verdicts = modes.iter().map(|mode| run(source, &before, header, *mode));
    verdicts.find(|verdict| *verdict != Verdict::Passes).unwrap_or(Verdict::Passes)
}

fn run(source: &str, before: &str, header: &Header, (module, strict): (bool, bool)) -> Verdict {
    // The engine takes one source, so that the harness is in front of a script; of a module, too: it declares functions.
    let directive = if strict && !module { "\"use strict\";\n" } else { "" };
    let after = match (module, header.has("raw")) {
        (true, true) => "\nexport const stockade_entry = () => 0;",
        (true, false) => "\nexport const stockade_entry = () => stockadeDone();",
        (false, true) => "",
        (false, false) => "\n;stockadeDone()",
    };
    let parses_alone = header.negative.as_ref().is_some_and(|(phase, _)| phase == "parse");
    let (text, form) = match (parses_alone, module) {
        (true, true) => (source.to_owned(), Form::CheckModule),
        (true, false) => (format!("{directive}{source}"), Form::CheckScript),
        (false, true) => (format!("{before}{source}{after}"), Form::Module { entry: "stockade_entry" }),
        (false, false) => (format!("{directive}{before}{source}{after}"), Form::Script),
    };
    let outcome = Job::new(&text, form).memory(256 << 20).deadline(PATIENCE).run();
    let done = outcome.lines().contains(&if header.has("async") { DONE } else { ENDED });
    let mode = match (module, strict) {
        (true, _) => "module",
        (false, true) => "strict",
        (false, false) => "sloppy",
    };
    let fails = |what: String| {
        let what: String = what.replace('\n', " ").chars().take(WORDS_MAX).collect();
        Verdict::Fails(format!("{mode}: {what}"))
    };
    if outcome.lines().iter().any(|line| line.contains("TypeError: cannot import '")) {
        return Verdict::LeftOut("imports others");
    }
    match (&outcome.end, &header.negative) {
        (End::Failed(failure), _) if failure.fault == Fault::ImportRefused => {
            Verdict::LeftOut("imports others")
        }
        (End::Failed(failure), Some((phase, name))) => {
            let syntax = failure.fault == Fault::Syntax;
            let at = if syntax { phase != "runtime" } else { phase == "runtime" };
            // The suite's own error is none to the language.
            let thrown = failure.name == "Uncaught" && failure.message.starts_with(name.as_str());
            if at && (failure.name == *name || thrown) {
                return Verdict::Passes;
            }
            fails(format!("{phase} {name} was to come, not {}: {}", failure.name, failure.message))
        }
        (End::Output(_), Some((phase, name))) => fails(format!("{phase} {name} was to come")),
        (End::Output(_) | End::Failed(_), None) if done => Verdict::Passes,
        (End::Output(_), None) if header.has("raw") => Verdict::Passes,
        (End::Output(_), None) => fails(format!("it was never done; it said {:?}", outcome.lines())),
        (End::Failed(failure), None) => fails(format!("{}: {}", failure.name, failure.message)),
        (End::Trapped(trap), _) => fails(format!("{trap:?}")),
    }
}

struct Asked {
    suite: PathBuf,
    parts: Vec<PathBuf>,
    /// Every so manyeth file, beginning with this one.
    every: (usize, usize),
}

impl Asked {
    fn read() -> Option<Self> {
        let (mut places, mut every) = (Vec::new(), (0, 1));
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            if word == "--every" {
                let text = words.next()?;
                let (first, of) = text.split_once('/')?;
                every = (first.parse().ok()?, of.parse().ok().filter(|of| *of > 0)?);
            } else {
                places.push(PathBuf::from(word));
            }
        }
        let mut places = places.into_iter();
        let suite = places.next()?;
        let mut parts: Vec<PathBuf> = places.collect();
        if parts.is_empty() {
            parts.push("language".into());
        }
        Some(Self { suite, parts, every })
    }

    /// What is to be run, in order.
    fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for part in &self.parts {
            files_below(&self.suite.join("test").join(part), &mut files);
        }
        files.sort();
        let (first, of) = self.every;
        files.into_iter().skip(first).step_by(of).collect()
    }
}

fn files_below(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            files_below(&path, files);
        } else if name.ends_with(".js") && !name.contains(FIXTURE) {
            files.push(path);
        }
    }
}

/// One file and what became of it.
struct Found {
    /// Below `test`.
    path: String,
    features: Vec<String>,
    verdict: Verdict,
}

impl Found {
    fn of(file: &Path, suite: &Path, harness: &Harness) -> Self {
        let path = file.strip_prefix(suite.join("test")).unwrap().to_str().unwrap().to_owned();
        let Ok(source) = fs::read_to_string(file) else {
            return Self { path, features: Vec::new(), verdict: Verdict::LeftOut("is no UTF-8") };
        };
        let header = Header::of(&source);
        let verdict = judge(&source, &header, harness);
        Self { path, features: header.features, verdict }
    }

    /// The part of the suite that it is in.
    fn group(&self) -> String {
        self.path.split('/').take(2).collect::<Vec<_>>().join("/")
    }
}

/// Counts of what passed and what failed.
#[derive(Default, Clone, Copy)]
struct Rate {
    passed: usize,
    failed: usize,
}

impl Rate {
    const fn add(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Passes => self.passed += 1,
            Verdict::Fails(_) => self.failed += 1,
            Verdict::LeftOut(_) => {}
        }
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.passed, self.passed + self.failed)
    }
}

fn tell(found: &[Found]) {
    let (mut groups, mut features, mut left_out) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let mut all = Rate::default();
    for one in found {
        groups.entry(one.group()).or_insert_with(Rate::default).add(&one.verdict);
        for feature in &one.features {
            features.entry(feature.as_str()).or_insert_with(Rate::default).add(&one.verdict);
        }
        all.add(&one.verdict);
        match &one.verdict {
            Verdict::Passes => {}
            Verdict::LeftOut(why) => *left_out.entry(*why).or_insert(0_usize) += 1,
            Verdict::Fails(what) => {
                println!("fails: {} [{}] {what}", one.path, one.features.join(", "));
            }
        }
    }
    for (group, rate) in groups {
        println!("group {group}: {rate}");
    }
    for (feature, rate) in features.into_iter().filter(|(_, rate)| rate.failed > 0) {
        println!("feature {feature}: {rate}");
    }
    for (why, count) in left_out {
        println!("left out, since it {why}: {count}");
    }
    println!("{all} pass");
}

fn main() {
    let Some(asked) = Asked::read() else {
        println!("usage: test262 DIRECTORY [--every FIRST/OF] [PART…]");
        std::process::exit(2);
    };
    let harness = Harness::read(&asked.suite);
    let files = asked.files();
    let left = Mutex::new(files.iter());
    let found = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let Some(file) = left.lock().unwrap().next() else { break };
                    let one = Found::of(file, &asked.suite, &harness);
                    found.lock().unwrap().push(one);
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap();
    found.sort_by(|one, other| one.path.cmp(&other.path));
    tell(&found);
}
