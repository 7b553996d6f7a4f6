//! Small programs that succeed without a wall and fail behind it.
//!
//! Owns: what each tries, and telling how it went: `ok`, an errno's name, or a value.
//! Never: knows whether it is jailed.
//!
//! A probe takes its arguments after colons: `read:/etc/passwd`.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, readlinkat, renameat};
use nix::sys::prctl;
use nix::sys::stat::{Mode, mkdirat};
use stockade_sys::prctl::set_mdwe;

/// Runs the probe `name`; `None` when there is none of that name.
#[must_use]
pub fn run(name: &str) -> Option<String> {
    let (verb, object) = name.split_once(':').unwrap_or((name, ""));
    let outcome = match verb {
        "read" => read(object),
        "write" => write(object),
        "make-directory" => {
            mkdirat(AT_FDCWD, object, Mode::S_IRWXU).map(|()| "ok".to_owned()).map_err(Into::into)
        }
        "rename" => {
            let (from, to) = object.split_once(':')?;
            renameat(AT_FDCWD, from, AT_FDCWD, to).map(|()| "ok".to_owned()).map_err(Into::into)
        }
        "grow-file" => grow_file(object),
        "open-many" => open_many(object),
        "allocate" => allocate(object),
        "namespace" => readlinkat(AT_FDCWD, format!("/proc/self/ns/{object}").as_str())
            .map(|link| link.display().to_string())
            .map_err(Into::into),
        "map-executable" => {
            stockade_sys::probe::map_executable().map(|()| "ok".to_owned()).map_err(Into::into)
        }
        "make-executable" => {
            stockade_sys::probe::make_executable().map(|()| "ok".to_owned()).map_err(Into::into)
        }
        // By its own layer, on a process that could otherwise do it.
        "make-executable-with-mdwe" => set_mdwe()
            .and_then(|()| stockade_sys::probe::make_executable())
            .map(|()| "ok".to_owned())
            .map_err(Into::into),
        "dumpable" => prctl::get_dumpable().map(|on| on.to_string()).map_err(Into::into),
        "no-new-privs" => prctl::get_no_new_privs().map(|on| on.to_string()).map_err(Into::into),
        "threads" => {
            stockade_sys::solo::threads().map(|count| count.to_string()).map_err(std::io::Error::other)
        }
        "open-fds" => Ok(format!("{:?}", stockade_sys::fds::open_below(64))),
        "ids" => Ok(format!("{}:{}", nix::unistd::getuid(), nix::unistd::getgid())),
        _ => return None,
    };
    Some(outcome.unwrap_or_else(|error| words(&error)))
}

fn words(error: &std::io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |number| format!("{:?}", Errno::from_raw(number)))
}

fn read(path: &str) -> std::io::Result<String> {
    let mut byte = [0];
    File::open(path)?.read(&mut byte).map(|_| "ok".to_owned())
}

fn write(path: &str) -> std::io::Result<String> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?
        .write_all(b"x")
        .map(|()| "ok".to_owned())
}

/// `BYTES:PATH`
fn grow_file(object: &str) -> std::io::Result<String> {
    let (bytes, path) = object.split_once(':').ok_or(std::io::ErrorKind::InvalidInput)?;
    let bytes: u64 = bytes.parse().map_err(std::io::Error::other)?;
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?
        .set_len(bytes)
        .map(|()| "ok".to_owned())
}

/// `COUNT:PATH`
fn open_many(object: &str) -> std::io::Result<String> {
    let (count, path) = object.split_once(':').ok_or(std::io::ErrorKind::InvalidInput)?;
    let count: usize = count.parse().map_err(std::io::Error::other)?;
    let files = (0..count).map(|_| File::open(path)).collect::<Result<Vec<_>, _>>()?;
    Ok(format!("{} open", files.len()))
}

/// Private writable memory, `BYTES`.
fn allocate(object: &str) -> std::io::Result<String> {
    let bytes: usize = object.parse().map_err(std::io::Error::other)?;
    let mut block: Vec<u8> = Vec::new();
    block.try_reserve_exact(bytes).map_err(|_| Errno::ENOMEM)?;
    Ok("ok".to_owned())
}
