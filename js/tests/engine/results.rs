//! What goes in and what comes out.

use stockade_js::door::Phase;
use stockade_js::reply::Fault;
use stockade_js::request::{Context, Form};

use crate::rig::{Job, WALL_US, imports, module, script, value};

#[test]
fn engine_imports_the_five_functions_and_nothing_else() {
    let mut found = imports();
    found.sort();
    assert_eq!(found, ["call", "clock", "poll", "random", "sleep"].map(|name| format!("stockade_js.{name}")));
}

#[test]
fn script_returns_output_or_the_value_of_its_last_expression() {
    for (source, expected) in [
        ("1 + 2", "3"),
        ("output = { a: [1, 'é', null] }; 7", r#"{"a":[1,"é",null]}"#),
        ("let output = 5; 7", "5"),
        ("const output = [1]; 7", "[1]"),
        ("var output = 'x'", r#""x""#),
        ("'use strict'; output = 8", "8"),
        ("for (const x of []) {}", "null"),
        ("output = undefined; 9", "9"),
        ("#!/usr/bin/env node\n4", "4"),
        ("\u{feff}4", "4"),
        ("JSON.stringify({a: 1n < 2})", r#""{\"a\":true}""#),
        ("'\\ud800'", r#""\ud800""#),
        ("({ toJSON() { return 'own' } })", r#""own""#),
        ("NaN", "null"),
        ("", "null"),
    ] {
        assert_eq!(value(source), expected, "{source}");
    }
}

#[test]
fn script_sees_its_input_and_its_own_variables_may_have_the_same_name() {
    let run = |source, input| Job::new(source, Form::Script).input(input).run();
    assert_eq!(run("input.a + 1", r#"{"a": 41}"#).output(), "42");
    assert_eq!(run("const { a } = input; a", r#"{"a": "ü\u0000\ud83d"}"#).output(), r#""ü\u0000\ud83d""#);
    assert_eq!(run("let input = 3; input", "1").output(), "3");
    assert_eq!(run("typeof input", "").output(), r#""undefined""#);
    assert_eq!(run("function ctx() { return 4 } ctx()", "").output(), "4");
}

#[test]
fn input_that_is_not_json_is_refused_with_its_place() {
    let outcome = Job::new("1", Form::Script).input("{\n \"a\": x}").run();
    let failure = outcome.failure();
    assert_eq!(failure.fault, Fault::InputNotJson);
    assert_eq!((failure.name.as_str(), failure.file.as_str()), ("SyntaxError", "input"));
    assert_eq!(failure.place.map(|(line, _)| line), Some(2));
}

#[test]
fn script_that_awaits_is_waited_for() {
    for (source, expected) in [
        ("await 1", "1"),
        ("output = await Promise.all([1, Promise.resolve(2)])", "[1,2]"),
        (
            "const wait = ms => new Promise(done => setTimeout(done, ms)); await wait(30); output = 'later'",
            r#""later""#,
        ),
        ("(async () => { await null; return 3 })()", "3"),
        ("Promise.resolve(4)", "4"),
        ("({ then(done) { done(5) } })", "5"),
        ("output = Promise.resolve(6)", "6"),
        ("setTimeout(() => { output = 7 }, 5); 1", "7"),
        ("queueMicrotask(() => { output = 8 }); 1", "8"),
        ("var await_ = 9; await_", "9"),
        ("output = await (async () => 10)()", "10"),
        // A name like any other, where it cannot be anything else.
        ("var await = 11; await", "11"),
    ] {
        assert_eq!(value(source), expected, "{source}");
    }
}

#[test]
fn module_is_entered_by_the_export_that_was_named() {
    let source = "let n = 1;
        export function handle(input, ctx) { return [input, ctx.job, n] }
        export async function later(input) { await null; return input * 2 }
        export default (input) => ({ default: input });
        export const answer = 42;";
    assert_eq!(module(source, "handle", "5").output(), r#"[5,"J",1]"#);
    assert_eq!(module(source, "later", "21").output(), "42");
    assert_eq!(module(source, "default", "null").output(), r#"{"default":null}"#);
    assert_eq!(module("export function f() {}", "f", "").output(), "null");
    assert_eq!(module("const x = await 3; export const f = () => x", "f", "").output(), "3");
    assert_eq!(module("export const f = (a = 'none') => a", "f", "").output(), r#""none""#);
}

#[test]
fn module_without_the_export_says_so() {
    let source = "export const answer = 42; export function other() {}";
    for entry in ["handle", "answer", "toString", "__proto__"] {
        let outcome = module(source, entry, "");
        let failure = outcome.failure();
        assert_eq!(failure.fault, Fault::NoEntry, "{entry}: {failure:?}");
        assert_eq!(failure.message, format!("the module exports no function '{entry}'"));
    }
}

#[test]
fn module_does_not_wait_for_what_its_result_does_not() {
    let source = "export function f() { setTimeout(() => console.log('late'), 1000); return 1 }";
    let outcome = module(source, "f", "");
    assert_eq!(outcome.output(), "1");
    assert!(outcome.log.is_empty() && outcome.slept_ms == 0.0);
}

#[test]
fn context_says_whose_job_it_is_and_when_it_must_be_done() {
    let mut job = Job::new(
        "export default (input, ctx) => [{ ...ctx }, ctx.remaining(), ctx.env, Object.isFrozen(ctx.env)]",
        Form::Module { entry: "default" },
    );
    let deadline_ms = (WALL_US / 1000.0) as u64 + 250;
    job.request.context = Context {
        job: "J",
        request: None,
        tenant: "uid:7",
        traceparent: Some("00-a-b-01"),
        deadline_ms: Some(deadline_ms),
    };
    job.environment = vec![("KEY".to_owned(), "välue".to_owned()), ("LONG".to_owned(), "x".repeat(2000))];
    let expected = format!(
        r#"[{{"job":"J","tenant":"uid:7","traceparent":"00-a-b-01","deadline":{deadline_ms}}},250,{{"KEY":"välue","LONG":"{}"}},true]"#,
        "x".repeat(2000)
    );
    assert_eq!(job.run().output(), expected);
}

#[test]
fn context_is_there_for_scripts_too() {
    assert_eq!(
        value("[ctx.job, ctx.tenant, ctx.request, Object.keys(ctx.env).length]"),
        r#"["J","T","R",0]"#
    );
}

#[test]
fn output_that_is_not_json_is_said_to_be_so() {
    for (source, says) in [
        ("const a = {}; a.a = a; a", "circular"),
        ("1n", "BigInt"),
        ("({ n: 1n })", "BigInt"),
        ("() => 1", "function"),
        ("Symbol('s')", "symbol"),
        ("({ toJSON() { throw new Error('mine') } })", "mine"),
        ("({ get a() { throw new Error('got') } })", "got"),
    ] {
        let outcome = script(source);
        let failure = outcome.failure();
        assert_eq!(failure.fault, Fault::OutputNotJson, "{source}: {failure:?}");
        assert!(failure.message.contains(says), "{source}: {failure:?}");
    }
}

#[test]
fn promise_that_nothing_can_settle_is_not_waited_for() {
    for source in ["new Promise(() => {})", "await new Promise(() => {})", "output = new Promise(() => {})"] {
        assert_eq!(script(source).fault(), Fault::NeverSettled, "{source}");
    }
    assert_eq!(
        module("export default () => new Promise(() => {})", "default", "").fault(),
        Fault::NeverSettled
    );
    assert_eq!(
        module("await new Promise(() => {}); export default 1", "default", "").fault(),
        Fault::NeverSettled
    );
}

#[test]
fn source_that_is_only_checked_is_not_run() {
    let check = |source, form| Job::new(source, form).run();
    let outcome = check("console.log(1); while (true) {}", Form::CheckScript);
    assert_eq!(outcome.output(), "");
    assert!(outcome.log.is_empty());
    assert_eq!(check("export default 1; await 2", Form::CheckModule).output(), "");
    assert_eq!(check("export default 1", Form::CheckScript).fault(), Fault::Syntax);
    assert_eq!(check("let a = ;", Form::CheckModule).fault(), Fault::Syntax);
}

#[test]
fn job_that_is_debugged_tells_of_its_phases_and_others_tell_of_none() {
    let mut job = Job::new("globalThis.kept = new Uint8Array(1 << 20); 1", Form::Script);
    job.request.debug = true;
    let outcome = job.run();
    assert_eq!(outcome.output(), "1");
    let phases: Vec<Phase> = outcome.phases.iter().map(|(phase, _)| *phase).collect();
    assert_eq!(phases, [Phase::Ready, Phase::Compiled, Phase::Ran, Phase::Ended]);
    let [(_, before), .., (_, after)] = outcome.phases[..] else { panic!("no phases") };
    assert!(before > 0 && after > before + (1 << 20), "{before} {after}");
    assert_eq!(script("1").phases, []);
}
