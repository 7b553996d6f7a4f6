//! The host-local key that artifacts on disk are authenticated with.
//!
//! Owns: making and reading it, and the code over an artifact.
//! Never: leaves the supervisor; no worker, no zygote, no log sees it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use nix::unistd::{AccessFlags, access};
use sha2::Sha256;

// The block size of SHA-256, which is the key length HMAC takes as it is.
const KEY_BYTES: usize = 64;
/// Length of the code over an artifact, bytes.
pub(super) const CODE_BYTES: usize = 32;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It could not be read or made.
    #[error("cannot {operation} the artifact cache's key {path}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Others may read or replace it.
    #[error(
        "the artifact cache's key {path} must be a file of this user with mode 0600; \
         remove it and it is made again (cached modules are then compiled again), or name another cache.directory"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// It is not a key.
    #[error("the artifact cache's key {path} is not {KEY_BYTES} bytes; remove it and it is made again")]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The operating system gave no randomness.
    #[error("the operating system gave no random bytes for a key")]
    Random(#[source] getrandom::Error),
}

pub(super) struct Key([u8; KEY_BYTES]);

impl Key {
    /// Reads the key, or makes one from the operating system's randomness.
    pub(super) fn open_or_make(path: &Path) -> Result<Self, KeyError> {
        let file = |operation| move |source| KeyError::File { operation, path: path.to_owned(), source };
        match OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(path) {
            Ok(opened) => Self::read(opened, path),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mut key = [0; KEY_BYTES];
                getrandom::fill(&mut key).map_err(KeyError::Random)?;
                Self::publish(&key, path).map_err(file("write"))?;
                // Another process may have been faster; what is there by now is the key.
                let opened = OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(path);
                Self::read(opened.map_err(file("read"))?, path)
            }
            Err(error) => Err(file("read")(error)),
        }
    }

    /// Whether [`Self::open_or_make`] would succeed; makes nothing.
    pub(super) fn examine(path: &Path) -> Result<(), KeyError> {
        let file = |operation, source| KeyError::File { operation, path: path.to_owned(), source };
        match OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(path) {
            Ok(opened) => Self::read(opened, path).map(drop),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let directory = path.parent().unwrap_or(Path::new("/"));
                access(directory, AccessFlags::W_OK | AccessFlags::X_OK)
                    .map_err(|errno| file("write", errno.into()))
            }
            Err(error) => Err(file("read", error)),
        }
    }

    /// Writes a new key so that it is there whole or not at all, and never in place of another.
    fn publish(key: &[u8; KEY_BYTES], path: &Path) -> std::io::Result<()> {
        let unfinished = path.with_extension(format!("new-{}", std::process::id()));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(key)?;
        file.sync_all()?;
        let linked = std::fs::hard_link(&unfinished, path);
        std::fs::remove_file(&unfinished)?;
        match linked {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn read(mut file: File, path: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::File { operation: "read", path: path.to_owned(), source };
        let about = file.metadata().map_err(failed)?;
        let ours = about.uid() == nix::unistd::geteuid().as_raw();
        if !about.is_file() || !ours || about.mode() & 0o077 != 0 {
            return Err(KeyError::Exposed { path: path.to_owned() });
        }
        let mut key = [0; KEY_BYTES];
        if about.len() != KEY_BYTES as u64 {
            return Err(KeyError::Malformed { path: path.to_owned() });
        }
        file.read_exact(&mut key).map_err(failed)?;
        Ok(Self(key))
    }

    /// The code over `parts`, each with its length before it so that no two lists look the same.
    pub(super) fn code(&self, parts: &[&[u8]]) -> [u8; CODE_BYTES] {
        self.mac(parts).finalize().into_bytes().into()
    }

    /// Begins to verify a code over `parts` and a last one of `last_bytes` that comes piece by piece.
    pub(super) fn verifier(&self, parts: &[&[u8]], last_bytes: u64) -> Verifier {
        let mut mac = self.mac(parts);
        mac.update(&last_bytes.to_le_bytes());
        Verifier(mac)
    }

    fn mac(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new(&self.0.into());
        for part in parts {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac
    }
}

/// What is being verified.
pub(super) struct Verifier(Hmac<Sha256>);

impl Verifier {
    /// The next piece of the last part.
    pub(super) fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// Whether `code` is the one over all of it; takes the same time whatever it is.
    pub(super) fn verifies(self, code: &[u8]) -> bool {
        self.0.verify_slice(code).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn verifies(key: &Key, first: &[u8], pieces: &[&[u8]], code: &[u8]) -> bool {
        let last_bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        let mut verifier = key.verifier(&[first], last_bytes);
        pieces.iter().for_each(|piece| verifier.update(piece));
        verifier.verifies(code)
    }

    #[test]
    fn key_made_once_is_read_the_next_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let first = Key::open_or_make(&path).unwrap();
        let second = Key::open_or_make(&path).unwrap();
        assert!(verifies(&second, b"a", &[b"b"], &first.code(&[b"a", b"b"])));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn key_others_may_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        Key::open_or_make(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Key::open_or_make(&path), Err(KeyError::Exposed { .. })));
    }

    #[test]
    fn key_of_another_length_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, b"short").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(Key::open_or_make(&path), Err(KeyError::Malformed { .. })));
    }

    #[test]
    fn code_depends_on_where_parts_end() {
        let directory = tempfile::tempdir().unwrap();
        let key = Key::open_or_make(&directory.path().join("key")).unwrap();
        assert!(!verifies(&key, b"a", &[b"bc"], &key.code(&[b"ab", b"c"])));
        assert!(verifies(&key, b"a", &[b"b", b"", b"c"], &key.code(&[b"a", b"bc"])));
    }
}
