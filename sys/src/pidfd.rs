//! Processes by descriptor: signals that cannot hit a recycled pid, and the end as the kernel tells it.
//!
//! Owns: opening, signalling and reaping by pidfd.
//! Never: decides to kill, waits for readiness (poll the pidfd, then [`reap`]).

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exit {
    /// It exited with this status, 0 to 255.
    Code(i32),
    /// This signal killed it (a number: real-time signals have no name).
    Signal(i32),
}

/// What the kernel says of a process that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// How.
    pub exit: Exit,
    /// CPU time in user mode, all threads.
    pub cpu_user: Duration,
    /// CPU time in the kernel, all threads.
    pub cpu_system: Duration,
    /// Peak resident set, bytes. After a fork it starts from what the parent had resident.
    pub resident_peak_bytes: u64,
    /// Page faults, minor and major.
    pub page_faults: u64,
}

/// A descriptor for the process `pid`, which must not have been reaped.
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn open(pid: u32) -> Result<OwnedFd, Errno> {
    let pid = i32::try_from(pid).map_err(|_| Errno::ESRCH)?;
    // SAFETY: `pidfd_open(2)` takes two integers and touches no memory of ours.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: `from_raw_fd` wants an open descriptor nobody owns; the kernel has just made this one for us,
    // close-on-exec as all pidfds are.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends `signal` to the process behind `pidfd`, and to no other, whatever became of its pid.
///
/// # Errors
/// `ESRCH` when it has been reaped.
pub fn signal(pidfd: BorrowedFd<'_>, signal: Signal) -> Result<(), Errno> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: `pidfd_send_signal(2)` reads `info` only when it is not null, and it is.
    let done = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal as libc::c_int, no_info, 0)
    };
    Errno::result(done).map(drop)
}

/// Reaps the child behind `pidfd` if it has ended: `None` while it has not. Does not block.
///
/// The kernel hands the end out once: exactly one owner may call this for a process, and once it has
/// returned `Some`, a later call fails with `ECHILD`.
///
/// # Errors
/// `ECHILD` when it is not a child of this process or has been reaped.
pub fn reap(pidfd: BorrowedFd<'_>) -> Result<Option<Ended>, Errno> {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `waitid(2)`, the system call with its fifth argument, writes at most one `siginfo_t` and one
    // `rusage` through these pointers; both point to such objects, which live until after the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_waitid,
            libc::P_PIDFD,
            pidfd.as_raw_fd(),
            info.as_mut_ptr(),
            libc::WEXITED | libc::WNOHANG,
            usage.as_mut_ptr(),
        )
    };
    Errno::result(done)?;
    // SAFETY: all-zero bytes are a valid `siginfo_t`, and the kernel has only written valid fields since.
    let info = unsafe { info.assume_init() };
    // SAFETY: as for `info`: integers alone, zeroed before the call.
    let usage = unsafe { usage.assume_init() };
    // SAFETY: `si_pid` reads the union member that `waitid` fills in; zeroed when nothing had ended.
    if unsafe { info.si_pid() } == 0 {
        return Ok(None);
    }
    // SAFETY: `si_status` reads the member that `waitid` fills in for an ended child, which it is.
    let status = unsafe { info.si_status() };
    let exit = if info.si_code == libc::CLD_EXITED { Exit::Code(status) } else { Exit::Signal(status) };
    Ok(Some(Ended {
        exit,
        cpu_user: duration(usage.ru_utime),
        cpu_system: duration(usage.ru_stime),
        resident_peak_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0).saturating_mul(1024),
        page_faults: u64::try_from(usage.ru_minflt.saturating_add(usage.ru_majflt)).unwrap_or(0),
    }))
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u32::try_from(time.tv_usec).unwrap_or(0);
    Duration::new(seconds, micros.saturating_mul(1000))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::process::{Command, Stdio};

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    fn end(mut command: Command, sent: Option<Signal>) -> Exit {
        let child = command.stdin(Stdio::piped()).spawn().unwrap();
        let pidfd = open(child.id()).unwrap();
        assert_eq!(reap(pidfd.as_fd()).unwrap(), None);
        if let Some(sent) = sent {
            signal(pidfd.as_fd(), sent).unwrap();
        }
        drop(child);
        let mut polled = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::from(10_000_u16)).unwrap();
        let ended = reap(pidfd.as_fd()).unwrap().expect("the child should have ended");
        assert_eq!(reap(pidfd.as_fd()), Err(Errno::ECHILD));
        ended.exit
    }

    #[test]
    fn exited_child_is_reaped_once_with_its_status() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "cat; exit 7"]);
        assert_eq!(end(shell, None), Exit::Code(7));
    }

    #[test]
    fn killed_child_is_reaped_with_its_signal() {
        assert_eq!(end(Command::new("cat"), Some(Signal::SIGKILL)), Exit::Signal(9));
    }
}
