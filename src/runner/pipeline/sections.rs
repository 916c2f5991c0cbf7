//! Cuts the text of a pipeline file where its tables begin, without parsing it: which lines state
//! which stage, and what is said of all stages. So it can be seen which stages a change of the text
//! is about, at the cost of reading it. A text that says of a stage outside of `[stages.NAME]` and
//! the tables below that is not cut.
//!
//! Does not know TOML beyond strings, comments, brackets and headers; the text must have been parsed
//! before, or be parsed afterwards.

use crate::files::digest::Digest;
use std::collections::HashMap;
use std::ops::Range;

/// A text by the stages it states.
pub(crate) struct Sections<'t> {
    text: &'t str,
    /// The lines from one header to the next, with the index of the stage that they state.
    cuts: Vec<(Range<usize>, Option<usize>)>,
    /// By first appearance.
    pub names: Vec<&'t str>,
}

impl<'t> Sections<'t> {
    /// `None` if the text states stages in another way.
    pub fn of(text: &'t str) -> Option<Self> {
        let mut sections = Self { text, cuts: vec![], names: vec![] };
        let mut known: HashMap<&str, usize> = HashMap::new();
        let (mut state, mut at, mut start, mut of) = (State::default(), 0, 0, None);
        let mut is_above = true;
        for line in text.split_inclusive('\n') {
            if state.is_between() {
                let words = line.trim_start_matches([' ', '\t']);
                if words.starts_with('[') {
                    sections.cut(start..at, of);
                    (start, is_above) = (at, false);
                    of = match header(words)? {
                        Header::Stage(name) => Some(*known.entry(name).or_insert_with(|| {
                            sections.names.push(name);
                            sections.names.len() - 1
                        })),
                        Header::Other => None,
                    };
                } else if is_above && may_be_stages(words) {
                    // A dotted key or an inline table above the first header.
                    return None;
                }
            }
            state.pass(line);
            at += line.len();
        }
        sections.cut(start..at, of);
        Some(sections)
    }

    fn cut(&mut self, range: Range<usize>, of: Option<usize>) {
        if !range.is_empty() {
            self.cuts.push((range, of));
        }
    }

    /// The digests of what the text says of each stage.
    pub fn digests(&self) -> Vec<Digest> {
        let mut all = vec![Digest::of_bytes(b""); self.names.len()];
        for (range, of) in &self.cuts {
            let Some(stage) = of else { continue };
            // A stage may be stated in several places.
            let mut hasher = blake3::Hasher::new();
            hasher.update(&all[*stage].bytes());
            hasher.update(&self.text.as_bytes()[range.clone()]);
            all[*stage] = Digest::from_bytes(*hasher.finalize().as_bytes());
        }
        all
    }

    /// The digest of everything else, and of the names and order of the stages.
    pub fn rest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        for (range, _) in self.cuts.iter().filter(|(_, of)| of.is_none()) {
            hasher.update(&(range.len() as u64).to_le_bytes());
            hasher.update(&self.text.as_bytes()[range.clone()]);
        }
        for name in &self.names {
            hasher.update(b"\n");
            hasher.update(name.as_bytes());
        }
        Digest::from_bytes(*hasher.finalize().as_bytes())
    }

    /// The whole text in pieces that begin where a table does: those that say something of stages, of
    /// some `size` in bytes, and those that do not. The tables of a stage that follow each other are
    /// not parted.
    pub fn pieces(&self, size: usize) -> (Vec<Range<usize>>, Vec<Range<usize>>) {
        let (mut stages, mut others): (Vec<Range<usize>>, Vec<Range<usize>>) = Default::default();
        let mut before = None;
        for (range, of) in &self.cuts {
            let all = if of.is_some() { &mut stages } else { &mut others };
            match all.last_mut() {
                Some(last) if last.end == range.start && (*of == before || last.len() < size) => last.end = range.end,
                _ => all.push(range.clone()),
            }
            before = *of;
        }
        (stages, others)
    }

    /// The text without the other stages, whose lines are empty: what is left has its line numbers.
    pub fn only(&self, wanted: impl Fn(usize) -> bool) -> String {
        let mut text = String::with_capacity(self.text.len() / 8);
        for (range, of) in &self.cuts {
            let part = &self.text[range.clone()];
            match of {
                Some(stage) if !wanted(*stage) => {
                    text.extend(part.bytes().filter(|b| *b == b'\n').map(char::from));
                }
                _ => text.push_str(part),
            }
        }
        text
    }
}

enum Header<'t> {
    Stage(&'t str),
    Other,
}

/// What a line that begins with a bracket opens; `None` if it may be about stages in another way.
fn header(line: &str) -> Option<Header<'_>> {
    let Some(rest) = line.strip_prefix("[stages.") else {
        let other = !may_be_stages(line.trim_start_matches(['[', ' ', '\t']));
        return other.then_some(Header::Other);
    };
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'))?;
    let (name, after) = rest.split_at(end);
    (!name.is_empty() && after.starts_with([']', '.'])).then_some(Header::Stage(name))
}

/// Whether a key may be `stages`, as it stands or quoted.
fn may_be_stages(key: &str) -> bool {
    key.starts_with("stages") || key.starts_with(['"', '\''])
}

