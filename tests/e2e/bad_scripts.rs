//! Scripts that mean no good: each ends with a word of its own, in time, and the next one finds nothing of it.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use stockade_wire::job::{Isolation, JobResult, LimitsWanted, Submission};

use crate::rig::{Daemon, Mode, Peer, Place, short_of, submission_of, text};

/// Scripts that run at the same time. Most of what the bad ones take is waiting for their deadline.
const AT_ONCE: usize = 4;

/// Longest that a script which does not end by itself is let run, µs.
const LATE_US: u64 = 100_000;

/// What ends by itself has all the time it needs on a machine that has other things to do, µs.
const PATIENT_US: u64 = 60_000_000;

/// Walks over everything that a script can reach: the values, names, flags and prototypes of all of it, but not what is this
/// job's own. Its log shows what the console has counted and how far it indents.
const LOOKS: &str = r#"
const seen = new Map(), all = [], own = new Set(['ctx', 'deadline', 'job']);
const word = (value) => {
  if (typeof value === 'function') {
    const source = Function.prototype.toString.call(value);
    return source.includes('[native code]') ? 'f' : source;
  }
  return typeof value === 'object' && value !== null ? 'o' : value === undefined ? '' : `${typeof value} ${String(value)}`;
};
const visit = (value) => {
  if (value === null || (typeof value !== 'object' && typeof value !== 'function')) return;
  if (seen.has(value)) return all.push(seen.get(value));
  seen.set(value, seen.size);
  all.push(Object.isExtensible(value));
  visit(Object.getPrototypeOf(value));
  for (const key of Reflect.ownKeys(value)) {
    if (own.has(key)) continue;
    const { value: held, get, set, writable, enumerable, configurable } = Object.getOwnPropertyDescriptor(value, key);
    all.push(key, 4 * !!writable + 2 * !!enumerable + !!configurable, word(held), word(get), word(set));
    visit(held), visit(get), visit(set);
  }
};
visit(globalThis);
for (const made of [async () => {}, function* () {}, async function* () {}, [][Symbol.iterator](), new Map().entries(), /a/g,
  ''[Symbol.iterator](), new Uint8Array(1), Promise.resolve(1), ctx.log]) visit(made);
const told = all.map(String).join();
console.count();
const waited = await new Promise((done) => setTimeout(() => done([1, 2, 3].reduce((a, b) => a + b)), 1));
const frames = Error.stackTraceLimit;
output = [[all.length > 10000, told, waited, frames, typeof input, Object.keys(ctx.env)], Math.random(), crypto.randomUUID()];
"#;

/// What it logs.
const COUNTED: &str = "default: 1\n";

/// What a script leaves behind before it does what it is here for.
const LEAVES: &str =
    "globalThis.left = Object.prototype.left = 'left'; Array.prototype.push.left = 1; console.count();
    console.group(); Math.random = () => 4; const secret = 'SECRET'.repeat(9);\n";

const LATE: &str = "timed_out epoch_deadline epoch guest";

/// Of one that is at one thing for so long that it does not see its deadline in time.
const HELD_UP: &str = "timed_out sigterm_after_deadline sigterm guest";
const DEEP: &str = "guest_error stack_overflow - guest";
const FULL: &str = "out_of_memory memory_limit - guest";
const THROWN: &str = "guest_error exception - guest";
const NOT_JSON: &str = "guest_error output_not_json - guest";
const BAD_INPUT: &str = "guest_error input_not_json - operator";
const NEVER: &str = "guest_error never_settled - guest";
const IMPORTS: &str = "invalid_module unknown_import - guest";
const SYNTAX: &str = "invalid_module syntax_error - guest";
const NO_ENTRY: &str = "invalid_module no_entry - guest";
const NO_TEXT: &str = "invalid_module malformed_text - guest";
const NOTHING: &str = "invalid_module unrecognised - guest";
const GOOD: &str = "completed - - -";

struct Bad {
    source: Vec<u8>,
    entry: Option<&'static str>,
    input: String,
    ends: &'static str,
}

fn bad(source: impl Into<Vec<u8>>, ends: &'static str) -> Bad {
    Bad { source: source.into(), entry: None, input: String::new(), ends }
}

/// One that leaves something behind first.
fn leaving(source: &str, ends: &'static str) -> Bad {
    bad(format!("{LEAVES}{source}"), ends)
}

fn bad_module(source: &str, ends: &'static str) -> Bad {
    Bad { entry: Some("handle"), ..bad(source, ends) }
}

