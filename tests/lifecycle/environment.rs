//! What the zygote and its workers take over from whoever started the supervisor: nothing.

use crate::family::Family;
use crate::rig::{Daemon, SPIN};

#[test]
fn nothing_of_the_environment_reaches_the_zygote_or_a_worker() {
    if !nix::unistd::geteuid().is_root() {
        println!("not run: root");
        return;
    }
    let daemon = Daemon::start(&[
        ("LD_PRELOAD", "/nowhere/evil.so"),
        ("LD_LIBRARY_PATH", "/nowhere"),
        ("RUST_BACKTRACE", "full"),
        ("RUST_LOG", "info"),
        ("WASMTIME_BACKTRACE_DETAILS", "1"),
        ("MALLOC_CONF", "junk:true"),
        ("SECRET", "hunter2"),
    ]);
    let _client = daemon.submit(SPIN, &["--timeout", "10m"]);
    let family = Family::of(daemon.pid(), &[("stockade:run", 2)]);
    family.wait_for_guests(1);
    // The compiler may be gone by now.
    let lasting = ["stockade:zygote", "stockade:run"];
    let mut looked_at = Vec::new();
    for member in family.members.iter().filter(|member| lasting.contains(&member.name.as_str())) {
        let file = |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", member.pid));
        // A worker that was one too many may be gone by now, too.
        let (Ok(environment), Ok(maps), Ok(status)) = (file("environ"), file("maps"), file("status")) else {
            continue;
        };
        assert_eq!(environment, "", "{}", member.name);
        assert!(!maps.contains("/nowhere"), "{}", member.name);
        assert!(status.contains("Threads:\t1\n"), "{}: {status}", member.name);
        looked_at.push(member.name.as_str());
    }
    for name in lasting {
        assert!(looked_at.contains(&name), "{name} is not among {looked_at:?}");
    }
}
