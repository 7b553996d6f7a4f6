//! Modules, inputs and outputs that are too large for frames, between a real client, daemon and worker.

use std::fs;

use stockade::client::ClientError;
use stockade::job_end::JobEnd;
use stockade_wire::client::RefusalReason;
use stockade_wire::job::{JobResult, LimitsWanted, Submission, Verdict};
use stockade_wire::limits::{BESIDE_BYTES_MIN, INPUT_BYTES_MAX};

use crate::rig::{Daemon, Mode, Peer, Place, eventually, guest, submission, submission_of, within_ms};

in_both_modes!(
    large_input_and_output_are_the_same_bytes_beside_the_frame_as_in_it,
    output_above_its_limit_is_cut_there_beside_the_frame_too,
);

fn counting(length: usize) -> Vec<u8> {
    (0..=250).cycle().take(length).collect()
}

fn echo(input: Vec<u8>) -> Submission {
    let output_bytes = Some(1 + input.len() as u64);
    let limits = LimitsWanted { output_bytes, ..LimitsWanted::default() };
    Submission { input: input.into(), limits, ..submission("echo_stdin") }
}

fn end(peer: &mut Peer, submission: Submission) -> JobEnd {
    peer.ask(async |client| {
        let ticket = client.submit_and_wait(submission).await?;
        client.end_of(&ticket).await
    })
    .unwrap()
}

fn open_files(daemon: &Daemon) -> usize {
    fs::read_dir(format!("/proc/{}/fd", daemon.pid)).unwrap().count()
}

fn large_input_and_output_are_the_same_bytes_beside_the_frame_as_in_it(mode: Mode) {
    let daemon = Daemon::start(Place::new(mode));
    let mut peer = daemon.client();
    for length in [BESIDE_BYTES_MIN - 1, BESIDE_BYTES_MIN, 1 << 20, INPUT_BYTES_MAX] {
        let content = counting(length);
        let ended = end(&mut peer, echo(content.clone()));
        assert_eq!(ended.result.outcome.verdict, Verdict::Completed, "{:?}", ended.result.outcome);
        assert_eq!(ended.output.is_some(), length >= BESIDE_BYTES_MIN, "{length}");
        assert!(ended.whole().unwrap().output.0 == content, "{length}");
        let bill = &ended.result.bill;
        assert_eq!((bill.input_bytes, bill.output_bytes), (Some(length as u64), Some(length as u64)));
    }
    // A function, which is handed all of its input at once.
    let mut content = counting(3 << 20);
    let function = Submission { module: submission("bytes_reverse").module, ..echo(content.clone()) };
    let ended = end(&mut peer, function);
    content.reverse();
    assert!(ended.output.is_some() && ended.whole().unwrap().output.0 == content);
    // Through the command line, which shows the one and puts the other into its object.
    let content = vec![b'x'; 200_000];
    let ended = daemon.submit_on(&content, &[], &guest("echo_stdin"), &[]);
    assert_eq!((ended.status, ended.result["output"].as_str().unwrap().len()), (0, content.len()));
}

fn output_above_its_limit_is_cut_there_beside_the_frame_too(mode: Mode) {
    let daemon = Daemon::start(Place::new(mode));
    let mut peer = daemon.client();
    for limit in [BESIDE_BYTES_MIN - 1, BESIDE_BYTES_MIN, 1 << 20] {
        let limits = LimitsWanted { output_bytes: Some(limit as u64), ..LimitsWanted::default() };
        let ended = end(&mut peer, Submission { limits, ..submission("flood_stdout") });
        assert_eq!(ended.result.outcome.verdict, Verdict::OutputLimit);
        assert_eq!(ended.output.is_some(), limit >= BESIDE_BYTES_MIN);
        assert_eq!(
            (ended.output_bytes(), ended.result.bill.output_bytes),
            (limit as u64, Some(limit as u64))
        );
        assert_eq!(ended.whole().unwrap().output.0.len(), limit);
    }
}

