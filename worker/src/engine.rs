//! The engine every worker inherits.
//!
//! Owns: Wasmtime's configuration, the engines and linkers built from it, the engine's fingerprint.
//! Never: compiles or runs anything, starts a thread.
//!
//! There are two variants of everything, because counting fuel changes the generated code and costs speed, and in
//! each an engine for modules, one for components and one for scripts, which is to say for the JavaScript engine. All are
//! built before the first fork: a locked worker may not open the files that building a pool looks into. The code for scripts
//! looks at no epoch in a process that can be ended.
//!
//! Only the engine most jobs use, the one for plain modules, and that for scripts in a process that stays have a pool.
//! The others add no mapping to the zygote and little but their linkers' tables to a worker's memory; a job of
//! theirs pays a few system calls. Components must do without mapped initial memories, since theirs do not come
//! from a file: Wasmtime would make a memfd for them, which no worker may.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use wasmtime::component::Linker as ComponentLinker;
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, Linker, OptLevel, PoolingAllocationConfig,
    WasmBacktraceDetails, WasmFeatures,
};
use wasmtime_wasi::WasiCtxBuilder;

use crate::run::{Host, HostError, ThreadStack, link_component, link_core, link_script};

/// Wasm stack of a guest, bytes.
pub const WASM_STACK_BYTES: usize = 512 << 10;

/// Stack on which a guest and the host functions it calls run, bytes. Wasm may use [`WASM_STACK_BYTES`] of it.
pub const FIBER_STACK_BYTES: usize = 2 << 20;

/// Stack for the JavaScript engine and the host functions it calls, bytes. It runs our own code, whose depth a script
/// cannot choose beyond [`stockade_js::abi::WASM_STACK_BYTES`]; what a job does not use of it is never made.
pub const SCRIPT_STACK_BYTES: usize = stockade_js::abi::WASM_STACK_BYTES + FIBER_STACK_BYTES;

/// Memory of the JavaScript engine that a process which stays keeps from script to script, bytes, and puts back by copying:
/// all that the engine begins with. What a script makes it grow by goes back to the kernel.
const SCRIPT_RESIDENT_BYTES: usize = 2 << 20;

/// Stack that such a process keeps, bytes: what a usual script touches. It is cleared all the same.
const SCRIPT_STACK_RESIDENT_BYTES: usize = 64 << 10;

/// Most elements of the JavaScript engine's table: its functions that are called by address, some 1,200.
const SCRIPT_TABLE_ELEMENTS_MAX: usize = 4 << 10;

/// Most linear memories of one store. This and the three below size the pool that every process reserves before there is a job.
pub const MEMORIES_MAX: u32 = 8;

/// Most tables of one store.
pub const TABLES_MAX: u32 = 8;

/// Most core instances of one store.
pub const CORE_INSTANCES_MAX: u32 = 32;

/// Most elements of one table. The pool keeps this many for each of [`TABLES_MAX`] tables; it is private
/// memory, and so part of every worker's `RLIMIT_DATA`.
pub const TABLE_ELEMENTS_MAX: usize = 64 << 10;

/// Size of one table element in the host, bytes.
pub const TABLE_ELEMENT_BYTES: u64 = size_of::<usize>() as u64;

/// Most frames a trap's backtrace names.
const BACKTRACE_FRAMES_MAX: std::num::NonZeroUsize = std::num::NonZeroUsize::MIN.saturating_add(15);

/// Address space of one linear memory, bytes: all a 32-bit memory can have, so that no bounds check is needed.
const MEMORY_SLOT_BYTES: usize = 4 << 30;

/// Version of Wasmtime whose artifacts these are; part of the fingerprint.
const WASMTIME_VERSION: &str = "48.0.8";

