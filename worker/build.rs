//! Compiles the syscall allow-lists of `policies/seccomp/` for the target's architecture.
//!
//! Owns: reading the policy files, refusing bad ones with file and rule named, writing filters and rule tables
//! to `OUT_DIR`.
//! Never: reads the network, has a default: what no file says is not allowed.

#[path = "build/filter.rs"]
mod filter;
#[path = "build/policy.rs"]
mod policy;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use policy::{Policy, PolicyError};

/// File name, constant, and the policies every one of whose rules must be admitted there too, because their
/// filters stack.
const POLICIES: [(&str, &str); 9] = [
    ("zygote", "ZYGOTE"),
    ("lock", "LOCK"),
    ("run", "RUN"),
    ("tenant-run", "TENANT_RUN"),
    ("run-files", "RUN_FILES"),
    ("compile", "COMPILE"),
    ("template", "TEMPLATE"),
    ("initialise", "INITIALISE"),
    ("forked-run", "FORKED_RUN"),
];

/// Inner filters are installed on top of outer ones; the kernel takes the strictest answer.
const STACKED: [(&str, &str); 9] = [
    ("run", "lock"),
    ("tenant-run", "lock"),
    ("run-files", "lock"),
    ("lock", "zygote"),
    ("compile", "zygote"),
    ("template", "zygote"),
    ("initialise", "template"),
    ("forked-run", "template"),
    ("forked-run", "initialise"),
];

fn main() {
    if let Err(error) = generate() {
        // Cargo shows what a failing build script printed to standard error.
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn generate() -> Result<(), PolicyError> {
    let architecture = variable("CARGO_CFG_TARGET_ARCH")?;
    let directory = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("../policies/seccomp");
    println!("cargo::rerun-if-changed={}", directory.display());
    println!("cargo::rerun-if-changed=build");
    let names = policy::read_names(&directory.join(format!("syscalls.{architecture}.txt")))?;
    let mut policies = Vec::new();
    for (name, _) in POLICIES {
        let file = directory.join(format!("{name}.{architecture}.json"));
        println!("cargo::rerun-if-changed={}", file.display());
        policies.push(policy::read(&file, &architecture, &names)?);
    }
    for (inner, outer) in STACKED {
        if let (Some(inner), Some(outer)) = (named(&policies, inner), named(&policies, outer)) {
            inner.check_within(outer)?;
        }
    }
    let mut text = String::from("// Made from policies/seccomp by build.rs.\n");
    for ((name, constant), policy) in POLICIES.iter().zip(&policies) {
        let outer =
            STACKED.iter().find(|(inner, _)| inner == name).and_then(|(_, outer)| named(&policies, outer));
        filter::write(&mut text, constant, policy, outer, &architecture)?;
    }
    write_names(&mut text, &names);
    let out = Path::new(&variable("OUT_DIR")?).join("seccomp.rs");
    std::fs::write(&out, text).map_err(|source| PolicyError::Write { file: out, source })
}

fn named<'a>(policies: &'a [Policy], name: &str) -> Option<&'a Policy> {
    POLICIES.iter().zip(policies).find(|((known, _), _)| *known == name).map(|(_, policy)| policy)
}

fn variable(name: &'static str) -> Result<String, PolicyError> {
    std::env::var(name).map_err(|source| PolicyError::Variable { name, source })
}

fn write_names(text: &mut String, names: &[(u32, String)]) {
    let _ = writeln!(text, "pub(super) const NAMES: &[(u32, &str)] = &[");
    for (number, name) in names {
        let _ = writeln!(text, "    ({number}, {name:?}),");
    }
    let _ = writeln!(text, "];");
}
