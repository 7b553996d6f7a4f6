//! The scripts that a process has run before, and what they compiled to.
//!
//! Owns: which are kept, how many, and how much of memory they may take.
//! Never: looks into what it keeps: the engine made it of a source that a stranger wrote. It goes back to an engine with that
//! very source and no other, so that whoever led the engine astray with it has led astray nothing but their own script.

use std::collections::VecDeque;
use std::sync::Arc;

/// Most scripts that are known. They are gone through one by one for each that comes, which of so many, nearly all of another
/// length or name, takes less than a microsecond. How much memory they take is the operator's word: see [`Known::new`].
const SCRIPTS_MAX: usize = 64;

/// Scripts of one tenant, the one that came last at the back.
#[derive(Debug)]
pub(super) struct Known {
    scripts: VecDeque<KnownScript>,
    /// Most that all of them may take, names, sources and what they compiled to.
    bytes_max: usize,
}

#[derive(Debug)]
struct KnownScript {
    name: String,
    module: bool,
    source: String,
    state: State,
}

#[derive(Debug)]
enum State {
    /// It came once.
    Seen,
    /// It came again, and the engine is, or was, to say what it compiles to.
    Asked,
    Kept(Arc<[u8]>),
}

/// What is known of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing that is of use.
    Nothing,
    /// That it comes again: the engine is to say what it compiles to, for [`Known::keep`].
    Again,
    /// What it compiles to.
    Compiled(Arc<[u8]>),
}

impl KnownScript {
    fn bytes(&self) -> usize {
        let compiled = if let State::Kept(compiled) = &self.state { compiled.len() } else { 0 };
        self.name.len().saturating_add(self.source.len()).saturating_add(compiled)
    }
}

impl Known {
    /// None yet, of which there may be `bytes_max` in all, names, sources and what they compiled to. One source may be a
    /// quarter of that, and what it compiled to a half: the others are not to make room for one alone.
    pub(super) const fn new(bytes_max: usize) -> Self {
        Self { scripts: VecDeque::new(), bytes_max }
    }

    /// What is known of the script that is to be run. It is known from now on, unless it is too long for that.
    pub(super) fn look(&mut self, name: &str, module: bool, source: &str) -> Found {
        let same =
            |script: &KnownScript| script.module == module && script.name == name && script.source == source;
        let at = self.scripts.iter().position(same);
        let Some(mut script) = at.and_then(|at| self.scripts.remove(at)) else {
            if source.len() <= self.bytes_max / 4 {
                let (name, source) = (name.to_owned(), source.to_owned());
                self.scripts.push_back(KnownScript { name, module, source, state: State::Seen });
                self.bound();
            }
            return Found::Nothing;
        };
        let found = match &script.state {
            State::Seen => Found::Again,
            State::Asked => Found::Nothing,
            State::Kept(compiled) => Found::Compiled(Arc::clone(compiled)),
        };
        if matches!(script.state, State::Seen) {
            script.state = State::Asked;
        }
        self.scripts.push_back(script);
        found
    }

    /// Keeps what the script compiled to that was looked for last and came again.
    pub(super) fn keep(&mut self, compiled: Vec<u8>) {
        if let Some(script) = self.scripts.back_mut()
            && matches!(script.state, State::Asked)
            && compiled.len() <= self.bytes_max / 2
        {
            script.state = State::Kept(compiled.into());
        }
        self.bound();
    }

    fn bound(&mut self) {
        let bytes = |scripts: &VecDeque<KnownScript>| scripts.iter().map(KnownScript::bytes).sum::<usize>();
        while self.scripts.len() > SCRIPTS_MAX || bytes(&self.scripts) > self.bytes_max {
            self.scripts.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES_MAX: usize = 1 << 20;

    fn kept(bytes: &[u8]) -> Found {
        Found::Compiled(bytes.into())
    }

    #[test]
    fn script_that_comes_again_is_asked_for_once_and_then_had() {
        let mut known = Known::new(BYTES_MAX);
        assert_eq!(known.look("a.js", false, "1"), Found::Nothing);
        assert_eq!(known.look("a.js", false, "1"), Found::Again);
        assert_eq!(known.look("a.js", false, "1"), Found::Nothing, "it was asked for and did not come");
        known.keep(b"one".to_vec());
        assert_eq!(known.look("a.js", false, "1"), kept(b"one"));
        known.keep(b"other".to_vec());
        assert_eq!(known.look("a.js", false, "1"), kept(b"one"), "nobody had asked");
    }

    #[test]
    fn what_one_script_compiled_to_is_no_others() {
        let mut known = Known::new(BYTES_MAX);
        let scripts = [("a.js", false, "1"), ("b.js", false, "1"), ("a.js", true, "1"), ("a.js", false, "2")];
        for (name, module, source) in scripts {
            assert_eq!(known.look(name, module, source), Found::Nothing);
            assert_eq!(known.look(name, module, source), Found::Again);
            known.keep(format!("{name} {module} {source}").into());
        }
        for (name, module, source) in scripts {
            let expected = format!("{name} {module} {source}");
            assert_eq!(known.look(name, module, source), kept(expected.as_bytes()));
        }
    }

    #[test]
    fn oldest_go_when_there_are_too_many_or_they_are_too_large() {
        let mut known = Known::new(BYTES_MAX);
        for number in 0..2 * SCRIPTS_MAX {
            known.look("a.js", false, &number.to_string());
            assert!(known.scripts.len() <= SCRIPTS_MAX);
        }
        assert_eq!(known.look("a.js", false, "0"), Found::Nothing);
        assert_eq!(known.look("a.js", false, &(2 * SCRIPTS_MAX - 1).to_string()), Found::Again);
        let long = "x".repeat(BYTES_MAX / 4);
        assert_eq!(known.look("a.js", false, &long), Found::Nothing);
        assert_eq!(known.look("a.js", false, &long), Found::Again);
        known.keep(vec![0; BYTES_MAX / 2]);
        known.look("b.js", false, &long);
        assert_eq!(known.scripts.len(), 1, "both are too much");
        let longer = "x".repeat(BYTES_MAX / 4 + 1);
        for _ in 0..2 {
            assert_eq!(known.look("a.js", false, &longer), Found::Nothing);
        }
        known.look("a.js", false, "1");
        known.look("a.js", false, "1");
        known.keep(vec![0; BYTES_MAX / 2 + 1]);
        assert_eq!(known.look("a.js", false, "1"), Found::Nothing);
    }

    #[test]
    fn nothing_is_kept_where_nothing_may_be() {
        let mut known = Known::new(0);
        for source in ["", "1"] {
            for _ in 0..3 {
                assert_eq!(known.look("a.js", false, source), Found::Nothing);
                known.keep(b"one".to_vec());
            }
        }
        assert!(known.scripts.is_empty());
    }
}