/// How to build the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineSettings {
    /// Largest memory limit any job may get, bytes; no store gets more, whatever its order says.
    pub memory_bytes_max: u64,
    /// Most memory that a process which stays keeps the last scripts and what they compiled to in, bytes.
    pub scripts_bytes_max: u64,
    /// Stores that may be alive at once: 1 where every worker runs one job.
    pub instances: u32,
    /// The process can be ended with a guest that does not end. The code of the JavaScript engine looks at no epoch then, which
    /// takes a sixth of a script's time: it asks its host instead, see [`stockade_js::abi::import::POLL`], and where it does
    /// neither, it ends with its process.
    pub expendable: bool,
}

/// Why an engine could not be built.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No store could ever be made.
    #[error("engine settings allow no instance: give at least 1")]
    NoInstances,
    /// Wasmtime does not take the configuration on this machine.
    #[error("engine cannot be built on this machine")]
    Build(#[source] wasmtime::Error),
    /// The host functions could not be defined.
    #[error("host functions cannot be linked")]
    Link(#[from] HostError),
}

/// Engines that count fuel, or that do not, and what is linked to them.
pub(crate) struct Variant {
    pub(crate) modules: Engine,
    pub(crate) core: Linker<Host>,
    pub(crate) components: Engine,
    pub(crate) component: ComponentLinker<Host>,
    pub(crate) scripts: Engine,
    pub(crate) script: Linker<Host>,
}

/// The engine for scripts of a process that stays, and what is linked to it.
pub(crate) struct Staying {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<Host>,
}

/// A warm engine: everything that can be made before a job is known.
pub struct Warm {
    settings: EngineSettings,
    thread_stack: ThreadStack,
    plain: Arc<Variant>,
    metered: Arc<Variant>,
    staying: Staying,
}

impl std::fmt::Debug for Warm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Warm").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Builds the engine and its linkers. The process has as many threads afterwards as before; nothing built
/// here holds a descriptor.
///
/// # Errors
/// When this machine cannot have such an engine.
pub fn warm(settings: &EngineSettings) -> Result<Warm, EngineError> {
    if settings.instances == 0 {
        return Err(EngineError::NoInstances);
    }
    let plain = Arc::new(Variant::build(settings, false)?);
    let metered = Arc::new(Variant::build(settings, true)?);
    let staying = Staying::build(settings)?;
    // The signal stack of the thread, which its forks inherit; without this each would map its own.
    Engine::tls_eager_initialize();
    // Its random numbers ask the processor what it can, once: in a virtual machine that is a way out of it, of 15 µs.
    drop(WasiCtxBuilder::new());
    let thread_stack = ThreadStack::of_this_process();
    Ok(Warm { settings: *settings, thread_stack, plain, metered, staying })
}

impl Warm {
    /// Names what an artifact of this engine depends on: artifacts of an engine with another fingerprint do not
    /// load here. Lower-case hex. The plain and the metered variant share it: an artifact's key is the
    /// fingerprint and whether it is metered.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut hasher = Fnv1a128::new();
        WASMTIME_VERSION.hash(&mut hasher);
        self.plain.modules.precompile_compatibility_hash().hash(&mut hasher);
        self.plain.components.precompile_compatibility_hash().hash(&mut hasher);
        self.plain.scripts.precompile_compatibility_hash().hash(&mut hasher);
        format!("{:032x}", hasher.state)
    }

    /// What it was built with.
    #[must_use]
    pub const fn settings(&self) -> &EngineSettings {
        &self.settings
    }

    /// The stack of the main thread, on which guest code may run.
    pub(crate) const fn thread_stack(&self) -> ThreadStack {
        self.thread_stack
    }

    pub(crate) fn variant(&self, metered: bool) -> &Arc<Variant> {
        if metered { &self.metered } else { &self.plain }
    }

    /// For scripts in a process that runs one after the other.
    pub(crate) const fn staying(&self) -> &Staying {
        &self.staying
    }

    pub(crate) fn increment_epochs(&self) {
        self.staying.engine.increment_epoch();
        for variant in [&self.plain, &self.metered] {
            variant.modules.increment_epoch();
            variant.components.increment_epoch();
            variant.scripts.increment_epoch();
        }
    }
}

