//! From a checked policy to a filter and a table, as Rust source.
//!
//! Owns: the use of seccompiler at build time.
//! Never: weakens a rule: what a filter does not match is trapped.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

use crate::policy::{Condition, Policy, PolicyError, Rule};

/// Writes `NAME`, the program, and `NAME_RULES`, the table it was made from.
pub(crate) fn write(
    text: &mut String,
    constant: &str,
    policy: &Policy,
    outer: Option<&Policy>,
    architecture: &str,
) -> Result<(), PolicyError> {
    let program = compile(policy, outer, architecture)
        .map_err(|source| PolicyError::Compile { file: policy.file.clone(), source })?;
    let _ = writeln!(text, "pub(super) const {constant}: &[seccompiler::sock_filter] = &[");
    for step in program {
        let (code, jt, jf, k) = (step.code, step.jt, step.jf, step.k);
        let _ =
            writeln!(text, "    seccompiler::sock_filter {{ code: {code}, jt: {jt}, jf: {jf}, k: {k} }},");
    }
    let _ = writeln!(text, "];\npub(super) const {constant}_RULES: &[Rule] = &[");
    for rule in &policy.rules {
        write_rule(text, rule);
    }
    let _ = writeln!(text, "];");
    Ok(())
}

/// A filter that stacks on `outer` leaves those conditions to it that are the same in both: the strictest of stacked
/// filters decides. What needs no condition then is let through by one comparison each, before what seccompiler makes
/// of the rest: it takes five steps for such a call, and each worker pays 0.2 µs for every step of its last filter.
fn compile(policy: &Policy, outer: Option<&Policy>, architecture: &str) -> Result<BpfProgram, BackendError> {
    let mut outright = BTreeSet::new();
    let mut chains: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for rule in &policy.rules {
        if rule.when.is_empty() || outer.is_some_and(|outer| outer.allows_just_as(policy, rule.number)) {
            outright.insert(rule.number);
            continue;
        }
        let conditions = rule.when.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
        chains.entry(i64::from(rule.number)).or_default().push(SeccompRule::new(conditions)?);
    }
    let target = TargetArch::try_from(architecture)?;
    let rest: BpfProgram =
        SeccompFilter::new(chains, SeccompAction::Trap, SeccompAction::Allow, target)?.try_into()?;
    let mut program = let_through(&outright, target);
    program.extend(rest);
    Ok(program)
}

/// The kernel's `AUDIT_ARCH_*`.
const fn audit_architecture(target: TargetArch) -> u32 {
    match target {
        TargetArch::x86_64 => 0xc000_003e,
        TargetArch::aarch64 => 0xc000_00b7,
        TargetArch::riscv64 => 0xc000_00f3,
    }
}

/// Offsets in the kernel's `struct seccomp_data`.
const NUMBER_OFFSET: u32 = 0;
const ARCHITECTURE_OFFSET: u32 = 4;

/// Allows `numbers` of the native architecture and comes out at its end with all others, which includes every call of
/// another architecture.
fn let_through(numbers: &BTreeSet<u32>, target: TargetArch) -> BpfProgram {
    const LOAD: u16 = 0x20;
    const JUMP: u16 = 0x05;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    // A conditional jump goes 255 steps at most. Nothing is let through by a longer list, which the tests notice.
    let count = u8::try_from(numbers.len()).ok().filter(|count| *count < 250);
    let Some(count) = count else { return BpfProgram::new() };
    let mut program = vec![
        step(LOAD, 0, 0, ARCHITECTURE_OFFSET),
        // Another architecture: past the numbers, the jump and the permission.
        step(JUMP_IF_EQUAL, 0, count + 3, audit_architecture(target)),
        step(LOAD, 0, 0, NUMBER_OFFSET),
    ];
    // Each jumps over those after it and the jump, to the permission.
    program
        .extend((1..=count).rev().zip(numbers).map(|(left, number)| step(JUMP_IF_EQUAL, left, 0, *number)));
    program.push(step(JUMP, 0, 0, 1));
    program.push(step(RETURN, 0, 0, ALLOW));
    program
}

fn condition(condition: &Condition) -> Result<SeccompCondition, BackendError> {
    let length = if condition.wide { SeccompCmpArgLen::Qword } else { SeccompCmpArgLen::Dword };
    let operator = condition.mask.map_or(SeccompCmpOp::Eq, SeccompCmpOp::MaskedEq);
    SeccompCondition::new(condition.argument, length, operator, condition.value)
}

fn write_rule(text: &mut String, rule: &Rule) {
    let (syscall, number, reason) = (&rule.syscall, rule.number, &rule.reason);
    let _ =
        writeln!(text, "    Rule {{ syscall: {syscall:?}, number: {number}, reason: {reason:?}, when: &[");
    for condition in &rule.when {
        let Condition { argument, name, wide, mask, value } = condition;
        let _ = writeln!(
            text,
            "        Condition {{ argument: {argument}, name: {name:?}, wide: {wide}, mask: {mask:?}, value: {value} }},"
        );
    }
    let _ = writeln!(text, "    ] }},");
}
