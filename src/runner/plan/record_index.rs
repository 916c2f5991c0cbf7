//! The records of a cache by what they are of. A run of many thousand stages asks for the history
//! of each; searching all records each time would take quadratic time. Reads a record when it is
//! asked for. Does not decide what the records mean.

use crate::cache::action_cache::{self, Lookup, Record};
use crate::cache::index::{self, Entry};
use crate::cache::key::{canonical, ingredients};
use crate::cache::store::Store;
use crate::files::digest::Digest;
use crate::kind::field::Cost;
use crate::kind::property::InputProperties;
use crate::pipeline::graph::Stage;
use erw_base::error::Result;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// This many of the latest records of a kind or program stand for all of them.
const RELATED: usize = 50;
/// And of a stage: one whose program has thousands of inputs has large records.
const OWN: usize = 8;

/// Every readable record, as of one moment.
pub struct RecordIndex<'s> {
    store: &'s Store,
    /// By pipeline and stage, the latest last.
    own: Vec<Entry>,
    /// Places in `own` by kind, or by program for commands, the latest last. Sorted when asked for.
    related: OnceLock<Vec<usize>>,
    /// Those that were read; none for one that could not be.
    read: Mutex<HashMap<Digest, Option<Arc<Record>>>>,
}

impl<'s> RecordIndex<'s> {
    /// Ignores damaged records: they are reported when their keys are looked up.
    pub fn read(store: &'s Store) -> Result<Self> {
        let mut own = index::read(store)?;
        own.sort_by(|a, b| (&a.pipeline, &a.stage, &a.created).cmp(&(&b.pipeline, &b.stage, &b.created)));
        Ok(Self { store, own, related: OnceLock::new(), read: Mutex::default() })
    }

    /// Records to compare with: the latest of the same stage, or else of the same kind or program.
    pub fn comparable(&self, pipeline: &str, stage: &Stage) -> Vec<Arc<Record>> {
        let of_stage: Vec<&Entry> = self.of_stage(pipeline, stage).take(OWN).collect();
        let all = if of_stage.is_empty() { self.related(stage) } else { of_stage };
        all.into_iter().filter_map(|entry| self.record(entry)).collect()
    }

    /// Of the same stage, the latest first.
    fn of_stage(&self, pipeline: &str, stage: &Stage) -> impl Iterator<Item = &Entry> {
        let place = (pipeline, stage.name.as_str());
        let of = |entry: &Entry| (entry.pipeline.as_str(), entry.stage.as_str()).cmp(&place);
        let from = self.own.partition_point(|entry| of(entry).is_lt());
        let own = &self.own[from..][..self.own[from..].partition_point(|entry| of(entry).is_eq())];
        own.iter().rev().filter(|entry| entry.kind == stage.kind.name)
    }

    fn related(&self, stage: &Stage) -> Vec<&Entry> {
        let program = stage.program().map(|words| Digest::of_bytes(canonical(&words.into()).as_bytes()));
        let place = (stage.kind.name, program);
        let of = |i: &usize| (self.own[*i].kind.as_str(), self.own[*i].program).cmp(&place);
        let order = |i: &usize| (&self.own[*i].kind, self.own[*i].program, &self.own[*i].created);
        let related = self.related.get_or_init(|| {
            let mut related: Vec<usize> = (0..self.own.len()).collect();
            related.sort_by(|a, b| order(a).cmp(&order(b)));
            related
        });
        let end = related.partition_point(|i| of(i).is_le());
        let latest = related[..end].iter().rev().take_while(|i| of(i).is_eq()).take(RELATED);
        latest.map(|i| &self.own[*i]).collect()
    }

    /// The record itself; `None` if it is damaged, or gone by now.
    fn record(&self, entry: &Entry) -> Option<Arc<Record>> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let look = || match action_cache::lookup(self.store, &entry.key.into()) {
            Ok(Lookup::Hit(record)) => Some(Arc::from(record)),
            _ => None,
        };
        read.entry(entry.key).or_insert_with(look).clone()
    }
}

/// How much more work a stage is than an earlier one with this key; `None` if they differ in a
/// parameter of unknown cost.
fn scale(stage: &Stage, key_text: &str) -> Option<f64> {
    let then = ingredients(key_text);
    let mut scale = 1.0;
    for field in &stage.manifest.params {
        let value = stage.params.get(&field.name)?;
        let old = then.get(&("param", field.name.as_str())).copied();
        // Paths and the program of a command are compared elsewhere.
        let Some(old) = old else { continue };
        match field.cost {
            Cost::None => {}
            _ if canonical(value) == old => {}
            Cost::Proportional => {
                let (now, then) = (value.as_f64()?, old.parse::<f64>().ok().filter(|n| *n > 0.0)?);
                scale *= now / then;
            }
            Cost::Unknown => return None,
        }
    }
    Some(scale)
}

