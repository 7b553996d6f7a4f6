//! One zygote process.
//!
//! Owns: its start, its control socket, its end.
//! Never: starts another.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use stockade_sys::{link, pidfd};
use stockade_wire::zygote::{ForkOrder, FromZygote, ToZygote, WarmReport};
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use super::{FORK_TIMEOUT, Forked, Settings, WARM_TIMEOUT, ZygoteError, forked};
use crate::supervisor::link::Link;
use crate::supervisor::readiness::watch;

/// The role argument; `main` looks for it before anything else.
const ROLE: &str = "zygote";

pub(super) struct Process {
    pidfd: AsyncFd<OwnedFd>,
    control: Link<ToZygote, FromZygote>,
}

impl Process {
    /// Starts a zygote in a clean environment and waits until it is warm.
    pub(super) async fn start(settings: &Settings) -> Result<(Self, WarmReport), ZygoteError> {
        let mut process = Self::spawn(settings)?;
        match timeout(WARM_TIMEOUT, process.warm(settings)).await {
            Ok(Ok(report)) => Ok((process, report)),
            Ok(Err(error)) => {
                process.end().await;
                Err(error)
            }
            Err(_) => {
                process.end().await;
                Err(ZygoteError::Hung(WARM_TIMEOUT))
            }
        }
    }

    fn spawn(settings: &Settings) -> Result<Self, ZygoteError> {
        let failed = |source| ZygoteError::Start { path: settings.executable.clone(), source };
        let broken = |error: &dyn std::fmt::Display| ZygoteError::Broken(error.to_string());
        let (ours, theirs) = link::pair().map_err(|error| broken(&error))?;
        // Standard descriptors are all it inherits: every other one of ours is close-on-exec.
        let child = Command::new(&settings.executable)
            .arg0("stockade-zygote")
            .arg(ROLE)
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .map_err(failed)?;
        // `Child` is let go without waiting: the pidfd is what reaps it, and nothing else does.
        let pidfd = pidfd::open(child.id()).map_err(|errno| failed(errno.into()))?;
        Ok(Self {
            pidfd: watch(pidfd).map_err(failed)?,
            control: Link::new(ours).map_err(|error| broken(&error))?,
        })
    }

    async fn warm(&mut self, settings: &Settings) -> Result<WarmReport, ZygoteError> {
        let config = ToZygote::Configure(settings.config.clone());
        match self.ask(&config, &[], 0).await? {
            (FromZygote::Warm(report), _) if is_fingerprint(&report.engine_fingerprint) => Ok(report),
            (FromZygote::Failed(why), _) => Err(ZygoteError::NotWarm(why)),
            _ => Err(ZygoteError::Broken("it answered its configuration with something else".to_owned())),
        }
    }

    pub(super) async fn fork(
        &mut self,
        order: &ForkOrder,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Forked, ZygoteError> {
        let order = ToZygote::Fork(order.clone());
        let (answer, fds) = timeout(FORK_TIMEOUT, self.ask(&order, fds, 1))
            .await
            .map_err(|_| ZygoteError::Hung(FORK_TIMEOUT))??;
        forked(answer, fds)
    }

    async fn ask(
        &mut self,
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

    /// Returns when it has exited.
    pub(super) async fn exited(&mut self) {
        // An error means that the descriptor is of no use any more, which is as good as gone.
        let _ = self.pidfd.readable().await;
    }

    /// Kills it if need be and reaps it. It holds nothing worth a grace.
    pub(super) async fn end(mut self) {
        let _ = pidfd::signal(self.pidfd.as_fd(), Signal::SIGKILL);
        self.exited().await;
        if let Err(errno) = pidfd::reap(self.pidfd.as_fd()) {
            tracing::warn!(%errno, "zygote could not be reaped");
        }
    }
}

/// The fingerprint becomes part of a path, so it is held to what it should look like.
fn is_fingerprint(text: &str) -> bool {
    (8..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
