//! A client in another language, written from `docs/wire.md`.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::rig::{Daemon, limits};

const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/wire_client.py");

#[test]
fn client_written_from_the_document_submits_a_job() {
    if Command::new("python3").arg("--version").output().is_err() {
        println!("not run: python3");
        return;
    }
    let daemon = Daemon::start(limits());
    // What a job does here is its name, which is the file's.
    let module = daemon.directory().join("echo");
    std::fs::write(&module, b"\0asm\x01\0\0\0").unwrap();
    let mut client = Command::new("python3")
        .args([CLIENT.as_ref(), daemon.socket().as_os_str(), module.as_os_str(), "argument".as_ref()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let input: Vec<u8> = (0..=255).cycle().take(200_000).collect();
    client.stdin.take().unwrap().write_all(&input).unwrap();
    let ended = client.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.success(), "{said}");
    assert_eq!(ended.stdout, input);
    assert!(said.contains(": completed"), "{said}");
}
