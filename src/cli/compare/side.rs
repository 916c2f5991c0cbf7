//! The sides of `erw compare`: what a text names becomes stages with parameters and results. Knows
//! nothing of differences.

use super::named::Named;
use crate::metrics::standing;
use erw_base::error::Result;
use erw_runner::cache::action_cache::{Lookup, Record, lookup};
use erw_runner::cache::key::ingredients;
use erw_runner::cache::store::Store;
use erw_runner::event::Measure;
use erw_runner::files::digest::Digest;
use erw_runner::journal::read::{Ended, Run};
use erw_runner::pipeline::graph::{Pipeline, SourcePath, Stage, StageId};
use erw_runner::pipeline::targets::select;
use erw_runner::plan::action::is_path;
use erw_runner::plan::{CacheChecker, Verdict, plan};
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};

/// One side of a comparison.
pub struct Side {
    /// In execution order.
    pub stages: Vec<(String, StageSummary)>,
    /// A past run, which knows digests but neither connections nor paths.
    pub past: bool,
}

/// The values and results of a stage.
#[derive(Default)]
pub struct StageSummary {
    pub kind: String,
    /// `revision`, `run`, `params.NAME`, `inputs.SLOT`; `None` without a record.
    pub values: Option<BTreeMap<String, Json>>,
    /// The values that are paths: their contents are in keys, their names are not.
    pub paths: BTreeSet<String>,
    /// Digests of outside files and folders, by their names in keys.
    pub sources: BTreeMap<String, Digest>,
    pub results: Vec<Measure>,
    /// Digests of its outputs, if there is a record.
    pub artifacts: BTreeMap<String, Digest>,
    /// `cached`, or why there are no results.
    pub standing: String,
}

impl StageSummary {
    pub fn result(&self, name: &str) -> Option<&Measure> {
        self.results.iter().find(|r| r.name == name)
    }
}

impl Side {
    pub fn stage(&self, name: &str) -> Option<&StageSummary> {
        self.stages.iter().find(|(n, _)| n == name).map(|(_, facts)| facts)
    }

    pub fn of(named: &Named, store: &Store) -> Result<Self> {
        match named {
            Named::Pipeline { pipeline, stages, .. } => of_pipeline(pipeline, stages, store),
            Named::Past(run) => past(run, store),
        }
    }
}

/// Summaries of the stages, under the given names.
fn of_pipeline(pipeline: &Pipeline, stages: &[(String, StageId)], store: &Store) -> Result<Side> {
    let base: BTreeMap<StageId, &str> = stages.iter().map(|(name, id)| (*id, name.as_str())).collect();
    let selected: Vec<StageId> = select(pipeline, &[])?.into_iter().filter(|id| base.contains_key(id)).collect();
    let mut facts = vec![];
    let checker = CacheChecker::new(pipeline, store, BTreeSet::new());
    for (id, verdict) in plan(&checker, &selected)? {
        let stage = pipeline.stage(id);
        let (values, paths) = values(stage, &base);
        let standing = standing(pipeline, &verdict);
        let sources = sources(&checker, stage)?;
        let (results, artifacts) = match verdict {
            Verdict::Cached(record) => (record.results.clone(), artifacts(&record)),
            _ => Default::default(),
        };
        let kind = stage.kind.name.to_string();
        let told = StageSummary { kind, values: Some(values), paths, sources, results, artifacts, standing };
        facts.push((base[&id].to_string(), told));
    }
    Ok(Side { stages: facts, past: false })
}

/// The stages of a past run.
fn past(run: &Run, store: &Store) -> Result<Side> {
    let mut stages: Vec<(String, StageSummary)> = vec![];
    for past in &run.stages {
        let facts = facts(past, store)?;
        // A stage that ran again after damage counts by its last end.
        stages.retain(|(name, _)| *name != past.stage);
        stages.push((past.stage.clone(), facts));
    }
    Ok(Side { stages, past: true })
}

fn facts(past: &Ended, store: &Store) -> Result<StageSummary> {
    let key = past.key.as_ref().and_then(|k| k.parse::<Digest>().ok());
    let (values, sources, artifacts) = match key.map(|k| lookup(store, &k.into())).transpose()? {
        Some(Lookup::Hit(record)) => (Some(recorded(&record.key_text)), record.sources(), artifacts(&record)),
        _ => Default::default(),
    };
    let (kind, standing) = (past.kind.clone(), past.state.replace('_', " "));
    Ok(StageSummary {
        kind,
        values,
        paths: BTreeSet::new(),
        sources,
        results: past.results.clone(),
        artifacts,
        standing,
    })
}

fn artifacts(record: &Record) -> BTreeMap<String, Digest> {
    record.outputs.iter().map(|(name, output)| (name.clone(), output.measured.digest)).collect()
}

/// Digests of the outside files of a stage that exist.
fn sources(checker: &CacheChecker<'_>, stage: &Stage) -> Result<BTreeMap<String, Digest>> {
    let there = stage.sources.iter().filter(|(_, source)| source.path.exists());
    let digest = |(name, source): (&String, &SourcePath)| {
        Ok((name.clone(), checker.files.digest(checker.store, source)?.measured.digest))
    };
    there.map(digest).collect()
}

fn values(stage: &Stage, base: &BTreeMap<StageId, &str>) -> (BTreeMap<String, Json>, BTreeSet<String>) {
    let mut values = BTreeMap::new();
    if !stage.is_command {
        values.insert("revision".to_string(), Json::from(stage.manifest.revision));
    }
    for (name, value) in &stage.params {
        let program = stage.is_command && name == "run";
        values.insert(if program { name.clone() } else { format!("params.{name}") }, value.clone());
    }
    for (slot, edge) in &stage.inputs {
        let from = base.get(&edge.from).copied().unwrap_or_default();
        values.insert(format!("inputs.{slot}"), format!("{from}.{}", edge.output).into());
    }
    let paths = stage.params.keys().filter(|name| is_path(stage, name));
    let paths = paths.map(|name| format!("params.{name}")).collect();
    (values, paths)
}

/// The values in the text of a key.
pub fn recorded(key_text: &str) -> BTreeMap<String, Json> {
    let json = |text: &str| serde_json::from_str::<Json>(text).unwrap_or_else(|_| text.into());
    let value = |((section, name), text): ((&str, &str), &str)| match section {
        "revision" => Some(("revision".to_string(), json(text))),
        "command" => Some((name.to_string(), json(text))),
        "param" => Some((format!("params.{}", json(name).as_str().unwrap_or(name)), json(text))),
        _ => None,
    };
    let mut values: BTreeMap<String, Json> = ingredients(key_text).into_iter().filter_map(value).collect();
    // A command has no revision of its own.
    if values.contains_key("run") {
        values.remove("revision");
    }
    values
}
