//! Scripts that come again, in fresh processes: compiled ahead for themselves alone, which nothing shows but the figures.

use std::path::Path;

use stockade_wire::client::Statistics;
use stockade_wire::job::{Isolation, JobResult, Purpose, Submission};
use stockade_wire::limits::SCRIPT_TEXT_BYTES_MAX;

use crate::rig::{Daemon, Mode, Peer, Place, eventually, short_of, submission_of};

fn daemon(settings: &[(&str, &str)]) -> Daemon {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("scripts-cache");
    let place = Place::new(Mode::Jailed).set("CACHE_DIRECTORY", cache.to_str().unwrap());
    let place = place.set("KILL_EPOCH_HEAD_START", "1s");
    Daemon::start(settings.iter().fold(place, |place, (name, value)| place.set(name, value)))
}

fn figures(client: &mut Peer) -> Statistics {
    client.ask(async |client| client.statistics().await).unwrap()
}

fn script(source: &str, entry: Option<&str>, input: &str) -> Submission {
    Submission {
        entry: entry.map(str::to_owned),
        input: input.as_bytes().to_vec().into(),
        ..submission_of(source, "script.js")
    }
}

/// Runs it; whether it was given what its script compiles to.
fn given(client: &mut Peer, job: &Submission) -> (bool, JobResult) {
    let before = figures(client).script_hits;
    let result = client.run(job.clone()).unwrap();
    (figures(client).script_hits > before, result)
}

/// Runs it until it is given what its script compiles to.
#[track_caller]
fn compiled(client: &mut Peer, job: &Submission) -> JobResult {
    let mut last = None;
    eventually("the script to be compiled ahead", || {
        let (given, result) = given(client, job);
        last = Some(result);
        given
    });
    last.unwrap()
}

/// What a script's owner sees of its end.
fn seen(result: &JobResult) -> String {
    let output = String::from_utf8_lossy(&result.output.0);
    let logs = [&result.logs.stdout, &result.logs.stderr].map(|log| String::from_utf8_lossy(&log.0));
    format!("{} {output} {logs:?} {:?}", short_of(result), result.error)
}

