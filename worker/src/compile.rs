//! The compile role: a module in, an artifact out.
//!
//! Owns: recognising what a module is, compiling it, saying why it cannot be compiled.
//! Never: runs or loads what it compiled; decides time and memory (rlimits and the supervisor do).

use stockade_wire::limits::{GUEST_TEXT_BYTES_MAX, MODULE_BYTES_MAX};
use stockade_wire::worker::{
    CompileFailure, CompileFailureKind, CompileOrder, CompileReason, CompileReport, GuestKind,
};
use wasmparser::{Encoding, Parser, Payload};
use wasmtime::Engine;

use crate::engine::Warm;
use crate::run::cut;

/// Most functions a module, or all modules of a component together, may define. Each costs the compiler about 30 µs
/// and a kilobyte however short it is; the WebAssembly limit of 1,000,000 in 4 MB of module was a minute and more
/// than a gigabyte.
pub const FUNCTIONS_MAX: u64 = 250_000;

/// What the first bytes say a module is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Core,
    Component,
    Text,
    Precompiled,
    Unrecognised,
}

/// Compiles `module` into an artifact for the engine of `warm`. Blocks for as long as that takes, on the
/// calling thread alone.
///
/// # Errors
/// With what the guest's author can be told.
pub fn compile(
    warm: &Warm,
    module: &[u8],
    order: &CompileOrder,
) -> Result<(CompileReport, Vec<u8>), CompileFailure> {
    if module.len() > MODULE_BYTES_MAX {
        let message = format!("module has {} bytes: the most is {MODULE_BYTES_MAX}", module.len());
        return Err(failure(CompileReason::TooComplex, &message));
    }
    let parsed;
    let binary = match recognise(module) {
        Form::Core | Form::Component => module,
        Form::Text if order.text => {
            parsed = wat::parse_bytes(module)
                .map_err(|error| failure(CompileReason::MalformedText, &error.to_string()))?;
            &parsed
        }
        Form::Precompiled => {
            let message = "this is a compiled artifact: only WebAssembly is taken, artifacts are made here";
            return Err(failure(CompileReason::Precompiled, message));
        }
        Form::Text | Form::Unrecognised => {
            let message = "neither WebAssembly (it begins with \\0asm), nor WebAssembly text (it begins with '('), \
                           nor JavaScript (text in UTF-8)";
            return Err(failure(CompileReason::Unrecognised, message));
        }
    };
    let functions = functions(binary);
    if functions > FUNCTIONS_MAX {
        let message = format!("module defines {functions} functions: the most is {FUNCTIONS_MAX}");
        return Err(failure(CompileReason::TooComplex, &message));
    }
    let variant = warm.variant(order.fuel);
    let core = if order.engine { &variant.scripts } else { &variant.modules };
    let (kind, artifact) = translate((core, &variant.components), binary)?;
    let artifact_bytes = artifact.len() as u64;
    if artifact_bytes > order.artifact_bytes_max {
        let most = order.artifact_bytes_max;
        let message = format!("compiled code has {artifact_bytes} bytes: the most is {most}");
        return Err(failure(CompileReason::ArtifactTooLarge, &message));
    }
    Ok((CompileReport { kind, artifact_bytes }, artifact))
}

fn translate(
    (core, components): (&Engine, &Engine),
    binary: &[u8],
) -> Result<(GuestKind, Vec<u8>), CompileFailure> {
    match recognise(binary) {
        Form::Core => {
            let artifact = core.precompile_module(binary).map_err(|error| explain(&error))?;
            let kind = if exports_start(binary) { GuestKind::WasiCommand } else { GuestKind::CoreModule };
            Ok((kind, artifact))
        }
        Form::Component => {
            let artifact = components.precompile_component(binary).map_err(|error| explain(&error))?;
            Ok((GuestKind::Component, artifact))
        }
        Form::Text | Form::Precompiled | Form::Unrecognised => {
            Err(failure(CompileReason::Malformed, "the version after \\0asm is not one that is known"))
        }
    }
}

fn recognise(module: &[u8]) -> Form {
    if module.starts_with(b"\0asm") {
        // The encoding is in the four bytes after it; an unknown one is refused by the compiler, with its offset.
        return if Parser::is_component(module) { Form::Component } else { Form::Core };
    }
    if Engine::detect_precompiled(module).is_some() {
        return Form::Precompiled;
    }
    if begins_as_text(module) { Form::Text } else { Form::Unrecognised }
}