/// What never comes to an end by itself.
fn endless() -> Vec<Bad> {
    [
        "for (;;) ;",
        "for (;;) { try { throw 1 } catch {} finally { continue } }",
        "(function again() { Promise.resolve().then(again) })()",
        "(function again() { queueMicrotask(again) })()",
        "(async () => { for (;;) await null })()",
        "setInterval(() => {}, 1)",
        "await new Promise(done => setTimeout(done, 1e8))",
        "/^(a+)+$/.test('a'.repeat(40) + 'b')",
        "[3, 2, 1].sort(() => { for (;;) ; })",
        "({ toJSON() { for (;;) ; } })",
        "const e = new Error(); Object.defineProperty(e, 'stack', { get() { for (;;) ; } }); throw e",
        "for (const x of { [Symbol.iterator]: () => ({ next: () => ({}) }) }) ;",
        "for (;;) console.log('flood', 'x'.repeat(100))",
        "for (;;) console.error('flood')",
        "const a = []; for (;;) try { a.push(new Array(1000)) } catch {}",
    ]
    .map(|source| leaving(source, LATE))
    .into()
}

/// What is at one thing for so long that it does not ask in time whether it is to end; without a jail it need not ask.
fn held_up(mode: Mode) -> Bad {
    let ends = match mode {
        Mode::Jailed => HELD_UP,
        Mode::InProcess => LATE,
    };
    leaving("const b = 3n ** 300000n; for (;;) b * b", ends)
}

/// What goes deeper than there is stack for.
fn deep() -> Vec<Bad> {
    let deep = "let d = []; for (let i = 0; i < 2e4; i++) d = [d];";
    let mut scripts: Vec<Bad> = [
        "(function f() { f() })()",
        "(async function f() { await f() })()",
        "JSON.parse('['.repeat(2e5))",
        "const o = { toString() { return '' + o } }; '' + o",
        "const o = { toJSON: () => JSON.stringify(o) }; o",
        "const p = new Proxy({}, { get(t, k, r) { return r[k] } }); p.x",
        "class A { get x() { return this.x } } new A().x",
        "eval('('.repeat(1e5))",
        "new RegExp('(?:'.repeat(1e5))",
        &format!("{deep} String(d)"),
        &format!("{deep} structuredClone(d)"),
        &format!("{deep} d"),
    ]
    .map(|source| leaving(source, DEEP))
    .into();
    scripts.extend(["[", "(", "{", "!", "a=>", "`${"].map(|opens| bad(opens.repeat(50_000), DEEP)));
    scripts
}

/// What wants more memory than there is, or than a value of the language can have.
fn large() -> Vec<Bad> {
    let full = [
        "const a = []; for (;;) a.push(new Uint8Array(1 << 16))",
        "const a = []; for (;;) a.push({ a: 1 })",
        "const m = new Map(); for (let i = 0; ; i++) m.set(i, 'x' + i)",
        "const o = {}; for (let i = 0; ; i++) o['k' + i] = i",
        "const f = []; for (;;) f.push(() => f)",
        "const p = []; for (;;) p.push(new Promise(() => {}))",
        "(function f(n) { return Promise.resolve().then(() => f([n, new Array(1000)])) })()",
        "new Array(1e8).fill(0)",
        "new ArrayBuffer(2 ** 31 - 1)",
        "'x'.repeat(2 ** 29)",
        "'x'.repeat(1e7).split('')",
        "JSON.parse('[' + '1,'.repeat(2e6) + '1]')",
        "[...function* () { for (;;) yield 1 }()]",
        "structuredClone(new Uint8Array(1e7))",
        "console.log('x'.repeat(9e6))",
    ];
    let too_large = [
        "let s = 'x'; for (;;) s += s",
        "2n ** (2n ** 30n)",
        "new Array(2 ** 32)",
        "for (;;) setTimeout(() => {}, 1)",
    ];
    let full = full.map(|source| leaving(source, FULL)).into_iter();
    full.chain(too_large.map(|source| leaving(source, THROWN))).collect()
}

