//! What is known of the stages that a report is about: from the cache, and from the journal of a
//! run. Knows nothing of pages.

use crate::compare::side::recorded;
use crate::metrics::standing;
use erw_base::error::Result;
use erw_report::page::content::{State, Tone};
use erw_runner::cache::action_cache::{Lookup, Record, lookup};
use erw_runner::cache::key::{Key, ingredients};
use erw_runner::cache::store::Store;
use erw_runner::event::Measure;
use erw_runner::files::digest::Digest;
use erw_runner::journal::attempts::{Attempts, made};
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
    /// The key under which there are logs, curves and pictures of what is shown.
    pub logged: Option<Key>,
    /// The run that made the record, or else attempted it last.
    pub run: Option<String>,
    /// How the last attempt ended, if it left no record: `failed`, `suspended`, …
    pub ended: String,
    /// Of that attempt.
    pub seconds: Option<f64>,
    pub results: Vec<Measure>,
    pub params: Vec<Param>,
    /// Files and folders of its parameters, as written and in full.
    pub paths: Vec<String>,
    /// The stages that it takes its inputs from, as indices.
    pub inputs: Vec<usize>,
    pub error: Option<Message>,
}

impl Facts {
    /// Logs, curves and pictures of the same work are of a later run.
    pub fn is_replaced(&self) -> bool {
        self.key.is_some() && self.logged.is_none()
    }

    /// The time is not all that it took: earlier attempts are not in it.
    pub fn is_last_attempt(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.attempts > 1 || record.resumed.is_some())
    }
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
/// not cached is as the last attempt with the same key left it.
pub fn of_pipeline(
    pipeline: &Pipeline,
    wanted: &BTreeSet<StageId>,
    store: &Store,
    attempts: &Attempts,
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
            logged: key,
            key,
            run: record.as_ref().and_then(|record| attempts.maker(record)).map(|run| run.id.clone()),
            ended: String::new(),
            seconds: record.as_ref().map(|record| record.seconds),
            results: record.as_ref().map_or_else(Vec::new, |record| record.results.clone()),
            record,
            params: params(stage),
            paths: paths(stage),
            inputs: stage.inputs.values().filter_map(|edge| places.get(&edge.from).copied()).collect(),
            error: None,
        };
        facts.inputs.sort_unstable();
        facts.inputs.dedup();
        if let (None, Some(key)) = (&facts.record, facts.key) {
            let left = attempts.at(&key.to_string()).next();
            left.into_iter().for_each(|(run, end)| leave(&mut facts, run, end));
        }
        places.insert(id, all.len());
        all.push(facts);
    }
    if let Some(run) = last_run(pipeline, &all, attempts).filter(|run| run.pipeline == pipeline.name) {
        leave_skipped(&mut all, run);
    }
    Ok((all, places))
}

/// As its last attempt left it.
fn leave(facts: &mut Facts, run: &Run, end: &Ended) {
    if matches!(end.state.as_str(), "cached" | "done") {
        return;
    }
    facts.state = of_end(end);
    facts.standing = format!("{} in run {}", facts.state.word, run.id);
    facts.error = end.error.clone().filter(|_| end.state == "failed");
    facts.results.clone_from(&end.results);
    facts.ended.clone_from(&end.state);
    facts.seconds = Some(end.seconds).filter(|seconds| *seconds > 0.0);
    facts.run = Some(run.id.clone());
}

/// What this run did not come to, and what failed before it had a key: known by the name only.
fn leave_skipped(all: &mut [Facts], run: &Run) {
    for facts in all.iter_mut().filter(|facts| facts.record.is_none() && facts.run.is_none()) {
        let end = run.stages.iter().rev().find(|end| end.key.is_none() && end.stage == facts.name);
        end.into_iter().for_each(|end| leave(facts, run, end));
    }
}

/// The last run that made or attempted something of what is shown; else the last run of this file in
/// which nothing had a key.
pub fn last_run<'r>(pipeline: &Pipeline, all: &[Facts], attempts: &'r Attempts) -> Option<&'r Run> {
    // Their names start with the time.
    let last = all.iter().filter_map(|facts| facts.run.as_deref()).max();
    let file = || pipeline.file.canonicalize().unwrap_or_else(|_| pipeline.file.clone());
    match last {
        Some(id) => attempts.runs.iter().find(|run| run.id == id),
        None => attempts.runs.iter().find(|run| run.file == file()).filter(|run| {
            let mut ends = run.stages.iter();
            !run.stages.is_empty() && ends.all(|end| end.key.is_none())
        }),
    }
}

/// A run with what only its events tell.
pub fn with_events(run: &Run, store: &Store) -> Run {
    let mut run = run.clone();
    // Of others they were read already.
    if run.state == RunState::Ended {
        let folder = store.runs().join(&run.id);
        read::with_events(&mut run, &folder);
    }
    run
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

/// The values of its parameters that are paths, and the files and folders that these lead to.
fn paths(stage: &Stage) -> Vec<String> {
    let written = stage.params.iter().chain(&stage.operation).filter(|(name, _)| is_path(stage, name));
    let texts = written.flat_map(|(_, value)| match value {
        Json::Array(values) => values.iter().filter_map(Json::as_str).map(String::from).collect(),
        value => value.as_str().map(String::from).into_iter().collect::<Vec<_>>(),
    });
    texts.chain(stage.sources.values().map(|source| source.path.display().to_string())).collect()
}

/// The stages of a past run. Of a record, logs, curves and pictures that a later run of the same work
/// left in their place, nothing is shown.
pub fn of_run(run: &Run, store: &Store, attempts: &Attempts) -> Result<Vec<Facts>> {
    let mut all: Vec<Facts> = vec![];
    for end in &run.stages {
        let key: Option<Key> = end.key.as_ref().and_then(|k| k.parse::<Digest>().ok()).map(Key::from);
        let found = match key.as_ref().map(|key| lookup(store, key)).transpose()? {
            Some(Lookup::Hit(record)) => Some(*record),
            _ => None,
        };
        let is_other = found.as_ref().is_some_and(|record| !made(end, record));
        let is_repeated = end.key.as_ref().is_some_and(|key| attempts.is_repeated_after(run, key));
        let record = found.filter(|_| !is_other);
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
            logged: key.filter(|_| !is_other && !is_repeated),
            key,
            run: Some(run.id.clone()),
            ended: end.state.clone(),
            seconds: Some(end.seconds).filter(|seconds| *seconds > 0.0),
            params: params.map(value).collect(),
            paths: vec![],
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
