//! `erw sweep`: all trials of a pipeline's sweep in one run, and a table of their results.

pub mod filter;
pub mod row;
pub mod table;
pub mod table_options;

use super::common::pipeline_args::{PipelineArgs, forced, tell_of_link};
use super::common::print;
use super::run::execute::{execute, print_log};
use super::run::flags::Flags;
use crate::report::sheet::Format;
use erw_base::error::{Error, Result};
use erw_runner::cache::store::Store;
use erw_runner::event::{Listener, Measure, StageEnd, StageState};
use erw_runner::exec::scheduler::Settled;
use erw_runner::kind::Registry;
use erw_runner::pipeline::graph::StageId;
use erw_runner::pipeline::targets::select;
use erw_runner::plan::{self, CacheChecker, Missing, Verdict};
use erw_runner::sweep::SweepPlan;
use erw_runner::sweep::pruner::Pruner;
use erw_runner::sweep::pruning_rule::Rule;
use row::{StageStatus, Status};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use table::{Tabulated, table};
use table_options::{MayGive, TableArgs, TableOptions};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Only these stages and their dependencies, in every trial
    pub targets: Vec<String>,
    /// Only this trial
    #[arg(long, value_name = "TRIAL")]
    pub trial: Vec<String>,
    /// Run the next N trials that are not complete
    #[arg(long, value_name = "N", conflicts_with = "table")]
    pub budget_trials: Option<usize>,
    /// Stop trials early by a rule: `train.loss>2 @500`, `fd > 1.5*best`
    #[arg(long, value_name = "RULE")]
    pub stop: Vec<String>,
    /// Start no further stages once one has failed
    #[arg(long, conflicts_with = "keep_going")]
    pub fail_fast: bool,
    /// Print the table of cached results, without running anything
    #[arg(long, conflicts_with_all = ["json", "dry_run", "force"])]
    pub table: bool,
    /// Accepted only to explain that a sweep has no lock file.
    #[arg(long, hide = true)]
    lock: bool,
    #[arg(long, hide = true)]
    locked: bool,
    #[command(flatten)]
    pub options: TableArgs,
    #[command(flatten)]
    pub flags: Flags,
}

pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    refuse_locks(args)?;
    let plan = args.pipeline.sweep(registry)?;
    tell_of_link(&args.pipeline.pipeline);
    let options = TableOptions::read(&args.options, &plan)?;
    let trials = chosen(&plan, &args.trial)?;
    let wanted = select(&plan.pipeline, &args.targets)?;
    let mut sweep =
        Sweep { watch: Pruner::new(&plan, &trials, rules(&plan, &args.stop)?), plan: &plan, trials, wanted };
    if args.table {
        let known = sweep.cached(&Store::open(cache)?, BTreeSet::new())?;
        return print_table(sweep.table(&known, &options), args.options.format);
    }
    if !options.are_plain() {
        let known = sweep.cached(&Store::open(cache)?, BTreeSet::new())?;
        options.foresee(&plan, &sweep.results(&known))?;
    }
    let mut left = 0;
    // Rules need the cached results: complete trials are not stopped, and `best` compares with
    // them.
    if args.budget_trials.is_some() || sweep.watch.has_rules() {
        let known = sweep.cached(&Store::open(cache)?, forced(&plan.pipeline, &args.flags.force)?)?;
        left = args.budget_trials.map_or(0, |most| sweep.keep_within(most, &known));
    }
    sweep.refuse_missing(args)?;
    let mut flags = args.flags.clone();
    flags.keep_going = !args.fail_fast;
    let selected = sweep.selected();
    let listener: Box<dyn Listener + '_> = Box::new(&mut sweep.watch);
    let Some(outcome) = execute(&plan.pipeline, selected, Settled::default(), &flags, cache, vec![listener])? else {
        return Ok(());
    };
    let mut result = Ok(());
    if !args.flags.json {
        result = print_table(sweep.table(&seen(&plan, &outcome.ends), &options), args.options.format);
        if left > 0 {
            let total = plan.trials.len();
            let _ = writeln!(std::io::stderr().lock(), "{left} of {total} trials are left; rerun to continue");
        }
        print_log(&outcome.ends);
    }
    outcome.error.map_or(result, Err)
}

