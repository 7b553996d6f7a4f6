//! The example programs, run as a person would run them: through `stockade run`, in the jail, on real input.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says what broke by failing there")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Builds one example and says where it is; `None`, and why, on a machine without the compiler.
fn example(name: &str) -> Option<PathBuf> {
    if Command::new("clang").arg("--version").output().is_err() {
        println!("not run: clang");
        return None;
    }
    // With a compiler named, nothing is installed: that is for scripts/setup to do.
    let built = Command::new(root().join("scripts/build-examples"))
        .arg(name.split('.').next().unwrap())
        .env("STOCKADE_CLANG", "clang")
        .env("CARGO_TARGET_DIR", root().join("target"))
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    Some(root().join("target/examples").join(name))
}

/// `stockade run` with these arguments and this input.
fn run(arguments: &[&str], program: &Path, guest_arguments: &[&str], input: &[u8]) -> Output {
    let mut stockade = Command::new(env!("CARGO_BIN_EXE_stockade"))
        .args(["run", "--timeout", "60s"])
        .args(arguments)
        .arg(program)
        .args(guest_arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = stockade.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // A guest that ends early closes its input; how it ended is what the test looks at.
        let _ = stdin.write_all(&input);
    });
    let output = stockade.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Standard output of a run that went well.
fn output_of(output: Output) -> Vec<u8> {
    assert_eq!(output.status.code(), Some(0), "stderr: {}", text(&output.stderr));
    output.stdout
}

/// A megabyte that reads like a log: the same on every machine.
fn log_text() -> Vec<u8> {
    let mut seed = 1_u32;
    let mut lines = String::new();
    while lines.len() < 1 << 20 {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let verb = ["opened", "read", "wrote", "closed"][(seed >> 30) as usize];
        lines += &format!(
            "client {:>3} {verb} file-{} after {} us\n",
            seed >> 9 & 255,
            seed >> 17 & 63,
            seed >> 12
        );
    }
    lines.into_bytes()
}

#[test]
fn wordfreq_of_a_text_counts_its_words() {
    let Some(wordfreq) = example("wordfreq.wasm") else { return };
    let verse = b"The cat's hat;\nthe HAT, the 'cat'.\n\xc3\x89t\xc3\xa9\n";
    let counted = output_of(run(&[], &wordfreq, &["-n", "3"], verse));
    let expected = "3 lines, 8 words, 5 distinct, 41 bytes\n       3 the\n       2 hat\n       1 cat\n";
    assert_eq!(text(&counted), expected);
}

#[test]
fn wordfreq_of_a_granted_file_says_what_it_says_of_standard_input() {
    let Some(wordfreq) = example("wordfreq.wasm") else { return };
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("log"), log_text()).unwrap();
    let grant = format!("{}::/texts:ro", directory.path().display());
    let of_file = output_of(run(&["--dir", &grant], &wordfreq, &["/texts/log"], b""));
    assert_eq!(text(&of_file), text(&output_of(run(&[], &wordfreq, &[], &log_text()))));
    assert!(of_file.len() > 100);
}

#[test]
fn wordfreq_of_a_file_not_granted_fails_as_the_program_does() {
    let Some(wordfreq) = example("wordfreq.wasm") else { return };
    let output = run(&[], &wordfreq, &["/etc/passwd"], b"");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("wordfreq: /etc/passwd:"), "{}", text(&output.stderr));
    assert!(output.stdout.is_empty());
}

#[test]
fn jsonfilter_of_cargo_metadata_finds_every_package() {
    let Some(jsonfilter) = example("jsonfilter.wasm") else { return };
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline", "--locked"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(metadata.status.success(), "{}", text(&metadata.stderr));
    let parsed: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let expected: String = parsed["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| format!("{}\n", p["name"].as_str().unwrap()))
        .collect();
    let names = output_of(run(&[], &jsonfilter, &["-r", ".packages[].name"], &metadata.stdout));
    assert_eq!(text(&names), expected);
    let whole: Value =
        serde_json::from_slice(&output_of(run(&[], &jsonfilter, &["."], &metadata.stdout))).unwrap();
    assert_eq!(whole, parsed);
}

#[test]
fn jsonfilter_of_what_is_not_json_names_line_and_column() {
    let Some(jsonfilter) = example("jsonfilter.wasm") else { return };
    for (input, message) in [
        ("{\"a\": 1,\n \"b\": tru}", "line 2, column 7: expected a value"),
        (&"[".repeat(10_000), "line 1, column 257: nested too deeply"),
    ] {
        let output = run(&[], &jsonfilter, &["."], input.as_bytes());
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains(message), "{}", text(&output.stderr));
    }
}

