//! `erw verify PIPELINE [STAGES]`: runs cached stages again, outside of the cache, and compares
//! their outputs.

use super::common::pipeline_args::PipelineArgs;
use super::common::signals::stop;
use super::common::{columns, json, print};
use super::run::flags::Flags;
use super::run::lock::says;
use erw_base::error::{Error, ErrorKind, Result};
use erw_report::Style;
use erw_report::text::duration;
use erw_runner::cache::action_cache::Record;
use erw_runner::cache::store::Store;
use erw_runner::event::{Event, EventKind, Listener, StageState};
use erw_runner::exec::launch::local::Local;
use erw_runner::exec::worker_program::WorkerProgram;
use erw_runner::kind::Registry;
use erw_runner::pipeline::graph::{Pipeline, StageId};
use erw_runner::pipeline::targets::{named, select};
use erw_runner::plan::{CacheChecker, Verdict, plan};
use erw_runner::repro::compare::Agreement;
use erw_runner::repro::verify::{Bench, Verified};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Only these stages; default: all
    pub stages: Vec<String>,
    /// Threads of a stage; results do not depend on them
    #[arg(short, long, value_parser = clap::value_parser!(u32).range(1..))]
    pub threads: Option<u32>,
    /// Maximum number of GPUs; 0 runs stages that request GPUs on the CPU
    #[arg(long)]
    pub gpus: Option<usize>,
    /// Print a JSON list
    #[arg(long)]
    pub json: bool,
}

pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    let pipeline = args.pipeline.load_for(&args.stages, registry, cache)?;
    let store = Store::open(cache)?;
    let needed = select(&pipeline, &args.stages)?;
    let records = records(&pipeline, &store, &needed)?;
    let chosen: Vec<StageId> = match args.stages.is_empty() {
        true => needed,
        false => {
            let named: BTreeSet<StageId> = args.stages.iter().flat_map(|name| named(&pipeline, name)).collect();
            named.into_iter().collect()
        }
    };
    let stop = stop()?;
    let flags = Flags { threads: args.threads, gpus: args.gpus, ..Flags::default() };
    let launcher = Local { worker: WorkerProgram::this()? };
    let bench = Bench { pipeline: &pipeline, store: &store, launcher: &launcher, limits: flags.limits(), stop };
    let mut all = vec![];
    for id in chosen {
        let mut listener = WithoutCached(erw_report::listener(Style::Auto));
        all.push((pipeline.stage(id).name.clone(), bench.verify(id, &records, &mut listener)?));
    }
    print(&if args.json { objects(&all)? } else { text(&all) })?;
    verdict(&all)
}

/// Passes on all events except those of cached stages: of a verified stage, all dependencies are
/// cached.
struct WithoutCached(Box<dyn Listener>);

impl Listener for WithoutCached {
    fn event(&mut self, event: &Event) {
        if !matches!(&event.what, EventKind::Ended(end) if end.state == StageState::Cached) {
            self.0.event(event);
        }
    }
}

/// The records of the stages and their dependencies. A stale stage is an error, because there is
/// nothing to compare with.
fn records(pipeline: &Pipeline, store: &Store, needed: &[StageId]) -> Result<BTreeMap<StageId, Record>> {
    let checker = CacheChecker::new(pipeline, store, BTreeSet::new());
    let mut records = BTreeMap::new();
    for (id, verdict) in plan(&checker, needed)? {
        let Verdict::Cached(record) = verdict else {
            let (name, file) = (&pipeline.stage(id).name, pipeline.file.display());
            let error = Error::usage(format!("stage `{name}` is stale, so there is nothing to verify"));
            return Err(error.hint(format!("run `erw run {file}` first; `erw why {file} {name}` explains why")));
        };
        records.insert(id, *record);
    }
    Ok(records)
}

fn text(all: &[(String, Verified)]) -> String {
    let mut rows = vec![];
    for (stage, verified) in all {
        let mut says = says(&verified.agreement).into_iter();
        rows.push(vec![stage.clone(), duration(verified.seconds), says.next().unwrap_or_default()]);
        rows.extend(says.map(|more| vec![String::new(), String::new(), more]));
    }
    columns(&rows, "")
}

fn objects(all: &[(String, Verified)]) -> Result<String> {
    let object = |(stage, v): &(String, Verified)| serde_json::json!({ "stage": stage, "seconds": v.seconds, "result": v.agreement });
    json(&all.iter().map(object).collect::<Vec<_>>())
}

fn verdict(all: &[(String, Verified)]) -> Result<()> {
    let differ = all.iter().filter(|(_, v)| matches!(v.agreement, Agreement::Differs { .. }));
    let differ: Vec<&(String, Verified)> = differ.collect();
    let mut err = std::io::stderr().lock();
    for (stage, verified) in differ.iter().filter(|(_, v)| !v.tail.is_empty()) {
        let _ = writeln!(err, "end of the log of `{stage}`:");
        verified.tail.iter().for_each(|line| drop(writeln!(err, "  | {line}")));
    }
    let names: Vec<String> = differ.iter().map(|(stage, _)| format!("`{stage}`")).collect();
    match names.len() {
        0 => Ok(()),
        n => {
            let stages = if n == 1 { "stage" } else { "stages" };
            let text = format!("the new outputs of {stages} {} differ from the cached ones", names.join(", "));
            Err(Error::new(ErrorKind::Stage, text).hint("the cache was not changed"))
        }
    }
}
