//! Jobs whose module is JavaScript source.
//!
//! Owns: the engine that such a job's module is exchanged for, how its source travels, what a script's end means.
//! Never: parses a script; looks at more of it than its beginning.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, LazyLock};

use sha2::{Digest as _, Sha256};
use stockade_wire::bytes::ByteBuf;
use stockade_wire::job::{Blame, Digest, Outcome, ScriptError, Verdict};
use stockade_wire::limits::{GUEST_TEXT_BYTES_MAX, SCRIPT_TEXT_BYTES_MAX};
use stockade_wire::worker::{CompiledForm, Ending, RunReport, ScriptFault, ScriptOrder, ScriptSource};

use super::artifact::Module;
use super::job::{Job, outcome};
use super::logs::display::safe_text;

/// Private memory that running a script takes beside the job's own, bytes: the stack of the engine, where it does not run on the
/// thread's own, which no data limit counts.
pub(super) const DATA_BYTES: u64 = stockade_js::abi::WASM_STACK_BYTES as u64;

/// Before the engine's digest, in what its artifact is named by.
const ENGINE_NAME: &[u8] = b"stockade: the JavaScript engine\0";

/// The JavaScript engine, of our own making.
pub(super) struct Engine {
    /// What its artifact is known by. No module has this digest: the engine that somebody submits as a module is compiled as
    /// other modules are.
    pub(super) digest: Digest,
    pub(super) module: Arc<Module>,
}

/// What follows the error of a script that was refused memory.
const MORE_MEMORY: &str = ": the script needs more memory than the job may have; give it more with --memory";

static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine {
    digest: Sha256::new()
        .chain_update(ENGINE_NAME)
        .chain_update(stockade_js::ENGINE_SHA256)
        .finalize()
        .into(),
    module: Arc::new(Module::Bytes(stockade_js::ENGINE_WASM.to_vec())),
});

/// The engine.
pub(super) fn engine() -> &'static Engine {
    &ENGINE
}

/// Whether it is the engine, and not what somebody submitted, be it the same bytes.
pub(super) fn is_engine(module: &Arc<Module>) -> bool {
    Arc::ptr_eq(module, &ENGINE.module)
}

/// A script's source on its way to who runs it.
pub(super) enum Text {
    /// In its order.
    Here(ByteBuf),
    /// In a sealed file.
    File { file: OwnedFd, bytes: u64 },
}

impl Text {
    /// # Errors
    /// When the kernel has no descriptor or memory for a long one.
    pub(super) fn of(script: &Module) -> io::Result<Self> {
        Ok(match script {
            Module::Bytes(bytes) if bytes.len() <= SCRIPT_TEXT_BYTES_MAX => Self::Here(bytes.clone().into()),
            Module::Bytes(_) | Module::File(_) => Self::File { file: script.file()?, bytes: script.bytes() },
        })
    }

    pub(super) fn file(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Here(_) => None,
            Self::File { file, .. } => Some(file.as_fd()),
        }
    }
}

/// What a worker is told of a script, with its input if that is to go with the order, and what it compiles to if that is known.
pub(super) fn order(job: &Job, source: &Text, input: Option<&ByteBuf>, form: Option<&[u8]>) -> ScriptOrder {
    ScriptOrder {
        source: match source {
            Text::Here(bytes) => ScriptSource::Here(bytes.clone()),
            Text::File { bytes, .. } => ScriptSource::File { bytes: *bytes },
        },
        input: input.cloned(),
        job: job.id.clone(),
        tenant: job.admitted.tenant.clone(),
        traceparent: job.admitted.traceparent.clone(),
        request_id: job.admitted.request_id.clone(),
        purpose: job.admitted.purpose,
        compiled: form.map_or(CompiledForm::No, |form| CompiledForm::Kept(form.to_vec().into())),
    }
}

