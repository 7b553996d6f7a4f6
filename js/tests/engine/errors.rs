//! What a person is told.

use stockade_js::excerpt::excerpt;
use stockade_js::reply::Fault;
use stockade_js::request::Form;

use crate::rig::{Job, module, script};

#[test]
fn error_has_name_message_place_and_the_scripts_own_frames() {
    let source = "function inner(x) {\n  return x.missing.thing;\n}\nfunction outer() {\n  return [1].map(inner);\n}\nouter();\n";
    let outcome = script(source);
    let failure = outcome.failure();
    assert_eq!(failure.fault, Fault::Thrown);
    assert_eq!(failure.name, "TypeError");
    assert_eq!(failure.message, "cannot read property 'thing' of undefined");
    assert_eq!((failure.file.as_str(), failure.place), ("script.js", Some((2, 10))));
    let frames: Vec<&str> = failure.stack.lines().map(str::trim).collect();
    assert_eq!(
        frames,
        ["at inner (script.js:2:10)", "at outer (script.js:5:18)", "at <eval> (script.js:7:1)"]
    );
    assert_eq!(excerpt(source, 2, 10).unwrap(), "  return x.missing.thing;\n         ^");
}

#[test]
fn syntax_error_has_the_place_it_is_at() {
    for (source, line) in
        [("let a = 1;\nlet b = ;\n", 2), ("let a;\nlet a;", 2), ("\n\n{", 3), ("return 1", 1), ("'\\u'", 1)]
    {
        let outcome = script(source);
        let failure = outcome.failure();
        assert_eq!(failure.fault, Fault::Syntax, "{source}");
        assert_eq!(failure.name, "SyntaxError", "{source}");
        assert_eq!(failure.place.map(|(line, _)| line), Some(line), "{source}: {failure:?}");
    }
    let outcome = module("export default (", "default", "");
    assert_eq!(outcome.fault(), Fault::Syntax);
    assert_eq!(outcome.failure().place.map(|(line, _)| line), Some(1));
}

#[test]
fn syntax_error_at_run_time_is_thrown_and_not_the_sources() {
    for source in ["JSON.parse('{')", "eval('(')", "new Function('(')", "new RegExp('(')"] {
        let outcome = script(source);
        assert_eq!(outcome.fault(), Fault::Thrown, "{source}");
        assert_eq!(
            outcome.failure().place.map(|(line, _)| line),
            Some(1),
            "{source}: {:?}",
            outcome.failure()
        );
    }
}

#[test]
fn error_of_async_code_and_of_modules_has_its_frames() {
    let source = "export async function handle(input) {\n  await null;\n  return deep(input);\n}\nfunction deep() { throw new RangeError('no') }\n";
    let outcome = module(source, "handle", "{}");
    let failure = outcome.failure();
    assert_eq!((failure.name.as_str(), failure.message.as_str()), ("RangeError", "no"));
    assert_eq!(failure.place.map(|(line, _)| line), Some(5));
    assert!(failure.stack.contains("at handle (script.js:3"), "{}", failure.stack);
    assert!(!failure.stack.contains("native") && !failure.stack.contains("stockade:"), "{}", failure.stack);
}

#[test]
fn error_in_a_timer_or_a_microtask_ends_the_job() {
    for source in [
        "setTimeout(() => { throw new Error('late') }, 1)",
        "queueMicrotask(() => { throw new Error('late') })",
    ] {
        let outcome = script(source);
        assert_eq!(outcome.failure().message, "late", "{source}");
        assert_eq!(outcome.failure().place.map(|(line, _)| line), Some(1), "{source}");
        assert!(!outcome.failure().stack.contains("stockade:"), "{}", outcome.failure().stack);
    }
}

#[test]
fn rejection_that_nobody_looks_at_ends_the_job() {
    let outcome = script("Promise.reject(new TypeError('lost')); 1");
    assert_eq!((outcome.fault(), outcome.failure().message.as_str()), (Fault::Thrown, "lost"));
    let looked_at = script("const p = Promise.reject(1); setTimeout(() => p.catch(() => 0), 1); 2");
    assert_eq!(looked_at.output(), "2");
}

#[test]
fn script_that_is_none_is_told_to_be_a_module_only_if_it_may_be_meant_as_one() {
    for (source, is_module) in [
        ("export const a = 1", true),
        ("import.meta.url", true),
        ("let undefined = 1", false),
        ("let a = ;", false),
    ] {
        let outcome = script(source);
        assert_eq!(outcome.fault(), Fault::Syntax, "{source}");
        let message = &outcome.failure().message;
        assert_eq!(message.contains("this is a module"), is_module, "{source}: {message}");
    }
}

