//! Daemons that read their configuration anew while they run.

use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::rig::{Daemon, SPIN, eventually, file, log_of, stockade};

const QUICK: &str = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;

/// A daemon without a terminal, wherever this test was started, and with a file of settings.
fn daemon(text: &str) -> Daemon {
    let directory = TempDir::new().unwrap();
    let settings = file(&directory, "stockade.toml", text);
    let plain = stockade(&directory);
    let mut command = Command::new("/usr/bin/setsid");
    command.arg(plain.get_program()).arg("serve").arg("--config").arg(settings).env_clear();
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log_of(&directory)).spawn().unwrap();
    let daemon = Daemon { child, directory };
    eventually("the daemon to serve", || UnixStream::connect(daemon.directory.path().join("socket")).is_ok());
    eventually("it to listen for signals", || daemon.log().contains("ready"));
    daemon
}

/// Has the daemon take these settings; returns once it said what came of it.
fn reload(daemon: &Daemon, text: &str, says: &str) {
    let before = daemon.log().matches(says).count();
    file(&daemon.directory, "stockade.toml", text);
    daemon.signal(Signal::SIGHUP);
    eventually(says, || daemon.log().matches(says).count() > before);
}

#[test]
fn reload_changes_limits_and_drops_no_job_and_no_connection() {
    let daemon = daemon("[profiles.mine]\ntimeout = \"10m\"\n");
    let running = daemon.submit(SPIN, &["--profile", "mine"]);
    eventually("the job to run", || {
        let listed = stockade(&daemon.directory).arg("ps").output().unwrap();
        String::from_utf8(listed.stdout).unwrap().contains("running")
    });
    let warm = "\n[pool]\nwarm = 2\n[ceilings]\ntimeout = \"1m\"\n[profiles.batch]\ntimeout = \"20s\"\n";
    reload(&daemon, warm, "configuration reloaded");
    let log = daemon.log();
    assert!(log.contains("take effect at the next start") && log.contains("pool.warm"), "{log}");
    assert_eq!(daemon.submit(QUICK, &["--profile", "mine"]).outcome().1, "unknown_profile");
    assert_eq!(daemon.submit(QUICK, &["--timeout", "2m"]).outcome().1, "limit");
    assert_eq!(daemon.submit(QUICK, &["--timeout", "30s"]).outcome().0, "completed");
    // The job that ran before has its client and its limits still.
    let listed = stockade(&daemon.directory).arg("ps").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let job = listed.lines().find(|line| line.contains("running")).unwrap().split(' ').next().unwrap();
    assert!(stockade(&daemon.directory).args(["cancel", job]).output().unwrap().status.success());
    assert_eq!(running.outcome().0, "cancelled");
}

#[test]
fn reload_of_a_bad_configuration_changes_nothing_and_says_why() {
    let mut daemon = daemon("[ceilings]\ntimeout = \"1m\"\n");
    for (bad, why) in [
        ("[ceilings]\ntimeout = \"2m\"\nmemory = 7\n", "ceilings.memory"),
        ("[queue]\njobs_max = \"many\"\n", "queue.jobs_max"),
    ] {
        reload(&daemon, bad, "configuration not reloaded");
        assert!(daemon.log().contains(why), "{}", daemon.log());
        assert_eq!(daemon.submit(QUICK, &["--timeout", "90s"]).outcome().1, "limit");
        assert_eq!(daemon.submit(QUICK, &["--timeout", "30s"]).outcome().0, "completed");
    }
    reload(&daemon, "[log]\nfilter = \"debug\"\n", "configuration reloaded");
    assert_eq!(daemon.submit(QUICK, &["--timeout", "90s"]).outcome().0, "completed");
    assert!(daemon.log().contains("DEBUG"), "{}", daemon.log());
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.end().success());
}
