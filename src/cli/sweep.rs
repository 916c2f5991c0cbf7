//! `erw sweep`: every trial of a pipeline's `[sweep]` in one run, and a table of their results.

use super::common::{PipelineArgs, print};
use super::run::{Flags, execute, print_log};
use crate::error::{Error, Result};
use crate::report::{number, table};
use crate::runner::event::{Measure, StageEnd, State};
use crate::runner::graph::StageId;
use crate::runner::manifest::Registry;
use crate::runner::select::select;
use crate::runner::sweep::{SweepPlan, Trial, trial_hint};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Only these stages, in every trial, and what they need
    pub targets: Vec<String>,
    /// Only this trial
    #[arg(long, value_name = "TRIAL")]
    pub trial: Vec<String>,
    /// Print the results as comma-separated values, numbers in full
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
    #[command(flatten)]
    pub flags: Flags,
}

pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    let plan = SweepPlan::load(&args.pipeline.pipeline, registry, &args.pipeline.overrides())?;
    let trials = chosen(&plan, &args.trial)?;
    let wanted: BTreeSet<StageId> = trials.iter().flat_map(|t| t.stages.values().copied()).collect();
    let selected = select(&plan.pipeline, &args.targets)?.into_iter().filter(|id| wanted.contains(id)).collect();
    let Some(outcome) = execute(&plan.pipeline, selected, &args.flags, cache, vec![])? else { return Ok(()) };
    let (header, rows) = results(&plan, &trials, &outcome.ends, args.csv);
    if args.csv {
        print(&table::csv(&header, &rows))?;
    } else if !args.flags.json {
        print(&table::grid(&header, &rows))?;
        print_log(&outcome.ends);
    }
    outcome.error.map_or(Ok(()), Err)
}

fn chosen<'a>(plan: &'a SweepPlan, names: &[String]) -> Result<Vec<&'a Trial>> {
    if names.is_empty() {
        return Ok(plan.trials.iter().collect());
    }
    let find = |name: &String| {
        let found = plan.trials.iter().find(|t| t.name == *name);
        found.ok_or_else(|| Error::usage(format!("no trial `{name}`")).maybe_hint(trial_hint(plan, name)))
    };
    names.iter().map(find).collect()
}

/// Settings, state and results of each trial. A result is called by its name, or `stage.name` if two stages
/// have one of that name.
fn results(plan: &SweepPlan, trials: &[&Trial], ends: &[StageEnd], full: bool) -> (Vec<String>, Vec<Vec<String>>) {
    let by_name: BTreeMap<&str, &StageEnd> = ends.iter().map(|e| (e.stage.as_str(), e)).collect();
    let end = |id: &StageId| by_name.get(plan.pipeline.stage(*id).name.as_str()).copied();
    let mut columns: Vec<(String, String)> = vec![];
    // What all trials share says nothing about them.
    let shared =
        |base: &String| trials.len() > 1 && trials.iter().all(|t| t.stages.get(base) == trials[0].stages.get(base));
    for (base, id) in trials.iter().flat_map(|t| &t.stages).filter(|(base, _)| !shared(base)) {
        for result in end(id).into_iter().flat_map(|e| &e.results) {
            let column = (base.clone(), result.name.clone());
            if !columns.contains(&column) {
                columns.push(column);
            }
        }
    }
    let mut settings: Vec<String> = vec![];
    // The name of a trial says what an axis sets, and stands for what a named trial sets; a file of values has it all.
    for (name, _) in trials.iter().filter(|_| full).flat_map(|t| &t.settings) {
        if !settings.contains(name) {
            settings.push(name.clone());
        }
    }
    let title = |(base, name): &(String, String)| {
        let shared = columns.iter().filter(|(_, n)| n == name).count() > 1;
        if shared { format!("{base}.{name}") } else { name.clone() }
    };
    let mut header = vec!["trial".to_string()];
    header.extend(settings.iter().cloned());
    header.push("status".into());
    header.extend(columns.iter().map(title));
    let row = |trial: &&Trial| {
        let ends: Vec<&StageEnd> = trial.stages.values().filter_map(end).collect();
        let set = |name: &String| trial.settings.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v).to_string();
        let cell = |(base, name): &(String, String)| {
            let result = trial.stages.get(base).and_then(end);
            let result = result.and_then(|e| e.results.iter().find(|r| r.name == *name));
            result.map_or_else(String::new, |r| shown(r, full))
        };
        let mut row = vec![trial.name.clone()];
        row.extend(settings.iter().map(set));
        row.push(status(&ends).into());
        row.extend(columns.iter().map(cell));
        row
    };
    let rows = trials.iter().map(row).collect();
    (header, rows)
}

fn shown(result: &Measure, full: bool) -> String {
    match result.value {
        Some(value) if full => value.to_string(),
        value => number(value),
    }
}

/// The worst that happened to a trial's stages.
fn status(ends: &[&StageEnd]) -> &'static str {
    let any = |state| ends.iter().any(|e| e.state == state);
    match () {
        () if any(State::Failed) => "failed",
        () if any(State::Suspended) => "suspended",
        () if any(State::Skipped) => "skipped",
        () if any(State::Done) => "ran",
        () => "cached",
    }
}
