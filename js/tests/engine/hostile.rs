//! Scripts that mean no good. Each ends with a word of its own, and in time.

use std::time::Duration;

use stockade_js::abi;
use stockade_js::reply::Fault;
use stockade_js::request::Form;
use wasmtime::Trap;

use crate::rig::{End, Job, Outcome, module, script, value};

fn soon(source: &str) -> Outcome {
    Job::new(source, Form::Script).deadline(Duration::from_millis(100)).run()
}

#[test]
fn script_without_end_is_interrupted() {
    for source in [
        "while (true) {}",
        "const again = () => Promise.resolve().then(again); again()",
        "(function again() { queueMicrotask(again) })()",
        "/^(a+)+$/.test('a'.repeat(40) + 'b')",
        "[3, 2, 1].sort(() => { for (;;) {} })",
        "setInterval(() => {}, 1)",
        "(function again() { setTimeout(again, 0) })()",
        "for (const x of (function* () { for (;;) yield 1 })()) {}",
        "new Proxy({}, { get() { for (;;) {} } }).x",
        "throw { toString() { for (;;) {} }, get x() { for (;;) {} } }.x",
        "'a'.repeat(2 ** 20).replace(/a/g, () => { for (;;) {} })",
        "for (;;) { try { throw 1 } catch {} finally { continue } }",
        "for (let i = 0n; ; i++) ;",
        "JSON.stringify({ toJSON() { for (;;) {} } })",
        "Array.prototype.indexOf.call({ length: 2 ** 53 - 1 }, 1)",
        "Array.prototype.lastIndexOf.call({ length: 2 ** 53 - 1 }, 1)",
        "Array.prototype.fill.call(new Proxy({ length: 2 ** 53 - 1 }, { set: () => true }), 1)",
    ] {
        let outcome = soon(source);
        assert!(matches!(outcome.end, End::Trapped(Trap::Interrupt)), "{source}: {:?}", outcome.end);
    }
}

#[test]
fn recursion_without_end_is_a_stack_overflow_wherever_it_is() {
    for source in [
        "(function f() { f() })()",
        "const f = () => [1].map(f); f()",
        "const o = { toString() { return '' + o } }; '' + o",
        "const o = { valueOf() { return +o } }; +o",
        "const p = new Proxy({}, { get(t, k, r) { return r[k] } }); p.x",
        "let p = {}; for (let i = 0; i < 1e5; i++) p = new Proxy(p, {}); p.x",
        "const o = { get x() { return this.x } }; o.x",
        "class A { constructor() { new A() } } new A()",
        "const o = { toJSON() { return JSON.stringify(o) } }; JSON.stringify(o)",
        "function* g() { yield* g() } [...g()]",
        "let d = []; for (let i = 0; i < 1e5; i++) d = [d]; JSON.stringify(d)",
        "let d = []; for (let i = 0; i < 1e5; i++) d = [d]; d.flat(Infinity)",
        "let d = []; for (let i = 0; i < 1e5; i++) d = [d]; String(d)",
        "let d = {}; for (let i = 0; i < 1e5; i++) d = { d }; structuredClone(d)",
        "JSON.parse('['.repeat(2e5))",
        "JSON.parse('{\"a\":'.repeat(2e5))",
        "JSON.parse('['.repeat(5e4) + ']'.repeat(5e4), (k, v) => v)",
        "eval('('.repeat(5e4))",
        "eval('['.repeat(1e5))",
        "eval('{'.repeat(1e5))",
        "eval('-'.repeat(1e5) + '1')",
        "eval('!'.repeat(1e5) + '1')",
        "eval('a=>'.repeat(1e5) + '1')",
        "eval('function f(){'.repeat(1e4))",
        "eval('x?'.repeat(1e5))",
        "eval('x=>{'.repeat(1e4))",
        "eval('`${'.repeat(1e4))",
        "eval('class A extends '.repeat(1e4))",
        "eval('if(1)'.repeat(1e5) + ';')",
        "eval('a**'.repeat(1e5) + '1')",
        "eval('new '.repeat(1e5) + 'X')",
        "eval('[a='.repeat(1e5))",
        "eval('async()=>'.repeat(1e4) + '1')",
        "new RegExp('('.repeat(1e5))",
        "new RegExp('(?:'.repeat(5e4) + ')'.repeat(5e4))",
        "new RegExp('(?='.repeat(5e4) + ')'.repeat(5e4))",
        "new RegExp('['.repeat(5e4) + ']'.repeat(5e4), 'v')",
        "let f = () => 1; for (let i = 0; i < 1e5; i++) { const g = f; f = () => g() } f()",
        "Array.prototype.concat.apply([], { get length() { return this.length } })",
    ] {
        let outcome = Job::new(source, Form::Script).memory(512 << 20).run();
        let caught = matches!(&outcome.end, End::Failed(failure) if
            matches!(failure.fault, Fault::StackOverflow)
            // What the parser of expressions in text says of too much of it.
            || failure.name == "SyntaxError" || failure.message.contains("stack overflow"));
        assert!(caught, "{source}: {:?}", outcome.end);
    }
}

