//! `erw run`: brings a pipeline up to date.

use super::common::{PipelineArgs, print};
use super::remote::{RemoteArgs, warn};
use crate::error::{Error, Result};
use crate::report::{self, Style, table};
use crate::runner::event::{Fan, Listener, StageEnd};
use crate::runner::graph::{Pipeline, StageId};
use crate::runner::launch::Launcher;
use crate::runner::manifest::Registry;
use crate::runner::pool::Limits;
use crate::runner::record::Journal;
use crate::runner::schedule::{self, Options, Outcome, Stop};
use crate::runner::select::{named, select};
use crate::runner::suggest;
use crate::runner::uses::Uses;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Only these stages and what they need
    pub targets: Vec<String>,
    #[command(flatten)]
    pub flags: Flags,
}

/// What `run` and `sweep` share.
#[derive(Debug, Clone, clap::Args)]
pub struct Flags {
    /// Run this stage even if it is cached
    #[arg(long, value_name = "STAGE")]
    pub force: Vec<String>,
    /// After a failure, go on with what does not depend on it
    #[arg(short, long)]
    pub keep_going: bool,
    /// Say what would run and why, and run nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Stages at a time
    #[arg(short, long, value_parser = clap::value_parser!(u32).range(1..))]
    pub jobs: Option<u32>,
    /// Threads of all stages together; a stage that does not say how many it wants takes all
    #[arg(short, long, value_parser = clap::value_parser!(u32).range(1..))]
    pub threads: Option<u32>,
    /// GPUs to use, at most; 0 runs stages that ask for GPUs on the CPU
    #[arg(long)]
    pub gpus: Option<usize>,
    /// Print events as JSON lines on standard output
    #[arg(long, conflicts_with = "plain")]
    pub json: bool,
    /// Print lines instead of bars
    #[arg(long)]
    pub plain: bool,
    #[command(flatten)]
    pub remote: RemoteArgs,
}

impl Flags {
    fn style(&self) -> Style {
        match (self.json, self.plain) {
            (true, _) => Style::Json,
            (_, true) => Style::Plain,
            _ => Style::Auto,
        }
    }

    fn limits(&self) -> Limits {
        let mut limits = Limits::of_machine();
        if let Some(jobs) = self.jobs {
            limits.jobs = jobs as usize;
        }
        if let Some(threads) = self.threads {
            limits.threads = threads as usize;
        }
        if let Some(gpus) = self.gpus {
            limits.gpus.truncate(gpus);
            limits.without_gpus = gpus == 0;
        }
        limits
    }
}

pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    let pipeline = args.pipeline.load(registry)?;
    let selected = select(&pipeline, &args.targets)?;
    let Some(outcome) = execute(&pipeline, selected, &args.flags, cache, vec![])? else { return Ok(()) };
    if !args.flags.json {
        print(&table::summary(&outcome.ends))?;
        print_log(&outcome.ends);
    }
    outcome.error.map_or(Ok(()), Err)
}

/// Runs the selected stages, shown as the flags say and told to `listeners`; `None` after a dry run.
pub fn execute(
    pipeline: &Pipeline,
    selected: Vec<StageId>,
    flags: &Flags,
    cache: &Path,
    listeners: Vec<Box<dyn Listener + '_>>,
) -> Result<Option<Outcome>> {
    let forced = forced(pipeline, &flags.force)?;
    if flags.dry_run {
        let store = flags.remote.store_for_plans(cache)?;
        print(&super::plan::text(pipeline, &store, &selected, forced)?)?;
        warn(store.remote());
        return Ok(None);
    }
    let store = flags.remote.store(cache)?;
    let stop = Arc::new(Stop::default());
    listen_for_signals(&stop)?;
    let options = Options { selected, forced, keep_going: flags.keep_going, limits: flags.limits() };
    let mut all: Vec<Box<dyn Listener + '_>> = vec![report::listener(flags.style()), Box::new(Journal::start(&store))];
    all.push(Box::new(Uses::of(&store)));
    all.extend(listeners);
    let mut listener = Fan(all);
    let launcher = Launcher::this_program()?;
    schedule::run(pipeline, &store, &launcher, options, &stop, &mut listener).map(Some)
}

/// The stages named by `--force`.
pub fn forced(pipeline: &Pipeline, names: &[String]) -> Result<BTreeSet<StageId>> {
    let mut forced = BTreeSet::new();
    for name in names {
        let found = named(pipeline, name);
        if found.is_empty() {
            let hint = suggest::hint(name, pipeline.stages.iter().map(|s| s.name.as_str()), "the stages are");
            return Err(Error::usage(format!("no stage `{name}` to force")).maybe_hint(hint));
        }
        forced.extend(found);
    }
    Ok(forced)
}

/// Ctrl-C, SIGTERM and a closed terminal reach the scheduler, which puts the work down in order.
fn listen_for_signals(stop: &Arc<Stop>) -> Result<()> {
    let signals = signal_hook::iterator::Signals::new([libc::SIGINT, libc::SIGTERM, libc::SIGHUP]);
    let mut signals = signals.map_err(|e| Error::usage("cannot listen for signals").because(e))?;
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        for (count, signal) in (1..).zip(signals.forever()) {
            stop.ask(signal);
            // Something does not heed signals, such as reading a large source: everything is safe to leave as it is.
            if count > 2 {
                std::process::exit(128 + signal);
            }
        }
    });
    Ok(())
}

/// What the first failed stage wrote last, so that its error, printed next, stands below its context.
pub fn print_log(ends: &[StageEnd]) {
    let failed = ends.iter().filter_map(|e| Some((e, e.error.as_ref()?))).find(|(_, f)| !f.tail.is_empty());
    let Some((end, failure)) = failed else { return };
    let mut err = std::io::stderr().lock();
    let _ = writeln!(err, "the log of `{}` ends:", end.stage);
    for line in &failure.tail {
        let _ = writeln!(err, "  | {line}");
    }
}