/// The outcome of a script that is given arguments: it would never see them.
pub(super) fn takes_no_arguments() -> Outcome {
    let message =
        "a script takes no arguments: give it its input with --input, and flags before or after FILE";
    outcome::ended(Verdict::InvalidModule, "arguments", Blame::Operator, message)
}

/// The error that a worker says a script ended with, each text as long as it may be.
pub(super) fn error(report: &RunReport) -> Option<ScriptError> {
    let Ending::Script(_, error) = &report.ending else { return None };
    let kept = |text: &str| {
        let mut text = text.to_owned();
        text.truncate(text.floor_char_boundary(GUEST_TEXT_BYTES_MAX));
        text
    };
    Some(ScriptError {
        name: kept(&error.name),
        message: kept(&error.message),
        file: error.file.as_deref().map(kept),
        stack: kept(&error.stack),
        line: error.line,
        column: error.column,
    })
}

/// The outcome of a script that did not end well.
pub(super) fn ended(fault: ScriptFault, error: &ScriptError) -> Outcome {
    let (verdict, reason, blame) = match fault {
        ScriptFault::Source => (Verdict::InvalidModule, "malformed_text", Blame::Guest),
        ScriptFault::Syntax => (Verdict::InvalidModule, "syntax_error", Blame::Guest),
        ScriptFault::NoEntry => (Verdict::InvalidModule, "no_entry", Blame::Guest),
        ScriptFault::ImportRefused => (Verdict::InvalidModule, "unknown_import", Blame::Guest),
        ScriptFault::Thrown => (Verdict::GuestError, "exception", Blame::Guest),
        ScriptFault::NeverSettled => (Verdict::GuestError, "never_settled", Blame::Guest),
        ScriptFault::OutputNotJson => (Verdict::GuestError, "output_not_json", Blame::Guest),
        ScriptFault::InputNotJson => (Verdict::GuestError, "input_not_json", Blame::Operator),
        ScriptFault::StackOverflow => (Verdict::GuestError, "stack_overflow", Blame::Guest),
        ScriptFault::OutOfMemory => (Verdict::OutOfMemory, outcome::MEMORY_LIMIT, Blame::Guest),
    };
    let mut message = sentence(error);
    if fault == ScriptFault::OutOfMemory {
        message.push_str(MORE_MEMORY);
    }
    outcome::ended(verdict, reason, blame, &message)
}

/// An error in one line: its name, its message, its place.
fn sentence(error: &ScriptError) -> String {
    let mut text = error.name.clone();
    if !error.message.is_empty() {
        text.push_str(": ");
        text.push_str(&error.message);
    }
    if let (Some(file), Some(line)) = (&error.file, error.line) {
        text.push_str(&format!(" ({file}:{line}"));
        if let Some(column) = error.column {
            text.push_str(&format!(":{column}"));
        }
        text.push(')');
    }
    safe_text(&text, GUEST_TEXT_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentence_names_error_and_place_and_holds_no_control_character() {
        let error = ScriptError {
            name: "TypeError".to_owned(),
            message: "no\u{1b}[31m x".to_owned(),
            file: Some("a.js".to_owned()),
            line: Some(2),
            column: Some(10),
            stack: String::new(),
        };
        let text = sentence(&error);
        assert!(text.starts_with("TypeError: no") && text.ends_with("(a.js:2:10)"), "{text}");
        assert!(!text.contains('\u{1b}'));
        let nowhere = ScriptError { name: "Uncaught".to_owned(), ..ScriptError::default() };
        assert_eq!(sentence(&nowhere), "Uncaught");
    }

    #[test]
    fn engine_is_the_module_that_was_built() {
        assert_eq!(engine().module.read().unwrap(), stockade_js::ENGINE_WASM);
        assert_eq!(*stockade_js::ENGINE_SHA256, Digest::from(Sha256::digest(stockade_js::ENGINE_WASM)));
        assert!(!engine().module.is_text().unwrap());
    }
}
