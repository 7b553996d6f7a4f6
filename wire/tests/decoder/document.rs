//! `docs/wire.md` says what the codec does: every field of every table, in order, and every example.

use std::cell::RefCell;
use std::collections::BTreeMap;

use stockade_wire::client::{FromDaemon, ToDaemon};
use stockade_wire::job::{LimitsWanted, ModuleSource, Purpose, Submission};
use stockade_wire::{CLIENT_PROTOCOL_VERSION, codec, frame, limits};

use crate::dice::{Shapes, throw_and_note};

const DOCUMENT: &str = include_str!("../../../docs/wire.md");

/// Rows of the tables of each `### Name` section, as the text of their cells.
fn sections() -> BTreeMap<&'static str, Vec<Vec<&'static str>>> {
    let mut sections = BTreeMap::new();
    for section in DOCUMENT.split("\n### ").skip(1) {
        let (title, text) = section.split_once('\n').unwrap();
        let text = text.split("\n## ").next().unwrap();
        let rows = text.lines().filter(|line| line.starts_with('|')).skip(2);
        let cells = rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect());
        sections.insert(title, cells.collect());
    }
    sections
}

fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// The shapes of all types a client meets. Noise is enough: every type is met in the first few hundred throws.
fn shapes() -> Shapes {
    let shapes = RefCell::new(Shapes::default());
    let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..5000 {
        let mut entropy = Vec::new();
        for _ in 0..64 {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            entropy.extend_from_slice(&noise.to_be_bytes()[..4]);
        }
        throw_and_note::<ToDaemon>(&entropy, &shapes);
        throw_and_note::<FromDaemon>(&entropy, &shapes);
    }
    shapes.into_inner()
}

#[test]
fn document_lists_every_structure_field_by_field() {
    let (sections, shapes) = (sections(), shapes());
    assert!(shapes.structs.len() >= 10, "{:?}", shapes.structs.keys());
    for (name, fields) in &shapes.structs {
        let section = sections.get(name).unwrap_or_else(|| panic!("no section on {name}"));
        let documented: Vec<_> = section.iter().flat_map(|row| quoted(row[0])).collect();
        assert_eq!(&documented, fields, "fields of {name}");
        for (field, row) in fields.iter().zip(section) {
            let kind =
                shapes.types.get(&(name, None, *field)).unwrap_or_else(|| panic!("{name}.{field} not seen"));
            assert_eq!(row[1], kind, "type of {name}.{field}");
        }
    }
}

#[test]
fn document_lists_every_enumeration_tag_by_tag() {
    let (sections, shapes) = (sections(), shapes());
    assert!(shapes.enums.len() >= 10, "{:?}", shapes.enums.keys());
    for (name, variants) in &shapes.enums {
        let section = sections.get(name).unwrap_or_else(|| panic!("no section on {name}"));
        assert_eq!(section.len(), variants.len(), "variants of {name}");
        for (tag, (row, variant)) in section.iter().zip(variants).enumerate() {
            assert_eq!((row[0], row[1]), (&*tag.to_string(), &*format!("`{variant}`")), "in {name}");
            let fields = shapes.variants.get(&(name, tag)).cloned().unwrap_or_default();
            let listed = row.get(2).copied().unwrap_or_default();
            assert_eq!(quoted(listed), fields, "fields of {name} {variant}");
            for field in fields {
                let kind = &shapes.types[&(*name, Some(tag), field)];
                let (_, after) = listed.split_once(&format!("`{field}` ")).unwrap();
                let documented = after.split([',', '(']).next().unwrap().trim();
                assert_eq!(documented, kind, "type of {name} {variant}.{field}");
            }
        }
    }
}

/// The bytes of a fenced block that begins with `title`; what follows a `#` is for the reader.
fn example(title: &str) -> Vec<u8> {
    let start = format!("```hex {title}\n");
    let (_, block) = DOCUMENT.split_once(&start).unwrap_or_else(|| panic!("no example {title}"));
    let block = block.split("```").next().unwrap();
    let digits = block.lines().flat_map(|line| line.split('#').next().unwrap().split_whitespace());
    let bytes = digits.map(|byte| u8::from_str_radix(byte, 16).unwrap());
    bytes.collect()
}

#[test]
fn document_examples_are_the_bytes_of_the_codec() {
    let frame = |message: &ToDaemon| frame::encode(message, limits::FRAME_BODY_BYTES_MAX).unwrap();
    let hello = ToDaemon::Hello { version: CLIENT_PROTOCOL_VERSION, agent: "example".into() };
    assert_eq!(example("hello"), frame(&hello));

    let submission = Submission {
        module: ModuleSource::Bytes(b"\0asm\x01\0\0\0".to_vec().into()),
        name: "demo.wasm".into(),
        entry: None,
        arguments: vec!["-l".into()],
        input: b"hi\n".to_vec().into(),
        environment: vec![("LANG".into(), "C".into())],
        directories: Vec::new(),
        profile: None,
        limits: LimitsWanted { timeout_us: Some(500_000), ..LimitsWanted::default() },
        isolation: None,
        tenant: None,
        require: Vec::new(),
        traceparent: None,
        request_id: Some("r-1".into()),
        purpose: Purpose::Run,
    };
    let beside =
        Submission { module: ModuleSource::Descriptor, input: Vec::new().into(), ..submission.clone() };
    let submit = |submission| ToDaemon::Submit {
        request: 1,
        wait: true,
        durable: false,
        submission: Box::new(submission),
    };
    assert_eq!(example("submit"), frame(&submit(submission)));
    let begins = example("submit-beside");
    let whole = frame::encode_with(&submit(beside), limits::FRAME_BODY_BYTES_MAX, 2).unwrap();
    assert_eq!(begins, whole[..begins.len()]);

    let accepted = FromDaemon::Accepted { request: 1, job: "01JD8GQ0V7XJ5W3T9C0N4R6M2K".into() };
    let accepted = frame::encode(&accepted, limits::FRAME_BODY_BYTES_MAX).unwrap();
    assert_eq!(example("accepted"), accepted);
    assert!(codec::decode::<FromDaemon>(&accepted[4..]).is_ok());
}

#[test]
fn document_names_the_limits_in_force() {
    for limit in [
        limits::FRAME_BODY_BYTES_MAX,
        limits::HELLO_FRAME_BYTES_MAX,
        limits::LOG_CHUNK_BYTES_MAX,
        limits::BESIDE_BYTES_MIN,
    ] {
        let digits = limit.to_string();
        let groups: Vec<_> =
            digits.as_bytes().rchunks(3).rev().map(|group| str::from_utf8(group).unwrap()).collect();
        assert!(DOCUMENT.contains(&groups.join(",")), "{}", groups.join(","));
    }
}
