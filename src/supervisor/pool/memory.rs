//! What a worker that stands ready costs.
//!
//! Owns: the estimate of its private memory, from what everybody may see of it.
//! Never: judges it.
//!
//! A worker cannot be looked into (it is not dumpable), so the kernel does not list its mappings to a daemon that is not
//! root. What it shows to everybody is how often the worker faulted: a page of its own comes into being by a fault, and a
//! fault makes at most one. Pages that are read from files fault as well, so this is more than there is: measured on
//! x86-64 534 KiB, of which 304 KiB were private, page tables included.

use std::fs::File;
use std::io::Read;
use std::sync::OnceLock;

/// Room for the whole of either file that is read here, bytes.
const READ_BYTES: u64 = 4 << 10;

/// Field of `/proc/PID/stat` that counts minor faults, from the one after the name, see `proc_pid_stat(5)`.
const MINOR_FAULTS: usize = 7;

/// Key of the page size in the auxiliary vector.
const AT_PAGESZ: u64 = 6;

/// Most private memory that process `pid` has; `None` when it cannot be seen.
pub(super) fn private_bytes_at_most(pid: u32) -> Option<u64> {
    let stat = read(&format!("/proc/{pid}/stat"))?;
    faults(&String::from_utf8_lossy(&stat))?.checked_mul(page_bytes()?)
}

fn faults(stat: &str) -> Option<u64> {
    // The name in parentheses may hold anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(MINOR_FAULTS)?.parse().ok()
}

fn page_bytes() -> Option<u64> {
    static PAGE: OnceLock<Option<u64>> = OnceLock::new();
    *PAGE.get_or_init(|| of_auxiliary(&read("/proc/self/auxv")?))
}

fn of_auxiliary(vector: &[u8]) -> Option<u64> {
    let (pairs, _) = vector.as_chunks::<{ 2 * size_of::<usize>() }>();
    pairs.iter().find_map(|pair| {
        let (key, value) = pair.split_first_chunk::<{ size_of::<usize>() }>()?;
        let value = value.first_chunk()?;
        (usize::from_ne_bytes(*key) as u64 == AT_PAGESZ).then(|| usize::from_ne_bytes(*value) as u64)
    })
}

fn read(path: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(READ_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_found_after_any_name() {
        let stat = "25544 (a) S b) S 25540 25543 25543 0 -1 4194624 136 0 0 0 1 2 0 0";
        assert_eq!(faults(stat), Some(136));
        assert_eq!(faults("25544 (a"), None);
    }

    #[test]
    fn page_of_this_machine_is_a_power_of_two_and_this_process_has_some() {
        let page = page_bytes().unwrap();
        assert!(page.is_power_of_two() && page >= 4096);
        assert!(private_bytes_at_most(std::process::id()).unwrap() > page);
        assert_eq!(private_bytes_at_most(0), None);
        assert_eq!(of_auxiliary(&[]), None);
    }
}
