//! A wall that is required and missing is a refusal to start, whoever asks: it names the wall, why, and what to do.

use stockade_worker::jail::landlock;

use crate::rig::{Mode, Place, guest, ran};

/// The newest Landlock that a configuration can ask for.
const LANDLOCK_ABI_MAX: u32 = 9;

/// Neither `serve` nor `run` starts in `place`; both say `line`, and leave no process, no socket and no result.
#[track_caller]
fn assert_refused(place: &Place, line: &str) {
    let nothing = guest("nothing");
    for words in
        [&["serve"][..], &["run", nothing.to_str().unwrap()], &["run", "--json", nothing.to_str().unwrap()]]
    {
        // It returns when the last holder of the command's standard error is gone, and so is every process of it.
        let ran = ran(&mut place.stockade(words), b"");
        assert_eq!((ran.status, ran.stderr.as_str()), (Some(125), line), "{words:?}");
        assert!(ran.stdout.is_empty(), "{words:?}: {ran:?}");
        assert!(!place.path("socket").exists() && !place.path("socket.lock").exists(), "{words:?}");
    }
}

#[test]
fn required_cgroup_that_is_missing_is_a_refusal_to_start_that_says_why_and_what_to_do() {
    // A directory that is no group on any machine.
    let place = Place::new(Mode::Jailed);
    let root = place.path("");
    let place = place.set("JAIL_REQUIRE", "cgroup").set("CGROUP_ROOT", root.to_str().unwrap());
    let line = format!(
        "stockade: required layer cgroup is missing: cgroup.root, {}, is not a cgroup v2 directory; make the group \
         with mkdir below the cgroup2 mount, or set cgroup.root to \"auto\"\n",
        root.display()
    );
    assert_refused(&place, &line);
    // It is this requirement that stands in the way.
    let optional = place.set("JAIL_REQUIRE", "seccomp");
    assert_eq!(optional.run(&[], &guest("nothing")).short(), "completed - - - 0");
}

#[test]
fn required_landlock_that_is_too_old_is_a_refusal_to_start_that_says_why_and_what_to_do() {
    let abi = landlock::abi_in_force();
    if abi >= LANDLOCK_ABI_MAX {
        println!("not run: a kernel with an older Landlock");
        return;
    }
    let place = Place::new(Mode::Jailed);
    let place =
        place.set("JAIL_REQUIRE", "landlock").set("JAIL_LANDLOCK_ABI_MIN", &LANDLOCK_ABI_MAX.to_string());
    let ran = ran(&mut place.stockade(["serve"]), b"");
    let line = "stockade: required layer landlock is missing: ";
    assert!(ran.stderr.starts_with(line), "{}", ran.stderr);
    if abi > 0 {
        let reason = format!(
            "the kernel has Landlock ABI {abi}, and jail.landlock_abi_min asks for {LANDLOCK_ABI_MAX}; "
        );
        assert!(ran.stderr.contains(&reason), "{}", ran.stderr);
        let fix = "boot a newer kernel, or lower jail.landlock_abi_min";
        assert!(ran.stderr.trim_end().ends_with(fix), "{}", ran.stderr);
    }
    assert_refused(&place, &ran.stderr);
}
