//! The program's own code and constants on huge pages.
//!
//! Owns: moving them there.
//! Never: touches what is not the executable's, changes a byte, makes a page that is writable and executable.
//!
//! Forks inherit them there (see [`crate::own_pages`]): a dozen pages instead of five thousand. Measured on x86-64 in a
//! virtual machine, mapping them anew was a third of a short job's whole CPU time. Anonymous memory at the same addresses with the same
//! bytes and the same protection is the same program; debuggers and profilers that look the addresses up by file find no
//! file, though.
//!
//! What is moved are the whole huge pages inside each segment, and not what lies at its ends, unless the linker gave the
//! segment its huge pages for itself. The product is not linked so: its base would have to be aligned, and of the 28
//! bits of its address that the kernel draws, 19 would be left.

use std::ops::Range;

use nix::sys::mman::ProtFlags;

use crate::own_pages::{HUGE_BYTES, PagesError, Part, copy, replace};
use crate::solo::SingleThreaded;

/// Why the program stays where it is.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The list of mappings cannot be read.
    #[error("the list of this process's mappings cannot be read")]
    List(#[source] std::io::Error),
    /// There is no whole huge page in it.
    #[error("the program is smaller than a huge page")]
    Small,
    /// Every fork would be charged for pages that it shares.
    #[error("the kernel commits memory strictly (vm.overcommit_memory is 2)")]
    Committed,
    /// A call was refused. Nothing has changed.
    #[error(transparent)]
    Refused(#[from] PagesError),
}

/// Moves the executable's code and constants onto huge pages, where the kernel has them to give, and returns how many bytes
/// those take. To be called early: what a fork has inherited already stays as it was.
///
/// Takes about a millisecond for 2 MiB. Should `mremap` fail after it has taken the old mapping away, the process dies of
/// it here and now.
///
/// # Errors
/// When the kernel has no huge pages to give, or forbids executable memory that is no file's, or counts memory that is shared
/// for everybody who shares it. The program runs on as before.
pub fn onto_huge_pages(_solo: &SingleThreaded) -> Result<usize, TextError> {
    let maps = std::fs::read_to_string("/proc/self/maps").map_err(TextError::List)?;
    if std::fs::read_to_string("/proc/sys/vm/overcommit_memory").is_ok_and(|mode| mode.trim() == "2") {
        return Err(TextError::Committed);
    }
    let parts = parts(&maps, onto_huge_pages as fn(&SingleThreaded) -> _ as usize);
    if parts.is_empty() {
        return Err(TextError::Small);
    }
    // All or nothing: what can fail is done before the first is moved.
    let copies = parts
        .iter()
        // SAFETY: `held` is mapped and readable, as /proc says, and nothing unmaps it: there is one thread, and it is here.
        .map(|part| unsafe { copy(part) })
        .collect::<Result<Vec<_>, _>>()?;
    let bytes = parts.iter().map(|part| part.whole.len()).sum();
    parts
        .iter()
        .zip(copies)
        // SAFETY: these are the copies of the parts, which nobody can write to, and `parts` took none with anything beside.
        .try_for_each(|(part, copy)| unsafe { replace(part, copy) })?;
    Ok(bytes)
}

/// The huge pages that hold only one mapping each, which can be read or run and is of the file that is mapped at address
/// `inside`.
fn parts(maps: &str, inside: usize) -> Vec<Part> {
    let lines: Vec<Mapping<'_>> = maps.lines().filter_map(mapping).collect();
    let own = lines.iter().find(|line| line.range.contains(&inside));
    let Some(file) = own.map(|line| line.file).filter(|(_, inode)| *inode != "0") else { return Vec::new() };
    let rights = |rights: &str| match rights {
        "r--p" => Some(ProtFlags::PROT_READ),
        "r-xp" => Some(ProtFlags::PROT_READ | ProtFlags::PROT_EXEC),
        _ => None,
    };
    let alone = |whole: &Range<usize>, held: &Range<usize>| {
        let inside = |line: &&Mapping<'_>| line.range.start < whole.end && whole.start < line.range.end;
        lines.iter().filter(inside).all(|line| line.range == *held)
    };
    lines
        .iter()
        .filter(|line| line.file == file)
        .filter_map(|line| {
            let (held, rights) = (line.range.clone(), rights(line.rights)?);
            let around =
                held.start - held.start % HUGE_BYTES..held.end.checked_next_multiple_of(HUGE_BYTES)?;
            if alone(&around, &held) {
                let huge_bytes = around.len();
                return Some(Part { held, whole: around, huge_bytes, rights });
            }
            let start = held.start.checked_next_multiple_of(HUGE_BYTES)?;
            let within = start..held.end - held.end % HUGE_BYTES;
            let huge_bytes = within.len();
            (start < within.end).then(|| Part { held: within.clone(), whole: within, huge_bytes, rights })
        })
        .collect()
}

struct Mapping<'a> {
    range: Range<usize>,
    rights: &'a str,
    /// Device and inode; the inode of what is no file's is 0.
    file: (&'a str, &'a str),
}

/// A line of `/proc/PID/maps`, see `proc_pid_maps(5)`.
fn mapping(line: &str) -> Option<Mapping<'_>> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
    let rights = fields.next()?;
    let _offset = fields.next()?;
    let file = (fields.next()?, fields.next()?);
    Some(Mapping { range, rights, file })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
55d000000000-55d000434000 r--p 00000000 fe:00 77 /usr/bin/stockade
55d000633000-55d001711000 r-xp 00433000 fe:00 77 /usr/bin/stockade
55d001910000-55d0019ab000 r--p 01510000 fe:00 77 /usr/bin/stockade
55d001baa000-55d001baf000 rw-p 015aa000 fe:00 77 /usr/bin/stockade
55d001baf000-55d001bb0000 rw-p 00000000 00:00 0
7f15f0a00000-7f15f0a26000 r--p 00000000 fe:00 99 /usr/lib/libc.so.6
7f15f0a26000-7f15f0b7c000 r-xp 00026000 fe:00 99 /usr/lib/libc.so.6
";

    fn wholes(maps: &str, inside: usize) -> Vec<(usize, usize, bool)> {
        let parts = parts(maps, inside);
        let executable = |part: &Part| part.rights.contains(ProtFlags::PROT_EXEC);
        parts.iter().map(|part| (part.whole.start, part.whole.end, executable(part))).collect()
    }

    #[test]
    fn segments_that_have_their_huge_pages_for_themselves_are_moved_whole() {
        let moved = [
            (0x55d0_0000_0000, 0x55d0_0060_0000, false),
            (0x55d0_0060_0000, 0x55d0_0180_0000, true),
            (0x55d0_0180_0000, 0x55d0_01a0_0000, false),
        ];
        assert_eq!(wholes(MAPS, 0x55d0_0070_0000), moved);
    }

    #[test]
    fn segments_that_lie_side_by_side_are_moved_without_their_ends() {
        let maps = MAPS.replace("55d000633000-", "55d000434000-").replace("55d001711000 r", "55d001910000 r");
        let moved = [(0x55d0_0000_0000, 0x55d0_0040_0000, false), (0x55d0_0060_0000, 0x55d0_0180_0000, true)];
        assert_eq!(wholes(&maps, 0x55d0_0070_0000), moved);
    }

    #[test]
    fn memory_that_is_no_files_is_never_taken_for_the_program() {
        assert_eq!(wholes(MAPS, 0x55d0_01ba_f800), []);
        assert_eq!(wholes(MAPS, 0x1000), []);
    }
}
