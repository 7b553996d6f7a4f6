//! A listening socket that this process was started with, by systemd or another who speaks its protocol
//! (sd_listen_fds(3)).
//!
//! Owns: what `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES` say, and the descriptors they name.
//! Never: listens by itself, believes that a descriptor is what it should be.
//!
//! Whoever made the socket keeps it: what connects while the daemon is away or starts again waits in its queue.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{SockType, getsockopt, sockopt};
use stockade_sys::fds::{self, FdsError};

use super::socket::Listener;

/// The first descriptor that is handed over (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;

/// Most descriptors that are taken: more than this means that the environment is not what it should be.
const DESCRIPTORS_MAX: usize = 16;

/// The name of one that nobody named.
const UNNAMED: &str = "unknown";

/// Why what this process was started with cannot be served on.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// A variable says nothing that can be meant.
    #[error(
        "{variable} is {value:?} in the environment, which is {why}: unset LISTEN_PID, LISTEN_FDS and \\
             LISTEN_FDNAMES, or start this as a socket unit does"
    )]
    Environment {
        /// Its name.
        variable: &'static str,
        /// What it says.
        value: OsString,
        /// What is wrong with that.
        why: &'static str,
    },
    /// A descriptor that was announced is not there.
    #[error(
        "LISTEN_FDS announces a descriptor that this process was not started with: start this as a socket unit does"
    )]
    NotHanded(#[source] FdsError),
    /// Several sockets; there is one to serve on.
    #[error("{} sockets were handed over ({}), and one is served on: leave one ListenStream= in the socket unit",
            .0.len(), .0.join(", "))]
    Several(Vec<String>),
    /// It is no socket to serve on.
    #[error(
        "what was handed over as {name:?} is {what}, not a Unix stream socket that is listened on: correct \\
             ListenStream= in the socket unit"
    )]
    WrongKind {
        /// Its name.
        name: String,
        /// What it is.
        what: &'static str,
    },
    /// It is not where the configuration says.
    #[error("the socket handed over is {}, and the configuration says {}: correct ListenStream= in the socket \\
             unit, or take `socket` out of the configuration", .handed.display(), .configured.display())]
    Elsewhere {
        /// Where it is.
        handed: PathBuf,
        /// Where it was to be.
        configured: PathBuf,
    },
    /// A system call on it failed.
    #[error("the socket handed over cannot be used")]
    System(#[source] io::Error),
}

/// A descriptor that this process was started with.
#[derive(Debug)]
pub struct Handed {
    /// Its name: the socket unit's, or what `FileDescriptorName=` gives it.
    pub name: String,
    /// It; close-on-exec from now on.
    pub fd: OwnedFd,
}

/// Takes over every descriptor that this process was started with, as the environment names them; none where that is
/// about another process. To be called once, before children are started: they are not to inherit them.
///
/// # Errors
/// When the environment makes no sense, or names descriptors that are not there.
pub fn handed() -> Result<Vec<Handed>, ActivationError> {
    let variable = |name| std::env::var_os(name);
    let (pid, count, names) = (variable("LISTEN_PID"), variable("LISTEN_FDS"), variable("LISTEN_FDNAMES"));
    let names = announced(std::process::id(), pid.as_deref(), count.as_deref(), names.as_deref())?;
    let taken = (FIRST..).zip(names).map(|(number, name)| {
        Ok(Handed { name, fd: fds::take_inherited(number).map_err(ActivationError::NotHanded)? })
    });
    taken.collect()
}

