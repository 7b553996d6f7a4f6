//! Loading compiled artifacts.
//!
//! Owns: the only way in the workspace by which bytes become native code, [`SealedArtifact::load`].
//! Never: compiles, decides whose artifact it is, checks its authenticity (the supervisor did, before it
//! sealed the descriptor).

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::mman::ProtFlags;
use wasmtime::component::Component;
use wasmtime::{Engine, Module, Precompiled};

use crate::own_pages::{Berth, HUGE_BYTES, PagesError, Part, copy, replace};
use crate::page_bytes;
use crate::solo::SingleThreaded;

/// Bytes of an artifact that tell what it is: an ELF header.
const HEADER_BYTES: usize = 64;

/// Largest artifact that is loaded, bytes: the most that `compile.artifact_bytes` may be. Twice its default, and eight times the
/// largest module.
pub const ARTIFACT_BYTES_MAX: u64 = 512 << 20;

/// Where an ELF header (64 bits) says where its tables are and how many entries they have.
const TABLES: [std::ops::Range<usize>; 2] = [0x20..0x30, 0x38..0x40];

/// The header of a file of which nothing else was read: what kind it is stands in its flags.
fn without_tables(mut header: [u8; HEADER_BYTES]) -> [u8; HEADER_BYTES] {
    for (offset, byte) in header.iter_mut().enumerate() {
        if TABLES.iter().any(|table| table.contains(&offset)) {
            *byte = 0;
        }
    }
    header
}

/// Why a descriptor cannot be loaded as an artifact.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The descriptor is not a memfd, or its seals cannot be read.
    #[error("artifact's seals cannot be read: it must be a sealed memfd")]
    Seals(#[source] nix::Error),
    /// A seal is missing, so somebody may still change the bytes.
    #[error("artifact is not sealed against change (seals {found:?}): seal it before sending it")]
    Unsealed {
        /// The seals there are.
        found: SealFlag,
    },
    /// The bytes cannot be read.
    #[error("artifact cannot be read")]
    Read(#[source] std::io::Error),
    /// Empty, or larger than [`ARTIFACT_BYTES_MAX`].
    #[error("artifact has {bytes} bytes: it must have between 1 and {ARTIFACT_BYTES_MAX}")]
    Size {
        /// Its size, bytes.
        bytes: u64,
    },
    /// Not something this engine's compiler wrote.
    #[error("artifact is not a compiled module or component")]
    NotAnArtifact,
    /// The engine does not take it: made by another engine, or beyond what its allocator holds.
    #[error("artifact does not fit this engine")]
    Load(#[source] wasmtime::Error),
}

/// A memfd that holds a compiled artifact and that nobody, this process included, can change any more.
#[derive(Debug)]
pub struct SealedArtifact {
    file: File,
    kind: Precompiled,
    bytes: u64,
}

/// A loaded artifact.
pub enum LoadedArtifact {
    /// A core module.
    Module(Module),
    /// A component.
    Component(Component),
}

impl std::fmt::Debug for LoadedArtifact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Module(_) => "Module",
            Self::Component(_) => "Component",
        })
    }
}

