//! The syscall allow-lists, rule by rule, against the running kernel. Made from the policies themselves.
//!
//! Each call is made in a child of its own that put the filters on the way a worker does. A call counts as allowed
//! when the child is not killed by SIGSYS, whatever the call then says about its senseless arguments.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on says so by panicking"
)]

use std::process::ExitCode;

use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use stockade_sys::probe;
use stockade_sys::solo::SingleThreaded;
use stockade_worker::jail::seccomp::{Condition, Policy, Rule, apply, syscall_number};

/// Filters as they lie on one another in a worker's life.
const STACKS: [(&str, &[Policy]); 8] = [
    ("zygote", &[Policy::Zygote]),
    ("lock", &[Policy::Zygote, Policy::Lock]),
    ("run", &[Policy::Zygote, Policy::Lock, Policy::Run]),
    ("run-files", &[Policy::Zygote, Policy::Lock, Policy::RunFiles]),
    ("compile", &[Policy::Zygote, Policy::Compile]),
    ("template", &[Policy::Zygote, Policy::Template]),
    ("forked-run", &[Policy::Zygote, Policy::Template, Policy::ForkedRun]),
    ("tenant-run", &[Policy::Zygote, Policy::Lock, Policy::TenantRun]),
];

/// Open in a template, which forks and answers with pidfds as the zygote does. It runs no guest code.
const TEMPLATE_DOORS: [&str; 3] = ["clone", "clone3", "sendmsg"];

/// Shut in every worker, once it is locked: by name, so that a rule that opens one shows here.
const DOORS: [&str; 46] = [
    "socket",
    "connect",
    "bind",
    "listen",
    "accept",
    "accept4",
    "socketpair",
    "sendmsg",
    "sendmmsg",
    "execve",
    "execveat",
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "bpf",
    "io_uring_setup",
    "io_uring_enter",
    "userfaultfd",
    "clone",
    "clone3",
    "fork",
    "vfork",
    "unshare",
    "setns",
    "keyctl",
    "add_key",
    "request_key",
    "memfd_create",
    "mount",
    "umount2",
    "pivot_root",
    "chroot",
    "kill",
    "tkill",
    "tgkill",
    "pidfd_open",
    "pidfd_send_signal",
    "pidfd_getfd",
    "perf_event_open",
    "init_module",
    "finit_module",
    "kexec_load",
    "setuid",
    "setresuid",
    "capset",
    "personality",
];

/// Shut in a worker without granted directories, once it is sealed.
const FILE_DOORS: [&str; 10] = [
    "open",
    "openat",
    "openat2",
    "creat",
    "newfstatat",
    "statx",
    "unlinkat",
    "readlinkat",
    "getdents64",
    "recvmsg",
];

/// The kernel itself lets these two past every filter: uprobes that root places in a process use them. Called by
/// anything but a uprobe they do nothing but fail.
const KERNEL_EXEMPTS: [&str; 2] = ["uretprobe", "uprobe"];

/// Jumps to wherever the stack says. Handlers return in the tests of deadlines, which proves the rule.
const NEEDS_A_SIGNAL_FRAME: &str = "rt_sigreturn";

/// Arguments that make no sense to any call.
const SENSELESS: u64 = u64::MAX;

