//! Arguments that name a pipeline, its stages and trials, and the values that override it.

use erw_base::error::{Error, Result};
use erw_report::table::near;
use erw_runner::cache::store::Store;
use erw_runner::exec::up_to_date::Query;
use erw_runner::journal::read;
use erw_runner::kind::Registry;
use erw_runner::pipeline::graph::{Pipeline, StageId};
use erw_runner::pipeline::layers::Overrides;
use erw_runner::pipeline::targets::{self, named};
use erw_runner::sweep::SweepPlan;
use erw_runner::sweep::probes::Probe;
use erw_runner::text::suggest;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A pipeline file and the values that override it.
#[derive(Debug, Clone, clap::Args)]
pub struct PipelineArgs {
    /// Pipeline file
    #[arg(value_name = "PIPELINE", value_hint = clap::ValueHint::FilePath)]
    pub pipeline: PathBuf,
    /// Override a value: STAGE.NAME=VALUE, STAGE.inputs.SLOT=STAGE (or `[STAGE,STAGE]`), or
    /// NAME=VALUE for a key of `[params]`
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// Add a sweep axis, or replace the one of this name: `train.seed=0..5`, `train.lr=1e-4,2e-4`
    #[arg(long, value_name = "NAME=VALUES")]
    pub axis: Vec<String>,
}

/// `--set` and `--axis`, for commands that name pipelines in another way.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SetArgs {
    /// Override a value of the pipeline: STAGE.NAME=VALUE, STAGE.inputs.SLOT=STAGE, or NAME=VALUE
    /// for a key of `[params]`
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// Add a sweep axis, or replace the one of this name: `train.seed=0..5`
    #[arg(long, value_name = "NAME=VALUES")]
    pub axis: Vec<String>,
}

impl SetArgs {
    pub fn on(&self, file: impl Into<PathBuf>) -> PipelineArgs {
        PipelineArgs { pipeline: file.into(), set: self.set.clone(), axis: self.axis.clone() }
    }
}

impl PipelineArgs {
    /// A pipeline file without overrides.
    pub fn of(file: impl Into<PathBuf>) -> Self {
        SetArgs::default().on(file)
    }

    /// `--set`, and the environment variables `ERW_SET__…` sorted by name.
    pub fn overrides(&self) -> Overrides {
        let text =
            |(k, v): (std::ffi::OsString, std::ffi::OsString)| Some((k.into_string().ok()?, v.into_string().ok()?));
        let mut env: Vec<_> =
            std::env::vars_os().filter_map(text).filter(|(k, _)| k.starts_with("ERW_SET__")).collect();
        env.sort();
        Overrides { set: self.set.clone(), env }
    }

    pub fn load(&self, registry: Registry) -> Result<Pipeline> {
        Pipeline::load(&self.pipeline, registry, &self.overrides())
    }

    /// The request that a stored answer is for; `None` where trials may come from outside of the
    /// pipeline file.
    pub fn query(&self, targets: &[String], registry: Registry) -> Option<Query> {
        let may_have_trials = !self.axis.is_empty() || targets.iter().any(|name| name.contains('@'));
        (!may_have_trials).then(|| Query::new(&self.pipeline, registry, &self.overrides(), targets)).flatten()
    }

