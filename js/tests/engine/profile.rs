//! Looks at a script's stack: what they see, and that the script does not see them.

use std::time::Duration;

use stockade_js::profile::CpuProfile;
use stockade_js::request::Form;

use crate::rig::{End, Job, Outcome};

/// A function that takes its time.
const HOT: &str =
    "function hot(rounds) { let sum = 0; for (let n = 0; n < rounds; n++) sum += n % 7; return sum; }\n";

fn profiled<'a>(source: &'a str, form: Form<'a>) -> Job<'a> {
    let mut job = Job::new(source, form);
    job.request.profile = true;
    job
}

/// The function that most time went to.
#[track_caller]
fn heaviest(outcome: &Outcome) -> &str {
    let times = outcome.profile.self_time_us();
    times.into_iter().max_by_key(|(_, time)| *time).map(|(name, _)| name).unwrap()
}

/// The names of the functions above the one of this name, innermost first.
fn callers<'p>(profile: &'p CpuProfile, name: &str) -> Vec<&'p str> {
    let mut at = profile.nodes.iter().find(|node| node.call_frame.function_name == name).unwrap();
    let mut names = Vec::new();
    while let Some(parent) = profile.nodes.iter().find(|node| node.children.contains(&at.id)) {
        names.push(parent.call_frame.function_name.as_str());
        at = parent;
    }
    names
}

#[test]
fn profile_of_a_script_has_its_hot_function_as_the_heaviest() {
    let source = format!(
        "{HOT}function cold() {{ return hot(10); }}\nfunction work() {{ cold(); return hot(3e6); }}\nwork()"
    );
    let outcome = profiled(&source, Form::Script).run();
    assert_eq!(outcome.output(), "8999994");
    assert_eq!(heaviest(&outcome), "hot");
    assert_eq!(callers(&outcome.profile, "hot"), ["work", "<eval>", "(root)"]);
    let hot = outcome.profile.nodes.iter().find(|node| node.call_frame.function_name == "hot").unwrap();
    let frame = &hot.call_frame;
    assert_eq!((frame.url.as_str(), frame.line_number, frame.script_id.as_str()), ("script.js", 0, "1"));
}

#[test]
fn profile_of_a_module_sees_methods_callbacks_and_awaited_functions() {
    let source = "class Sums { of(list) { return list.map((n) => { let s = 0; for (let i = 0; i < n; i++) s += i; return s; }); } }
        async function later() { await null; return new Sums().of([1e6, 1e6]); }
        export async function handle() { return (await later()).length; }";
    let outcome = profiled(source, Form::Module { entry: "handle" }).run();
    assert_eq!(outcome.output(), "2");
    let functions: Vec<_> =
        outcome.profile.nodes.iter().map(|node| node.call_frame.function_name.as_str()).collect();
    for name in ["of", "later"] {
        assert!(functions.contains(&name), "{functions:?}");
    }
    // Neither `map` itself nor anything of ours is in it.
    let ours = |node: &&stockade_js::profile::ProfileNode| node.call_frame.url.starts_with("stockade:");
    assert!(!functions.contains(&"map"));
    assert_eq!(outcome.profile.nodes.iter().find(ours), None);
}

#[test]
fn profile_counts_a_regular_expression_for_the_function_that_uses_it() {
    let source = "function looks(text) { return /^(a+)+$/.test(text); }\nlooks('a'.repeat(22) + '!')";
    let outcome = profiled(source, Form::Script).run();
    assert_eq!(outcome.output(), "false");
    assert_eq!(heaviest(&outcome), "looks");
}

#[test]
fn profile_of_an_endless_loop_has_what_was_seen_until_its_end() {
    let source = "function spins() { while (true) { } }\nspins()";
    let outcome = profiled(source, Form::Script).deadline(Duration::from_millis(300)).run();
    assert!(matches!(outcome.end, End::Trapped(_)), "{:?}", outcome.end);
    assert_eq!(heaviest(&outcome), "spins");
}

#[test]
fn profile_of_a_stack_deeper_than_can_be_seen_says_so() {
    let source = format!("{HOT}function deep(n) {{ return n === 0 ? hot(2e6) : deep(n - 1); }}\ndeep(200)");
    let outcome = profiled(&source, Form::Script).run();
    assert_eq!(heaviest(&outcome), "hot");
    let callers = callers(&outcome.profile, "hot");
    assert_eq!(callers.last(), Some(&"(root)"));
    assert_eq!(callers[callers.len() - 2], "(deeper calls)");
}

#[test]
fn profile_runs_nothing_of_what_the_script_does_to_stacks() {
    let source = format!(
        "{HOT}let called = 0;
        Error.prepareStackTrace = (error, frames) => {{ called++; return 'mine'; }};
        Error.stackTraceLimit = {{ valueOf() {{ called++; return 3; }} }};
        Object.defineProperty(Function.prototype, 'fileName', {{ get() {{ called++; return 'x'; }} }});
        hot(3e6);
        const before = called;
        output = {{ before, stack: new Error('x').stack, after: called }};"
    );
    let outcome = profiled(&source, Form::Script).run();
    assert_eq!(outcome.output(), r#"{"before":0,"stack":"mine","after":2}"#);
    assert_eq!(heaviest(&outcome), "hot");
}

#[test]
fn profile_leaves_errors_and_memory_as_they_are() {
    let source = "let caught = 0;
        function throws(n) { try { if (n % 3) null.x; } catch (error) { caught++; } finally { caught += 0; } }
        for (let n = 0; n < 3e5; n++) throws(n);
        output = caught;";
    assert_eq!(profiled(source, Form::Script).run().output(), "200000");
    // Until there is no memory at all, and then the script is told so.
    let bomb = "const kept = []; function grows() { for (;;) kept.push({ n: [kept.length] }); }\ngrows()";
    let outcome = profiled(bomb, Form::Script).memory(24 << 20).run();
    assert_eq!(outcome.fault(), stockade_js::reply::Fault::OutOfMemory);
    assert_eq!(heaviest(&outcome), "grows");
}

#[test]
fn script_that_nobody_profiles_is_never_looked_at() {
    let outcome = Job::new(&format!("{HOT}hot(1e6)"), Form::Script).run();
    assert_eq!(outcome.profile.samples.len(), 2, "that the profile ends: {:?}", outcome.profile.samples);
}
