//! The parts of a job's way, each by itself.
//!
//! Owns: what Criterion measures: `cargo bench --workspace --bench parts`, or with the beginning of a name after `--`.
//! Never: asserts a time; a noisy machine is no reason to fail.
//!
//! What can be done once in a process is measured in processes of its own: this executable runs itself, and forks
//! workers that go through the layers of the jail with a look at the clock between any two.
#![allow(
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a measurement that cannot go on says so by panicking, and nothing is exported"
)]

mod layers;

#[path = "../tests/jail/rig.rs"]
#[expect(dead_code, reason = "the tests use the rest of it")]
mod rig;

#[path = "../tests/supervisor/rig.rs"]
#[expect(dead_code, reason = "the tests use the rest of it")]
mod supervisor_rig;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use stockade::supervisor::logs::LogRing;
use stockade_wire::client::{FromDaemon, ToDaemon};
use stockade_wire::codec;
use stockade_wire::frame::{self, HEADER_BYTES};
use stockade_wire::job::{Submission, Verdict};
use stockade_wire::limits::FRAME_BODY_BYTES_MAX;
use stockade_wire::worker::Role;
use stockade_worker::jail::seccomp::{Policy, Rule};
use tokio::task::LocalSet;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, Linker, Module, PoolingAllocationConfig, Store};

const NOOP: &str = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;

/// Bytes of one log line and its newline.
const LINE: [u8; 80] = {
    let mut line = [b'x'; 80];
    line[79] = b'\n';
    line
};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if let ["layers", parent, rounds] = words.as_slice() {
        return layers::fork_through_all(parent.parse().unwrap(), rounds.parse().unwrap());
    }
    // What forks wants a process with one thread; what Criterion analyses with comes later.
    let mut criterion = Criterion::default().configure_from_args();
    frames(&mut criterion);
    rings(&mut criterion);
    filters(&mut criterion);
    instances(&mut criterion);
    admission(&mut criterion);
    jail(&mut criterion);
    forks(&mut criterion);
    criterion.final_summary();
}

/// A no-op job's request and its result.
fn frames(criterion: &mut Criterion) {
    let request = |submission: Submission| ToDaemon::Submit {
        request: 1,
        wait: true,
        durable: false,
        submission: Box::new(submission),
    };
    let message = request(supervisor_rig::submission(NOOP));
    let mut large = supervisor_rig::submission(NOOP);
    large.input = vec![7; 1 << 20].into();
    let large = request(large);
    let mut group = criterion.benchmark_group("frame");
    group.bench_function("encode a request", |bench| {
        bench.iter(|| frame::encode(black_box(&message), FRAME_BODY_BYTES_MAX).unwrap());
    });
    let encoded = frame::encode(&message, FRAME_BODY_BYTES_MAX).unwrap();
    group.bench_function("decode a request", |bench| {
        bench.iter(|| codec::decode::<ToDaemon>(black_box(&encoded[HEADER_BYTES..])).unwrap());
    });
    let finished = FromDaemon::Finished { request: 1, result: Box::new(result()) };
    let encoded = frame::encode(&finished, FRAME_BODY_BYTES_MAX).unwrap();
    group.bench_function("encode a result", |bench| {
        bench.iter(|| frame::encode(black_box(&finished), FRAME_BODY_BYTES_MAX).unwrap());
    });
    group.bench_function("decode a result", |bench| {
        bench.iter(|| codec::decode::<FromDaemon>(black_box(&encoded[HEADER_BYTES..])).unwrap());
    });
    group.throughput(Throughput::Bytes(1 << 20));
    group.bench_function("encode a request with 1 MiB", |bench| {
        bench.iter(|| frame::encode(black_box(&large), FRAME_BODY_BYTES_MAX).unwrap());
    });
    group.finish();
}

/// A real one, with its walls.
fn result() -> stockade_wire::job::JobResult {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let rig = supervisor_rig::Rig::start().await;
        let result = rig.run(supervisor_rig::honest()).await;
        assert_eq!(result.outcome.verdict, Verdict::Completed, "{:?}", result.outcome);
        rig.end().await;
        stockade_wire::job::JobResult::clone(&result)
    })
}

