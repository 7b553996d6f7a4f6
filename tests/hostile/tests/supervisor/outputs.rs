//! What a hijacked worker can do to the files that its job's input and output travel in.

use std::fs::File;
use std::io::Write;

use nix::fcntl::{FcntlArg, fcntl};
use stockade::sealed::SealedFile;
use stockade::supervisor::{Beside, Caller, Input};
use stockade_sys::memfd;
use stockade_wire::job::LimitsWanted;
use stockade_wire::limits::BESIDE_BYTES_MIN;

use crate::rig::{Rig, alone, hostile, within};

#[test]
fn output_of_a_worker_that_floods_is_a_sealed_file_of_exactly_its_limit() {
    alone(async || {
        let rig = Rig::start().await;
        for limit in [BESIDE_BYTES_MIN, BESIDE_BYTES_MIN + 1, 3 << 20] {
            let mut job = hostile("flood-output");
            job.limits = LimitsWanted { output_bytes: Some(limit as u64), ..job.limits };
            let id = rig.submit(job);
            let end = within("a job's end", rig.supervisor.wait(&Caller::own(), &id)).await.unwrap();
            let output = end.output.as_ref().expect("it is in a file");
            assert_eq!((output.bytes(), output.read().unwrap().len()), (limit as u64, limit));
            assert!(memfd::is_sealed(output).unwrap());
            // Whoever is given it, by whatever right, can do no more than read.
            let mut given = File::from(output.reopen().unwrap());
            assert!(given.write_all(b"x").is_err() && given.set_len(0).is_err());
        }
        rig.end().await;
    });
}

#[test]
fn input_of_a_worker_cannot_be_written_whatever_its_sender_may() {
    alone(async || {
        let rig = Rig::start().await;
        let mut theirs = memfd::create("theirs").unwrap();
        theirs.write_all(b"content").unwrap();
        fcntl(&theirs, FcntlArg::F_ADD_SEALS(memfd::FIXED)).unwrap();
        let input = SealedFile::examine(&theirs.into(), 100).unwrap();
        let beside = Beside { input: Input::Sealed(input), ..Beside::default() };
        let id = rig.supervisor.submit_with(&Caller::own(), hostile("change-input"), beside).unwrap();
        let result = within("a job's end", async { rig.result(&id).await }).await;
        let said = result.outcome.message.as_deref().unwrap_or_default();
        // Not by its seals (EPERM): it is not open for writing.
        assert!(said.contains(&format!("errno {}", nix::libc::EBADF)), "{:?}", result.outcome);
        assert_eq!(result.bill.input_bytes, Some(7));
        rig.end().await;
    });
}
