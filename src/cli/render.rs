//! A job's result, for programs and for people.
//!
//! Owns: the JSON object that `docs/result.md` documents, and the bill and the message for a terminal.
//! Never: changes a figure; what could not be measured is `null`, or left out for people.

use std::borrow::Cow;
use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};
use stockade_wire::job::{Bill, Isolation, JobResult, Outcome, ScriptError, Walls};

pub use super::bill::{bill, failure};

/// A result as it is printed and served. Field names are stable, and so is their order.
#[derive(Debug, Serialize)]
struct ResultObject<'a> {
    job: &'a str,
    tenant: &'a str,
    module: Option<String>,
    isolation: Isolation,
    outcome: &'a Outcome,
    exit_code: Option<i32>,
    error: Option<&'a ScriptError>,
    output: Cow<'a, str>,
    output_encoding: Encoding,
    logs: LogsObject<'a>,
    bill: &'a Bill,
    jail: &'a Walls,
    trace_id: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct LogsObject<'a> {
    stdout: Cow<'a, str>,
    stdout_encoding: Encoding,
    stderr: Cow<'a, str>,
    stderr_encoding: Encoding,
    dropped_bytes: u64,
    dropped_lines: u64,
}

/// How bytes became a JSON string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    Utf8,
    Base64,
}

/// The result as one JSON object on one line, without a newline.
///
/// # Errors
/// Never in practice: every field has a JSON form.
pub fn json(result: &JobResult) -> Result<String, serde_json::Error> {
    let (output, output_encoding) = text(&result.output.0);
    let (stdout, stdout_encoding) = text(&result.logs.stdout.0);
    let (stderr, stderr_encoding) = text(&result.logs.stderr.0);
    line(&ResultObject {
        job: &result.job,
        tenant: &result.tenant,
        module: module(result),
        isolation: result.isolation,
        outcome: &result.outcome,
        exit_code: result.exit_code,
        error: result.error.as_ref(),
        output,
        output_encoding,
        logs: LogsObject {
            stdout,
            stdout_encoding,
            stderr,
            stderr_encoding,
            dropped_bytes: result.logs.dropped_bytes,
            dropped_lines: result.logs.dropped_lines,
        },
        bill: &result.bill,
        jail: &result.jail,
        trace_id: result.trace_id.as_deref(),
    })
}

/// Anything as JSON on one line that is also harmless on a terminal.
///
/// # Errors
/// When the value has no JSON form.
pub fn line(value: &impl Serialize) -> Result<String, serde_json::Error> {
    let mut bytes = Vec::new();
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, HarmlessFormatter))?;
    // What serde_json writes is UTF-8.
    Ok(String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

fn module(result: &JobResult) -> Option<String> {
    if result.module.iter().all(|byte| *byte == 0) {
        return None;
    }
    let hex: String = result.module.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(format!("sha256:{hex}"))
}

fn text(bytes: &[u8]) -> (Cow<'_, str>, Encoding) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Cow::Borrowed(text), Encoding::Utf8),
        Err(_) => (Cow::Owned(STANDARD.encode(bytes)), Encoding::Base64),
    }
}

/// JSON whose strings hold nothing that a terminal acts on: beside what JSON itself escapes, DEL, the C1 controls
/// (U+009B begins an escape sequence) and the marks that reorder text.
#[derive(Debug)]
struct HarmlessFormatter;

impl Formatter for HarmlessFormatter {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, character)) = rest.char_indices().find(|(_, c)| acts_on_terminal(*c)) {
            let (plain, after) = rest.split_at(at);
            CompactFormatter.write_string_fragment(writer, plain)?;
            let mut units = [0_u16; 2];
            for unit in character.encode_utf16(&mut units) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = after.get(character.len_utf8()..).unwrap_or_default();
        }
        CompactFormatter.write_string_fragment(writer, rest)
    }
}