/// Refuses `--lock` and `--locked`. A lock file describes one pipeline; the trials of a sweep
/// change with the command line.
fn refuse_locks(args: &Args) -> Result<()> {
    let flag = match (args.lock, args.locked) {
        (true, _) => "--lock",
        (_, true) => "--locked",
        _ => return Ok(()),
    };
    let file = args.pipeline.pipeline.display();
    let hint = format!("`erw run {file} {flag}` applies to the pipeline without its `[sweep]`");
    Err(Error::usage(format!("`{flag}` does not apply to a sweep, which has no lock file"))
        .hint(hint)
        .hint("to lock a trial, write a pipeline for it that uses `extends`"))
}

/// Prints the table of the cached results of all trials.
pub fn print_cached(plan: &SweepPlan, cache: &Path, options: &TableArgs) -> Result<()> {
    print_table(cached(plan, cache, options)?, options.format)
}

/// The table of the cached results of all trials.
pub fn cached(plan: &SweepPlan, cache: &Path, options: &TableArgs) -> Result<Tabulated> {
    let mut sweep = whole(plan)?;
    let known = sweep.cached(&Store::open(cache)?, BTreeSet::new())?;
    Ok(sweep.table(&known, &TableOptions::read(options, plan)?))
}

/// The same from these results of its stages; `None` for one that is not cached.
pub fn tabulated(
    plan: &SweepPlan,
    results: impl Iterator<Item = (StageId, Option<Vec<Measure>>)>,
    options: &TableArgs,
) -> Result<Tabulated> {
    let mut sweep = whole(plan)?;
    let known = results.map(|(id, results)| (id, sweep.known(id, results))).collect();
    Ok(sweep.table(&known, &TableOptions::read(options, plan)?))
}

/// All trials with all stages.
fn whole(plan: &SweepPlan) -> Result<Sweep<'_>> {
    let trials = chosen(plan, &[])?;
    let watch = Pruner::new(plan, &trials, plan.rules.clone());
    Ok(Sweep { plan, trials, wanted: select(&plan.pipeline, &[])?, watch })
}

/// Prints the table even if an option was wrong, then returns the error.
fn print_table(table: Tabulated, format: Format) -> Result<()> {
    print(&table.sheet.render(format))?;
    table.checked().map(drop)
}

fn chosen(plan: &SweepPlan, names: &[String]) -> Result<Vec<usize>> {
    match names {
        [] => Ok((0..plan.trials.len()).collect()),
        names => names.iter().map(|name| plan.trial(name)).collect(),
    }
}

/// The rules of the file and of the command line.
fn rules(plan: &SweepPlan, stop: &[String]) -> Result<Vec<Rule>> {
    let stages: Vec<&str> = plan.base_names().collect();
    let mut rules = plan.rules.clone();
    for text in stop {
        rules.push(Rule::parse(text, &stages).map_err(|e| e.within("`--stop`"))?);
    }
    Ok(rules)
}

/// The status and results of the stages.
type Known = BTreeMap<StageId, (Status, Vec<Measure>)>;

/// A sweep with the selected trials and stages.
struct Sweep<'a> {
    plan: &'a SweepPlan,
    trials: Vec<usize>,
    /// The targets and their dependencies, in all trials.
    wanted: Vec<StageId>,
    watch: Pruner,
}

