//! Scripts that mean no good: each ends with a word of its own, in time, and the next one finds nothing of it.

use std::path::Path;

use stockade_wire::job::{LimitsWanted, Submission};

use crate::rig::{Daemon, Mode, Place, short_of, submission_of, text};

/// What a script finds that nobody has been at.
const UNTOUCHED: &str = r#"[null,null,"{\"a\":[2]}",6,"Error: e","number"]"#;

/// Looks at it: globals, prototypes, what results and errors are made with.
const LOOKS: &str = "[globalThis.left ?? null, ({}).left ?? null, JSON.stringify({ a: [1].map(x => 2 * x) }),
    await new Promise(done => setTimeout(() => done([1, 2, 3].reduce((a, b) => a + b)), 1)),
    String(new Error('e')), typeof Math.random()]";

struct Bad {
    source: String,
    entry: Option<&'static str>,
    ends: &'static str,
}

fn bad(source: impl Into<String>, ends: &'static str) -> Bad {
    Bad { source: source.into(), entry: None, ends }
}

fn bad_module(source: &str, ends: &'static str) -> Bad {
    Bad { source: source.to_owned(), entry: Some("handle"), ends }
}

const LATE: &str = "timed_out epoch_deadline epoch guest";
const DEEP: &str = "guest_error stack_overflow - guest";
const FULL: &str = "out_of_memory memory_limit - guest";
const THROWN: &str = "guest_error exception - guest";
const NOT_JSON: &str = "guest_error output_not_json - guest";
const NEVER: &str = "guest_error never_settled - guest";
const GOOD: &str = "completed - - -";

/// What never comes to an end by itself.
fn endless() -> Vec<Bad> {
    [
        "for (;;) ;",
        "(function again() { Promise.resolve().then(again) })()",
        "setInterval(() => {}, 1)",
        "/^(a+)+$/.test('a'.repeat(40) + 'b')",
        "[3, 2, 1].sort(() => { for (;;) ; })",
        "for (;;) console.log('flood', 'x'.repeat(100))",
    ]
    .map(|source| bad(source, LATE))
    .into()
}

/// What goes deeper than there is stack for.
fn deep() -> Vec<Bad> {
    let sources = [
        "(function f() { f() })()".to_owned(),
        "JSON.parse('['.repeat(2e5))".to_owned(),
        "[".repeat(100_000),
        "const o = { toString() { return '' + o } }; '' + o".to_owned(),
        "const p = new Proxy({}, { get(t, k, r) { return r[k] } }); p.x".to_owned(),
        "let d = []; for (let i = 0; i < 1e5; i++) d = [d]; d".to_owned(),
    ];
    sources.map(|source| bad(source, DEEP)).into()
}

/// What wants more memory than there is.
fn large() -> Vec<Bad> {
    [
        "const a = []; for (;;) a.push(new Uint8Array(1 << 16))",
        "const a = []; for (;;) a.push({ a: 1 })",
        "const m = new Map(); for (let i = 0; ; i++) m.set(i, 'x' + i)",
        "let s = 'x'; for (;;) s += s",
        "new Array(1e8).fill(0)",
        "new ArrayBuffer(2 ** 31 - 1)",
        "const p = []; for (;;) p.push(new Promise(() => {}))",
    ]
    .map(|source| bad(source, FULL))
    .into()
}

/// What has no result, or none that is one.
fn without_result() -> Vec<Bad> {
    vec![
        bad("const a = {}; a.a = a; a", NOT_JSON),
        bad("({ n: 1n })", NOT_JSON),
        bad("() => 1", NOT_JSON),
        bad("new Promise(() => {})", NEVER),
        bad("await new Promise(() => {})", NEVER),
        bad_module("export const handle = () => new Promise(() => {})", NEVER),
        bad_module("export const other = () => 1", "invalid_module no_entry - guest"),
        bad_module("import 'fs'; export const handle = () => 1", "invalid_module unknown_import - guest"),
        bad_module("export const handle = () => import('fs')", "invalid_module unknown_import - guest"),
        bad("throw { get name() { throw 1 }, toString() { throw 2 } }", THROWN),
        bad("let a = ;", "invalid_module syntax_error - guest"),
    ]
}

/// What replaces the things that scripts stand on, and then does as others do.
fn replacing() -> Vec<Bad> {
    let replaced = "globalThis.left = Object.prototype.left = 1;
        JSON.stringify = JSON.parse = () => { throw 'mine' };
        for (const name of ['push', 'map', 'join', 'splice', 'reduce']) Array.prototype[name] = () => { throw 'mine' };
        Promise.prototype.then = () => { throw 'mine' };
        globalThis.Promise = globalThis.Error = globalThis.TypeError = globalThis.setTimeout = undefined;
        Math.random = 'mine';\n";
    vec![
        bad(format!("{replaced} output = [1]"), GOOD),
        bad(format!("{replaced} null.x"), THROWN),
        bad(format!("{replaced} (async () => {{ await null; null.x }})()"), THROWN),
        bad(format!("{replaced} for (;;) ;"), LATE),
    ]
}

fn run_them_all(place: Place) {
    let daemon = Daemon::start(place);
    let mut client = daemon.client();
    let mut run = |source: &str, entry: Option<&str>, timeout_us| {
        let limits = LimitsWanted {
            timeout_us: Some(timeout_us),
            memory_bytes: Some(16 << 20),
            ..LimitsWanted::default()
        };
        let entry = entry.map(str::to_owned);
        client.run(Submission { limits, entry, ..submission_of(source, "bad.js") }).unwrap()
    };
    let all = [endless(), deep(), large(), without_result(), replacing()];
    for Bad { source, entry, ends } in all.into_iter().flatten() {
        let start: String = source.chars().rev().take(60).collect::<Vec<_>>().into_iter().rev().collect();
        // What ends by itself has all the time it needs on a machine that has other things to do.
        let result = run(&source, entry, if ends == LATE { 300_000 } else { 60_000_000 });
        assert_eq!(short_of(&result), ends, "…{start}: {result:?}");
        let next = run(LOOKS, None, 60_000_000);
        assert_eq!(text(&next.output.0), UNTOUCHED, "after …{start}: {next:?}");
    }
}

#[test]
fn bad_script_ends_with_its_own_word_and_the_next_is_untouched() {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("scripts-cache");
    let place = Place::new(Mode::Jailed)
        .set("CACHE_DIRECTORY", cache.to_str().unwrap())
        .set("KILL_EPOCH_HEAD_START", "1s");
    run_them_all(place);
}
