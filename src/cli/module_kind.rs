//! What a file holds, by its content.
//!
//! Owns: telling WebAssembly, its text and everything else apart, so that a wrong file gets a clear answer
//! before it travels.
//! Never: validates; the jailed compile worker does.

/// First bytes of every WebAssembly binary.
const WASM_MAGIC: &[u8] = b"\0asm";

/// Version and layer of a component, which follow the magic.
const COMPONENT_LAYER: &[u8] = &[0x0d, 0, 1, 0];

/// First bytes of ELF: native programs, and modules that somebody compiled ahead.
const ELF_MAGIC: &[u8] = b"\x7fELF";

/// What WebAssembly text can begin with after a parenthesis: a module, a component, or a module's fields alone.
const TEXT_KEYWORDS: [&str; 15] = [
    "module",
    "component",
    "func",
    "memory",
    "table",
    "global",
    "type",
    "import",
    "export",
    "start",
    "elem",
    "data",
    "tag",
    "rec",
    "core",
];

/// Deepest that block comments nest.
const COMMENT_DEPTH_MAX: usize = 64;

/// What can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModuleKind {
    /// A core module.
    Module,
    /// A component.
    Component,
    /// WebAssembly text of either.
    Text,
}

/// Why a file cannot run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ModuleKindError {
    /// Nothing in it.
    #[error("is empty; give a WebAssembly module or component, or WebAssembly text")]
    Empty,
    /// Native code.
    #[error("is native code (ELF), which is never loaded; give the WebAssembly it was made from")]
    Native,
    /// Some other text.
    #[error(
        "is text, but not WebAssembly text: JavaScript and other languages do not run yet; compile it to \
         WebAssembly (WASI), or give WebAssembly text, which begins with `(module`"
    )]
    OtherText,
    /// Something else.
    #[error("is neither WebAssembly nor WebAssembly text; compile it to WebAssembly (WASI)")]
    Unrecognised,
}

/// What `bytes` are, seen from their beginning.
///
/// # Errors
/// When they are nothing that can run.
pub fn recognise(bytes: &[u8]) -> Result<ModuleKind, ModuleKindError> {
    if let Some(rest) = bytes.strip_prefix(WASM_MAGIC) {
        let component = rest.starts_with(COMPONENT_LAYER);
        return Ok(if component { ModuleKind::Component } else { ModuleKind::Module });
    }
    if bytes.starts_with(ELF_MAGIC) {
        return Err(ModuleKindError::Native);
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return Err(ModuleKindError::Unrecognised) };
    let text = skip_blanks(text);
    match text.strip_prefix('(').map(skip_blanks).map(keyword) {
        Some(word) if TEXT_KEYWORDS.contains(&word) || word.starts_with('@') => Ok(ModuleKind::Text),
        None if text.is_empty() => Err(ModuleKindError::Empty),
        Some(_) | None if text.contains('\0') => Err(ModuleKindError::Unrecognised),
        Some(_) | None => Err(ModuleKindError::OtherText),
    }
}

fn keyword(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '@' && c != '_').unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

/// `text` from its first character that is neither blank nor in a comment.
fn skip_blanks(text: &str) -> &str {
    let mut rest = text.trim_start_matches('\u{feff}');
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\n', '\r']);
        if rest.starts_with(";;") {
            rest = rest.find('\n').and_then(|end| rest.get(end..)).unwrap_or_default();
        } else if rest.starts_with("(;") {
            rest = skip_block(rest);
        } else {
            return rest;
        }
    }
}

/// `text` after the block comment it starts with; nothing when the comment has no end.
fn skip_block(text: &str) -> &str {
    let mut depth = 0_usize;
    let mut rest = text;
    while let Some(at) = rest.find([';', '(']) {
        rest = rest.get(at..).unwrap_or_default();
        let step = if rest.starts_with("(;") {
            depth += 1;
            2
        } else if rest.starts_with(";)") {
            depth -= 1;
            2
        } else {
            1
        };
        rest = rest.get(step..).unwrap_or_default();
        if depth == 0 {
            return rest;
        }
        if depth > COMMENT_DEPTH_MAX {
            return "";
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn module_kind_of_what_runs_is_recognised() {
        for (bytes, kind) in [
            (&b"\0asm\x01\0\0\0"[..], ModuleKind::Module),
            (b"\0asm\x0d\0\x01\0", ModuleKind::Component),
            (b"\0asm", ModuleKind::Module),
            (b"(module)", ModuleKind::Text),
            (b"  ;; a comment\n\n(; one (; nested ;) ;; more ;)\t( module $a)", ModuleKind::Text),
            (b"(component $c)", ModuleKind::Text),
            (b"(func (export \"f\"))", ModuleKind::Text),
            (b"\xef\xbb\xbf(module)", ModuleKind::Text),
        ] {
            assert_eq!(recognise(bytes), Ok(kind), "{bytes:?}");
        }
    }

    #[test]
    fn module_kind_of_what_does_not_run_is_refused_by_reason() {
        for (bytes, error) in [
            (&b""[..], ModuleKindError::Empty),
            (b" \n\t", ModuleKindError::Empty),
            (b";; only a comment", ModuleKindError::Empty),
            (b"(; without an end", ModuleKindError::Empty),
            (b"console.log(1)", ModuleKindError::OtherText),
            (b"(function () { return 1 })()", ModuleKindError::OtherText),
            (b"(() => 1)()", ModuleKindError::OtherText),
            (b"#!/bin/sh\n(module)", ModuleKindError::OtherText),
            (b"\x7fELF\x02\x01", ModuleKindError::Native),
            (b"\xff\xfe(module)", ModuleKindError::Unrecognised),
            (b"abc\0def", ModuleKindError::Unrecognised),
            (b"\0as", ModuleKindError::Unrecognised),
        ] {
            assert_eq!(recognise(bytes), Err(error), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn module_kind_of_any_bytes_is_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = recognise(&bytes);
        }

        #[test]
        fn module_kind_of_any_comments_is_an_answer(text in "[(;) \na-z@]{0,40}") {
            let _ = recognise(text.as_bytes());
        }
    }
}
