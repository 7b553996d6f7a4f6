//! Artifacts kept on disk between starts.
//!
//! Owns: one directory of authenticated files.
//! Never: gives out bytes whose code does not verify under the host-local key, follows a link, grows past its
//! bound. Blocks; called from blocking threads.
//!
//! A file is `magic`, the code, then the artifact. The code is over the engine's fingerprint, the file's
//! name (the module's digest and the metering) and the artifact, so that a file cannot stand in for another.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::unistd::{AccessFlags, access};
use stockade_sys::memfd;

use super::Key as ArtifactKey;
use super::key::{CODE_BYTES, Key, KeyError};

const MAGIC: &[u8; 16] = b"stockade-cache-1";
/// Before an artifact in its file: the magic and the code, bytes.
const HEADER_BYTES: usize = MAGIC.len() + CODE_BYTES;
/// What of an artifact is read, hashed and copied at once, bytes: a processor's own cache holds it.
const PIECE_BYTES: usize = 128 << 10;
const KEY_FILE: &str = "key";
/// Most files looked at when making room; far above what the bound on bytes leaves room for in practice.
const FILES_MAX: usize = 100_000;

/// Why the cache on disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A file or directory operation failed.
    #[error(
        "cannot {operation} {path} in the artifact cache; set cache.directory to a place that can be written"
    )]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A file is not one that this host wrote, or not for this module and engine.
    #[error("{path} in the artifact cache is not authentic")]
    NotAuthentic {
        /// The file.
        path: PathBuf,
    },
}

pub(super) struct Disk {
    directory: PathBuf,
    fingerprint: String,
    key: Key,
    bytes_max: u64,
}

impl Disk {
    pub(super) fn open(
        root: &Path,
        key_file: Option<&Path>,
        fingerprint: &str,
        bytes_max: u64,
    ) -> Result<Self, DiskError> {
        let directory = root.join(fingerprint);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(failed("create", &directory))?;
        let key = Key::open_or_make(key_file.unwrap_or(&root.join(KEY_FILE)))?;
        Ok(Self { directory, fingerprint: fingerprint.to_owned(), key, bytes_max })
    }

    /// Whether [`Self::open`] would succeed, and whether the directory is there already; makes nothing.
    pub(super) fn examine(root: &Path, key_file: Option<&Path>) -> Result<bool, DiskError> {
        let there = root.try_exists().map_err(failed("create", root))?;
        // What is not there yet is made below the nearest directory that is.
        let nearest = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        if !nearest.is_dir() {
            return Err(failed("create", root)(std::io::ErrorKind::NotADirectory.into()));
        }
        access(nearest, AccessFlags::W_OK | AccessFlags::X_OK)
            .map_err(|errno| failed(if there { "write to" } else { "create" }, root)(errno.into()))?;
        match key_file {
            Some(key_file) => Key::examine(key_file)?,
            None if there => Key::examine(&root.join(KEY_FILE))?,
            None => {}
        }
        Ok(there)
    }

    pub(super) fn has(&self, key: ArtifactKey) -> bool {
        self.path(key).is_file()
    }

