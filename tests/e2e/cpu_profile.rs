//! `--cpu-profile`: where a script's time went, in a file that developer tools open.

use std::path::{Path, PathBuf};

use stockade_js::profile::CpuProfile;

use crate::rig::{Daemon, Mode, Place, Ran, ran, text};

/// A function that takes its time, and one that does not.
const HOT: &str = "function hot(n) { let sum = 0; for (let i = 0; i < n; i++) sum += i % 7; return sum; }
    function cold() { return hot(10); }\n";

/// A place whose compiled modules outlive it: the engine is compiled once, not once a test.
fn place(mode: Mode) -> Place {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("scripts-cache");
    Place::new(mode).set("CACHE_DIRECTORY", cache.to_str().unwrap()).set("KILL_EPOCH_HEAD_START", "1s")
}

/// Runs `source` with these words in front of it; the file for its profile is the second of what is returned.
fn profiled(place: &Place, words: &[&str], source: &str) -> (Ran, PathBuf) {
    let script = place.file("script.js", source);
    let profile = script.with_extension("cpuprofile");
    let words = words.iter().map(Into::into);
    let given = ["--cpu-profile".into(), profile.as_os_str().to_owned(), script.into_os_string()];
    (ran(&mut place.stockade(words.chain(given)), b""), profile)
}

#[track_caller]
fn heaviest(file: &Path) -> (String, CpuProfile) {
    let profile = CpuProfile::read(&std::fs::read(file).unwrap()).unwrap();
    let times = profile.self_time_us();
    let name = times.into_iter().max_by_key(|(_, time)| *time).unwrap().0.to_owned();
    (name, profile)
}

in_both_modes!(profile_of_a_script_is_written_beside_its_output_and_its_log);

fn profile_of_a_script_is_written_beside_its_output_and_its_log(mode: Mode) {
    let place = place(mode);
    let source = format!("{HOT}console.log('begun'); cold(); hot(2e6)");
    let (ran, file) = profiled(&place, &["run", "--timeout=60s"], &source);
    assert_eq!((ran.status, text(&ran.stdout).as_str()), (Some(0), "5999995"), "{}", ran.stderr);
    assert!(ran.stderr.contains("info  begun") && ran.stderr.contains("result written"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("callFrame"), "{}", ran.stderr);
    let (name, profile) = heaviest(&file);
    assert_eq!(name, "hot", "{profile:?}");
    let frame =
        profile.nodes.iter().map(|node| &node.call_frame).find(|frame| frame.function_name == "hot").unwrap();
    assert_eq!((frame.url.as_str(), frame.line_number), ("script.js", 0));
}

#[test]
fn profile_of_a_submitted_script_that_does_not_end_has_what_was_seen() {
    let daemon = Daemon::start(place(Mode::Jailed));
    let source = "function spins() { for (;;); }\nsetTimeout(spins, 30)";
    for isolation in ["fresh", "tenant"] {
        let words = ["submit", "--json", "--timeout=500ms", "--isolation", isolation];
        let (ran, file) = profiled(&daemon.place, &words, source);
        assert_eq!(ran.status, Some(124), "{}", ran.stderr);
        assert!(text(&ran.stdout).contains(r#""stdout":"""#), "{}", text(&ran.stdout));
        let (name, profile) = heaviest(&file);
        assert_eq!(name, "spins", "{profile:?}");
        assert!(profile.self_time_us().contains_key("(idle)"), "that it waited for its timer: {profile:?}");
    }
}

#[test]
fn profile_of_what_is_no_script_or_for_a_file_that_cannot_be_written_is_refused_before_it_runs() {
    let place = place(Mode::Jailed);
    let (ran, _) = profiled(&place, &["run"], "(module (func (export \"_start\") unreachable))");
    assert_eq!(ran.status, Some(125), "{}", ran.stderr);
    assert!(ran.stderr.contains("JavaScript alone"), "{}", ran.stderr);
    let script = place.file("script.js", "console.log('ran')");
    let nowhere = script.with_file_name("nowhere").join("a.cpuprofile");
    let words = ["run".into(), "--cpu-profile".into(), nowhere.into_os_string(), script.into_os_string()];
    let ran = self::ran(&mut place.stockade(words), b"");
    assert_eq!(ran.status, Some(125), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("cannot write the CPU profile") && !ran.stderr.contains("info"),
        "{}",
        ran.stderr
    );
}