impl Sweep<'_> {
    /// The selected stages of the selected trials.
    fn selected(&self) -> Vec<StageId> {
        let needed: BTreeSet<StageId> =
            self.trials.iter().flat_map(|&i| self.plan.trials[i].stages.values().copied()).collect();
        self.wanted.iter().copied().filter(|id| needed.contains(id)).collect()
    }

    /// The cached results of the selected stages, which are also passed to the pruner.
    fn cached(&mut self, store: &Store, forced: BTreeSet<StageId>) -> Result<Known> {
        let checker = CacheChecker::new(&self.plan.pipeline, store, forced);
        let mut known = Known::new();
        for (id, verdict) in plan::plan(&checker, &self.selected())? {
            let results = if let Verdict::Cached(record) = verdict { Some(record.results) } else { None };
            known.insert(id, self.known(id, results));
        }
        Ok(known)
    }

    /// What is known of a stage with these cached results, which the pruner sees too.
    fn known(&mut self, id: StageId, results: Option<Vec<Measure>>) -> (Status, Vec<Measure>) {
        let Some(results) = results else { return (Status::Unfinished, vec![]) };
        let name = &self.plan.pipeline.stage(id).name;
        self.watch.cached(name, results.iter().map(|r| (r.name.as_str(), r.value)));
        (Status::Cached, results)
    }

    /// Keeps complete trials and the first `most` of the others; returns how many are left out.
    fn keep_within(&mut self, most: usize, known: &Known) -> usize {
        let done = |id: &StageId| known.get(id).is_none_or(|(status, _)| *status == Status::Cached);
        let (mut started, mut left) = (0, 0);
        let (plan, watch) = (self.plan, &self.watch);
        self.trials.retain(|&i| {
            if plan.trials[i].stages.values().all(done) || watch.pruned_because(i).is_some() {
                return true;
            }
            let within = started < most;
            *(if within { &mut started } else { &mut left }) += 1;
            within
        });
        left
    }

    /// Fails for missing files before anything runs. A sweep continues after failures, but these
    /// are known beforehand.
    fn refuse_missing(&self, args: &Args) -> Result<()> {
        if args.flags.keep_going || args.flags.dry_run {
            return Ok(());
        }
        let missing: Vec<Missing> =
            self.selected().iter().flat_map(|id| plan::missing(self.plan.pipeline.stage(*id))).collect();
        plan::missing_error(&missing).map_or(Ok(()), Err)
    }

    /// The names that results of the stages may have: of cached stages the recorded ones, otherwise
    /// those of the kind.
    fn results(&self, known: &Known) -> Vec<(String, MayGive)> {
        let result = |id: StageId| {
            let stage = self.plan.pipeline.stage(id);
            let base = stage.name.split('@').next().unwrap_or(&stage.name).to_string();
            let may = match known.get(&id) {
                Some((Status::Cached, results)) => MayGive::These(results.iter().map(|r| r.name.clone()).collect()),
                _ if stage.command.is_none() => MayGive::These(stage.manifest.results.clone()),
                _ if stage.outputs.values().any(|ty| ty == erw_runner::kind::field::TYPE) => MayGive::Anything,
                _ => MayGive::These(vec![]),
            };
            (base, may)
        };
        self.selected().into_iter().map(result).collect()
    }

    fn table(&self, known: &Known, options: &TableOptions) -> Tabulated {
        let seen = |id: StageId| known.get(&id).map(|(status, r)| StageStatus { status: *status, results: r.clone() });
        let stopped = |trial| self.watch.pruned_because(trial).is_some();
        table(self.plan, &self.trials, options, &seen, &stopped)
    }
}

/// How the stages of a run ended.
fn seen(plan: &SweepPlan, ends: &[StageEnd]) -> Known {
    let by_name: BTreeMap<&str, &StageEnd> = ends.iter().map(|e| (e.stage.as_str(), e)).collect();
    let all = plan.pipeline.stages.iter().enumerate();
    let found = all.filter_map(|(i, stage)| Some((StageId(i), *by_name.get(stage.name.as_str())?)));
    found.map(|(id, end)| (id, (status(end.state), end.results.clone()))).collect()
}

fn status(state: StageState) -> Status {
    match state {
        StageState::Failed => Status::Failed,
        StageState::Suspended => Status::Suspended,
        StageState::Done => Status::Ran,
        StageState::Cached => Status::Cached,
        _ => Status::Skipped,
    }
}
