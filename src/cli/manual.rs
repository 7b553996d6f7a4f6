//! `stockade manual DIRECTORY`: the manual pages, for whoever makes a package.
//!
//! Owns: the pages' text beyond what the commands' help and the settings' descriptions say.
//! Never: describes a flag or a setting by itself, so that no page can be of another version than the program.

use std::io;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_mangen::roff::{Roff, bold, italic, roman};

use super::args::Cli;
use super::exit;
use super::output::Output;
use crate::config::{ConfigError, Described, settings};

/// What the pages are a part of.
const MANUAL: &str = "Stockade";

/// The page of the configuration file.
const CONFIGURATION_PAGE: &str = "stockade.toml.5";

/// Why there are no pages.
#[derive(Debug, thiserror::Error)]
enum ManualError {
    /// A file cannot be written.
    #[error("cannot write manual pages to {}: name a directory that can be written to", .0.display())]
    Write(PathBuf, #[source] io::Error),
    /// The settings are not known.
    #[error(transparent)]
    Settings(#[from] ConfigError),
}

/// Writes a page for every command and one for the configuration file. Prints their paths.
#[must_use]
pub fn manual(directory: &Path) -> Output {
    match try_manual(directory) {
        Ok(pages) => {
            Output::answer(pages.iter().map(|page| format!("{}\n", page.display())).collect::<String>())
        }
        Err(error) => Output::error(&error, exit::OWN_FAILURE),
    }
}

fn try_manual(directory: &Path) -> Result<Vec<PathBuf>, ManualError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| ManualError::Write(path, source)
    };
    std::fs::create_dir_all(directory).map_err(failed(directory))?;
    let mut pages = Vec::new();
    for (name, text) in command_pages(&Cli::command()).into_iter().chain([configuration_page()?]) {
        let path = directory.join(name);
        std::fs::write(&path, text).map_err(failed(&path))?;
        pages.push(path);
    }
    Ok(pages)
}

/// The pages of a command and of those below it that are not hidden: file names and texts.
fn command_pages(command: &clap::Command) -> Vec<(String, Vec<u8>)> {
    let mut command = command.clone().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    let mut left = vec![command];
    while let Some(command) = left.pop() {
        left.extend(command.get_subcommands().filter(|one| !one.is_hide_set()).cloned());
        let page = clap_mangen::Man::new(command).manual(MANUAL).source(source());
        let mut text = Vec::new();
        // Writing to memory does not fail.
        let _ = page.render(&mut text);
        text.extend(see_also().to_roff().into_bytes());
        pages.push((page.get_filename(), text));
    }
    pages.sort();
    pages
}

fn source() -> String {
    format!("stockade {}", env!("CARGO_PKG_VERSION"))
}

fn see_also() -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]);
    roff.text([bold("stockade"), roman("(1), "), bold("stockade.toml"), roman("(5)")]);
    roff
}

fn configuration_page() -> Result<(String, Vec<u8>), ConfigError> {
    let mut roff = Roff::new();
    roff.control("TH", ["stockade.toml", "5", "", source().as_str(), MANUAL]);
    let section = |roff: &mut Roff, title: &str, paragraphs: &[&str]| {
        roff.control("SH", [title]);
        for (at, paragraph) in paragraphs.iter().enumerate() {
            if at > 0 {
                roff.control("PP", []);
            }
            roff.text(marked(paragraph));
        }
    };
    section(&mut roff, "NAME", &["stockade.toml - configuration of Stockade"]);
    section(&mut roff, "DESCRIPTION", DESCRIPTION);
    section(&mut roff, "VALUES", VALUES);
    roff.control("SH", ["SETTINGS"]);
    let mut current = None;
    for setting in settings()? {
        if current.as_ref() != Some(&setting.section) {
            let title = if setting.section.is_empty() {
                "At the top level".to_owned()
            } else {
                format!("[{}]", setting.section)
            };
            roff.control("SS", [title.as_str()]);
            current = Some(setting.section.clone());
        }
        describe(&mut roff, &setting);
    }
    section(&mut roff, "FILES", FILES);
    section(&mut roff, "EXAMPLE", EXAMPLE_BEFORE);
    roff.control("nf", []);
    roff.text(EXAMPLE.lines().flat_map(|line| [roman(line), roman("\n")]).collect::<Vec<_>>());
    roff.control("fi", []);
    roff.control("SH", ["SEE ALSO"]);
    roff.text([bold("stockade"), roman("(1), "), bold("stockade-config-check"), roman("(1)")]);
    Ok((CONFIGURATION_PAGE.to_owned(), roff.to_roff().into_bytes()))
}

