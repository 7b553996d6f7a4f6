//! What scripts find besides the language.

use stockade_js::door::Level;

use crate::rig::{Job, WALL_US, script, value};
use stockade_js::request::Form;

#[test]
fn globals_are_the_languages_and_the_listed_ones() {
    let source = "Object.getOwnPropertyNames(globalThis).sort().join(' ')";
    let found = value(source);
    let names: Vec<&str> = found.trim_matches('"').split(' ').collect();
    for absent in [
        "process",
        "require",
        "std",
        "os",
        "fetch",
        "WebAssembly",
        "Deno",
        "Bun",
        "print",
        "scriptArgs",
        "gc",
    ] {
        assert!(!names.contains(&absent), "{absent}");
    }
    for present in [
        "URL",
        "URLSearchParams",
        "TextEncoder",
        "TextDecoder",
        "structuredClone",
        "atob",
        "btoa",
        "console",
        "crypto",
        "setTimeout",
        "clearTimeout",
        "setInterval",
        "clearInterval",
        "queueMicrotask",
        "performance",
        "DOMException",
    ] {
        assert!(names.contains(&present), "{present}");
    }
}

#[test]
fn language_is_of_the_year_2023_and_later() {
    for (source, expected) in [
        ("[3,1,2].toSorted()", "[1,2,3]"),
        ("[1,2,3].findLast(x => x < 3)", "2"),
        ("[1,2].with(0, 9)", "[9,2]"),
        ("Object.groupBy([1,2,3], x => x % 2 ? 'odd' : 'even')", r#"{"odd":[1,3],"even":[2]}"#),
        ("[...new Set([1,2]).union(new Set([2,3]))]", "[1,2,3]"),
        ("'a-b-c'.replaceAll('-', '+')", r#""a+b+c""#),
        ("null ?? 1", "1"),
        ("class A { static #x = 1; static { A.y = A.#x } } A.y", "1"),
        ("/(?<y>\\d{4})/d.exec('in 2023').groups.y", r#""2023""#),
        ("'é'.normalize('NFD').length", "2"),
        ("/\\p{Lu}/u.test('É')", "true"),
        ("typeof 12345678901234567890n", r#""bigint""#),
        ("(12345678901234567890n * 2n).toString()", r#""24691357802469135780""#),
        ("new Float64Array([1.5])[0]", "1.5"),
        ("new Date(0).toISOString()", r#""1970-01-01T00:00:00.000Z""#),
        ("new Date(2024, 0, 15, 12).toISOString()", r#""2024-01-15T12:00:00.000Z""#),
        ("Array.from({length: 3}, (_, i) => i * i)", "[0,1,4]"),
        ("label: for (const a of [1]) { continue label }", "null"),
    ] {
        assert_eq!(value(source), expected, "{source}");
    }
}

#[test]
fn console_writes_lines_with_levels() {
    let outcome = script(
        "console.log('a', 1, true, null, undefined);
         console.info({ a: [1, 'x'], 'b-c': { d: { e: { f: { g: 1 } } } } });
         console.warn('%s is %d%% of %j', 'x', 50, [1], 'and', 'more');
         console.error(new Error('bad'));
         console.debug(new Map([[1, { a: 2 }]]), new Set(['x']), [, 1], new Uint8Array(3), () => 1, class A {}, 10n, -0);
         console.assert(1 === 2, 'math');
         console.count(); console.count();
         console.group('g'); console.log('in\\nside'); console.groupEnd(); console.log('out');
         console.log(new Date(0), /x/g, Symbol('s'), [[[[[[1]]]]]], 'é😀', Promise.resolve(1), Object.create(null));
         const c = {}; c.self = c; console.log(c);",
    );
    let found: Vec<(Level, &str)> = outcome.log.iter().map(|(level, line)| (*level, line.as_str())).collect();
    assert_eq!(
        found,
        [
            (Level::Info, "a 1 true null undefined"),
            (Level::Info, "{ a: [ 1, 'x' ], 'b-c': { d: { e: { f: { g: 1 } } } } }"),
            (Level::Warn, "x is 50% of [1] and more"),
            (Level::Error, "Error: bad\n    at <eval> (script.js:4:28)"),
            (
                Level::Debug,
                "Map(1) { 1 => { a: 2 } } Set(1) { 'x' } [ <empty>, 1 ] Uint8Array(3) [ 0, 0, 0 ] [Function (anonymous)] [class: A] 10n -0"
            ),
            (Level::Error, "Assertion failed: math"),
            (Level::Info, "default: 1"),
            (Level::Info, "default: 2"),
            (Level::Info, "g"),
            (Level::Info, "  in\n  side"),
            (Level::Info, "out"),
            (
                Level::Info,
                "1970-01-01T00:00:00.000Z /x/g Symbol(s) [ [ [ [ [ [Array] ] ] ] ] ] é😀 Promise { <fulfilled> } [Object: null prototype] {}"
            ),
            (Level::Info, "{ self: [Circular] }"),
        ]
    );
}

#[test]
fn console_shows_no_more_than_it_can_and_runs_no_getters() {
    let outcome = script(
        "console.log({ get a() { throw 1 }, set b(x) {} });
         console.log(new Proxy({}, { get() { throw 1 }, ownKeys() { throw 2 } }));
         console.log(new Array(1000).fill(7));
         console.log('x'.repeat(1e6));
         console.log(Object.defineProperty(new Error('e'), 'name', { get() { throw 1 } }));
         const wide = {}; for (let i = 0; i < 1e4; i++) wide['k' + i] = i; console.log(wide);
         let deep = {}; for (let i = 0; i < 1e4; i++) deep = { deep }; console.log(deep);",
    );
    assert_eq!(outcome.lines()[0], "{ a: [Getter], b: [Setter] }");
    assert_eq!(outcome.lines()[1], "Proxy");
    assert!(outcome.lines()[2].contains("... 900 more items"));
    assert!(outcome.lines()[3].len() < 40_000 && outcome.lines()[3].ends_with("more characters"));
    assert_eq!(outcome.lines()[4], "a value that cannot be shown");
    assert!(outcome.lines()[5].contains("more properties"));
    assert!(outcome.lines()[6].contains("[Object]"));
    assert!(outcome.lines().iter().all(|line| line.len() < 40_000));
}

#[test]
fn log_of_the_context_has_the_same_levels() {
    let outcome = script("ctx.log.warn('careful', { a: 1 }); ctx.log.debug('x')");
    assert_eq!(outcome.log, [(Level::Warn, "careful { a: 1 }".to_owned()), (Level::Debug, "x".to_owned())]);
}

#[test]
fn base64_is_encoded_and_decoded() {
    for (source, expected) in [
        ("btoa('hé')", r#""aOk=""#),
        ("atob(' aGk= ')", r#""hi""#),
        ("try { btoa('€') } catch (e) { e.name }", r#""InvalidCharacterError""#),
        ("try { atob('a') } catch (e) { e.name }", r#""InvalidCharacterError""#),
    ] {
        assert_eq!(value(source), expected, "{source}");
    }
}

#[test]
fn text_is_encoded_and_decoded_as_the_standard_has_it() {
    for (source, expected) in [
        ("[...new TextEncoder().encode('é😀\\ud800')]", "[195,169,240,159,152,128,239,191,189]"),
        ("new TextEncoder().encodeInto('a😀b', new Uint8Array(4))", r#"{"read":1,"written":1}"#),
        (
            "new TextDecoder().decode(new Uint8Array([0xef,0xbb,0xbf,0x61,0xff,0xe2,0x82,0x62]))",
            "\"a\u{fffd}\u{fffd}b\"",
        ),
        (
            "new TextDecoder('utf8', {ignoreBOM: true}).decode(new Uint8Array([0xef,0xbb,0xbf,0x61])).length",
            "2",
        ),
        (
            "try { new TextDecoder('utf-8', {fatal: true}).decode(new Uint8Array([0xff])) } catch (e) { e.name }",
            r#""TypeError""#,
        ),
        ("try { new TextDecoder('latin1') } catch (e) { e.name }", r#""RangeError""#),
        (
            "const d = new TextDecoder(); d.decode(new Uint8Array([0xe2,0x82]), {stream: true}) + d.decode(new Uint8Array([0xac]))",
            "\"€\"",
        ),
        (
            "const d = new TextDecoder(); d.decode(new Uint8Array([0xe2,0x82]), {stream: true}) + d.decode()",
            "\"\u{fffd}\"",
        ),
        ("new TextDecoder().decode(new Uint16Array([0x6261]).buffer)", r#""ab""#),
        ("new TextDecoder().decode(new DataView(new Uint8Array([97,98,99]).buffer, 1, 1))", r#""b""#),
        ("new TextDecoder().decode()", r#""""#),
        ("new TextDecoder().decode(new Uint8Array([0xf0,0x80,0x80,0x41]))", "\"\u{fffd}\u{fffd}\u{fffd}A\""),
    ] {
        assert_eq!(value(source), expected, "{source}");
    }
}

#[test]
fn structured_clone_copies_what_can_be_copied() {
    for (source, expected) in [
        (
            "const a = { b: [1, { c: new Date(5) }], s: 'x' }; const d = structuredClone(a); [d, d.b !== a.b, d.b[1].c instanceof Date]",
            r#"[{"b":[1,{"c":"1970-01-01T00:00:00.005Z"}],"s":"x"},true,true]"#,
        ),
        ("const a = {}; a.a = a; const b = structuredClone(a); b.a === b && b !== a", "true"),
        (
            "const m = structuredClone(new Map([[{k: 1}, new Set([2])]])); [...m].map(([k, s]) => [k.k, [...s]])",
            "[[1,[2]]]",
        ),
        (
            "const u = new Uint8Array([1,2,3,4]); const s = structuredClone(u.subarray(1, 3)); s[0] = 9; [[...s], [...u], s.buffer.byteLength]",
            "[[9,3],[1,2,3,4],4]",
        ),
        (
            "const e = structuredClone(new RangeError('r', { cause: 1 })); [e instanceof RangeError, e.message, e.cause]",
            r#"[true,"r",1]"#,
        ),
        ("structuredClone(/a/gi).flags", r#""gi""#),
        ("typeof structuredClone(Object(1n))", r#""object""#),
        ("Object.keys(structuredClone([1,,3]))", r#"["0","2"]"#),
        ("class A { x = 1 } structuredClone(new A()).constructor === Object", "true"),
        (
            "structuredClone(Object.create({ inherited: 1 }, { own: { value: 2, enumerable: true } }))",
            r#"{"own":2}"#,
        ),
        (
            "['function', () => 1, Symbol(), Promise.resolve(), new WeakMap(), new Proxy({}, {})].slice(1).map(v => { try { structuredClone(v); return 'copied' } catch (e) { return e.name } })",
            r#"["DataCloneError","DataCloneError","DataCloneError","DataCloneError","DataCloneError"]"#,
        ),
    ] {
        assert_eq!(value(source), expected, "{source}");
    }
}

#[test]
fn chance_is_the_jobs_own() {
    let first = value("[Math.random(), crypto.randomUUID(), [...crypto.getRandomValues(new Uint8Array(4))]]");
    // The rig gives the same bytes to each job: what a script draws comes from the host, and from nowhere else.
    assert_eq!(
        value("[Math.random(), crypto.randomUUID(), [...crypto.getRandomValues(new Uint8Array(4))]]"),
        first
    );
    assert_eq!(
        value("const s = new Set(); for (let i = 0; i < 1000; i++) s.add(Math.random()); s.size"),
        "1000"
    );
    assert_eq!(
        value(
            "let ok = true; for (let i = 0; i < 1000; i++) { const r = Math.random(); ok &&= r >= 0 && r < 1 } ok"
        ),
        "true"
    );
    assert_eq!(
        value(
            "/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(crypto.randomUUID())"
        ),
        "true"
    );
    for (source, name) in [
        ("crypto.getRandomValues(new Float64Array(1))", "TypeMismatchError"),
        ("crypto.getRandomValues(new Uint8Array(65537))", "QuotaExceededError"),
        ("crypto.getRandomValues([1])", "TypeMismatchError"),
    ] {
        assert_eq!(script(source).failure().name, name, "{source}");
    }
    assert_eq!(
        value(
            "const b = new Uint32Array(4); crypto.getRandomValues(b.subarray(1, 2)); [b[0], b[1] !== 0, b[2]]"
        ),
        "[0,true,0]"
    );
}

#[test]
fn time_is_the_jobs_own() {
    let wall_ms = WALL_US / 1000.0;
    assert_eq!(value("Date.now()"), format!("{wall_ms}"));
    assert_eq!(value("new Date().getFullYear() > 2020"), "true");
    assert_eq!(value("performance.timeOrigin"), format!("{wall_ms}"));
    assert_eq!(value("performance.now()"), "0");
    assert_eq!(
        value(
            "await new Promise(d => setTimeout(d, 40)); [performance.now(), Date.now() - performance.timeOrigin]"
        ),
        "[40,40]"
    );
    assert_eq!(value("new Date().getTimezoneOffset()"), "0");
}

#[test]
fn timers_fire_in_order_with_their_arguments_until_they_are_cleared() {
    let outcome = script(
        "const seen = [];
         setTimeout(x => seen.push(x), 20, 'c');
         setTimeout(x => seen.push(x), 10, 'a');
         setTimeout(x => seen.push(x), 10, 'b');
         setTimeout(() => Promise.resolve().then(() => seen.push('micro')), 0);
         clearTimeout(setTimeout(() => seen.push('never'), 5));
         let n = 0; const every = setInterval(() => { seen.push(++n); if (n === 2) clearInterval(every) }, 15);
         clearTimeout(undefined); clearTimeout(12345);
         output = new Promise(done => setTimeout(() => done(seen), 100));",
    );
    assert_eq!(outcome.output(), r#"["micro","a","b",1,"c",2]"#);
    assert!((99.0..102.0).contains(&outcome.slept_ms), "{}", outcome.slept_ms);
    assert_eq!(script("setTimeout('code', 1)").failure().name, "TypeError");
    assert_eq!(script("for (;;) setTimeout(() => 1, 1e9)").failure().name, "RangeError");
}

#[test]
fn environment_is_what_was_granted() {
    let mut job = Job::new(
        "[ctx.env.A, ctx.env.B, Object.keys(ctx.env), ctx.env.toString === Object.prototype.toString]",
        Form::Script,
    );
    job.environment = vec![("A".to_owned(), "1".to_owned()), ("__proto__".to_owned(), "2".to_owned())];
    assert_eq!(job.run().output(), r#"["1",null,["A","__proto__"],true]"#);
}
