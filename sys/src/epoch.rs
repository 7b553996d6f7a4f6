//! Stopping guest code from a signal handler, in a worker of one thread.
//!
//! Owns: the handlers of SIGALRM (the deadline) and SIGTERM in a worker, and the process's interval timer.
//! Never: is used in a process with other work than one job at a time; decides when a deadline is.
//!
//! ```text
//! deadline ─▶ SIGALRM ─▶ epoch + 1, timer := OVERDUE  ─▶ SIGALRM ─▶ _exit(TERM_EXIT_CODE)
//! SIGTERM  ─▶ epoch + 1, timer := TERM_PATIENCE       ─▶ SIGALRM ─▶ _exit(TERM_EXIT_CODE)
//! reply    ─▶ timer := as it is told                  ─▶ SIGALRM ─▶ _exit(0)
//! ```
//! With the epoch a guest traps at its next loop edge or call; a script ends where its engine asks next. The timers after that
//! are for a guest that sits in a host call or in a bulk memory instruction, where no epoch is looked at, and for a script that
//! does not ask. The first of them comes after all that the supervisor does, and is for one that does nothing any more.
//!
//! [`install`] uses `rt_sigaction` and must come before the filter that refuses it. Afterwards `setitimer`,
//! `rt_sigreturn` and `exit_group` are needed, and `restart_syscall` after a stop.

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::time::Duration;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use wasmtime::Engine;

/// How long a worker that got SIGTERM may take to end its guest in good order.
pub const TERM_PATIENCE: Duration = Duration::from_millis(20);

/// How long after its deadline a worker ends by itself that could not end its guest and was not told to. The supervisor tells it
/// within a second, the longest head start that a guest may have.
pub const OVERDUE: Duration = Duration::from_secs(2);

/// Exit status of a worker that could not end its guest within [`TERM_PATIENCE`] of SIGTERM, or [`OVERDUE`] of its deadline.
pub const TERM_EXIT_CODE: i32 = 143;

static ENGINE: AtomicPtr<Engine> = AtomicPtr::new(ptr::null_mut());
static DEADLINE_PASSED: AtomicBool = AtomicBool::new(false);
static STOPPING: AtomicBool = AtomicBool::new(false);
static LEAVING: AtomicBool = AtomicBool::new(false);

/// Why the handlers or the timer could not be set.
#[derive(Debug, thiserror::Error)]
pub enum EpochError {
    /// `sigaction` failed.
    #[error("handler for {signal} cannot be installed")]
    Handler {
        /// The signal.
        signal: Signal,
        /// Why.
        #[source]
        source: nix::Error,
    },
    /// `setitimer` failed.
    #[error("deadline timer cannot be set")]
    Timer(#[source] std::io::Error),
}

/// Makes SIGALRM and SIGTERM stop the code that `engine` runs. Call it in a worker, after the fork and before
/// the last seccomp filter; a worker before it dies of SIGTERM, having no guest to stop. A clone of `engine`
/// is kept for the life of the process.
///
/// # Errors
/// When the kernel refuses a handler.
pub fn install(engine: &Engine) -> Result<(), EpochError> {
    // Leaked: a handler may run at any later moment.
    ENGINE.store(Box::into_raw(Box::new(engine.clone())), Ordering::SeqCst);
    handle(Signal::SIGALRM, on_alarm)?;
    handle(Signal::SIGTERM, on_term)
}

/// Starts a job's deadline: SIGALRM after `remaining`, once. Callable before and after the last filter, and again for
/// the next job once the one before is disarmed: a signal that one left pending has been delivered by then, since
/// system calls deliver them on their way back, and is forgotten here.
///
/// # Errors
/// When the kernel refuses the timer.
pub fn arm(remaining: Duration) -> Result<(), EpochError> {
    DEADLINE_PASSED.store(false, Ordering::SeqCst);
    set_timer(remaining)?;
    // A SIGTERM that came just before has had its shorter timer overwritten.
    if stopping() { set_timer(TERM_PATIENCE) } else { Ok(()) }
}

/// Stops the timer, once the guest is over: from here on the worker has only its report to send, and is not to be
/// cut off in it. The supervisor's SIGKILL still ends it.
///
/// # Errors
/// When the kernel refuses the timer.
pub fn disarm() -> Result<(), EpochError> {
    start_timer(Duration::ZERO)?;
    // The deadline's signal may have come on the way back from that, and its handler has set the next timer.
    if deadline_passed() { start_timer(Duration::ZERO) } else { Ok(()) }
}

/// Ends the process with status 0 after `remaining`, whatever it does then. For one that has nothing left to do. Whether it
/// will: before [`install`] it does not, for the timer's signal would be what the process died of.
///
/// # Errors
/// When the kernel refuses the timer.
pub fn exit_after(remaining: Duration) -> Result<bool, EpochError> {
    if ENGINE.load(Ordering::SeqCst).is_null() {
        return Ok(false);
    }
    LEAVING.store(true, Ordering::SeqCst);
    set_timer(remaining).map(|()| true)
}

/// Whether the deadline's signal has come.
#[must_use]
pub fn deadline_passed() -> bool {
    DEADLINE_PASSED.load(Ordering::SeqCst)
}

/// Whether SIGTERM has come.
#[must_use]
pub fn stopping() -> bool {
    STOPPING.load(Ordering::SeqCst)
}

fn handle(signal: Signal, handler: extern "C" fn(libc::c_int)) -> Result<(), EpochError> {
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGALRM);
    blocked.add(Signal::SIGTERM);
    // SA_RESTART: the worker's own reads and writes are not to fail because a guest ran out of time.
    // SA_ONSTACK: the guest's stack may be nearly used up when the signal comes.
    let action =
        SigAction::new(SigHandler::Handler(handler), SaFlags::SA_RESTART | SaFlags::SA_ONSTACK, blocked);
    // SAFETY: `sigaction` asks that the handler do only async-signal-safe things. `on_alarm` and `on_term` load
    // and store atomics, increment the engine's epoch (documented as signal-safe), and make the system calls
    // `setitimer` and `exit_group`; neither allocates, locks or unwinds.
    unsafe { sigaction(signal, &action) }.map(|_| ()).map_err(|source| EpochError::Handler { signal, source })
}