/// The names of the descriptors that are announced to the process `own`, in their order.
fn announced(
    own: u32,
    pid: Option<&OsStr>,
    count: Option<&OsStr>,
    names: Option<&OsStr>,
) -> Result<Vec<String>, ActivationError> {
    let wrong =
        |variable, value: &OsStr, why| ActivationError::Environment { variable, value: value.into(), why };
    let Some(count) = count else { return Ok(Vec::new()) };
    let Some(pid) = pid else { return Err(wrong("LISTEN_FDS", count, "for nobody without LISTEN_PID")) };
    match number(pid) {
        None => return Err(wrong("LISTEN_PID", pid, "not a process id")),
        // What an ancestor was started with: it is not for us, and was not handed on.
        Some(other) if other != own => return Ok(Vec::new()),
        Some(_) => {}
    }
    let count_is = |why| wrong("LISTEN_FDS", count, why);
    let wanted = number(count).ok_or_else(|| count_is("not a number"))?;
    let wanted = usize::try_from(wanted).map_err(|_| count_is("too many"))?;
    if wanted > DESCRIPTORS_MAX {
        return Err(count_is("too many"));
    }
    let Some(names) = names else { return Ok(vec![UNNAMED.to_owned(); wanted]) };
    let list: Vec<String> = match names.to_str() {
        Some("") if wanted == 0 => Vec::new(),
        Some(text) => text.split(':').map(str::to_owned).collect(),
        None => return Err(wrong("LISTEN_FDNAMES", names, "not text")),
    };
    if list.len() != wanted {
        return Err(wrong("LISTEN_FDNAMES", names, "not a name for each of LISTEN_FDS"));
    }
    Ok(list)
}

/// A number as these variables have it: digits alone.
fn number(text: &OsStr) -> Option<u32> {
    text.to_str().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
}

impl Listener {
    /// The one socket among what was [`handed`] to this process, after a look at what it is; `None` where nothing
    /// was. `configured` is where it has to be, if the configuration says so.
    ///
    /// # Errors
    /// When there are several, or it is not a Unix stream socket that is listened on at a path, or at another.
    pub fn among(handed: Vec<Handed>, configured: Option<&Path>) -> Result<Option<Self>, ActivationError> {
        let mut handed = handed.into_iter();
        let Some(Handed { name, fd }) = handed.next() else { return Ok(None) };
        if handed.len() > 0 {
            return Err(ActivationError::Several(
                std::iter::once(name).chain(handed.map(|one| one.name)).collect(),
            ));
        }
        let (socket, path) = listening(&name, fd)?;
        match configured {
            Some(configured) if configured != path => {
                Err(ActivationError::Elsewhere { handed: path, configured: configured.into() })
            }
            Some(_) | None => Ok(Some(Self::handed(socket, path))),
        }
    }
}

