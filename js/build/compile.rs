//! Compiling and linking, no more than is needed.
//!
//! Owns: the flags, and the decision whether an object or the engine is still good.
//! Never: leaves a path of this machine in the result: the same compiler makes the same bytes anywhere.

use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use crate::source::Source;
use crate::toolchain::Toolchain;

/// Stack of the engine's own C code, bytes; the engine itself keeps to less, see `STACK_BYTES` in `guest/engine.h`.
const C_STACK_BYTES: u32 = 512 << 10;

const FLAGS: [&str; 20] = [
    "-O2",
    "-std=gnu11",
    "-fno-strict-aliasing",
    "-fwrapv",
    "-funsigned-char",
    "-fno-stack-protector",
    "-fno-sanitize=undefined",
    "-fno-ident",
    "-g0",
    "-DNDEBUG",
    "-D_GNU_SOURCE",
    // As the crate itself does for this target: no threads, no signals, no rounding modes.
    "-DEMSCRIPTEN=1",
    "-DFE_DOWNWARD=0",
    "-DFE_UPWARD=0",
    "-mbulk-memory",
    "-msign-ext",
    "-mnontrapping-fptoint",
    "-nostdlibinc",
    "-c",
    "-pipe",
];

pub(crate) struct Objects<'a> {
    toolchain: &'a Toolchain,
    source: &'a Source,
    guest: &'a Path,
    out: &'a Path,
    objects: Vec<PathBuf>,
    /// What everything was made from.
    keys: Vec<u64>,
    running: Vec<Compilation>,
}

struct Compilation {
    child: Child,
    object: PathBuf,
    key: u64,
}

impl<'a> Objects<'a> {
    pub(crate) fn new(toolchain: &'a Toolchain, source: &'a Source, guest: &'a Path, out: &'a Path) -> Self {
        Self { toolchain, source, guest, out, objects: Vec::new(), keys: Vec::new(), running: Vec::new() }
    }

    /// Compiles `file`, which is the crate's or `ours`, in the background, unless its object is still good.
    pub(crate) fn add(&mut self, file: &Path, ours: bool) -> Result<(), String> {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or("unnamed.c");
        // The crate and we both have a shim.
        let object = self.out.join(format!("{}-{name}.o", self.objects.len()));
        let mut command = self.toolchain.compile();
        command.args(FLAGS);
        if ours {
            command.args(["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"]).arg("-I").arg(self.guest);
            command.arg("-isystem").arg(self.source.engine());
        } else {
            command.arg("-w").arg("-I").arg(self.source.engine());
        }
        for (from, to) in [(self.source.root(), "engine"), (self.guest, "guest"), (self.out, "out")] {
            let mut map = OsString::from("-ffile-prefix-map=");
            map.push(from);
            map.push(format!("={to}"));
            command.arg(map);
        }
        command.arg("-isystem").arg(self.source.headers()).arg(file).arg("-o").arg(&object);
        let key = self.key(&command, file, ours)?;
        self.keys.push(key);
        self.objects.push(object.clone());
        if is_made_with(&object, key) {
            return Ok(());
        }
        let child = command.spawn().map_err(|error| format!("cannot start the C compiler: {error}"))?;
        self.running.push(Compilation { child, object, key });
        Ok(())
    }

    /// Waits for the objects and links them.
    pub(crate) fn link(mut self, source: &Source) -> Result<PathBuf, String> {
        for mut compilation in self.running.drain(..) {
            let status = compilation.child.wait().map_err(|error| format!("the C compiler: {error}"))?;
            if !status.success() {
                return Err(format!("the C compiler failed on {}", compilation.object.display()));
            }
            mark_made_with(&compilation.object, compilation.key)?;
        }
        let engine = self.out.join("engine.wasm");
        let mut command = self.toolchain.link();
        command
            .args(["--no-entry", "--stack-first", "-z", &format!("stack-size={C_STACK_BYTES}")])
            .args(["--gc-sections", "--strip-all", "--fatal-warnings", "--export-table"])
            .args(&self.objects)
            .arg(source.libc())
            .arg("-o")
            .arg(&engine);
        let mut hasher = DefaultHasher::new();
        (format!("{command:?}"), &self.keys).hash(&mut hasher);
        let key = hasher.finish();
        if !is_made_with(&engine, key) {
            let status = command.status().map_err(|error| format!("cannot start the linker: {error}"))?;
            if !status.success() {
                return Err("linking the JavaScript engine failed".to_owned());
            }
            mark_made_with(&engine, key)?;
        }
        Ok(engine)
    }

    /// What an object depends on: the command, the compiler, and the file. The crate's headers are named with the crate's
    /// version in their path, and never change.
    fn key(&self, command: &Command, file: &Path, ours: bool) -> Result<u64, String> {
        let mut hasher = DefaultHasher::new();
        (format!("{command:?}"), self.toolchain.version()).hash(&mut hasher);
        let header = ours.then(|| self.guest.join("engine.h"));
        for read in [file.to_path_buf()].into_iter().chain(header) {
            fs::read(&read).map_err(|error| format!("{}: {error}", read.display()))?.hash(&mut hasher);
        }
        Ok(hasher.finish())
    }
}

fn key_file(made: &Path) -> PathBuf {
    let mut name = made.as_os_str().to_owned();
    name.push(".key");
    PathBuf::from(name)
}

pub(crate) fn is_made_with(made: &Path, key: u64) -> bool {
    made.is_file() && fs::read_to_string(key_file(made)).is_ok_and(|found| found == key.to_string())
}

pub(crate) fn mark_made_with(made: &Path, key: u64) -> Result<(), String> {
    let path = key_file(made);
    fs::write(&path, key.to_string()).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// Writes a file, unless that is what is in it.
pub(crate) fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<(), String> {
    if fs::read(path).is_ok_and(|found| found == bytes) {
        return Ok(());
    }
    fs::write(path, bytes).map_err(|error| format!("cannot write {}: {error}", path.display()))
}
