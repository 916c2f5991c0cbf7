//! What is known of the stages that a report is about: from the cache, and from the journal of a
//! run. Knows nothing of pages.

use crate::cli::compare::side::recorded;
use crate::cli::metrics::standing;
use crate::report::page::content::{State, Tone};
use erw_base::error::Result;
use erw_runner::cache::action_cache::{Lookup, Record, lookup};
use erw_runner::cache::key::{Key, ingredients};
use erw_runner::cache::store::Store;
use erw_runner::event::Measure;
use erw_runner::files::digest::Digest;
use erw_runner::journal::read::{self, Ended, Message, Run, RunState};
use erw_runner::kind::value;
use erw_runner::pipeline::graph::{Pipeline, Stage, StageId};
use erw_runner::pipeline::targets::select;
use erw_runner::plan::action::is_path;
use erw_runner::plan::{CacheChecker, Verdict, inputs, plan};
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};

/// One stage.
pub struct Facts {
    pub name: String,
    pub kind: String,
    pub state: State,
    /// Why it is not cached.
    pub standing: String,
    pub key: Option<Key>,
    pub record: Option<Record>,
    pub results: Vec<Measure>,
    pub params: Vec<Param>,
    /// The stages that it takes its inputs from, as indices.
    pub inputs: Vec<usize>,
    pub error: Option<Message>,
}

pub struct Param {
    pub name: String,
    pub value: String,
    pub set_by: String,
    pub is_path: bool,
}

fn state(word: &str, tone: Tone) -> State {
    State { word: word.into(), tone }
}

/// The stages of a pipeline in the order of execution, and where each is in the list. A stage that is
/// not cached is as `run` left it, if that was with the same key.
pub fn of_pipeline(
    pipeline: &Pipeline,
    wanted: &BTreeSet<StageId>,
    store: &Store,
    run: Option<&Run>,
) -> Result<(Vec<Facts>, BTreeMap<StageId, usize>)> {
    let selected: Vec<StageId> = select(pipeline, &[])?.into_iter().filter(|id| wanted.contains(id)).collect();
    let checker = CacheChecker::new(pipeline, store, BTreeSet::new());
    let mut records: BTreeMap<StageId, Record> = BTreeMap::new();
    let (mut all, mut places) = (vec![], BTreeMap::new());
    for (id, verdict) in plan(&checker, &selected)? {
        let stage = pipeline.stage(id);
        let standing = standing(pipeline, &verdict);
        let (key, state) = match &verdict {
            Verdict::Cached(record) => {
                records.insert(id, (**record).clone());
                (Some(record.key()), state("cached", Tone::Good))
            }
            Verdict::Run(_) => {
                let key = checker.key(stage, &inputs(stage, |from| records.get(&from))?)?.action.key;
                (Some(key), state(if standing.starts_with("stale") { "stale" } else { "never ran" }, Tone::Open))
            }
            Verdict::Waiting(_) => (None, state("waits", Tone::Open)),
            Verdict::Missing(_) => (None, state("lacks a file", Tone::Open)),
        };
        let record = records.get(&id).cloned();
        let mut facts = Facts {
            name: stage.name.clone(),
            kind: stage.kind.name.into(),
            state,
            standing,
            key,
            results: record.as_ref().map_or_else(Vec::new, |record| record.results.clone()),
            record,
            params: params(stage),
            inputs: stage.inputs.values().filter_map(|edge| places.get(&edge.from).copied()).collect(),
            error: None,
        };
        facts.inputs.sort_unstable();
        facts.inputs.dedup();
        if facts.record.is_none() {
            let left = run.and_then(|run| run.stages.iter().rev().find(|end| end.stage == stage.name));
            left.into_iter().for_each(|end| leave(&mut facts, end));
        }
        places.insert(id, all.len());
        all.push(facts);
    }
    Ok((all, places))
}