    /// The pipeline; with all trials of its sweep if one of the stages belongs to a trial, as
    /// `train@seed=1` does.
    pub fn load_for<'s>(
        &self,
        stages: impl IntoIterator<Item = &'s String>,
        registry: Registry,
        cache: &Path,
    ) -> Result<Pipeline> {
        let of_trials: Vec<&String> = stages.into_iter().filter(|name| name.contains('@')).collect();
        if of_trials.is_empty() && self.axis.is_empty() {
            return self.load(registry);
        }
        let has_all = |plan: &SweepPlan| of_trials.iter().all(|name| is_of(&plan.pipeline, name));
        let title = of_trials.first().map_or("", |name| name.as_str());
        Ok(self.sweep_with(title, &has_all, registry, cache)?.pipeline)
    }

    /// The pipeline, or all trials of its sweep merged into one.
    pub fn load_or_sweep(&self, sweep: bool, registry: Registry) -> Result<Pipeline> {
        if sweep || !self.axis.is_empty() { Ok(self.sweep(registry)?.pipeline) } else { self.load(registry) }
    }

    /// The trials of its `[sweep]` and of the axes on the command line.
    pub fn sweep(&self, registry: Registry) -> Result<SweepPlan> {
        SweepPlan::load_with(&self.pipeline, registry, &self.overrides(), &self.axis)
    }

    /// A sweep that has the trial or stage `name`. If only the `--axis` or `--search` of an earlier
    /// run made it, that is taken from the run's journal, so that `erw logs P train@seed=7` works
    /// without repeating it.
    pub fn sweep_with(
        &self,
        name: &str,
        has: &dyn Fn(&SweepPlan) -> bool,
        registry: Registry,
        cache: &Path,
    ) -> Result<SweepPlan> {
        let stated = self.sweep(registry);
        if !self.axis.is_empty() || stated.as_ref().is_ok_and(has) {
            return stated;
        }
        for (run, Earlier { axis, search }) in self.earlier_sweeps(registry, cache) {
            let flags = [("--axis", &axis), ("--search", &search)];
            let words =
                flags.iter().flat_map(|(flag, values)| values.iter().map(move |value| format!("{flag} {value}")));
            let words = words.collect::<Vec<_>>().join(" ");
            let probes = probes_named(name, &search);
            match SweepPlan::load_at(&self.pipeline, registry, &self.overrides(), &axis, &probes) {
                Ok(plan) if has(&plan) => {
                    let note = format!("note: found `{name}` with `{words}`, taken from run {run}\n");
                    let _ = std::io::stderr().lock().write_all(note.as_bytes());
                    return Ok(plan);
                }
                _ => {}
            }
        }
        stated
    }

    /// What earlier runs of this pipeline varied, with the ids of the runs, the latest first.
    fn earlier_sweeps(&self, registry: Registry, cache: &Path) -> Vec<(String, Earlier)> {
        let Some(name) = self.load(registry).ok().map(|p| p.name).filter(|_| Store::is_at(cache)) else {
            return vec![];
        };
        let runs = Store::open(cache).and_then(|store| read::runs(&store)).unwrap_or_default();
        let mut all: Vec<(String, Earlier)> = vec![];
        for run in runs.into_iter().filter(|run| run.pipeline == name) {
            let values = |flag| values_of(flag, run.command.iter().map(String::as_str));
            let found = Earlier { axis: values("--axis"), search: values("--search") };
            let is_empty = found.axis.is_empty() && found.search.is_empty();
            if !is_empty && all.iter().all(|(_, known)| *known != found) {
                all.push((run.id, found));
            }
        }
        all
    }
}

/// What the command line of a run varied.
#[derive(PartialEq)]
struct Earlier {
    axis: Vec<String>,
    search: Vec<String>,
}

/// The point of a search after which a stage or trial is named, and another one: names tell points
/// apart only where there are two.
fn probes_named(name: &str, search: &[String]) -> Vec<Probe> {
    if search.is_empty() {
        return vec![];
    }
    let label = name.split_once('@').map_or(name, |(_, label)| label);
    let stated: Vec<(&str, &str)> = label.split(',').filter_map(|part| part.split_once('=')).collect();
    let (mut own, mut other) = (Probe::new(), Probe::new());
    for (key, interval) in search.iter().filter_map(|text| text.split_once('=')) {
        let short = key.rsplit('.').next();
        let value = stated.iter().find(|(name, _)| *name == key || Some(*name) == short).map(|(_, value)| *value);
        let Some(value) = value else { return vec![] };
        let ends = interval.split("..").map(|end| end.trim_start_matches('='));
        own.push((key.into(), value.into()));
        other.extend(ends.filter(|end| *end != value).last().map(|end| (key.into(), end.into())));
    }
    vec![own, other]
}

/// The values of a flag on a command line, `--flag VALUE` or `--flag=VALUE`.
pub(crate) fn values_of<'w>(flag: &str, words: impl IntoIterator<Item = &'w str>) -> Vec<String> {
    let mut words = words.into_iter();
    let mut values = vec![];
    while let Some(word) = words.next() {
        match word.strip_prefix(flag) {
            Some("") => values.extend(words.next().map(String::from)),
            Some(rest) => values.extend(rest.strip_prefix('=').map(String::from)),
            None => {}
        }
    }
    values
}