/// Where in the syntax a line begins.
#[derive(Default)]
struct State {
    /// Open brackets of arrays and inline tables.
    depth: usize,
    /// The quote of an open string of several lines.
    long: Option<u8>,
}

impl State {
    /// At a line that may be a header.
    fn is_between(&self) -> bool {
        self.depth == 0 && self.long.is_none()
    }

    fn pass(&mut self, line: &str) {
        let bytes = line.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            if let Some(quote) = self.long {
                match bytes[at] {
                    b'\\' if quote == b'"' => at += 1,
                    found if found == quote && bytes[at..].starts_with(&[quote; 3]) => {
                        // Up to two quotes may stand before the three that end it.
                        let run = bytes[at..].iter().take_while(|b| **b == quote).count();
                        at += run - 1;
                        self.long = None;
                    }
                    _ => {}
                }
                at += 1;
                continue;
            }
            match bytes[at] {
                b'#' => return,
                b'[' | b'{' => self.depth += 1,
                b']' | b'}' => self.depth = self.depth.saturating_sub(1),
                quote @ (b'"' | b'\'') if bytes[at..].starts_with(&[quote; 3]) => {
                    self.long = Some(quote);
                    at += 2;
                }
                quote @ (b'"' | b'\'') => at = closing(bytes, at, quote),
                _ => {}
            }
            at += 1;
        }
    }
}

/// The end of a string of one line that opens at `at`.
fn closing(bytes: &[u8], at: usize, quote: u8) -> usize {
    let mut end = at + 1;
    while end < bytes.len() && bytes[end] != quote {
        end += if bytes[end] == b'\\' && quote == b'"' { 2 } else { 1 };
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::spanned::parse;
    use std::path::Path;

    fn names(text: &str) -> Option<Vec<&str>> {
        Sections::of(text).map(|s| s.names)
    }

    #[test]
    fn only_headers_cut() {
        let text = "name = \"p\" # [stages.x]\n[stages.a]\nrun = \"\"\"\n[stages.b]\n\"\"\"\nx = [\n [1, 2],\n[3]\n]\n\
                    y = '''\n[stages.c]'''\nz = \"\\\"[stages.d]\" # '''\n  [stages.e] # \"\"\"\n[stages.a.params]\nq = 1\n\
                    [params]\nw = 2\n[stages.f.inputs]\n";
        assert_eq!(names(text), Some(vec!["a", "e", "f"]));
        let sections = Sections::of(text).unwrap();
        let only = sections.only(|stage| sections.names[stage] == "a");
        assert_eq!(only.lines().count(), text.lines().count());
        let whole = parse(Path::new("p.toml"), text).unwrap();
        let part = parse(Path::new("p.toml"), only).unwrap();
        let of = |node: &crate::text::spanned::Node, name: &str| {
            let stage = node.get("stages").and_then(|s| s.get(name)).cloned();
            stage.map(|s| (s.get("q").is_some(), s.get("params").map(|p| p.get("q").unwrap().place.line_col())))
        };
        assert_eq!(of(&whole, "a"), of(&part, "a"));
        assert!(of(&whole, "e").is_some() && of(&part, "e").is_none());
        assert!(part.get("params").is_some());
    }

    #[test]
    fn quotes_that_end_a_long_string_may_follow_others() {
        assert_eq!(names("[stages.a]\nx = \"\"\"\"[stages.b]\"\"\"\"\"\n[stages.c]\n"), Some(vec!["a", "c"]));
        assert_eq!(names("[stages.a]\nx = \"\"\"\\\"\"\"\"\n[stages.c]\n"), Some(vec!["a", "c"]));
    }

    #[test]
    fn what_is_stated_otherwise_is_not_cut() {
        for text in [
            "stages.a.kind = \"command\"\n",
            "stages = { a = {} }\n",
            "\"stages\".a.kind = \"command\"\n",
            "[stages]\na = {}\n",
            "[ stages.a ]\n",
            "[stages . a]\n",
            "[stages.\"a\"]\n",
            "[[stages.a]]\n",
            "['stages'.a]\n",
            "[params]\nx = 1\n[stages]\n",
        ] {
            assert_eq!(names(text), None, "{text}");
        }
        assert_eq!(names("[sweep]\n\"stages\" = 1\n[[sweep.trials]]\n[stages.a]\n"), Some(vec!["a"]));
    }

    #[test]
    fn a_digest_is_of_one_stage() {
        let digests = |text: &'static str| {
            let sections = Sections::of(text).unwrap();
            (sections.digests(), sections.rest())
        };
        let (old, rest) = digests("name = \"p\"\n[stages.a]\nx = 1\n[stages.b]\nx = 1\n[stages.a.params]\ny = 1\n");
        let (new, same) = digests("name = \"p\"\n[stages.a]\nx = 1\n[stages.b]\nx = 1\n[stages.a.params]\ny = 2\n");
        assert!(old[0] != new[0] && old[1] == new[1] && rest == same);
        let (new, other) = digests("name = \"q\"\n[stages.a]\nx = 1\n[stages.b]\nx = 1\n[stages.a.params]\ny = 1\n");
        assert!(old == new && rest != other);
        let (_, other) = digests("name = \"p\"\n[stages.b]\nx = 1\n[stages.a]\nx = 1\n[stages.a.params]\ny = 1\n");
        assert_ne!(rest, other);
    }
}
