//! Calling the functions of a core module.
//!
//! Owns: the byte interface of `docs/guests.md` (its bounds checks above all) and the printing of numbers.
//! Never: chooses the function.

use std::fs::File;
use std::io::Read;

use stockade_wire::limits::INPUT_BYTES_MAX;
use stockade_wire::worker::{Ending, LinkFault, TrapCode};
use wasmtime::{Instance, Memory, Store, Val};

use super::Host;
use super::ending::guest_text;
use super::entry::{ALLOC, INITIALISE, INITIALIZE, MEMORY, print};
use super::sink::Sink;
use super::stack::Stack;

/// Set in the length of a reply that is a message of failure.
const FAILED: u32 = 1 << 31;

/// What a function is handed.
pub(super) struct Input {
    /// Where it is read from.
    pub(super) file: File,
    /// How much there is; `None` of a stream.
    pub(super) bytes: Option<u64>,
}

/// Bytes on their way into a guest's memory.
enum Source<'a> {
    /// A file, of which that many are left: read where they are to be, without a copy in between.
    File(&'a mut File, usize),
    /// A stream, whose length was not known before its end.
    Read(Vec<u8>),
}

/// A reply of the byte interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reply {
    start: usize,
    length: usize,
    failed: bool,
}

/// Takes a reply apart: the address in the upper half, the length in the lower, whose top bit says "failed".
fn reply(packed: i64) -> Reply {
    let packed = packed.cast_unsigned();
    let [low, high] = [packed & u64::from(u32::MAX), packed >> 32];
    let low = u32::try_from(low).unwrap_or(u32::MAX);
    let high = u32::try_from(high).unwrap_or(u32::MAX);
    Reply { start: high as usize, length: (low & !FAILED) as usize, failed: low & FAILED != 0 }
}

/// Runs `_initialize` of a module that has one.
pub(super) async fn initialize(
    store: &mut Store<Host>,
    stack: Stack,
    instance: Instance,
) -> wasmtime::Result<()> {
    // Most have none, and the error that says so would have to be made.
    if instance.get_func(&mut *store, INITIALIZE).is_none() {
        return Ok(());
    }
    match instance.get_typed_func::<(), ()>(&mut *store, INITIALIZE) {
        Ok(function) => stack.call(&function, store, ()).await,
        Err(_) => Ok(()),
    }
}

/// Runs `_initialize`, if there is one, and the initialiser of a module that has one.
pub(super) async fn initialise(
    store: &mut Store<Host>,
    stack: Stack,
    instance: Instance,
) -> wasmtime::Result<()> {
    initialize(store, stack, instance).await?;
    let initialiser = instance.get_typed_func::<(), ()>(&mut *store, INITIALISE)?;
    stack.call(&initialiser, store, ()).await
}

/// Calls `name` with numbers and prints its results, one a line.
pub(super) async fn call_numbers(
    store: &mut Store<Host>,
    stack: Stack,
    instance: Instance,
    name: &str,
    arguments: &[Val],
    results: usize,
) -> wasmtime::Result<String> {
    let function = instance
        .get_func(&mut *store, name)
        .ok_or_else(|| wasmtime::Error::msg("entry vanished between linking and calling"))?;
    let mut values = vec![Val::I32(0); results];
    stack.call_untyped(function, store, arguments, &mut values).await?;
    let mut text = String::new();
    for value in &values {
        text.push_str(&print(value).unwrap_or_default());
        text.push('\n');
    }
    Ok(text)
}

/// Calls `name` with the bytes of `input` and writes the bytes it returns to `output`.
pub(super) async fn call_bytes(
    store: &mut Store<Host>,
    stack: Stack,
    instance: Instance,
    name: &str,
    input: Option<&mut Input>,
    output: &mut Sink,
) -> wasmtime::Result<Ending> {
    let input = match source(input) {
        Ok(input) => input,
        Err(ending) => return Ok(ending),
    };
    let function = instance.get_typed_func::<(u32, u32), i64>(&mut *store, name)?;
    let memory = instance
        .get_memory(&mut *store, MEMORY)
        .ok_or_else(|| wasmtime::Error::msg("memory vanished between linking and calling"))?;
    let (address, length) = match lend(store, stack, (instance, memory), input).await? {
        Ok(place) => place,
        Err(ending) => return Ok(ending),
    };
    let reply = reply(stack.call(&function, &mut *store, (address, length)).await?);
    let Some(bytes) = within(memory.data(&*store), reply.start, reply.length) else {
        let message =
            format!("{name} returned {} bytes at {}, outside its memory", reply.length, reply.start);
        return Ok(Ending::Trapped(TrapCode::MemoryOutOfBounds, guest_text(&message)));
    };
    if reply.failed {
        return Ok(Ending::Failed(guest_text(&String::from_utf8_lossy(first(bytes)))));
    }
    Ok(deliver(output, bytes))
}