/// A Unix stream socket that is listened on, and its path; everything else is an error.
fn listening(name: &str, fd: OwnedFd) -> Result<(UnixListener, PathBuf), ActivationError> {
    let wrong = |what| ActivationError::WrongKind { name: name.to_owned(), what };
    let failed = |errno: Errno| ActivationError::System(errno.into());
    match getsockopt(&fd, sockopt::SockType) {
        Ok(SockType::Stream) => {}
        Ok(_) => return Err(wrong("a socket of another type")),
        Err(Errno::ENOTSOCK) => return Err(wrong("no socket")),
        Err(errno) => return Err(failed(errno)),
    }
    if !getsockopt(&fd, sockopt::AcceptConn).map_err(failed)? {
        return Err(wrong("a socket that is not listened on (Accept=yes)"));
    }
    let socket = UnixListener::from(fd);
    let address = match socket.local_addr() {
        Ok(address) => address,
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            return Err(wrong("a socket of another family"));
        }
        Err(error) => return Err(ActivationError::System(error)),
    };
    let Some(path) = address.as_pathname() else { return Err(wrong("a socket without a path")) };
    socket.set_nonblocking(true).map_err(ActivationError::System)?;
    Ok((socket, path.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::TcpListener;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};

    use tempfile::TempDir;

    use super::*;

    fn names(pid: Option<&str>, count: Option<&str>, names: Option<&str>) -> Result<Vec<String>, String> {
        announced(7, pid.map(OsStr::new), count.map(OsStr::new), names.map(OsStr::new))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn descriptors_are_announced_with_their_names() {
        assert_eq!(names(Some("7"), Some("1"), Some("stockade.socket")).unwrap(), ["stockade.socket"]);
        assert_eq!(names(Some("7"), Some("2"), Some("a:b")).unwrap(), ["a", "b"]);
        assert_eq!(names(Some("7"), Some("2"), None).unwrap(), ["unknown", "unknown"]);
        for none in [
            names(None, None, None),
            names(Some("7"), None, Some("left over")),
            names(Some("8"), Some("1"), Some("another's")),
            names(Some("7"), Some("0"), Some("")),
            names(Some("7"), Some("0"), None),
        ] {
            assert_eq!(none.unwrap(), [""; 0]);
        }
    }

    #[test]
    fn environment_that_makes_no_sense_is_refused_with_the_variable() {
        for (pid, count, list, variable) in [
            (None, Some("1"), None, "LISTEN_FDS"),
            (Some("x"), Some("1"), None, "LISTEN_PID"),
            (Some(""), Some("1"), None, "LISTEN_PID"),
            (Some("+7"), Some("1"), None, "LISTEN_PID"),
            (Some("7"), Some(""), None, "LISTEN_FDS"),
            (Some("7"), Some("-1"), None, "LISTEN_FDS"),
            (Some("7"), Some("17"), None, "LISTEN_FDS"),
            (Some("7"), Some("99999999999"), None, "LISTEN_FDS"),
            (Some("7"), Some("1"), Some("a:b"), "LISTEN_FDNAMES"),
            (Some("7"), Some("2"), Some("a"), "LISTEN_FDNAMES"),
            (Some("7"), Some("0"), Some("a"), "LISTEN_FDNAMES"),
        ] {
            let refused = names(pid, count, list).unwrap_err();
            assert!(refused.starts_with(&format!("{variable} is")), "{pid:?} {count:?} {list:?}: {refused}");
        }
    }

    fn one(fd: impl Into<OwnedFd>) -> Vec<Handed> {
        vec![Handed { name: "a.socket".to_owned(), fd: fd.into() }]
    }

    #[test]
    fn socket_that_is_listened_on_is_served_on_and_its_name_left_alone() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("socket");
        let handed = one(UnixListener::bind(&path).unwrap());
        let listener = Listener::among(handed, Some(&path)).unwrap().unwrap();
        assert_eq!((listener.path(), listener.files()), (path.as_path(), vec![path.clone()]));
        UnixStream::connect(&path).unwrap();
        drop(listener);
        assert!(path.exists());
        assert!(Listener::among(Vec::new(), Some(&path)).unwrap().is_none());
    }

    #[test]
    fn what_is_no_unix_stream_socket_with_a_path_is_refused_with_what_it_is() {
        let directory = TempDir::new().unwrap();
        let abstract_name =
            SocketAddr::from_abstract_name(format!("stockade-{}", std::process::id())).unwrap();
        let unlistened = UnixStream::pair().unwrap().0;
        for (fd, what) in [
            (OwnedFd::from(File::open("/dev/null").unwrap()), "no socket"),
            (UnixDatagram::bind(directory.path().join("datagram")).unwrap().into(), "another type"),
            (TcpListener::bind(("127.0.0.1", 0)).unwrap().into(), "another family"),
            (UnixListener::bind_addr(&abstract_name).unwrap().into(), "without a path"),
            (unlistened.into(), "not listened on"),
        ] {
            let refused = Listener::among(one(fd), None).unwrap_err().to_string();
            assert!(refused.contains(what) && refused.contains("a.socket"), "{what}: {refused}");
        }
    }

    #[test]
    fn several_sockets_or_one_elsewhere_are_refused() {
        let directory = TempDir::new().unwrap();
        let [first, second] = ["first", "second"].map(|name| directory.path().join(name));
        let mut two = one(UnixListener::bind(&first).unwrap());
        two.extend(one(UnixListener::bind(&second).unwrap()));
        assert!(
            matches!(Listener::among(two, None), Err(ActivationError::Several(names)) if names.len() == 2)
        );
        let handed = one(UnixListener::bind(directory.path().join("third")).unwrap());
        let refused = Listener::among(handed, Some(&first));
        assert!(matches!(refused, Err(ActivationError::Elsewhere { configured, .. }) if configured == first));
    }
}
