//! Which function of a core module to call, and how.
//!
//! Owns: the choice among a module's exports, the reading of arguments as numbers.
//! Never: calls anything. `docs/guests.md` is the description for authors of guests.

use stockade_wire::worker::LinkFault;
use wasmtime::{ExternType, FuncType, Module, Val, ValType};

/// A command's function.
pub(super) const START: &str = "_start";
/// A library's set-up function, called before its entry.
pub(super) const INITIALIZE: &str = "_initialize";
/// Sets a module up in a way that is the same for all its jobs, and may therefore be done once for all of them.
pub(super) const INITIALISE: &str = "stockade_initialise";
/// Gives the host room in the guest's memory.
pub(super) const ALLOC: &str = "stockade_alloc";
/// The memory bytes are exchanged in.
pub(super) const MEMORY: &str = "memory";

/// Most candidates a message lists.
const CANDIDATES_MAX: usize = 16;

/// How a core module is entered.
#[derive(Debug, Clone)]
pub(super) enum Entry {
    /// `_start`, with the job's input and output as its standard streams.
    Start,
    /// A function from bytes to bytes.
    Bytes { name: String },
    /// A function from numbers to numbers, with its arguments already read.
    Numbers { name: String, arguments: Vec<Val>, results: usize },
}

/// Why there is no entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoEntry {
    pub(super) fault: LinkFault,
    pub(super) message: String,
}

impl NoEntry {
    fn new(fault: LinkFault, message: String) -> Self {
        Self { fault, message }
    }
}

/// Chooses the entry: `wanted`, else `_start`, else the only exported function there is.
pub(super) fn choose(module: &Module, wanted: Option<&str>, arguments: &[String]) -> Result<Entry, NoEntry> {
    initialiser(module)?;
    let name = match wanted {
        Some(name) => name.to_owned(),
        None if module.get_export(START).is_some() => START.to_owned(),
        None => only_function(module)?,
    };
    let signature = match module.get_export(&name) {
        Some(ExternType::Func(signature)) => signature,
        Some(_) => {
            let message = format!("export {name:?} is not a function{}", candidates(module));
            return Err(NoEntry::new(LinkFault::NoEntry, message));
        }
        None => {
            let message = format!("there is no exported function {name:?}{}", candidates(module));
            return Err(NoEntry::new(LinkFault::NoEntry, message));
        }
    };
    if name == START {
        return start(&signature);
    }
    if takes_bytes(module, &signature) {
        return Ok(Entry::Bytes { name });
    }
    numbers(name, &signature, arguments)
}

/// Whether the module says that it may be initialised before there is a job for it.
pub(super) fn has_initialiser(module: &Module) -> bool {
    module.get_export(INITIALISE).is_some()
}

/// Whether the module exports a function of that name.
pub(super) fn exports_function(module: &Module, name: &str) -> bool {
    matches!(module.get_export(name), Some(ExternType::Func(_)))
}

fn initialiser(module: &Module) -> Result<(), NoEntry> {
    match module.get_export(INITIALISE) {
        None => Ok(()),
        Some(ExternType::Func(signature)) if is_bare(&signature) => Ok(()),
        Some(_) => {
            let message = format!("{INITIALISE:?} must be a function that takes nothing and returns nothing");
            Err(NoEntry::new(LinkFault::EntrySignature, message))
        }
    }
}

fn is_bare(signature: &FuncType) -> bool {
    signature.params().len() == 0 && signature.results().len() == 0
}

fn start(signature: &FuncType) -> Result<Entry, NoEntry> {
    if is_bare(signature) {
        return Ok(Entry::Start);
    }
    let message = "\"_start\" must take nothing and return nothing".to_owned();
    Err(NoEntry::new(LinkFault::EntrySignature, message))
}

fn only_function(module: &Module) -> Result<String, NoEntry> {
    let mut functions = entries(module);
    match (functions.next(), functions.next()) {
        (Some(only), None) => Ok(only.to_owned()),
        (None, _) => Err(NoEntry::new(LinkFault::NoEntry, "no function is exported".to_owned())),
        (Some(_), Some(_)) => {
            let message = format!("several functions could be the entry: name one{}", candidates(module));
            Err(NoEntry::new(LinkFault::NoEntry, message))
        }
    }
}

