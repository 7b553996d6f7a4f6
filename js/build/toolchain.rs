//! What compiles and links the engine.
//!
//! Owns: the search for a C compiler that knows wasm32, and for a linker.
//! Never: links through the compiler, which may post-process the result with whatever else is installed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

/// Names a compiler: words, separated by blanks, before its arguments.
const COMPILER_VARIABLE: &str = "STOCKADE_JS_CC";

/// Compilers that are looked for, in this order.
const COMPILERS: [&str; 11] = [
    "clang",
    "clang-22",
    "clang-21",
    "clang-20",
    "clang-19",
    "clang-18",
    "clang-17",
    "clang-16",
    "clang-15",
    "clang-14",
    "python3 -m ziglang cc",
];

pub(crate) struct Toolchain {
    compiler: Vec<String>,
    target: &'static str,
    /// What the compiler says it is: part of what decides whether objects are made again.
    version: String,
    linker: PathBuf,
}

impl Toolchain {
    pub(crate) fn find(scratch: &Path) -> Result<Self, String> {
        println!("cargo::rerun-if-env-changed={COMPILER_VARIABLE}");
        let named = env::var(COMPILER_VARIABLE).ok().filter(|named| !named.trim().is_empty());
        let candidates: Vec<&str> = named.as_deref().map_or_else(|| COMPILERS.to_vec(), |named| vec![named]);
        let linker = linker()?;
        for candidate in candidates {
            let compiler: Vec<String> = candidate.split_whitespace().map(str::to_owned).collect();
            let zig = compiler.iter().any(|word| word.contains("zig"));
            let target = if zig { "wasm32-freestanding" } else { "wasm32-unknown-unknown" };
            if let Some(version) = probe(&compiler, target, scratch) {
                return Ok(Self { compiler, target, version, linker });
            }
        }
        Err(named.map_or_else(
            || {
                "the JavaScript engine needs a C compiler that knows wasm32, and none was found: install clang (on \
                 Debian: apt-get install --no-install-recommends clang), or name one in STOCKADE_JS_CC"
                    .to_owned()
            },
            |named| format!("{COMPILER_VARIABLE} names {named:?}, which cannot compile C for wasm32"),
        ))
    }

    /// The compiler with its target.
    pub(crate) fn compile(&self) -> Command {
        let mut words = self.compiler.iter();
        let mut command = Command::new(words.next().map_or("clang", String::as_str));
        command.args(words).args(["-target", self.target]);
        command
    }

    pub(crate) fn link(&self) -> Command {
        let mut command = Command::new(&self.linker);
        command.args(["-flavor", "wasm"]);
        command
    }

    pub(crate) fn version(&self) -> &str {
        &self.version
    }
}

/// The compiler's version, if it is there and can do what is asked of it.
fn probe(compiler: &[String], target: &str, scratch: &Path) -> Option<String> {
    let [first, rest @ ..] = compiler else { return None };
    fs::write(scratch.join("probe.c"), "int probe(int a) { return a + 1; }\n").ok()?;
    let compiled = Command::new(first)
        .args(rest)
        .args(["-target", target, "-c", "probe.c", "-o", "probe.o"])
        .current_dir(scratch)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .ok()?;
    if !compiled.success() {
        return None;
    }
    let output = Command::new(first).args(rest).arg("--version").output().ok()?;
    let version = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned();
    Some(version)
}

/// The linker that comes with Rust, or the system's.
fn linker() -> Result<PathBuf, String> {
    let rustc = env::var_os("RUSTC").ok_or("cargo did not say where rustc is")?;
    let host = env::var("HOST").map_err(|error| format!("HOST: {error}"))?;
    let output = Command::new(rustc)
        .args(["--print", "sysroot"])
        .output()
        .map_err(|error| format!("cannot run rustc: {error}"))?;
    let sysroot = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let ours = Path::new(&sysroot).join("lib/rustlib").join(host).join("bin/rust-lld");
    if ours.is_file() {
        return Ok(ours);
    }
    let system =
        Command::new("wasm-ld").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if system.is_ok_and(|status| status.success()) {
        return Ok(PathBuf::from("wasm-ld"));
    }
    Err(format!(
        "the JavaScript engine needs a linker for wasm32: {} is missing and so is wasm-ld (on Debian: apt-get \
         install --no-install-recommends lld)",
        ours.display()
    ))
}
