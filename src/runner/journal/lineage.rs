//! The lineage of an artifact: the action that made it, the actions that made its inputs, and so on
//! down to source files. Read from action records alone, so an artifact can be traced whose
//! pipeline no longer exists. Prints nothing.

use super::explain::Fact;
use crate::cache::action_cache::Record;
use crate::cache::inventory::{objects, the_one};
use crate::cache::key::ingredients;
use crate::cache::store::Store;
use crate::event::Measure;
use crate::files::digest::Digest;
use erw_base::error::Result;
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// An artifact with its origin.
#[derive(Debug, Serialize)]
pub struct Lineage {
    pub digest: Digest,
    /// `None` if no record names it.
    #[serde(rename = "type")]
    pub ty: Option<String>,
    pub bytes: Option<u64>,
    pub files: Option<u64>,
    pub path: PathBuf,
    /// Whether it is in the store.
    pub present: bool,
    pub made_by: Option<Maker>,
    /// It occurred before and is not expanded again.
    pub repeated: bool,
    /// It is nested too deeply to be expanded.
    pub cut: bool,
}

/// The action that made it.
#[derive(Debug, Serialize)]
pub struct Maker {
    pub kind: String,
    pub output: String,
    pub revision: String,
    #[serde(flatten)]
    pub fact: Fact,
    /// Name and value as in the key: parameters, published files, and a command's `run`.
    pub params: Vec<(String, String)>,
    pub results: Vec<Measure>,
    /// Parameter and digest of each source.
    pub sources: Vec<(String, String)>,
    pub inputs: Vec<(String, Lineage)>,
}

/// The deepest nesting of artifacts: JSON readers give up at some 128 levels, of which each
/// artifact takes four, and people earlier.
const DEPTH: usize = 24;

/// Traces `digest`, made by `record` if given, else by the earliest record with this output.
pub fn trace(store: &Store, records: &[Record], digest: Digest, record: Option<&Record>) -> Lineage {
    Tracer { store, records, seen: BTreeSet::new() }.trace(digest, record, 0)
}

struct Tracer<'a> {
    store: &'a Store,
    records: &'a [Record],
    seen: BTreeSet<Digest>,
}

impl Tracer<'_> {
    fn trace(&mut self, digest: Digest, record: Option<&Record>, depth: usize) -> Lineage {
        let records = self.records;
        let record = record.or_else(|| maker(records, &digest));
        let output = record.and_then(|r| r.outputs.iter().find(|(_, o)| o.measured.digest == digest));
        let path = self.store.object(&digest);
        let cut = depth >= DEPTH && record.is_some();
        // What is cut here may be expanded where it occurs less deeply.
        let repeated = !cut && !self.seen.insert(digest);
        let made_by = match (record, output) {
            (Some(record), Some((name, _))) if !repeated && !cut => Some(self.maker(record, name, depth)),
            _ => None,
        };
        Lineage {
            digest,
            ty: output.map(|(_, o)| o.ty.clone()),
            bytes: output.map(|(_, o)| o.measured.bytes),
            files: output.map(|(_, o)| o.measured.files),
            present: path.exists(),
            path,
            made_by,
            repeated,
            cut,
        }
    }

    fn maker(&mut self, record: &Record, output: &str, depth: usize) -> Maker {
        let all = ingredients(&record.key_text);
        let section = |wanted: &[&str]| -> Vec<(String, String)> {
            let of = all.iter().filter(|((section, _), _)| wanted.contains(section));
            of.map(|((_, name), value)| (name.to_string(), value.to_string())).collect()
        };
        let inputs = section(&["input"]).into_iter();
        let inputs =
            inputs.filter_map(|(slot, digest)| Some((slot, self.trace(digest.parse().ok()?, None, depth + 1))));
        Maker {
            kind: record.kind.clone(),
            output: output.into(),
            revision: all.get(&("revision", "")).unwrap_or(&"").to_string(),
            fact: Fact::of(record),
            inputs: inputs.collect(),
            params: section(&["command", "param", "published"]),
            results: record.results.clone(),
            sources: section(&["source"]),
        }
    }
}

/// The earliest record with this output. A record that also has it as an input, such as a copy, is
/// used only if there is no other.
fn maker<'r>(records: &'r [Record], digest: &Digest) -> Option<&'r Record> {
    let text = digest.to_string();
    let takes = |r: &Record| ingredients(&r.key_text).iter().any(|((s, _), d)| *s == "input" && *d == text);
    let makes = |r: &&Record| r.outputs.values().any(|o| o.measured.digest == *digest);
    records.iter().filter(makes).min_by_key(|r| (takes(r), r.created.clone()))
}

/// The recorded or stored artifact whose digest starts with `prefix`.
///
/// # Errors
/// When there is none or more than one.
pub fn find(store: &Store, records: &[Record], prefix: &str) -> Result<Digest> {
    let recorded = records.iter().flat_map(|r| r.outputs.values().map(|o| o.measured.digest));
    let stored = objects(store)?.into_iter().filter_map(|(_, digest)| digest);
    the_one(recorded.chain(stored), prefix)
}
