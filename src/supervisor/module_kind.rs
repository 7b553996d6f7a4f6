//! What a file holds, by its content.
//!
//! Owns: telling WebAssembly, its text, scripts and everything else apart, so that a wrong file gets a clear answer
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

/// Most bytes looked at to tell whether text is a script.
pub(crate) const LOOKED_AT_BYTES_MAX: usize = 64 << 10;

/// What can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModuleKind {
    /// A core module.
    Module,
    /// A component.
    Component,
    /// WebAssembly text of either.
    Text,
    /// Text of any other kind: JavaScript, or what its parser will say of it.
    Script,
}

/// Why a file cannot run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ModuleKindError {
    /// Nothing in it.
    #[error("is empty; give JavaScript, a WebAssembly module or component, or WebAssembly text")]
    Empty,
    /// Native code.
    #[error("is native code (ELF), which is never loaded; give the WebAssembly it was made from")]
    Native,
    /// Something else.
    #[error("is neither WebAssembly nor text; give JavaScript, or compile it to WebAssembly (WASI)")]
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
    kind_of_text(text)
}

/// Whether `bytes`, as they were submitted, are a script. Looks at their beginning alone: a script's engine says what is
/// wrong with the rest.
#[must_use]
pub(crate) fn is_script(bytes: &[u8]) -> bool {
    if bytes.starts_with(WASM_MAGIC) || bytes.starts_with(ELF_MAGIC) {
        return false;
    }
    let start = bytes.get(..LOOKED_AT_BYTES_MAX).unwrap_or(bytes);
    let text = match std::str::from_utf8(start) {
        Ok(text) => text,
        // The end of what is looked at may be in the middle of a character.
        Err(error) if error.error_len().is_none() && start.len() < bytes.len() => start
            .get(..error.valid_up_to())
            .and_then(|whole| std::str::from_utf8(whole).ok())
            .unwrap_or_default(),
        Err(_) => return false,
    };
    matches!(kind_of_text(text), Ok(ModuleKind::Script))
}

fn kind_of_text(text: &str) -> Result<ModuleKind, ModuleKindError> {
    let text = skip_blanks(text);
    if text.is_empty() {
        return Err(ModuleKindError::Empty);
    }
    if text.contains('\0') {
        return Err(ModuleKindError::Unrecognised);
    }
    let is_wasm_text = text.strip_prefix('(').map(skip_blanks).is_some_and(is_field);
    Ok(if is_wasm_text { ModuleKind::Text } else { ModuleKind::Script })
}

/// Whether this, which comes after a parenthesis, is a field of WebAssembly text: `(data) => 1` and `(data.x)` are not.
fn is_field(text: &str) -> bool {
    let word = keyword(text);
    if word.starts_with('@') {
        return true;
    }
    let rest = text.get(word.len()..).unwrap_or_default();
    let ends = rest.starts_with(|c: char| c.is_ascii_whitespace() || "();\"".contains(c));
    let argument = skip_blanks(rest);
    let operator = argument.starts_with(|c: char| "=+-*/%<>?.,&|^!~:{}[]'`".contains(c));
    let arrow = argument.strip_prefix(')').is_some_and(|after| skip_blanks(after).starts_with("=>"));
    TEXT_KEYWORDS.contains(&word) && ends && !operator && !arrow
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
            (b"(memory 1)(data (i32.const 0) \"x\")", ModuleKind::Text),
            (b"(start 0)", ModuleKind::Text),
            (b"console.log(1)", ModuleKind::Script),
            (b"export default (input) => input", ModuleKind::Script),
            (b"(function () { return 1 })()", ModuleKind::Script),
            (b"(() => 1)()", ModuleKind::Script),
            (b"(data) => data.x", ModuleKind::Script),
            (b"(data.x + 1)", ModuleKind::Script),
            (b"( type = 1, type )", ModuleKind::Script),
            (b"#!/usr/bin/env node\n(module)", ModuleKind::Script),
            (b"// comment\n1", ModuleKind::Script),
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
            (b"\x7fELF\x02\x01", ModuleKindError::Native),
            (b"\xff\xfe(module)", ModuleKindError::Unrecognised),
            (b"abc\0def", ModuleKindError::Unrecognised),
            (b"\0as", ModuleKindError::Unrecognised),
        ] {
            assert_eq!(recognise(bytes), Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn script_is_told_by_its_beginning_alone() {
        assert!(is_script(b"1"));
        assert!(!is_script(b"\xff1") && !is_script(b"(module)") && !is_script(b"\0asm") && !is_script(b""));
        let mut long = vec![b' '; LOOKED_AT_BYTES_MAX - 2];
        long[0] = b'1';
        long.extend("é€\u{10ffff}".as_bytes());
        for more in 0..6 {
            let mut shifted = vec![b'1'; more];
            shifted.extend(&long);
            assert!(is_script(&shifted), "{more}");
        }
        long.extend(b"\xff");
        assert!(is_script(&long));
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
