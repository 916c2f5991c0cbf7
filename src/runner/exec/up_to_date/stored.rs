//! The file of a stored answer.
//!
//! A format line; the digest of all that follows; a line of JSON, [`Head`]; for each stage what must
//! be in place, [`Check`]; for each stage what it is in the graph, [`Node`]; for each stage a line of
//! JSON with its final state, [`Ended`]. A run in which nothing changed reads the nodes only if
//! something changed, and the lines only if they are few enough to be listed: they are most of it.

use crate::cache::action_cache::{Output, Record, Shown, Stamp};
use crate::cache::store::Store;
use crate::event::{Measure, StageEnd, StageState};
use crate::files::digest::{Digest, Measured};
use crate::files::watched::Rule;
use crate::small_map::SmallMap;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

const FORMAT: &[u8] = b"erw memo 3\n";

/// What the answer depends on, apart from the stages.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Head {
    pub pipeline: String,
    /// When all of it was last planned, in seconds since 1970.
    pub planned: u64,
    /// Pipeline files, their link targets, and the digests of their contents.
    pub files: Vec<(PathBuf, PathBuf, Digest)>,
    /// Source files and folders, their watch rules, and their digests in the keys.
    pub sources: Vec<Source>,
    /// What the pipeline file says apart from its stages, if it is the only file and says of them
    /// nothing elsewhere ([`crate::pipeline::sections`]). Otherwise there are no nodes.
    pub rest: Option<Digest>,
    /// This and the following are known when all is written.
    pub stages: usize,
    /// Length in bytes of the checks, and of the nodes.
    pub checks: usize,
    pub nodes: usize,
}

pub(super) type Source = (PathBuf, Option<Rule>, Digest);

/// A stored answer as bytes, taken apart.
pub(super) struct Stored {
    bytes: Vec<u8>,
    pub head: Head,
    /// Where the checks begin.
    at: usize,
}

impl Stored {
    /// `None` if it is damaged, or of another version.
    pub fn of(bytes: Vec<u8>) -> Option<Self> {
        let (check, body) = line(bytes.strip_prefix(FORMAT)?)?;
        if Digest::of_bytes(body).hex().as_bytes() != check {
            return None;
        }
        let (head, rest) = line(body)?;
        let head: Head = serde_json::from_slice(head).ok()?;
        let at = bytes.len() - rest.len();
        (head.checks.checked_add(head.nodes)? <= rest.len()).then_some(())?;
        Some(Self { head, at, bytes })
    }

    pub fn checks(&self) -> Option<Vec<Check>> {
        let all = all(&self.bytes[self.at..self.at + self.head.checks], Check::read)?;
        (all.len() == self.head.stages).then_some(all)
    }

    pub fn nodes(&self) -> Option<Vec<Node<'_>>> {
        self.of_nodes(|node| node)
    }

    /// Names and kinds of the stages, if there are nodes.
    pub fn names(&self) -> Option<Vec<(&str, &str)>> {
        self.of_nodes(|node| (node.name, node.kind))
    }

    fn of_nodes<'s, T>(&'s self, part: impl Fn(Node<'s>) -> T) -> Option<Vec<T>> {
        let at = self.at + self.head.checks;
        let all = all(&self.bytes[at..at + self.head.nodes], |bytes| Node::read(bytes).map(&part))?;
        (all.len() == self.head.stages).then_some(all)
    }

    /// The final states, as lines of JSON.
    pub fn ends(&self) -> impl Iterator<Item = &[u8]> {
        let at = self.at + self.head.checks + self.head.nodes;
        self.bytes[at..].split_inclusive(|b| *b == b'\n')
    }
}

fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|b| *b == b'\n')?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// What is to be stored, stage by stage.
#[derive(Default)]
pub(super) struct Parts {
    stages: usize,
    checks: Vec<u8>,
    nodes: Vec<u8>,
    ends: Vec<u8>,
}

impl Parts {
    /// `end`: a line of JSON.
    pub fn add(&mut self, check: &Check, node: Option<&Node<'_>>, end: &[u8]) {
        self.stages += 1;
        check.write(&mut self.checks);
        node.inspect(|node| node.write(&mut self.nodes));
        self.ends.extend(end);
    }

    /// The bytes of the file.
    pub fn stored(self, head: Head) -> Option<Vec<u8>> {
        let head = Head { stages: self.stages, checks: self.checks.len(), nodes: self.nodes.len(), ..head };
        let head = serde_json::to_vec(&head).ok()?;
        let mut hasher = blake3::Hasher::new();
        for part in [&head[..], b"\n", &self.checks, &self.nodes, &self.ends] {
            hasher.update(part);
        }
        let digest = Digest::from_bytes(*hasher.finalize().as_bytes());
        Some([FORMAT, digest.hex().as_bytes(), b"\n", &head, b"\n", &self.checks, &self.nodes, &self.ends].concat())
    }
}

/// What must be present for a stage.
#[derive(Clone)]
pub(super) struct Check {
    pub key: Digest,
    pub record: Stamp,
    /// In the order of the names of its outputs.
    pub outputs: Vec<Measured>,
}