#[test]
fn gzip_of_any_bytes_is_read_back_by_the_systems_gzip() {
    let Some(gzip) = example("gzip.wasm") else { return };
    let mut seed = 1_u32;
    let noise = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed.to_be_bytes()[0]
    });
    let noise: Vec<u8> = noise.take(200_000).collect();
    for (data, bytes_max) in
        [(Vec::new(), 64), (vec![7; 100_000], 200), (log_text(), 400_000), (noise, 201_000)]
    {
        let packed = output_of(run(&[], &gzip, &[], &data));
        assert!(packed.len() <= bytes_max, "{} bytes became {}", data.len(), packed.len());
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("packed.gz");
        std::fs::write(&file, packed).unwrap();
        let unpacked = Command::new("gzip").arg("-dc").arg(&file).output().unwrap();
        assert!(unpacked.status.success(), "{}", text(&unpacked.stderr));
        assert!(unpacked.stdout == data, "{} bytes did not come back", data.len());
    }
}

#[test]
fn csvjson_of_a_table_is_its_rows() {
    let Some(csvjson) = example("csvjson.wasm") else { return };
    let table = b"id,name\r\n1,\"Lovelace, \"\"Ada\"\"\"\r\n2,Hopper\r\n";
    let rows: Value = serde_json::from_slice(&output_of(run(&[], &csvjson, &[], table))).unwrap();
    assert_eq!(
        rows,
        serde_json::json!([{"id": "1", "name": "Lovelace, \"Ada\""}, {"id": "2", "name": "Hopper"}])
    );
}

#[test]
fn csvjson_of_a_ragged_table_is_a_guest_error_in_its_own_words() {
    let Some(csvjson) = example("csvjson.wasm") else { return };
    let output = run(&["--json"], &csvjson, &[], b"a,b\n1,2\n3\n");
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["outcome"]["verdict"], "guest_error");
    let message = result["outcome"]["message"].as_str().unwrap();
    assert!(message.contains("line 3: fewer fields than columns"), "{message}");
}

#[test]
fn gcd_and_fib_of_numbers_print_numbers() {
    let functions = root().join("examples/gcd/gcd.wat");
    assert_eq!(text(&output_of(run(&["--entry", "gcd"], &functions, &["1071", "462"], b""))).trim(), "21");
    let fib = output_of(run(&["--entry", "fib"], &functions, &["90"], b""));
    assert_eq!(text(&fib).trim(), "2880067194370816120");
}

#[test]
fn rot13_twice_is_what_went_in() {
    let rot13 = root().join("examples/component/rot13.wat");
    let once = output_of(run(&[], &rot13, &[], &log_text()));
    assert!(once.starts_with(b"pyvrag "), "{}", text(&once[..20]));
    assert!(output_of(run(&[], &rot13, &[], &once)) == log_text());
}

#[test]
fn sqlite_on_a_granted_directory_keeps_a_database_that_later_jobs_read() {
    let Some(sqlite) = example("sqlite.wasm") else { return };
    let directory = tempfile::tempdir().unwrap();
    let script = std::fs::read(root().join("examples/sqlite/orders.sql")).unwrap();
    let expected = std::fs::read(root().join("examples/sqlite/orders.expected")).unwrap();
    let writable = format!("{}::/data", directory.path().display());
    let rows = output_of(run(&["--dir", &writable], &sqlite, &["/data/orders.db"], &script));
    assert_eq!(text(&rows), text(&expected));
    let database = std::fs::read(directory.path().join("orders.db")).unwrap();
    assert!(database.starts_with(b"SQLite format 3\0") && database.len() > 1 << 20);

    let query = b"SELECT count(*), sum(cents) FROM item; PRAGMA integrity_check;";
    let readable = format!("{writable}:ro");
    let sums = output_of(run(&["--dir", &readable], &sqlite, &["-readonly", "/data/orders.db"], query));
    assert_eq!(text(&sums), "60000|302978100\nok\n");

    let change = run(&["--dir", &readable], &sqlite, &["/data/orders.db"], b"DELETE FROM item;");
    assert_eq!(change.status.code(), Some(1), "{}", text(&change.stdout));
    assert!(std::fs::read(directory.path().join("orders.db")).unwrap() == database);
}

