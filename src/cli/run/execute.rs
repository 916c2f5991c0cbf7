//! One run of a pipeline. If nothing changed since the last run, the up-to-date check answers
//! without loading it.

use super::flags::{Args, Flags};
use super::{detach, lock};
use crate::common::pipeline_args::{forced, tell_of_link, warn_of};
use crate::common::print;
use crate::common::remote_args::warn;
use crate::common::signals::stop;
use crate::plan;
use erw_base::error::{Error, ErrorKind, Result};
use erw_report::{json, table};
use erw_runner::cache::Cache;
use erw_runner::cache::store::Store;
use erw_runner::event::{Listener, StageEnd};
use erw_runner::exec::scheduler::{self, Options, Outcome, Settled};
use erw_runner::exec::up_to_date::{self, Part, Partial, Query, Recalled, Report, StoredAnswer};
use erw_runner::kind::Registry;
use erw_runner::pipeline::graph::{Pipeline, RetryPolicy, StageId};
use erw_runner::pipeline::properties::warnings;
use erw_runner::pipeline::targets::{named, select};
use erw_runner::plan::{CacheChecker, foresee};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

/// One run.
pub fn once(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    let file = &args.pipeline.pipeline;
    tell_of_link(file);
    // Other options need more than the answer that everything is cached.
    let is_plain = args.flags.force.is_empty() && !args.flags.dry_run && args.flags.junit.is_none();
    let is_plain = is_plain && !args.lock && !args.locked && args.flags.resource.is_empty();
    let ask = || args.pipeline.query(&args.targets, registry);
    let question = is_plain.then(ask).flatten();
    if let Some(question) = question {
        let here = args.flags.remote.cache(cache)?;
        let recalled = up_to_date::recall(&here, question);
        if let Some(Recalled::All(answer)) = &recalled {
            return tell(answer, &args.flags, file, &here);
        }
        drop(here);
        let is_run_here = !args.flags.detach && args.flags.report.is_none();
        if let Some(Recalled::Most(partial)) = recalled.filter(|_| is_run_here)
            && in_part(&partial, args, cache, registry, (question, &ask))?
        {
            return Ok(());
        }
    }
    let pipeline = args.pipeline.load_for(&args.targets, registry, cache)?;
    let selected = select(&pipeline, &args.targets)?;
    let locked = (args.locked && !args.flags.detach).then(|| lock::before(&pipeline, &selected, cache)).transpose()?;
    let warns = warns(&pipeline, &selected);
    let executed = execute(&pipeline, selected, Settled::default(), &args.flags, cache, vec![])?;
    let Some(outcome) = executed else { return Ok(()) };
    // Warnings are printed in every run, so such a run is not remembered. Neither is one whose
    // files changed meanwhile: it is unknown which version was read.
    let question = question.filter(|asked| !warns && ask() == Some(*asked));
    if let Some(question) = question.filter(|_| outcome.is_whole()) {
        up_to_date::keep(&Store::open(cache)?, question, &pipeline, &outcome.records);
    }
    show(&outcome.ends, 0, &args.flags)?;
    outcome.error.map_or(Ok(()), Err)?;
    let json = args.flags.json;
    if args.lock {
        lock::write(&pipeline, &outcome.ends, cache, json)?;
    }
    locked.map_or(Ok(()), |locked| lock::after(&locked, &pipeline, &outcome.ends, cache, json))
}

/// Reports a run in which nothing needs to run.
fn tell(answer: &StoredAnswer, flags: &Flags, file: &Path, cache: &Cache) -> Result<()> {
    let mut listener = flags.listener(cache.into(), file, vec![])?;
    match answer.tell(cache, &flags.limits(), flags.json, &mut listener) {
        Report::Listed(ends) => show(&ends, 0, flags),
        Report::Counted(stages) => print(&table::all_cached(stages)),
    }
}

/// A run of the stages that a stored answer does not hold for; false if it has to be of all.
fn in_part(
    partial: &Partial,
    args: &Args,
    cache: &Path,
    registry: Registry,
    (question, ask): (Query, &dyn Fn() -> Option<Query>),
) -> Result<bool> {
    // As in a run with nothing to do, whoever reads events gets one for each stage.
    let listed = if args.flags.json { Some(Store::open(cache)?) } else { None };
    let part = partial.read(&args.pipeline.pipeline, registry, &args.pipeline.overrides(), listed.as_ref());
    let Some(Part { pipeline, selected, settled }) = part else { return Ok(false) };
    let warns = warns(&pipeline, &selected);
    let more = settled.count;
    let Some(outcome) = execute(&pipeline, selected, settled, &args.flags, cache, vec![])? else { return Ok(false) };
    let is_stopped = outcome.error.as_ref().is_some_and(|e| matches!(e.kind, ErrorKind::Signal(_)));
    if outcome.lacks_stages && !is_stopped {
        return Ok(false);
    }
    if outcome.is_whole() && !warns && ask() == Some(question) {
        partial.keep(&Store::open(cache)?, question, &pipeline, &outcome.records);
    }
    show(&outcome.ends, more, &args.flags)?;
    outcome.error.map_or(Ok(true), Err)
}

