//! Scripts that come again, compiled ahead for jobs in fresh processes.
//!
//! Owns: which jobs take part, and when a script is compiled.
//! Never: has a job wait for that; has the process of a job compile for another.
//!
//! The process of a job has seen an input, and nothing of it is to be found by another job, whatever a script has made of its
//! engine and of its process. What compiles is therefore a process of its own, jailed as a job's, which sees the source alone
//! and is gone after its reply. Who leads the engine astray by a source leads it astray for that very script of that user and
//! for nothing else: its jobs are the only ones that are given the form, and they had that source before.

mod forms;

pub(super) use self::forms::{COMPILING_MAX, Found, ScriptKey};

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use stockade_wire::job::{Digest, Purpose};

use self::forms::Forms;
use super::job::Job;
use super::pool::{Pool, Told};
use super::script::Text;
use super::work::Work;
use crate::config;

/// What is known of the scripts that ran, and how often it was of use.
pub(super) struct Scripts {
    forms: RefCell<Forms>,
    compiled: Cell<u64>,
    hits: Cell<u64>,
}

impl Scripts {
    /// For jobs whose workers come from `pool`.
    pub(super) fn new(config: &config::Cache, pool: &Pool) -> Rc<Self> {
        let bytes_max = if pool.compiles_scripts() { config.scripts_bytes_max } else { 0 };
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        let forms = RefCell::new(Forms::new(config.scripts_max, bytes_max));
        Rc::new(Self { forms, compiled: Cell::new(0), hits: Cell::new(0) })
    }

    /// Scripts compiled since start.
    pub(super) fn compiled(&self) -> u64 {
        self.compiled.get()
    }

    /// Jobs that were given what their script compiles to.
    pub(super) fn hits(&self) -> u64 {
        self.hits.get()
    }

    /// What is known of a job's script, whose source has that digest.
    pub(super) fn look(&self, job: &Job, digest: Digest, source: Option<&Text>) -> Found {
        if !takes_part(job, source) {
            return Found::Nothing;
        }
        let admitted = &job.admitted;
        let (uid, name, module) = (admitted.caller.uid, admitted.name.clone(), admitted.entry.is_some());
        self.forms.borrow_mut().look(ScriptKey { uid, digest, name, module })
    }

    /// Notes that a job has its worker. Now its script is compiled in the background, if it came again.
    pub(super) fn has_worker(self: &Rc<Self>, pool: &Rc<Pool>, work: &Work) {
        match (&work.compiled, &work.source) {
            (Found::Form(_), _) => self.hits.set(self.hits.get() + 1),
            (Found::Again(key), Some(Text::Here(source))) if self.forms.borrow_mut().begin(key) => {
                let (scripts, pool, key) = (Rc::clone(self), Rc::clone(pool), Rc::clone(key));
                let (engine, source) = (work.key, source.clone());
                tokio::task::spawn_local(async move {
                    let told = pool.compile_script(engine, &key, source).await;
                    scripts.note(&key, told);
                });
            }
            (Found::Again(_) | Found::Nothing, _) => {}
        }
    }

    fn note(&self, key: &ScriptKey, told: Told) {
        let mut forms = self.forms.borrow_mut();
        match told {
            Told::NotAsked => forms.put_back(key),
            Told::Nothing => forms.end(key, None),
            Told::Form(form) => {
                self.compiled.set(self.compiled.get() + 1);
                forms.end(key, Some(form.into()));
            }
        }
    }
}

/// Whether a job is one that runs a script in a process of its own, from a source in its order. Where fuel is counted it is to
/// come to the same whenever the script runs; and a tenant worker keeps forms of its own.
fn takes_part(job: &Job, source: Option<&Text>) -> bool {
    let admitted = &job.admitted;
    let here = matches!(source, Some(Text::Here(_)));
    here && admitted.purpose == Purpose::Run && !admitted.shares && admitted.limits.fuel.is_none()
}
