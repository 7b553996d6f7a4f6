//! A source that is run from what it compiled to: nothing shows that.

use stockade_js::request::{Compiled, Form};

use crate::rig::{End, Job, Outcome};

const SCRIPT: Form<'static> = Form::Script;
const HANDLE: Form<'static> = Form::Module { entry: "handle" };

/// Of each kind that the engine writes and reads in a way of its own, and what ends in each way that a compiled one can.
const SOURCES: [(Form<'static>, &str); 20] = [
    (SCRIPT, "(order => ({ net: order.n * 1.19, text: `${order.n} of ${order.s}` }))(input)"),
    (
        SCRIPT,
        "const f = function named(a, b = 2, ...c) { return a + b + c.length }; [f.toString(), f.length, f.name, f(1)]",
    ),
    (
        SCRIPT,
        "class A { #x = 1; static y = 2n; get x() { return this.#x } }; [new A().x, String(A.y), A.toString()]",
    ),
    (SCRIPT, "'abcabc'.replace(/(?<x>b)c/gu, '<$<x>>') + [...'\u{1f600}é'].length"),
    (SCRIPT, "function* g() { try { yield 1; yield* [2, 3] } finally { console.log('done') } }; [...g()]"),
    (SCRIPT, "output = await Promise.all([1, new Promise((done) => setTimeout(done, 5, 2))])"),
    (SCRIPT, "const await = 3; await + 1"),
    (
        SCRIPT,
        "let { a: { b = 7 } = {}, ...rest } = { c: 1, [input.s]: 2 }; label: for (const k in rest) { if (k) continue label } [b, rest]",
    ),
    (SCRIPT, "eval('var made = 5; made * 2') + new Function('a', 'return a')(1)"),
    (SCRIPT, "'use strict';\nundeclared = 1"),
    (SCRIPT, "const deep = () => { null.x };\n\n  deep()"),
    (
        SCRIPT,
        "function outer() {\n  inner(\n    1)\n}\nfunction inner(n) { throw new TypeError('no ' + n) }\nouter()",
    ),
    (SCRIPT, "new Error('here').stack"),
    (SCRIPT, "await new Promise(() => {})"),
    (SCRIPT, "(function f() { f() })()"),
    (SCRIPT, "1e308 * 10 > 0 ? [0.1, -0, 2 ** 40, 123456789012345678901234567890n.toString(), NaN] : 0"),
    (
        HANDLE,
        "const rate = 2; export function handle(input, ctx) { console.log(ctx.tenant); return input.n * rate }",
    ),
    (HANDLE, "export default 1; export const handle = async ({ s }) => ({ s, url: typeof import.meta })"),
    (HANDLE, "let calls = 0;\nexport class handle { constructor() { calls++ } }"),
    (HANDLE, "export async function handle() {\n  await null;\n  throw new RangeError('late');\n}"),
];

fn run(form: Form<'_>, source: &str, compiled: Compiled<'_>) -> Outcome {
    let mut job = Job::new(source, form).input(r#"{"n":21,"s":"é"}"#);
    job.request.compiled = compiled;
    job.run()
}

fn shown(outcome: &Outcome) -> String {
    format!("{:?} {:?} {}", outcome.end, outcome.log, outcome.slept_ms)
}

#[test]
fn source_that_is_kept_compiled_does_what_it_did() {
    for (form, source) in SOURCES {
        let plain = run(form, source, Compiled::No);
        assert_eq!(plain.compiled, None, "{source}");
        let asked = run(form, source, Compiled::Wanted);
        assert_eq!(shown(&asked), shown(&plain), "{source}");
        let compiled = asked.compiled.unwrap_or_else(|| panic!("nothing to keep of {source}"));
        // With another source, what runs is seen to be what was kept.
        let other =
            if matches!(form, Form::Script) { "'source'" } else { "export const handle = () => 'source'" };
        for beside in [source, other] {
            let kept = run(form, beside, Compiled::Kept(&compiled));
            assert_eq!(shown(&kept), shown(&plain), "{source}");
            assert_eq!(kept.compiled, None, "{source}");
        }
    }
}

/// Whoever only looks at a source is told the same of it.
#[test]
fn source_that_was_only_looked_at_is_kept_compiled_as_one_that_ran() {
    for (form, source) in SOURCES {
        let plain = run(form, source, Compiled::No);
        let check = if form == SCRIPT { Form::CheckScript } else { Form::CheckModule };
        let looked = run(check, source, Compiled::Wanted);
        assert!(matches!(looked.end, End::Output(_)) && looked.log.is_empty(), "{source}: {:?}", looked.end);
        let compiled = looked.compiled.unwrap_or_else(|| panic!("nothing to keep of {source}"));
        assert_eq!(shown(&run(form, source, Compiled::Kept(&compiled))), shown(&plain), "{source}");
    }
}

/// The engine reads the arrays of a tagged template back unfrozen.
#[test]
fn source_with_a_tagged_template_is_not_kept() {
    for source in ["String.raw`a${1}`", "const f = () => Object.freeze`\\u{1F600}`; f()", "(x => x)/* */``"] {
        let asked = run(SCRIPT, source, Compiled::Wanted);
        assert!(matches!(asked.end, End::Output(_)), "{source}: {:?}", asked.end);
        assert_eq!(asked.compiled, None, "{source}");
    }
    assert!(run(SCRIPT, "[`a${1}`, [], /x/]", Compiled::Wanted).compiled.is_some());
}

#[test]
fn source_that_does_not_compile_is_not_kept() {
    for (form, source) in
        [(SCRIPT, "1 +"), (HANDLE, "import 'fs'; export function handle() {}"), (SCRIPT, "export {}")]
    {
        let asked = run(form, source, Compiled::Wanted);
        assert!(matches!(asked.end, End::Failed(_)), "{source}: {:?}", asked.end);
        assert_eq!(asked.compiled, None, "{source}");
    }
}

#[test]
fn source_is_compiled_when_what_was_kept_cannot_be_read() {
    let kept = run(SCRIPT, "1", Compiled::Wanted).compiled.unwrap();
    let module = run(HANDLE, "export const handle = () => 1", Compiled::Wanted).compiled.unwrap();
    for spoilt in [&b"\0"[..], b"nonsense", &kept[1..], &kept[..kept.len() - 2], &module] {
        assert_eq!(run(SCRIPT, "'source'", Compiled::Kept(spoilt)).output(), "\"source\"", "{spoilt:?}");
    }
    let source = "export const handle = () => 'source'";
    assert_eq!(run(HANDLE, source, Compiled::Kept(&kept)).output(), "\"source\"");
}
