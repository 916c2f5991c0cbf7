//! The sides of `erw compare`: a pipeline, a pipeline at a git revision, a trial of a sweep, or a
//! past run. Each becomes stages with parameters and results. Knows nothing of differences.

use crate::cli::common::pipeline_args::SetArgs;
use crate::cli::metrics::standing;
use erw_base::error::{Error, Result};
use erw_runner::cache::action_cache::{Lookup, Record, lookup};
use erw_runner::cache::key::ingredients;
use erw_runner::cache::store::Store;
use erw_runner::event::Measure;
use erw_runner::files::digest::Digest;
use erw_runner::journal::read::{self, Ended, RunState};
use erw_runner::kind::Registry;
use erw_runner::kind::field::FieldType;
use erw_runner::pipeline::graph::{Pipeline, SourcePath, Stage, StageId};
use erw_runner::pipeline::targets::select;
use erw_runner::plan::{CacheChecker, Verdict, plan};
use erw_runner::repro::git::Checkout;
use erw_runner::sweep::SweepPlan;
use erw_runner::text::suggest;
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

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

    /// Reads `P`, `P@TRIAL`, `REV:P`, `REV:P@TRIAL`, `run:ID` or `P@run:ID`.
    pub fn load(text: &str, set: &SetArgs, cache: &Path, registry: Registry) -> Result<Self> {
        let store = Store::open(cache)?;
        let reader = Reader { store: &store, registry, set };
        if Path::new(text).exists() {
            return reader.pipeline(Path::new(text), None, None);
        }
        if let Some(id) = text.strip_prefix("run:") {
            return reader.past(id, None);
        }
        if let Some((file, id)) = text.split_once("@run:") {
            return reader.past(id, Some(reader.set.on(file).load(registry)?.name));
        }
        if let Some((file, trial)) = at(text, Path::exists) {
            return reader.pipeline(Path::new(file), Some(trial), None);
        }
        match text.split_once(':') {
            Some((revision, file)) if !revision.is_empty() && !file.is_empty() => reader.revision(revision, file),
            _ => reader.pipeline(Path::new(text.split('@').next().unwrap_or(text)), None, None),
        }
    }
}

/// Splits `FILE@TRIAL`. Both may contain an `@`, so the first split whose file exists is taken.
fn at(text: &str, there: impl Fn(&Path) -> bool) -> Option<(&str, &str)> {
    let mut splits = text.match_indices('@').map(|(i, _)| (&text[..i], &text[i + 1..]));
    splits.find(|(file, _)| there(Path::new(file)))
}

struct Reader<'a> {
    store: &'a Store,
    registry: Registry,
    set: &'a SetArgs,
}

