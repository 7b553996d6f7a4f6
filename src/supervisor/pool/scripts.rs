//! Workers that say what a script compiles to.
//!
//! Owns: one such worker, from the template of the JavaScript engine to its end.
//! Never: gives it anything but the source; takes it from a job that waited before; believes more than one reply, or looks
//! into it.

use std::rc::Rc;
use std::time::Duration;

use stockade_wire::bytes::ByteBuf;
use stockade_wire::job::Purpose;
use stockade_wire::limits::SCRIPT_FORM_BYTES_MAX;
use stockade_wire::worker::{
    CompiledForm, Ending, FromWorker, RunLimits, RunOrder, ScriptOrder, ScriptSource, ToWorker,
};
use tokio::time::timeout;

use super::Pool;
use super::templates::{Holder, NEXT_FORK_WAIT};
use crate::supervisor::artifact::Key;
use crate::supervisor::link::ExchangeError;
use crate::supervisor::script;
use crate::supervisor::scripts::ScriptKey;
use crate::supervisor::worker::Worker;
use crate::supervisor::zygote::closed;

/// Longest time that one takes, and with it all that it can have of a processor, which is nobody's bill. No setting: a source that
/// is short enough to travel in an order takes a few milliseconds, and while one is compiled no other is.
const TIME_MAX: Duration = Duration::from_millis(250);

/// Most memory that the engine may have for it, bytes. No setting: several times what such a source takes.
const MEMORY_BYTES_MAX: u64 = 32 << 20;

/// The export that a module is said to be called by. None is called.
const ENTRY: &str = "default";

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// No worker had the source: there was none to spare.
    NotAsked,
    /// There is no form of it, or not in time.
    Nothing,
    Form(Vec<u8>),
}

impl Pool {
    /// Whether scripts are compiled ahead at all: by forks of a template, and not where callers have limits of their own, since
    /// such a fork would count against one's and be no job of theirs.
    pub(crate) const fn compiles_scripts(&self) -> bool {
        !self.by_caller && self.templates.max > 0 && self.templates_reach_leaves()
    }

    /// Has a worker with the `engine` say what a script compiles to. It ends with its reply, or its time, or the pool.
    pub(crate) async fn compile_script(
        self: &Rc<Self>,
        engine: Key,
        key: &ScriptKey,
        source: ByteBuf,
    ) -> Told {
        let mut closing = self.zygote.closing();
        tokio::select! {
            biased;
            () = closed(&mut closing) => Told::NotAsked,
            told = self.ask_for_form(engine, key, source) => told,
        }
    }

    async fn ask_for_form(&self, engine: Key, key: &ScriptKey, source: ByteBuf) -> Told {
        if self.ready.is_pressed() || self.closed.get() {
            return Told::NotAsked;
        }
        let holder = Holder { uid: self.engine_holder(key.uid), key: engine, engine: true };
        let Some(worker) = self.take_aside(&holder).await else { return Told::NotAsked };
        let order = self.order_to_compile(key, source);
        if self.fit(&worker, order.limits.memory_bytes).is_err() {
            return Told::NotAsked;
        }
        let within = self.config.compile.timeout.min(TIME_MAX);
        let told = timeout(within, self.ask(&worker, order)).await.unwrap_or(Told::Nothing);
        tracing::debug!(pid = worker.pid(), form = matches!(told, Told::Form(_)), "script compiled ahead");
        worker.leave(None, None);
        told
    }

    /// A worker for something that no job waits for: one that stands ready, or the next that there is when the jobs that
    /// waited before have theirs. `None` where there is no template, or it has none to spare.
    async fn take_aside(&self, holder: &Holder) -> Option<Worker> {
        let stand = self.templates.stand(holder)?;
        if let Some(worker) = stand.spare() {
            return Some(worker);
        }
        let coming = stand.wait()?;
        // Not kept: with the stand goes whoever waits for it.
        drop(stand);
        timeout(NEXT_FORK_WAIT, coming).await.ok()?.ok()
    }