fn rings(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log ring");
    group.throughput(Throughput::Bytes(LINE.len() as u64));
    group.bench_function("a line into a full ring of 1 MiB", |bench| {
        let mut ring = LogRing::new(1 << 20, usize::MAX);
        while ring.dropped_bytes() == 0 {
            ring.push(&LINE);
        }
        bench.iter(|| ring.push(black_box(&LINE)));
    });
    group.bench_function("a line into a ring full of lines", |bench| {
        let mut ring = LogRing::new(1 << 20, 1_000);
        (0..2_000).for_each(|_| ring.push(&LINE));
        bench.iter(|| ring.push(black_box(&LINE)));
    });
    group.bench_function("the first line", |bench| {
        bench.iter_batched(
            || LogRing::new(1 << 20, 10_000),
            |mut ring| {
                ring.push(&LINE);
                ring
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// What is done when Stockade is built, so that no worker has to.
fn filters(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("seccomp program");
    for (name, policy) in [("lock", Policy::Lock), ("run", Policy::Run), ("forked-run", Policy::ForkedRun)] {
        group.bench_function(name, |bench| bench.iter(|| program(black_box(policy.rules()))));
    }
    group.finish();
}

fn program(rules: &[Rule]) -> BpfProgram {
    let mut chains: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for rule in rules {
        let chain = chains.entry(i64::from(rule.number)).or_default();
        let conditions = rule.when.iter().map(|condition| {
            let length = if condition.wide { SeccompCmpArgLen::Qword } else { SeccompCmpArgLen::Dword };
            let operator = condition.mask.map_or(SeccompCmpOp::Eq, SeccompCmpOp::MaskedEq);
            SeccompCondition::new(condition.argument, length, operator, condition.value).unwrap()
        });
        if !rule.when.is_empty() {
            chain.push(SeccompRule::new(conditions.collect()).unwrap());
        }
    }
    let target = TargetArch::try_from(std::env::consts::ARCH).unwrap();
    let filter = SeccompFilter::new(chains, SeccompAction::Trap, SeccompAction::Allow, target).unwrap();
    filter.try_into().unwrap()
}

fn instances(criterion: &mut Criterion) {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_core_instances(4).total_memories(4).total_tables(4);
    let mut pooled = Config::new();
    pooled.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    let mut group = criterion.benchmark_group("instantiate, call, drop");
    for (name, config) in [("pooled, copy-on-write", pooled), ("on demand", Config::new())] {
        let engine = Engine::new(&config).unwrap();
        let ready = Linker::<()>::new(&engine).instantiate_pre(&Module::new(&engine, NOOP).unwrap()).unwrap();
        group.bench_function(name, |bench| {
            bench.iter(|| {
                let mut store = Store::new(&engine, ());
                let instance = ready.instantiate(&mut store).unwrap();
                let start = instance.get_typed_func::<(), ()>(&mut store, "_start").unwrap();
                start.call(&mut store, ()).unwrap();
            });
        });
    }
    group.finish();
}

/// Every check there is: what is asked for last does not exist.
fn admission(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = LocalSet::new();
    let rig = local.block_on(&runtime, supervisor_rig::Rig::start());
    let mut job = supervisor_rig::honest();
    job.profile = Some("no-such-profile".to_owned());
    assert!(rig.try_submit(job.clone()).is_err());
    criterion.bench_function("admission, refused by the last check", |bench| {
        bench.iter_batched(|| job.clone(), |job| rig.try_submit(job), BatchSize::SmallInput);
    });
    local.block_on(&runtime, rig.end());
}

/// Each layer, as a worker forked from a small process goes through all of them.
fn jail(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("layer");
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    for (at, name) in layers::NAMES.iter().enumerate() {
        group.bench_function(*name, |bench| {
            bench.iter_custom(|rounds| layers::through_all(rounds).iter().map(|times| times[at]).sum());
        });
    }
    group.finish();
}

/// A locked worker, from the order to fork it to its report.
fn forks(criterion: &mut Criterion) {
    let rig = rig::Rig::start();
    let mut group = criterion.benchmark_group("fork to locked");
    for role in [Role::Run, Role::RunFiles, Role::Compile] {
        group.bench_function(format!("{role:?}, by the zygote"), |bench| {
            bench.iter_custom(|rounds| timed(rounds, || rig.locked(&rig::fork_order(role)).0));
        });
    }
    let template = rig::Template::of(&rig, &rig::compiled(&rig, NOOP)).unwrap();
    group.bench_function("Run, by a template", |bench| {
        bench.iter_custom(|rounds| timed(rounds, || template.fork().0));
    });
    group.finish();
    template.close();
}

/// Workers that come one after the other; their end is not counted.
fn timed(rounds: u64, mut worker: impl FnMut() -> rig::Worker) -> Duration {
    let mut all = Duration::ZERO;
    for _ in 0..rounds {
        let since = Instant::now();
        let worker = worker();
        all += since.elapsed();
        drop(worker);
    }
    all
}