/// As the last run left it, if that was the same work.
fn leave(facts: &mut Facts, end: &Ended) {
    let same = facts.key.as_ref().map(ToString::to_string) == end.key || end.key.is_none();
    if same && !matches!(end.state.as_str(), "cached" | "done") {
        facts.state = of_end(end);
        facts.error = end.error.clone().filter(|_| end.state == "failed");
        facts.results.clone_from(&end.results);
    }
}

fn of_end(end: &Ended) -> State {
    match end.state.as_str() {
        "done" => state("ran", Tone::Good),
        "cached" => state("cached", Tone::Good),
        "failed" => state("failed", Tone::Bad),
        "running" => state("running", Tone::Busy),
        other => state(&other.replace('_', " "), Tone::Open),
    }
}

fn params(stage: &Stage) -> Vec<Param> {
    let param = |(name, value): (&String, &Json)| Param {
        name: name.clone(),
        value: value::show(value),
        set_by: stage.origins.get(name).map_or_else(String::new, |origin| origin.layer.to_string()),
        is_path: is_path(stage, name),
    };
    stage.params.iter().chain(&stage.operation).map(param).collect()
}

/// The stages of a past run.
pub fn of_run(run: &Run, store: &Store) -> Result<Vec<Facts>> {
    let mut all: Vec<Facts> = vec![];
    for end in &run.stages {
        let key: Option<Key> = end.key.as_ref().and_then(|k| k.parse::<Digest>().ok()).map(Key::from);
        let record = match key.as_ref().map(|key| lookup(store, key)).transpose()? {
            Some(Lookup::Hit(record)) => Some(*record),
            _ => None,
        };
        let value = |(name, value): (String, Json)| Param {
            name: name.trim_start_matches("params.").into(),
            value: value::show(&value),
            set_by: String::new(),
            is_path: false,
        };
        let params = record.as_ref().map_or_else(BTreeMap::new, |r| recorded(&r.key_text)).into_iter();
        // A stage whose output was found damaged ends twice; its last end counts.
        all.retain(|facts| facts.name != end.stage);
        all.push(Facts {
            name: end.stage.clone(),
            kind: end.kind.clone(),
            state: of_end(end),
            standing: end.reasons.join("; "),
            key,
            params: params.map(value).collect(),
            record,
            results: end.results.clone(),
            inputs: vec![],
            error: end.error.clone().filter(|_| end.state == "failed"),
        });
    }
    connect(&mut all);
    Ok(all)
}

/// Finds inputs by what they consist of: a run knows digests, not connections.
fn connect(all: &mut [Facts]) {
    let mut makers: BTreeMap<String, usize> = BTreeMap::new();
    for (i, facts) in all.iter().enumerate() {
        let outputs = facts.record.iter().flat_map(|record| record.outputs.values());
        makers.extend(outputs.map(|output| (output.measured.digest.to_string(), i)));
    }
    for (i, facts) in all.iter_mut().enumerate() {
        let text = facts.record.as_ref().map_or("", |record| record.key_text.as_str());
        let taken = ingredients(text).into_iter().filter(|((section, _), _)| *section == "input");
        let from: BTreeSet<usize> = taken.filter_map(|(_, digest)| makers.get(digest).copied()).collect();
        facts.inputs = from.into_iter().filter(|from| *from != i).collect();
    }
}

/// The last run of this pipeline that started something, with its events.
pub fn last_run(pipeline: &Pipeline, store: &Store) -> Result<Option<Run>> {
    let file = pipeline.file.canonicalize().unwrap_or_else(|_| pipeline.file.clone());
    let own = read::runs(store)?.into_iter().filter(|run| run.file == file);
    for mut run in own {
        let did_something = |run: &Run| run.stages.iter().any(|s| s.state != "cached");
        if run.state == RunState::Running || did_something(&run) {
            let folder = store.runs().join(&run.id);
            read::with_events(&mut run, &folder);
            return Ok(Some(run));
        }
    }
    Ok(None)
}
