//! Where a script's time went: a CPU profile, made of looks at its stack.
//!
//! Owns: the form of a look, the bounds of a profile, and the format it is written in: a `.cpuprofile`, as Chrome's developer
//! tools, Node and speedscope know it.
//! Never: believes what it says: names and places are a script's own words.
//!
//! ```text
//! look:  kind u32 │ frame … (innermost first)
//! frame: line u32 │ column u32 │ length u8 │ name │ length u8 │ file
//! ```
//! The engine can be looked at only between two of its steps, and is done with one by then. So the time between two looks is
//! counted for what the later one saw.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Least time between two looks; it doubles each time that there are [`LOOKS_MAX`] of them.
pub const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Most looks that are kept.
pub const LOOKS_MAX: usize = 2048;

/// Most nodes of the tree of calls.
pub const NODES_MAX: usize = 1024;

/// Most frames of a look: what the engine keeps of a stack.
const FRAMES_MAX: usize = 64;

/// Most bytes of the names of functions and files in it together.
pub const TEXT_BYTES_MAX: usize = 64 << 10;

/// Most bytes of a profile as it is written.
pub const PROFILE_BYTES_MAX: usize = 512 << 10;

/// The nodes that each profile begins with.
const ROOT: u32 = 1;
const PROGRAM: u32 = 2;
const IDLE: u32 = 3;
/// Stacks that were too deep to be seen to their ends.
const CUT: u32 = 4;
/// Stacks for which there was no room.
const LEFT_OUT: u32 = 5;
const FIRST: [&str; 5] = ["(root)", "(program)", "(idle)", "(deeper calls)", "(left out)"];

/// What was seen at a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look<'a> {
    kind: LookKind,
    /// Known to be frames.
    frames: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LookKind {
    Stack,
    CutStack,
    Idle,
}

/// A frame of a look, or of the tree.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Frame {
    name: String,
    file: String,
    /// Where the function is, counted from 1.
    line: u32,
    column: u32,
}

impl<'a> Look<'a> {
    /// Reads one; `None` if it is none.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let (kind, frames) = bytes.split_first_chunk::<4>()?;
        let kind = match u32::from_le_bytes(*kind) {
            0 => LookKind::Stack,
            1 => LookKind::CutStack,
            2 => LookKind::Idle,
            _ => return None,
        };
        let mut rest = frames;
        for _ in 0..FRAMES_MAX {
            if rest.is_empty() {
                break;
            }
            rest = next_frame(rest)?.1;
        }
        rest.is_empty().then_some(Self { kind, frames })
    }

    /// Outermost first.
    fn frames(&self) -> Vec<Frame> {
        let mut frames = Vec::new();
        let mut rest = self.frames;
        while let Some((frame, after)) = next_frame(rest) {
            frames.push(frame);
            rest = after;
        }
        frames.reverse();
        frames
    }
}

fn next_frame(bytes: &[u8]) -> Option<(Frame, &[u8])> {
    let (line, rest) = bytes.split_first_chunk::<4>()?;
    let (column, rest) = rest.split_first_chunk::<4>()?;
    let (name, rest) = next_text(rest)?;
    let (file, rest) = next_text(rest)?;
    let (line, column) = (u32::from_le_bytes(*line), u32::from_le_bytes(*column));
    Some((Frame { name, file, line, column }, rest))
}

fn next_text(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (length, rest) = bytes.split_first()?;
    let (text, rest) = rest.split_at_checked(usize::from(*length))?;
    let plain = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    Some((String::from_utf8_lossy(text).chars().map(plain).collect(), rest))
}

/// All looks at one job, as many as are kept of them.
#[derive(Debug)]
pub struct Looks {
    /// Parent and frame of each node, from [`ROOT`] on.
    nodes: Vec<(u32, Frame)>,
    found: BTreeMap<(u32, Frame), u32>,
    text_bytes: usize,
    /// What was seen, and when.
    seen: Vec<(u32, Duration)>,
    every: Duration,
}

impl Default for Looks {
    fn default() -> Self {
        let node = |name: &&str| (ROOT, Frame { name: (*name).to_owned(), ..Frame::default() });
        Self {
            nodes: FIRST.iter().map(node).collect(),
            found: BTreeMap::new(),
            text_bytes: 0,
            seen: Vec::new(),
            every: LOOK_EVERY,
        }
    }
}