    /// What it replies is believed before it has exited: it is given to nobody but the source's own user, and whoever can reply can
    /// exit in good order as well.
    async fn ask(&self, worker: &Worker, order: RunOrder) -> Told {
        if worker.link.send(&ToWorker::Run(order), &[]).await.is_err() {
            return Told::NotAsked;
        }
        match worker.link.receive(0).await {
            Ok(Some((message, _))) => read(message),
            Err(ExchangeError::Unread) => {
                self.doubt();
                Told::NotAsked
            }
            Ok(None) | Err(_) => Told::Nothing,
        }
    }

    fn order_to_compile(&self, key: &ScriptKey, source: ByteBuf) -> RunOrder {
        let config = &self.config;
        let memory_bytes = MEMORY_BYTES_MAX.min(config.ceilings.memory_bytes);
        let time = config.compile.timeout.min(TIME_MAX);
        RunOrder {
            name: key.name.clone(),
            entry: key.module.then(|| ENTRY.to_owned()),
            arguments: Vec::new(),
            environment: Vec::new(),
            limits: RunLimits {
                deadline_us: u64::try_from(time.as_micros()).unwrap_or(u64::MAX),
                memory_bytes,
                data_bytes: config.jail.data_bytes(memory_bytes).saturating_add(script::DATA_BYTES),
                fuel: None,
                input_bytes: Some(0),
            },
            script: Some(ScriptOrder {
                source: ScriptSource::Here(source),
                input: Some(ByteBuf::default()),
                job: String::new(),
                tenant: String::new(),
                traceparent: None,
                request_id: None,
                purpose: Purpose::Check,
                compiled: CompiledForm::Wanted,
            }),
        }
    }
}

fn read(message: FromWorker) -> Told {
    match message {
        FromWorker::CompiledScript(report, Some(form))
            if report.ending == Ending::Exited(0) && (1..=SCRIPT_FORM_BYTES_MAX).contains(&form.0.len()) =>
        {
            Told::Form(form.0)
        }
        FromWorker::CompiledScript(..)
        | FromWorker::Locked(_)
        | FromWorker::LockFailed(_)
        | FromWorker::NotGranted(_)
        | FromWorker::Compiled(_)
        | FromWorker::NotCompiled(_)
        | FromWorker::Finished(_)
        | FromWorker::Returned(..)
        | FromWorker::Forbidden(_)
        | FromWorker::Panicked(_)
        | FromWorker::Prepared { .. }
        | FromWorker::NotPrepared(_)
        | FromWorker::Forked { .. }
        | FromWorker::NotForked { .. } => Told::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use stockade_wire::worker::RunReport;

    use super::*;

    fn report(ending: Ending) -> RunReport {
        RunReport {
            ending,
            fuel: None,
            wasm_memory_peak_bytes: 0,
            growth_refused: false,
            load_us: 0,
            run_us: 0,
            mdwe: true,
            command: false,
            usage: None,
        }
    }

    #[test]
    fn form_is_taken_as_far_as_it_may_go_and_of_a_script_that_was_compiled() {
        let compiled =
            |ending, bytes| FromWorker::CompiledScript(report(ending), Some(vec![7; bytes].into()));
        let well = || Ending::Exited(0);
        assert_eq!(read(compiled(well(), SCRIPT_FORM_BYTES_MAX)), Told::Form(vec![7; SCRIPT_FORM_BYTES_MAX]));
        for message in [
            compiled(well(), SCRIPT_FORM_BYTES_MAX + 1),
            compiled(well(), 0),
            compiled(Ending::Interrupted, 8),
            FromWorker::CompiledScript(report(well()), None),
            FromWorker::Finished(report(well())),
            FromWorker::Returned(report(well()), vec![7; 8].into()),
            FromWorker::Forbidden(41),
            FromWorker::Panicked(String::new()),
        ] {
            assert_eq!(read(message.clone()), Told::Nothing, "{message:?}");
        }
    }
}
