//! Jobs whose module is JavaScript: what comes back, and that each has an engine of its own.

use std::collections::HashSet;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};
use stockade::client::ClientError;
use stockade_wire::client::RefusalReason;
use stockade_wire::job::{Isolation, ModuleSource, Submission, Verdict};
use stockade_wire::limits::{BESIDE_BYTES_MIN, SCRIPT_TEXT_BYTES_MAX};

use crate::rig::{Daemon, Ended, Mode, Peer, Place, Ran, eventually, ran, short_of, submission_of, text};

in_both_modes!(
    script_that_ends_well_gives_its_output_and_its_log,
    script_that_does_not_end_well_has_its_verdict_and_its_error,
    script_that_does_not_stop_is_stopped,
    script_is_told_whose_job_it_is,
    scripts_that_run_one_after_the_other_have_nothing_in_common,
    script_and_input_come_whole_however_long_they_are,
);

/// A place whose compiled modules outlive it: the engine is compiled once, not once a test.
fn place(mode: Mode) -> Place {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("scripts-cache");
    Place::new(mode).set("CACHE_DIRECTORY", cache.to_str().unwrap()).set("KILL_EPOCH_HEAD_START", "1s")
}

fn run(place: &Place, flags: &[&str], source: &str, input: &str) -> Ended {
    let file = place.file("script.js", source);
    let patient = if flags.contains(&"--timeout") { &[][..] } else { &["--timeout", "60s"] };
    place.run_on(input.as_bytes(), &[patient, flags].concat(), &file, &[])
}

