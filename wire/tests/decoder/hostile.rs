//! Arbitrary bytes, damaged messages and whole ones, for every message type.

use std::collections::BTreeSet;
use std::fmt::Debug;

use proptest::collection::vec;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use stockade_wire::client::{FinishedRef, FromDaemon, ToDaemon};
use stockade_wire::codec::{self, CodecError};
use stockade_wire::worker::{FromWorker, ToWorker};
use stockade_wire::zygote::{FromZygote, ToZygote};

use crate::dice::throw;

trait Message: Serialize + DeserializeOwned + PartialEq + Debug {}
impl<T: Serialize + DeserializeOwned + PartialEq + Debug> Message for T {}

/// Whatever decodes is what those bytes alone encode: no second spelling of anything is accepted.
fn decodes_canonically_or_not_at_all<T: Message>(bytes: &[u8]) {
    if let Ok(message) = codec::decode::<T>(bytes) {
        assert_eq!(codec::encode(&message).unwrap(), bytes, "{message:?}");
    }
}

fn survives<T: Message>(entropy: &[u8], damage: &[(prop::sample::Index, u8)], cut: prop::sample::Index) {
    let message: T = throw(entropy);
    let bytes = codec::encode(&message).unwrap();
    assert_eq!(codec::decode::<T>(&bytes).unwrap(), message);

    let longer = [&bytes[..], &[0]].concat();
    assert!(matches!(codec::decode::<T>(&longer), Err(CodecError::Trailing { extra: 1 })));
    let shorter = &bytes[..cut.index(bytes.len())];
    assert!(codec::decode::<T>(shorter).is_err(), "{message:?} without its end is still a message");

    let mut damaged = bytes;
    for (at, byte) in damage {
        let at = at.index(damaged.len());
        damaged[at] = *byte;
    }
    decodes_canonically_or_not_at_all::<T>(&damaged);
}

macro_rules! for_every_message {
    ($function:ident($($argument:expr),*)) => {
        $function::<ToDaemon>($($argument),*);
        $function::<FromDaemon>($($argument),*);
        $function::<ToZygote>($($argument),*);
        $function::<FromZygote>($($argument),*);
        $function::<ToWorker>($($argument),*);
        $function::<FromWorker>($($argument),*);
    };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn decoding_arbitrary_bytes_never_panics(bytes in vec(any::<u8>(), 0..300)) {
        for_every_message!(decodes_canonically_or_not_at_all(&bytes));
    }

    #[test]
    fn decoding_arbitrary_bytes_after_a_known_tag_never_panics(
        tag in 0_u32..20, bytes in vec(prop_oneof![Just(0_u8), Just(1), Just(0xff), any::<u8>()], 0..300),
    ) {
        let bytes = [&tag.to_le_bytes()[..], &bytes].concat();
        for_every_message!(decodes_canonically_or_not_at_all(&bytes));
    }

    #[test]
    fn decoding_a_message_gives_it_back_and_its_damaged_forms_never_panic(
        entropy in vec(any::<u8>(), 0..400),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        for_every_message!(survives(&entropy, &damage, cut));
    }

    #[test]
    fn finished_message_around_a_borrowed_result_is_the_same_bytes(entropy in vec(any::<u8>(), 0..400)) {
        let entropy = [&[3], &entropy[..]].concat();
        let message: FromDaemon = throw(&entropy);
        let FromDaemon::Finished { request, result } = &message else { panic!("tag 3 is not Finished") };
        prop_assert_eq!(codec::encode(&FinishedRef::new(*request, result)).unwrap(), codec::encode(&message).unwrap());
    }
}

fn tags<T: Message>() -> BTreeSet<[u8; 4]> {
    let thrown = (0..=u8::MAX).map(|first| codec::encode(&throw::<T>(&[first])).unwrap());
    thrown.map(|bytes| *bytes.first_chunk().unwrap()).collect()
}

#[test]
fn dice_reach_every_kind_of_message() {
    assert_eq!(tags::<ToDaemon>().len(), 7);
    assert_eq!(tags::<FromDaemon>().len(), 12);
    assert_eq!(tags::<ToWorker>().len(), 5);
    assert_eq!(tags::<FromWorker>().len(), 14);
    assert_eq!(tags::<ToZygote>().len(), 2);
    assert_eq!(tags::<FromZygote>().len(), 4);
}