/// What has no result, or none that is one.
fn without_result() -> Vec<Bad> {
    let mut scripts: Vec<Bad> = [
        ("const a = {}; a.a = a; a", NOT_JSON),
        ("({ n: 1n })", NOT_JSON),
        ("1n", NOT_JSON),
        ("() => 1", NOT_JSON),
        ("Symbol('s')", NOT_JSON),
        ("({ toJSON() { throw 1 } })", NOT_JSON),
        ("new Promise(() => {})", NEVER),
        ("await new Promise(() => {})", NEVER),
        ("({ then() {} })", NEVER),
        ("throw { get name() { throw 1 }, toString() { throw 2 } }", THROWN),
        ("throw new Proxy(new Error(), { get() { throw 1 } })", THROWN),
        ("throw undefined", THROWN),
        ("Promise.reject(1); 1", THROWN),
        ("setTimeout(() => { throw 1 }, 1)", THROWN),
        ("import('fs')", IMPORTS),
        ("require('fs')", THROWN),
        ("process.exit(0)", THROWN),
        ("for (let i = 0; i < 12000; i++) console.log('flood', 'x'.repeat(100))", GOOD),
    ]
    .map(|(source, ends)| leaving(source, ends))
    .into();
    scripts.extend([
        bad_module("export const handle = () => new Promise(() => {})", NEVER),
        bad_module("await new Promise(() => {}); export const handle = () => 1", NEVER),
        bad_module("export const other = () => 1", NO_ENTRY),
        bad_module("export const handle = 1", NO_ENTRY),
        bad_module("import 'fs'; export const handle = () => 1", IMPORTS),
        bad_module("export { handle } from 'fs'", IMPORTS),
        bad_module("export const handle = () => import('fs')", IMPORTS),
        bad_module("export const handle = class {}", THROWN),
        bad_module("export const handle = (", SYNTAX),
        bad("import 'fs'", IMPORTS),
        bad("export const handle = () => 1", SYNTAX),
        bad("let a = ;", SYNTAX),
        bad("return 1", SYNTAX),
        bad(b"'\xe9'", NOTHING),
        bad(b"\xff\xfe1\0", NOTHING),
        bad([&b"'".repeat(1 << 17)[..], b"\xe9"].concat(), NO_TEXT),
        bad(b" 1".repeat(5 << 20), NO_TEXT),
        Bad { input: "{".into(), ..bad("1", BAD_INPUT) },
        Bad { input: "[".repeat(200_000), ..bad("1", BAD_INPUT) },
    ]);
    scripts
}

/// What replaces the things that scripts stand on, and then does as others do.
fn replacing() -> Vec<Bad> {
    let replaced = "globalThis.left = Object.prototype.left = 1;
        JSON.stringify = JSON.parse = () => { throw 'mine' };
        for (const name of ['push', 'map', 'join', 'splice', 'reduce']) Array.prototype[name] = () => { throw 'mine' };
        Promise.prototype.then = () => { throw 'mine' };
        globalThis.Promise = globalThis.Error = globalThis.TypeError = globalThis.setTimeout = undefined;
        Math.random = 'mine';\n";
    [
        ("output = [1]", GOOD),
        ("null.x", THROWN),
        ("(async () => { await null; null.x })()", THROWN),
        ("(function f() { f() })()", DEEP),
        ("const a = []; for (;;) a[a.length] = {}", FULL),
        ("1n", NOT_JSON),
        ("for (;;) ;", LATE),
    ]
    .map(|(then, ends)| bad(format!("{replaced} {then}"), ends))
    .into()
}

fn place(mode: Mode) -> Place {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("scripts-cache");
    Place::new(mode).set("CACHE_DIRECTORY", cache.to_str().unwrap()).set("KILL_EPOCH_HEAD_START", "1s")
}

fn job(source: impl Into<Vec<u8>>, tenant: &str, isolation: Option<Isolation>) -> Submission {
    let limits =
        LimitsWanted { timeout_us: Some(PATIENT_US), memory_bytes: Some(8 << 20), ..LimitsWanted::default() };
    Submission { limits, isolation, tenant: Some(tenant.into()), ..submission_of(source, "bad.js") }
}

/// What there is to see, and what was drawn.
fn look(client: &mut Peer, tenant: &str, isolation: Option<Isolation>) -> (Value, [String; 2], JobResult) {
    let result = client.run(job(LOOKS, tenant, isolation)).unwrap();
    assert_eq!(short_of(&result), GOOD, "{result:?}");
    let [found, number, id]: [Value; 3] = serde_json::from_slice(&result.output.0).unwrap();
    (found, [number, id].map(|drawn| drawn.to_string()), result)
}