fn main() -> ExitCode {
    // Libtest's flags mean nothing here: there are no threads to choose, and it is one test.
    let solo = SingleThreaded::probe().unwrap();
    let mut tally = Tally::default();
    for (name, stack) in STACKS {
        check_rules(&solo, name, stack, &mut tally);
        check_unlisted(&solo, name, stack, &mut tally);
        check_doors(&solo, name, stack, &mut tally);
        check_other_entries(&solo, name, stack, &mut tally);
    }
    check_prot(&solo, &mut tally);
    println!(
        "{} calls allowed and {} killed as the policies say, {} not",
        tally.allowed, tally.killed, tally.wrong
    );
    if tally.wrong == 0 && tally.allowed > 100 && tally.killed > 1000 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[derive(Default)]
struct Tally {
    allowed: u32,
    killed: u32,
    wrong: u32,
}

impl Tally {
    fn expect(&mut self, what: &str, allowed: bool, ended: WaitStatus) {
        let killed = matches!(ended, WaitStatus::Signaled(_, Signal::SIGSYS, _));
        match (allowed, killed) {
            (true, false) => self.allowed += 1,
            (false, true) => self.killed += 1,
            (true, true) | (false, false) => {
                let expected = if allowed { "be allowed" } else { "die of SIGSYS" };
                println!("{what} should {expected}, but: {ended:?}");
                self.wrong += 1;
            }
        }
    }
}

fn call(solo: &SingleThreaded, stack: &[Policy], number: u32, arguments: [u64; 6]) -> WaitStatus {
    probe::call_after(solo, |alone| put_on(stack, &alone), number, arguments).unwrap()
}

fn put_on(stack: &[Policy], alone: &SingleThreaded) {
    for policy in stack {
        apply(*policy, alone).unwrap();
    }
}

fn holds(condition: &Condition, arguments: &[u64; 6]) -> bool {
    let value = arguments[usize::from(condition.argument)];
    let compared =
        condition.mask.unwrap_or(u64::MAX) & if condition.wide { u64::MAX } else { u64::from(u32::MAX) };
    value & compared == condition.value
}

/// What the files say of a call. All filters of a stack must admit it.
fn admits(stack: &[Policy], number: u32, arguments: &[u64; 6]) -> bool {
    let rule_admits =
        |rule: &&Rule| rule.number == number && rule.when.iter().all(|one| holds(one, arguments));
    stack.iter().all(|policy| policy.rules().iter().any(|rule| rule_admits(&rule)))
}

fn right_arguments(rule: &Rule) -> [u64; 6] {
    let mut arguments = [SENSELESS; 6];
    for condition in rule.when {
        arguments[usize::from(condition.argument)] = condition.value;
    }
    arguments
}

/// For one condition, values that miss it: one bit, another constant, the bits of every mask of the call.
fn wrong_values(policy: Policy, rule: &Rule, condition: &Condition) -> Vec<u64> {
    let same_call = policy.rules().iter().filter(|other| other.number == rule.number);
    let masks = same_call.flat_map(|other| other.when).filter(|other| other.argument == condition.argument);
    let all_bits = masks.filter_map(|other| other.mask).fold(0, |sum, mask| sum | mask);
    let mut values = vec![
        condition.value ^ 1,
        condition.value ^ (1 << 30),
        condition.value.wrapping_add(1),
        condition.value ^ condition.mask.unwrap_or(0),
        condition.value ^ all_bits,
    ];
    if condition.wide {
        values.push(condition.value ^ (1 << 40));
    }
    values
}

fn check_rules(solo: &SingleThreaded, name: &str, stack: &[Policy], tally: &mut Tally) {
    let policy = *stack.last().unwrap();
    for rule in policy.rules().iter().filter(|rule| rule.syscall != NEEDS_A_SIGNAL_FRAME) {
        let right = right_arguments(rule);
        assert!(
            admits(stack, rule.number, &right),
            "{name}: {} is not admitted by its own rule",
            rule.syscall
        );
        tally.expect(
            &format!("{name}: {}{right:x?}", rule.syscall),
            true,
            call(solo, stack, rule.number, right),
        );
        for condition in rule.when {
            let mut missed = 0;
            for value in wrong_values(policy, rule, condition) {
                let mut wrong = right;
                wrong[usize::from(condition.argument)] = value;
                if admits(stack, rule.number, &wrong) {
                    continue;
                }
                missed += 1;
                let what = format!("{name}: {}{wrong:x?}", rule.syscall);
                tally.expect(&what, false, call(solo, stack, rule.number, wrong));
            }
            assert!(
                missed > 0,
                "{name}: no wrong value was found for {} of {}",
                condition.name,
                rule.syscall
            );
        }
    }
}

fn check_unlisted(solo: &SingleThreaded, name: &str, stack: &[Policy], tally: &mut Tally) {
    // The table of numbers ends well before this.
    for number in 0..520 {
        let listed = |policy: &Policy| policy.rules().iter().any(|rule| rule.number == number);
        if KERNEL_EXEMPTS.into_iter().any(|name| syscall_number(name) == Some(number)) {
            check_exempt(solo, stack, number);
        } else if !stack.iter().all(listed) {
            let what = format!("{name}: call {number}, which no rule names");
            tally.expect(&what, false, call(solo, stack, number, [SENSELESS; 6]));
        }
    }
}

fn check_exempt(solo: &SingleThreaded, stack: &[Policy], number: u32) {
    match call(solo, stack, number, [SENSELESS; 6]) {
        // Refused by the call itself, or by the filter where the kernel has no such call.
        WaitStatus::Signaled(_, Signal::SIGILL | Signal::SIGSYS, _) => {}
        WaitStatus::Exited(_, errno) if errno != 0 => {}
        other => panic!("call {number} did something: {other:?}"),
    }
}

fn check_doors(solo: &SingleThreaded, name: &str, stack: &[Policy], tally: &mut Tally) {
    let sealed_without_files =
        matches!(stack.last(), Some(Policy::Run | Policy::ForkedRun | Policy::TenantRun));
    let doors = match name {
        // It forks and answers.
        "zygote" => Vec::new(),
        "template" => DOORS.into_iter().filter(|door| !TEMPLATE_DOORS.contains(door)).collect(),
        _ if sealed_without_files => [DOORS.as_slice(), FILE_DOORS.as_slice()].concat(),
        _ => DOORS.to_vec(),
    };
    for door in doors {
        let Some(number) = syscall_number(door) else { continue };
        // Arguments with which some of them would work.
        tally.expect(&format!("{name}: {door}"), false, call(solo, stack, number, [0; 6]));
    }
}

#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "there are no other entries"))]
fn check_other_entries(solo: &SingleThreaded, name: &str, stack: &[Policy], tally: &mut Tally) {
    #[cfg(target_arch = "x86_64")]
    {
        const X32: u32 = 0x4000_0000;
        let getpid = syscall_number("getpid").unwrap();
        let write = syscall_number("write").unwrap();
        for number in [getpid, write] {
            let what = format!("{name}: call {number} of the x32 table");
            tally.expect(&what, false, call(solo, stack, X32 | number, [SENSELESS; 6]));
        }
        let ended = probe::call_by_32_bit_entry(solo, |alone| put_on(stack, &alone)).unwrap();
        tally.expect(&format!("{name}: getpid by int 0x80"), false, ended);
        let ended = probe::call_by_32_bit_entry(solo, |_| {}).unwrap();
        match ended {
            WaitStatus::Exited(_, 0) => tally.expect("getpid by int 0x80 without a filter", true, ended),
            _ => println!("not run: 32-bit entry"),
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    println!("not run: other entries than the native one");
}

/// Executable memory by the real calls, not by senseless ones.
fn check_prot(solo: &SingleThreaded, tally: &mut Tally) {
    let mmap = syscall_number("mmap").unwrap();
    let anonymous = |protection| [0, 4096, protection, 0x22, SENSELESS, 0];
    let (read, write, execute) = (1, 2, 4);
    for (name, stack, executable) in [
        ("lock", STACKS[1].1, true),
        ("run", STACKS[2].1, false),
        ("run-files", STACKS[3].1, false),
        ("compile", STACKS[4].1, false),
        ("template", STACKS[5].1, true),
        ("forked-run", STACKS[6].1, false),
        ("tenant-run", STACKS[7].1, false),
    ] {
        let cases = [(read | write, true), (read | execute, executable), (read | write | execute, false)];
        for (protection, allowed) in cases {
            let ended = call(solo, stack, mmap, anonymous(protection));
            tally.expect(&format!("{name}: mmap with protection {protection}"), allowed, ended);
        }
    }
}
