//! A WebAssembly module's sections, as far as a snapshot changes them.
//!
//! Owns: reading and writing those sections.
//! Never: understands a module in general: what the linker does not write is refused.

use std::ops::Range;

/// The module that the engine's host functions are in.
pub(crate) const HOST: &str = "stockade_js";

/// Bytes of zero in a memory that are worth two segments instead of one.
const GAP_BYTES: usize = 64;

const HEADER: &[u8] = b"\0asm\x01\0\0\0";

/// Of Wasm memory.
const PAGE_BYTES: usize = 64 << 10;

/// What sections there are, as far as they matter here.
mod section {
    pub(super) const MEMORY: u8 = 5;
    pub(super) const GLOBAL: u8 = 6;
    pub(super) const EXPORT: u8 = 7;
    pub(super) const START: u8 = 8;
    pub(super) const DATA: u8 = 11;
    pub(super) const DATA_COUNT: u8 = 12;
}

/// One that was read into its sections.
pub(crate) struct Binary<'a> {
    sections: Vec<(u8, &'a [u8])>,
}

impl<'a> Binary<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        let rest = bytes.strip_prefix(HEADER).ok_or("it is no module")?;
        let mut reader = Reader(rest);
        let mut sections = Vec::new();
        while !reader.0.is_empty() {
            let id = reader.byte()?;
            let length = reader.number()?;
            sections.push((id, reader.take(length)?));
        }
        if sections.iter().any(|(id, _)| *id == section::START) {
            return Err("it has a start function".to_owned());
        }
        Ok(Self { sections })
    }

    fn section(&self, wanted: u8) -> Result<Reader<'a>, String> {
        let found = self.sections.iter().find(|(id, _)| *id == wanted);
        found.map(|(_, payload)| Reader(payload)).ok_or_else(|| format!("it has no section {wanted}"))
    }

    /// Indices of the globals that can change, none of which is imported.
    pub(crate) fn mutable_globals(&self) -> Result<Vec<usize>, String> {
        let mut reader = self.section(section::GLOBAL)?;
        let mut found = Vec::new();
        for index in 0..reader.number()? {
            let [_kind, mutable, constant] = [reader.byte()?, reader.byte()?, reader.byte()?];
            // i32.const and end.
            if constant != 0x41 {
                return Err("it has a global that does not begin as a constant".to_owned());
            }
            reader.skip_number()?;
            reader.byte()?;
            if mutable != 0 {
                found.push(index);
            }
        }
        Ok(found)
    }

    /// The same, with a global exported.
    pub(crate) fn with_global_exported(&self, name: &str, index: usize) -> Result<Vec<u8>, String> {
        let mut reader = self.section(section::EXPORT)?;
        let mut exports = number(reader.number()? + 1);
        exports.extend(reader.0);
        exports.extend(number(name.len()));
        exports.extend(name.as_bytes());
        exports.push(3);
        exports.extend(number(index));
        Ok(self.with(|id, payload| if id == section::EXPORT { exports.clone() } else { payload.to_vec() }))
    }

    /// One whose memory begins as `memory`, and that does not export those `without`.
    pub(crate) fn with_memory(&self, memory: &[u8], without: &[&str]) -> Result<Vec<u8>, String> {
        let (exports, limits) = (self.exports_without(without)?, self.memory_of(memory.len())?);
        let kept = Self {
            // The number of segments is for instructions that use segments later, which the linker makes none of.
            sections: self
                .sections
                .iter()
                .filter(|(id, _)| ![section::DATA, section::DATA_COUNT].contains(id))
                .copied()
                .collect(),
        };
        let mut made = kept.with(|id, payload| match id {
            section::MEMORY => limits.clone(),
            section::EXPORT => exports.clone(),
            _ => payload.to_vec(),
        });
        write_section(&mut made, section::DATA, &segments(memory)?);
        Ok(made)
    }

    fn with(&self, payload_of: impl Fn(u8, &[u8]) -> Vec<u8>) -> Vec<u8> {
        let mut made = HEADER.to_vec();
        for (id, payload) in &self.sections {
            write_section(&mut made, *id, &payload_of(*id, payload));
        }
        made
    }

    fn exports_without(&self, without: &[&str]) -> Result<Vec<u8>, String> {
        let mut reader = self.section(section::EXPORT)?;
        let (mut kept, mut count) = (Vec::new(), 0);
        for _ in 0..reader.number()? {
            let before = reader.0;
            let length = reader.number()?;
            let name = reader.take(length)?;
            reader.byte()?;
            reader.number()?;
            let entry = before.get(..before.len() - reader.0.len()).unwrap_or_default();
            if !without.iter().any(|dropped| dropped.as_bytes() == name) {
                kept.extend(entry);
                count += 1;
            }
        }
        Ok([number(count), kept].concat())
    }

    fn memory_of(&self, bytes: usize) -> Result<Vec<u8>, String> {
        let mut reader = self.section(section::MEMORY)?;
        // One, without a maximum.
        if reader.number()? != 1 || reader.byte()? != 0 || !bytes.is_multiple_of(PAGE_BYTES) {
            return Err("it has not one plain memory".to_owned());
        }
        Ok([number(1), vec![0], number(bytes / PAGE_BYTES)].concat())
    }
}

fn write_section(module: &mut Vec<u8>, id: u8, payload: &[u8]) {
    module.push(id);
    module.extend(number(payload.len()));
    module.extend(payload);
}

/// What of `memory` is not zero.
fn segments(memory: &[u8]) -> Result<Vec<u8>, String> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (at, _) in memory.iter().enumerate().filter(|(_, byte)| **byte != 0) {
        match runs.last_mut() {
            Some(run) if at - run.end < GAP_BYTES => run.end = at + 1,
            _ => runs.push(at..at + 1),
        }
    }
    let mut payload = number(runs.len());
    for run in runs {
        let bytes = memory.get(run.clone()).unwrap_or_default();
        // Active, of memory 0, at a constant.
        payload.extend([0, 0x41]);
        payload.extend(signed(i32::try_from(run.start).map_err(|error| error.to_string())?));
        payload.push(0x0b);
        payload.extend(number(bytes.len()));
        payload.extend(bytes);
    }
    Ok(payload)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or("it ends too early")?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?.first().copied().unwrap_or_default())
    }

    fn number(&mut self) -> Result<usize, String> {
        let mut value = 0;
        for shift in (0..32).step_by(7) {
            let byte = self.byte()?;
            value |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("it has a number that is too long".to_owned())
    }

    fn skip_number(&mut self) -> Result<(), String> {
        self.number().map(drop)
    }
}

fn number(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(0x80 | u8::try_from(value & 0x7f).unwrap_or_default());
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap_or_default());
    bytes
}

fn signed(mut value: i32) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !(-0x40..0x40).contains(&value) {
        bytes.push(0x80 | u8::try_from(value & 0x7f).unwrap_or_default());
        value >>= 7;
    }
    bytes.push(u8::try_from(value & 0x7f).unwrap_or_default());
    bytes
}
