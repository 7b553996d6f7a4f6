//! What guests find: input, arguments, variables, directories, clocks, randomness; and each kind of module.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::rig::{Mode, Place, end_of, guest};

in_both_modes!(
    command_gets_its_name_and_arguments_and_only_the_variables_it_was_granted,
    input_from_a_file_a_pipe_and_a_flag_is_the_same_input,
    output_that_is_not_utf8_arrives_unchanged_and_marked,
    granted_directory_is_read_and_written_as_it_was_granted,
    path_that_was_not_granted_does_not_open,
    clocks_go_and_no_two_jobs_draw_the_same_random_bytes,
    function_of_bytes_gets_its_input_and_gives_its_output,
    function_of_numbers_is_computed,
    component_is_run_as_a_command,
    component_finds_arguments_variables_clocks_randomness_and_its_directory,
    program_prints_the_guests_output_and_nothing_else,
);

/// A path as a word of a command line.
fn word(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn command_gets_its_name_and_arguments_and_only_the_variables_it_was_granted(mode: Mode) {
    let place = Place::new(mode);
    let printed = |flags: &[&str], arguments: &[&str]| {
        let ended = place.run_on(b"", flags, &guest("print_args_env"), arguments);
        assert_eq!(ended.short(), "completed - - - 0");
        ended.output().to_owned()
    };
    assert_eq!(printed(&[], &[]), "print_args_env.wat\n");
    assert_eq!(
        printed(&["--env", "A=1", "--env", "B=two words"], &["-x", "--json", ""]),
        "print_args_env.wat\n-x\n--json\n\nA=1\nB=two words\n"
    );
}

fn input_from_a_file_a_pipe_and_a_flag_is_the_same_input(mode: Mode) {
    let place = Place::new(mode);
    let echo = guest("echo_stdin");
    // More than a pipe holds, and every byte there is.
    let input: Vec<u8> = (0..=255).cycle().take(200_000).collect();
    let file = place.file("input", &input);
    let plain = |command: &mut std::process::Command| {
        let ran = end_of(command.spawn().unwrap());
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        ran.stdout
    };
    let from_file = plain(place.stockade(["run"]).arg(&echo).stdin(fs::File::open(&file).unwrap()));
    assert!(from_file == input, "from a file");
    let mut command = place.stockade(["run"]);
    let from_pipe = crate::rig::ran(command.arg(&echo), &input);
    assert!(from_pipe.stdout == input, "from a pipe");
    let from_flag = plain(place.stockade(["run", "--input", word(&file)]).arg(&echo).stdin(Stdio::null()));
    assert!(from_flag == input, "from --input");
    let counted = place.run(&["--input", word(&file)], &echo);
    assert_eq!((counted.figure("input_bytes"), counted.figure("output_bytes")), (200_000, 200_000));
}

fn output_that_is_not_utf8_arrives_unchanged_and_marked(mode: Mode) {
    let ended = Place::new(mode).run(&[], &guest("writes_invalid_utf8"));
    let result = &ended.result;
    assert_eq!(
        (&result["output_encoding"], &result["output"]),
        (&"base64".into(), &"b2sggCDAryDtoIDigg==".into())
    );
    let logs = &result["logs"];
    assert_eq!((&logs["stderr_encoding"], &logs["stderr"]), (&"base64".into(), &result["output"]));
}

/// A place with a directory to grant and a secret beside it.
fn place_with_directory(mode: Mode) -> (Place, PathBuf) {
    let place = Place::new(mode);
    let directory = place.path("granted");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("letter"), "for the guest").unwrap();
    fs::write(place.path("secret"), "not for the guest").unwrap();
    symlink("../secret", directory.join("up")).unwrap();
    symlink(place.path("secret"), directory.join("away")).unwrap();
    symlink("letter", directory.join("within")).unwrap();
    symlink("..", directory.join("parent")).unwrap();
    (place, directory)
}

