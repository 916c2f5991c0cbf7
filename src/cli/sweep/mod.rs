//! `erw sweep`: every trial of a pipeline's `[sweep]` in one run, and a table of their results.

pub mod filter;
pub mod row;
pub mod table;
pub mod table_options;

use super::common::pipeline_args::{PipelineArgs, forced, tell_of_link};
use super::common::print;
use super::run::execute::{execute, print_log};
use super::run::flags::Flags;
use crate::report::sheet::{Format, Sheet};
use erw_base::error::{Error, Result};
use erw_runner::cache::store::Store;
use erw_runner::event::{Listener, Measure, StageEnd, State};
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
use table::table;
use table_options::{MayGive, TableArgs, TableOptions};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Only these stages, in every trial, and what they need
    pub targets: Vec<String>,
    /// Only this trial
    #[arg(long, value_name = "TRIAL")]
    pub trial: Vec<String>,
    /// Run at most so many of the trials that are not complete yet, in order
    #[arg(long, value_name = "N", conflicts_with = "table")]
    pub budget_trials: Option<usize>,
    /// Give up trials that are hopeless: `train.loss>2 @500`, `fd > 1.5*best`
    #[arg(long, value_name = "RULE")]
    pub stop: Vec<String>,
    /// Start nothing new once a stage has failed
    #[arg(long, conflicts_with = "keep_going")]
    pub fail_fast: bool,
    /// Print the table of what is cached, and run nothing
    #[arg(long, conflicts_with_all = ["json", "dry_run", "force"])]
    pub table: bool,
    /// Those of `run`, so that the answer is no guess at a misspelling.
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
    // Rules must know what is complete, which is not given up, and what there is to compare with.
    if args.budget_trials.is_some() || sweep.watch.has_rules() {
        let known = sweep.cached(&Store::open(cache)?, forced(&plan.pipeline, &args.flags.force)?)?;
        left = args.budget_trials.map_or(0, |most| sweep.keep_within(most, &known));
    }
    sweep.refuse_missing(args)?;
    let mut flags = args.flags.clone();
    flags.keep_going = !args.fail_fast;
    let selected = sweep.selected();
    let listener: Box<dyn Listener + '_> = Box::new(&mut sweep.watch);
    let Some(outcome) = execute(&plan.pipeline, selected, &flags, cache, vec![listener])? else { return Ok(()) };
    let mut result = Ok(());
    if !args.flags.json {
        result = print_table(sweep.table(&seen(&plan, &outcome.ends), &options), args.options.format);
        if left > 0 {
            let total = plan.trials.len();
            let _ = writeln!(std::io::stderr().lock(), "{left} of {total} trials are left; run again to go on");
        }
        print_log(&outcome.ends);
    }
    outcome.error.map_or(result, Err)
}

/// A lock holds one pipeline. The points of a sweep come and go with every axis of the command line.
fn refuse_locks(args: &Args) -> Result<()> {
    let flag = match (args.lock, args.locked) {
        (true, _) => "--lock",
        (_, true) => "--locked",
        _ => return Ok(()),
    };
    let file = args.pipeline.pipeline.display();
    Err(Error::usage(format!("a sweep has no lock file, so it takes no `{flag}`"))
        .hint(format!("`erw run {file} {flag}` is about the pipeline without its `[sweep]`; for a trial, give it a pipeline of its own with `extends`")))
}

/// Prints the table of what is cached of all trials, and runs nothing.
pub fn print_cached(plan: &SweepPlan, cache: &Path, options: &TableArgs) -> Result<()> {
    print_table(cached(plan, cache, options)?, options.format)
}

/// The table of what is cached of all trials.
pub fn cached_sheet(plan: &SweepPlan, cache: &Path, options: &TableArgs) -> Result<Sheet> {
    let (sheet, error) = cached(plan, cache, options)?;
    error.map_or(Ok(sheet), Err)
}

fn cached(plan: &SweepPlan, cache: &Path, options: &TableArgs) -> Result<(Sheet, Option<Error>)> {
    let trials = chosen(plan, &[])?;
    let watch = Pruner::new(plan, &trials, plan.rules.clone());
    let mut sweep = Sweep { plan, trials, wanted: select(&plan.pipeline, &[])?, watch };
    let known = sweep.cached(&Store::open(cache)?, BTreeSet::new())?;
    Ok(sweep.table(&known, &TableOptions::read(options, plan)?))
}

