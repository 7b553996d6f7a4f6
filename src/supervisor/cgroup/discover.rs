//! Whether there is a cgroup tree to make leaves in, and if not, why not and what to do.
//!
//! Owns: reading `/proc/self/cgroup` and `/proc/self/mountinfo`, and the decision, which is pure.
//! Never: changes anything: [`Delegation::prepare`](super::Delegation::prepare) does.
//!
//! A tree is used without being asked for only where somebody said that it is ours: systemd marks what it
//! delegates, and changes groups that it did not delegate as it pleases. Where systemd does not run, a group
//! other than the root that we may write to is taken to be ours. A directory in the configuration is the
//! operator's word, and is taken even when it has no controllers: kills and CPU time work in it all the same.

use std::io;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{AccessFlags, access};

use super::{Controller, Delegation, SUPERVISOR_LEAF, events};
use crate::config::CgroupRoot;

/// What was found.
#[derive(Debug)]
pub enum Discovery {
    /// A tree to make leaves in, as yet untouched.
    Delegated(Delegation),
    /// None, and why.
    Absent(Absence),
}

/// Why there are no cgroup leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Absence {
    /// The configuration says so.
    Off,
    /// No cgroup v2 hierarchy is mounted where this process could see its own group in it.
    NoV2Mount,
    /// Controllers that are needed belong to cgroup v1.
    Hybrid {
        /// Which.
        on_v1: Vec<Controller>,
    },
    /// The group is read-only here.
    ReadOnly {
        /// The group.
        directory: PathBuf,
    },
    /// The process sits in the root group, which nobody can delegate.
    RootGroup {
        /// The group.
        directory: PathBuf,
    },
    /// The group belongs to systemd, or to somebody else.
    NotDelegated {
        /// The group.
        directory: PathBuf,
    },
    /// The group was delegated without controllers that are needed.
    MissingControllers {
        /// The group.
        directory: PathBuf,
        /// Which.
        missing: Vec<Controller>,
    },
    /// The directory in the configuration is not a group of cgroup v2.
    NotAGroup {
        /// The directory.
        directory: PathBuf,
        /// What was found instead.
        found: NotAGroup,
    },
    /// A file that every Linux has could not be read.
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The system's word for it.
        kind: io::ErrorKind,
    },
}

/// What a configured directory is instead of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAGroup {
    /// Nothing: it does not exist or cannot be looked at.
    Unreachable(io::ErrorKind),
    /// A directory of another filesystem.
    OtherFilesystem,
}

impl Absence {
    /// What is wrong, in a clause that starts in lower case.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Off => "cgroup.root is \"off\"".to_owned(),
            Self::NoV2Mount => "no cgroup v2 hierarchy with this process's group in it is mounted".to_owned(),
            Self::Hybrid { on_v1 } => format!(
                "this machine's cgroups are hybrid: {} belong to cgroup v1, so cgroup v2 has no limits",
                names(on_v1)
            ),
            Self::ReadOnly { directory } => format!("{} is mounted read-only", directory.display()),
            Self::RootGroup { directory } => {
                format!(
                    "this process sits in the root group, {}, which cannot be delegated",
                    directory.display()
                )
            }
            Self::NotDelegated { directory } => {
                format!("the group of this process, {}, is not delegated to it", directory.display())
            }
            Self::MissingControllers { directory, missing } => {
                format!("{} was delegated without {}", directory.display(), names(missing))
            }
            Self::NotAGroup { directory, found: NotAGroup::Unreachable(kind) } => {
                format!("cgroup.root, {}, cannot be looked at: {kind}", directory.display())
            }
            Self::NotAGroup { directory, found: NotAGroup::OtherFilesystem } => {
                format!("cgroup.root, {}, is not a cgroup v2 directory", directory.display())
            }
            Self::Unreadable { file, kind } => format!("{} cannot be read: {kind}", file.display()),
        }
    }

    /// What to do about it, in a clause that starts in lower case.
    #[must_use]
    pub fn fix(&self) -> &'static str {
        match self {
            Self::Off => "set cgroup.root to \"auto\"",
            Self::NoV2Mount => "mount it (mount -t cgroup2 none /sys/fs/cgroup), or run where it is mounted",
            Self::Hybrid { .. } => {
                "start the machine with systemd.unified_cgroup_hierarchy=1 and without cgroup v1 mounts"
            }
            Self::ReadOnly { .. } => {
                "set ProtectControlGroups=no in the unit, or give the container a writable cgroup mount"
            }
            Self::RootGroup { .. } | Self::NotDelegated { .. } => {
                "run it as a unit with Delegate=yes: systemd-run --user --scope -p Delegate=yes stockade …, or set \
                 cgroup.root to a group that is yours"
            }
            Self::MissingControllers { .. } => {
                "set Delegate=memory pids cpu in the unit, for a user's units in user@.service too; one that the kernel \
                 has switched off (/proc/cgroups) comes back without cgroup_disable= on its command line"
            }
            Self::NotAGroup { .. } => {
                "make the group with mkdir below the cgroup2 mount, or set cgroup.root to \"auto\""
            }
            Self::Unreadable { .. } => "mount /proc, and /sys/fs/cgroup",
        }
    }
}

