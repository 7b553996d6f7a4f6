//! Builds the JavaScript engine for WebAssembly.
//!
//! Owns: which files become the engine, and when it is built again: compiled, linked, and set up once for all.
//! Never: downloads anything itself (cargo does, for the pinned crate), compiles anything for this machine.

#[path = "build/compile.rs"]
mod compile;
#[path = "build/module.rs"]
mod module;
#[path = "build/snapshot.rs"]
mod snapshot;
#[path = "build/source.rs"]
mod source;
#[path = "build/toolchain.rs"]
mod toolchain;
#[path = "build/usual.rs"]
mod usual;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use compile::Objects;
use sha2::{Digest as _, Sha256};
use source::Source;
use toolchain::Toolchain;

/// Parts of what scripts find around them, in the order in which they are evaluated.
const SCRIPTS: [&str; 8] =
    ["primordials.js", "inspect.js", "console.js", "text.js", "host.js", "url.js", "clone.js", "job.js"];

/// Our own half of the engine.
const SHIM: [&str; 7] = ["engine.c", "failure.c", "heap.c", "host.c", "natives.c", "profile.c", "waiting.c"];

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("cargo::error={}", why.replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let out = PathBuf::from(variable("OUT_DIR")?);
    let guest = Path::new(&variable("CARGO_MANIFEST_DIR")?).join("guest");
    for watched in ["build.rs", "build", "guest", "../Cargo.toml"] {
        println!("cargo::rerun-if-changed={watched}");
    }
    let source = Source::locate()?;
    let toolchain = Toolchain::find(&out)?;
    let scripts = embed_scripts(&guest, &out)?;
    let mut objects = Objects::new(&toolchain, &source, &guest, &out);
    for file in source.engine_files(&out)? {
        objects.add(&file, false)?;
    }
    for file in SHIM {
        objects.add(&guest.join(file), true)?;
    }
    objects.add(&scripts, true)?;
    let (engine, hot) = snapshot::take(&objects.link(&source)?, &out)?;
    let digest = out.join("engine.sha256");
    let bytes = fs::read(&engine).map_err(|error| format!("cannot read {}: {error}", engine.display()))?;
    compile::write_if_changed(&digest, &Sha256::digest(bytes))?;
    println!("cargo::rustc-env=STOCKADE_JS_ENGINE={}", engine.display());
    println!("cargo::rustc-env=STOCKADE_JS_ENGINE_SHA256={}", digest.display());
    println!("cargo::rustc-env=STOCKADE_JS_ENGINE_HOT={}", hot.display());
    println!("cargo::rustc-env=STOCKADE_JS_ENGINE_VERSION={}", source.version()?);
    Ok(())
}

/// A C file with the scripts as arrays.
fn embed_scripts(guest: &Path, out: &Path) -> Result<PathBuf, String> {
    let mut text = String::from("#include \"engine.h\"\nconst struct script scripts[] = {\n");
    for name in SCRIPTS {
        let path = guest.join(name);
        let script = fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let bytes: Vec<String> = script.iter().map(|byte| byte.cast_signed().to_string()).collect();
        text.push_str(&format!(
            "{{\"stockade:{name}\", {}, (const char[]){{{},0}}}},\n",
            script.len(),
            bytes.join(",")
        ));
    }
    text.push_str("{0, 0, 0}};\n");
    let path = out.join("scripts.c");
    compile::write_if_changed(&path, text.as_bytes())?;
    Ok(path)
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}