/// A module of that many bytes: most of them are in a section that means nothing.
fn padded_module(bytes: usize) -> Vec<u8> {
    let mut module = wat::parse_str(r#"(module (func (export "f") (result i32) i32.const 7))"#).unwrap();
    let content = bytes - module.len() - 5;
    module.push(0);
    let mut rest = content;
    let mut leb = Vec::new();
    for last in [false, false, false, true] {
        let low = u8::try_from(rest & 0x7f).unwrap();
        leb.push(if last { low } else { low | 0x80 });
        rest >>= 7;
    }
    module.extend(leb);
    // The section's name, of no bytes, and its content.
    module.resize(bytes, 0);
    module
}

#[test]
fn large_module_beside_its_frame_is_compiled_once_and_is_the_one_in_frames() {
    let daemon = Daemon::start(Place::new(Mode::Jailed));
    let mut peer = daemon.client();
    // Below and above what is hashed at once.
    for length in [BESIDE_BYTES_MIN, 2 << 20] {
        let module = padded_module(length);
        assert_eq!(module.len(), length);
        let submission = submission_of(module.clone(), "padded");
        let results: Vec<JobResult> = (0..2).map(|_| peer.run(submission.clone()).unwrap()).collect();
        for result in &results {
            assert_eq!(result.outcome.verdict, Verdict::Completed, "{:?}", result.outcome);
            assert_eq!((result.output.0.as_slice(), result.module), (&b"7\n"[..], results[0].module));
        }
    }
    assert_eq!(daemon.stats()["compiled"], 2);
}

#[test]
fn text_module_beside_its_frame_is_text() {
    let daemon = Daemon::start(Place::new(Mode::Jailed));
    let mut text = fs::read(guest("add")).unwrap();
    text.resize(BESIDE_BYTES_MIN + 1, b'\n');
    let submission = Submission { arguments: vec!["1".into(), "2".into()], ..submission_of(text, "add") };
    assert_eq!(daemon.client().run(submission).unwrap().output.0, b"3\n");
}

#[test]
fn jobs_with_files_over_and_refused_leave_none_open_in_the_daemon() {
    let place = Place::new(Mode::Jailed).set("RESULTS_KEPT_MAX", "1");
    let daemon = Daemon::start(place);
    let mut peer = daemon.client();
    let content = counting(100_000);
    let run = |peer: &mut Peer| assert_eq!(end(peer, echo(content.clone())).output_bytes(), 100_000);
    run(&mut peer);
    // It settles with its workers: warm ones and a template's come and go.
    for _ in 0..40 {
        run(&mut peer);
        let refused = Submission { profile: Some("none such".into()), ..echo(content.clone()) };
        assert!(matches!(peer.run(refused), Err(ClientError::Refused(_))));
    }
    let path = format!("/proc/{}/fd", daemon.pid);
    let inputs = || {
        let targets = fs::read_dir(&path).unwrap().filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        let names = ["stockade-input", "stockade-module", "stockade-output"];
        targets.filter(|target| names.iter().any(|name| target.to_string_lossy().contains(name))).count()
    };
    // One output is kept, and the one file that is everybody's empty input may be there.
    eventually("the files to be closed", || inputs() <= 2);
    assert!(open_files(&daemon) < 200);
}

#[test]
fn files_of_waiting_jobs_are_bounded_and_those_in_frames_are_not_refused_for_them() {
    let place = Place::new(Mode::Jailed).set("QUEUE_FILES_MAX", "3").set("QUEUE_FILES_PER_CALLER_MAX", "2");
    let daemon = Daemon::start(place);
    let mut peer = daemon.client();
    let held = |bytes| {
        within_ms(Submission { input: counting(bytes).into(), ..submission("sleep_one_hour") }, 60_000)
    };
    let jobs: Vec<_> = (0..2).map(|_| peer.submit(held(BESIDE_BYTES_MIN)).unwrap()).collect();
    let Err(ClientError::Refused(refusal)) = peer.submit(held(BESIDE_BYTES_MIN)) else { panic!("a third") };
    assert_eq!(refusal.reason, RefusalReason::QueueFull);
    assert!(refusal.message.contains("queue.files_per_caller_max"), "{}", refusal.message);
    assert!(refusal.retry_after_ms.is_some());
    let small = peer.submit(held(BESIDE_BYTES_MIN - 1)).unwrap();
    for job in jobs.iter().chain([&small]) {
        peer.ask(async |client| client.cancel(job).await).unwrap();
        assert_eq!(peer.result(job).outcome.verdict, Verdict::Cancelled);
    }
    peer.submit(held(BESIDE_BYTES_MIN)).expect("there is room again");
}

#[test]
fn output_for_which_there_is_no_file_is_in_the_frame() {
    let daemon = Daemon::start(Place::new(Mode::Jailed).set("RESULTS_FILES_MAX", "1"));
    let mut peer = daemon.client();
    let content = counting(500_000);
    let first = end(&mut peer, echo(content.clone()));
    let second = end(&mut peer, echo(content.clone()));
    assert_eq!((first.output.is_some(), second.output.is_some()), (true, false));
    assert!(second.result.output.0 == content && first.whole().unwrap().output.0 == content);
}

#[test]
fn large_outputs_count_among_the_bytes_that_are_kept() {
    let daemon = Daemon::start(Place::new(Mode::Jailed).set("RESULTS_BYTES_MAX", "100M"));
    let mut peer = daemon.client();
    let limits = LimitsWanted { output_bytes: Some(51 << 20), ..LimitsWanted::default() };
    let jobs: Vec<_> = (0..2)
        .map(|_| {
            let job = peer.submit(Submission { limits, ..submission("flood_stdout") }).unwrap();
            assert_eq!(peer.result(&job).output.0.len(), 51 << 20);
            job
        })
        .collect();
    let found = |peer: &mut Peer, job: &str| peer.ask(async |client| client.result(job, false).await);
    assert!(matches!(found(&mut peer, &jobs[0]), Err(ClientError::NotFound(_))));
    assert!(found(&mut peer, &jobs[1]).is_ok());
}
