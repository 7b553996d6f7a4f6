//! One real worker, made as `serve` and `run` make their first one, for `doctor`.
//!
//! Owns: the start, and what is learnt when it is refused: what a worker has where nothing is required.
//! Never: runs a job; leaves a process behind.

use stockade_wire::job::Layer;
use stockade_worker::survey::Finding;

use super::output::error_line;
use super::run::on_this_thread;
use crate::config::{CgroupRoot, Config};
use crate::supervisor::{FirstWorker, Startup};

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Trial {
    /// Why there would be no start, in a line.
    pub refused: Option<String>,
    /// What a worker had; of a start that is refused, one of which nothing was required. `None` when there is none
    /// even so.
    worker: Option<FirstWorker>,
    /// The worker was in a leaf, if there are leaves.
    in_leaf: bool,
}

impl Trial {
    /// Starts a zygote and one worker, looks at it, and ends both. Blocks until they are gone, for some tenths of a
    /// second. To be called on the main thread, outside any runtime.
    #[must_use]
    pub fn of(startup: &Startup) -> Self {
        match first_worker(startup.clone()) {
            Ok(worker) => Self { refused: None, worker: Some(worker), in_leaf: true },
            Err(refused) => {
                let worker = first_worker(undemanding(startup)).ok();
                Self { refused: Some(refused), worker, in_leaf: false }
            }
        }
    }

    /// What the worker had in the place of what the kernel offers.
    pub(super) fn seen(&self, offered: Finding) -> Finding {
        let layer = offered.layer;
        if layer == Layer::Cgroup && !self.in_leaf {
            return offered;
        }
        let absent = |reason: &str, fix: &str| Finding {
            layer,
            present: false,
            version: None,
            reason: Some(reason.to_owned()),
            fix: Some(fix.to_owned()),
        };
        let Some(worker) = &self.worker else {
            return if offered.present { absent(NO_WORKER, NO_WORKER_FIX) } else { offered };
        };
        if worker.layers.contains(&layer) {
            let version = version(layer, worker).or(offered.version);
            let (reason, fix) = if offered.present { (offered.reason, offered.fix) } else { (None, None) };
            return Finding { layer, present: true, version, reason, fix };
        }
        match worker.walls.missing.iter().find(|missing| missing.layer == layer.name()) {
            Some(missing) => absent(&missing.reason, &missing.fix),
            None if offered.present => absent("a worker did not have it", NO_WORKER_FIX),
            None => offered,
        }
    }
}

const NO_WORKER: &str = "no worker could be locked to look at";
const NO_WORKER_FIX: &str = "see why the worker is refused";

/// A start from there with a jail of which nothing is required, to learn what can be had.
fn undemanding(startup: &Startup) -> Startup {
    let mut startup = startup.clone();
    let Config { jail, cgroup, .. } = &mut startup.config;
    jail.require.clear();
    jail.landlock_abi_min = 0;
    // The first try may have moved this process, after which the tree is not what it was.
    cgroup.root = CgroupRoot::Off;
    startup
}

fn first_worker(startup: Startup) -> Result<FirstWorker, String> {
    let tried = on_this_thread(startup.first_worker()).map_err(|error| error.to_string())?;
    tried.map_err(|error| error_line(&error).trim_start_matches("stockade: ").to_owned())
}

/// As the worker has it, where that says more than the kernel does.
fn version(layer: Layer, worker: &FirstWorker) -> Option<String> {
    match layer {
        Layer::Landlock => worker.walls.landlock_abi.map(|abi| format!("ABI {abi}")),
        Layer::Namespaces => Some(worker.walls.namespaces.join(", ")),
        Layer::Seccomp
        | Layer::Cgroup
        | Layer::NoNewPrivs
        | Layer::Rlimits
        | Layer::Capabilities
        | Layer::Mdwe => None,
    }
}

#[cfg(test)]
mod tests {
    use stockade_wire::job::{MissingLayer, Walls};

    use super::*;

    fn offered(layer: Layer, present: bool) -> Finding {
        let reason = (!present).then(|| "the kernel has none".to_owned());
        Finding { layer, present, version: None, reason, fix: None }
    }

    fn trial(layers: &[Layer], walls: Walls) -> Trial {
        let worker = FirstWorker { layers: layers.to_vec(), walls };
        Trial { refused: None, worker: Some(worker), in_leaf: true }
    }

    #[test]
    fn layer_that_the_kernel_offers_and_a_worker_does_not_have_is_missing_for_the_workers_reason() {
        let missing = MissingLayer {
            layer: "namespaces".to_owned(),
            reason: "unshare failed".to_owned(),
            fix: "allow it".to_owned(),
        };
        let trial = trial(&[Layer::Seccomp], Walls { missing: vec![missing], ..Walls::default() });
        let seen = trial.seen(offered(Layer::Namespaces, true));
        assert!(!seen.present);
        assert_eq!((seen.reason.as_deref(), seen.fix.as_deref()), (Some("unshare failed"), Some("allow it")));
        assert!(trial.seen(offered(Layer::Seccomp, true)).present);
        assert!(!trial.seen(offered(Layer::Landlock, true)).present);
    }

    #[test]
    fn layer_that_a_worker_has_is_present_as_the_worker_has_it() {
        let walls = Walls { namespaces: vec!["net".to_owned(), "ipc".to_owned()], ..Walls::default() };
        let seen = trial(&[Layer::Namespaces], walls).seen(offered(Layer::Namespaces, false));
        assert_eq!((seen.present, seen.version.as_deref(), seen.reason), (true, Some("net, ipc"), None));
    }

    #[test]
    fn no_layer_is_present_where_no_worker_could_be_made() {
        let none = Trial { refused: Some("no zygote".to_owned()), ..Trial::default() };
        for layer in Layer::ALL.into_iter().filter(|layer| *layer != Layer::Cgroup) {
            let seen = none.seen(offered(layer, true));
            assert!(!seen.present && seen.reason.is_some() && seen.fix.is_some());
            assert_eq!(none.seen(offered(layer, false)).reason.as_deref(), Some("the kernel has none"));
        }
    }
}
