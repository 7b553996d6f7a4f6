//! Zygotes that get warm as they should and then do not do their work.
//!
//! Owns: the choice, by the executable's file name.
//! Never: forks a worker that works.
//!
//! | file name | what the zygote does with a fork order |
//! |---|---|
//! | `garbage-zygote` | answers with bytes that are no message |
//! | `silent-zygote` | does not answer |
//! | `forgetful-zygote` | says that it forked, and sends no pidfd |
//! | `leaving-zygote` | exits |
//! | `vanishing-zygote` | forks a process that exits at once, and exits itself without having said so |
//! | `refusing-zygote` | says that the kernel lets it fork no more |

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use stockade_sys::fork::sibling;
use stockade_sys::link;
use stockade_sys::prctl::exit_now;
use stockade_sys::solo::SingleThreaded;
use stockade_wire::frame::{self, HEADER_BYTES};
use stockade_wire::limits::{LINK_FDS_MAX, LINK_MESSAGE_BYTES_MAX};
use stockade_wire::zygote::{ForkOperation, FromZygote, ToZygote, WarmReport, ZygoteConfig};
use stockade_worker::engine::{self, EngineSettings};
use stockade_worker::jail::{landlock, namespaces};

type Answer = fn(&OwnedFd);

/// What a zygote of that name does; `None` when its manners are the product's.
#[must_use]
pub fn of(name: &str) -> Option<Answer> {
    let answer: Answer = match name {
        "garbage-zygote" => |control| throw(control, &[0xa5; 64]),
        "silent-zygote" => |_| {},
        "forgetful-zygote" => |control| say(control, &FromZygote::Forked { pid: std::process::id() }),
        "leaving-zygote" => |_| exit_now(0),
        "vanishing-zygote" => vanish,
        "refusing-zygote" => |control| {
            let errno = Errno::EAGAIN as i32;
            say(control, &FromZygote::NotForked { operation: ForkOperation::Clone, errno });
        },
        _ => return None,
    };
    Some(answer)
}

/// Serves `control` with `answer` to every fork order. Returns at the end of file, or when there is no engine.
pub fn serve(control: &OwnedFd, answer: Answer) {
    while let Some(message) = receive(control) {
        match message {
            ToZygote::Configure(config) => match warm(&config) {
                Some(report) => say(control, &FromZygote::Warm(report)),
                None => return,
            },
            ToZygote::Fork(_) => answer(control),
        }
    }
}

fn vanish(control: &OwnedFd) {
    // What it forks is the supervisor's child, and nobody's to wait for here.
    let forked = SingleThreaded::probe().map_err(|_| Errno::EINVAL);
    match forked.and_then(|solo| sibling(&solo, None, |_| exit_now(0))) {
        Ok(_) => exit_now(0),
        Err(errno) => {
            let errno = errno as i32;
            say(control, &FromZygote::NotForked { operation: ForkOperation::Clone, errno });
        }
    }
}

fn warm(config: &ZygoteConfig) -> Option<WarmReport> {
    nix::sys::prctl::set_name(c"stockade:zygote").ok()?;
    let settings = EngineSettings {
        memory_bytes_max: config.memory_bytes_max,
        scripts_bytes_max: config.scripts_bytes_max,
        instances: 1,
        expendable: true,
    };
    // A supervisor does not take a zygote that finds less than the first one did.
    let solo = SingleThreaded::probe().ok()?;
    let namespaces = namespaces::enter(&solo, config.namespaces, config.other_ids).ok()?;
    let warm = engine::warm(&settings).ok()?;
    Some(WarmReport {
        engine_fingerprint: warm.fingerprint(),
        threads: 1,
        landlock_abi: landlock::abi_in_force(),
        namespaces: namespaces.entered(),
        namespaces_missing: namespaces.missing().map(str::to_owned),
        // As that of a zygote whose filter took; the first one had it.
        filtered: true,
        text_bytes: 0,
    })
}

fn receive(control: &OwnedFd) -> Option<ToZygote> {
    let mut buffer = vec![0; HEADER_BYTES + LINK_MESSAGE_BYTES_MAX];
    let received = link::receive(control.as_fd(), &mut buffer, LINK_FDS_MAX).ok()?;
    let packet = buffer.get(..received.length).filter(|packet| !packet.is_empty())?;
    frame::decode_packet(packet, LINK_MESSAGE_BYTES_MAX).ok()
}

fn say(control: &OwnedFd, message: &FromZygote) {
    if let Ok(packet) = frame::encode(message, LINK_MESSAGE_BYTES_MAX) {
        throw(control, &packet);
    }
}

fn throw(control: &OwnedFd, packet: &[u8]) {
    // A supervisor that has closed its end has seen enough; the next receive says so.
    let _ = link::send(control.as_fd(), packet, &[]);
}