/// Whether a run of these stages prints warnings.
fn warns(pipeline: &Pipeline, selected: &[StageId]) -> bool {
    !pipeline.warnings.is_empty() || !warnings(pipeline, selected).is_empty()
}

/// `more`: stages that are cached and not among these.
pub(crate) fn show(ends: &[StageEnd], more: usize, flags: &Flags) -> Result<()> {
    if flags.json {
        return json::written();
    }
    print(&table::summary(ends, more))?;
    print_log(ends);
    Ok(())
}

/// Runs the selected stages, displayed as the flags say, and sends events to `listeners`; `None`
/// after a dry run, and where the run is submitted as a job.
pub fn execute(
    pipeline: &Pipeline,
    selected: Vec<StageId>,
    settled: Settled,
    flags: &Flags,
    cache: &Path,
    listeners: Vec<Box<dyn Listener + '_>>,
) -> Result<Option<Outcome>> {
    let forced = forced(pipeline, &flags.force)?;
    refuse_unselected(pipeline, &flags.force, &selected)?;
    warn_of(pipeline);
    if flags.dry_run {
        let cache = flags.remote.cache_for_plans(cache)?;
        let mut planned = plan::planned(pipeline, (&cache).into(), &selected, forced)?;
        plan::jobs::add(&mut planned, pipeline, &flags.settings);
        print(&if flags.json { planned.json() } else { planned.text() })?;
        warn(cache.remote.as_ref());
        return plan::jobs::check(&planned, pipeline, &flags.settings).map(|()| None);
    }
    for text in warnings(pipeline, &selected) {
        let _ = writeln!(std::io::stderr().lock(), "warning: {text}");
    }
    if flags.detach {
        // The run would say it in its job.
        if !flags.keep_going {
            foresee::selected(&CacheChecker::new(pipeline, &Store::open(cache)?, forced), &selected)?;
        }
        return detach::submit(pipeline, &selected, flags, cache).map(|()| None);
    }
    let cache = flags.remote.cache(cache)?;
    let stop = stop()?;
    let retry = RetryPolicy { timeout: flags.timeout, retries: flags.retries, backoff: None };
    let (mut limits, stage_retry) = (flags.limits_for(pipeline, &selected), flags.stage_retry(pipeline, &selected));
    let launcher = flags.launcher(&mut limits)?;
    let most_ranks = flags.most_ranks(pipeline, &selected);
    // The terminal is gone; or the job of the run is to end.
    let leave_on = if flags.runner_job.is_some() { vec![libc::SIGHUP, libc::SIGTERM] } else { vec![libc::SIGHUP] };
    let keep_going = flags.keep_going;
    let options = Options { selected, settled, forced, keep_going, leave_on, limits, most_ranks, stage_retry, retry };
    let mut listener = flags.listener((&cache).into(), &pipeline.file, listeners)?;
    scheduler::run(pipeline, (&cache).into(), launcher.as_ref(), options, stop, &mut listener).map(Some)
}

/// Refuses to force a stage that does not run anyway.
fn refuse_unselected(pipeline: &Pipeline, names: &[String], selected: &[StageId]) -> Result<()> {
    let selected: BTreeSet<&StageId> = selected.iter().collect();
    let is_idle = |name: &&String| !named(pipeline, name).iter().any(|id| selected.contains(id));
    match names.iter().find(is_idle) {
        Some(name) => Err(Error::usage(format!("`--force {name}`: the stage is not selected"))
            .hint("name it among the stages to run, or a stage that needs it")),
        None => Ok(()),
    }
}

/// Prints the end of the first failed stage's log, so that it precedes the error, which is printed
/// next.
pub fn print_log(ends: &[StageEnd]) {
    let failed = ends.iter().filter_map(|e| Some((e, e.error.as_ref()?))).find(|(_, f)| !f.tail.is_empty());
    let Some((end, failure)) = failed else { return };
    let mut err = std::io::stderr().lock();
    let _ = writeln!(err, "end of the log of `{}`:", end.stage);
    for line in &failure.tail {
        let _ = writeln!(err, "  | {line}");
    }
}
