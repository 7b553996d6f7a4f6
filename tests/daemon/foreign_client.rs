//! A client in another language, written from `docs/wire.md`.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::rig::{Daemon, limits};

const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/wire_client.py");

#[test]
fn client_written_from_the_document_submits_jobs_large_and_small_in_frames_and_beside_them() {
    if Command::new("python3").arg("--version").output().is_err() {
        println!("not run: python3");
        return;
    }
    let daemon = Daemon::start(limits());
    // What a job does here is its name, which is the file's.
    let module = daemon.directory().join("echo");
    std::fs::write(&module, b"\0asm\x01\0\0\0").unwrap();
    let large: Vec<u8> = (0..=255).cycle().take(2_000_000).collect();
    let cases = [
        (&[][..], &large[..1000], "files sent 0, received 0"),
        (&[], &large, "files sent 1, received 1"),
        (&["--in-frames"], &large, "files sent 0, received 0"),
    ];
    for (flags, input, files) in cases {
        let mut client = Command::new("python3")
            .args([CLIENT.as_ref(), daemon.socket().as_os_str()])
            .args(flags)
            .args([module.as_os_str(), "argument".as_ref()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It reads all of its input before it writes.
        client.stdin.take().unwrap().write_all(input).unwrap();
        let ended = client.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(ended.status.success(), "{said}");
        assert_eq!(ended.stdout, input);
        assert!(said.contains(": completed") && said.contains(files), "{said}");
    }
}
