//! The house rules whose breaking would hurt, as code: reads the sources, compiles none of them.
//!
//! Each rule is a function from one file to complaints. `rules_on_bad_text_complain` feeds every rule a text that
//! breaks it, so a rule that can no longer fail is itself a failure.

use std::fs;
use std::path::Path;

/// One file: its path from the root of the repository, its text, and its text without comments and literals.
struct Source {
    path: String,
    text: String,
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let code = if path.ends_with(".rs") { code_of(text) } else { String::new() };
        Self { path: path.to_owned(), text: text.to_owned(), code }
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// In the source directory of one of the product's crates.
    fn is_module(&self) -> bool {
        self.is_rust()
            && ["src/", "worker/src/", "wire/src/", "sys/src/"].iter().any(|d| self.path.starts_with(d))
    }

    fn is_test(&self) -> bool {
        let in_tests = self.path.starts_with("tests/") || self.path.contains("/tests/");
        self.is_rust() && (in_tests || self.name() == "tests" || self.name().ends_with("_tests"))
    }

    /// File name without its extension.
    fn name(&self) -> &str {
        Path::new(&self.path).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default()
    }

    fn line_of(&self, offset: usize) -> usize {
        self.code.get(..offset).map_or(0, |before| before.matches('\n').count() + 1)
    }

    /// Where the code (not a comment, not a literal) has this word.
    fn places_of(&self, word: &str) -> Vec<usize> {
        words_at(&self.code, word)
    }

    fn complaints(&self, word: &str, why: &str) -> Vec<String> {
        self.places_of(word)
            .into_iter()
            .map(|at| format!("{}:{}: {why}", self.path, self.line_of(at)))
            .collect()
    }
}

/// Offsets of `word` where no letter, digit or underscore touches it.
fn words_at(code: &str, word: &str) -> Vec<usize> {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .filter(|(at, _)| {
            let before = code.get(..*at).and_then(|text| text.chars().next_back());
            let after = code.get(at + word.len()..).and_then(|text| text.chars().next());
            let joined_before = before.is_some_and(part_of_word);
            let joined_after = word.ends_with(part_of_word) && after.is_some_and(part_of_word);
            !joined_before && !joined_after
        })
        .map(|(at, _)| at)
        .collect()
}

/// Rust text with comments, strings and characters blanked out, and every line where it was.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let taken = literal_or_comment(rest);
        if taken == 0 {
            code.push(first);
            rest = rest.get(first.len_utf8()..).unwrap_or_default();
        } else {
            let (blank, after) = rest.split_at(taken);
            code.extend(blank.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = after;
        }
    }
    code
}

/// Length in bytes of the comment or literal that the text begins with; 0 when it begins with neither.
fn literal_or_comment(text: &str) -> usize {
    let until = |end: &str, from: usize| {
        text.get(from..).and_then(|t| t.find(end)).map_or(text.len(), |at| from + at + end.len())
    };
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return until("*/", 2);
    }
    if text.starts_with('"') {
        return quoted(text, '"');
    }
    if let Some(hashes) =
        text.strip_prefix('r').and_then(|t| t.find('"').filter(|at| t[..*at].bytes().all(|b| b == b'#')))
    {
        return until(&format!("\"{}", "#".repeat(hashes)), hashes + 2);
    }
    // A lifetime has no closing quote one character (or one escape) on.
    let mut characters = text.chars();
    if characters.next() == Some('\'') {
        return match (characters.next(), characters.next()) {
            (Some('\\'), _) => quoted(text, '\''),
            (Some(c), Some('\'')) => 2 + c.len_utf8(),
            _ => 0,
        };
    }
    0
}

/// Length of a literal between two `quote`s, escapes skipped.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

const LINES_MAX: usize = 600;
const NAMES_BANNED: [&str; 7] = ["utils", "util", "helpers", "common", "misc", "manager", "types"];
const CRATE_ROOTS: [&str; 9] = [
    "src/lib.rs",
    "src/main.rs",
    "worker/src/lib.rs",
    "js/src/lib.rs",
    "wire/src/lib.rs",
    "tests/hostile/src/lib.rs",
    "tests/hostile/src/main.rs",
    "tests/bench/src/lib.rs",
    "tests/bench/src/main.rs",
];

/// Unsafe code has one home.
fn unsafe_stays_home(source: &Source) -> Vec<String> {
    if source.path.starts_with("sys/") {
        return Vec::new();
    }
    source.complaints("unsafe", "unsafe code belongs into the crate sys")
}