/// The table, though a wish could not be met.
fn print_table((sheet, error): (Sheet, Option<Error>), format: Format) -> Result<()> {
    print(&sheet.render(format))?;
    error.map_or(Ok(()), Err)
}

fn chosen(plan: &SweepPlan, names: &[String]) -> Result<Vec<usize>> {
    match names {
        [] => Ok((0..plan.trials.len()).collect()),
        names => names.iter().map(|name| plan.trial(name)).collect(),
    }
}

/// Those of the file and those of the command line.
fn rules(plan: &SweepPlan, stop: &[String]) -> Result<Vec<Rule>> {
    let stages: Vec<&str> = plan.base_names().collect();
    let mut rules = plan.rules.clone();
    for text in stop {
        rules.push(Rule::parse(text, &stages).map_err(|e| e.within("`--stop`"))?);
    }
    Ok(rules)
}

/// What a stage is known to have ended with.
type Known = BTreeMap<StageId, (Status, Vec<Measure>)>;

/// A sweep, and what is wanted of it.
struct Sweep<'a> {
    plan: &'a SweepPlan,
    trials: Vec<usize>,
    /// What the targets need, in all trials.
    wanted: Vec<StageId>,
    watch: Pruner,
}

impl Sweep<'_> {
    /// The wanted stages of the wanted trials.
    fn selected(&self) -> Vec<StageId> {
        let needed: BTreeSet<StageId> =
            self.trials.iter().flat_map(|&i| self.plan.trials[i].stages.values().copied()).collect();
        self.wanted.iter().copied().filter(|id| needed.contains(id)).collect()
    }

    /// What the cache knows of the wanted stages. The watch hears of it.
    fn cached(&mut self, store: &Store, forced: BTreeSet<StageId>) -> Result<Known> {
        let checker = CacheChecker::new(&self.plan.pipeline, store, forced);
        let mut known = Known::new();
        for (id, verdict) in plan::plan(&checker, &self.selected())? {
            let Verdict::Cached(record) = verdict else {
                known.insert(id, (Status::Unfinished, vec![]));
                continue;
            };
            let name = &self.plan.pipeline.stage(id).name;
            self.watch.cached(name, record.results.iter().map(|r| (r.name.as_str(), r.value)));
            known.insert(id, (Status::Cached, record.results));
        }
        Ok(known)
    }

    /// Keeps the trials that are complete and the first `most` of the others; says how many are left.
    fn keep_within(&mut self, most: usize, known: &Known) -> usize {
        let done = |id: &StageId| known.get(id).is_none_or(|(status, _)| *status == Status::Cached);
        let (mut started, mut left) = (0, 0);
        let (plan, watch) = (self.plan, &self.watch);
        self.trials.retain(|&i| {
            if plan.trials[i].stages.values().all(done) || watch.doom(i).is_some() {
                return true;
            }
            let within = started < most;
            *(if within { &mut started } else { &mut left }) += 1;
            within
        });
        left
    }

    /// A sweep goes on after failures, but what is known to be absent is told before days of work.
    fn refuse_missing(&self, args: &Args) -> Result<()> {
        if args.flags.keep_going || args.flags.dry_run {
            return Ok(());
        }
        let missing: Vec<Missing> =
            self.selected().iter().flat_map(|id| plan::missing(self.plan.pipeline.stage(*id))).collect();
        plan::missing_error(&missing).map_or(Ok(()), Err)
    }

    /// What the stages may call their results: those that are cached as they did, kinds as they say.
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

    fn table(&self, known: &Known, options: &TableOptions) -> (Sheet, Option<Error>) {
        let seen = |id: StageId| known.get(&id).map(|(status, r)| StageStatus { status: *status, results: r.clone() });
        let stopped = |trial| self.watch.doom(trial).is_some();
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

fn status(state: State) -> Status {
    match state {
        State::Failed => Status::Failed,
        State::Suspended => Status::Suspended,
        State::Done => Status::Ran,
        State::Cached => Status::Cached,
        _ => Status::Skipped,
    }
}