/// Exported functions that somebody could mean: not the plumbing of compilers and of the byte interface.
fn entries(module: &Module) -> impl Iterator<Item = &str> {
    module
        .exports()
        .filter(|export| matches!(export.ty(), ExternType::Func(_)))
        .map(|export| export.name())
        .filter(|name| {
            !name.starts_with("__") && ![ALLOC, INITIALIZE, INITIALISE, "cabi_realloc"].contains(name)
        })
}

fn candidates(module: &Module) -> String {
    let mut text = String::new();
    for (nth, name) in entries(module).enumerate() {
        if nth == CANDIDATES_MAX {
            text.push_str(", …");
            break;
        }
        text.push_str(if nth == 0 { " (exported: " } else { ", " });
        text.push_str(name);
    }
    if !text.is_empty() {
        text.push(')');
    }
    text
}

fn takes_bytes(module: &Module, signature: &FuncType) -> bool {
    let is = |found: &mut dyn Iterator<Item = ValType>, wanted: &[fn(&ValType) -> bool]| {
        let found: Vec<ValType> = found.collect();
        found.len() == wanted.len() && found.iter().zip(wanted).all(|(found, is)| is(found))
    };
    is(&mut signature.params(), &[ValType::is_i32, ValType::is_i32])
        && is(&mut signature.results(), &[ValType::is_i64])
        && matches!(module.get_export(MEMORY), Some(ExternType::Memory(memory)) if !memory.is_64())
        && match module.get_export(ALLOC) {
            Some(ExternType::Func(alloc)) => {
                is(&mut alloc.params(), &[ValType::is_i32]) && is(&mut alloc.results(), &[ValType::is_i32])
            }
            Some(_) | None => false,
        }
}

fn numbers(name: String, signature: &FuncType, arguments: &[String]) -> Result<Entry, NoEntry> {
    let number = |kind: &ValType| matches!(kind, ValType::I32 | ValType::I64 | ValType::F32 | ValType::F64);
    if !signature.params().chain(signature.results()).all(|kind| number(&kind)) {
        let message = format!("{name:?} takes or returns something other than numbers");
        return Err(NoEntry::new(LinkFault::EntrySignature, message));
    }
    let (wanted, given) = (signature.params().len(), arguments.len());
    if wanted != given {
        let message = format!("{name:?} takes {wanted} arguments, {given} were given");
        return Err(NoEntry::new(LinkFault::Arguments, message));
    }
    let arguments = signature
        .params()
        .zip(arguments)
        .map(|(kind, text)| {
            parse(&kind, text).ok_or_else(|| {
                let message = format!("argument {text:?} of {name:?} is not a number of type {kind}");
                NoEntry::new(LinkFault::Arguments, message)
            })
        })
        .collect::<Result<Vec<Val>, NoEntry>>()?;
    Ok(Entry::Numbers { name, arguments, results: signature.results().len() })
}

/// Reads a decimal number. Integers may be written signed or unsigned: Wasm's have no sign of their own.
fn parse(kind: &ValType, text: &str) -> Option<Val> {
    match kind {
        ValType::I32 => {
            text.parse::<i32>().ok().or_else(|| text.parse::<u32>().ok().map(u32::cast_signed)).map(Val::I32)
        }
        ValType::I64 => {
            text.parse::<i64>().ok().or_else(|| text.parse::<u64>().ok().map(u64::cast_signed)).map(Val::I64)
        }
        ValType::F32 => text.parse::<f32>().ok().map(|number| Val::F32(number.to_bits())),
        ValType::F64 => text.parse::<f64>().ok().map(|number| Val::F64(number.to_bits())),
        ValType::V128 | ValType::Ref(_) => None,
    }
}

