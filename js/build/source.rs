//! Where the engine's source is.
//!
//! Owns: finding the crate that carries it, by asking cargo what the lock file says; what is taken from it, and the two
//! lines of it that are others here.
//! Never: searches the registry's directories, whose layout is cargo's own affair.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use serde_json::Value;

use crate::compile::write_if_changed;

/// The crate with the source of QuickJS-ng and a libc for it.
const CRATE: &str = "rquickjs-sys";

/// The target it is a dependency for.
const TARGET: &str = "wasm32-unknown-unknown";

/// The engine itself.
const ENGINE: &str = "quickjs.c";

/// What it calls them.
const ARENA_BYTES: &str = "JS_ARENA_SIZE";

/// Bytes of one of its arenas, of which there is one for each of 31 sizes of small blocks, or more.
const ARENAS: &str = "#define JS_ARENA_SIZE              4096\n";

/// The same where they are made. While little is held they are small: a small script writes to a part of each, and each page it
/// writes to is one that its process has to copy first. The small ones have room for one block of the largest size. Set up, the
/// engine holds half of what is little.
const GROWING_ARENAS: &str =
    "#define JS_ARENA_SIZE (rt->malloc_state.malloc_size < (768 << 10) ? 640 : 4096)\n";

/// After how many calls and turns of loops the engine asks whether it is to go on.
const INTERRUPTS: &str = "#define JS_INTERRUPT_COUNTER_INIT 10000\n";

/// The same, which is its host's to say: as many as take little time. Where a script's time is up, that is seen when it asks.
const TOLD_INTERRUPTS: &str = "extern int host_turns;\n#define JS_INTERRUPT_COUNTER_INIT host_turns\n";

pub(crate) struct Source {
    root: PathBuf,
}

impl Source {
    /// Asks cargo, without the network first: a build whose dependencies are all there makes no connection.
    pub(crate) fn locate() -> Result<Self, String> {
        let offline = metadata(&["--offline"]);
        let text = match offline {
            Ok(text) => text,
            Err(why) if env::var_os("CARGO_NET_OFFLINE").is_some_and(|value| value == "true") => {
                return Err(format!("{why}; run `cargo fetch --locked` once with a network"));
            }
            Err(_) => metadata(&[])?,
        };
        let graph: Value = serde_json::from_str(&text).map_err(|error| format!("cargo metadata: {error}"))?;
        let text_of = |package: &Value, field| package.get(field).and_then(Value::as_str).map(str::to_owned);
        let packages = graph.get("packages").and_then(Value::as_array);
        let manifest = packages
            .into_iter()
            .flatten()
            .find(|package| text_of(package, "name").as_deref() == Some(CRATE))
            .and_then(|package| text_of(package, "manifest_path"));
        let root = manifest
            .as_deref()
            .and_then(|manifest| Path::new(manifest).parent())
            .ok_or_else(|| format!("cargo metadata does not name {CRATE}"))?;
        Ok(Self { root: root.to_path_buf() })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn engine(&self) -> PathBuf {
        self.root.join("quickjs")
    }

    /// The engine, and the crate's stand-ins for what a libc would ask an operating system for. What differs from the
    /// crate's is written to `out`.
    pub(crate) fn engine_files(&self, out: &Path) -> Result<Vec<PathBuf>, String> {
        let original = self.engine().join(ENGINE);
        let text =
            fs::read_to_string(&original).map_err(|error| format!("{}: {error}", original.display()))?;
        // The line, and the one place where it is used.
        if text.matches(ARENAS).count() != 1 || text.matches(ARENA_BYTES).count() != 2 {
            return Err(format!(
                "{}: {ARENA_BYTES} is not defined once and used once; this build replaces its definition: see ARENAS in \
                 js/build/source.rs",
                original.display()
            ));
        }
        if text.matches(INTERRUPTS).count() != 1 {
            return Err(format!(
                "{}: there is no line {INTERRUPTS:?}, which this build replaces: see INTERRUPTS in js/build/source.rs",
                original.display()
            ));
        }
        let engine = out.join(ENGINE);
        let text = text.replace(ARENAS, GROWING_ARENAS).replace(INTERRUPTS, TOLD_INTERRUPTS);
        write_if_changed(&engine, text.as_bytes())?;
        let others = ["libregexp.c", "libunicode.c", "dtoa.c"].iter().map(|name| self.engine().join(name));
        Ok([engine].into_iter().chain(others).chain([self.root.join("wasm-shim/shim.c")]).collect())
    }

    pub(crate) fn headers(&self) -> PathBuf {
        self.root.join("vendor/wasi-libc/include")
    }

    pub(crate) fn libc(&self) -> PathBuf {
        self.root.join("vendor/wasi-libc/lib/libc.a")
    }

    /// The engine's version, from its own header.
    pub(crate) fn version(&self) -> Result<String, String> {
        let path = self.engine().join("quickjs.h");
        let header = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let number = |part: &str| {
            let name = format!("QJS_VERSION_{part}");
            header
                .lines()
                .filter_map(|line| line.strip_prefix("#define "))
                .filter_map(|line| line.trim().strip_prefix(name.as_str()))
                .map(|rest| rest.trim().to_owned())
                .next()
                .ok_or_else(|| format!("{} does not define {name}", path.display()))
        };
        Ok(format!("{}.{}.{}", number("MAJOR")?, number("MINOR")?, number("PATCH")?))
    }
}

fn metadata(flags: &[&str]) -> Result<String, String> {
    let cargo = env::var_os("CARGO").ok_or("cargo did not say where it is")?;
    let manifest =
        Path::new(&env::var_os("CARGO_MANIFEST_DIR").ok_or("no CARGO_MANIFEST_DIR")?).join("Cargo.toml");
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", TARGET])
        .arg("--manifest-path")
        .arg(manifest)
        .args(flags)
        .output()
        .map_err(|error| format!("cannot run cargo metadata: {error}"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(format!("cargo metadata cannot find {CRATE}, which carries the engine's source: {why}"));
    }
    String::from_utf8(output.stdout).map_err(|error| format!("cargo metadata: {error}"))
}