/// `stockade run` with a script of `examples/js`, its flags before or behind it.
fn run_script(flags: &[&str], script: &str, flags_behind: &[&str], input: &str) -> (Value, String) {
    let script = root().join("examples/js").join(script);
    let output = run(flags, &script, flags_behind, input.as_bytes());
    let log = text(&output.stderr);
    (serde_json::from_slice(&output_of(output)).unwrap(), log)
}

#[test]
fn transform_of_an_order_is_what_the_readme_shows() {
    let data = root().join("examples/js/transform.json");
    let (result, log) = run_script(&[], "transform.js", &["--input", data.to_str().unwrap()], "");
    assert_eq!(
        result,
        serde_json::json!({
            "customer": "ADA LOVELACE",
            "lines": [{"name": "gear", "total": 50}, {"name": "spindle", "total": 80}],
            "net": 130,
            "gross": 154.7,
            "portal": "https://shop.example/orders/2026%2F117?lang=en"
        })
    );
    assert_eq!(log, "2 lines for Ada Lovelace\n");
}

#[test]
fn validator_names_every_problem() {
    let good = r#"{"email": "a@b.example", "age": 36, "website": "https://a.example", "tags": ["x", "y"]}"#;
    let (result, log) = run_script(&[], "validator.js", &[], good);
    assert_eq!((result, log.as_str()), (serde_json::json!({"valid": true, "problems": []}), ""));
    let bad = r#"{"email": "a at b", "age": 3.5, "website": "b", "tags": ["x", "x"]}"#;
    let (result, log) = run_script(&[], "validator.js", &[], bad);
    let paths: Vec<&str> =
        result["problems"].as_array().unwrap().iter().map(|one| one["path"].as_str().unwrap()).collect();
    assert_eq!((&result["valid"], paths), (&Value::Bool(false), vec!["email", "age", "website", "tags"]));
    assert_eq!(log.lines().next(), Some("warn: email is no e-mail address"));
}

#[test]
fn expression_is_its_value() {
    for (quantity, expected) in [(1, "buy"), (9, "ask first")] {
        let input = format!(r#"{{"price": 20, "quantity": {quantity}, "budget": 100}}"#);
        assert_eq!(run_script(&[], "expression.js", &[], &input).0, expected);
    }
}

#[test]
fn handler_has_several_entries() {
    let (greeting, log) = run_script(
        &["--entry", "greet"],
        "handler.mjs",
        &["--env", "GREETING=Welcome"],
        r#"{"name": "Ada"}"#,
    );
    assert_eq!(greeting, serde_json::json!({"greeting": "Welcome, Ada!"}));
    assert!(log.starts_with("greeting Ada for uid:"), "{log}");
    let (result, log) = run_script(&["--entry", "retry"], "handler.mjs", &[], r#"{"failures": 2}"#);
    assert_eq!(result, serde_json::json!({"result": "done", "attempts": 3}));
    assert_eq!(log, "warn: attempt 1 failed\nwarn: attempt 2 failed\n");
    assert_eq!(run_script(&["--entry", "default"], "handler.mjs", &[], r#"{"a": 1, "b": 2}"#).0, 3);
}

#[test]
fn handler_that_gives_up_says_where() {
    let script = root().join("examples/js/handler.mjs");
    let output = run(&["--entry", "retry"], &script, &[], br#"{"failures": 9}"#);
    assert_eq!(output.status.code(), Some(1));
    let log = text(&output.stderr);
    assert!(log.contains("failed (exception): Error: gave up (handler.mjs:21:"), "{log}");
    assert!(log.contains("\n  21 |       if (attempts === 5) throw new Error"), "{log}");
    assert!(log.contains("at retry (handler.mjs:21:"), "{log}");
}
