//! `erw run`: brings a pipeline up to date.

use super::common::{PipelineArgs, print, tell_of_link, warn_of};
use super::lock;
use super::remote::{RemoteArgs, warn};
use super::signals::stop;
use crate::error::{Error, Result};
use crate::report::junit::Junit;
use crate::report::{self, Style, table};
use crate::runner::event::{Fan, Listener, StageEnd};
use crate::runner::graph::{Patience, Pipeline, StageId};
use crate::runner::launch::Launcher;
use crate::runner::manifest::Registry;
use crate::runner::memo::{self, Answer, Question};
use crate::runner::pool::Limits;
use crate::runner::properties::doubts;
use crate::runner::quantity::{bytes, duration};
use crate::runner::record::Journal;
use crate::runner::schedule::{self, Options, Outcome};
use crate::runner::select::{named, select};
use crate::runner::store::Store;
use crate::runner::suggest;
use crate::runner::uses::Uses;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Only these stages and what they need
    pub targets: Vec<String>,
    /// Run again whenever a file of the pipeline or one that its stages read changes
    #[arg(short, long)]
    pub watch: bool,
    /// Write what every stage made to the lock file beside the pipeline, to be committed
    #[arg(long, conflicts_with_all = ["targets", "dry_run"])]
    pub lock: bool,
    /// Fail unless every stage is, and makes, what the lock file says
    #[arg(long, conflicts_with_all = ["lock", "dry_run"])]
    pub locked: bool,
    #[command(flatten)]
    pub flags: Flags,
}

/// What `run` and `sweep` share.
#[derive(Debug, Clone, Default, clap::Args)]
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
    /// Memory of all stages together, as in 16GiB; without it, what the machine has
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub mem: Option<u64>,
    /// GPUs to use, at most; 0 runs stages that ask for GPUs on the CPU
    #[arg(long)]
    pub gpus: Option<usize>,
    /// Of these only the one at this place, for commands that take a device.
    #[arg(skip)]
    pub gpu: Option<usize>,
    /// So much of a resource that stages name in `resources`; without it, those who name it take turns
    #[arg(long, value_name = "NAME=N", value_parser = resource)]
    pub resource: Vec<(String, u64)>,
    /// Start nothing more beside what runs while the load of the machine is above
    #[arg(short = 'l', long, value_name = "LOAD", value_parser = load)]
    pub max_load: Option<f64>,
    /// Try a failed stage again so often, unless it says itself how often
    #[arg(long, value_name = "N")]
    pub retries: Option<u32>,
    /// Stop a stage that takes longer, as in 2h or 30min, unless it has a timeout of its own
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub timeout: Option<Duration>,
    /// Print events as JSON lines on standard output
    #[arg(long, conflicts_with = "plain")]
    pub json: bool,
    /// Print lines instead of bars
    #[arg(long)]
    pub plain: bool,
    /// Also write how it went to this file, as JUnit XML
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath, conflicts_with = "dry_run")]
    pub junit: Option<PathBuf>,
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

    /// Whoever hears the events of a run: its display, its journal, a report that was asked for, and `others`.
    fn listener<'a>(&self, store: &'a Store, others: Vec<Box<dyn Listener + 'a>>) -> Result<Fan<'a>> {
        let mut all: Vec<Box<dyn Listener + 'a>> =
            vec![report::listener(self.style()), Box::new(Journal::start(store)), Box::new(Uses::of(store))];
        if let Some(file) = &self.junit {
            all.push(Box::new(Junit::new(file)?));
        }
        all.extend(others);
        Ok(Fan(all))
    }

    pub fn limits(&self) -> Limits {
        let mut limits = Limits::of_machine();
        if let Some(jobs) = self.jobs {
            limits.jobs = jobs as usize;
        }
        if let Some(threads) = self.threads {
            limits.threads = threads as usize;
        }
        limits.mem = self.mem.unwrap_or(limits.mem);
        limits.named = self.resource.iter().cloned().collect();
        limits.max_load = self.max_load;
        if let Some(gpus) = self.gpus {
            limits.gpus.truncate(gpus);
            limits.without_gpus = gpus == 0;
        }
        if let Some(only) = self.gpu {
            limits.gpus = limits.gpus.get(only).cloned().into_iter().collect();
        }
        limits
    }
}

