//! Granted directories: each opened once, before the wall that is to admit it.
//!
//! Owns: the opening, and the descriptors from there to the guest.
//! Never: follows a symbolic link; goes by a path a second time.
//!
//! Who may grant a directory was decided by its path, and whoever may write above that directory can turn a part of
//! the path into a link to somewhere else at any moment between. So no part of it may be one, and Landlock and WASI
//! both get the directory that was opened, whatever its path leads to by then.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use stockade_wire::job::DirectoryGrant;

/// Why a granted directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// A part of its path is a symbolic link.
    #[error(
        "granted directory {path} cannot be opened: a part of it is a symbolic link; give the resolved path, as \
         `realpath` prints it"
    )]
    Link {
        /// Its path on the host.
        path: String,
    },
    /// It is not there, no directory, or out of the worker's reach.
    #[error(
        "granted directory {path} cannot be opened by the worker: {}; check that it exists and that the worker's \
         user may enter it", .errno.desc()
    )]
    Unreachable {
        /// Its path on the host.
        path: String,
        /// What the kernel said.
        errno: Errno,
    },
}

/// A granted directory.
#[derive(Debug)]
pub struct Grant {
    directory: OwnedFd,
    guest: String,
    writable: bool,
}

/// The granted directories of one job.
#[derive(Debug, Default)]
pub struct Grants(Vec<Grant>);

impl Grants {
    /// Opens `wanted`, as the process is at that moment. Blocks on the file system.
    ///
    /// # Errors
    /// When one of them is not there, cannot be entered, or has a symbolic link in its path.
    pub fn open(wanted: &[DirectoryGrant]) -> Result<Self, GrantError> {
        // RESOLVE_NO_MAGICLINKS is implied by the other; said, so that it does not hang on that.
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let open = |grant: &DirectoryGrant| {
            let path = || grant.host.clone();
            let directory = openat2(AT_FDCWD, grant.host.as_str(), how).map_err(|errno| match errno {
                Errno::ELOOP => GrantError::Link { path: path() },
                errno => GrantError::Unreachable { path: path(), errno },
            })?;
            Ok(Grant { directory, guest: grant.guest.clone(), writable: grant.writable })
        };
        wanted.iter().map(open).collect::<Result<_, _>>().map(Self)
    }

    /// One after the other, in the order they were granted.
    pub fn iter(&self) -> impl Iterator<Item = &Grant> {
        self.0.iter()
    }
}

impl IntoIterator for Grants {
    type Item = Grant;
    type IntoIter = std::vec::IntoIter<Grant>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl Grant {
    /// The directory, open as a place alone (`O_PATH`).
    #[must_use]
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// A name for this very directory, whatever became of the path it was opened by. Good while the grant lives, in
    /// this process alone.
    #[must_use]
    pub fn own_name(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.directory.as_raw_fd()))
    }

    /// The path the guest sees it under.
    #[must_use]
    pub fn guest(&self) -> &str {
        &self.guest
    }

    /// Whether the guest may change what is below.
    #[must_use]
    pub const fn writable(&self) -> bool {
        self.writable
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let place = std::env::temp_dir().join(format!("stockade-grants-{name}-{}", std::process::id()));
        std::fs::create_dir(&place).unwrap();
        place.canonicalize().unwrap()
    }

    fn open(path: &Path) -> Result<Grants, GrantError> {
        let host = path.to_str().unwrap().to_owned();
        Grants::open(&[DirectoryGrant { host, guest: "/data".to_owned(), writable: false }])
    }

    #[test]
    fn directory_behind_a_link_anywhere_in_its_path_is_refused() {
        let place = scratch("links");
        std::fs::create_dir_all(place.join("real/below")).unwrap();
        symlink("real", place.join("link")).unwrap();
        symlink("below", place.join("real/last")).unwrap();
        open(&place.join("real/below")).unwrap();
        let own_root = PathBuf::from("/proc/self/root").join(place.strip_prefix("/").unwrap()).join("real");
        for path in [place.join("link"), place.join("link/below"), place.join("real/last"), own_root] {
            let error = open(&path).unwrap_err();
            assert!(matches!(error, GrantError::Link { .. }), "{error:?}");
            assert!(error.to_string().contains("give the resolved path"), "{error}");
        }
        std::fs::remove_dir_all(place).unwrap();
    }

    #[test]
    fn directory_that_is_none_or_not_there_is_refused_by_its_name() {
        let place = scratch("missing");
        std::fs::write(place.join("file"), "").unwrap();
        for name in ["file", "nothing"] {
            let error = open(&place.join(name)).unwrap_err();
            assert!(matches!(error, GrantError::Unreachable { .. }), "{error:?}");
            assert!(error.to_string().contains(name), "{error}");
        }
        std::fs::remove_dir_all(place).unwrap();
    }

    #[test]
    fn own_name_leads_to_the_directory_that_was_opened_when_its_path_leads_elsewhere() {
        let place = scratch("moved");
        for name in ["granted", "other"] {
            std::fs::create_dir(place.join(name)).unwrap();
            std::fs::write(place.join(name).join("file"), name).unwrap();
        }
        let grants = open(&place.join("granted")).unwrap();
        std::fs::rename(place.join("granted"), place.join("moved")).unwrap();
        symlink("other", place.join("granted")).unwrap();
        let grant = grants.iter().next().unwrap();
        assert_eq!(std::fs::read_to_string(grant.own_name().join("file")).unwrap(), "granted");
        std::fs::remove_dir_all(place).unwrap();
    }
}
