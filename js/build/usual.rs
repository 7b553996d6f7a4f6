//! What most jobs write to in the engine's memory.
//!
//! Owns: a few jobs that do what most do, and the list of the pages that most of them write to.
//! Never: keeps anything else of those jobs.
//!
//! They come again, as most jobs do, and find what their source compiled to.
//!
//! A job is stopped again and again: much of what it writes to holds at its end what it held before, such as counts of
//! references that go up and down. Its fuel says when, and so the same engine gives the same list.

use std::ops::{Range, RangeInclusive};

use wasmi::{Config, CustomFuelCosts, Engine, Module, ResumableCall, Val};

use crate::snapshot::{Hosted, Running};

/// Jobs that do a little, something, and a little of everything.
const USUAL: [&str; 3] = [
    "({ count: input.lines.length, first: `${input.lines[0].sku}!` })",
    "const { lines } = input; const kept = lines.filter(({ n }) => n > 0).map(({ n, sku }) => ({ sku: \
    sku.trim().toUpperCase(), n: n * 2 })); ({ kept, net: Math.floor(kept.reduce((sum, { n }) => sum + n, 0) * 1.19) })",
    "const lines = input.lines.filter((line) => line.n > 0).map(({ n, sku }) => ({ sku: sku.trim().toUpperCase(), \
    n: n * 2, at: new Date(0).toISOString() })); console.log(lines.length); ({ lines, net: Math.floor(lines.reduce((sum, \
    line) => sum + line.n, 0) * 1.19), text: JSON.stringify(Object.keys(lines[0])).replace(/k+/g, 'q') })",
];

/// What so many of them write to is in the list: to have a page for nothing costs as much as a fault that is spared.
const MOST: usize = 2;

/// How many pages these may be. With arenas as large as the engine's own they would be some 60, and with none there is no list.
const PAGES: RangeInclusive<usize> = 8..=48;

/// Their input, before and after as many lines as follow.
const USUAL_INPUT: (&str, &str, usize) = (r#"{"lines":["#, r#"{"sku":" part ","n":-1}]}"#, 16);
const USUAL_LINE: &str = r#"{"sku":" a-part ","n":12},"#;

/// Bytes in which is told what is written to.
const PAGE_BYTES: usize = 4 << 10;

/// Instructions from one look at the memory to the next.
const FUEL_BETWEEN_LOOKS: u64 = 1_000;

/// Says in a request that what the source compiles to is to be told: `FORM_KEEP` of src/abi.rs.
const KEEP: u32 = 0x400;

/// What the engine asks its host for to tell it: see src/door.rs.
const COMPILED: u32 = 5;

/// Runs each of [`USUAL`] in an instance of `engine`, which is set up; the ranges of pages that most wrote to, as Rust.
pub(crate) fn written_to(engine: &[u8]) -> Result<String, String> {
    let module = Module::new(&metered(), engine).map_err(|error| error.to_string())?;
    let mut writers = Vec::new();
    for source in USUAL {
        let compiled = told(&module, source)?;
        let mut running = Running::start(&module, Hosted::Usual(Vec::new()))?;
        let mut pages = Pages::of(running.memory.data(&running.store));
        run(&mut running, &mut pages, (source, 0, &compiled))?;
        writers.resize(pages.written.len(), 0);
        for (count, written) in writers.iter_mut().zip(pages.written) {
            *count += usize::from(written);
        }
    }
    let pages: Vec<usize> =
        writers.iter().enumerate().filter(|(_, count)| **count >= MOST).map(|(page, _)| page).collect();
    if !PAGES.contains(&pages.len()) {
        let found = pages.len();
        return Err(format!(
            "most usual jobs write to {found} pages, and not to {PAGES:?}: look at the arenas in build/source.rs, the heap in \
             guest/heap.c, and the jobs in build/usual.rs"
        ));
    }
    Ok(as_rust(pages.into_iter()))
}

/// An interpreter that counts what it does. What it needs to get a function ready is no part of that.
fn metered() -> Engine {
    let costs = CustomFuelCosts {
        bytes_copied_per_fuel: 64,
        fuel_per_bytes_translated: 0,
        fuel_per_bytes_validated: 0,
    };
    Engine::new(Config::default().consume_fuel(true).fuel_cost(costs))
}

/// What a source compiles to.
fn told(module: &Module, source: &str) -> Result<Vec<u8>, String> {
    let mut running = Running::start(module, Hosted::Usual(Vec::new()))?;
    let mut pages = Pages::of(&[]);
    run(&mut running, &mut pages, (source, KEEP, &[]))?;
    match running.store.into_data() {
        Hosted::Usual(asked) if asked.starts_with(&COMPILED.to_le_bytes()) => {
            Ok(asked.get(size_of_val(&COMPILED)..).unwrap_or_default().to_vec())
        }
        Hosted::Usual(_) | Hosted::SetUp => Err("what it compiles to was not told".to_owned()),
    }
}

fn run(
    running: &mut Running,
    pages: &mut Pages,
    (source, form, compiled): (&str, u32, &[u8]),
) -> Result<(), String> {
    let (before, after, lines) = USUAL_INPUT;
    let input = [before, &USUAL_LINE.repeat(lines), after].concat();
    let version = asked(running, pages, "js_abi", &[])?;
    let texts = ["usual.js", source, "", &input, "job\0usual\0tenant\0usual\0"];
    let parts: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).chain([compiled]).collect();
    let lengths = parts.iter().map(|part| u32::try_from(part.len()).unwrap_or(u32::MAX));
    let mut request: Vec<u8> =
        [version, form].into_iter().chain(lengths).flat_map(u32::to_le_bytes).collect();
    for part in parts {
        request.extend(part);
        request.push(0);
    }
    let length = u32::try_from(request.len()).map_err(|error| error.to_string())?;
    let address = asked(running, pages, "js_reserve", &[length])?;
    let written = running.memory.write(&mut running.store, address as usize, &request);
    written.map_err(|error| error.to_string())?;
    let reply = asked(running, pages, "js_run", &[address, length])? as usize;
    let ending = running.memory.data(&running.store).get(reply..).and_then(|reply| reply.first_chunk::<4>());
    if ending != Some(&[0; 4]) {
        return Err(format!("a usual job ended with {ending:?}"));
    }
    Ok(())
}

