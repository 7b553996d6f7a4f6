//! `poll_oneoff` of WASI preview 1.
//!
//! Owns: waiting, for preview 1 guests.
//! Never: blocks the thread for longer than [`SHORT_SLEEP`], starts a thread.
//!
//! It takes the place of `wasmtime-wasi`'s, which sleeps with the thread, so that no deadline of ours would be
//! seen before the sleep is over, and reads regular files on a thread of its own, which a worker may not start.
//! Everything a guest can hold here is a file or a pipe that is read and written with blocking calls; such
//! descriptors are always ready, as POSIX has it for regular files.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use wasmtime::{Caller, Extern, Linker, Trap};

use super::Host;

/// Sleeps up to this long are made with the thread: the runtime's timer counts whole milliseconds.
const SHORT_SLEEP: Duration = Duration::from_millis(1);

/// Most subscriptions of one call: they are 192 KiB of its memory, and the host reads each.
const SUBSCRIPTIONS_MAX: u32 = 4096;

const SUBSCRIPTION_BYTES: u64 = 48;
const EVENT_BYTES: u64 = 32;

const ERRNO_SUCCESS: i32 = 0;
const ERRNO_BADF: i32 = 8;
const ERRNO_INVAL: i32 = 28;

/// `subclockflags.subscription_clock_abstime`
const ABSOLUTE: u16 = 1;

/// Where a call's arguments point.
#[derive(Clone, Copy)]
struct Call {
    subscriptions: u32,
    events: u32,
    count: u32,
    ready: u32,
}

/// What a subscription waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Subscription {
    userdata: [u8; 8],
    /// The tag of its event: 0 clock, 1 read, 2 write.
    tag: u8,
    /// How long until it is ready.
    wait: Duration,
}

/// What the clocks show while a call is worked on.
#[derive(Debug, Clone, Copy)]
struct Now {
    monotonic: Duration,
    realtime: Duration,
}

/// Defines it in place of the one that is there.
pub(super) fn link(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        "wasi_snapshot_preview1",
        "poll_oneoff",
        |mut caller: Caller<'_, Host>, (subscriptions, events, count, ready): (u32, u32, u32, u32)| {
            Box::new(async move { poll(&mut caller, Call { subscriptions, events, count, ready }).await })
        },
    )?;
    Ok(())
}

async fn poll(caller: &mut Caller<'_, Host>, call: Call) -> wasmtime::Result<i32> {
    caller.data_mut().called = true;
    if call.count == 0 || call.count > SUBSCRIPTIONS_MAX {
        return Ok(ERRNO_INVAL);
    }
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
        return Err(wasmtime::Error::msg("a guest of WASI must export its memory as \"memory\""));
    };
    let now = Now {
        monotonic: caller.data().clock_start.elapsed(),
        realtime: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
    };
    let mut subscriptions = Vec::with_capacity(call.count as usize);
    for nth in 0..call.count {
        let bytes = at::<{ SUBSCRIPTION_BYTES as usize }>(memory.data(&*caller), call.subscriptions, nth)?;
        match parse(bytes, now) {
            Ok(subscription) => subscriptions.push(subscription),
            Err(errno) => return Ok(errno),
        }
    }
    let wait = subscriptions.iter().map(|subscription| subscription.wait).min().unwrap_or_default();
    sleep(wait).await;

    let memory = memory.data_mut(caller);
    let mut ready: u32 = 0;
    for subscription in subscriptions.iter().filter(|subscription| subscription.wait <= wait) {
        *at_mut::<{ EVENT_BYTES as usize }>(memory, call.events, ready)? = event(subscription);
        ready = ready.saturating_add(1);
    }
    *at_mut::<4>(memory, call.ready, 0)? = ready.to_le_bytes();
    Ok(ERRNO_SUCCESS)
}

/// Returns after `wait`.
async fn sleep(wait: Duration) {
    if wait <= SHORT_SLEEP {
        std::thread::sleep(wait);
    } else {
        tokio::time::sleep(wait).await;
    }
}

fn parse(bytes: &[u8; SUBSCRIPTION_BYTES as usize], now: Now) -> Result<Subscription, i32> {
    let userdata = field::<8>(bytes, 0);
    let [tag] = field::<1>(bytes, 8);
    let wait = match tag {
        0 => clock(bytes, now)?,
        1 | 2 => {
            let descriptor = u32::from_le_bytes(field(bytes, 16));
            let other_way = if tag == 1 { 1..=2 } else { 0..=0 };
            if other_way.contains(&descriptor) {
                return Err(ERRNO_BADF);
            }
            Duration::ZERO
        }
        _ => return Err(ERRNO_INVAL),
    };
    Ok(Subscription { userdata, tag, wait })
}