fn script_that_ends_well_gives_its_output_and_its_log(mode: Mode) {
    let place = place(mode);
    let ended = run(
        &place,
        &["--env", "COLOUR=blue"],
        "console.log('looking'); console.warn('careful'); output = { got: input.a, env: ctx.env }",
        r#"{"a": [1, "é"]}"#,
    );
    assert_eq!(ended.short(), "completed - - - 0", "{}", ended.result);
    assert_eq!(ended.output(), r#"{"got":[1,"é"],"env":{"COLOUR":"blue"}}"#);
    assert_eq!(ended.result["logs"]["stdout"], "looking\n");
    assert_eq!(ended.result["logs"]["stderr"], "warn: careful\n");
    assert_eq!((&ended.result["error"], &ended.result["exit_code"]), (&Value::Null, &Value::Null));
    assert!(ended.figure("wasm_memory_peak_bytes") > 1 << 20 && ended.figure("run_us") > 0);
    let module = "export const a = 1; export async function twice(n) { await null; return 2 * n }";
    assert_eq!(run(&place, &["--entry", "twice"], module, "21").output(), "42");
    assert_eq!(run(&place, &[], "typeof input", "").output(), r#""undefined""#);
}

fn script_that_does_not_end_well_has_its_verdict_and_its_error(mode: Mode) {
    let place = place(mode);
    for (flags, source, input, expected, message) in [
        (
            &[][..],
            "\nnull.x",
            "",
            "guest_error exception - guest 1",
            "TypeError: cannot read property 'x' of null",
        ),
        (&[], "throw 'text'", "", "guest_error exception - guest 1", "Uncaught: text"),
        (&[], "let a = ;", "", "invalid_module syntax_error - guest 126", "SyntaxError: "),
        (
            &["--entry", "f"],
            "export const f = 1",
            "",
            "invalid_module no_entry - guest 126",
            "exports no function 'f'",
        ),
        (
            &["--entry", "f"],
            "import 'fs'",
            "",
            "invalid_module unknown_import - guest 126",
            "cannot import 'fs'",
        ),
        (&[], "1n", "", "guest_error output_not_json - guest 1", "BigInt"),
        (&[], "1", "{", "guest_error input_not_json - operator 1", "SyntaxError: "),
        (&[], "1", "\"\u{fffd}\"", "completed - - - 0", ""),
        (&[], "new Promise(() => {})", "", "guest_error never_settled - guest 1", "promise"),
        (&[], "(function f() { f() })()", "", "guest_error stack_overflow - guest 1", "Maximum call stack"),
        (&[], &"[".repeat(100_000), "", "guest_error stack_overflow - guest 1", "Maximum call stack"),
        (
            &[],
            "const a = []; for (;;) a.push(new Uint8Array(1e5))",
            "",
            "out_of_memory memory_limit - guest 137",
            "",
        ),
        (&["--output-limit", "1K"], "'x'.repeat(1e5)", "", "output_limit output_bytes - guest 137", ""),
    ] {
        let ended = run(&place, &[&["--memory", "16M"], flags].concat(), source, input);
        let start: String = source.chars().take(60).collect();
        // How far a worker that writes too much gets before it is stopped is its own affair.
        let short = ended.short().replace(" sigterm ", " - ").replace(" epoch ", " - ");
        assert_eq!(short, expected, "{start}: {}", ended.result);
        assert!(ended.message().contains(message), "{start}: {}", ended.message());
        let failed = !expected.starts_with("completed") && !expected.starts_with("output_limit");
        assert_eq!(ended.result["error"].is_object(), failed, "{start}: {}", ended.result);
    }
    let error = run(&place, &[], "function f() {\n  null.x\n}\nf()", "").result["error"].clone();
    assert_eq!((&error["name"], &error["file"]), (&"TypeError".into(), &"script.js".into()));
    assert_eq!((&error["line"], &error["column"]), (&2.into(), &3.into()));
    assert_eq!(error["stack"], "    at f (script.js:2:3)\n    at <eval> (script.js:4:1)\n");
    let not_utf8 = place.file("latin1.js", b"'\xe9'");
    assert_eq!(place.run(&[], &not_utf8).short(), "invalid_module unrecognised - guest 126");
    let late = place.file("late.js", [&b"'".repeat(1 << 17)[..], b"\n'\xe9'"].concat());
    assert_eq!(place.run(&[], &late).short(), "invalid_module malformed_text - guest 126");
    let large = place.file("large.js", b" 1".repeat(5 << 20));
    assert_eq!(place.run(&[], &large).short(), "invalid_module malformed_text - guest 126");
    let arguments = place.run_on(b"", &[], &place.file("a.js", "1"), &["b"]);
    assert_eq!(arguments.short(), "invalid_module arguments - operator 126");
}

fn script_that_does_not_stop_is_stopped(mode: Mode) {
    let place = place(mode);
    for source in [
        "for (;;) ;",
        "(function again() { queueMicrotask(again) })()",
        "/^(a+)+$/.test('a'.repeat(40) + 'b')",
        "await new Promise(done => setTimeout(done, 1e6))",
        "[2, 1].sort(() => { for (;;) ; })",
        "for (;;) console.log('flood', 'x'.repeat(100))",
    ] {
        let ended = run(&place, &["--timeout", "300ms"], source, "");
        assert_eq!(ended.short(), "timed_out epoch_deadline epoch guest 124", "{source}: {}", ended.result);
    }
}

fn script_is_told_whose_job_it_is(mode: Mode) {
    let source =
        "[ctx.job, ctx.tenant, ctx.request, ctx.deadline - Date.now() > 1000, ctx.remaining() > 1000]";
    let ended = run(&place(mode), &["--tenant", "shop", "--request-id", "order 7"], source, "");
    let output: Value = serde_json::from_str(ended.output()).unwrap();
    let expected = serde_json::json!([ended.result["job"], ended.result["tenant"], "order 7", true, true]);
    assert_eq!(output, expected);
}

fn script(source: &str) -> Submission {
    submission_of(source, "script.js")
}

/// With templates, all of them come from one engine that was set up ahead.
fn scripts_that_run_one_after_the_other_have_nothing_in_common(mode: Mode) {
    let place = place(mode).set("POOL_TEMPLATE_AFTER", "2").set("POOL_WARM", "1");
    let daemon = Daemon::start(place);
    let mut client = daemon.client();
    let draws = "[Math.random(), crypto.randomUUID(), performance.timeOrigin, globalThis.left ?? null]";
    let leaves =
        "globalThis.left = 1; Object.prototype.left = 2; Array.prototype.push = 3; Math.random = () => 4;
                  JSON.stringify = Date.now = null; new Uint8Array(1 << 20).fill(7); 'left'";
    let mut seen = HashSet::new();
    let prepared =
        |client: &mut Peer| client.ask(async |client| client.statistics().await).unwrap().starts_prepared;
    for round in 0..12 {
        let result = client.run(script(leaves)).unwrap();
        assert_eq!(short_of(&result), "completed - - -", "{result:?}");
        let result = client.run(script(draws)).unwrap();
        let drawn: Value = serde_json::from_slice(&result.output.0).unwrap();
        assert_eq!(drawn[3], Value::Null, "round {round}");
        for draw in [&drawn[0], &drawn[1], &drawn[2]] {
            assert!(seen.insert(draw.to_string()), "{draw} came twice");
        }
        assert!(result.jail.fresh_process == (mode == Mode::Jailed));
        if mode == Mode::Jailed && round == 3 {
            // From here on it is forks of a template that draw.
            eventually("workers with an engine", || {
                client.run(script("1")).unwrap();
                prepared(&mut client) > 0
            });
        }
    }
    assert_eq!(prepared(&mut client) > 0, mode == Mode::Jailed);
    // What fails in a fork fails as anywhere.
    let result = client.run(script("\nnull.x")).unwrap();
    assert_eq!(result.error.unwrap().line, Some(2));
    assert_eq!(result.outcome.verdict, Verdict::GuestError);
}

/// In the order, in a file that goes with it, and in one that the client sent: in every combination, to a fork of a template and
/// to a worker that stays, both of which run several.
fn script_and_input_come_whole_however_long_they_are(mode: Mode) {
    const IN_THE_ORDER: usize = SCRIPT_TEXT_BYTES_MAX;
    let daemon = Daemon::start(place(mode));
    let mut client = daemon.client();
    let body = "output = [input?.length ?? 0, 'whole']; //";
    let lengths = [0, IN_THE_ORDER, IN_THE_ORDER + 1, BESIDE_BYTES_MIN, BESIDE_BYTES_MIN + 1];
    for isolation in [Isolation::Fresh, Isolation::Tenant] {
        for (source_bytes, input_bytes) in
            lengths.iter().flat_map(|source| lengths.map(|input| (*source, input)))
        {
            let mut submission =
                script(&format!("{body}{}", "x".repeat(source_bytes.saturating_sub(body.len()))));
            submission.isolation = Some(isolation);
            let text = "y".repeat(input_bytes.saturating_sub(2));
            let input = if input_bytes == 0 { String::new() } else { format!("\"{text}\"") };
            submission.input = input.into_bytes().into();
            let result = client.run(submission).unwrap();
            let what = format!("{isolation:?}, source {source_bytes}, input {input_bytes}: {result:?}");
            assert_eq!(short_of(&result), "completed - - -", "{what}");
            assert_eq!(result.output.0, format!("[{},\"whole\"]", text.len()).into_bytes(), "{what}");
            assert_eq!(result.bill.input_bytes, Some(input_bytes as u64), "{what}");
        }
        let mut submission = Submission { isolation: Some(isolation), ..script("input") };
        for input in [&b"\"\xff\""[..], &[b"\"", [0xff; IN_THE_ORDER].as_slice(), b"\""].concat()] {
            submission.input = input.to_vec().into();
            let result = client.run(submission.clone()).unwrap();
            assert_eq!(short_of(&result), "guest_error input_not_json - operator", "{result:?}");
        }
    }
}

#[test]
fn script_that_was_never_seen_finds_an_engine_that_is_set_up() {
    let daemon = Daemon::start(place(Mode::Jailed));
    let mut client = daemon.client();
    client.run(script("'the first'")).unwrap();
    let figures = |client: &mut Peer| client.ask(async |client| client.statistics().await).unwrap();
    eventually("a worker with an engine", || figures(&mut client).prepared > 0);
    let before = figures(&mut client);
    let result = client.run(script("'never seen before'")).unwrap();
    assert_eq!(short_of(&result), "completed - - -", "{result:?}");
    let after = figures(&mut client);
    assert_eq!(after.starts_prepared, before.starts_prepared + 1);
    assert_eq!((after.starts_warm, after.starts_cold), (before.starts_warm, before.starts_cold));
}

#[test]
fn first_script_of_a_daemon_that_holds_the_engine_finds_it_set_up() {
    let daemon = Daemon::start(place(Mode::Jailed).set("POOL_SCRIPT_READY", "1"));
    let mut client = daemon.client();
    let ready = ("pool.script_ready".to_owned(), "ready".to_owned());
    eventually("the engine to be held", || {
        let figures = client.ask(async |client| client.statistics().await).unwrap();
        figures.readiness.warm_ups.contains(&ready)
    });
    client.run(script("'the first'")).unwrap();
    let figures = client.ask(async |client| client.statistics().await).unwrap();
    assert_eq!((figures.starts_prepared, figures.starts_warm, figures.starts_cold), (1, 0, 0));
}

#[test]
fn scripts_of_one_tenant_share_a_process_and_nothing_else() {
    let daemon = Daemon::start(place(Mode::Jailed));
    let mut client = daemon.client();
    let mut run = |source: &str| {
        let asked = Submission { isolation: Some(Isolation::Tenant), ..script(source) };
        let result = client.run(asked).unwrap();
        assert_eq!((result.isolation, result.jail.fresh_process), (Isolation::Tenant, false), "{result:?}");
        let output = String::from_utf8(result.output.0.clone()).unwrap();
        (short_of(&result), output)
    };
    let leaves = "globalThis.left = 1; Object.prototype.left = 2; Math.random = () => 4; Date.now = null;
                  new Uint8Array(1 << 20).fill(7); 'left'";
    let draws = "[Math.random(), crypto.randomUUID(), performance.timeOrigin, globalThis.left ?? null]";
    let mut seen = HashSet::new();
    for round in 0..8 {
        assert_eq!(run(leaves), ("completed - - -".to_owned(), "\"left\"".to_owned()));
        let (_, output) = run(draws);
        let drawn: Value = serde_json::from_str(&output).unwrap();
        assert_eq!(drawn[3], Value::Null, "round {round}");
        for draw in [&drawn[0], &drawn[1], &drawn[2]] {
            assert!(seen.insert(draw.to_string()), "{draw} came twice");
        }
        // It may stay after what a script throws.
        assert_eq!(run("throw new Error('no')").0, "guest_error exception - guest");
    }
    // And is replaced after one that did not end by itself.
    assert_eq!(run("(function f() { f() })()").0, "guest_error stack_overflow - guest");
    assert_eq!(run("1").1, "1");
    let figures = client.ask(async |client| client.statistics().await).unwrap();
    assert_eq!(figures.starts_reused, 24, "{figures:?}");
}

#[test]
fn check_says_what_can_be_run_and_runs_nothing() {
    let place = place(Mode::Jailed);
    for (name, text, status, said) in [
        ("endless.js", "for (;;) console.log(input)", 0, ": a script\n"),
        ("handler.js", "export function handle() { for (;;) ; }\nfor (;;) ;", 0, ": a module\n"),
        ("strict.mjs", "with ({}) ;", 126, "syntax_error"),
        ("loose.js", "with ({}) ;", 0, ": a script\n"),
        ("broken.js", "let a = 1;\nlet b = ;\n", 126, "\n  2 | let b = ;\n    |         ^\n"),
        ("broken-module.js", "export const a = 1;\nlet b = ;\n", 126, "\n  2 | let b = ;\n"),
        ("imports.mjs", "import 'fs'", 126, "unknown_import"),
        ("module.wat", "(module (func (export \"_start\") unreachable))", 0, ": WebAssembly\n"),
        ("broken.wat", "(module (func (export \"_start\") i32.add))", 126, "malformed"),
    ] {
        let file = place.file(name, text);
        let words = ["check".into(), file.as_os_str().to_owned()];
        let ran = ran(&mut place.stockade(words), b"");
        let all = text_of_both(&ran);
        assert_eq!(ran.status, Some(status), "{name}: {all}");
        assert!(all.contains(said), "{name}: {all}");
        assert_eq!(ran.stdout.is_empty(), status != 0, "{name}: {all}");
    }
}

fn text_of_both(ran: &Ran) -> String {
    format!("{}{}", text(&ran.stdout), ran.stderr)
}

#[test]
fn script_that_is_checked_before_it_is_submitted_is_no_job_when_it_is_none() {
    let daemon = Daemon::start(place(Mode::Jailed));
    let file = |name: &str, text: &str| daemon.place.file(name, text).into_os_string();
    let submit = |file| {
        let words = ["submit", "--check", "--detach"].map(Into::into).into_iter().chain([file]);
        ran(&mut daemon.place.stockade(words), b"")
    };
    let broken = submit(file("broken.js", "let a = ;"));
    assert_eq!((broken.status, text(&broken.stdout).as_str()), (Some(126), ""), "{}", broken.stderr);
    assert!(broken.stderr.contains("1 | let a = ;"), "{}", broken.stderr);
    let good = submit(file("good.js", "1"));
    assert_eq!((good.status, text(&good.stdout).trim().len()), (Some(0), 26), "{}", good.stderr);
}

#[test]
fn script_that_is_debugged_tells_when_how_long_and_how_much() {
    let place = place(Mode::Jailed);
    let source = "console.log('one'); console.warn('two'); console.debug('three\\nfour');
                  (function deep(n) { if (n === 0) null.x; deep(n - 1) })(40)";
    let file = place.file("debugged.js", source);
    let words = ["run", "--debug", "--timeout=60s"].map(Into::into).into_iter();
    let ran = ran(&mut place.stockade(words.chain([file.into_os_string()])), b"");
    // The bill has times, too, but none to begin a line with.
    let told: Vec<&str> = ran
        .stderr
        .lines()
        .filter_map(|line| line.split_once(" ms "))
        .filter_map(|(at, rest)| at.trim().parse::<f64>().is_ok().then_some(rest))
        .collect();
    let console: Vec<&&str> = told.iter().filter(|line| !line.starts_with("-----")).collect();
    assert_eq!(console, [&"info  one", &"warn  two", &"debug three", &"debug four"], "{}", ran.stderr);
    let phases: Vec<&str> =
        told.iter().filter_map(|line| line.strip_prefix("----- ")?.split(':').next()).collect();
    assert_eq!(phases, ["engine ready", "source compiled", "script ran", "result written"], "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("    at deep (debugged.js:2:").count(), 41, "{}", ran.stderr);
    assert!(ran.stderr.contains("  time ") && ran.stderr.contains("  memory "), "{}", ran.stderr);
}

#[test]
fn engine_offered_as_a_module_gets_none_of_an_engines_rights() {
    let place = place(Mode::Jailed);
    let engine = place.file("engine.wasm", stockade_js::ENGINE_WASM);
    // Before a script has come, when the engine is compiled, and after.
    for _ in 0..2 {
        let ended = place.run(&["--entry", "js_abi"], &engine);
        assert_eq!(ended.short(), "invalid_module unknown_import - guest 126", "{}", ended.result);
        assert_eq!(run(&place, &[], "6 * 7", "").output(), "42");
    }
}

#[test]
fn engine_that_was_compiled_for_scripts_is_had_by_no_digest() {
    let daemon = Daemon::start(place(Mode::Jailed));
    let mut client = daemon.client();
    assert_eq!(short_of(&client.run(script("6 * 7")).unwrap()), "completed - - -");
    // What its artifact is known by. The digest of its bytes is that of a module which anybody may have submitted.
    let named_apart = [b"stockade: the JavaScript engine\0".as_slice(), stockade_js::ENGINE_SHA256].concat();
    let named = Submission { module: ModuleSource::Digest(Sha256::digest(named_apart).into()), ..script("") };
    assert!(matches!(client.run(named), Err(ClientError::Refused(refusal))
        if refusal.reason == RefusalReason::UnknownModule));
}

#[test]
fn error_of_a_script_is_shown_with_its_line_and_a_caret() {
    let place = place(Mode::Jailed);
    let file = place.file("a.js", "const a = {};\n  a.b.c;\n");
    for words in [["run", "--timeout", "60s"], ["run", "--bill", "--timeout=60s"]] {
        let ran = ran(
            &mut place.stockade(words.map(Into::into).into_iter().chain([file.as_os_str().to_owned()])),
            b"",
        );
        assert_eq!((ran.status, text(&ran.stdout).as_str()), (Some(1), ""));
        let expected = "stockade: failed (exception): TypeError: cannot read property 'c' of undefined (a.js:2:3)\n  \
                        2 |   a.b.c;\n    |   ^\n    at <eval> (a.js:2:3)\n";
        assert!(ran.stderr.starts_with(expected), "{}", ran.stderr);
    }
}
