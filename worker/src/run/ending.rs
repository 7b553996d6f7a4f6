//! From what Wasmtime says to how a run ended.
//!
//! Owns: the mapping of errors and traps to [`Ending`], the cutting of guest text.
//! Never: runs anything.

use stockade_wire::limits::GUEST_TEXT_BYTES_MAX;
use stockade_wire::worker::{Ending, LinkFault, TrapCode};
use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use super::ledger::Ledger;

/// What to make of an error that came out of instantiating or calling.
pub(super) fn of_error(error: &wasmtime::Error, ledger: &Ledger) -> Ending {
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return Ending::Exited(exit.0);
    }
    if let Some(trap) = error.downcast_ref::<Trap>() {
        return of_trap(*trap, error);
    }
    if let Some(bytes) = ledger.minimum_refused_bytes() {
        return Ending::MemoryRefused(bytes);
    }
    if let Some(bytes) = ledger.next_minimum_bytes()
        && no_memory(error)
    {
        return Ending::MemoryRefused(bytes);
    }
    if beyond_the_pool(error) {
        return Ending::Unlinkable(LinkFault::TooLarge, guest_text(&format!("{error:#}")));
    }
    Ending::Trapped(TrapCode::Other, describe(&root_cause(error), error))
}

/// Whether the kernel had no memory to give. The engine's error for it has a type of no crate that is used here;
/// its words are the system's own.
fn no_memory(error: &wasmtime::Error) -> bool {
    error.root_cause().to_string() == std::io::Error::from(nix::errno::Errno::ENOMEM).to_string()
}

/// Whether the engine's pool has no room for such a guest, at loading or at instantiating. For the first there
/// is no type to tell it by; the words are pinned by tests and by the exact version of the engine.
pub(super) fn beyond_the_pool(error: &wasmtime::Error) -> bool {
    error.is::<PoolConcurrencyLimitError>()
        || ["exceeds the", "count too high", "resource limit exceeded"]
            .iter()
            .any(|phrase| format!("{error:#}").contains(phrase))
}

fn of_trap(trap: Trap, error: &wasmtime::Error) -> Ending {
    let code = match trap {
        Trap::Interrupt => return Ending::Interrupted,
        Trap::OutOfFuel => return Ending::OutOfFuel,
        Trap::UnreachableCodeReached => TrapCode::Unreachable,
        Trap::StackOverflow => TrapCode::StackOverflow,
        Trap::MemoryOutOfBounds => TrapCode::MemoryOutOfBounds,
        Trap::TableOutOfBounds => TrapCode::TableOutOfBounds,
        Trap::IndirectCallToNull => TrapCode::IndirectCallToNull,
        Trap::BadSignature => TrapCode::BadSignature,
        Trap::IntegerOverflow => TrapCode::IntegerOverflow,
        Trap::IntegerDivisionByZero => TrapCode::DivisionByZero,
        Trap::BadConversionToInteger => TrapCode::BadConversionToInteger,
        // The rest are traps of proposals and of the component model; the text names them.
        _ => TrapCode::Other,
    };
    Ending::Trapped(code, describe(&trap.to_string(), error))
}

/// The trap and the guest's own names of the functions it came from, innermost first.
fn describe(what: &str, error: &wasmtime::Error) -> String {
    let mut text = what.trim_start_matches("wasm trap: ").to_owned();
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        for (nth, frame) in backtrace.frames().iter().enumerate() {
            text.push_str(if nth == 0 { ", in " } else { " ← " });
            match frame.func_name() {
                Some(name) => text.push_str(name),
                None => text.push_str(&format!("function {}", frame.func_index())),
            }
            if text.len() > GUEST_TEXT_BYTES_MAX {
                break;
            }
        }
    }
    guest_text(&text)
}

fn root_cause(error: &wasmtime::Error) -> String {
    error.root_cause().to_string()
}

/// Text about a guest, as long as the wire takes it.
pub(super) fn guest_text(text: &str) -> String {
    cut(text.to_owned(), GUEST_TEXT_BYTES_MAX)
}

/// `text` cut to at most `bytes_max` bytes, at the edge of a character.
pub(crate) fn cut(mut text: String, bytes_max: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes_max));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_longer_than_its_limit_is_cut_between_characters() {
        assert_eq!(cut("aé".repeat(3), 5), "aéa");
        assert_eq!(cut("short".to_owned(), 5), "short");
    }

    #[test]
    fn want_of_memory_is_a_refusal_only_while_instantiating() {
        let mut ledger = Ledger::new(100, 70);
        let error = || wasmtime::Error::from(std::io::Error::from(nix::errno::Errno::ENOMEM));
        assert_eq!(of_error(&error(), &ledger), Ending::MemoryRefused(70));
        ledger.instantiated();
        assert!(matches!(of_error(&error(), &ledger), Ending::Trapped(TrapCode::Other, _)));
    }

    #[test]
    fn trap_of_every_kind_has_its_code() {
        let ledger = Ledger::new(0, 0);
        let cases = [
            (Trap::UnreachableCodeReached, TrapCode::Unreachable),
            (Trap::StackOverflow, TrapCode::StackOverflow),
            (Trap::MemoryOutOfBounds, TrapCode::MemoryOutOfBounds),
            (Trap::TableOutOfBounds, TrapCode::TableOutOfBounds),
            (Trap::IndirectCallToNull, TrapCode::IndirectCallToNull),
            (Trap::BadSignature, TrapCode::BadSignature),
            (Trap::IntegerOverflow, TrapCode::IntegerOverflow),
            (Trap::IntegerDivisionByZero, TrapCode::DivisionByZero),
            (Trap::BadConversionToInteger, TrapCode::BadConversionToInteger),
            (Trap::HeapMisaligned, TrapCode::Other),
        ];
        for (trap, code) in cases {
            let ending = of_error(&wasmtime::Error::from(trap), &ledger);
            assert!(matches!(&ending, Ending::Trapped(found, _) if *found == code), "{trap:?}: {ending:?}");
        }
        assert_eq!(of_error(&Trap::Interrupt.into(), &ledger), Ending::Interrupted);
        assert_eq!(of_error(&Trap::OutOfFuel.into(), &ledger), Ending::OutOfFuel);
        assert_eq!(of_error(&wasmtime::Error::from(I32Exit(7)), &ledger), Ending::Exited(7));
    }
}