extern "C" fn on_alarm(_signal: libc::c_int) {
    if LEAVING.load(Ordering::SeqCst) {
        // SAFETY: `_exit` has no precondition; it runs no destructor and no exit handler.
        unsafe { libc::_exit(0) }
    }
    if stopping() {
        // SAFETY: `_exit` has no precondition; it runs no destructor and no exit handler.
        unsafe { libc::_exit(TERM_EXIT_CODE) }
    }
    // The second is that of the timer which is set here: whatever begins or ends a job sets another, or none.
    let overdue = DEADLINE_PASSED.swap(true, Ordering::SeqCst);
    bump();
    if overdue || set_timer(OVERDUE).is_err() {
        // SAFETY: `_exit` has no precondition; it runs no destructor and no exit handler.
        unsafe { libc::_exit(TERM_EXIT_CODE) }
    }
}

extern "C" fn on_term(_signal: libc::c_int) {
    // Only the first sets the timer: repeated SIGTERMs are not to put the end off.
    if STOPPING.swap(true, Ordering::SeqCst) {
        return;
    }
    bump();
    if set_timer(TERM_PATIENCE).is_err() {
        // SAFETY: `_exit` has no precondition; it runs no destructor and no exit handler.
        unsafe { libc::_exit(TERM_EXIT_CODE) }
    }
}

fn bump() {
    let engine = ENGINE.load(Ordering::SeqCst);
    // SAFETY: `as_ref` asks for null or a pointer to a live, shared `Engine`. The only store is in `install`, of
    // a leaked box that nothing frees or borrows mutably.
    if let Some(engine) = unsafe { engine.as_ref() } {
        engine.increment_epoch();
    }
}

fn set_timer(after: Duration) -> Result<(), EpochError> {
    // All zeroes would switch the timer off.
    start_timer(after.max(Duration::from_micros(1)))
}

/// One system call and no allocation, so that a signal handler may call it. Zero switches the timer off.
fn start_timer(after: Duration) -> Result<(), EpochError> {
    let once = libc::itimerval {
        it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 },
        it_value: libc::timeval {
            tv_sec: libc::time_t::try_from(after.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_usec: libc::suseconds_t::from(after.subsec_micros()),
        },
    };
    // SAFETY: `setitimer` reads a valid `itimerval` for the length of the call, and writes none because the third
    // argument is null.
    let status = unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const once, ptr::null_mut()) };
    if status == 0 { Ok(()) } else { Err(EpochError::Timer(std::io::Error::last_os_error())) }
}
