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
            let message =
                "neither WebAssembly (it begins with \\0asm) nor WebAssembly text (it begins with '(')";
            return Err(failure(CompileReason::Unrecognised, message));
        }
    };
    let variant = warm.variant(order.fuel);
    let (kind, artifact) = translate(&variant.engine, binary)?;
    let artifact_bytes = artifact.len() as u64;
    if artifact_bytes > order.artifact_bytes_max {
        let most = order.artifact_bytes_max;
        let message = format!("compiled code has {artifact_bytes} bytes: the most is {most}");
        return Err(failure(CompileReason::ArtifactTooLarge, &message));
    }
    Ok((CompileReport { kind, artifact_bytes }, artifact))
}

fn translate(engine: &Engine, binary: &[u8]) -> Result<(GuestKind, Vec<u8>), CompileFailure> {
    match recognise(binary) {
        Form::Core => {
            let artifact = engine.precompile_module(binary).map_err(|error| explain(&error))?;
            let kind = if exports_start(binary) { GuestKind::WasiCommand } else { GuestKind::CoreModule };
            Ok((kind, artifact))
        }
        Form::Component => {
            let artifact = engine.precompile_component(binary).map_err(|error| explain(&error))?;
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
