//! Flights over a compiler that compiles when it is told to.

use std::io::Write;

use tokio::task::{JoinHandle, LocalSet};

use super::*;

/// Long enough for whatever is to happen.
const LONG: Duration = Duration::from_secs(60);

/// A compiler that says what it begins, and ends it when it is told to.
#[derive(Default)]
struct Held {
    /// What was begun, by the modules' first bytes.
    begun: RefCell<Vec<u8>>,
    running: Cell<usize>,
    /// What may end.
    done: RefCell<Vec<u8>>,
    told: Notify,
}

struct Running<'a>(&'a Held);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
    }
}

impl Compile for Rc<Held> {
    async fn compile(&self, module: &Arc<Module>, _: bool, _place: Place) -> Result<File, Outcome> {
        let first = first(module);
        self.begun.borrow_mut().push(first);
        self.running.set(self.running.get() + 1);
        let _running = Running(self);
        loop {
            let told = self.told.notified();
            if self.done.borrow().contains(&first) {
                break;
            }
            told.await;
        }
        let mut file = memfd::create("artifact").unwrap();
        file.write_all(&module.read().unwrap()).unwrap();
        Ok(file)
    }
}

struct Rig {
    compiler: Rc<Held>,
    table: Rc<Artifacts<Rc<Held>>>,
}

impl Rig {
    fn new() -> Self {
        let compiler = Rc::new(Held::default());
        let settings = config::Cache {
            directory: None,
            disk_bytes: 0,
            memory_bytes: 1 << 20,
            files_max: 64,
            scripts_max: 0,
            scripts_bytes_max: 0,
            key_file: None,
        };
        let table = Rc::new(Artifacts::new(Rc::clone(&compiler), 1, &settings, "test").unwrap());
        Self { compiler, table }
    }

    /// A job of that user's that wants that module.
    fn job(&self, uid: u32, module: &Arc<Module>, left: Duration) -> JoinHandle<Landed> {
        let key = Key { digest: [first(module); 32], metered: false };
        let (table, module) = (Rc::clone(&self.table), Arc::clone(module));
        tokio::task::spawn_local(async move {
            let job = Job::sample("job", uid);
            let mut wanted = Wanted { job: &job, left };
            table.get(key, Some(module), &mut wanted).await
        })
    }

    fn done(&self, module: &Arc<Module>) {
        self.compiler.done.borrow_mut().push(first(module));
        self.compiler.told.notify_waiters();
    }

    fn begun(&self) -> Vec<u8> {
        self.compiler.begun.borrow().clone()
    }
}

fn module(first: u8) -> Arc<Module> {
    Arc::new(Module::Bytes(vec![first; 100]))
}

fn first(module: &Module) -> u8 {
    module.read().unwrap()[0]
}

/// Lets every task come as far as it can.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

fn test(body: impl AsyncFnOnce(Rig)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(LONG, body(Rig::new())).await.expect("it does not end");
    });
}

#[test]
fn compilation_that_nobody_waits_for_ends_and_gives_back_module_and_place() {
    test(async |rig| {
        let (first, second) = (module(1), module(2));
        let leaves = rig.job(1, &first, LONG);
        settle().await;
        assert_eq!((rig.begun(), rig.compiler.running.get()), (vec![1], 1));
        leaves.abort();
        settle().await;
        assert_eq!(rig.compiler.running.get(), 0, "it goes on for nobody");
        assert_eq!(Arc::strong_count(&first), 1, "its module is held for nobody");
        assert!(rig.table.flights.borrow().is_empty());
        rig.done(&second);
        assert!(rig.job(2, &second, LONG).await.unwrap().is_ok());
        assert_eq!(rig.table.compiled(), 1);
    });
}

