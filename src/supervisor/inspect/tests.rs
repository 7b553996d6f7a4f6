//! What tells a locked worker from any other, and a true report from a false one.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use stockade_wire::job::MissingLayer;

use super::sight::unread;
use super::*;

const STATUS: &str = "Name:\tstockade\nUid:\t65534\t65534\t65534\t65534\nGid:\t65534\t65534\t65534\t65534\n\
    Groups:\t \nVmData:\t   16384 kB\nThreads:\t1\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\n\
    CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\n\
    NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n";
const LIMITS: &str = "\
Limit                     Soft Limit           Hard Limit           Units     \n\
Max file size             4096                 4096                 bytes     \n\
Max data size             117440512            117440512            bytes     \n\
Max core file size        0                    0                    bytes     \n\
Max open files            64                   64                   files     \n";
const NOBODY: Identity = Identity { uid: 65534, gid: 65534 };

fn sight() -> Sight {
    Sight { status: STATUS.to_owned(), limits: limits::parse(LIMITS).unwrap(), owner: 0, open_fds: Some(6) }
}

fn report() -> JailReport {
    JailReport {
        landlock_abi: 7,
        namespaces: vec!["net".to_owned(), "ipc".to_owned()],
        rlimits: [("core", 0), ("fsize", 4096), ("nofile", 64), ("data", 112 << 20)]
            .map(|(name, value)| (name.to_owned(), value))
            .to_vec(),
        no_new_privs: true,
        not_dumpable: true,
        seccomp_mode: 2,
        seccomp_filtered: true,
        capabilities_empty: true,
        open_fds: vec![0, 1, 2, 3, 4, 5],
        uid: 65534,
        gid: 65534,
        missing: Vec::new(),
    }
}

fn zygote() -> WarmReport {
    WarmReport {
        engine_fingerprint: String::new(),
        threads: 1,
        landlock_abi: 7,
        namespaces: vec!["net".to_owned(), "ipc".to_owned()],
        namespaces_missing: None,
        filtered: true,
        text_bytes: 0,
    }
}

fn expected(zygote: &WarmReport) -> Expected<'_> {
    Expected {
        identity: Some(NOBODY),
        rlimits: ProcessLimits { open_files: 64, file_bytes: 4096, data_bytes: 96 << 20 },
        further_fds: 0,
        zygote,
        // A service manager's.
        filters_around: 1,
    }
}

fn lacking(layer: Layer) -> JailReport {
    let missing = MissingLayer {
        layer: layer.name().to_owned(),
        reason: "it is not there".to_owned(),
        fix: "get it".to_owned(),
    };
    JailReport { missing: vec![missing], ..report() }
}

fn checked(sight: &Sight, report: &JailReport) -> Result<(), InspectError> {
    check(sight, &expected(&zygote()), report)
}

#[test]
fn locked_worker_with_a_true_report_passes() {
    checked(&sight(), &report()).unwrap();
    checked(&Sight { open_fds: None, ..sight() }, &report()).unwrap();
}

#[test]
fn worker_with_any_wall_down_is_told_apart() {
    for (held, fallen) in [
        ("Seccomp:\t2", "Seccomp:\t0"),
        // The service manager's and the zygote's: its own is not there.
        ("Seccomp_filters:\t3", "Seccomp_filters:\t2"),
        ("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
        ("Threads:\t1", "Threads:\t2"),
        ("CapEff:\t0000000000000000", "CapEff:\t0000000000000400"),
        ("CapBnd:\t0000000000000000", "CapBnd:\t000001ffffffffff"),
        ("Uid:\t65534\t65534\t65534\t65534", "Uid:\t65534\t0\t65534\t65534"),
        ("Groups:\t ", "Groups:\t0 "),
        ("Seccomp:\t2\n", ""),
        ("16384 kB", "some"),
    ] {
        assert!(STATUS.contains(held));
        let sight = Sight { status: STATUS.replace(held, fallen), ..sight() };
        checked(&sight, &report()).expect_err(fallen);
    }
    checked(&Sight { owner: 65534, ..sight() }, &report()).expect_err("dumpable");
    checked(&Sight { open_fds: Some(7), ..sight() }, &report()).expect_err("a descriptor too many");
}

#[test]
fn worker_with_a_limit_above_its_order_or_one_it_can_raise_is_told_apart() {
    for (held, fallen) in [
        ("4096                 4096", "4097                 4097"),
        ("4096                 4096", "4096                 unlimited"),
        ("117440512            117440512", "1147809792           1147809792"),
        ("0                    0 ", "0                    1 "),
        ("64                   64", "65                   65"),
    ] {
        assert!(LIMITS.contains(held), "{held}");
        let sight = Sight { limits: limits::parse(&LIMITS.replace(held, fallen)).unwrap(), ..sight() };
        checked(&sight, &report()).expect_err(fallen);
        // Whoever did not require them was told.
        checked(&sight, &lacking(Layer::Rlimits)).unwrap();
    }
    limits::parse(&LIMITS.replace("Max data size", "Max something")).unwrap_err();
    // A stricter one that the daemon itself has stays.
    let stricter = LIMITS.replace("64                   64", "32                   32");
    let mut report = report();
    report.rlimits[2].1 = 32;
    checked(&Sight { limits: limits::parse(&stricter).unwrap(), ..sight() }, &report).unwrap();
}

#[test]
fn filter_that_was_there_before_is_not_taken_for_the_workers_own() {
    let around = Sight { status: STATUS.replace("filters:\t3", "filters:\t1"), ..sight() };
    let zygote = WarmReport { filtered: false, ..zygote() };
    let unfiltered = JailReport { seccomp_filtered: false, ..lacking(Layer::Seccomp) };
    check(&around, &expected(&zygote), &unfiltered).unwrap();
    let error = check(&around, &expected(&zygote), &report()).unwrap_err().to_string();
    assert!(error.contains("Seccomp_filters is 1, it must be 2 or more"), "{error}");
    let silent = JailReport { seccomp_filtered: false, ..report() };
    check(&around, &expected(&zygote), &silent).unwrap_err();
}

#[test]
fn bounding_set_is_left_alone_of_an_unprivileged_supervisors_worker_and_where_it_is_missing() {
    let status = STATUS.replace("CapBnd:\t0000000000000000", "CapBnd:\t000001ffffffffff");
    let sight = Sight { status, ..sight() };
    let zygote = zygote();
    check(&sight, &Expected { identity: None, ..expected(&zygote) }, &report()).unwrap();
    checked(&sight, &lacking(Layer::Capabilities)).unwrap();
    checked(&sight, &report()).unwrap_err();
}

#[test]
fn own_process_is_no_locked_worker() {
    inspect(std::process::id(), &expected(&zygote()), &report()).unwrap_err();
}

#[test]
fn process_that_has_ended_is_told_from_one_that_is_not_locked() {
    let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
    let pidfd = stockade_sys::pidfd::open(child.id()).unwrap();
    let mut ended = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut ended, PollTimeout::from(60_000_u16)), Ok(1));
    let looked = inspect(child.id(), &expected(&zygote()), &report());
    assert!(matches!(looked, Err(InspectError::Ended)), "{looked:?}");
    child.wait().unwrap();
    assert!(!is_ending(std::process::id()));
}