impl Variant {
    fn build(settings: &EngineSettings, metered: bool) -> Result<Self, EngineError> {
        let mut for_modules = config(metered);
        if !metered {
            for_modules.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(settings)));
        }
        let mut for_components = config(metered);
        for_components.memory_init_cow(false);
        let modules = Engine::new(&for_modules).map_err(EngineError::Build)?;
        let components = Engine::new(&for_components).map_err(EngineError::Build)?;
        let scripts = Engine::new(&config_for_scripts(settings, metered)).map_err(EngineError::Build)?;
        let core = link_core(&modules)?;
        let component = link_component(&components)?;
        let script = link_script(&scripts)?;
        Ok(Self { modules, core, components, component, scripts, script })
    }
}

impl Staying {
    /// With a pool of one slot, whose memory keeps its pages from script to script and is put back to what it began as:
    /// without it each page that a script writes to is a fault of its own, more than a third of its time.
    fn build(settings: &EngineSettings) -> Result<Self, EngineError> {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(0)
            .total_core_instances(1)
            .total_memories(1)
            .total_tables(1)
            .total_stacks(1)
            .max_memories_per_module(1)
            .max_tables_per_module(1)
            .table_elements(SCRIPT_TABLE_ELEMENTS_MAX)
            .table_keep_resident(SCRIPT_TABLE_ELEMENTS_MAX * size_of::<usize>())
            .max_memory_size(MEMORY_SLOT_BYTES)
            .linear_memory_keep_resident(SCRIPT_RESIDENT_BYTES)
            .async_stack_keep_resident(SCRIPT_STACK_RESIDENT_BYTES)
            .max_unused_warm_slots(1)
            // As for modules, see below: nothing is to be put back later than it is given up, and by nothing but copying.
            .decommit_batch_size(1)
            .pagemap_scan(Enabled::No);
        let mut config = config_for_scripts(settings, false);
        config.async_stack_zeroing(true).allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let engine = Engine::new(&config).map_err(EngineError::Build)?;
        let linker = link_script(&engine)?;
        Ok(Self { engine, linker })
    }
}

fn config_for_scripts(settings: &EngineSettings, metered: bool) -> Config {
    let mut config = config(metered);
    config
        .epoch_interruption(!settings.expendable)
        .max_wasm_stack(stockade_js::abi::WASM_STACK_BYTES)
        .async_stack_size(SCRIPT_STACK_BYTES);
    config
}

// Wasmtime is built without its features for parallel compilation (threads in the compile worker), protection keys
// and garbage collection, so those cannot be on.
fn config(metered: bool) -> Config {
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::OnDemand)
        .consume_fuel(metered)
        .epoch_interruption(true)
        .signals_based_traps(true)
        .memory_init_cow(true)
        .memory_reservation(MEMORY_SLOT_BYTES as u64)
        .max_wasm_stack(WASM_STACK_BYTES)
        .async_stack_size(FIBER_STACK_BYTES)
        .concurrency_support(false)
        .cranelift_opt_level(OptLevel::Speed)
        .relaxed_simd_deterministic(true)
        .shared_memory(false)
        .wasm_backtrace_max_frames(Some(BACKTRACE_FRAMES_MAX))
        // Details would be looked up in files, which a worker cannot open.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        // Only debuggers and C++ exceptions that cross Wasm frames would read it.
        .native_unwind_info(false)
        .wasm_features(refused_features(), false);
    config
}