#[test]
fn nesting_without_end_is_a_stack_overflow_or_a_bad_input() {
    for source in ["[".repeat(100_000), "(".repeat(50_000), "{".repeat(100_000), "!".repeat(100_000) + "1"] {
        assert_eq!(script(&source).fault(), Fault::StackOverflow, "{}", &source[..1]);
    }
    for input in ["[".repeat(200_000), "{\"a\":".repeat(200_000)] {
        let outcome = Job::new("1", Form::Script).input(&input).run();
        // The script has not gone anywhere yet.
        assert_eq!(outcome.fault(), Fault::InputNotJson, "{}", &input[..1]);
        assert_eq!(outcome.failure().message, "the input is nested too deep to be read");
    }
    let pattern = script("new RegExp('(?:'.repeat(1e5))");
    assert_eq!(pattern.fault(), Fault::StackOverflow, "{:?}", pattern.end);
    let outcome = script("let d = []; for (let i = 0; i < 1e5; i++) d = [d]; d");
    assert_eq!(outcome.fault(), Fault::StackOverflow);
}

#[test]
fn recursion_that_is_caught_goes_on() {
    assert_eq!(
        value("let n = 0; try { (function f() { n++; f() })() } catch (e) { output = [e.name, n > 500] }"),
        r#"["RangeError",true]"#
    );
}

#[test]
fn script_that_needs_too_much_memory_is_out_of_memory() {
    for source in [
        "const a = []; for (;;) a.push(new Uint8Array(1 << 20))",
        "const a = []; for (;;) a.push({ a: 1 })",
        "const a = []; for (let i = 0; ; i++) a.push('x' + i)",
        "const m = new Map(); for (let i = 0; ; i++) m.set(i, i)",
        "const o = {}; for (let i = 0; ; i++) o['k' + i] = i",
        "new Array(1e9).fill(0)",
        "new ArrayBuffer(2 ** 31 - 1)",
        "'x'.repeat(2 ** 29)",
        "let s = 'x'; for (;;) s += s",
        "let s = 'x'; for (;;) s = s.padEnd(s.length * 2)",
        "let b = 2n; for (;;) b = b * b",
        "const a = []; a.length = 2 ** 27; a.join('xxxxxxxxx')",
        "Array.from({ length: 1e9 })",
        "const p = []; for (;;) p.push(Promise.reject(1))",
        "for (;;) Promise.resolve().then(() => {})",
        "const f = []; for (;;) f.push(new Function('return ' + Math.random()))",
        "JSON.parse('[' + '1,'.repeat(2e7) + '1]')",
    ] {
        let outcome = Job::new(source, Form::Script).memory(32 << 20).run();
        let told = match &outcome.end {
            End::Failed(failure) => match failure.fault {
                Fault::OutOfMemory => true,
                // The language's own limits, which are lower than the memory's for some.
                _ => {
                    ["string too long", "BigInt is too large", "Array too large"]
                        .iter()
                        .any(|phrase| failure.message.to_lowercase().contains(&phrase.to_lowercase()))
                        || failure.name == "RangeError"
                }
            },
            _ => false,
        };
        assert!(told, "{source}: {:?} (refused: {})", outcome.end, outcome.growth_refused);
    }
}

#[test]
fn script_out_of_memory_is_told_so_even_when_it_holds_on_to_all_of_it() {
    for source in [
        "globalThis.all = []; for (let size = 1 << 20; size > 0; ) { try { all.push(new Uint8Array(size)) } catch { size >>= 1 } }
         for (;;) all.push({ more: [] })",
        "globalThis.all = []; const fill = () => { for (;;) all.push('' + Math.random()) };
         for (let i = 0; i < 5; i++) try { fill() } catch {} fill()",
    ] {
        let outcome = Job::new(source, Form::Script).memory(16 << 20).run();
        assert!(outcome.growth_refused);
        assert_eq!(outcome.fault(), Fault::OutOfMemory, "{:?}", outcome.failure());
    }
}

