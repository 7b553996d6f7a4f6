//! Where the daemon's socket is.
//!
//! Owns: the order in which places are tried.
//! Never: connects or listens.

use std::path::{Path, PathBuf};

/// The socket of a daemon that the system runs.
const SYSTEM_SOCKET: &str = "/run/stockade/stockade.sock";

/// Where a user's runtime directory is named.
const RUNTIME_DIRECTORY_VARIABLE: &str = "XDG_RUNTIME_DIR";

/// The socket's path below a user's runtime directory.
const IN_RUNTIME_DIRECTORY: &str = "stockade/stockade.sock";

/// The socket a daemon listens on: `flag` (`--socket`), else the configuration's (`STOCKADE_SOCKET` or the file),
/// else the runtime directory, the user's before the system's.
#[must_use]
pub fn for_daemon(flag: Option<&Path>, configured: Option<&Path>) -> PathBuf {
    first(flag, configured, runtime_directory().as_deref())
}

/// The socket a client connects to: as [`for_daemon`], but when nothing names one and only the system's daemon has
/// a socket, that one. Looks at the file system.
#[must_use]
pub fn for_client(flag: Option<&Path>, configured: Option<&Path>) -> PathBuf {
    let path = first(flag, configured, runtime_directory().as_deref());
    let named = flag.or(configured).is_some();
    let system = Path::new(SYSTEM_SOCKET);
    if !named && !path.exists() && system.exists() { system.to_owned() } else { path }
}

fn first(flag: Option<&Path>, configured: Option<&Path>, runtime: Option<&Path>) -> PathBuf {
    let named = flag.or(configured).map(Path::to_owned);
    named
        .or_else(|| runtime.map(|directory| directory.join(IN_RUNTIME_DIRECTORY)))
        .unwrap_or_else(|| PathBuf::from(SYSTEM_SOCKET))
}

fn runtime_directory() -> Option<PathBuf> {
    // The specification has relative paths ignored.
    std::env::var_os(RUNTIME_DIRECTORY_VARIABLE).map(PathBuf::from).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_named_by_a_flag_wins_over_all_others() {
        let [flag, configured, runtime] = ["/f", "/c", "/r"].map(Path::new);
        let at = |flag, configured, runtime| first(flag, configured, runtime);
        assert_eq!(at(Some(flag), Some(configured), Some(runtime)), Path::new("/f"));
        assert_eq!(at(None, Some(configured), Some(runtime)), Path::new("/c"));
        assert_eq!(at(None, None, Some(runtime)), Path::new("/r/stockade/stockade.sock"));
        assert_eq!(at(None, None, None), Path::new("/run/stockade/stockade.sock"));
    }
}