fn describe(roff: &mut Roff, setting: &Described) {
    let Described { name, variable, allowed, default, text, .. } = setting;
    roff.control("TP", []);
    roff.text([bold(name.as_str()), roman(" = "), italic(allowed.as_str())]);
    roff.text(marked(text));
    let default = if default.is_empty() { "nothing" } else { default.as_str() };
    roff.text([
        roman("Default: "),
        bold(default),
        roman(". In the environment: "),
        bold(variable.as_str()),
        roman("."),
    ]);
}

/// What is between backticks, in bold.
fn marked(text: &str) -> Vec<clap_mangen::roff::Inline> {
    let pieces = text.split('`').enumerate();
    pieces.map(|(at, piece)| if at % 2 == 0 { roman(piece) } else { bold(piece) }).collect()
}

const DESCRIPTION: &[&str] = &[
    "What the operator of a machine decides: one TOML file, or none, since every setting has a default. The daemon and \
     `stockade run` read the first of these that is named or there: the file of `--config`, that of the environment \
     variable `STOCKADE_CONFIG`, `/etc/stockade/stockade.toml`.",
    "Every setting is an environment variable as well, which wins over the file. Lists in a variable are separated by \
     `,` (layers) or `:` (directories). Nothing that is not understood is passed over: a name that is no setting is \
     refused, and so are settings that contradict each other.",
    "`stockade config check` prints what is in force and where each value came from.",
];

const VALUES: &[&str] = &[
    "Durations: `250us`, `500ms`, `2s`, `1.5s`, `1m`, `1h`; a bare number is seconds. Sizes: `64K`, `16M`, `1G`, \
     powers of 1024; a bare number is bytes. Paths are absolute. Durations and sizes with a unit are texts in TOML, in \
     quotes. Figures are exact or refused.",
];

const FILES: &[&str] = &[
    "`/etc/stockade/stockade.toml`: the file that is read where none is named.",
    "`/usr/share/doc/stockade/stockade.toml`: all settings with their defaults, to copy from, where Stockade was \
     installed from a package.",
];

const EXAMPLE_BEFORE: &[&str] = &["Less for everybody, and one more profile:"];

const EXAMPLE: &str = "\
production = true

[ceilings]
timeout = \"1m\"
memory_bytes = \"256M\"

[profiles.thumbnails]
timeout = \"2s\"
memory_bytes = \"64M\"";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_that_is_not_hidden_has_a_page_with_its_flags() {
        let pages = command_pages(&Cli::command());
        let page = |name: &str| {
            let found = pages.iter().find(|(known, _)| known == name);
            String::from_utf8(found.unwrap_or_else(|| panic!("no {name}")).1.clone()).unwrap()
        };
        for command in Cli::command().get_subcommands() {
            let name = format!("stockade-{}.1", command.get_name());
            assert_eq!(pages.iter().any(|(known, _)| *known == name), !command.is_hide_set(), "{name}");
            for flag in command.get_arguments().filter_map(clap::Arg::get_long) {
                let escaped = format!("\\-\\-{}", flag.replace('-', "\\-"));
                assert!(command.is_hide_set() || page(&name).contains(&escaped), "{name}: {flag}");
            }
        }
        assert!(page("stockade.1").contains("stockade\\-run(1)"));
        assert!(page("stockade-config-check.1").contains("what is in force"));
        assert!(page("stockade-run.1").contains("SEE ALSO"));
    }

    #[test]
    fn page_of_the_configuration_has_every_setting_once_under_its_section() {
        let (name, text) = configuration_page().unwrap();
        assert_eq!(name, "stockade.toml.5");
        let text = String::from_utf8(text).unwrap();
        for setting in settings().unwrap() {
            let entry = format!("\n.TP\n\\fB{}\\fR = ", setting.name);
            let section = format!("\n.SS [{}]\n", setting.section);
            let from = text.find(&section).or(setting.section.is_empty().then_some(0)).unwrap();
            assert!(text[from..].contains(&entry), "{setting:?}");
            assert_eq!(text.matches(&format!("\\fB{}\\fR.\n", setting.variable)).count(), 1, "{setting:?}");
        }
    }
}