/// `licence=2`.
fn resource(text: &str) -> Result<(String, u64), String> {
    match text.split_once('=') {
        Some((name @ ("threads" | "gpus" | "mem"), _)) => Err(format!("that is `--{name}`")),
        Some((name, units)) if !name.is_empty() && units.parse::<u64>().is_ok() => {
            Ok((name.to_string(), units.parse().unwrap_or_default()))
        }
        _ => Err("write NAME=N, as in licence=2".into()),
    }
}

fn load(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|load: &f64| *load >= 0.0).ok_or_else(|| "write a number from 0 on, as in 7.5".into())
}

fn size(text: &str) -> Result<u64, String> {
    bytes(text).filter(|bytes| *bytes > 0).ok_or_else(|| "write a size, as in 16GiB or 500MB".into())
}

fn time(text: &str) -> Result<Duration, String> {
    duration(text).filter(|d| !d.is_zero()).ok_or_else(|| "write a time, as in 2h, 30min or 90s".into())
}

pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    if args.watch { super::watch::run(args, cache, registry) } else { once(args, cache, registry) }
}

/// One run.
pub fn once(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    let file = &args.pipeline.pipeline;
    tell_of_link(file);
    // The others want to know more than that all is cached.
    let is_plain = args.flags.force.is_empty() && !args.flags.dry_run && args.flags.junit.is_none();
    let is_plain = is_plain && !args.lock && !args.locked && args.flags.resource.is_empty();
    // Which trials there are, other things than the pipeline may say.
    let is_plain = is_plain && args.pipeline.axis.is_empty() && !args.targets.iter().any(|name| name.contains('@'));
    let ask = || Question::new(file, registry, &args.pipeline.overrides(), &args.targets);
    let question = is_plain.then(ask).flatten();
    if let Some(question) = question {
        let store = args.flags.remote.store(cache)?;
        if let Some(memo) = memo::recall(&store, question) {
            let (limits, flags) = (args.flags.limits(), &args.flags);
            return match memo.tell(&store, &limits, flags.json, &mut flags.listener(&store, vec![])?) {
                Answer::Listed(ends) => show(&ends, flags),
                Answer::Counted(stages) => print(&table::all_cached(stages)),
            };
        }
    }
    let pipeline = args.pipeline.load_for(&args.targets, registry, cache)?;
    let selected = select(&pipeline, &args.targets)?;
    let locked = args.locked.then(|| lock::before(&pipeline, &selected, cache)).transpose()?;
    let Some(outcome) = execute(&pipeline, selected, &args.flags, cache, vec![])? else { return Ok(()) };
    // A warning is told again each time. What it rests on may have changed meanwhile, and which of the two was read nobody knows.
    let question = question.filter(|asked| pipeline.warnings.is_empty() && ask() == Some(*asked));
    if let (Some(question), None) = (question, &outcome.error) {
        memo::keep(&Store::open(cache)?, question, &pipeline, &outcome.records);
    }
    show(&outcome.ends, &args.flags)?;
    outcome.error.map_or(Ok(()), Err)?;
    let json = args.flags.json;
    if args.lock {
        lock::write(&pipeline, &outcome.ends, cache, json)?;
    }
    locked.map_or(Ok(()), |locked| lock::after(&locked, &pipeline, &outcome.ends, cache, json))
}

fn show(ends: &[StageEnd], flags: &Flags) -> Result<()> {
    if !flags.json {
        print(&table::summary(ends))?;
        print_log(ends);
    }
    Ok(())
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
    warn_of(pipeline);
    if flags.dry_run {
        let store = flags.remote.store_for_plans(cache)?;
        print(&super::plan::planned(pipeline, &store, &selected, forced)?.text())?;
        warn(store.remote());
        return Ok(None);
    }
    for text in doubts(pipeline, &selected) {
        let _ = writeln!(std::io::stderr().lock(), "warning: {text}");
    }
    let store = flags.remote.store(cache)?;
    let stop = stop()?;
    let patience = Patience { timeout: flags.timeout, retries: flags.retries, backoff: None };
    let options = Options { selected, forced, keep_going: flags.keep_going, limits: flags.limits(), patience };
    let launcher = Launcher::this_program()?;
    let mut listener = flags.listener(&store, listeners)?;
    schedule::run(pipeline, &store, &launcher, options, stop, &mut listener).map(Some)
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