/// Calls a function of numbers that returns one, and looks at the memory meanwhile.
fn asked(running: &mut Running, pages: &mut Pages, name: &str, numbers: &[u32]) -> Result<u32, String> {
    let function = running.function(name)?;
    let failed = |error: wasmi::Error| format!("{name}: {error}");
    let numbers: Vec<Val> = numbers.iter().map(|number| Val::I32(number.cast_signed())).collect();
    let mut result = [Val::I32(0)];
    running.store.set_fuel(FUEL_BETWEEN_LOOKS).map_err(failed)?;
    let mut call = function.call_resumable(&mut running.store, &numbers, &mut result).map_err(failed)?;
    loop {
        pages.look(running.memory.data(&running.store));
        call = match call {
            ResumableCall::Finished => break,
            ResumableCall::OutOfFuel(rest) => {
                let fuel = FUEL_BETWEEN_LOOKS.max(rest.required_fuel());
                running.store.set_fuel(fuel).map_err(failed)?;
                rest.resume(&mut running.store, &mut result).map_err(failed)?
            }
            ResumableCall::HostTrap(trap) => return Err(failed(trap.into_host_error())),
        };
    }
    match result {
        [Val::I32(number)] => Ok(number.cast_unsigned()),
        other => Err(format!("{name} returned {other:?}")),
    }
}

/// A memory's pages as they were, and which have been something else since.
struct Pages {
    before: Vec<u8>,
    written: Vec<bool>,
}

impl Pages {
    fn of(memory: &[u8]) -> Self {
        Self { before: memory.to_vec(), written: vec![false; memory.len().div_ceil(PAGE_BYTES)] }
    }

    /// What the memory grew by meanwhile is none of them.
    fn look(&mut self, now: &[u8]) {
        let pages = self.before.chunks(PAGE_BYTES).zip(now.chunks(PAGE_BYTES)).zip(&mut self.written);
        for ((before, now), written) in pages {
            *written = *written || before != now;
        }
    }
}

/// The ranges of these pages, which ascend. A page between two ranges costs more than another range: it is copied.
fn as_rust(pages: impl Iterator<Item = usize>) -> String {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for page in pages {
        match ranges.last_mut() {
            Some(range) if page == range.end => range.end = page + 1,
            _ => ranges.push(page..page + 1),
        }
    }
    let line =
        |range: &Range<usize>| format!("({}, {}),", range.start * PAGE_BYTES, range.len() * PAGE_BYTES);
    format!("&[{}]\n", ranges.iter().map(line).collect::<String>())
}