    /// The artifact in a fresh, unsealed file in memory; `None` when there is none.
    pub(super) fn load(&self, key: ArtifactKey) -> Result<Option<File>, DiskError> {
        let path = self.path(key);
        let opened = OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(&path);
        let mut file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("open", &path)(error)),
        };
        let Some(copy) = self.verified(key, &mut file, &path)? else {
            let _ = std::fs::remove_file(&path);
            return Err(DiskError::NotAuthentic { path });
        };
        // For the order in which files are given up; a cache that cannot note its use still works.
        let _ = file.set_modified(SystemTime::now());
        Ok(Some(copy))
    }

    /// A copy of what is in `file`, if that is authentic. Each piece is hashed and copied while the processor has it at hand;
    /// the copy is nobody's before all of it is.
    fn verified(&self, key: ArtifactKey, file: &mut File, path: &Path) -> Result<Option<File>, DiskError> {
        let bytes = file.metadata().map_err(failed("read", path))?.len().min(self.bytes_max);
        let Some(body_bytes) = bytes.checked_sub(HEADER_BYTES as u64) else { return Ok(None) };
        let mut header = [0; HEADER_BYTES];
        file.read_exact(&mut header).map_err(failed("read", path))?;
        let Some(code) = header.strip_prefix(MAGIC) else { return Ok(None) };
        let name = name(key);
        let mut verifier = self.key.verifier(&[self.fingerprint.as_bytes(), name.as_bytes()], body_bytes);
        let mut copy = memfd::create("stockade-artifact").map_err(failed("copy", path))?;
        let (mut left, mut room) = (body_bytes, vec![0; PIECE_BYTES]);
        while left > 0 {
            let most = room.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let piece = room.get_mut(..most).unwrap_or_default();
            file.read_exact(piece).map_err(failed("read", path))?;
            verifier.update(piece);
            copy.write_all(piece).map_err(failed("copy", path))?;
            left -= piece.len() as u64;
        }
        Ok(verifier.verifies(code).then_some(copy))
    }

    /// Writes an artifact so that it is there whole or not at all, and makes room for it.
    pub(super) fn store(&self, key: ArtifactKey, artifact: &File) -> Result<(), DiskError> {
        let path = self.path(key);
        let mut body = Vec::new();
        let mut artifact = artifact;
        artifact.rewind().map_err(failed("read", &path))?;
        artifact.read_to_end(&mut body).map_err(failed("read", &path))?;
        let code = self.key.code(&[self.fingerprint.as_bytes(), name(key).as_bytes(), &body]);
        let unfinished = self.directory.join(format!("{}.new-{}", name(key), std::process::id()));
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .custom_flags(nix::libc::O_NOFOLLOW)
                .open(&unfinished)?;
            for part in [MAGIC.as_slice(), &code, &body] {
                file.write_all(part)?;
            }
            std::fs::rename(&unfinished, &path)
        };
        write().inspect_err(|_| drop(std::fs::remove_file(&unfinished))).map_err(failed("write", &path))?;
        self.make_room();
        Ok(())
    }

    /// Removes the files longest unused until the rest is within the bound.
    fn make_room(&self) {
        let Ok(entries) = std::fs::read_dir(&self.directory) else { return };
        let mut files: Vec<(SystemTime, u64, PathBuf)> = entries
            .take(FILES_MAX)
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let about = entry.metadata().ok().filter(std::fs::Metadata::is_file)?;
                Some((about.modified().ok()?, about.len(), entry.path()))
            })
            .collect();
        files.sort();
        let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in files {
            if total <= self.bytes_max {
                return;
            }
            if std::fs::remove_file(path).is_ok() {
                total -= bytes;
            }
        }
    }

    fn path(&self, key: ArtifactKey) -> PathBuf {
        self.directory.join(name(key))
    }
}

fn name(key: ArtifactKey) -> String {
    use std::fmt::Write as _;
    let mut name = String::with_capacity(80);
    for byte in key.digest {
        let _ = write!(name, "{byte:02x}");
    }
    name.push_str(if key.metered { ".metered" } else { ".plain" });
    name
}