impl Looks {
    /// Keeps a look that was taken `at` after the job began; says how long it is until the next one is wanted.
    pub fn take(&mut self, look: Look<'_>, at: Duration) -> Duration {
        let node = match look.kind {
            LookKind::Idle => IDLE,
            LookKind::Stack => self.node(ROOT, look.frames()),
            LookKind::CutStack => self.node(CUT, look.frames()),
        };
        let node = if node == ROOT { PROGRAM } else { node };
        if self.seen.len() >= LOOKS_MAX {
            self.seen = halved(&self.seen);
            self.every = self.every.saturating_mul(2);
        }
        self.seen.push((node, at));
        self.every
    }

    /// The node below `top` that these frames lead to.
    fn node(&mut self, top: u32, frames: Vec<Frame>) -> u32 {
        let mut node = top;
        for frame in frames {
            node = match self.step(node, frame) {
                Some(next) => next,
                None => return LEFT_OUT,
            };
        }
        node
    }

    fn step(&mut self, parent: u32, frame: Frame) -> Option<u32> {
        let key = (parent, frame);
        if let Some(node) = self.found.get(&key) {
            return Some(*node);
        }
        let text_bytes = self.text_bytes + key.1.name.len() + key.1.file.len();
        if self.nodes.len() >= NODES_MAX || text_bytes > TEXT_BYTES_MAX {
            return None;
        }
        self.text_bytes = text_bytes;
        self.nodes.push(key.clone());
        let node = u32::try_from(self.nodes.len()).ok()?;
        self.found.insert(key, node);
        Some(node)
    }

    /// The profile of a job that ended `at` after it began.
    #[must_use]
    pub fn profile(&self, at: Duration) -> CpuProfile {
        let mut nodes: Vec<ProfileNode> =
            (ROOT..).zip(&self.nodes).map(|(id, node)| ProfileNode::of(id, &node.1)).collect();
        for (id, (parent, _)) in (ROOT..).zip(&self.nodes).skip(1) {
            if let Some(parent) = node_of(&mut nodes, *parent) {
                parent.children.push(id);
            }
        }
        let (mut samples, mut time_deltas) = (Vec::new(), Vec::new());
        // Readers of the format count the time after a sample for it, and here it is the time before a look: each is
        // said to have been when the one before it was.
        let mut times = (Duration::ZERO, Duration::ZERO);
        for (node, seen_at) in self.seen.iter().copied().chain([(PROGRAM, at)]) {
            let (sampled, before) = times;
            samples.push(node);
            time_deltas.push(us(sampled.saturating_sub(before)));
            times = (seen_at, sampled);
            if let Some(node) = node_of(&mut nodes, node) {
                node.hit_count += 1;
            }
        }
        samples.push(PROGRAM);
        time_deltas.push(us(times.0.saturating_sub(times.1)));
        CpuProfile { nodes, start_time: 0, end_time: us(times.0), samples, time_deltas }
    }
}

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn node_of(nodes: &mut [ProfileNode], id: u32) -> Option<&mut ProfileNode> {
    nodes.get_mut(usize::try_from(id.checked_sub(ROOT)?).ok()?)
}

/// Half as many looks, which stand for the same time: of two, what more time went to.
fn halved(seen: &[(u32, Duration)]) -> Vec<(u32, Duration)> {
    let mut kept = Vec::with_capacity(LOOKS_MAX);
    let mut before = Duration::ZERO;
    for pair in seen.chunks(2) {
        let ([(node, at)] | [(node, at), ..]) = pair else { continue };
        let (mut longest, mut last) = (*node, *at);
        if let [_, (other, later)] = pair {
            if later.saturating_sub(*at) > at.saturating_sub(before) {
                longest = *other;
            }
            last = *later;
        }
        kept.push((longest, last));
        before = last;
    }
    kept
}

/// A profile as it is written: times in µs since the job began, places counted from 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CpuProfile {
    /// The tree of calls, its root first; no node comes before its parent.
    pub nodes: Vec<ProfileNode>,
    /// When it begins.
    pub start_time: u64,
    /// When it ends.
    pub end_time: u64,
    /// What was going on, by the nodes' ids.
    pub samples: Vec<u32>,
    /// Since when, counted from the sample before it.
    pub time_deltas: Vec<u64>,
}

/// A function, as it was called from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProfileNode {
    /// Counted from 1.
    pub id: u32,
    /// What it is.
    pub call_frame: CallFrame,
    /// How many samples were of it.
    pub hit_count: u32,
    /// What it called.
    pub children: Vec<u32>,
}

/// A function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CallFrame {
    /// Its name; empty if it has none.
    pub function_name: String,
    /// `1` for a function of a script, `0` for what is none.
    pub script_id: String,
    /// The source's name.
    pub url: String,
    /// The function's line, -1 if it has none.
    pub line_number: i64,
    /// The function's column, -1 if it has none.
    pub column_number: i64,
}

