//! Extended attributes of files.
//!
//! Owns: the one system call that asks whether a file has one.
//! Never: says what an attribute means.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

/// Whether the file at `path` has the attribute `name`, such as `user.delegate`. An attribute the caller has
/// no right to see, or that the filesystem cannot have, counts as absent.
///
/// # Errors
/// When `path` or `name` has a zero byte, or the file cannot be looked at.
pub fn is_set(path: &Path, name: &str) -> io::Result<bool> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let name = CString::new(OsStr::new(name).as_bytes())?;
    // SAFETY: getxattr(2) asks for two zero-terminated strings, which the two `CString`s above are, and for a
    // buffer of the size given: a size of 0 makes it report the length only and touch no buffer.
    let length = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), ptr::null_mut(), 0) };
    if length >= 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENODATA | libc::EOPNOTSUPP | libc::EPERM) => Ok(false),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attribute_never_set_is_absent() {
        assert!(!is_set(Path::new("/"), "user.stockade-never-set").unwrap());
    }

    #[test]
    fn file_that_is_not_there_is_an_error() {
        assert!(is_set(Path::new("/nonexistent/file"), "user.any").is_err());
    }
}