#[test]
fn script_that_comes_again_is_compiled_ahead_and_does_what_it_did() {
    let daemon = daemon(&[]);
    let mut client = daemon.client();
    let sources = [
        (None, "console.log('in'); output = { doubled: input.n * 2, id: typeof ctx.job }"),
        (None, "await new Promise(done => setTimeout(done, 1)); input.n + 1"),
        (None, "function f(n) {\n  if (n > 2) null.x;\n  return n;\n}\n\nf(input.n)"),
        (None, "const await = 3; (function named(n) { return [named.toString(), await * n] })(input.n)"),
        (
            Some("handle"),
            "const rate = 3;\nexport function handle(input) { console.warn(rate); return input.n * rate }",
        ),
        (
            Some("handle"),
            "export async function handle({ n }) {\n  await null;\n  throw new RangeError('no ' + n);\n}",
        ),
    ];
    for (nth, (entry, source)) in sources.into_iter().enumerate() {
        let job = |n: u32| script(source, entry, &format!(r#"{{"n":{n}}}"#));
        // Under a name under which it never comes again; the same length keeps the stacks the same.
        let plain = |client: &mut Peer, n: u32| {
            let once = Submission { name: format!("scrip{n}.js"), ..job(n) };
            let (given, result) = given(client, &once);
            assert!(!given);
            seen(&result).replace(&once.name, "script.js")
        };
        let expected = [1, 2, 3].map(|n| plain(&mut client, n));
        assert_eq!(seen(&compiled(&mut client, &job(1))), expected[0], "{source}");
        for (n, expected) in [1, 2, 3].into_iter().zip(&expected) {
            let (given, result) = given(&mut client, &job(n));
            assert!(given && result.jail.fresh_process && result.isolation == Isolation::Fresh, "{source}");
            assert_eq!(seen(&result), *expected, "{source}");
        }
        assert_eq!(figures(&mut client).scripts_compiled, nth as u64 + 1);
    }
}

#[test]
fn script_under_another_name_or_as_a_module_is_compiled_for_itself() {
    let daemon = daemon(&[]);
    let mut client = daemon.client();
    let plain = script("new Error('here').stack", None, "");
    assert!(seen(&compiled(&mut client, &plain)).contains("script.js"));
    let renamed = Submission { name: "other.js".to_owned(), ..plain.clone() };
    assert!(!given(&mut client, &renamed).0);
    assert!(seen(&compiled(&mut client, &renamed)).contains("other.js"));
    let source = "globalThis.f ??= 1; typeof this";
    assert_eq!(compiled(&mut client, &script(source, None, "")).output.0, b"\"object\"");
    let (given_one, result) = given(&mut client, &script(source, Some("f"), ""));
    assert!(!given_one);
    assert_eq!(short_of(&result), "invalid_module no_entry - guest");
    compiled(&mut client, &script(source, Some("f"), ""));
    assert_eq!(figures(&mut client).scripts_compiled, 4);
    // An export is called, and which is not compiled.
    let module = "export const f = () => 1, g = () => 2;";
    compiled(&mut client, &script(module, Some("f"), ""));
    let (given, result) = given(&mut client, &script(module, Some("g"), ""));
    assert_eq!((given, result.output.0.as_slice()), (true, &b"2"[..]));
}

#[test]
fn job_that_shares_is_debugged_counts_fuel_or_has_little_memory_does_without() {
    let daemon = daemon(&[]);
    let mut client = daemon.client();
    let plain = script("input + 1", None, "1");
    compiled(&mut client, &plain);
    let mut metered = plain.clone();
    metered.limits.fuel = Some(1 << 40);
    for other in [
        Submission { isolation: Some(Isolation::Tenant), ..plain.clone() },
        Submission { purpose: Purpose::Debug, ..plain.clone() },
        Submission { purpose: Purpose::Profile, ..plain.clone() },
        Submission { purpose: Purpose::Check, ..plain.clone() },
        metered,
    ] {
        let (given, result) = given(&mut client, &other);
        assert!(!given, "{result:?}");
        assert_eq!(short_of(&result), "completed - - -", "{result:?}");
    }
    let long = script(&format!("1 //{}", "x".repeat(SCRIPT_TEXT_BYTES_MAX)), None, "");
    for _ in 0..4 {
        assert!(!given(&mut client, &long).0);
    }
    // It is given the form, and its worker makes nothing of it.
    let mut small = plain.clone();
    small.limits.memory_bytes = Some(4 << 20);
    assert_eq!(given(&mut client, &small).1.output.0, b"2");
    assert_eq!(figures(&mut client).scripts_compiled, 1);
}

#[test]
fn script_with_nothing_to_keep_is_asked_for_once_and_runs_on() {
    let daemon = daemon(&[]);
    let mut client = daemon.client();
    // Tagged templates are read back unfrozen.
    let tagged = script("(t => Object.isFrozen(t))`x` + input", None, "1");
    for _ in 0..8 {
        let (given, result) = given(&mut client, &tagged);
        assert_eq!((given, result.output.0.as_slice()), (false, &b"2"[..]));
    }
    // Each function holds the source of those inside it: a megabyte.
    let (opened, closed) = ("(() => ".repeat(100), ")()".repeat(100));
    let deep = format!("{opened} input + 1 /*{}*/ {closed}", "x".repeat(10_000));
    let deep = script(&deep, None, "1");
    for _ in 0..8 {
        let (given, result) = given(&mut client, &deep);
        assert_eq!((given, result.output.0.as_slice()), (false, &b"2"[..]), "{:?}", result.outcome);
    }
    // It comes after.
    compiled(&mut client, &script("1", None, ""));
    assert_eq!(figures(&mut client).scripts_compiled, 1);
    // As long as it may be, nearly, and of usual make.
    let part =
        |n: u32| format!("function part{n}(order) {{ return order.items.map(item => item.price * {n}); }}\n");
    let long = (0..150).map(part).collect::<String>() + "part2({ items: [{ price: input }] })";
    assert_eq!(compiled(&mut client, &script(&long, None, "2")).output.0, b"[4]");
}

#[test]
fn nothing_is_compiled_ahead_where_the_operator_says_so() {
    for setting in [("CACHE_SCRIPTS_MAX", "0"), ("CACHE_SCRIPTS_BYTES_MAX", "0"), ("POOL_TEMPLATES_MAX", "0")]
    {
        let daemon = daemon(&[setting]);
        let mut client = daemon.client();
        for _ in 0..8 {
            let (given, result) = given(&mut client, &script("input + 1", None, "1"));
            assert_eq!((given, result.output.0.as_slice()), (false, &b"2"[..]), "{setting:?}");
        }
        assert_eq!(figures(&mut client).scripts_compiled, 0, "{setting:?}");
    }
}
