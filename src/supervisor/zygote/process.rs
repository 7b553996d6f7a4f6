//! One zygote process.
//!
//! Owns: its start, its control socket, its end.
//! Never: starts another.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::rc::Rc;

use stockade_sys::{link, pidfd};
use stockade_wire::zygote::{ForkOrder, FromZygote, ToZygote, WarmReport};
use stockade_worker::run::make_room_for_scripts;
use tokio::time::timeout;

use super::{FORK_TIMEOUT, Settings, WARM_TIMEOUT, ZygoteError, forked};
use crate::supervisor::child::{Child, Graveyard};
use crate::supervisor::link::Link;

/// The role argument; `main` looks for it before anything else.
const ROLE: &str = "zygote";

/// A zygote. It holds nothing worth a grace: dropped, it is killed and buried.
pub(super) struct Process {
    child: Child,
    control: Link<ToZygote, FromZygote>,
}

impl Process {
    /// Starts a zygote in a clean environment and waits until it is warm.
    pub(super) async fn start(
        settings: &Settings,
        graveyard: &Rc<Graveyard>,
    ) -> Result<(Self, WarmReport), ZygoteError> {
        let process = Self::spawn(settings, graveyard)?;
        let warm = timeout(WARM_TIMEOUT, process.warm(settings)).await;
        let report = warm.map_err(|_| ZygoteError::Hung(WARM_TIMEOUT))??;
        Ok((process, report))
    }

    fn spawn(settings: &Settings, graveyard: &Rc<Graveyard>) -> Result<Self, ZygoteError> {
        let failed = |source| ZygoteError::Start { path: settings.executable.clone(), source };
        let broken = |error: &dyn std::fmt::Display| ZygoteError::Broken(error.to_string());
        let (ours, theirs) = link::pair().map_err(|error| broken(&error))?;
        make_room_for_scripts();
        // Standard descriptors are all it inherits: every other one of ours is close-on-exec.
        let mut spawned = Command::new(&settings.executable)
            .arg0("stockade-zygote")
            .arg(ROLE)
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            // A group of its own, which its workers are born into: what a terminal sends to the foreground group,
            // such as SIGINT, is for the supervisor to answer.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let pidfd = pidfd::open(spawned.id()).map_err(|errno| {
            // Without a pidfd nothing would ever reap it.
            let _ = spawned.kill();
            let _ = spawned.wait();
            failed(errno.into())
        })?;
        // The standard library's handle is let go without waiting: from here on the pidfd is what reaps.
        let child = Child::new(spawned.id(), pidfd, None, graveyard).map_err(failed)?;
        Ok(Self { child, control: Link::new(ours).map_err(|error| broken(&error))? })
    }

    async fn warm(&self, settings: &Settings) -> Result<WarmReport, ZygoteError> {
        let config = ToZygote::Configure(settings.config.clone());
        match self.ask(&config, &[], 0).await? {
            (FromZygote::Warm(report), _) if is_fingerprint(&report.engine_fingerprint) => Ok(report),
            (FromZygote::Failed(why), _) => Err(ZygoteError::NotWarm(why)),
            _ => Err(ZygoteError::Broken("it answered its configuration with something else".to_owned())),
        }
    }

    /// Has it fork: the new process's id and pidfd.
    pub(super) async fn fork(
        &self,
        order: &ForkOrder,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(u32, OwnedFd), ZygoteError> {
        let order = ToZygote::Fork(order.clone());
        let (answer, fds) = timeout(FORK_TIMEOUT, self.ask(&order, fds, 1))
            .await
            .map_err(|_| ZygoteError::Hung(FORK_TIMEOUT))??;
        forked(answer, fds)
    }

    async fn ask(
        &self,
        message: &ToZygote,
        fds: &[BorrowedFd<'_>],
        fds_back_max: usize,
    ) -> Result<(FromZygote, Vec<OwnedFd>), ZygoteError> {
        let broken = |error: crate::supervisor::link::ExchangeError| ZygoteError::Broken(error.to_string());
        self.control.send(message, fds).await.map_err(broken)?;
        self.control
            .receive(fds_back_max)
            .await
            .map_err(broken)?
            .ok_or_else(|| ZygoteError::Broken("it closed its socket".to_owned()))
    }

    /// Its process id, and that of the process group it leads.
    pub(super) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Returns when it has exited.
    pub(super) async fn exited(&self) {
        self.child.exited().await;
    }
}

/// The fingerprint becomes part of a path, so it is held to what it should look like.
fn is_fingerprint(text: &str) -> bool {
    (8..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