#[test]
fn worker_that_found_reason_to_do_without_a_layer_passes_if_it_says_so() {
    let without = JailReport { landlock_abi: 0, ..lacking(Layer::Landlock) };
    checked(&sight(), &without).unwrap();
    checked(&sight(), &JailReport { missing: Vec::new(), ..without }).unwrap_err();
}

#[test]
fn report_that_is_false_in_anything_is_told_apart() {
    let limited = |index: usize, value| {
        let mut report = report();
        report.rlimits[index].1 = value;
        report
    };
    let unknown = MissingLayer { layer: "moon".to_owned(), ..lacking(Layer::Mdwe).missing[0].clone() };
    for (said, what) in [
        (JailReport { seccomp_mode: 1, ..report() }, "seccomp"),
        (JailReport { seccomp_filtered: false, ..report() }, "missing"),
        (JailReport { no_new_privs: false, ..report() }, "no-new-privs"),
        (JailReport { not_dumpable: false, ..report() }, "dumpable"),
        (JailReport { capabilities_empty: false, ..report() }, "capabilities"),
        (JailReport { uid: 0, ..report() }, "user"),
        (JailReport { gid: 0, ..report() }, "group"),
        (JailReport { namespaces: Vec::new(), ..report() }, "namespaces"),
        (JailReport { landlock_abi: 8, ..report() }, "Landlock"),
        (JailReport { open_fds: vec![0, 1, 2, 3, 4], ..report() }, "descriptors"),
        (JailReport { rlimits: Vec::new(), ..report() }, "core"),
        (limited(0, 1), "core"),
        (limited(1, 1), "Max file size"),
        (limited(2, 1), "Max open files"),
        (limited(3, 1), "Max data size"),
        (lacking(Layer::Seccomp), "missing"),
        (lacking(Layer::Landlock), "missing"),
        (lacking(Layer::Namespaces), "missing"),
        (JailReport { missing: vec![unknown], ..report() }, "missing"),
    ] {
        let error = checked(&sight(), &said).unwrap_err().to_string();
        assert!(error.contains("reports") && error.contains(what), "{what}: {error}");
    }
}

#[test]
fn process_that_is_kept_from_sight_is_told_from_a_proc_that_is_not_there() {
    let hidden =
        |errno: Errno| matches!(unread("/proc/1/status".as_ref(), errno.into()), InspectError::Hidden { .. });
    assert!(hidden(Errno::ENOENT) && hidden(Errno::EACCES) && hidden(Errno::EPERM));
    assert!(!hidden(Errno::EIO));
}

#[test]
fn descriptors_of_granted_directories_are_expected_and_no_other() {
    let zygote = zygote();
    let (mut sight, mut said) = (sight(), report());
    sight.open_fds = sight.open_fds.map(|open| open + 20);
    said.open_fds = (0..16).collect();
    let granted = Expected { further_fds: 20, ..expected(&zygote) };
    check(&sight, &granted, &said).unwrap();
    check(&sight, &Expected { further_fds: 19, ..granted }, &said).unwrap_err();
    checked(&sight, &said).unwrap_err();
}