impl RecordIndex<'_> {
    /// The estimated duration in seconds: that of a record of the same work on inputs with the same
    /// properties, scaled by the parameters it is proportional to. `None` if there is no such
    /// record; a resumed attempt does not count. The record of another stage counts only if it is
    /// fully comparable: without sources, and with known input properties.
    pub fn took(&self, pipeline: &str, stage: &Stage, given: &InputProperties) -> Option<f64> {
        let is_own = |r: &Record| r.pipeline == pipeline && r.stage == stage.name;
        let is_told = stage.sources.is_empty() && (stage.inputs.is_empty() || !given.is_empty());
        let fits = |r: &Arc<Record>| r.resumed.is_none() && (is_own(r) || is_told) && r.given == *given;
        let all = self.of_stage(pipeline, stage).take(OWN).chain(self.related(stage));
        let scaled = |r: Arc<Record>| Some(r.seconds * scale(stage, &r.key_text)?);
        all.filter_map(|entry| self.record(entry)).filter(fits).find_map(scaled)
    }

    /// Seconds of the last attempt of this stage, or else of a related one: an estimate for
    /// priorities, not for display. A resumed attempt counts only if there is no other.
    pub fn seconds(&self, pipeline: &str, stage: &Stage) -> Option<f64> {
        let own: Vec<&Entry> = self.of_stage(pipeline, stage).collect();
        let all = if own.is_empty() { self.related(stage) } else { own };
        let latest = all.into_iter().max_by_key(|entry| (!entry.is_resumed, &entry.created));
        latest.map(|entry| entry.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::action_cache;
    use crate::files::disk::Durability;
    use crate::kind::{Registry, StageKind, no_facts};
    use crate::pipeline::graph::{Pipeline, StageId};
    use serde_json::json;
    use std::collections::BTreeMap;

    const TOY: &str = r#"
summary = "work"
revision = 1
[outputs]
out = "text"
[params]
steps = { default = 10, cost = "proportional" }
seed = { default = 0, cost = "none" }
width = 4
"#;
    const KINDS: Registry = &[StageKind {
        name: "work",
        manifest: TOY,
        check: |_, _, _| Ok(()),
        facts: no_facts,
        foresee: None,
        run: |_| Ok(()),
    }];

    fn work(name: &str, params: &str) -> Pipeline {
        let text = format!("name = \"p\"\n[stages.{name}]\nkind = \"work\"\nparams = {{ {params} }}\n");
        Pipeline::of_text("a test", text, KINDS).unwrap()
    }

    fn record(pipeline: &Pipeline, seconds: f64) -> Record {
        let stage = pipeline.stage(StageId(0));
        let text = json!({
            "key_text": crate::plan::action::action(stage, &BTreeMap::new(), &BTreeMap::new()).text, "pipeline": pipeline.name,
            "stage": stage.name, "kind": "work", "outputs": {}, "results": [], "shown": [], "seconds": seconds,
            "attempts": 1, "resumed": null, "created": "2026-01-31T12:00:00.000Z", "host": "h", "program": "0",
            "device": "cpu",
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn only_the_same_work_is_told_of_scaled_by_its_amount() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        action_cache::write(&store, &record(&work("a", "steps = 60"), 9.0), Durability::Later).unwrap();
        let past = RecordIndex::read(&store).unwrap();
        let took = |name: &str, params: &str, given: &InputProperties| {
            past.took("p", work(name, params).stage(StageId(0)), given)
        };
        let none = InputProperties::new();
        assert_eq!(took("a", "steps = 60", &none), Some(9.0));
        assert_eq!(took("a", "steps = 120, seed = 3", &none), Some(18.0));
        assert_eq!(took("b", "steps = 30", &none), Some(4.5), "another stage that does the same");
        assert_eq!(took("a", "steps = 60, width = 8", &none), None);
        assert_eq!(took("a", "steps = 0", &none), Some(0.0));
        let other = InputProperties::from([("x".to_string(), BTreeMap::from([("side".to_string(), json!(8))]))]);
        assert_eq!(took("a", "steps = 60", &other), None, "inputs of other sizes");
        assert!(past.seconds("p", work("a", "width = 8").stage(StageId(0))).is_some(), "a guess, for who goes first");
    }
}
