use super::*;

const PURE_MOUNTS: &str = "\
24 30 0:22 / /proc rw,nosuid - proc proc rw
31 24 0:27 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
const HYBRID_MOUNTS: &str = "\
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
const HYBRID_MEMBERSHIP: &str =
    "9:name=systemd:/\n8:pids:/\n4:memory:/a\n2:cpu,cpuacct:/\n3:cpuset:/\n0::/\n";
const UNIT: &str = "/sys/fs/cgroup/system.slice/stockade.service";

fn facts() -> GroupFacts {
    GroupFacts {
        directory: PathBuf::from(UNIT),
        own: PathBuf::from(UNIT),
        available: "cpuset cpu io memory pids\n".to_owned(),
        root: false,
        write: WriteAccess::Yes,
        marked: true,
        systemd: true,
    }
}

#[test]
fn own_group_on_a_unified_machine_is_below_the_mount_point() {
    let found = own_group("0::/system.slice/stockade.service\n", PURE_MOUNTS);
    assert_eq!(found.as_deref(), Some(Path::new(UNIT)));
}

#[test]
fn own_group_on_a_hybrid_machine_is_the_one_of_v2() {
    assert_eq!(
        own_group(HYBRID_MEMBERSHIP, HYBRID_MOUNTS).as_deref(),
        Some(Path::new("/sys/fs/cgroup/unified"))
    );
}

#[test]
fn own_group_without_a_v2_mount_is_none() {
    assert_eq!(own_group("4:memory:/\n0::/\n", HYBRID_MOUNTS.lines().next().unwrap()), None);
    assert_eq!(own_group("4:memory:/\n", PURE_MOUNTS), None);
}

#[test]
fn own_group_below_a_partial_mount_loses_the_mounts_root() {
    let mounts = "31 24 0:27 /docker/c1 /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
    assert_eq!(own_group("0::/docker/c1/job\n", mounts).as_deref(), Some(Path::new("/sys/fs/cgroup/job")));
    assert_eq!(own_group("0::/docker/c2\n", mounts), None);
}

#[test]
fn own_group_outside_the_namespace_is_none() {
    assert_eq!(own_group("0::/../other\n", PURE_MOUNTS), None);
}

#[test]
fn own_group_with_a_blank_in_the_mount_point_is_unescaped() {
    let mounts = "31 24 0:27 / /mnt/a\\040b\\134040 rw - cgroup2 cgroup rw\n";
    assert_eq!(own_group("0::/\n", mounts).as_deref(), Some(Path::new("/mnt/a b\\040")));
}

#[test]
fn controllers_on_v1_are_named_and_cpuset_is_not_cpu() {
    assert_eq!(controllers_on_v1(HYBRID_MEMBERSHIP), Controller::ALL);
    assert_eq!(controllers_on_v1("3:cpuset:/\n1:name=systemd:/memory\n0::/pids\n"), []);
}

#[test]
fn group_marked_and_writable_with_all_controllers_is_delegated() {
    let delegation = judge(facts()).unwrap();
    assert_eq!(delegation.directory(), Path::new(UNIT));
    assert_eq!(delegation.controllers(), Controller::ALL);
    assert!(delegation.holds_us);
}

#[test]
fn group_systemd_did_not_mark_is_not_delegated_even_when_writable() {
    let absence = judge(GroupFacts { marked: false, ..facts() }).unwrap_err();
    assert_eq!(absence, Absence::NotDelegated { directory: PathBuf::from(UNIT) });
}

#[test]
fn group_without_a_mark_is_delegated_where_systemd_does_not_run() {
    assert!(judge(GroupFacts { marked: false, systemd: false, ..facts() }).is_ok());
}

#[test]
fn group_that_is_marked_but_not_writable_is_not_delegated() {
    let absence = judge(GroupFacts { write: WriteAccess::Refused, ..facts() }).unwrap_err();
    assert_eq!(absence, Absence::NotDelegated { directory: PathBuf::from(UNIT) });
}

#[test]
fn group_on_a_read_only_mount_names_the_units_setting() {
    let absence = judge(GroupFacts { write: WriteAccess::ReadOnlyMount, ..facts() }).unwrap_err();
    assert!(absence.fix().contains("ProtectControlGroups=no"));
}

#[test]
fn root_group_is_never_delegated() {
    let absence = judge(GroupFacts { root: true, systemd: false, ..facts() }).unwrap_err();
    assert_eq!(absence, Absence::RootGroup { directory: PathBuf::from(UNIT) });
}

#[test]
fn group_without_a_controller_names_it() {
    let absence = judge(GroupFacts { available: "cpuset memory\n".to_owned(), ..facts() }).unwrap_err();
    assert!(absence.reason().ends_with("was delegated without pids, cpu"), "{}", absence.reason());
}

#[test]
fn supervisor_leaf_has_its_tree_one_level_up() {
    assert_eq!(tree_of(Path::new(UNIT).join(SUPERVISOR_LEAF)), Path::new(UNIT));
    assert_eq!(tree_of(PathBuf::from(UNIT)), Path::new(UNIT));
    assert_eq!(tree_of(PathBuf::from("/")), Path::new("/"));
}

#[test]
fn configured_directory_elsewhere_is_not_a_group() {
    let directory = tempfile::tempdir().unwrap();
    let Discovery::Absent(absence) = discover(&CgroupRoot::Path(directory.path().to_owned())) else {
        panic!("a temporary directory was taken for a cgroup");
    };
    assert!(absence.reason().ends_with("is not a cgroup v2 directory"), "{}", absence.reason());
}

#[test]
fn configured_directory_that_is_not_there_is_named() {
    let Discovery::Absent(absence) = discover(&CgroupRoot::Path(PathBuf::from("/sys/fs/cgroup/not-there")))
    else {
        panic!("a directory that is not there was taken for a cgroup");
    };
    assert!(absence.reason().contains("/sys/fs/cgroup/not-there"), "{}", absence.reason());
}

#[test]
fn off_is_off() {
    assert!(matches!(discover(&CgroupRoot::Off), Discovery::Absent(Absence::Off)));
}