impl Check {
    pub fn of(record: &Record) -> Option<Self> {
        Some(Self { key: record.key().into(), record: record.stamp?, outputs: record.measured() })
    }

    fn write(&self, to: &mut Vec<u8>) {
        to.extend(self.key.bytes());
        self.record.iter().for_each(|n| to.extend(n.to_le_bytes()));
        to.extend((self.outputs.len() as u64).to_le_bytes());
        for Measured { digest, bytes, files } in &self.outputs {
            to.extend(digest.bytes());
            to.extend(bytes.to_le_bytes());
            to.extend(files.to_le_bytes());
        }
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let key = Digest::from_bytes(take(bytes)?);
        let mut number = || take(bytes).map(u64::from_le_bytes);
        let record = [number()? as i64, number()? as i64, number()? as i64, number()? as i64];
        let mut outputs = Vec::new();
        for _ in 0..number()? {
            let digest = Digest::from_bytes(take(bytes)?);
            let mut number = || take(bytes).map(u64::from_le_bytes);
            outputs.push(Measured { digest, bytes: number()?, files: number()? });
        }
        Some(Self { key, record, outputs })
    }
}

/// A stage in the graph.
pub(super) struct Node<'a> {
    /// What the pipeline file says of it.
    pub text: Digest,
    pub name: &'a str,
    pub kind: &'a str,
    /// Names and types of its outputs, sorted.
    pub outputs: Vec<(&'a str, &'a str)>,
    /// Numbers of the stages that make its inputs, by slot. They come before it.
    pub inputs: Vec<u32>,
    /// Indices in [`Head::sources`].
    pub sources: Vec<u32>,
}

impl<'a> Node<'a> {
    fn write(&self, to: &mut Vec<u8>) {
        let number = |to: &mut Vec<u8>, n: usize| to.extend((n as u32).to_le_bytes());
        let word = |to: &mut Vec<u8>, word: &str| {
            number(to, word.len());
            to.extend(word.as_bytes());
        };
        to.extend(self.text.bytes());
        word(to, self.name);
        word(to, self.kind);
        number(to, self.outputs.len());
        for (name, ty) in &self.outputs {
            word(to, name);
            word(to, ty);
        }
        for list in [&self.inputs, &self.sources] {
            number(to, list.len());
            list.iter().for_each(|n| to.extend(n.to_le_bytes()));
        }
    }

    fn read(bytes: &mut &'a [u8]) -> Option<Self> {
        let text = Digest::from_bytes(take(bytes)?);
        let name = word(bytes)?;
        let kind = word(bytes)?;
        let outputs = (0..number(bytes)?).map(|_| Some((word(bytes)?, word(bytes)?))).collect::<Option<_>>()?;
        let mut list = || (0..number(bytes)?).map(|_| number(bytes)).collect::<Option<Vec<u32>>>();
        Some(Self { text, name, kind, outputs, inputs: list()?, sources: list()? })
    }
}

fn number(bytes: &mut &[u8]) -> Option<u32> {
    take(bytes).map(u32::from_le_bytes)
}

fn word<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let length = number(bytes)? as usize;
    let (word, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    std::str::from_utf8(word).ok()
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

fn all<'a, T>(mut bytes: &'a [u8], read: impl Fn(&mut &'a [u8]) -> Option<T>) -> Option<Vec<T>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        all.push(read(&mut bytes)?);
    }
    Some(all)
}

/// The final state of a stage when it ran.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ended {
    name: String,
    kind: String,
    key: Digest,
    seconds: f64,
    results: Vec<Measure>,
    outputs: SmallMap<Output>,
    shown: Vec<Shown>,
}

impl Ended {
    /// As a line of JSON.
    pub fn line(stage: &str, record: &Record) -> Option<Vec<u8>> {
        let ended = Self {
            name: stage.into(),
            kind: record.kind.clone(),
            key: record.key().into(),
            seconds: record.seconds,
            results: record.results.clone(),
            outputs: record.outputs.clone(),
            shown: record.shown.clone(),
        };
        let mut line = serde_json::to_vec(&ended).ok()?;
        line.push(b'\n');
        Some(line)
    }

    /// Of a line; `None` if it is of another version.
    pub fn of(line: &[u8], store: &Store) -> Option<StageEnd> {
        serde_json::from_slice::<Self>(line).ok().map(|ended| ended.end(store))
    }

    fn end(&self, store: &Store) -> StageEnd {
        let path = |s: &Shown| Some(store.object(&self.outputs.get(&s.output)?.measured.digest).join(&s.file));
        StageEnd {
            stage: self.name.clone(),
            kind: self.kind.clone(),
            state: StageState::Cached,
            key: Some(self.key.to_string()),
            seconds: self.seconds,
            resumed: None,
            left: None,
            results: self.results.clone(),
            outputs: self.outputs.iter().map(|(name, output)| output.stored(store, name)).collect(),
            shown: self.shown.iter().filter_map(path).collect(),
            error: None,
        }
    }
}
