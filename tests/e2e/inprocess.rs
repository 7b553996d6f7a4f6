//! The developer's mode says what it is. That it runs jobs as the jail does is tested with each behaviour.

use nix::sys::signal::Signal;
use stockade_wire::job::Layer;

use crate::rig::{Daemon, Mode, Place, guest, ran};

#[test]
fn result_of_the_developers_mode_lists_every_layer_as_off() {
    let ended = Place::new(Mode::InProcess).run(&[], &guest("nothing"));
    assert_eq!(ended.short(), "completed - - - 0");
    assert_eq!(ended.result["isolation"], "in-process");
    let jail = &ended.result["jail"];
    let missing = jail["missing"].as_array().unwrap();
    let layers: Vec<_> = missing.iter().map(|layer| layer["layer"].as_str().unwrap()).collect();
    assert_eq!(layers, Layer::ALL.map(Layer::name));
    assert!(missing.iter().all(|layer| layer["fix"].as_str().unwrap().contains("mode = \"jailed\"")));
    for (wall, off) in [
        ("seccomp", serde_json::Value::Null),
        ("landlock_abi", serde_json::Value::Null),
        ("cgroup", serde_json::json!([])),
        ("namespaces", serde_json::json!([])),
        ("no_new_privs", false.into()),
        ("capabilities_dropped", false.into()),
        ("rlimits", serde_json::json!([])),
        ("mdwe", false.into()),
        ("fresh_process", false.into()),
    ] {
        assert_eq!(jail[wall], off, "{wall}");
    }
}

#[test]
fn result_of_the_jail_lists_what_held() {
    let ended = Place::new(Mode::Jailed).run(&[], &guest("nothing"));
    assert_eq!(ended.result["isolation"], "fresh");
    let jail = &ended.result["jail"];
    assert_eq!(jail["seccomp"], "kill");
    assert!(jail["landlock_abi"].as_u64() >= Some(1));
    assert_eq!([&jail["no_new_privs"], &jail["capabilities_dropped"], &jail["fresh_process"]], [true; 3]);
    assert_eq!(jail["rlimits"], serde_json::json!(["core", "fsize", "nofile", "data"]));
    assert_ne!(jail["uid"], 0);
}

#[test]
fn developers_mode_in_production_is_refused() {
    let place = Place::new(Mode::InProcess).set("PRODUCTION", "true");
    let run = ran(place.stockade(["run"]).arg(guest("nothing")), b"");
    let serve = ran(&mut place.stockade(["serve"]), b"");
    for refused in [run, serve] {
        assert_eq!(refused.status, Some(125));
        assert!(refused.stderr.contains("production"), "{}", refused.stderr);
        assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    }
    assert!(!place.path("socket").exists());
}

#[test]
fn developers_mode_says_at_the_start_what_is_off() {
    let daemon = Daemon::start(Place::new(Mode::InProcess));
    daemon.signal(Signal::SIGTERM);
    let (status, log, _) = daemon.end();
    assert_eq!(status, Some(0), "{log}");
    let line = log.lines().find(|line| line.contains("in-process mode")).expect("no warning");
    assert!(line.contains("WARN") && Layer::ALL.iter().all(|layer| line.contains(layer.name())), "{line}");
}

#[test]
fn job_that_requires_a_layer_is_refused_in_the_developers_mode() {
    let ended = Place::new(Mode::InProcess).run(&["--require", "seccomp"], &guest("nothing"));
    assert_eq!(ended.short(), "denied missing_layer - operator 126");
}