impl Reader<'_> {
    fn pipeline(&self, file: &Path, trial: Option<&str>, checkout: Option<&Checkout>) -> Result<Side> {
        let Some(trial) = trial else {
            let mut pipeline = self.set.on(file).load(self.registry)?;
            put_sources_right(&mut pipeline, checkout);
            let names = pipeline.stages.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
            return self.stages(&pipeline, names.into_iter().enumerate().map(|(i, n)| (n, StageId(i))).collect());
        };
        let has = |plan: &SweepPlan| plan.trial(trial).is_ok();
        let mut sweep = self.set.on(file).sweep_with(trial, &has, self.registry, self.store.root())?;
        put_sources_right(&mut sweep.pipeline, checkout);
        let stages = &sweep.trials[sweep.trial(trial)?].stages;
        let mut stages: Vec<(String, StageId)> = stages.iter().map(|(name, id)| (name.clone(), *id)).collect();
        stages.sort_by_key(|(_, id)| *id);
        self.stages(&sweep.pipeline, stages)
    }

    /// Summaries of the stages, under the given names.
    fn stages(&self, pipeline: &Pipeline, stages: Vec<(String, StageId)>) -> Result<Side> {
        let base: BTreeMap<StageId, &str> = stages.iter().map(|(name, id)| (*id, name.as_str())).collect();
        let selected: Vec<StageId> = select(pipeline, &[])?.into_iter().filter(|id| base.contains_key(id)).collect();
        let mut facts = vec![];
        let checker = CacheChecker::new(pipeline, self.store, BTreeSet::new());
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

    fn revision(&self, revision: &str, file: &str) -> Result<Side> {
        let named = file.split('@').next().unwrap_or(file);
        // The folder may have been removed since; then the current folder's repository is used.
        let beside = |p: &Path| p.parent().is_some_and(|dir| dir.as_os_str().is_empty() || dir.exists());
        let anchor = Path::new(named);
        let checkout = Checkout::of(if beside(anchor) { anchor } else { Path::new("pipeline") }, revision)?;
        let then = |file: &Path| checkout.path(file).filter(|p| p.exists());
        let split = at(file, |path| then(path).is_some());
        let (name, trial) = match (then(Path::new(file)), split) {
            (None, Some((name, trial))) => (name, Some(trial)),
            _ => (file, None),
        };
        let Some(path) = then(Path::new(name)) else {
            return Err(Error::usage(format!("no file `{name}` at revision `{revision}`")));
        };
        self.pipeline(&path, trial, Some(&checkout))
    }

    /// A run by a prefix of its id; it must be of the pipeline of this name, if one is given.
    fn past(&self, id: &str, pipeline: Option<String>) -> Result<Side> {
        let (folder, id) = self.run_folder(id)?;
        let summary = read::read(&folder);
        if let Some(wanted) = pipeline.filter(|name| *name != summary.pipeline) {
            let error = Error::usage(format!("run `{id}` ran the pipeline `{}`, not `{wanted}`", summary.pipeline));
            return Err(error.hint(format!("use `run:{id}`")));
        }
        if summary.stages.is_empty() {
            let hint = match summary.state {
                RunState::Ended => {
                    "a run that finds everything cached may record only the number of stages; compare with the pipeline"
                }
                RunState::Running => "it has not started a stage yet",
                RunState::CutOff => "it was cut off before it started a stage",
            };
            return Err(Error::usage(format!("run `{id}` has recorded no stages")).hint(hint));
        }
        let mut stages: Vec<(String, StageSummary)> = vec![];
        for past in summary.stages {
            let facts = self.facts(&past)?;
            // A stage that ran again after damage counts by its last end.
            stages.retain(|(name, _)| *name != past.stage);
            stages.push((past.stage, facts));
        }
        Ok(Side { stages, past: true })
    }

    fn run_folder(&self, id: &str) -> Result<(PathBuf, String)> {
        let listed = std::fs::read_dir(self.store.runs()).into_iter().flatten();
        let mut ids: Vec<String> = listed.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
        ids.sort();
        let found: Vec<&String> = ids.iter().filter(|i| !id.is_empty() && i.starts_with(id)).collect();
        match found.as_slice() {
            [one] => Ok((self.store.runs().join(one), (*one).clone())),
            [] => {
                let last = ids.last().map(|last| format!("the last run is `{last}`"));
                Err(Error::usage(format!("no run `{id}`")).maybe_hint(last))
            }
            several => {
                let names = suggest::ticked(several.iter().map(|s| s.as_str()));
                Err(Error::usage(format!("several runs start with `{id}`")).hint(format!("they are {names}")))
            }
        }
    }

    fn facts(&self, past: &Ended) -> Result<StageSummary> {
        let key = past.key.as_ref().and_then(|k| k.parse::<Digest>().ok());
        let (values, sources, artifacts) = match key.map(|k| lookup(self.store, &k.into())).transpose()? {
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

/// Takes data that git does not hold from the work tree.
fn put_sources_right(pipeline: &mut Pipeline, checkout: Option<&Checkout>) {
    let Some(checkout) = checkout else { return };
    for source in pipeline
        .stages
        .iter_mut()
        .flat_map(|s| s.sources.iter_mut().map(|(_, source)| source))
        .filter(|s| !s.path.exists())
    {
        source.path = checkout.origin(&source.path);
    }
}

fn values(stage: &Stage, base: &BTreeMap<StageId, &str>) -> (BTreeMap<String, Json>, BTreeSet<String>) {
    let mut values = BTreeMap::new();
    if stage.command.is_none() {
        values.insert("revision".to_string(), Json::from(stage.manifest.revision));
    }
    for (name, value) in &stage.params {
        let program = stage.command.is_some() && name == "run";
        values.insert(if program { name.clone() } else { format!("params.{name}") }, value.clone());
    }
    for (slot, edge) in &stage.inputs {
        let from = base.get(&edge.from).copied().unwrap_or_default();
        values.insert(format!("inputs.{slot}"), format!("{from}.{}", edge.output).into());
    }
    let list = FieldType::List(Box::new(FieldType::Path));
    let paths = stage.manifest.params.iter().filter(|f| f.ty == FieldType::Path || f.ty == list);
    (values, paths.map(|f| format!("params.{}", f.name)).collect())
}

/// The values in the text of a key.
fn recorded(key_text: &str) -> BTreeMap<String, Json> {
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
