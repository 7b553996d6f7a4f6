//! From a checked policy to a filter and a table, as Rust source.
//!
//! Owns: the use of seccompiler at build time.
//! Never: weakens a rule: what a filter does not match is trapped.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use crate::policy::{Condition, Policy, PolicyError, Rule};

/// Writes `NAME`, the program, and `NAME_RULES`, the table it was made from.
pub(crate) fn write(
    text: &mut String,
    constant: &str,
    policy: &Policy,
    architecture: &str,
) -> Result<(), PolicyError> {
    let program = compile(&policy.rules, architecture)
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

fn compile(rules: &[Rule], architecture: &str) -> Result<BpfProgram, BackendError> {
    let mut chains: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for rule in rules {
        let chain = chains.entry(i64::from(rule.number)).or_default();
        if !rule.when.is_empty() {
            let conditions = rule.when.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
            chain.push(SeccompRule::new(conditions)?);
        }
    }
    let target = TargetArch::try_from(architecture)?;
    SeccompFilter::new(chains, SeccompAction::Trap, SeccompAction::Allow, target)?.try_into()
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