#[test]
fn compilation_that_waits_and_that_nobody_waits_for_is_never_begun_and_holds_nothing() {
    test(async |rig| {
        let first = module(1);
        let compiling = rig.job(1, &first, LONG);
        settle().await;
        let modules: Vec<_> = (2..30).map(module).collect();
        let jobs: Vec<_> = modules.iter().map(|module| rig.job(1, module, LONG)).collect();
        settle().await;
        assert!(modules.iter().all(|module| Arc::strong_count(module) > 1));
        jobs.iter().for_each(JoinHandle::abort);
        settle().await;
        assert!(modules.iter().all(|module| Arc::strong_count(module) == 1), "modules are held for nobody");
        assert_eq!(rig.table.flights.borrow().len(), 1);
        rig.done(&first);
        assert!(compiling.await.unwrap().is_ok());
        settle().await;
        assert_eq!(rig.begun(), [1]);
    });
}

#[test]
fn compilation_goes_on_as_long_as_one_job_waits_for_it() {
    test(async |rig| {
        let wanted = module(1);
        let leaves = rig.job(1, &wanted, LONG);
        settle().await;
        let stays = rig.job(2, &wanted, LONG);
        settle().await;
        leaves.abort();
        settle().await;
        rig.done(&wanted);
        assert!(stays.await.unwrap().is_ok());
        assert_eq!(rig.begun(), [1]);
    });
}

#[test]
fn users_take_turns_at_the_compiler() {
    test(async |rig| {
        let modules: Vec<_> = (1..=5).map(module).collect();
        let mut jobs = Vec::new();
        for (uid, module) in [1, 1, 1, 1, 2].into_iter().zip(&modules) {
            jobs.push(rig.job(uid, module, LONG));
            settle().await;
        }
        for module in &modules {
            rig.done(module);
        }
        for job in jobs {
            assert!(job.await.unwrap().is_ok());
        }
        assert_eq!(rig.begun(), [1, 2, 5, 3, 4]);
    });
}

#[test]
fn module_that_several_users_want_is_compiled_in_the_turn_of_the_first_to_have_one() {
    test(async |rig| {
        let modules: Vec<_> = (1..=5).map(module).collect();
        let mut jobs: Vec<_> = Vec::new();
        for module in &modules {
            jobs.push(rig.job(1, module, LONG));
            settle().await;
        }
        jobs.push(rig.job(2, &modules[4], LONG));
        settle().await;
        for module in &modules {
            rig.done(module);
        }
        for job in jobs {
            assert!(job.await.unwrap().is_ok());
        }
        assert_eq!(rig.begun(), [1, 2, 5, 3, 4]);
    });
}

#[test]
fn time_runs_while_a_job_waits_for_the_compiler_and_not_while_it_compiles() {
    test(async |rig| {
        let (first, second) = (module(1), module(2));
        let little = Duration::from_millis(20);
        let compiling = rig.job(1, &first, little);
        settle().await;
        let waiting = rig.job(2, &second, little).await.unwrap().map(drop).unwrap_err();
        assert_eq!(waiting.reason.as_deref(), Some("deadline_in_queue"));
        assert_eq!(Arc::strong_count(&second), 1);
        // As much time has passed for the one that is compiled.
        rig.done(&first);
        assert!(compiling.await.unwrap().is_ok());
        assert_eq!(rig.begun(), [1]);
    });
}

#[test]
fn bytes_that_come_while_it_is_looked_for_serve_whoever_came_without() {
    test(async |rig| {
        let wanted = module(1);
        let key = Key { digest: [1; 32], metered: false };
        let (_, mut without) = rig.table.board(key, None);
        let (flight, _) = rig.table.board(key, Some(Arc::clone(&wanted)));
        flight.give(rig.table.compilers.take(1).await);
        assert!(matches!(*without.borrow_and_update(), Stage::Looking), "a place too early is not taken");
        let job = rig.job(1, &wanted, LONG);
        rig.done(&wanted);
        assert!(job.await.unwrap().is_ok());
        assert!(matches!(*without.borrow(), Stage::Landed(Ok(_))));
    });
}
