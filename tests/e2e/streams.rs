//! Standard streams that cannot be read or written, and the exit statuses a script sees then.

use std::fs::File;
use std::process::Command;

use crate::rig::{Daemon, Mode, Place, Ran, end_of, guest, text};

in_both_modes!(
    answer_that_cannot_be_written_is_a_failure_of_its_own,
    output_that_cannot_be_written_is_a_failure_of_its_own_with_the_reason,
    file_that_is_no_module_gets_an_object_when_one_is_asked_for,
    explanation_and_run_agree_about_what_runs,
);

fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

fn ended(command: &mut Command) -> Ran {
    end_of(command.spawn().unwrap())
}

/// `run` and `submit`, with their words before the file.
fn both(daemon: &Daemon, flags: &[&str]) -> [Command; 2] {
    ["run", "submit"].map(|name| {
        let mut command = daemon.place.stockade([name]);
        command.args(flags);
        command
    })
}

fn answer_that_cannot_be_written_is_a_failure_of_its_own(mode: Mode) {
    let daemon = Daemon::start(Place::new(mode));
    for mut command in both(&daemon, &["--json"]) {
        let ran = ended(command.arg(guest("nothing")).stdout(full()));
        assert_eq!(ran.status, Some(125), "{command:?}: {}", ran.stderr);
        assert!(ran.stderr.starts_with("stockade: cannot write the answer: No space left"), "{}", ran.stderr);
    }
    // Denied before it ran: the same.
    for mut command in both(&daemon, &["--json", "--profile", "none-such"]) {
        let ran = ended(command.arg(guest("nothing")).stdout(full()));
        assert_eq!(ran.status, Some(125), "{command:?}: {}", ran.stderr);
    }
}

fn output_that_cannot_be_written_is_a_failure_of_its_own_with_the_reason(mode: Mode) {
    let daemon = Daemon::start(Place::new(mode));
    for mut command in both(&daemon, &[]) {
        let ran = ended(command.arg(guest("print_args_env")).arg("word").stdout(full()));
        assert_eq!(ran.status, Some(125), "{command:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("No space left on device"), "{command:?}: {}", ran.stderr);
        assert_eq!(ran.stderr.lines().count(), 1, "{command:?}: {}", ran.stderr);
        assert!(!ran.stderr.contains("cancelled"), "{command:?}: {}", ran.stderr);
    }
}

#[test]
fn reader_that_goes_away_ends_the_job_without_a_word() {
    let place = Place::new(Mode::Jailed);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    // It would write for ever.
    let ran = ended(place.stockade(["run"]).arg(guest("flood_stdout")).stdout(writer));
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(141), ""));
}

#[test]
fn standard_input_that_is_a_directory_is_refused_with_the_reason() {
    let daemon = Daemon::start(Place::new(Mode::Jailed));
    for flags in [&[] as &[&str], &["--json"], &["--input", "-"]] {
        for mut command in both(&daemon, flags) {
            let ran = ended(command.arg(guest("echo_stdin")).stdin(File::open("/").unwrap()));
            assert_eq!((ran.status, text(&ran.stdout).as_str()), (Some(125), ""), "{command:?}");
            assert!(ran.stderr.starts_with("stockade: standard input is a directory"), "{}", ran.stderr);
        }
    }
}

#[test]
fn standard_input_of_every_readable_kind_reaches_the_guest() {
    let place = Place::new(Mode::Jailed);
    let file = place.file("input", "from a file");
    let echo = |stdin: std::process::Stdio| {
        let ran = ended(place.stockade(["run"]).arg(guest("echo_stdin")).stdin(stdin));
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        text(&ran.stdout)
    };
    assert_eq!(echo(File::open(&file).unwrap().into()), "from a file");
    // One that could be written is not handed on as it is, nor is a device.
    assert_eq!(echo(File::options().read(true).write(true).open(&file).unwrap().into()), "from a file");
    assert_eq!(echo(File::open("/dev/null").unwrap().into()), "");
}

fn file_that_is_no_module_gets_an_object_when_one_is_asked_for(mode: Mode) {
    let daemon = Daemon::start(Place::new(mode));
    let image = daemon.place.file("image.png", b"\x89PNG\r\n\x1a\n");
    let empty = daemon.place.file("empty.wasm", "");
    for ran in [daemon.place.run(&[], &image), daemon.submit(&[], &image)] {
        assert_eq!(ran.short(), "invalid_module unrecognised - guest 126");
    }
    for ran in [daemon.place.run(&[], &empty), daemon.submit(&[], &empty)] {
        assert_eq!((&ran.result["outcome"]["verdict"], ran.status), (&"denied".into(), 126));
        assert!(ran.message().contains("the module is empty"), "{}", ran.message());
    }
    // A person is told more, and nothing travels.
    for mut command in both(&daemon, &[]) {
        let ran = ended(command.arg(&image));
        assert_eq!((ran.status, text(&ran.stdout).as_str()), (Some(126), ""));
        assert!(ran.stderr.contains("is neither WebAssembly nor text"), "{}", ran.stderr);
    }
}

fn explanation_and_run_agree_about_what_runs(mode: Mode) {
    let place = Place::new(mode);
    let script = place.file("script.js", "console.log(1)");
    let good = guest("nothing");
    let large = place.file("large.wat", format!("(module) ;; {}", "x".repeat(1 << 20)));
    let place = place.set("CEILINGS_MODULE_BYTES", "1M");
    let cases: [(&[&str], _); 6] = [
        (&[], &good),
        (&["--require", "cgroup"], &good),
        (&["--require", "seccomp"], &good),
        (&["--timeout", "100h"], &good),
        (&[], &script),
        (&[], &large),
    ];
    for (flags, file) in cases {
        let status = |name: &str| {
            let ran = ended(place.stockade([name]).args(flags).arg(file));
            ran.status
        };
        assert_eq!(status("explain"), status("run"), "{mode:?} {flags:?} {file:?}");
    }
}
