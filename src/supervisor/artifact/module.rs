//! A module on its way to a compiler.
//!
//! Owns: where its bytes are, and their digest.
//! Never: parses them, maps them, copies those that are in a file already.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use stockade_sys::memfd;
use stockade_wire::job::Digest;

use crate::sealed::SealedFile;
use crate::supervisor::module_kind::{LOOKED_AT_BYTES_MAX, is_script};

/// Modules above this many bytes are hashed on another thread: SHA-256 takes about a millisecond for them.
const HASH_INLINE_BYTES: u64 = 512 << 10;

/// What is read of a file at once to be hashed, bytes.
const HASH_PART_BYTES: usize = 64 << 10;

/// Bytes by which binary modules and text are told apart.
const FIRST_BYTES: usize = 4;

/// A module as it was submitted.
#[derive(Debug)]
pub(crate) enum Module {
    /// In the frame.
    Bytes(Vec<u8>),
    /// Beside it.
    File(SealedFile),
}

impl Module {
    /// Its length.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(file) => file.bytes(),
        }
    }

    /// SHA-256. Of a large one on another thread.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(crate) async fn digest(self: &Arc<Self>) -> io::Result<Digest> {
        if self.bytes() <= HASH_INLINE_BYTES {
            return self.hash();
        }
        let shared = Arc::clone(self);
        tokio::task::spawn_blocking(move || shared.hash()).await.map_err(io::Error::other)?
    }

    fn hash(&self) -> io::Result<Digest> {
        let file = match self {
            Self::Bytes(bytes) => return Ok(Sha256::digest(bytes).into()),
            Self::File(file) => file,
        };
        let mut hash = Sha256::new();
        let mut part = vec![0; HASH_PART_BYTES];
        let mut offset = 0;
        loop {
            let length = file.read_at(&mut part, offset)?;
            if length == 0 {
                return Ok(hash.finalize().into());
            }
            hash.update(part.get(..length).unwrap_or_default());
            offset += length as u64;
        }
    }

    /// Whether it looks like WebAssembly text: it does not begin as binary modules and components do.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(crate) fn is_text(&self) -> io::Result<bool> {
        let mut first = [0; FIRST_BYTES];
        let length = match self {
            Self::Bytes(bytes) => io::Read::read(&mut bytes.as_slice(), &mut first)?,
            Self::File(file) => file.read_at(&mut first, 0)?,
        };
        let first = first.get(..length).unwrap_or_default();
        Ok(first != b"\0asm" && first != b"\x7fELF")
    }

    /// Whether it is a script: text, and not WebAssembly text.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(crate) fn is_script(&self) -> io::Result<bool> {
        match self {
            Self::Bytes(bytes) => Ok(is_script(bytes)),
            Self::File(file) => {
                let mut start = vec![0; LOOKED_AT_BYTES_MAX + 1];
                let length = file.read_at(&mut start, 0)?;
                Ok(is_script(start.get(..length).unwrap_or_default()))
            }
        }
    }

    /// A file that holds it, to which nobody can write, positioned at its start.
    ///
    /// # Errors
    /// When the kernel has no descriptor or memory to give.
    pub(crate) fn file(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Bytes(bytes) => memfd::unwritable("stockade-module", bytes),
            Self::File(file) => file.reopen(),
        }
    }

    /// Its bytes, for the developer's mode, which compiles in this process.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(crate) fn read(&self) -> io::Result<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.clone()),
            Self::File(file) => file.read(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(content: &[u8]) -> [Arc<Module>; 2] {
        let file = SealedFile::holding("test", content).unwrap();
        [Module::Bytes(content.to_vec()), Module::File(file)].map(Arc::new)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn module_in_a_file_is_the_same_as_in_memory() {
        let inline = usize::try_from(HASH_INLINE_BYTES).unwrap();
        for length in [0, 1, HASH_PART_BYTES - 1, HASH_PART_BYTES, HASH_PART_BYTES + 1, inline, inline + 1] {
            let content: Vec<u8> = (0..251).cycle().take(length).collect();
            for module in both(&content) {
                assert_eq!(module.bytes(), length as u64);
                let expected: Digest = Sha256::digest(&content).into();
                assert_eq!(module.digest().await.unwrap(), expected, "{length} bytes");
                assert_eq!(module.read().unwrap(), content);
                let mut read = Vec::new();
                io::Read::read_to_end(&mut std::fs::File::from(module.file().unwrap()), &mut read).unwrap();
                assert_eq!(read, content);
            }
        }
    }

    #[test]
    fn script_in_a_file_is_one_as_in_memory() {
        for (content, script) in
            [(&b"1 + 1"[..], true), (b"(module)", false), (b"\0asm", false), (b"\xff", false)]
        {
            for module in both(content) {
                assert_eq!(module.is_script().unwrap(), script, "{content:?}");
            }
        }
        let long = [&[b' '; LOOKED_AT_BYTES_MAX - 1][..], "é".as_bytes(), b"1"].concat();
        let long = [&b"1"[..], &long[2..]].concat();
        assert!(both(&long).iter().all(|module| module.is_script().unwrap()));
    }

    #[test]
    fn text_is_whatever_does_not_begin_as_a_binary_does() {
        let cases: [(&[u8], bool); 6] = [
            (b"\0asm\x01\0\0\0", false),
            (b"\0asm", false),
            (b"\x7fELF\x02", false),
            (b"\0as", true),
            (b"(module)", true),
            (b"", true),
        ];
        for (content, text) in cases {
            for module in both(content) {
                assert_eq!(module.is_text().unwrap(), text, "{content:?}");
            }
        }
    }
}