/// Whether the first thing after white space and comments is a parenthesis.
fn begins_as_text(mut rest: &[u8]) -> bool {
    loop {
        rest = rest.trim_ascii_start();
        if rest.starts_with(b"\xef\xbb\xbf") {
            rest = rest.get(3..).unwrap_or_default();
        } else if rest.starts_with(b";;") {
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return false };
            rest = rest.get(end..).unwrap_or_default();
        } else {
            // A block comment begins with it too.
            return rest.starts_with(b"(");
        }
    }
}

/// How many functions it says it defines. That it does is for the compiler to see.
fn functions(binary: &[u8]) -> u64 {
    let sections = Parser::new(0).parse_all(binary).map_while(Result::ok);
    sections
        .map(|payload| if let Payload::FunctionSection(all) = payload { all.count().into() } else { 0 })
        .sum()
}

fn exports_start(binary: &[u8]) -> bool {
    for payload in Parser::new(0).parse_all(binary) {
        match payload {
            Ok(Payload::Version { encoding: Encoding::Component, .. }) | Err(_) => return false,
            Ok(Payload::ExportSection(exports)) => {
                return exports.into_iter().flatten().any(|export| export.name == "_start");
            }
            Ok(_) => {}
        }
    }
    false
}

/// Tells from the compiler's words whose limit or rule it was; it has no types for it. The phrases are pinned
/// by tests and by the exact version of the compiler.
fn explain(error: &wasmtime::Error) -> CompileFailure {
    let message = format!("{error:#}");
    let has = |phrases: &[&str]| phrases.iter().any(|phrase| message.contains(phrase));
    let reason = if has(&[
        "exceeds limit",
        "exceeds the limit",
        "exceed limit",
        "Implementation limit",
        "size is out of bounds",
        "too many locals",
        "Code for function is too large",
        "too large for",
    ]) {
        CompileReason::TooComplex
    } else if has(&[
        "support is not enabled",
        "proposal not enabled",
        " is disabled (at offset",
        "must be enabled",
        "Unsupported feature",
        "not supported",
        " require the ",
    ]) {
        CompileReason::UnsupportedFeature
    } else {
        CompileReason::Malformed
    };
    failure(reason, &message)
}