/// Proposals that are off: shared memory would need threads, 64-bit memories cost their bounds checks, and the
/// rest is young code in the engine that no compiler emits unasked.
fn refused_features() -> WasmFeatures {
    WasmFeatures::THREADS
        | WasmFeatures::SHARED_EVERYTHING_THREADS
        | WasmFeatures::MEMORY64
        | WasmFeatures::GC
        | WasmFeatures::GC_TYPES
        | WasmFeatures::FUNCTION_REFERENCES
        | WasmFeatures::EXCEPTIONS
        | WasmFeatures::LEGACY_EXCEPTIONS
        | WasmFeatures::STACK_SWITCHING
        | WasmFeatures::CUSTOM_PAGE_SIZES
        | WasmFeatures::WIDE_ARITHMETIC
        | WasmFeatures::CM_ASYNC
        | WasmFeatures::CM_ASYNC_STACKFUL
        | WasmFeatures::CM_THREADING
}

fn pool(settings: &EngineSettings) -> PoolingAllocationConfig {
    let stores = settings.instances;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(stores)
        .total_core_instances(stores.saturating_mul(CORE_INSTANCES_MAX))
        .total_memories(stores.saturating_mul(MEMORIES_MAX))
        .total_tables(stores.saturating_mul(TABLES_MAX))
        .total_stacks(stores)
        .max_core_instances_per_component(CORE_INSTANCES_MAX)
        .max_memories_per_component(MEMORIES_MAX)
        .max_tables_per_component(TABLES_MAX)
        .max_memories_per_module(MEMORIES_MAX)
        .max_tables_per_module(TABLES_MAX)
        .table_elements(TABLE_ELEMENTS_MAX)
        .max_memory_size(MEMORY_SLOT_BYTES)
        .max_unused_warm_slots(0)
        .decommit_batch_size(1)
        // A raw clone skips the handlers that would repair its descriptor in the child: the next guest would
        // read what the last one left.
        .pagemap_scan(Enabled::No);
    pool
}

/// A hash that is the same on every machine and in every release of the standard library.
struct Fnv1a128 {
    state: u128,
}

impl Fnv1a128 {
    const fn new() -> Self {
        Self { state: 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d }
    }
}

impl Hasher for Fnv1a128 {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.state ^= u128::from(*byte);
            self.state = self.state.wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }

    fn finish(&self) -> u64 {
        // The low half; callers that want all of it read the state.
        u64::try_from(self.state & u128::from(u64::MAX)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::own_process::in_own_process;

    const SETTINGS: EngineSettings =
        EngineSettings { memory_bytes_max: 64 << 20, scripts_bytes_max: 0, instances: 1, expendable: true };

    #[test]
    fn warm_leaves_the_process_single_threaded_and_without_descriptors() {
        in_own_process(
            "engine::tests::warm_leaves_the_process_single_threaded_and_without_descriptors",
            || {
                let count = |what: &str| std::fs::read_dir(format!("/proc/self/{what}")).unwrap().count();
                let (threads, fds) = (count("task"), count("fd"));
                let _warm = warm(&SETTINGS).unwrap();
                assert_eq!(count("task"), threads);
                assert_eq!(count("fd"), fds);
            },
        );
    }

    #[test]
    fn fingerprint_of_two_engines_is_the_same_and_hex() {
        let (one, two) = (warm(&SETTINGS).unwrap(), warm(&SETTINGS).unwrap());
        assert_eq!(one.fingerprint(), two.fingerprint());
        assert_eq!(one.fingerprint().len(), 32);
        assert!(one.fingerprint().bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
    }

    #[test]
    fn fingerprint_differs_where_scripts_look_at_the_epoch() {
        let lasting = EngineSettings { expendable: false, ..SETTINGS };
        assert_ne!(warm(&SETTINGS).unwrap().fingerprint(), warm(&lasting).unwrap().fingerprint());
    }

    #[test]
    fn settings_without_instances_are_refused() {
        let none = EngineSettings { instances: 0, ..SETTINGS };
        assert!(matches!(warm(&none), Err(EngineError::NoInstances)));
    }

    #[test]
    fn version_in_the_fingerprint_is_the_one_that_is_built() {
        let manifest = include_str!("../../Cargo.toml");
        assert!(manifest.contains(&format!("wasmtime = {{ version = \"={WASMTIME_VERSION}\"")));
    }
}