impl SealedArtifact {
    /// Takes `fd` when it is a memfd with the seals SHRINK, GROW, WRITE and SEAL and holds an artifact.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, ArtifactError> {
        let required =
            SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
        let bits = fcntl(&fd, FcntlArg::F_GET_SEALS).map_err(ArtifactError::Seals)?;
        let found = SealFlag::from_bits_retain(bits);
        if !found.contains(required) {
            return Err(ArtifactError::Unsealed { found });
        }
        let file = File::from(fd);
        let bytes = file.metadata().map_err(ArtifactError::Read)?.len();
        if bytes == 0 || bytes > ARTIFACT_BYTES_MAX {
            return Err(ArtifactError::Size { bytes });
        }
        let mut header = [0; HEADER_BYTES];
        file.read_exact_at(&mut header, 0).map_err(|_| ArtifactError::NotAnArtifact)?;
        let kind = Engine::detect_precompiled(&without_tables(header)).ok_or(ArtifactError::NotAnArtifact)?;
        Ok(Self { file, kind, bytes })
    }

    /// Whether it is a module or a component.
    #[must_use]
    pub const fn kind(&self) -> Precompiled {
        self.kind
    }

    /// Maps it and makes its code executable. Blocks for the time of mapping (a module) or copying (a component).
    ///
    /// # Errors
    /// When the engine does not take it.
    pub fn load(self, engine: &Engine) -> Result<LoadedArtifact, ArtifactError> {
        match self.kind {
            Precompiled::Module => self.load_module(engine),
            Precompiled::Component => self.load_component(engine),
        }
    }

    /// As [`SealedArtifact::load`], with a module's code on pages that this process's forks inherit: on huge ones, as far as
    /// there are any to be had. Where that cannot be, it is loaded as always.
    ///
    /// Takes about a millisecond for 2 MiB of code.
    ///
    /// # Errors
    /// As for [`SealedArtifact::load`], and when a copy of the file's descriptor cannot be had.
    pub fn load_to_fork(
        self,
        solo: &SingleThreaded,
        engine: &Engine,
    ) -> Result<LoadedArtifact, ArtifactError> {
        if self.kind != Precompiled::Module {
            return self.load(engine);
        }
        // Where its code lies in it is known when it has been loaded.
        let file = self.file.try_clone().map_err(ArtifactError::Read)?;
        let place = match (Self { file, ..self }).load_module(engine)? {
            LoadedArtifact::Module(module) => Image::of(&module),
            loaded @ LoadedArtifact::Component(_) => return Ok(loaded),
        };
        // What is not had here is done without.
        let berth = place.berth().ok().flatten();
        let loaded = self.load_module(engine)?;
        drop(berth);
        if let LoadedArtifact::Module(module) = &loaded {
            let _ = code_in_place(solo, module);
        }
        Ok(loaded)
    }

    fn load_module(self, engine: &Engine) -> Result<LoadedArtifact, ArtifactError> {
        // SAFETY: `deserialize_open_file` asks for two things.
        // (1) "the file … must not be modified": `self.file` is a memfd whose SHRINK, GROW, WRITE and SEAL
        //     seals were checked by `from_fd`, the only constructor; with them the kernel refuses every write.
        // (2) "only previously-serialized bytes": NOT proven here. The supervisor sends what its own compile
        //     worker made and authenticates it before sealing, but that worker had parsed hostile Wasm. If it
        //     was taken over, this is native code of the attacker's choice, and the jail is what holds.
        let module = unsafe { Module::deserialize_open_file(engine, self.file) };
        module.map(LoadedArtifact::Module).map_err(ArtifactError::Load)
    }

    fn load_component(self, engine: &Engine) -> Result<LoadedArtifact, ArtifactError> {
        let length = usize::try_from(self.bytes).map_err(|_| ArtifactError::Size { bytes: self.bytes })?;
        let mut code = vec![0; length];
        self.file.read_exact_at(&mut code, 0).map_err(ArtifactError::Read)?;
        // SAFETY: `deserialize` copies the bytes, so the one thing it asks for is "only previously-serialized
        // bytes", which is NOT proven here for the reason given in `load_module`.
        let component = unsafe { Component::deserialize(engine, code) };
        component.map(LoadedArtifact::Component).map_err(ArtifactError::Load)
    }
}

/// How a module is mapped.
struct Image {
    bytes: usize,
    /// From its beginning to its code.
    code_offset: usize,
}

impl Image {
    fn of(module: &Module) -> Self {
        let (image, code) = (module.image_range(), module.text().as_ptr_range());
        let from_start = |address: *const u8| address.addr().saturating_sub(image.start.addr());
        Self { bytes: from_start(image.end), code_offset: from_start(code.start) }
    }

    fn berth(&self) -> Result<Option<Berth>, PagesError> {
        let page_bytes = page_bytes().map_err(|errno| PagesError { call: "sysconf", errno })?;
        Berth::new(self.bytes.next_multiple_of(page_bytes), self.code_offset)
    }
}