fn failure(reason: CompileReason, message: &str) -> CompileFailure {
    let kind = match reason {
        CompileReason::TooComplex | CompileReason::ArtifactTooLarge => CompileFailureKind::Limit,
        CompileReason::Malformed
        | CompileReason::MalformedText
        | CompileReason::Precompiled
        | CompileReason::Unrecognised
        | CompileReason::UnsupportedFeature => CompileFailureKind::Invalid,
    };
    CompileFailure { kind, reason, message: cut(message.to_owned(), GUEST_TEXT_BYTES_MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{EngineSettings, warm};

    fn compiled(
        module: &[u8],
        change: fn(&mut CompileOrder),
    ) -> Result<(CompileReport, Vec<u8>), CompileFailure> {
        let warm = warm(&EngineSettings {
            memory_bytes_max: 1 << 20,
            scripts_bytes_max: 0,
            instances: 1,
            expendable: true,
        })
        .unwrap();
        let mut order = CompileOrder {
            module_bytes: module.len() as u64,
            artifact_bytes_max: 64 << 20,
            text: true,
            fuel: false,
            engine: false,
        };
        change(&mut order);
        compile(&warm, module, &order)
    }

    fn refused(module: &[u8]) -> CompileFailure {
        compiled(module, |_| ()).unwrap_err()
    }

    #[test]
    fn guest_of_each_kind_is_recognised() {
        let cases = [
            (r#"(module (func (export "_start")))"#, GuestKind::WasiCommand),
            (
                r#" (; a ;) ;; comment
                (module (func (export "f")))"#,
                GuestKind::CoreModule,
            ),
            ("(component)", GuestKind::Component),
        ];
        for (text, kind) in cases {
            let (from_text, artifact) = compiled(text.as_bytes(), |_| ()).unwrap();
            assert_eq!((from_text.kind, from_text.artifact_bytes), (kind, artifact.len() as u64));
            let binary = wat::parse_str(text).unwrap();
            assert_eq!(compiled(&binary, |order| order.text = false).unwrap().0.kind, kind);
        }
    }

    #[test]
    fn bytes_that_are_no_module_are_refused_each_for_its_reason() {
        let artifact = compiled(b"(module)", |_| ()).unwrap().1;
        let whole = wat::parse_str(r#"(module (func (export "f") (result i32) i32.const 1))"#).unwrap();
        let mut absurd = b"\0asm\x01\0\0\0\x01".to_vec();
        absurd.extend([0xff, 0xff, 0xff, 0xff, 0x0f, 0]);
        let cases: [(&[u8], CompileReason); 10] = [
            (b"", CompileReason::Unrecognised),
            (b"MZ\x90\0", CompileReason::Unrecognised),
            (b"\0asm", CompileReason::Malformed),
            (b"\0asm\x09\0\0\0", CompileReason::Malformed),
            (b"\0asm\x01\0\0\0\xde\xad\xbe\xef", CompileReason::Malformed),
            (&whole[..whole.len() - 1], CompileReason::Malformed),
            (&absurd, CompileReason::Malformed),
            (b"(module (func", CompileReason::MalformedText),
            (b"(module (func (result i32)))", CompileReason::Malformed),
            (&artifact, CompileReason::Precompiled),
        ];
        for (module, reason) in cases {
            let failure = refused(module);
            assert_eq!((failure.reason, failure.kind), (reason, CompileFailureKind::Invalid), "{failure:?}");
        }
    }

    #[test]
    fn text_that_was_not_ordered_as_text_is_not_read() {
        let failure = compiled(b"(module)", |order| order.text = false).unwrap_err();
        assert_eq!(failure.reason, CompileReason::Unrecognised);
    }

    #[test]
    fn proposals_that_are_off_are_named_as_unsupported() {
        for text in [
            "(module (memory 1 1 shared))",
            "(module (memory i64 1))",
            "(module (type (struct)))",
            "(module (tag))",
            "(module (memory 1 (pagesize 1)))",
            "(module (type $f (func)) (type (cont $f)))",
        ] {
            let failure = refused(text.as_bytes());
            assert_eq!(failure.reason, CompileReason::UnsupportedFeature, "{text}: {failure:?}");
        }
    }

    #[test]
    fn modules_beyond_the_compilers_limits_are_a_limit() {
        let locals = "(module (func (local".to_owned() + &" i32".repeat(60_000) + ")))";
        let mut long = "(module (func".to_owned();
        long.push_str(&" nop".repeat(8 << 20));
        long.push_str("))");
        for text in [locals, long] {
            let failure = refused(text.as_bytes());
            let short: String = failure.message.chars().take(200).collect();
            assert_eq!(
                (failure.reason, failure.kind),
                (CompileReason::TooComplex, CompileFailureKind::Limit),
                "{short}"
            );
        }
    }

    #[test]
    fn functions_of_all_modules_of_a_component_are_counted() {
        let counted = |text: &str| functions(&wat::parse_str(text).unwrap());
        assert_eq!(counted("(module)"), 0);
        assert_eq!(counted(r#"(module (import "a" "b" (func)) (func) (func))"#), 2);
        assert_eq!(counted("(component (core module (func)) (component (core module (func) (func))))"), 3);
        assert_eq!(functions(b"\0asm\x01\0\0\0\xff"), 0);
    }

    #[test]
    fn blocks_nested_five_thousand_deep_compile() {
        let mut text = "(module (func".to_owned();
        text.push_str(&" block".repeat(5000));
        text.push_str(&" end".repeat(5000));
        text.push_str("))");
        assert!(compiled(text.as_bytes(), |_| ()).is_ok());
    }

    #[test]
    fn artifact_larger_than_ordered_is_refused() {
        let failure = compiled(b"(module)", |order| order.artifact_bytes_max = 100).unwrap_err();
        assert_eq!(
            (failure.reason, failure.kind),
            (CompileReason::ArtifactTooLarge, CompileFailureKind::Limit)
        );
    }

    #[test]
    fn artifacts_of_the_engine_and_of_the_same_module_differ() {
        let text = br#"(module (func (export "f") (loop (br 0))))"#;
        assert_ne!(compiled(text, |_| ()).unwrap().1, compiled(text, |order| order.engine = true).unwrap().1);
    }

    #[test]
    fn metered_and_plain_artifacts_differ() {
        let text = br#"(module (func (export "f") (loop (br 0))))"#;
        assert_ne!(compiled(text, |_| ()).unwrap().1, compiled(text, |order| order.fuel = true).unwrap().1);
    }
}
