//! What scripts compiled to, for jobs in fresh processes.
//!
//! Owns: which scripts are known, how far each has come, and which is forgotten first.
//! Never: compiles one, reads a clock, looks into a form: the engine made it of a source that a stranger wrote.
//!
//! ```text
//!            comes again            it has what it compiles to
//!      Seen ────────────▶ Compiling ────────────▶ Kept
//!        ▲                 │     │  there is nothing to keep
//!        └─────────────────┘     └──────────────▶ Useless
//!          no worker to spare
//! ```

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use stockade_wire::job::Digest;

/// Compilations at once. No setting: one takes a millisecond, is worth something to those who come later alone, and takes the
/// processor from jobs.
pub(crate) const COMPILING_MAX: usize = 1;

/// One form has at most this part of all bytes: the others are not to make room for one alone.
const FORM_PART: usize = 4;

/// One script of one user. What is compiled for one is given to no other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ScriptKey {
    pub(crate) uid: u32,
    /// Of its source.
    pub(crate) digest: Digest,
    /// Its name, which is in what it compiles to.
    pub(crate) name: String,
    /// It is a module, of which an export is called.
    pub(crate) module: bool,
}

/// What is known of a script.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing that is of use.
    #[default]
    Nothing,
    /// That it comes again: it is to be compiled, see [`Forms::begin`].
    Again(Rc<ScriptKey>),
    /// What it compiles to.
    Form(Rc<[u8]>),
}

#[derive(Debug)]
enum State {
    /// It came, and nothing was made of it yet.
    Seen,
    /// It is being compiled.
    Compiling,
    Kept(Rc<[u8]>),
    /// The engine had nothing to keep, or did not come to an end: it is not asked again.
    Useless,
}

#[derive(Debug)]
struct Known {
    state: State,
    /// When it came last, in the order of coming.
    came: u64,
}

/// The scripts that are known.
#[derive(Debug)]
pub(super) struct Forms {
    known: HashMap<Rc<ScriptKey>, Known>,
    /// The one that came last at the end.
    order: BTreeMap<u64, Rc<ScriptKey>>,
    next: u64,
    /// Of all names and forms.
    bytes: usize,
    compiling: usize,
    scripts_max: usize,
    bytes_max: usize,
}

impl Forms {
    /// None yet, of which there may be `scripts_max`, and `bytes_max` of their names and forms. 0 of either: none is ever known.
    pub(super) fn new(scripts_max: usize, bytes_max: usize) -> Self {
        Self {
            known: HashMap::new(),
            order: BTreeMap::new(),
            next: 0,
            bytes: 0,
            compiling: 0,
            scripts_max,
            bytes_max,
        }
    }

    /// What is known of a script that comes now. It is known from now on.
    pub(super) fn look(&mut self, key: ScriptKey) -> Found {
        if self.scripts_max == 0 || self.bytes_max == 0 {
            return Found::Nothing;
        }
        let came = self.next;
        self.next += 1;
        if let Some(known) = self.known.get_mut(&key) {
            let Some(key) = self.order.remove(&known.came) else { return Found::Nothing };
            known.came = came;
            self.order.insert(came, Rc::clone(&key));
            return match &known.state {
                State::Seen => Found::Again(key),
                State::Compiling | State::Useless => Found::Nothing,
                State::Kept(form) => Found::Form(Rc::clone(form)),
            };
        }
        let key = Rc::new(key);
        self.bytes = self.bytes.saturating_add(key.name.len());
        self.known.insert(Rc::clone(&key), Known { state: State::Seen, came });
        self.order.insert(came, key);
        self.bound();
        Found::Nothing
    }

    /// Begins to compile a script that came again. `false` when somebody else has, or as many are being compiled as may be.
    pub(super) fn begin(&mut self, key: &ScriptKey) -> bool {
        let Some(known) = self.known.get_mut(key).filter(|known| matches!(known.state, State::Seen)) else {
            return false;
        };
        if self.compiling >= COMPILING_MAX {
            return false;
        }
        known.state = State::Compiling;
        self.compiling += 1;
        true
    }