fn clock(bytes: &[u8; SUBSCRIPTION_BYTES as usize], now: Now) -> Result<Duration, i32> {
    let shown = match u32::from_le_bytes(field(bytes, 16)) {
        0 => now.realtime,
        1 => now.monotonic,
        _ => return Err(ERRNO_INVAL),
    };
    let timeout = Duration::from_nanos(u64::from_le_bytes(field(bytes, 24)));
    let flags = u16::from_le_bytes(field(bytes, 40));
    Ok(if flags & ABSOLUTE == 0 { timeout } else { timeout.saturating_sub(shown) })
}

fn event(subscription: &Subscription) -> [u8; EVENT_BYTES as usize] {
    let mut event = [0; EVENT_BYTES as usize];
    let ready_bytes = u8::from(subscription.tag != 0);
    let [u0, u1, u2, u3, u4, u5, u6, u7] = subscription.userdata;
    let head = [u0, u1, u2, u3, u4, u5, u6, u7, 0, 0, subscription.tag, 0, 0, 0, 0, 0, ready_bytes];
    for (place, byte) in event.iter_mut().zip(head) {
        *place = byte;
    }
    event
}

fn field<const N: usize>(bytes: &[u8; SUBSCRIPTION_BYTES as usize], offset: usize) -> [u8; N] {
    bytes.get(offset..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
}

/// The `nth` block of `N` bytes from `start`; a pointer outside the guest's memory is a trap, as WASI has it.
fn at<const N: usize>(memory: &[u8], start: u32, nth: u32) -> Result<&[u8; N], Trap> {
    memory.get(offset::<N>(start, nth)?..).and_then(<[u8]>::first_chunk).ok_or(Trap::MemoryOutOfBounds)
}

fn at_mut<const N: usize>(memory: &mut [u8], start: u32, nth: u32) -> Result<&mut [u8; N], Trap> {
    memory
        .get_mut(offset::<N>(start, nth)?..)
        .and_then(<[u8]>::first_chunk_mut)
        .ok_or(Trap::MemoryOutOfBounds)
}

fn offset<const N: usize>(start: u32, nth: u32) -> Result<usize, Trap> {
    // Two 32-bit numbers and a small factor: no overflow in 64 bits, whatever the guest says.
    let offset = u64::from(start) + u64::from(nth) * N as u64;
    usize::try_from(offset).map_err(|_| Trap::MemoryOutOfBounds)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { monotonic: Duration::from_secs(5), realtime: Duration::from_secs(100) };

    fn clock_subscription(id: u8, timeout: Duration, flags: u8) -> [u8; 48] {
        let mut bytes = [0; 48];
        bytes[16] = id;
        bytes[24..32].copy_from_slice(&u64::try_from(timeout.as_nanos()).unwrap().to_le_bytes());
        bytes[40] = flags;
        bytes
    }

    fn wait(bytes: [u8; 48]) -> Duration {
        parse(&bytes, NOW).unwrap().wait
    }

    #[test]
    fn clock_waits_are_relative_or_until_a_time() {
        let seconds = Duration::from_secs;
        assert_eq!(wait(clock_subscription(1, seconds(7), 0)), seconds(7));
        assert_eq!(wait(clock_subscription(1, seconds(7), 1)), seconds(2));
        assert_eq!(wait(clock_subscription(0, seconds(103), 1)), seconds(3));
        assert_eq!(wait(clock_subscription(1, seconds(4), 1)), Duration::ZERO);
        assert_eq!(parse(&clock_subscription(2, seconds(1), 0), NOW), Err(ERRNO_INVAL));
    }

    #[test]
    fn descriptors_are_ready_the_way_they_are_open() {
        let mut bytes = [0; 48];
        for (tag, descriptor, expected) in
            [(1, 0, true), (1, 1, false), (1, 5, true), (2, 0, false), (2, 1, true)]
        {
            (bytes[8], bytes[16]) = (tag, descriptor);
            assert_eq!(parse(&bytes, NOW).is_ok(), expected, "{tag} {descriptor}");
        }
        bytes[8] = 3;
        assert_eq!(parse(&bytes, NOW), Err(ERRNO_INVAL));
    }

    #[test]
    fn event_has_userdata_type_and_size_in_their_places() {
        let subscription = Subscription { userdata: [1, 2, 3, 4, 5, 6, 7, 8], tag: 1, wait: Duration::ZERO };
        let event = event(&subscription);
        assert_eq!(event[..8], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!((event[8], event[9], event[10], event[16]), (0, 0, 1, 1));
    }

    #[test]
    fn pointers_at_the_end_of_everything_are_traps() {
        let memory = [0; 100];
        assert!(at::<48>(&memory, 52, 0).is_ok());
        assert!(at::<48>(&memory, 53, 0).is_err());
        assert!(at::<48>(&memory, u32::MAX, u32::MAX).is_err());
    }
}