/// Every crate but `sys` has the compiler refuse unsafe code.
fn crates_forbid_unsafe(source: &Source) -> Vec<String> {
    let is_root = CRATE_ROOTS.contains(&source.path.as_str()) || source.path.starts_with("src/bin/");
    if !is_root || source.code.contains("#![forbid(unsafe_code)]") {
        return Vec::new();
    }
    vec![format!("{}: a crate's root needs #![forbid(unsafe_code)]", source.path)]
}

/// A module says first what it is, what it owns and what it never does. A file of tests need not.
fn modules_say_what_they_own(source: &Source) -> Vec<String> {
    if !source.is_module() || source.is_test() {
        return Vec::new();
    }
    let heading: Vec<&str> = source.text.lines().take_while(|line| line.starts_with("//!")).collect();
    let mut missing = Vec::new();
    if heading.first().is_none_or(|line| line.trim_start_matches("//!").trim().is_empty()) {
        missing.push("does not begin with //! and what it is");
    }
    for part in ["Owns:", "Never:"] {
        if !heading.iter().any(|line| line.starts_with(&format!("//! {part}"))) {
            missing.push(if part == "Owns:" {
                "has no `//! Owns:` in its heading"
            } else {
                "has no `//! Never:` in its heading"
            });
        }
    }
    missing.into_iter().map(|what| format!("{}: {what}", source.path)).collect()
}

/// A module's name says what is in it.
fn names_say_something(source: &Source) -> Vec<String> {
    let directory = Path::new(&source.path).parent().and_then(Path::file_name).and_then(|name| name.to_str());
    let banned = |name: &str| NAMES_BANNED.contains(&name);
    if source.is_rust() && (banned(source.name()) || directory.is_some_and(banned)) {
        return vec![format!("{}: a module's name must say what is in it", source.path)];
    }
    Vec::new()
}

/// The unmaintained codec can be replaced in one file.
fn codec_is_named_once(source: &Source) -> Vec<String> {
    let why = "only wire/src/codec.rs names bincode";
    if source.path == "wire/src/codec.rs" {
        return Vec::new();
    }
    if source.path.ends_with("Cargo.toml") && source.path != "Cargo.toml" && source.path != "wire/Cargo.toml"
    {
        let named = source.text.lines().any(|line| line.starts_with("bincode"));
        return if named { vec![format!("{}: {why}", source.path)] } else { Vec::new() };
    }
    source.complaints("bincode", why)
}

