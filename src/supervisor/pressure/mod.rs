//! Watching how scarce memory is.
//!
//! Owns: the task that reads the kernel's pressure stall information, and what is known of it.
//! Never: decides what is done about it.
//!
//! The file is read every [`config::Pressure::interval`], and at once when the kernel says that the threshold was passed,
//! where it can be asked to.

mod gauge;
mod source;

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

pub use self::source::{NoPressure, choose};

use self::gauge::{Gauge, Reading, Thresholds};
use super::zygote::closed;
use crate::config;
use crate::observe::Causes;

/// What is known of the pressure.
#[derive(Debug)]
pub(crate) struct Pressure {
    source: RefCell<Result<PathBuf, NoPressure>>,
    pressed: Cell<bool>,
    periods: Cell<u64>,
}

impl Pressure {
    /// Of the file that `config` says, with `group` for the supervisor's own tree of cgroups.
    pub(crate) fn of(config: &config::Pressure, group: Option<&Path>) -> Rc<Self> {
        let source = source::choose(&config.file, group);
        match &source {
            Ok(path) => tracing::debug!(path = %path.display(), "memory pressure is watched"),
            Err(NoPressure::Off) => {}
            Err(why) => {
                tracing::warn!(error = %Causes(why), "memory pressure is not known: as many workers stand ready as the load asks for");
            }
        }
        Rc::new(Self { source: RefCell::new(source), pressed: Cell::new(false), periods: Cell::new(0) })
    }

    /// Whether memory is scarce; `None` when that is not known.
    pub(crate) fn is_pressed(&self) -> Option<bool> {
        self.source.borrow().is_ok().then(|| self.pressed.get())
    }

    /// The file it is known from, or why it is not.
    pub(crate) fn source(&self) -> String {
        match &*self.source.borrow() {
            Ok(path) => path.display().to_string(),
            Err(why) => why.to_string(),
        }
    }

    /// Times memory became scarce.
    pub(crate) fn periods(&self) -> u64 {
        self.periods.get()
    }

    /// Watches until `closing` says so or nothing can be read any more, and calls `tell` with every change. To be spawned
    /// once.
    pub(crate) async fn watch(
        self: Rc<Self>,
        config: config::Pressure,
        mut closing: watch::Receiver<bool>,
        tell: impl Fn(bool),
    ) {
        let Ok(path) = self.source.borrow().clone() else { return };
        let config::Pressure { interval, high_percent, low_percent, calm, .. } = config;
        let mut gauge = Gauge::new(Thresholds { high_percent, low_percent, calm });
        let trigger = source::trigger(&path, interval, high_percent);
        tracing::debug!(trigger = trigger.is_some(), "watching memory pressure");
        loop {
            match source::read(&path) {
                Ok(stalled) => drop(gauge.read(Reading { at: Instant::now(), stalled })),
                Err(why) => {
                    tracing::warn!(error = %Causes(&why), "memory pressure is not known any more");
                    *self.source.borrow_mut() = Err(why);
                    self.note(false, &tell);
                    return;
                }
            }
            self.note(gauge.is_pressed(), &tell);
            let next = Instant::now() + interval;
            // The kernel is heard once an interval: it may say it again and again.
            let mut heard = false;
            loop {
                tokio::select! {
                    biased;
                    () = closed(&mut closing) => return,
                    () = spoken(trigger.as_ref()), if !heard => {
                        heard = true;
                        gauge.alarm();
                        self.note(true, &tell);
                    }
                    () = tokio::time::sleep_until(next.into()) => break,
                }
            }
        }
    }

    fn note(&self, pressed: bool, tell: &impl Fn(bool)) {
        if self.pressed.replace(pressed) == pressed {
            return;
        }
        if pressed {
            self.periods.set(self.periods.get().saturating_add(1));
            tracing::warn!("memory is scarce: no more workers stand ready than must");
        } else {
            tracing::info!("memory is no longer scarce");
        }
        tell(pressed);
    }
}

/// Returns when the kernel says that the threshold was passed.
async fn spoken(trigger: Option<&AsyncFd<OwnedFd>>) {
    let Some(trigger) = trigger else { return pending().await };
    match trigger.ready(Interest::PRIORITY).await {
        Ok(mut ready) => ready.clear_ready(),
        // The runtime is ending.
        Err(_) => pending().await,
    }
}
