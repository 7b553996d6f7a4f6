//! A program that has put itself on huge pages is the same program.
//!
//! In a process of one thread that ends with it: what it does to the process cannot be undone.

#![expect(clippy::unwrap_used, reason = "a test, as which clippy does not know it without the harness")]

use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::os::unix::fs::FileExt;

use stockade_sys::own_pages::PagesError;
use stockade_sys::solo::SingleThreaded;
use stockade_sys::text::{TextError, onto_huge_pages};

const TEST: &str = "program_that_is_put_on_huge_pages_has_the_same_bytes_at_the_same_addresses";

/// In place of the test harness, whose process has threads. Says what it would say.
fn main() {
    let before = of_this_program();
    assert!(before.iter().any(|(_, _, rights)| rights == "r-xp"), "{before:?}");
    let held = hash(&before);
    match onto_huge_pages(&SingleThreaded::probe().unwrap()) {
        Err(TextError::Refused(PagesError { call: "madvise(MADV_COLLAPSE)", .. })) => {
            println!("successes:\n\n---- {TEST} stdout ----\nnot run: huge pages\n");
        }
        moved => same_as(&before, held, moved.unwrap()),
    }
    println!("test {TEST} ... ok\n");
    println!("test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
}

/// This, too, runs from there.
fn same_as(before: &[(u64, u64, String)], held: u64, moved: usize) {
    assert!(moved >= 2 << 20 && moved.is_multiple_of(2 << 20), "{moved}");
    assert_eq!(hash(before), held);
    let left: Vec<_> = of_this_program().into_iter().map(|(_, _, rights)| rights).collect();
    assert!(left.iter().all(|rights| rights == "rw-p"), "{left:?}");
    for line in maps().lines() {
        let (range, rights) = line.split_once(' ').unwrap();
        assert!(!rights.starts_with("rwx"), "{line}");
        let (start, end) = bounds(range);
        if let Some((_, _, was)) = before.iter().find(|(from, to, _)| start <= *from && *to <= end) {
            assert!(rights.starts_with(was.as_str()), "{line}");
        }
    }
}

fn maps() -> String {
    std::fs::read_to_string("/proc/self/maps").unwrap()
}

fn bounds(range: &str) -> (u64, u64) {
    let (start, end) = range.split_once('-').unwrap();
    (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap())
}

/// The mappings of this executable: where, and with which rights.
fn of_this_program() -> Vec<(u64, u64, String)> {
    let program = std::env::current_exe().unwrap();
    let program = program.to_str().unwrap();
    let of = |line: &str| {
        let mut fields = line.split(' ');
        let (start, end) = bounds(fields.next().unwrap());
        (start, end, fields.next().unwrap().to_owned())
    };
    maps().lines().filter(|line| line.ends_with(program)).map(of).collect()
}

/// Of what lies at the addresses of what could not be written.
fn hash(ranges: &[(u64, u64, String)]) -> u64 {
    let memory = File::open("/proc/self/mem").unwrap();
    let mut hasher = DefaultHasher::new();
    for (start, end, _) in ranges.iter().filter(|(_, _, rights)| rights != "rw-p") {
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        memory.read_exact_at(&mut bytes, *start).unwrap();
        hasher.write(&bytes);
    }
    hasher.finish()
}