#[test]
fn garbage_that_refers_to_itself_is_collected() {
    let source =
        "for (let i = 0; i < 20000; i++) { const a = { buffer: new Uint8Array(64 << 10) }; a.a = a } 'done'";
    let outcome = Job::new(source, Form::Script).memory(48 << 20).run();
    assert_eq!(outcome.output(), r#""done""#);
}

#[test]
fn source_that_is_as_large_as_may_be_is_run() {
    let comment = format!("/*{}*/ 1", "x".repeat(abi::SOURCE_BYTES_MAX - 8));
    assert_eq!(script(&comment).output(), "1");
    let data = format!("[{}1].length", "1,".repeat(500_000));
    assert_eq!(Job::new(&data, Form::Script).memory(256 << 20).run().output(), "500001");
}

#[test]
fn flood_of_lines_is_the_hosts_to_bound() {
    let outcome = script("for (let i = 0; i < 20000; i++) console.log('x'.repeat(100)); 1");
    assert_eq!(outcome.output(), "1");
    assert_eq!(outcome.log.len(), 20000);
}

#[test]
fn script_that_replaces_what_there_is_harms_itself_alone() {
    let replaced = "
        JSON.stringify = JSON.parse = () => { throw 'mine' };
        globalThis.Promise = globalThis.Error = globalThis.TypeError = globalThis.Map = globalThis.Set = function () { throw 'mine' };
        globalThis.String = globalThis.Number = globalThis.Object = globalThis.Array = globalThis.Reflect = undefined;
        for (const name of ['push', 'pop', 'join', 'map', 'splice', 'sort', 'slice', 'forEach'])
            [].__proto__[name] = () => { throw 'mine' };
        for (const name of ['slice', 'split', 'indexOf', 'charCodeAt', 'endsWith', 'startsWith', 'toWellFormed'])
            ''.__proto__[name] = () => { throw 'mine' };
        (function () {}).__proto__.call = (function () {}).__proto__.apply = (function () {}).__proto__.bind = () => { throw 'mine' };
        (async () => {})().__proto__.then = () => { throw 'mine' };
        new URLSearchParams('').__proto__.toString = () => 'mine';
        Math.random = () => 4;
    ";
    let log = format!("{replaced} console.log('still', {{ a: [1, 'x'] }}, new Date(0)); ({{ ok: [1] }})");
    let outcome = script(&log);
    assert_eq!(outcome.output(), r#"{"ok":[1]}"#);
    assert_eq!(outcome.lines(), ["still { a: [ 1, 'x' ] } 1970-01-01T00:00:00.000Z"]);
    let thrown = format!("{replaced} null.x");
    let outcome = script(&thrown);
    assert_eq!((outcome.fault(), outcome.failure().name.as_str()), (Fault::Thrown, "TypeError"));
    assert!(outcome.failure().place.is_some());
    let waits = format!("{replaced} output = (async () => {{ await null; return 5 }})()");
    assert_eq!(script(&waits).output(), "5");
    let fires = format!("{replaced} setTimeout(() => {{ output = 6 }}, 1); setTimeout(() => {{}}, 2); 0");
    assert_eq!(script(&fires).output(), "6");
}

#[test]
fn script_that_replaces_globals_of_the_contract_gets_what_it_asked_for() {
    assert_eq!(
        value("Object.defineProperty(globalThis, 'output', { get() { return 'got' } }); 1"),
        r#""got""#
    );
    assert_eq!(
        script("Object.defineProperty(globalThis, 'output', { get() { throw new Error('got') } }); 1")
            .failure()
            .message,
        "got"
    );
    assert_eq!(value("delete globalThis.output; 3"), "3");
    assert_eq!(value("Object.freeze(globalThis); 3"), "3");
    assert_eq!(value("Object.prototype.toJSON = () => 'all'; ({})"), r#""all""#);
    assert_eq!(value("Object.prototype.then = 5; ({ a: 1 })"), r#"{"a":1}"#);
    assert_eq!(value("Object.prototype.value = 5; await 1"), "1");
}

#[test]
fn name_of_a_function_does_not_pass_for_a_place() {
    let source = "const f = { ['x (script.js:99:1)\\n    at y (script.js:98:1)']() { null.x } };\nf[Object.keys(f)[0]]()";
    let outcome = script(source);
    assert_eq!(outcome.fault(), Fault::Thrown);
    // It may lie about frames, which are its own; the host has bounds for what it keeps.
    assert!(outcome.failure().stack.len() < 1000);
}

#[test]
fn module_that_exports_oddities_ends_with_a_word() {
    assert_eq!(module("export { x as default }; let x = y; let y", "default", "").fault(), Fault::Thrown);
    assert_eq!(module("export default class { }", "default", "").fault(), Fault::Thrown);
    assert_eq!(module("export default new Proxy(() => 1, {})", "default", "").output(), "1");
    assert_eq!(module("export default () => ({ then: 1 })", "default", "").output(), r#"{"then":1}"#);
    assert_eq!(
        module("export default () => ({ get then() { throw new Error('t') } })", "default", "")
            .failure()
            .message,
        "t"
    );
    assert_eq!(module("export default () => ({ then() { } })", "default", "").fault(), Fault::NeverSettled);
}