/// Finds the tree that `root` asks for. A handful of short file operations, none of which changes anything:
/// fine on the supervisor's thread.
#[must_use]
pub fn discover(root: &CgroupRoot) -> Discovery {
    let found = match root {
        CgroupRoot::Off => Err(Absence::Off),
        CgroupRoot::Auto => discover_own(),
        CgroupRoot::Path(directory) => discover_configured(directory),
    };
    found.map_or_else(Discovery::Absent, Discovery::Delegated)
}

fn discover_own() -> Result<Delegation, Absence> {
    let membership = read("/proc/self/cgroup")?;
    let own = own_group(&membership, &read("/proc/self/mountinfo")?).ok_or(Absence::NoV2Mount)?;
    let on_v1 = controllers_on_v1(&membership);
    // Told before the rest: on such a machine no delegation would help.
    if !on_v1.is_empty() {
        return Err(Absence::Hybrid { on_v1 });
    }
    let directory = tree_of(own.clone());
    judge(GroupFacts {
        available: read(directory.join("cgroup.controllers"))?,
        // The root group alone has no type.
        root: !directory.join("cgroup.type").exists(),
        write: write_access(&directory),
        marked: is_marked(&directory)?,
        systemd: Path::new("/run/systemd/system").is_dir(),
        own,
        directory,
    })
}

fn discover_configured(configured: &Path) -> Result<Delegation, Absence> {
    let unusable = |found| Absence::NotAGroup { directory: configured.to_owned(), found };
    // Canonical, so that it can be compared with our own group's directory.
    let directory =
        configured.canonicalize().map_err(|error| unusable(NotAGroup::Unreachable(error.kind())))?;
    let filesystem = statfs(&directory)
        .map_err(|error| unusable(NotAGroup::Unreachable(io::Error::from(error).kind())))?;
    if filesystem.filesystem_type() != CGROUP2_SUPER_MAGIC || !directory.join("cgroup.procs").exists() {
        return Err(unusable(NotAGroup::OtherFilesystem));
    }
    match write_access(&directory) {
        WriteAccess::Yes => {}
        WriteAccess::ReadOnlyMount => return Err(Absence::ReadOnly { directory }),
        WriteAccess::Refused => return Err(Absence::NotDelegated { directory }),
    }
    let own = own_group(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?);
    let controllers = events::controllers(&read(directory.join("cgroup.controllers"))?);
    Ok(Delegation { holds_us: own.is_some_and(|own| own == directory), directory, controllers })
}

/// The directory of this process's own group of cgroup v2, from the text of `/proc/self/cgroup` and
/// `/proc/self/mountinfo`. `None` if no mount shows it.
#[must_use]
pub fn own_group(membership: &str, mountinfo: &str) -> Option<PathBuf> {
    let group = Path::new(membership.lines().find_map(|line| line.strip_prefix("0::"))?);
    mountinfo.lines().filter_map(cgroup2_mount).find_map(|(root, point)| {
        // A mount may show a part of the hierarchy only; then its root is not "/".
        let below = group.strip_prefix(&root).ok()?;
        // "/../x" is a group outside this process's cgroup namespace: no mount of the namespace shows it.
        if below.components().any(|part| part.as_os_str() == "..") {
            return None;
        }
        // push() would add a trailing slash for the empty path.
        Some(if below.as_os_str().is_empty() { point } else { point.join(below) })
    })
}