/// The jail that is tested is the jail that ships: only a module of tests may be there for tests alone.
fn jail_has_no_test_build(source: &Source) -> Vec<String> {
    let jail = source.path.starts_with("worker/src/jail") || source.path.starts_with("worker/build");
    if !jail || !source.is_rust() || source.is_test() {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    for at in source.places_of("test") {
        let line = source.code.lines().nth(source.line_of(at) - 1).unwrap_or_default().trim();
        let next = source
            .code
            .lines()
            .skip(source.line_of(at))
            .find(|l| !l.trim().is_empty() && !l.trim().starts_with("#["));
        let conditional = line.contains("cfg");
        let module = line == "#[cfg(test)]" && next.is_some_and(|l| l.trim_start().starts_with("mod "));
        if conditional && !module {
            complaints.push(format!(
                "{}:{}: the jail must be the same under test",
                source.path,
                source.line_of(at)
            ));
        }
    }
    complaints
}

/// Landlock's best effort weakens a jail without a word.
fn jail_is_not_best_effort(source: &Source) -> Vec<String> {
    if !source.path.starts_with("worker/src/") {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    for word in ["best_effort", "BestEffort", "set_best_effort"] {
        complaints.extend(source.complaints(word, "ask for hard requirements and look at the status"));
    }
    complaints
}

/// Every rule of a filter says who needs it.
fn filters_give_reasons(source: &Source) -> Vec<String> {
    if !source.path.starts_with("policies/seccomp/") || !source.path.ends_with(".json") {
        return Vec::new();
    }
    let Ok(policy) = serde_json::from_str::<serde_json::Value>(&source.text) else {
        return vec![format!("{}: is not JSON", source.path)];
    };
    let Some(rules) =
        policy.get("rules").and_then(|rules| rules.as_array()).filter(|rules| !rules.is_empty())
    else {
        return vec![format!("{}: has no rules", source.path)];
    };
    let word = |rule: &serde_json::Value, key: &str| {
        rule.get(key).and_then(|v| v.as_str()).unwrap_or_default().trim().to_owned()
    };
    rules
        .iter()
        .filter(|rule| word(rule, "reason").is_empty() || word(rule, "syscall").is_empty())
        .map(|rule| format!("{}: rule without a syscall or a reason: {rule}", source.path))
        .collect()
}

/// A test waits for an event, with a deadline; time passing proves nothing.
fn tests_do_not_sleep(source: &Source) -> Vec<String> {
    // A program that misbehaves for the tests may do so by sleeping, and a bench may measure how late a sleep ends, or pause
    // between what it measures.
    let from = if ["tests/hostile/src/", "tests/hostile/benches/", "tests/bench/src/load.rs"]
        .iter()
        .any(|free| source.path.starts_with(free))
    {
        return Vec::new();
    } else if source.is_test() {
        0
    } else {
        match source.code.find("#[cfg(test)]") {
            Some(at) => at,
            None => return Vec::new(),
        }
    };
    source
        .places_of("sleep(")
        .into_iter()
        .filter(|at| *at >= from)
        .map(|at| {
            format!("{}:{}: wait for the event, with a deadline, instead", source.path, source.line_of(at))
        })
        .collect()
}

/// A file has one subject, and fits in a head.
fn files_are_short(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    let counted = source.is_rust() || source.path.ends_with(".c") || source.path.starts_with("scripts/");
    if !counted || lines <= LINES_MAX {
        return Vec::new();
    }
    vec![format!("{}: {lines} lines; {LINES_MAX} is the most", source.path)]
}

/// What is left to do is done or written where work is planned, not in the sources.
fn nothing_is_left_to_do(source: &Source) -> Vec<String> {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:"), concat!("todo", "!(")];
    let lines = source.text.lines().enumerate();
    lines
        .filter(|(_, line)| marks.iter().any(|mark| !words_at(line, mark).is_empty()))
        .map(|(at, _)| format!("{}:{}: do it, or take it out", source.path, at + 1))
        .collect()
}

/// A hostile guest says what it does and what must come of it.
fn guests_say_what_is_expected(source: &Source) -> Vec<String> {
    if !source.path.starts_with("tests/guests/") || !source.path.ends_with(".wat") {
        return Vec::new();
    }
    let heading: Vec<&str> = source.text.lines().take_while(|line| line.starts_with(";;")).collect();
    let mut complaints = Vec::new();
    if !heading.iter().any(|line| line.contains("Expected")) {
        complaints.push(format!("{}: its heading does not say what is expected", source.path));
    }
    if let Err(error) = wat::parse_str(&source.text) {
        complaints.push(format!("{}: is not WebAssembly text: {error}", source.path));
    }
    complaints
}

type Rule = (&'static str, fn(&Source) -> Vec<String>);

const RULES: [Rule; 12] = [
    ("unsafe_stays_home", unsafe_stays_home),
    ("crates_forbid_unsafe", crates_forbid_unsafe),
    ("modules_say_what_they_own", modules_say_what_they_own),
    ("names_say_something", names_say_something),
    ("codec_is_named_once", codec_is_named_once),
    ("jail_has_no_test_build", jail_has_no_test_build),
    ("jail_is_not_best_effort", jail_is_not_best_effort),
    ("filters_give_reasons", filters_give_reasons),
    ("tests_do_not_sleep", tests_do_not_sleep),
    ("files_are_short", files_are_short),
    ("nothing_is_left_to_do", nothing_is_left_to_do),
    ("guests_say_what_is_expected", guests_say_what_is_expected),
];

/// Every text file of the repository, the build's own directories aside.
fn sources_under(directory: &Path, root: &Path, sources: &mut Vec<Source>) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if path.is_symlink() || name == "target" || (name.starts_with('.') && name != ".ci") {
            continue;
        }
        if path.is_dir() {
            sources_under(&path, root, sources)?;
        } else if let (Ok(text), Ok(relative)) = (fs::read_to_string(&path), path.strip_prefix(root)) {
            sources.push(Source::new(&relative.to_string_lossy(), &text));
        }
    }
    Ok(())
}

#[test]
fn sources_of_the_repository_follow_the_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    sources_under(root, root, &mut sources).unwrap();
    for expected in
        CRATE_ROOTS.iter().chain(&["tests/tidy.rs", "wire/src/codec.rs", "tests/guests/add.wat", "deny.toml"])
    {
        assert!(sources.iter().any(|source| source.path == **expected), "did not find {expected}");
    }
    let complaints: Vec<String> =
        sources.iter().flat_map(|source| RULES.iter().flat_map(|(_, rule)| rule(source))).collect();
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

/// For each rule: a path, a text that breaks it, and one at the same path that does not.
const BAD_AND_GOOD: [(&str, &str, &str, &str); 19] = [
    ("unsafe_stays_home", "src/a.rs", "fn f() { unsafe { g() } }", "// unsafe\nfn f() { g(\"unsafe\") }"),
    ("unsafe_stays_home", "tests/a.rs", "unsafe extern \"C\" {}", "#![forbid(unsafe_code)]"),
    (
        "unsafe_stays_home",
        "worker/src/a.rs",
        "impl<'a> A<'a> { unsafe fn f() {} }",
        "const C: char = '\"'; // unsafe \"\n",
    ),
    (
        "crates_forbid_unsafe",
        "wire/src/lib.rs",
        "// #![forbid(unsafe_code)]\n",
        "//! W.\n#![forbid(unsafe_code)]\n",
    ),
    (
        "modules_say_what_they_own",
        "src/a.rs",
        "//! A.\n//!\n//! Owns: a.\n",
        "//! A.\n//!\n//! Owns: a.\n//! Never: b.\n",
    ),
    (
        "modules_say_what_they_own",
        "sys/src/a.rs",
        "use b;\n//! A.\n//! Owns: a.\n//! Never: b.\n",
        "//! A.\n//! Owns: a.\n//! Never: b.\n",
    ),
    ("names_say_something", "src/utils.rs", "", "mod utils_of_trade;"),
    ("names_say_something", "src/common/ring.rs", "", ""),
    ("codec_is_named_once", "src/a.rs", "use bincode::encode;", "// not bincode\n"),
    (
        "codec_is_named_once",
        "worker/Cargo.toml",
        "[dependencies]\nbincode.workspace = true\n",
        "# no bincode\n",
    ),
    (
        "jail_has_no_test_build",
        "worker/src/jail/a.rs",
        "#[cfg(test)]\nfn open() {}",
        "#[cfg(test)]\nmod tests {}",
    ),
    ("jail_has_no_test_build", "worker/src/jail/a.rs", "if cfg!(test) {}", "fn f() {}\n#[test]\nfn g() {}"),
    ("jail_has_no_test_build", "worker/src/jail/a.rs", "#[cfg(not(test))]\nmod tests {}", ""),
    (
        "jail_is_not_best_effort",
        "worker/src/a.rs",
        "r.set_compatibility(CompatLevel::BestEffort)",
        "// BestEffort\n",
    ),
    (
        "filters_give_reasons",
        "policies/seccomp/a.json",
        r#"{"rules":[{"syscall":"read","reason":" "}]}"#,
        r#"{"rules":[{"syscall":"read","reason":"r"}]}"#,
    ),
    (
        "tests_do_not_sleep",
        "src/a.rs",
        "#[cfg(test)]\nmod tests { fn f() { thread::sleep(D); } }",
        "fn f() { sleep(D) }\n#[cfg(test)]\nmod tests {}",
    ),
    ("files_are_short", "src/a.rs", "LONG", "fn f() {}"),
    ("nothing_is_left_to_do", "README.md", concat!("TO", "DO: write it"), "to do so"),
    (
        "guests_say_what_is_expected",
        "tests/guests/a.wat",
        ";; Expected: a trap.\n(module (func)",
        ";; Expected: a trap.\n(module)",
    ),
];

#[test]
fn rules_on_bad_text_complain() {
    for (name, path, bad, good) in BAD_AND_GOOD {
        let rule = RULES.iter().find(|(known, _)| *known == name).unwrap().1;
        let bad = if bad == "LONG" { "fn f() {}\n".repeat(LINES_MAX + 1) } else { bad.to_owned() };
        assert!(!rule(&Source::new(path, &bad)).is_empty(), "{name} took {bad:?} at {path}");
        let banned_path = name == "names_say_something";
        let elsewhere = if banned_path { "src/ring.rs" } else { path };
        assert_eq!(rule(&Source::new(elsewhere, good)), Vec::<String>::new(), "{name} at {elsewhere}");
    }
    for (name, _) in RULES {
        assert!(BAD_AND_GOOD.iter().any(|(known, ..)| *known == name), "{name} has no bad text");
    }
}

#[test]
fn code_of_text_with_literals_and_comments_keeps_lines_and_lifetimes() {
    let text = "a('x', '\\'', \"b\\\"//\", r#\"c\"d\"#) // e\n/* f\n*/ g::<'h>(r\"\")";
    let code = code_of(text);
    assert_eq!(code.lines().count(), text.lines().count());
    assert_eq!(code.split_whitespace().collect::<Vec<_>>().join(" "), "a( , , , ) g::<'h>( )");
}