#[test]
fn thrown_value_that_is_no_error_is_shown() {
    for (source, message) in [
        ("throw 'text'", "text"),
        ("throw { code: 7 }", "{ code: 7 }"),
        ("throw null", "null"),
        ("throw undefined", "undefined"),
        ("throw Symbol('s')", "Symbol(s)"),
        ("throw Object.create(null)", "[Object: null prototype] {}"),
    ] {
        let outcome = script(source);
        assert_eq!(outcome.fault(), Fault::Thrown);
        assert_eq!(
            (outcome.failure().name.as_str(), outcome.failure().message.as_str()),
            ("Uncaught", message)
        );
    }
}

#[test]
fn errors_of_the_scripts_own_making_are_shown_as_far_as_they_go() {
    for (source, name, message) in [
        ("class Mine extends Error { name = 'Mine' }\nthrow new Mine('m')", "Mine", "m"),
        ("const e = new Error('a'); e.name = 7; throw e", "Error", "a"),
        (
            "const e = new Error('a'); Object.defineProperty(e, 'message', { get() { throw 1 } }); throw e",
            "Error",
            "",
        ),
        (
            "const e = new Error('a'); Object.defineProperty(e, 'stack', { get() { throw 1 } }); throw e",
            "Error",
            "a",
        ),
        ("throw new Proxy({}, { get() { throw 1 } })", "Uncaught", "Proxy"),
        ("Error.prepareStackTrace = () => 7; throw new Error('x')", "Error", "x"),
        ("Error.prepareStackTrace = () => { throw 8 }; throw new Error('x')", "Error", "x"),
        ("throw new AggregateError([1], 'many')", "AggregateError", "many"),
        ("throw new DOMException('d', 'DataCloneError')", "DataCloneError", "d"),
    ] {
        let outcome = script(source);
        let failure = outcome.failure();
        assert_eq!(failure.fault, Fault::Thrown, "{source}: {failure:?}");
        assert_eq!((failure.name.as_str(), failure.message.as_str()), (name, message), "{source}");
    }
}

#[test]
fn message_that_is_long_is_cut() {
    let outcome = script("throw new Error('é'.repeat(1e6))");
    assert!(outcome.failure().message.len() <= stockade_js::reply::ERROR_MESSAGE_BYTES_MAX);
}

#[test]
fn import_is_refused_whether_static_or_dynamic() {
    for source in
        ["import fs from 'fs'; export default 1", "export * from 'os'", "export default await import('fs')"]
    {
        let outcome = module(source, "default", "");
        assert_eq!(outcome.fault(), Fault::ImportRefused, "{source}: {:?}", outcome.failure());
        assert!(outcome.failure().message.starts_with("cannot import '"), "{:?}", outcome.failure());
    }
    assert_eq!(script("import('fs')").fault(), Fault::ImportRefused);
    assert_eq!(script("import('fs').catch(() => 1)").output(), "1");
    // In a script it would be wrong without that, too, but that is not what its author has to know.
    for source in ["import fs from 'fs'", "1;\nimport 'fs'", "export * from 'os'"] {
        assert_eq!(script(source).fault(), Fault::ImportRefused, "{source}");
        assert_eq!(script(source).failure().place, None, "{source}");
    }
    assert_eq!(script("import fs of 'fs'").fault(), Fault::Syntax);
}

#[test]
fn module_that_is_run_as_a_script_is_told_so() {
    let outcome = script("const a = 1;\nexport const handle = () => a;\n");
    let failure = outcome.failure();
    assert_eq!((failure.fault, failure.name.as_str()), (Fault::Syntax, "SyntaxError"));
    assert!(failure.message.contains("module") && failure.message.contains("--entry"), "{failure:?}");
    assert_eq!(failure.place, Some((2, 1)));
    let neither = script("export const handle = ;");
    assert!(!neither.failure().message.contains("module"), "{:?}", neither.failure());
}

#[test]
fn eval_and_functions_made_of_text_have_frames_of_the_script() {
    let outcome = script("function f() {\n  eval('null.x');\n}\nf()");
    assert!(outcome.failure().stack.contains("at f (script.js:2"), "{}", outcome.failure().stack);
    assert_eq!(outcome.failure().place.map(|(line, _)| line), Some(2));
}

#[test]
fn name_of_the_source_is_the_one_that_was_given() {
    let mut job = Job::new("\nnull.x", Form::Script);
    job.request.name = "dir/my transform (v2).js";
    let outcome = job.run();
    assert_eq!(outcome.failure().file, "dir/my transform (v2).js");
    assert_eq!(outcome.failure().place.map(|(line, _)| line), Some(2));
}