fn granted_directory_is_read_and_written_as_it_was_granted(mode: Mode) {
    let (place, directory) = place_with_directory(mode);
    let [read_only, writable] = [":ro", ""].map(|right| format!("{}::/data{right}", word(&directory)));
    let read = |grant: &str, path: &str| {
        let ended = place.run_on(b"", &["--dir", grant], &guest("reads_a_file"), &[path]);
        (ended.status, ended.output().to_owned())
    };
    let write = |grant: &str, path: &str| {
        place.run_on(b"by the guest", &["--dir", grant], &guest("writes_a_file"), &[path]).status
    };
    assert_eq!(read(&read_only, "letter"), (0, "for the guest".to_owned()));
    assert_eq!(read(&writable, "within"), (0, "for the guest".to_owned()));
    let refused = write(&read_only, "new");
    assert!([63, 69, 76].contains(&refused), "not allowed, in one of WASI's ways: {refused}");
    assert_ne!(write(&read_only, "letter"), 0);
    assert!(!directory.join("new").exists());
    assert_eq!(fs::read_to_string(directory.join("letter")).unwrap(), "for the guest");
    assert_eq!(write(&writable, "new"), 0);
    assert_eq!(fs::read_to_string(directory.join("new")).unwrap(), "by the guest");
}

fn path_that_was_not_granted_does_not_open(mode: Mode) {
    let (place, directory) = place_with_directory(mode);
    let grant = format!("{}::/data", word(&directory));
    for path in ["up", "away", "parent/secret", "../secret", "/etc/passwd", "./../secret"] {
        for (program, input) in [("reads_a_file", ""), ("writes_a_file", "overwritten")] {
            let ended = place.run_on(input.as_bytes(), &["--dir", &grant], &guest(program), &[path]);
            assert_eq!(
                ended.result["outcome"]["reason"], "exit_status",
                "{program} {path}: {}",
                ended.result
            );
            assert!([44, 63, 76].contains(&ended.status), "{program} {path}: {}", ended.status);
            assert_eq!(ended.output(), "", "{path}");
        }
    }
    assert_eq!(fs::read_to_string(place.path("secret")).unwrap(), "not for the guest");
    for flags in [&["--dir", &grant][..], &[]] {
        assert_eq!(place.run(flags, &guest("opens_ungranted_path")).short(), "completed - - - 0");
    }
    assert_eq!(place.run_on(b"", &[], &guest("reads_a_file"), &["letter"]).status, 8, "nothing is granted");
}

#[test]
fn file_larger_than_allowed_is_an_error_of_the_guests() {
    // In-process this is off with the other resource limits, and the result says so.
    let (place, directory) = place_with_directory(Mode::Jailed);
    let place = place.set("JAIL_FILE_BYTES", "64K");
    let grant = format!("{}::/data", word(&directory));
    let write = |bytes: usize| {
        place.run_on(&vec![b'x'; bytes], &["--dir", &grant], &guest("writes_a_file"), &["large"]).status
    };
    assert_eq!(write(64 << 10), 0);
    assert_eq!(write((64 << 10) + 1), 22, "too large");
    assert_eq!(fs::metadata(directory.join("large")).unwrap().len(), 64 << 10);
}

fn clocks_go_and_no_two_jobs_draw_the_same_random_bytes(mode: Mode) {
    let place = Place::new(mode);
    let drawn = || {
        let ended = place.run(&[], &guest("reads_clock_and_random"));
        assert_eq!(ended.short(), "completed - - - 0");
        assert_eq!(ended.figure("output_bytes"), 32);
        ended.result["output"].clone()
    };
    assert_ne!(drawn(), drawn());
}

fn function_of_bytes_gets_its_input_and_gives_its_output(mode: Mode) {
    let place = Place::new(mode);
    let ended = place.run_on(b"stressed", &[], &guest("bytes_reverse"), &[]);
    assert_eq!((ended.short().as_str(), ended.output()), ("completed - - - 0", "desserts"));
    assert_eq!(ended.result["exit_code"], serde_json::Value::Null, "a function has no exit status");
    assert_eq!(place.run(&[], &guest("bytes_reverse")).output(), "");
    let full = place.run_on(b"no room for this", &[], &guest("bytes_alloc_nothing"), &[]);
    assert_eq!(full.short(), "guest_error guest_failure - guest 1");
    let outside = place.run_on(b"no room for this", &[], &guest("bytes_alloc_outside"), &[]);
    assert_eq!(outside.short(), "trapped memory_out_of_bounds - guest 134");
}

