//! `stockade config check`.
//!
//! Owns: how the effective configuration is shown.
//! Never: changes or creates a file.

use std::ffi::OsString;
use std::path::Path;

use serde::Serialize;

use super::exit;
use super::output::{Output, message};
use super::render;
use crate::config::{self, Inspection, Origin};
use crate::supervisor::logs::display::safe_text;

/// Longest line about a name that is no setting, bytes.
const LINE_BYTES_MAX: usize = 300;

#[derive(Debug, Serialize)]
struct CheckObject<'a> {
    ok: bool,
    error: Option<String>,
    file: Option<String>,
    settings: Vec<SettingObject<'a>>,
    ignored: &'a [String],
}

#[derive(Debug, Serialize)]
struct SettingObject<'a> {
    key: &'a str,
    value: &'a str,
    origin: &'static str,
    place: Option<String>,
}

/// Checks the configuration and says what is in force: values that were set first, with their places. Reads the
/// file; blocks.
#[must_use]
pub fn check(
    file: Option<&Path>,
    environment: impl Iterator<Item = (OsString, OsString)>,
    json: bool,
) -> Output {
    match config::inspect(file, environment) {
        Err(error) if json => {
            let refused = Output::error(&error, exit::USAGE);
            // Nothing is in force then.
            let object = CheckObject {
                ok: false,
                error: Some(message(&error)),
                file: file.map(|path| path.display().to_string()),
                settings: Vec::new(),
                ignored: &[],
            };
            match render::line(&object) {
                Ok(line) => Output { stdout: format!("{line}\n"), ..refused },
                Err(error) => Output::error(&error, exit::OWN_FAILURE),
            }
        }
        Err(error) => Output::error(&error, exit::USAGE),
        Ok(inspection) if json => as_json(&inspection),
        Ok(inspection) => Output::answer(as_text(&inspection)),
    }
}

fn as_text(inspection: &Inspection) -> String {
    let file = inspection
        .file
        .as_ref()
        .map_or_else(|| "no file, built-in defaults".to_owned(), |path| path.display().to_string());
    let mut text = format!("ok: {file}\n");
    let width = inspection.settings.iter().map(|setting| setting.key.len()).max().unwrap_or_default();
    for setting in &inspection.settings {
        let shown = if setting.value.is_empty() { "\"\"" } else { &setting.value };
        let line = format!("{:width$} = {shown:24} # {}", setting.key, setting.origin);
        text.push_str(&line);
        text.push('\n');
    }
    for name in &inspection.ignored {
        text.push_str(&safe_text(
            &format!("{name} in the environment is no setting and was passed over"),
            LINE_BYTES_MAX,
        ));
        text.push('\n');
    }
    text
}

fn as_json(inspection: &Inspection) -> Output {
    let settings = inspection.settings.iter().map(|setting| SettingObject {
        key: &setting.key,
        value: &setting.value,
        origin: match setting.origin {
            Origin::Default => "default",
            Origin::File { .. } => "file",
            Origin::Environment { .. } => "environment",
        },
        place: match &setting.origin {
            Origin::Default => None,
            origin @ (Origin::File { .. } | Origin::Environment { .. }) => Some(origin.to_string()),
        },
    });
    let object = CheckObject {
        ok: true,
        error: None,
        file: inspection.file.as_ref().map(|path| path.display().to_string()),
        settings: settings.collect(),
        ignored: &inspection.ignored,
    };
    match render::line(&object) {
        Ok(line) => Output::answer(format!("{line}\n")),
        Err(error) => Output::error(&error, exit::OWN_FAILURE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str, variables: &[(&str, &str)], json: bool) -> Output {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s.toml");
        std::fs::write(&path, text).unwrap();
        let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let output = check(Some(&path), variables, json);
        let shown = |text: String| text.replace(path.to_str().unwrap(), "F");
        Output { stdout: shown(output.stdout), stderr: shown(output.stderr), status: output.status }
    }

    #[test]
    fn config_check_of_a_good_file_says_what_is_in_force_and_whence() {
        let output = run("[pool]\nwarm = 2\n", &[("STOCKADE_QUEUE_JOBS_MAX", "300")], false);
        assert_eq!((output.status, output.stderr.as_str()), (0, ""));
        let line = |key: &str| {
            let found = output.stdout.lines().find(|line| line.split(' ').next() == Some(key));
            found.unwrap().split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
        };
        assert!(output.stdout.starts_with("ok: F\n"));
        assert_eq!(line("pool.warm"), "= 2 # F:2");
        assert_eq!(line("queue.jobs_max"), "= 300 # STOCKADE_QUEUE_JOBS_MAX");
        assert_eq!(line("socket"), "= \"\" # default");
        assert_eq!(line("profiles.script.memory_bytes"), "= 16M # default");
    }

    #[test]
    fn config_check_names_variables_that_are_somebody_else_s() {
        let output = run("", &[("STOCKADE_PORT_80_TCP", "tcp://10.0.0.1:80")], false);
        let last = output.stdout.lines().last().unwrap();
        assert_eq!(last, "STOCKADE_PORT_80_TCP in the environment is no setting and was passed over");
    }

    #[test]
    fn config_check_in_json_has_every_setting() {
        let output = run("mode = \"in-process\"", &[], true);
        let object: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
        let settings = object["settings"].as_array().unwrap();
        let expected = serde_json::json!({
            "key": "mode", "value": "in-process", "origin": "file", "place": "F:1"
        });
        assert_eq!(settings[0], expected);
        assert!(settings.len() > 60);
    }

    #[test]
    fn config_check_in_json_of_a_bad_file_is_an_object_too() {
        let output = run("\nmode = \"quick\"", &[], true);
        let object: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!((output.status, &object["ok"], &object["file"]), (2, &false.into(), &"F".into()));
        let why = "F:2: `mode` cannot be \"quick\": not one of the words; allowed: jailed or in-process";
        assert_eq!(object["error"], why);
        assert_eq!(output.stderr, format!("stockade: {why}\n"));
        let good: serde_json::Value = serde_json::from_str(&run("", &[], true).stdout).unwrap();
        assert_eq!((&good["ok"], &good["error"]), (&true.into(), &serde_json::Value::Null));
    }

    #[test]
    fn config_check_of_a_bad_file_exits_2_and_says_where() {
        let output = run("\nmode = \"quick\"", &[], false);
        assert_eq!((output.status, output.stdout.as_str()), (2, ""));
        let expected = "stockade: F:2: `mode` cannot be \"quick\": not one of the words; allowed: jailed or in-process\n";
        assert_eq!(output.stderr, expected);
    }
}
