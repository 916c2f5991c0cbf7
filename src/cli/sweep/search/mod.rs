//! `erw sweep --search`: looks for the values of parameters at which a metric is best. Each point
//! that is tried is a trial like any other, so it is cached and shares stages with the others.
//! Where the next points are is the business of [`descent`]; what runs, that of the sweep.

pub mod args;
mod bracket;
mod descent;
mod metric;
mod outcome;
mod parameter;

use super::args::Args;
use super::row::Status;
use super::selection::{Known, Sweep, seen};
use super::table::Tabulated;
use super::table_options::TableOptions;
use crate::common::pipeline_args::tell_of_link;
use crate::run::execute::{execute, print_log};
use crate::run::flags::Flags;
use args::Goal;
use descent::Descent;
use erw_base::error::{Error, Result};
use erw_report::text::number;
use erw_runner::cache::store::Store;
use erw_runner::event::Measure;
use erw_runner::exec::scheduler::Settled;
use erw_runner::kind::Registry;
use erw_runner::pipeline::targets::select;
use erw_runner::sweep::SweepPlan;
use erw_runner::sweep::axis::SEARCH;
use erw_runner::sweep::probes::{Probe, label};
use erw_runner::sweep::pruner::Pruner;
use parameter::Parameter;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

/// Runs the search that the arguments ask for.
pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    let goal = args.search.goal()?;
    let parameters = parameters(args, registry)?;
    tell_of_link(&args.pipeline.pipeline);
    let spans = parameters.iter().map(|parameter| parameter.span).collect();
    let mut descent = Descent::new(spans, args.search.rounds as usize);
    let mut search = Search { args, cache, registry, goal, parameters, probes: vec![], known: BTreeMap::new() };
    search.check()?;
    let end = search.follow(&mut descent);
    if let Ok(None) = end {
        return Ok(());
    }
    // What was tried before a failure is shown too.
    search.show(&descent, end.is_ok())?;
    end.map(drop)
}

fn parameters(args: &Args, registry: Registry) -> Result<Vec<Parameter>> {
    let pipeline = args.pipeline.load(registry)?;
    let read = |text: &String| Parameter::read(text, &pipeline, args.search.tolerance);
    let all: Vec<Parameter> = args.search.search.iter().map(read).collect::<Result<_>>()?;
    for (i, parameter) in all.iter().enumerate() {
        if all[..i].iter().any(|other| other.key == parameter.key) {
            return Err(Error::usage(format!("`--search` names `{}` twice", parameter.key)));
        }
    }
    Ok(all)
}

/// A search and what it has tried.
struct Search<'a> {
    args: &'a Args,
    cache: &'a Path,
    registry: Registry,
    goal: Goal,
    parameters: Vec<Parameter>,
    probes: Vec<Probe>,
    /// By trial and base stage.
    known: BTreeMap<(String, String), (Status, Vec<Measure>)>,
}