fn function_of_numbers_is_computed(mode: Mode) {
    let place = Place::new(mode);
    let add = |a: &str, b: &str| place.run_on(b"", &[], &guest("add"), &[a, b]).output().to_owned();
    assert_eq!(add("40", "2"), "42\n");
    assert_eq!(add("2147483647", "1"), "-2147483648\n");
    let twice = place.run_on(b"", &["--entry", "twice"], &guest("two_functions"), &["21"]);
    assert_eq!(twice.output(), "42\n");
}

fn component_is_run_as_a_command(mode: Mode) {
    let place = Place::new(mode);
    // As component_fails.wat, but well.
    let text = fs::read_to_string(guest("component_fails")).unwrap().replace("i32.const 1", "i32.const 0");
    let well = place.file("component.wat", &text);
    let ended = place.run(&[], &well);
    assert_eq!((ended.short().as_str(), &ended.result["exit_code"]), ("completed - - - 0", &0.into()));
    let binary = place.file("component", wat::parse_str(&text).unwrap());
    assert_eq!(place.run(&[], &binary).short(), "completed - - - 0", "told from its content");
}

fn component_finds_arguments_variables_clocks_randomness_and_its_directory(mode: Mode) {
    let place = Place::new(mode);
    let program = guest("component_uses_what_it_is_given");
    let mut drawn = Vec::new();
    for round in ["first", "second"] {
        let directory = place.path(round);
        fs::create_dir_all(directory.join("gone")).unwrap();
        fs::write(directory.join("in"), "a letter").unwrap();
        let grant = format!("{}::/files", word(&directory));
        let flags = ["--env", "A=1", "--env", "B=two words", "--dir", grant.as_str()];
        let ended = place.run_on(b"", &flags, &program, &["-x", round]);
        assert_eq!(ended.short(), "completed - - - 0", "{}", ended.message());
        let lines: Vec<&str> = ended.output().split('\n').collect();
        let [name, flag, argument, a, b, random, letter] = lines[..] else { panic!("{lines:?}") };
        assert_eq!([name, flag, argument], ["component_uses_what_it_is_given.wat", "-x", round]);
        assert_eq!([a, b, letter], ["A=1", "B=two words", "a letter"]);
        assert_eq!(random.len(), 16);
        drawn.push(random.to_owned());
        assert_eq!(fs::read_to_string(directory.join("out")).unwrap(), "a letter.");
        assert!(directory.join("made").is_dir());
        assert!(!directory.join("in").exists() && !directory.join("gone").exists());
    }
    assert_ne!(drawn[0], drawn[1]);
    // Read only, it is told so by the first thing it would change, and traps.
    let directory = place.path("kept");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("in"), "a letter").unwrap();
    let grant = format!("{}::/files:ro", word(&directory));
    let ended = place.run_on(b"", &["--dir", &grant], &program, &[]);
    assert_eq!(ended.short(), "trapped unreachable - guest 134");
    assert!(ended.output().ends_with("a letter") && !directory.join("out").exists());
}

fn program_prints_the_guests_output_and_nothing_else(mode: Mode) {
    let place = Place::new(mode);
    let run = |name: &str, input: &[u8]| crate::rig::ran(place.stockade(["run"]).arg(guest(name)), input);
    let echoed = run("echo_stdin", b"a\0b\xff");
    assert_eq!((echoed.status, &echoed.stdout[..], &*echoed.stderr), (Some(0), &b"a\0b\xff"[..], ""));
    let exited = run("exit_42", b"");
    assert_eq!((exited.status, &exited.stdout[..]), (Some(42), &b""[..]));
    assert_eq!(exited.stderr, "", "it has said what it has to say");
    let trapped = run("unreachable", b"");
    assert_eq!((trapped.status, trapped.stderr.lines().count()), (Some(134), 1), "{}", trapped.stderr);
    assert!(trapped.stderr.starts_with("stockade: trapped (unreachable)"), "{}", trapped.stderr);
}