/// The controllers Stockade uses that are bound to cgroup v1, from the text of `/proc/self/cgroup`: its lines
/// are `ID:CONTROLLER,CONTROLLER:PATH`, and v2's is `0::PATH`.
#[must_use]
pub fn controllers_on_v1(membership: &str) -> Vec<Controller> {
    let bound: Vec<&str> = membership
        .lines()
        .filter_map(|line| line.split(':').nth(1))
        .flat_map(|list| list.split(','))
        .collect();
    Controller::ALL.into_iter().filter(|wanted| bound.contains(&wanted.name())).collect()
}

/// Root and mount point, if the line of `mountinfo` is a mount of cgroup v2. proc(5): fields 4 and 5 of a line
/// are the two, and the filesystem's type is the first after the separator ` - `.
fn cgroup2_mount(line: &str) -> Option<(PathBuf, PathBuf)> {
    let (mount, filesystem) = line.split_once(" - ")?;
    if filesystem.split(' ').next()? != "cgroup2" {
        return None;
    }
    let mut fields = mount.split(' ').skip(3);
    Some((unescape(fields.next()?), unescape(fields.next()?)))
}

/// mountinfo writes blank, tab, line feed and backslash as a backslash and three octal digits.
fn unescape(field: &str) -> PathBuf {
    let mut text = field.to_owned();
    // The backslash last, so that what it yields is not read again.
    for (escaped, plain) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        text = text.replace(escaped, plain);
    }
    PathBuf::from(text)
}

/// A supervisor that was put into a leaf, by `DelegateSubgroup=supervisor` or by its own previous life, has its
/// tree one level up.
fn tree_of(own: PathBuf) -> PathBuf {
    match own.parent() {
        Some(parent) if own.file_name().is_some_and(|name| name == SUPERVISOR_LEAF) => parent.to_owned(),
        _ => own,
    }
}

/// What is known of the group that may become the tree.
struct GroupFacts {
    /// Its directory.
    directory: PathBuf,
    /// The directory of the group this process is in: the same, or its supervisor leaf.
    own: PathBuf,
    /// Text of its `cgroup.controllers`.
    available: String,
    /// It is the root of the hierarchy.
    root: bool,
    /// Whether we may make groups in it.
    write: WriteAccess,
    /// systemd marked it as delegated.
    marked: bool,
    /// systemd runs this machine.
    systemd: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WriteAccess {
    Yes,
    Refused,
    ReadOnlyMount,
}

fn judge(facts: GroupFacts) -> Result<Delegation, Absence> {
    let GroupFacts { directory, own, available, root, write, marked, systemd } = facts;
    if write == WriteAccess::ReadOnlyMount {
        return Err(Absence::ReadOnly { directory });
    }
    if root {
        return Err(Absence::RootGroup { directory });
    }
    if write == WriteAccess::Refused || (systemd && !marked) {
        return Err(Absence::NotDelegated { directory });
    }
    let controllers = events::controllers(&available);
    let missing: Vec<_> =
        Controller::ALL.into_iter().filter(|wanted| !controllers.contains(wanted)).collect();
    if !missing.is_empty() {
        return Err(Absence::MissingControllers { directory, missing });
    }
    Ok(Delegation { holds_us: own == directory, directory, controllers })
}

/// Delegation is the right to make groups, to move processes between them, and to hand controllers down.
fn write_access(directory: &Path) -> WriteAccess {
    let targets =
        [directory.to_owned(), directory.join("cgroup.procs"), directory.join("cgroup.subtree_control")];
    for target in targets {
        match access(&target, AccessFlags::W_OK) {
            Ok(()) => {}
            Err(nix::errno::Errno::EROFS) => return WriteAccess::ReadOnlyMount,
            Err(_) => return WriteAccess::Refused,
        }
    }
    WriteAccess::Yes
}

/// systemd marks what it delegates: `trusted.` for those who may see it, `user.` for everybody (systemd 251 and
/// kernel 5.7, both older than what Stockade runs on).
fn is_marked(directory: &Path) -> Result<bool, Absence> {
    for attribute in ["user.delegate", "trusted.delegate"] {
        if stockade_sys::xattr::is_set(directory, attribute).map_err(|error| unreadable(directory, &error))? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn read(file: impl AsRef<Path>) -> Result<String, Absence> {
    std::fs::read_to_string(file.as_ref()).map_err(|error| unreadable(file.as_ref(), &error))
}

fn unreadable(file: &Path, error: &io::Error) -> Absence {
    Absence::Unreadable { file: file.to_owned(), kind: error.kind() }
}

fn names(controllers: &[Controller]) -> String {
    controllers.iter().map(|controller| controller.name()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