/// Runs bad ones in turn, and looks after each; how many of them did not have their worker replaced.
fn run_in_turn(
    client: &mut Peer,
    untouched: &Value,
    next: &dyn Fn() -> Option<Bad>,
    who: (usize, Option<Isolation>),
) -> usize {
    let (nth, isolation) = who;
    let (tenant, mut harmless) = (format!("t{nth}"), 0);
    let mut drawn = HashSet::new();
    while let Some(Bad { source, entry, input, ends }) = next() {
        let end = text(&source[source.len().saturating_sub(80)..]);
        let mut bad = Submission { input: input.into_bytes().into(), ..job(source, &tenant, isolation) };
        bad.environment.push(("SECRET".to_owned(), "left".to_owned()));
        bad.entry = entry.map(str::to_owned);
        bad.limits.timeout_us = Some(if [LATE, HELD_UP].contains(&ends) { LATE_US } else { PATIENT_US });
        let result = client.run(bad).unwrap();
        assert_eq!(short_of(&result), ends, "…{end}: {result:?}");
        assert!(
            ends != GOOD || !end.contains("flood") || result.logs.dropped_lines > 0,
            "…{end}: {result:?}"
        );
        harmless += usize::from(![LATE, HELD_UP, DEEP, FULL, NOTHING].contains(&ends));
        // Whoever is next, be it the same caller or another; a process that stays has one of them alone.
        let same = isolation.is_some() || drawn.len() % 4 == 0;
        let (found, draws, next) = look(client, if same { &tenant } else { "another" }, isolation);
        assert!(&found == untouched, "after …{end}: {found}");
        let logged = [&next.logs.stdout.0, &next.logs.stderr.0].map(|log| text(log));
        assert_eq!(logged, [COUNTED, ""], "after …{end}");
        assert!(draws.into_iter().all(|draw| drawn.insert(draw)), "a draw came twice after …{end}");
    }
    harmless
}

fn run_them_all(mode: Mode, isolation: Option<Isolation>) {
    let daemon = Daemon::start(place(mode));
    let (untouched, ..) = look(&mut daemon.client(), "first", isolation);
    let all = [endless(), vec![held_up(mode)], deep(), large(), without_result(), replacing()];
    let left = Mutex::new(all.into_iter().flatten());
    let harmless = AtomicUsize::new(0);
    let next = || left.lock().unwrap().next();
    std::thread::scope(|scope| {
        for nth in 0..AT_ONCE {
            let (mut client, untouched, next, harmless) = (daemon.client(), &untouched, &next, &harmless);
            scope.spawn(move || {
                let kept = run_in_turn(&mut client, untouched, next, (nth, isolation));
                harmless.fetch_add(kept, Ordering::Relaxed);
            });
        }
    });
    let figures = daemon.client().ask(async |client| client.statistics().await).unwrap();
    let reused = usize::try_from(figures.starts_reused).unwrap();
    let least = if isolation == Some(Isolation::Tenant) { harmless.into_inner() } else { 0 };
    assert!(reused >= least && (reused > 0) == (least > 0), "{reused} of {least}: {figures:?}");
}

#[test]
fn bad_script_ends_with_its_own_word_and_the_next_process_is_untouched() {
    run_them_all(Mode::Jailed, None);
}

#[test]
fn bad_script_ends_with_its_own_word_and_the_next_in_its_process_is_untouched() {
    run_them_all(Mode::Jailed, Some(Isolation::Tenant));
}

#[test]
fn bad_script_without_a_jail_ends_with_its_own_word_and_the_next_is_untouched() {
    run_them_all(Mode::InProcess, None);
}

#[test]
fn whatever_a_script_leaves_is_found_where_it_is_there() {
    let daemon = Daemon::start(place(Mode::Jailed));
    let mut client = daemon.client();
    let (untouched, ..) = look(&mut client, "first", None);
    for left in [
        "globalThis.left = 1;",
        "Object.defineProperty(globalThis, 'left', { value: 1 });",
        "Object.prototype.left = undefined;",
        "Array.prototype.push.left = 1;",
        "Array.prototype.push = function push() {};",
        "delete String.prototype.at;",
        "Math.random = () => 4;",
        "Object.freeze(JSON);",
        "Object.setPrototypeOf(Set.prototype, Map.prototype);",
        "(async () => {}).__proto__.left = 1;",
        "[][Symbol.iterator]().__proto__.next = null; [].values().__proto__.left = 1;",
        "console.log = () => {};",
        "Error.stackTraceLimit = 3;",
        "var input = 7;",
    ] {
        let result = client.run(job(format!("{left}{LOOKS}"), "first", None)).unwrap();
        let found = serde_json::from_slice::<Value>(&result.output.0).map(|output| output[0].clone());
        assert!(found.is_err() || found.unwrap() != untouched, "{left}");
    }
    for left in ["console.count();", "console.group();"] {
        let result = client.run(job(format!("{left}{LOOKS}"), "first", None)).unwrap();
        assert_ne!(text(&result.logs.stdout.0), COUNTED, "{left}");
    }
}
