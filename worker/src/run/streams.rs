//! File streams of WASI 0.2 that need no thread.
//!
//! Owns: reading and writing files as streams, for components.
//! Never: starts a thread, opens a file.
//!
//! They take the place of `wasmtime-wasi`'s, whose non-blocking reads and writes go to a pool of threads; in a
//! worker that may not start one, the kernel would end the guest for it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, InputStream, OutputStream, Pollable, StreamError, StreamResult,
};
use wasmtime_wasi::{WasiView, async_trait};

use super::Host;

/// Most bytes of one read or write.
const CHUNK_BYTES: usize = 64 << 10;

/// The interface whose functions are replaced, as `wasmtime-wasi` names it.
const INTERFACE: &str = "wasi:filesystem/types@0.2.12";

type Opened<T> = wasmtime::Result<(Result<Resource<T>, ErrorCode>,)>;

/// Defines them in place of the ones that are there.
pub(super) fn link(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    let mut types = linker.instance(INTERFACE)?;
    types.func_wrap(
        "[method]descriptor.read-via-stream",
        |mut store: StoreContextMut<'_, Host>, (file, position): (Resource<Descriptor>, u64)| {
            open_reader(store.data_mut(), &file, position)
        },
    )?;
    types.func_wrap(
        "[method]descriptor.write-via-stream",
        |mut store: StoreContextMut<'_, Host>, (file, position): (Resource<Descriptor>, u64)| {
            open_writer(store.data_mut(), &file, Some(position))
        },
    )?;
    types.func_wrap(
        "[method]descriptor.append-via-stream",
        |mut store: StoreContextMut<'_, Host>, (file,): (Resource<Descriptor>,)| {
            open_writer(store.data_mut(), &file, None)
        },
    )
}

fn open_reader(host: &mut Host, file: &Resource<Descriptor>, position: u64) -> Opened<DynInputStream> {
    let table = host.ctx().table;
    let file = match table.get(file)? {
        Descriptor::File(file) => Arc::clone(&file.file),
        Descriptor::Dir(_) => return Ok((Err(ErrorCode::IsDirectory),)),
    };
    let reader: DynInputStream = Box::new(Reader { file, position });
    Ok((Ok(table.push(reader)?),))
}

fn open_writer(
    host: &mut Host,
    file: &Resource<Descriptor>,
    position: Option<u64>,
) -> Opened<DynOutputStream> {
    let table = host.ctx().table;
    let file = match table.get(file)? {
        Descriptor::File(file) if file.perms.write_not_permitted() => {
            return Ok((Err(ErrorCode::NotPermitted),));
        }
        Descriptor::File(file) => Arc::clone(&file.file),
        Descriptor::Dir(_) => return Ok((Err(ErrorCode::BadDescriptor),)),
    };
    let writer: DynOutputStream = Box::new(Writer { file, position });
    Ok((Ok(table.push(writer)?),))
}

struct Reader {
    file: Arc<File>,
    position: u64,
}

#[async_trait]
impl Pollable for Reader {
    async fn ready(&mut self) {}
}

impl InputStream for Reader {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size == 0 {
            return Ok(Bytes::new());
        }
        let mut bytes = BytesMut::zeroed(size.min(CHUNK_BYTES));
        let length = self.file.read_at(&mut bytes, self.position).map_err(failed)?;
        if length == 0 {
            return Err(StreamError::Closed);
        }
        bytes.truncate(length);
        self.position = self.position.saturating_add(length as u64);
        Ok(bytes.freeze())
    }
}

/// Writes at its position, or at the end of the file when it has none.
struct Writer {
    file: Arc<File>,
    position: Option<u64>,
}

#[async_trait]
impl Pollable for Writer {
    async fn ready(&mut self) {}
}

impl OutputStream for Writer {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        match &mut self.position {
            Some(position) => {
                self.file.write_all_at(&bytes, *position).map_err(failed)?;
                *position = position.saturating_add(bytes.len() as u64);
            }
            None => {
                // Not one step with the write: two guests that append to one file may write over each other.
                let end = self.file.metadata().map_err(failed)?.len();
                self.file.write_all_at(&bytes, end).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(CHUNK_BYTES)
    }
}

fn failed(error: std::io::Error) -> StreamError {
    StreamError::LastOperationFailed(error.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use wasmtime::Engine;

    #[test]
    fn replaced_functions_are_ones_that_are_there() {
        let mut linker: Linker<Host> = Linker::new(&Engine::default());
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).unwrap();
        let mut types = linker.instance(INTERFACE).unwrap();
        for name in ["read", "write", "append"] {
            let name = format!("[method]descriptor.{name}-via-stream");
            // Without leave to replace, a name that is taken is an error.
            assert!(types.func_wrap(&name, |_, (): ()| Ok(())).is_err(), "{name}");
        }
        assert!(types.func_wrap("[method]descriptor.not-there", |_, (): ()| Ok(())).is_ok());
    }

    fn file() -> Arc<File> {
        let flags = nix::sys::memfd::MFdFlags::empty();
        let fd: OwnedFd = nix::sys::memfd::memfd_create(c"test", flags).unwrap();
        Arc::new(File::from(fd))
    }

    #[test]
    fn writers_write_in_place_or_at_the_end_and_readers_end_with_the_file() {
        let file = file();
        let mut writer = Writer { file: Arc::clone(&file), position: Some(0) };
        writer.write(Bytes::from_static(b"one ")).unwrap();
        writer.write(Bytes::from_static(b"two")).unwrap();
        let mut appender = Writer { file: Arc::clone(&file), position: None };
        appender.write(Bytes::from_static(b" three")).unwrap();
        let mut reader = Reader { file, position: 4 };
        assert_eq!(reader.read(0).unwrap(), "");
        assert_eq!(reader.read(3).unwrap(), "two");
        assert_eq!(reader.read(100).unwrap(), " three");
        assert!(matches!(reader.read(100), Err(StreamError::Closed)));
    }
}
