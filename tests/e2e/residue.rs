//! No job reads what another left, in any mode.

use std::fs;

use stockade_wire::job::Verdict;

use crate::rig::{Daemon, Mode, Place, guest, short_of, submission, submission_of};

in_both_modes!(memory_of_a_job_is_zero_whatever_ran_before, residue_that_is_there_is_found,);

/// Jobs of each kind.
const ROUNDS: usize = 25;

fn memory_of_a_job_is_zero_whatever_ran_before(mode: Mode) {
    // Few places and few instances, so that each is used again and again where it can be at all.
    let daemon = Daemon::start(Place::new(mode).set("POOL_WORKERS_MAX", "2").set("POOL_WARM", "2"));
    let mut client = daemon.client();
    let same = submission("canary");
    // The same code under another digest: nothing that is kept by module may hide what is kept by slot.
    let other = submission_of([&b";; "[..], b"\n", &fs::read(guest("canary")).unwrap()].concat(), "canary");
    let looking = submission("looks_for_residue");
    let mut metered = looking.clone();
    metered.limits.fuel = Some(1 << 40);
    for round in 0..ROUNDS {
        let jobs = [&same, &looking, &other, &metered].map(|job| client.submit(job.clone()).unwrap());
        for job in jobs {
            let result = client.result(&job);
            assert_eq!(short_of(&result), "completed - - -", "round {round}: {}", result.job);
        }
    }
}

fn residue_that_is_there_is_found(mode: Mode) {
    let text = fs::read_to_string(guest("looks_for_residue")).unwrap();
    let daemon = Daemon::start(Place::new(mode));
    let mut client = daemon.client();
    let memory = "(memory (export \"memory\") 1)";
    let table = "(table 1024 funcref)";
    for (place, left) in [
        // One bit in the last word of its first page, and the last entry of its table.
        (memory, "(data (i32.const 65535) \"\\01\")"),
        (table, "(elem (i32.const 1023) $exit)"),
    ] {
        let spoilt = text.replace(place, &format!("{place} {left}"));
        assert_ne!(spoilt, text);
        let result = client.run(submission_of(spoilt, "spoilt")).unwrap();
        assert_eq!((result.outcome.verdict, result.exit_code), (Verdict::GuestError, Some(1)), "{result:?}");
    }
}