fn acts_on_terminal(character: char) -> bool {
    matches!(character,
        '\u{7f}'..='\u{9f}' | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A result to test with.
#[cfg(test)]
pub(super) fn sample() -> JobResult {
    use stockade_wire::job::{Logs, MissingLayer, Verdict};
    JobResult {
        job: "01JD8G0000000000000000000".to_owned(),
        tenant: "uid:1000".to_owned(),
        module: [0xab; 32],
        isolation: Isolation::Fresh,
        outcome: Outcome {
            verdict: Verdict::Completed,
            reason: None,
            stage: None,
            blame: None,
            retriable: false,
            message: None,
        },
        exit_code: Some(0),
        error: None,
        output: b"hello\n".to_vec().into(),
        logs: Logs { stderr: b"note".to_vec().into(), dropped_bytes: 7, dropped_lines: 1, ..Logs::default() },
        bill: Bill {
            wall_us: Some(12_345),
            queue_us: Some(10),
            compile_us: Some(8_000),
            fork_us: Some(80),
            load_us: Some(250),
            run_us: Some(1_500_000),
            cpu_user_us: Some(900),
            cpu_system_us: Some(90),
            memory_peak_bytes: Some(18 << 20),
            page_faults: Some(312),
            output_bytes: Some(6),
            ..Bill::default()
        },
        jail: Walls {
            seccomp: Some("kill".to_owned()),
            landlock_abi: Some(7),
            no_new_privs: true,
            capabilities_dropped: true,
            rlimits: vec!["nofile".to_owned(), "data".to_owned()],
            mdwe: true,
            uid: Some(65534),
            fresh_process: true,
            missing: vec![MissingLayer {
                layer: "cgroup".to_owned(),
                reason: "no controllers are delegated".to_owned(),
                fix: "run it as a systemd service with Delegate=yes".to_owned(),
            }],
            ..Walls::default()
        },
        trace_id: None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn json_of_a_result_is_the_documented_object() {
        let expected = concat!(
            r#"{"job":"01JD8G0000000000000000000","tenant":"uid:1000","module":"sha256:"#,
            "abababababababababababababababababababababababababababababababab",
            r#"","isolation":"fresh","outcome":{"verdict":"completed","reason":null,"stage":null,"blame":null,"#,
            r#""retriable":false,"message":null},"exit_code":0,"error":null,"output":"hello\n","output_encoding":"utf8","#,
            r#""logs":{"stdout":"","stdout_encoding":"utf8","stderr":"note","stderr_encoding":"utf8","#,
            r#""dropped_bytes":7,"dropped_lines":1},"bill":{"wall_us":12345,"queue_us":10,"compile_us":8000,"#,
            r#""fork_us":80,"load_us":250,"run_us":1500000,"teardown_us":null,"cpu_user_us":900,"#,
            r#""cpu_system_us":90,"memory_peak_bytes":18874368,"wasm_memory_peak_bytes":null,"page_faults":312,"#,
            r#""fuel":null,"host_calls":null,"input_bytes":null,"output_bytes":6,"log_bytes":null},"#,
            r#""jail":{"seccomp":"kill","landlock_abi":7,"cgroup":[],"namespaces":[],"no_new_privs":true,"#,
            r#""capabilities_dropped":true,"rlimits":["nofile","data"],"mdwe":true,"uid":65534,"#,
            r#""fresh_process":true,"missing":[{"layer":"cgroup","reason":"no controllers are delegated","#,
            r#""fix":"run it as a systemd service with Delegate=yes"}]},"trace_id":null}"#,
        );
        assert_eq!(json(&sample()).unwrap(), expected);
    }

    #[test]
    fn json_of_bytes_that_are_not_text_is_base64() {
        let mut result = sample();
        result.output = vec![0xff, 0, 1].into();
        result.logs.stderr = vec![0x80].into();
        let object: Value = serde_json::from_str(&json(&result).unwrap()).unwrap();
        assert_eq!((&object["output"], &object["output_encoding"]), (&"/wAB".into(), &"base64".into()));
        assert_eq!(
            (&object["logs"]["stderr"], &object["logs"]["stderr_encoding"]),
            (&"gA==".into(), &"base64".into())
        );
    }

    #[test]
    fn json_of_a_job_denied_before_its_module_was_known_has_none() {
        let mut result = sample();
        result.module = [0; 32];
        let object: Value = serde_json::from_str(&json(&result).unwrap()).unwrap();
        assert_eq!(object["module"], Value::Null);
    }

    /// Names of all fields, those of objects in it too.
    fn fields(value: &Value) -> Vec<String> {
        let Value::Object(object) = value else { return Vec::new() };
        object.iter().flat_map(|(name, value)| std::iter::once(name.clone()).chain(fields(value))).collect()
    }

    #[test]
    fn document_has_every_field_and_its_example_has_the_same() {
        let document = include_str!("../../docs/result.md");
        let object: Value = serde_json::from_str(&json(&sample()).unwrap()).unwrap();
        for name in fields(&object) {
            assert!(document.contains(&format!("\n| `{name}` |")), "{name} is not in docs/result.md");
        }
        let example = document.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
        let example: Value = serde_json::from_str(example).unwrap();
        assert_eq!(fields(&example), fields(&object));
    }

    proptest! {
        #[test]
        fn json_of_any_output_reads_back_and_is_harmless(output in any::<String>(), marks in "[\u{7f}-\u{9f}\u{202e}\u{1b}a]{0,8}") {
            let mut result = sample();
            result.output = format!("{output}{marks}").into_bytes().into();
            let line = json(&result).unwrap();
            prop_assert!(!line.chars().any(|c| c.is_control() || acts_on_terminal(c)));
            let object: Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(object["output"].as_str().unwrap().as_bytes(), &result.output.0);
        }
    }
}