impl Search<'_> {
    /// Refuses, before anything runs, values that a stage does not take, further dimensions, and
    /// metrics that no stage has.
    fn check(&self) -> Result<()> {
        let plan = self.plan(&self.corners())?;
        let options = TableOptions::read(&self.args.options, &plan)?;
        let others = plan.axes.iter().enumerate().filter(|(i, axis)| axis.name != SEARCH && !options.over.contains(i));
        let others: Vec<&str> = others.map(|(_, axis)| axis.name.as_str()).collect();
        if let [first, ..] = others.as_slice() {
            let text = format!("a search needs one value for each point, and the sweep also varies `{first}`");
            return Err(Error::usage(text)
                .hint("pass `--axis STAGE.NAME=VALUE` to replace an axis by one value")
                .hint(format!("pass `--over {first}` to search for the best mean")));
        }
        let mut sweep = self.sweep(&plan, (0..plan.trials.len()).collect())?;
        let known = sweep.cached(&Store::open(self.cache)?, BTreeSet::new())?;
        metric::foresee(&self.goal, &plan, &sweep.results(&known))?;
        // Whatever else could run, no point would get its value.
        sweep.refuse_missing(&Flags { keep_going: false, ..self.args.flags.clone() })
    }

    /// Tries points until there is no better one; `None` after a dry run, and where the search was
    /// submitted as a job.
    fn follow(&mut self, descent: &mut Descent) -> Result<Option<()>> {
        loop {
            let points = descent.next();
            if points.is_empty() {
                return Ok(Some(()));
            }
            let Some(values) = self.values(&points)? else { return Ok(None) };
            for (point, value) in points.iter().zip(values) {
                let (metric, label) = (&self.goal.metric, label(&self.probe(point)));
                let _ = writeln!(std::io::stderr().lock(), "search: {metric} {} at `{label}`", number(Some(value)));
                descent.tell(point, if self.goal.is_most { -value } else { value });
            }
        }
    }

    /// The values of the metric at points, which run together if they are not cached; `None` as
    /// above.
    fn values(&mut self, points: &[Vec<i64>]) -> Result<Option<Vec<f64>>> {
        let new: Vec<Probe> = points.iter().map(|point| self.probe(point)).collect();
        self.probes.extend(new.iter().filter(|probe| !self.probes.contains(probe)).cloned().collect::<Vec<_>>());
        let mut plan = self.plan(&self.probes)?;
        if !self.known.is_empty() {
            // They were told in the first run.
            plan.pipeline.warnings.clear();
        }
        let trials = trials_of(&plan, &new);
        let mut sweep = self.sweep(&plan, trials.clone())?;
        let mut known = sweep.cached(&Store::open(self.cache)?, BTreeSet::new())?;
        let mut error = None;
        if known.values().any(|(status, _)| *status != Status::Cached) {
            let mut flags = self.args.flags.clone();
            flags.keep_going = !self.args.fail_fast;
            let Some(outcome) =
                execute(&plan.pipeline, sweep.selected(), Settled::default(), &flags, self.cache, vec![])?
            else {
                return Ok(None);
            };
            if !flags.json {
                print_log(&outcome.ends);
            }
            known = seen(&plan, &outcome.ends);
            error = outcome.error;
        }
        for trial in trials.iter().map(|&i| &plan.trials[i]) {
            for (base, id) in &trial.stages {
                let found = known.get(id).cloned();
                self.known.extend(found.map(|found| ((trial.name.clone(), base.clone()), found)));
            }
        }
        if let Some(error) = error {
            return Err(error);
        }
        let rows = self.table(&plan, &TableOptions::read(&self.args.options, &plan)?)?.rows;
        let value = |probe: &Probe| {
            metric::value(&self.goal, &plan, &rows, &trials_of(&plan, std::slice::from_ref(probe)), &label(probe))
        };
        new.iter().map(value).collect::<Result<_>>().map(Some)
    }

    /// Every combination of first and last values, of a few parameters: what takes these takes the
    /// points between them.
    fn corners(&self) -> Vec<Probe> {
        const FEW: usize = 6;
        let bits = self.parameters.len().min(FEW);
        let end = |corner: usize, i: usize| self.parameters[i].limits()[corner >> i.min(bits - 1) & 1];
        let point = |corner| (0..self.parameters.len()).map(|i| end(corner, i)).collect::<Vec<_>>();
        (0..1 << bits).map(|corner| self.probe(&point(corner))).collect()
    }

    fn probe(&self, point: &[i64]) -> Probe {
        self.parameters.iter().zip(point).map(|(p, at)| (p.key.clone(), p.text(*at))).collect()
    }

    fn plan(&self, probes: &[Probe]) -> Result<SweepPlan> {
        let pipeline = &self.args.pipeline;
        SweepPlan::load_at(&pipeline.pipeline, self.registry, &pipeline.overrides(), &pipeline.axis, probes)
    }

    /// Every point needs its value, so no trial is stopped early.
    fn sweep<'p>(&self, plan: &'p SweepPlan, trials: Vec<usize>) -> Result<Sweep<'p>> {
        let wanted = select(&plan.pipeline, &self.args.targets)?;
        Ok(Sweep { watch: Pruner::new(plan, &trials, vec![]), plan, trials, wanted })
    }

    /// The table of what was tried.
    fn table(&self, plan: &SweepPlan, options: &TableOptions) -> Result<Tabulated> {
        let mut known = Known::new();
        for trial in &plan.trials {
            for (base, id) in &trial.stages {
                known.extend(self.known.get(&(trial.name.clone(), base.clone())).map(|found| (*id, found.clone())));
            }
        }
        Ok(self.sweep(plan, (0..plan.trials.len()).collect())?.table(&known, options))
    }
}

/// The trials at these points, several if seeds are varied.
fn trials_of(plan: &SweepPlan, probes: &[Probe]) -> Vec<usize> {
    let labels: Vec<String> = probes.iter().map(label).collect();
    let dimension = plan.axes.iter().position(|axis| axis.name == SEARCH);
    let at = |trial: &usize| dimension.and_then(|d| plan.trials[*trial].labels.get(d));
    (0..plan.trials.len()).filter(|trial| at(trial).is_some_and(|l| labels.contains(l))).collect()
}
