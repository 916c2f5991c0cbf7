//! `erw sweep`: all trials of a pipeline's sweep in one run, and a table of their results; or the
//! trials of a search, run after run.

pub mod args;
pub mod filter;
pub mod row;
mod search;
mod selection;
pub mod table;
pub mod table_options;

use super::common::pipeline_args::{forced, tell_of_link};
use super::common::print;
use super::run::execute::{execute, print_log};
use erw_base::error::{Error, Result};
use erw_report::json::written;
use erw_report::sheet::Format;
use erw_runner::cache::store::Store;
use erw_runner::event::{Listener, Measure};
use erw_runner::exec::scheduler::Settled;
use erw_runner::kind::Registry;
use erw_runner::pipeline::graph::StageId;
use erw_runner::pipeline::targets::select;
use erw_runner::sweep::SweepPlan;
use erw_runner::sweep::pruner::Pruner;
use erw_runner::sweep::pruning_rule::Rule;
use erw_runner::text::shell::quoted;
use row::Status;
use selection::{Sweep, seen};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use table::Tabulated;
use table_options::{TableArgs, TableOptions};

pub use args::Args;

pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    refuse_locks(args)?;
    if !args.search.search.is_empty() {
        return search::run(args, cache, registry);
    }
    let plan = args.pipeline.sweep(registry)?;
    tell_of_link(&args.pipeline.pipeline);
    let options = TableOptions::read(&args.options, &plan)?;
    let trials = chosen(&plan, &args.trial)?;
    let wanted = select(&plan.pipeline, &args.targets)?;
    let mut sweep =
        Sweep { watch: Pruner::new(&plan, &trials, rules(&plan, &args.stop)?), plan: &plan, trials, wanted };
    if args.table {
        let known = sweep.last_seen(&Store::open(cache)?)?;
        return print_table(sweep.table(&known, &options), args.options.format);
    }
    if !options.are_plain() {
        let known = sweep.cached(&Store::open(cache)?, BTreeSet::new())?;
        warn(&options.foresee(&plan, &sweep.results(&known))?);
    }
    let mut left = 0;
    // Rules need the cached results: complete trials are not stopped, and `best` compares with
    // them.
    if args.budget_trials.is_some() || sweep.watch.has_rules() {
        let known = sweep.cached(&Store::open(cache)?, forced(&plan.pipeline, &args.flags.force)?)?;
        left = args.budget_trials.map_or(0, |most| sweep.keep_within(most, &known));
    }
    sweep.refuse_missing(&args.flags)?;
    let mut flags = args.flags.clone();
    flags.keep_going = !args.fail_fast;
    let selected = sweep.selected();
    let listener: Box<dyn Listener + '_> = Box::new(&mut sweep.watch);
    let Some(outcome) = execute(&plan.pipeline, selected, Settled::default(), &flags, cache, vec![listener])? else {
        return Ok(());
    };
    let mut result = written();
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
    let file = quoted(&args.pipeline.pipeline.to_string_lossy());
    let hint = format!("`erw run {file} {flag}` applies to the pipeline without its `[sweep]`");
    Err(Error::usage(format!("`{flag}` does not apply to a sweep, which has no lock file"))
        .hint(hint)
        .hint("to lock a trial, write a pipeline for it that uses `extends`"))
}

/// Prints the table of the cached results of all trials, and of how the others ended.
pub fn print_cached(plan: &SweepPlan, cache: &Path, options: &TableArgs) -> Result<()> {
    print_table(cached(plan, cache, options)?, options.format)
}

/// That table.
pub fn cached(plan: &SweepPlan, cache: &Path, options: &TableArgs) -> Result<Tabulated> {
    let mut sweep = whole(plan)?;
    let known = sweep.last_seen(&Store::open(cache)?)?;
    Ok(sweep.table(&known, &TableOptions::read(options, plan)?))
}

/// The same from what is known of its stages: results of those that are cached, and how attempts at
/// the others ended.
pub fn tabulated(
    plan: &SweepPlan,
    stages: impl Iterator<Item = (StageId, Option<Vec<Measure>>, Option<Status>)>,
    options: &TableArgs,
) -> Result<Tabulated> {
    let mut sweep = whole(plan)?;
    let known = stages.map(|(id, results, end)| {
        let (status, results) = sweep.known(id, results);
        (id, (end.unwrap_or(status), results))
    });
    let known = known.collect();
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
    warn(&table.warnings);
    table.checked().map(drop)
}

fn warn(warnings: &[String]) {
    let mut err = std::io::stderr().lock();
    warnings.iter().for_each(|text| drop(writeln!(err, "warning: {text}")));
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