impl ProfileNode {
    fn of(id: u32, frame: &Frame) -> Self {
        Self {
            id,
            call_frame: CallFrame {
                function_name: frame.name.clone(),
                script_id: if frame.file.is_empty() { "0" } else { "1" }.to_owned(),
                url: frame.file.clone(),
                line_number: i64::from(frame.line) - 1,
                column_number: i64::from(frame.column) - 1,
            },
            hit_count: 0,
            children: Vec::new(),
        }
    }
}

/// Why something is not taken for a profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// There is more of it than there may be.
    #[error("it is larger than a profile can be")]
    TooLarge,
    /// It is not in the format.
    #[error("it is not in the format of one")]
    Format(#[source] serde_json::Error),
    /// Its parts do not fit together.
    #[error("its nodes are no tree, or its samples are not of its nodes")]
    Inconsistent,
}

impl CpuProfile {
    /// Reads what a worker wrote, which need not be what it should be.
    ///
    /// # Errors
    /// If it is no profile within the bounds of one.
    pub fn read(bytes: &[u8]) -> Result<Self, ProfileError> {
        if bytes.len() > PROFILE_BYTES_MAX {
            return Err(ProfileError::TooLarge);
        }
        let profile: Self = serde_json::from_slice(bytes).map_err(ProfileError::Format)?;
        if profile.nodes.len() > NODES_MAX || profile.samples.len() > LOOKS_MAX + 2 {
            return Err(ProfileError::TooLarge);
        }
        if profile.is_consistent() { Ok(profile) } else { Err(ProfileError::Inconsistent) }
    }

    /// Whether the nodes are a tree, in order, and the samples are of them.
    fn is_consistent(&self) -> bool {
        let known = 1..=u32::try_from(self.nodes.len()).unwrap_or(0);
        let in_order = self.nodes.iter().map(|node| node.id).eq(known.clone());
        let below =
            |node: &ProfileNode| node.children.iter().all(|child| *child > node.id && known.contains(child));
        let mut children: Vec<u32> =
            self.nodes.iter().flat_map(|node| node.children.iter().copied()).collect();
        children.sort_unstable();
        in_order
            && self.nodes.iter().all(below)
            // Each but the root is the child of one.
            && children.into_iter().eq(known.clone().skip(1))
            && self.samples.len() == self.time_deltas.len()
            && self.samples.iter().all(|sample| known.contains(sample))
    }