/// A result as it is printed: signed decimal, or the shortest decimal that reads back as the same float.
pub(super) fn print(value: &Val) -> Option<String> {
    match value {
        Val::I32(number) => Some(number.to_string()),
        Val::I64(number) => Some(number.to_string()),
        Val::F32(bits) => Some(f32::from_bits(*bits).to_string()),
        Val::F64(bits) => Some(f64::from_bits(*bits).to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasmtime::Engine;

    fn chosen(text: &str, wanted: Option<&str>, arguments: &[&str]) -> Result<Entry, NoEntry> {
        let module = Module::new(&Engine::default(), text).unwrap();
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        choose(&module, wanted, &arguments)
    }

    fn fault(result: Result<Entry, NoEntry>) -> (LinkFault, String) {
        let no = result.unwrap_err();
        (no.fault, no.message)
    }

    #[test]
    fn entry_unnamed_is_start_before_all_others() {
        let both = r#"(module (func (export "a")) (func (export "_start")))"#;
        assert!(matches!(chosen(both, None, &[]), Ok(Entry::Start)));
    }

    #[test]
    fn entry_unnamed_is_the_only_function_besides_plumbing() {
        let text = r#"(module (func (export "_initialize")) (func (export "__x")) (func (export "go")))"#;
        assert!(matches!(chosen(text, None, &[]), Ok(Entry::Numbers { name, .. }) if name == "go"));
    }

    #[test]
    fn entry_among_several_is_refused_and_lists_them() {
        let (kind, message) = fault(chosen(r#"(module (func (export "a")) (func (export "b")))"#, None, &[]));
        assert_eq!(kind, LinkFault::NoEntry);
        assert!(message.contains("(exported: a, b)"), "{message}");
    }

    #[test]
    fn entry_of_an_empty_module_is_refused() {
        assert_eq!(fault(chosen("(module)", None, &[])).0, LinkFault::NoEntry);
    }

    #[test]
    fn entry_that_is_a_memory_or_missing_is_refused() {
        let text = r#"(module (memory (export "m") 1))"#;
        assert_eq!(fault(chosen(text, Some("m"), &[])).0, LinkFault::NoEntry);
        assert_eq!(fault(chosen(text, Some("x"), &[])).0, LinkFault::NoEntry);
    }

    #[test]
    fn initialiser_that_is_no_bare_function_is_refused() {
        let text = |export: &str| {
            format!(r#"(module (memory 1) (func (export "f")) (func (result i32) i32.const 0) {export})"#)
        };
        for export in
            [r#"(export "stockade_initialise" (memory 0))"#, r#"(export "stockade_initialise" (func 1))"#]
        {
            assert_eq!(fault(chosen(&text(export), None, &[])).0, LinkFault::EntrySignature, "{export}");
        }
        assert!(chosen(&text(r#"(func (export "stockade_initialise"))"#), None, &[]).is_ok());
    }

    #[test]
    fn start_with_a_parameter_is_refused() {
        let text = r#"(module (func (export "_start") (param i32)))"#;
        assert_eq!(fault(chosen(text, None, &[])).0, LinkFault::EntrySignature);
    }

    #[test]
    fn function_of_vectors_is_refused() {
        let text = r#"(module (func (export "f") (param v128)))"#;
        assert_eq!(fault(chosen(text, None, &["1"])).0, LinkFault::EntrySignature);
    }

    #[test]
    fn bytes_interface_needs_memory_and_allocator() {
        let function = r#"(func (export "f") (param i32 i32) (result i64) i64.const 0)"#;
        let alloc = r#"(func (export "stockade_alloc") (param i32) (result i32) i32.const 0)"#;
        let memory = r#"(memory (export "memory") 1)"#;
        let full = format!("(module {function} {alloc} {memory})");
        assert!(matches!(chosen(&full, None, &[]), Ok(Entry::Bytes { .. })));
        let bare = format!("(module {function} {alloc})");
        assert!(matches!(chosen(&bare, None, &["1", "2"]), Ok(Entry::Numbers { .. })));
    }

    #[test]
    fn arguments_that_are_not_the_numbers_wanted_are_refused() {
        let text = r#"(module (func (export "f") (param i32)))"#;
        for bad in ["", "x", "4294967296", "-2147483649", "1.5", " 1"] {
            assert_eq!(fault(chosen(text, None, &[bad])).0, LinkFault::Arguments, "{bad:?}");
        }
        assert_eq!(fault(chosen(text, None, &[])).0, LinkFault::Arguments);
        for good in ["4294967295", "-2147483648", "0"] {
            assert!(chosen(text, None, &[good]).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn numbers_print_as_they_are_read() {
        for (kind, text) in [
            (ValType::I32, "-1"),
            (ValType::I64, "9223372036854775807"),
            (ValType::F32, "0.1"),
            (ValType::F64, "-inf"),
        ] {
            assert_eq!(print(&parse(&kind, text).unwrap()).unwrap(), text);
        }
    }
}