fn failed<'p>(operation: &'static str, path: &'p Path) -> impl Fn(std::io::Error) -> DiskError + 'p {
    move |source| DiskError::File { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const FINGERPRINT: &str = "0123456789abcdef";

    fn key(n: u8) -> ArtifactKey {
        ArtifactKey { digest: [n; 32], metered: false }
    }

    fn artifact(bytes: &[u8]) -> File {
        let mut file = memfd::create("test").unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn contents(mut file: File) -> Vec<u8> {
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn artifact_stored_is_loaded_after_reopening() {
        let root = tempfile::tempdir().unwrap();
        let open = || Disk::open(root.path(), None, FINGERPRINT, 1 << 20).unwrap();
        open().store(key(1), &artifact(b"code")).unwrap();
        assert_eq!(contents(open().load(key(1)).unwrap().unwrap()), b"code");
        assert!(open().load(key(2)).unwrap().is_none());
    }

    #[test]
    fn artifact_of_many_pieces_is_loaded_whole_and_one_byte_changed_anywhere_in_it_refused() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::open(root.path(), None, FINGERPRINT, 1 << 20).unwrap();
        for length in [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 7] {
            let body: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            disk.store(key(1), &artifact(&body)).unwrap();
            assert_eq!(contents(disk.load(key(1)).unwrap().unwrap()), body, "{length}");
            let path = disk.path(key(1));
            let whole = std::fs::read(&path).unwrap();
            let pieces = (HEADER_BYTES..whole.len()).step_by(PIECE_BYTES);
            for at in pieces.chain([MAGIC.len(), HEADER_BYTES - 1, whole.len() - 1]) {
                let mut spoiled = whole.clone();
                spoiled[at] ^= 1;
                std::fs::write(&path, spoiled).unwrap();
                assert!(matches!(disk.load(key(1)), Err(DiskError::NotAuthentic { .. })), "{length} {at}");
            }
        }
    }

    #[test]
    fn artifact_changed_swapped_or_cut_is_refused_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::open(root.path(), None, FINGERPRINT, 1 << 20).unwrap();
        let metered = ArtifactKey { metered: true, ..key(1) };
        for spoil in [
            |path: &Path, bytes: Vec<u8>| {
                let mut bytes = bytes;
                *bytes.last_mut().unwrap() ^= 1;
                std::fs::write(path, bytes).unwrap();
            },
            |path: &Path, bytes: Vec<u8>| std::fs::write(path, &bytes[..bytes.len() - 1]).unwrap(),
            |path: &Path, _| std::fs::write(path, b"stock").unwrap(),
        ] {
            disk.store(key(1), &artifact(b"code")).unwrap();
            let path = disk.path(key(1));
            spoil(&path, std::fs::read(&path).unwrap());
            assert!(matches!(disk.load(key(1)), Err(DiskError::NotAuthentic { .. })));
            assert!(!disk.has(key(1)));
        }
        disk.store(key(1), &artifact(b"code")).unwrap();
        for other in [key(2), metered] {
            std::fs::copy(disk.path(key(1)), disk.path(other)).unwrap();
            assert!(matches!(disk.load(other), Err(DiskError::NotAuthentic { .. })));
        }
    }

    #[test]
    fn artifact_of_another_engine_or_key_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::open(root.path(), None, FINGERPRINT, 1 << 20).unwrap();
        disk.store(key(1), &artifact(b"code")).unwrap();
        let newer = Disk::open(root.path(), None, "fedcba9876543210", 1 << 20).unwrap();
        std::fs::copy(disk.path(key(1)), newer.path(key(1))).unwrap();
        assert!(matches!(newer.load(key(1)), Err(DiskError::NotAuthentic { .. })));
        std::fs::remove_file(root.path().join(KEY_FILE)).unwrap();
        let rekeyed = Disk::open(root.path(), None, FINGERPRINT, 1 << 20).unwrap();
        assert!(matches!(rekeyed.load(key(1)), Err(DiskError::NotAuthentic { .. })));
    }

    #[test]
    fn examination_says_what_opening_would_and_makes_nothing() {
        let home = tempfile::tempdir().unwrap();
        let agrees = |root: &Path, key_file: Option<&Path>| {
            let entries = || std::fs::read_dir(home.path()).unwrap().count();
            let before = entries();
            let examined = Disk::examine(root, key_file).map(drop).map_err(|error| error.to_string());
            assert_eq!(entries(), before, "{}", root.display());
            let opened = Disk::open(root, key_file, FINGERPRINT, 1).map(drop);
            assert_eq!(examined.is_ok(), opened.is_ok(), "{}: {examined:?}", root.display());
            examined.is_ok()
        };
        assert!(agrees(&home.path().join("new/deeper"), None));
        assert!(agrees(&home.path().join("new/deeper"), None), "there by now");
        let key = home.path().join("key");
        assert!(agrees(&home.path().join("other"), Some(&key)));
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(!agrees(&home.path().join("other"), Some(&key)), "others may read the key");
        std::fs::write(home.path().join("new/deeper/key"), b"short").unwrap();
        assert!(!agrees(&home.path().join("new/deeper"), None), "no key");
        assert!(!agrees(&home.path().join("third"), Some(&home.path().join("none/key"))), "no place for one");
        assert!(!agrees(&key, None), "a file");
        assert!(!agrees(&key.join("below"), None), "below a file");
    }

    #[test]
    fn artifacts_longest_unused_make_room() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::open(root.path(), None, FINGERPRINT, 3000).unwrap();
        for n in 0..5 {
            disk.store(key(n), &artifact(&[n; 1000])).unwrap();
        }
        assert!(disk.has(key(4)));
        let kept = (0..5).filter(|n| disk.has(key(*n))).count();
        assert_eq!(kept, 2, "two files of 1,064 bytes each fit in 3,000");
    }
}