    /// As it is written to a file.
    ///
    /// # Errors
    /// Never in practice: every profile has that form.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// Time that went to each function itself, µs, by its name; what it called is not in it.
    #[must_use]
    pub fn self_time_us(&self) -> BTreeMap<&str, u64> {
        let mut times = BTreeMap::new();
        for (sample, time) in self.samples.iter().zip(self.time_deltas.iter().skip(1)) {
            let node = sample.checked_sub(ROOT).and_then(|at| self.nodes.get(at as usize));
            if let Some(node) = node {
                *times.entry(node.call_frame.function_name.as_str()).or_insert(0) += time;
            }
        }
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A look at these functions, innermost first.
    fn look(kind: u32, names: &[&str]) -> Vec<u8> {
        let mut bytes = kind.to_le_bytes().to_vec();
        for (line, name) in (1_u32..).zip(names) {
            bytes.extend(line.to_le_bytes());
            bytes.extend(1_u32.to_le_bytes());
            for text in [name, "a.js"] {
                bytes.push(u8::try_from(text.len()).unwrap());
                bytes.extend(text.as_bytes());
            }
        }
        bytes
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn take(looks: &mut Looks, kind: u32, names: &[&str], at: Duration) -> Duration {
        looks.take(Look::read(&look(kind, names)).unwrap(), at)
    }

    #[test]
    fn look_that_is_cut_off_or_unknown_is_none() {
        let whole = look(0, &["f", "main"]);
        assert!(Look::read(&whole).is_some());
        let ends: Vec<usize> = (0..whole.len()).filter(|end| Look::read(&whole[..*end]).is_some()).collect();
        assert_eq!(ends, [4, 4 + 8 + 2 + 1 + 4], "where a look of fewer frames would end");
        assert_eq!(Look::read(&look(3, &[])), None);
        assert!(Look::read(&look(1, &["f"; FRAMES_MAX])).is_some());
        assert_eq!(Look::read(&look(1, &["f"; FRAMES_MAX + 1])), None);
    }

    #[test]
    fn profile_counts_the_time_before_a_look_for_what_it_saw() {
        let mut looks = Looks::default();
        take(&mut looks, 0, &["hot", "main"], ms(10));
        take(&mut looks, 0, &["cold", "main"], ms(12));
        take(&mut looks, 2, &[], ms(15));
        take(&mut looks, 0, &[], ms(16));
        take(&mut looks, 1, &["deep"], ms(20));
        let profile = looks.profile(ms(21));
        let times = profile.self_time_us();
        let expected =
            [("(idle)", 3000), ("(program)", 2000), ("cold", 2000), ("deep", 4000), ("hot", 10_000)];
        assert_eq!(times, BTreeMap::from(expected));
        assert_eq!((profile.start_time, profile.end_time), (0, 21_000));
        assert_eq!(profile.time_deltas.iter().sum::<u64>(), 21_000);
        let hot = profile.nodes.iter().find(|node| node.call_frame.function_name == "hot").unwrap();
        assert_eq!((hot.call_frame.url.as_str(), hot.call_frame.line_number, hot.hit_count), ("a.js", 0, 1));
        let main = profile.nodes.iter().find(|node| node.children.contains(&hot.id)).unwrap();
        assert_eq!(main.call_frame.function_name, "main");
        assert_eq!(main.children.len(), 2);
        assert_eq!(CpuProfile::read(&profile.to_json().unwrap()).unwrap(), profile);
    }

    #[test]
    fn profile_of_a_flood_of_stacks_stays_in_bounds_and_whole() {
        let mut looks = Looks::default();
        let mut at = Duration::ZERO;
        for number in 0..10_000 {
            // As many bytes as a name can have, each written as two.
            let name = format!("{number:\"<64}");
            at += take(&mut looks, 0, &[&name, "\u{1b}main"], at);
        }
        let profile = looks.profile(at);
        assert!(profile.nodes.len() <= NODES_MAX && profile.samples.len() <= LOOKS_MAX + 2);
        assert!(profile.samples.contains(&LEFT_OUT));
        assert_eq!(profile.time_deltas.iter().sum::<u64>(), us(at), "no time is lost");
        let json = profile.to_json().unwrap();
        assert!(json.len() <= PROFILE_BYTES_MAX, "{} bytes", json.len());
        assert_eq!(CpuProfile::read(&json).unwrap(), profile);
        assert!(!String::from_utf8(json).unwrap().contains("u001b"));
    }

    #[test]
    fn looks_that_are_too_many_are_halved_for_what_took_longer() {
        let mut looks = Looks::default();
        let mut at = Duration::ZERO;
        for _ in 0..LOOKS_MAX {
            at += ms(1);
            take(&mut looks, 0, &["short"], at);
            at += ms(3);
            assert!(take(&mut looks, 0, &["long"], at) >= LOOK_EVERY);
        }
        // Twice as many were taken, as fast as at first: there were too many twice.
        assert_eq!(looks.every, LOOK_EVERY * 4);
        let profile = looks.profile(at);
        let times = profile.self_time_us();
        assert!(times["long"] > times.get("short").copied().unwrap_or(0) * 3, "{times:?}");
        assert_eq!(profile.time_deltas.iter().sum::<u64>(), us(at));
    }

    #[test]
    fn profile_that_is_no_tree_or_has_too_much_is_refused() {
        let mut looks = Looks::default();
        take(&mut looks, 0, &["f"], ms(1));
        let good = looks.profile(ms(2));
        let refused = |profile: &CpuProfile| CpuProfile::read(&profile.to_json().unwrap()).is_err();
        assert!(!refused(&good));
        let changed = |change: fn(&mut CpuProfile)| {
            let mut profile = good.clone();
            change(&mut profile);
            refused(&profile)
        };
        assert!(changed(|profile| profile.nodes[5].children.push(1)));
        assert!(changed(|profile| profile.nodes[0].children.push(2)));
        assert!(changed(|profile| profile.nodes[0].children.clear()));
        assert!(changed(|profile| profile.nodes[1].id = 9));
        assert!(changed(|profile| profile.samples[0] = 0));
        assert!(changed(|profile| profile.samples[0] = 7));
        assert!(changed(|profile| profile.time_deltas.clear()));
        assert!(changed(|profile| profile.samples = vec![1; LOOKS_MAX + 3]));
        assert!(CpuProfile::read(&vec![b' '; PROFILE_BYTES_MAX + 1]).is_err());
        assert!(CpuProfile::read(b"{\"nodes\":[]}").is_err());
    }
}