/// Puts a module's code on pages of this process's own, whole pages of which it has for itself.
fn code_in_place(_solo: &SingleThreaded, module: &Module) -> Result<(), PagesError> {
    let page_bytes = page_bytes().map_err(|errno| PagesError { call: "sysconf", errno })?;
    let code = module.text().as_ptr_range();
    let (start, end) = (code.start.addr(), code.end.addr().next_multiple_of(page_bytes));
    if start % page_bytes != 0 || start >= end {
        return Ok(());
    }
    let whole = start..end;
    let huge_bytes = if start % HUGE_BYTES == 0 { whole.len() - whole.len() % HUGE_BYTES } else { 0 };
    let rights = ProtFlags::PROT_READ | ProtFlags::PROT_EXEC;
    let mut part = Part { held: whole.clone(), whole, huge_bytes, rights };
    // SAFETY: these are the pages of the module's code, which Wasmtime made readable and executable and changes no more;
    // the module is borrowed, and so stays mapped.
    let mut room = unsafe { copy(&part) };
    if room.is_err() && huge_bytes > 0 {
        part.huge_bytes = 0;
        // SAFETY: as above.
        room = unsafe { copy(&part) };
    }
    let room = room?;
    // SAFETY: the copy was made just now, of pages that are whole and all the module's, and nothing runs there: there is one
    // thread, and it is here.
    unsafe { replace(&part, room) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use std::io::Write;

    fn memfd(bytes: &[u8], seals: SealFlag) -> OwnedFd {
        let fd = memfd_create(c"test", MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC).unwrap();
        let mut file = File::from(fd);
        file.write_all(bytes).unwrap();
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
        OwnedFd::from(file)
    }

    #[test]
    fn artifact_without_each_seal_is_refused() {
        let all =
            SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
        let artifact = Engine::default().precompile_module(b"(module)").unwrap();
        for missing in all.iter() {
            let refused = SealedArtifact::from_fd(memfd(&artifact, all - missing)).unwrap_err();
            assert!(matches!(refused, ArtifactError::Unsealed { .. }), "{missing:?}: {refused}");
        }
        assert_eq!(SealedArtifact::from_fd(memfd(&artifact, all)).unwrap().kind(), Precompiled::Module);
        let component = Engine::default().precompile_component(b"(component)").unwrap();
        assert_eq!(SealedArtifact::from_fd(memfd(&component, all)).unwrap().kind(), Precompiled::Component);
    }

    #[test]
    fn artifact_that_is_a_regular_file_is_refused() {
        let file = File::open("/proc/self/exe").unwrap();
        assert!(matches!(
            SealedArtifact::from_fd(file.into()),
            Err(ArtifactError::Seals(_) | ArtifactError::Unsealed { .. })
        ));
    }

    #[test]
    fn artifact_of_wasm_or_nothing_is_refused() {
        let all =
            SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
        let wasm = [b"\0asm\x01\0\0\0".as_slice(), &[0; 100]].concat();
        assert!(matches!(SealedArtifact::from_fd(memfd(&wasm, all)), Err(ArtifactError::NotAnArtifact)));
        assert!(matches!(SealedArtifact::from_fd(memfd(b"", all)), Err(ArtifactError::Size { bytes: 0 })));
    }

    #[test]
    fn module_that_is_loaded_to_fork_runs_from_pages_of_no_file() {
        let all =
            SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
        let engine = Engine::default();
        let text = br#"(module (func (export "seven") (result i32) (i32.const 7)))"#;
        let artifact = engine.precompile_module(text).unwrap();
        let artifact = SealedArtifact::from_fd(memfd(&artifact, all)).unwrap();
        // The other threads have no part in it.
        let loaded = artifact.load_to_fork(&SingleThreaded::after_fork(), &engine).unwrap();
        let LoadedArtifact::Module(module) = loaded else { panic!("{loaded:?}") };
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let start = format!("{:x}-", module.text().as_ptr().addr());
        let line = maps.lines().find(|line| line.starts_with(&start)).expect("code has a mapping of its own");
        assert!(line.contains(" r-xp ") && !line.contains("memfd"), "{line}");
        let mut store = wasmtime::Store::new(&engine, ());
        let instance = wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
        let seven = instance.get_typed_func::<(), i32>(&mut store, "seven").unwrap();
        assert_eq!(seven.call(&mut store, ()).unwrap(), 7);
    }
}