    /// What was begun was not done: whoever comes next may try again.
    pub(super) fn put_back(&mut self, key: &ScriptKey) {
        self.settle(key, State::Seen);
    }

    /// What was begun is done: the form, or that there is none.
    pub(super) fn end(&mut self, key: &ScriptKey, form: Option<Rc<[u8]>>) {
        let form = form.filter(|form| form.len() <= self.bytes_max / FORM_PART);
        self.settle(key, form.map_or(State::Useless, State::Kept));
        self.bound();
    }

    fn settle(&mut self, key: &ScriptKey, state: State) {
        self.compiling = self.compiling.saturating_sub(1);
        // It may have been forgotten since, and come anew.
        if let Some(known) = self.known.get_mut(key)
            && matches!(known.state, State::Compiling)
        {
            self.bytes = self.bytes.saturating_add(state.bytes());
            known.state = state;
        }
    }

    fn bound(&mut self) {
        while self.known.len() > self.scripts_max || self.bytes > self.bytes_max {
            let Some((_, key)) = self.order.pop_first() else { return };
            if let Some(known) = self.known.remove(&key) {
                self.bytes = self.bytes.saturating_sub(key.name.len().saturating_add(known.state.bytes()));
            }
        }
    }
}

impl State {
    fn bytes(&self) -> usize {
        if let Self::Kept(form) = self { form.len() } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES_MAX: usize = 1 << 10;

    fn key(number: u8) -> ScriptKey {
        ScriptKey { uid: 1, digest: [number; 32], name: "a.js".to_owned(), module: false }
    }

    fn form(byte: u8) -> Option<Rc<[u8]>> {
        Some([byte; 8].as_slice().into())
    }

    fn again(key: &ScriptKey) -> Found {
        Found::Again(Rc::new(key.clone()))
    }

    /// What may happen to one of two scripts.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Look,
        Begin,
        PutBack,
        Keep,
        Fail,
    }