/// Writes what a function returned; the job's whole output.
pub(super) fn deliver(output: &mut Sink, bytes: &[u8]) -> Ending {
    match output.deliver(bytes) {
        Ok(()) => Ending::Exited(0),
        Err(error) => Ending::SetupFailed(format!("output cannot be written: {error}")),
    }
}

fn source(input: Option<&mut Input>) -> Result<Source<'_>, Ending> {
    let Some(input) = input else { return Ok(Source::Read(Vec::new())) };
    let most = INPUT_BYTES_MAX as u64;
    let within = |length: usize| {
        let message = || format!("a function takes at most {most} bytes of input");
        let fits = length <= INPUT_BYTES_MAX;
        fits.then_some(length).ok_or_else(|| Ending::Unlinkable(LinkFault::Arguments, message()))
    };
    if let Some(bytes) = input.bytes {
        return Ok(Source::File(&mut input.file, within(usize::try_from(bytes).unwrap_or(usize::MAX))?));
    }
    let mut bytes = Vec::new();
    let mut stream = (&mut input.file).take(most.saturating_add(1));
    stream.read_to_end(&mut bytes).map_err(|error| unread(&error))?;
    within(bytes.len())?;
    Ok(Source::Read(bytes))
}

fn unread(error: &std::io::Error) -> Ending {
    Ending::SetupFailed(format!("input cannot be read: {error}"))
}

/// Has the guest make room and puts the input there. No input needs no room.
async fn lend(
    store: &mut Store<Host>,
    stack: Stack,
    (instance, memory): (Instance, Memory),
    input: Source<'_>,
) -> wasmtime::Result<Result<(u32, u32), Ending>> {
    let bytes = match &input {
        Source::File(_, bytes) => *bytes,
        Source::Read(bytes) => bytes.len(),
    };
    if bytes == 0 {
        return Ok(Ok((0, 0)));
    }
    let length = u32::try_from(bytes)?;
    let alloc = instance.get_typed_func::<u32, u32>(&mut *store, ALLOC)?;
    let address = stack.call(&alloc, &mut *store, length).await?;
    if address == 0 {
        let message = format!("{ALLOC} returned 0: no room for {length} bytes of input");
        return Ok(Err(Ending::Failed(message)));
    }
    let Some(place) = within_mut(memory.data_mut(store), address as usize, bytes) else {
        let message = format!("{ALLOC} returned {address} for {length} bytes, outside its memory");
        return Ok(Err(Ending::Trapped(TrapCode::MemoryOutOfBounds, message)));
    };
    match input {
        Source::Read(bytes) => place.copy_from_slice(&bytes),
        Source::File(file, _) => {
            if let Err(error) = file.read_exact(place) {
                return Ok(Err(unread(&error)));
            }
        }
    }
    Ok(Ok((address, length)))
}

/// As much of a failure's message as is worth turning into text: cutting comes later, at a character's edge.
fn first(bytes: &[u8]) -> &[u8] {
    bytes.get(..stockade_wire::limits::GUEST_TEXT_BYTES_MAX).unwrap_or(bytes)
}

fn within(memory: &[u8], start: usize, length: usize) -> Option<&[u8]> {
    memory.get(start..start.checked_add(length)?)
}

fn within_mut(memory: &mut [u8], start: usize, length: usize) -> Option<&mut [u8]> {
    memory.get_mut(start..start.checked_add(length)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reply_is_address_then_length_then_the_failure_bit() {
        assert_eq!(reply((7 << 32) | 5), Reply { start: 7, length: 5, failed: false });
        assert_eq!(reply((7 << 32) | 5 | (1 << 31)), Reply { start: 7, length: 5, failed: true });
        let all = Reply { start: 0xffff_ffff, length: 0x7fff_ffff, failed: true };
        assert_eq!(reply(-1), all);
        assert_eq!(reply(0), Reply { start: 0, length: 0, failed: false });
    }

    #[test]
    fn range_beyond_memory_or_beyond_numbers_is_none() {
        let memory = [0; 8];
        assert_eq!(within(&memory, 0, 8).unwrap().len(), 8);
        assert_eq!(within(&memory, 8, 0).unwrap().len(), 0);
        assert!(within(&memory, 1, 8).is_none());
        assert!(within(&memory, 9, 0).is_none());
        assert!(within(&memory, usize::MAX, 2).is_none());
        assert!(within(&memory, 2, usize::MAX).is_none());
    }
}