/// Is this a stage of the pipeline, or an output of one?
pub(crate) fn is_of(pipeline: &Pipeline, what: &str) -> bool {
    let is_stage = |name: &str| !named(pipeline, name).is_empty();
    is_stage(what) || what.match_indices('.').any(|(at, _)| is_stage(&what[..at]))
}

/// Prints the warnings about a pipeline.
pub fn warn_of(pipeline: &Pipeline) {
    let mut err = std::io::stderr().lock();
    pipeline.warnings.iter().for_each(|text| drop(writeln!(err, "warning: {text}")));
}

/// Notes where relative paths start if the pipeline is a link into another folder: in the folder of
/// the link, so that a pipeline can be linked into a folder of data and run on it.
pub fn tell_of_link(pipeline: &Path) {
    let folder =
        |path: &Path| path.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new(".")).canonicalize().ok();
    let Some(target) = std::fs::read_link(pipeline).ok().and(pipeline.canonicalize().ok()) else { return };
    if folder(pipeline) != folder(&target) {
        let (link, target) = (pipeline.display(), near(&target));
        let note =
            format!("note: `{link}` is a link to `{target}`; its relative paths start in the folder of the link\n");
        let _ = std::io::stderr().lock().write_all(note.as_bytes());
    }
}

/// Splits `PIPELINE:STAGE`. Both may contain a colon, so the first split whose pipeline exists is
/// taken.
pub fn file_and_stage(text: &str) -> Option<(&str, &str)> {
    let mut splits = text.match_indices(':').map(|(at, _)| (&text[..at], &text[at + 1..]));
    splits.find(|(file, _)| Path::new(file).is_file()).or_else(|| text.rsplit_once(':'))
}

/// Splits `STAGE[.OUTPUT]`: the longest name of a stage that fits, then one of its outputs.
pub fn stage_and_output(pipeline: &Pipeline, what: &str) -> Result<(StageId, Option<String>)> {
    let is_stage = |name: &str| !named(pipeline, name).is_empty();
    let split = what.rsplit_once('.').filter(|(stage, _)| !is_stage(what) && is_stage(stage));
    let Some((stage, output)) = split else { return Ok((one(pipeline, what)?, None)) };
    let id = one(pipeline, stage)?;
    let stage = pipeline.stage(id);
    if !stage.outputs.contains_key(output) {
        let hint = suggest::hint(output, stage.outputs.keys().map(String::as_str), "the outputs are");
        return Err(Error::usage(format!("stage `{}` has no output `{output}`", stage.name)).maybe_hint(hint));
    }
    Ok((id, Some(output.into())))
}

/// The stages that `--force` names.
pub fn forced(pipeline: &Pipeline, names: &[String]) -> Result<BTreeSet<StageId>> {
    let mut forced = BTreeSet::new();
    for name in names {
        let found = named(pipeline, name);
        if found.is_empty() {
            let hint = suggest::hint(name, pipeline.stages.iter().map(|s| s.name.as_str()), "the stages are");
            return Err(Error::usage(format!("`--force {name}`: no such stage")).maybe_hint(hint));
        }
        forced.extend(found);
    }
    Ok(forced)
}

/// The stage of this name.
pub fn one(pipeline: &Pipeline, name: &str) -> Result<StageId> {
    match targets::named(pipeline, name).as_slice() {
        [one] => Ok(*one),
        [] => {
            let names = pipeline.stages.iter().map(|s| s.name.as_str());
            let error = Error::usage(format!("no stage `{name}` in `{}`", pipeline.file.display()));
            Err(error.maybe_hint(suggest::hint(name, names, "the stages are")))
        }
        several => {
            let names = several.iter().map(|id| pipeline.stage(*id).name.as_str());
            let error = Error::usage(format!("`{name}` is a stage of {} trials", several.len()));
            Err(error.hint(format!("name one of {}", suggest::ticked(names))))
        }
    }
}