    /// The same in the fewest words: how far a script is, by the steps that were taken.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Model {
        Unknown,
        Seen,
        Compiling,
        Kept,
        Useless,
    }

    fn take(forms: &mut Forms, models: &mut [Model; 2], which: usize, step: Step) {
        let key = key(u8::from(which == 1));
        let model = models[which];
        let busy = models.contains(&Model::Compiling);
        models[which] = match (step, model) {
            (Step::Look, _) => {
                let expected = match model {
                    Model::Seen => again(&key),
                    Model::Kept => Found::Form(form(1).unwrap()),
                    Model::Unknown | Model::Compiling | Model::Useless => Found::Nothing,
                };
                assert_eq!(forms.look(key), expected);
                if model == Model::Unknown { Model::Seen } else { model }
            }
            (Step::Begin, _) => {
                let begins = model == Model::Seen && !busy;
                assert_eq!(forms.begin(&key), begins);
                if begins { Model::Compiling } else { model }
            }
            // Only who has begun says how it went.
            (Step::PutBack, Model::Compiling) => {
                forms.put_back(&key);
                Model::Seen
            }
            (Step::Keep, Model::Compiling) => {
                forms.end(&key, form(1));
                Model::Kept
            }
            (Step::Fail, Model::Compiling) => {
                forms.end(&key, None);
                Model::Useless
            }
            (Step::PutBack | Step::Keep | Step::Fail, _) => model,
        };
    }

    #[test]
    fn every_history_of_two_scripts_goes_through_the_states_as_it_should_and_compiles_one_at_a_time() {
        const STEPS: [Step; 5] = [Step::Look, Step::Begin, Step::PutBack, Step::Keep, Step::Fail];
        const LENGTH: u32 = 6;
        let choices = STEPS.len() * 2;
        for history in 0..choices.pow(LENGTH) {
            let mut forms = Forms::new(8, BYTES_MAX);
            let mut models = [Model::Unknown; 2];
            for nth in 0..LENGTH {
                let choice = history / choices.pow(nth) % choices;
                take(&mut forms, &mut models, choice % 2, STEPS[choice / 2]);
            }
            let compiling = models.iter().filter(|model| **model == Model::Compiling).count();
            assert!(forms.compiling == compiling && compiling <= COMPILING_MAX, "{history}");
            let known = models.iter().filter(|model| **model != Model::Unknown).count();
            assert_eq!((forms.known.len(), forms.order.len()), (known, known), "{history}");
        }
    }

    #[test]
    fn form_of_one_script_is_no_others() {
        let one = key(1);
        let others = [
            ScriptKey { uid: 2, ..one.clone() },
            key(2),
            ScriptKey { name: "b.js".to_owned(), ..one.clone() },
            ScriptKey { module: true, ..one.clone() },
        ];
        let mut forms = Forms::new(8, BYTES_MAX);
        forms.look(one.clone());
        assert!(forms.begin(&one));
        forms.end(&one, form(1));
        for other in others {
            assert_eq!(forms.look(other.clone()), Found::Nothing, "{other:?}");
            assert_eq!(forms.look(other.clone()), again(&other));
        }
        assert_eq!(forms.look(one), Found::Form(form(1).unwrap()));
    }

    #[test]
    fn script_that_came_longest_ago_goes_when_there_are_too_many_or_too_many_bytes() {
        let mut forms = Forms::new(3, BYTES_MAX);
        for number in [0, 1, 2, 0, 3] {
            forms.look(key(number));
        }
        assert_eq!(forms.look(key(0)), again(&key(0)));
        assert_eq!(forms.look(key(1)), Found::Nothing, "forgotten");
        let name = "n".repeat(BYTES_MAX / 2);
        let long = |number| ScriptKey { name: name.clone(), ..key(number) };
        for number in 0..2 {
            forms.look(long(number));
        }
        assert_eq!((forms.known.len(), forms.bytes), (2, BYTES_MAX));
        assert!(forms.begin(&long(1)));
        forms.end(&long(1), form(1));
        assert_eq!((forms.known.len(), forms.bytes), (1, BYTES_MAX / 2 + 8));
        assert_eq!(forms.look(long(1)), Found::Form(form(1).unwrap()));
        forms.look(key(0));
        forms.look(long(0));
        assert_eq!(forms.look(long(1)), Found::Nothing);
        let bytes: usize = forms.known.iter().map(|(key, known)| key.name.len() + known.state.bytes()).sum();
        assert_eq!((forms.bytes, forms.order.len()), (bytes, forms.known.len()));
    }

    #[test]
    fn form_that_would_take_too_much_is_not_kept_and_not_asked_for_again() {
        let mut forms = Forms::new(8, BYTES_MAX);
        for (number, bytes, kept) in [(0, BYTES_MAX / FORM_PART, true), (1, BYTES_MAX / FORM_PART + 1, false)]
        {
            forms.look(key(number));
            assert!(forms.begin(&key(number)));
            let form: Rc<[u8]> = vec![7; bytes].into();
            forms.end(&key(number), Some(Rc::clone(&form)));
            let found = if kept { Found::Form(form) } else { Found::Nothing };
            assert_eq!(forms.look(key(number)), found);
        }
    }

    #[test]
    fn what_was_begun_of_a_script_that_was_forgotten_meanwhile_is_of_no_consequence() {
        let mut forms = Forms::new(1, BYTES_MAX);
        forms.look(key(0));
        assert!(forms.begin(&key(0)));
        forms.look(key(1));
        forms.look(key(0));
        assert!(!forms.begin(&key(0)), "one is still at it");
        forms.end(&key(0), form(1));
        assert_eq!(forms.look(key(0)), again(&key(0)));
        assert!(forms.begin(&key(0)));
        assert_eq!(forms.bytes, key(0).name.len());
    }

    #[test]
    fn nothing_is_known_where_nothing_may_be() {
        for (scripts_max, bytes_max) in [(0, BYTES_MAX), (8, 0)] {
            let mut forms = Forms::new(scripts_max, bytes_max);
            for _ in 0..3 {
                assert_eq!(forms.look(key(0)), Found::Nothing);
                assert!(!forms.begin(&key(0)));
            }
            assert!(forms.known.is_empty());
        }
    }
}
