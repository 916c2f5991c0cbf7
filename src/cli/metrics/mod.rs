//! `erw metrics`: the recorded results of a pipeline with its current values. Runs nothing.

pub mod bands;
pub mod steps;

use super::common::pipeline_args::PipelineArgs;
use super::common::print;
use super::sweep;
use super::sweep::table_options::TableArgs;
use erw_base::error::Result;
use erw_report::sheet::{Cell, Column, Format, Sheet};
use erw_runner::cache::action_cache::Record;
use erw_runner::cache::store::Store;
use erw_runner::exec::metrics_json;
use erw_runner::journal::attempts::Attempts;
use erw_runner::kind::Registry;
use erw_runner::pipeline::command;
use erw_runner::pipeline::graph::{Pipeline, StageId};
use erw_runner::pipeline::targets::{named, select};
use erw_runner::plan::reason::Reason;
use erw_runner::plan::{CacheChecker, Verdict, plan};
use erw_runner::text::suggest;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Only these stages
    pub stages: Vec<String>,
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
    /// Show the results of the sweep's trials; `erw sweep --table` can also sort and filter
    #[arg(long, conflicts_with = "stages")]
    pub sweep: bool,
    /// Show metrics by training step, also of unfinished stages, instead of results
    #[arg(long, conflicts_with = "sweep")]
    pub steps: bool,
    /// Show reference curves: metrics at some steps, with mean and standard deviation over the
    /// trials of a sweep over seeds. As CSV they are a file that `erw compare` takes
    #[arg(long, conflicts_with_all = ["sweep", "steps"])]
    pub bands: bool,
}

pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    if args.sweep {
        let plan = args.pipeline.sweep(registry)?;
        let plain = TableArgs { over: vec![], each: false, sort: None, filter: vec![], format: args.format };
        return sweep::print_cached(&plan, cache, &plain);
    }
    if args.bands {
        let sheet = bands::sheet(&args.pipeline.sweep(registry)?, &Store::open(cache)?, &args.stages)?;
        return print(&sheet.render(args.format));
    }
    let pipeline = args.pipeline.load_for(&args.stages, registry, cache)?;
    if args.steps {
        let sheet = steps::sheet(&pipeline, &Store::open(cache)?, &args.stages)?;
        return print(&sheet.render(args.format));
    }
    let (sheet, notes) = sheet(&pipeline, &Store::open(cache)?, &args.stages)?;
    match (args.format, sheet.rows.is_empty()) {
        (Format::Text, true) => print("all stages are cached, and none has results\n")?,
        (format, _) => print(&sheet.render(format))?,
    }
    // Not to standard output, which programs read.
    let mut err = std::io::stderr().lock();
    notes.iter().for_each(|note| drop(writeln!(err, "note: {note}")));
    Ok(())
}

/// Why a program's outputs of type `metrics` give no results, or fewer than expected.
pub fn remarks(store: &Store, record: &Record) -> Vec<String> {
    let metrics =
        record.outputs.iter().filter(|(_, o)| o.ty == erw_runner::kind::field::TYPE && record.kind == command::NAME);
    let paths = metrics.map(|(name, o)| (name, store.object(&o.measured.digest))).filter(|(_, path)| path.exists());
    paths.filter_map(|(name, path)| metrics_json::of_output(&path).told(name)).collect()
}

/// A row for each result and for each stage without results, and notes.
fn sheet(pipeline: &Pipeline, store: &Store, names: &[String]) -> Result<(Sheet, Vec<String>)> {
    let selected = select(pipeline, names)?;
    let asked: BTreeSet<StageId> = names.iter().flat_map(|n| named(pipeline, n)).collect();
    let (mut rows, mut notes) = (vec![], vec![]);
    let checker = CacheChecker::new(pipeline, store, BTreeSet::new());
    let verdicts = plan(&checker, &selected)?;
    let has_new = verdicts.iter().any(|(_, verdict)| never_ran(verdict));
    let attempts = if has_new { Attempts::read(store)? } else { Attempts::default() };
    for (id, verdict) in verdicts {
        if !asked.is_empty() && !asked.contains(&id) {
            continue;
        }
        let name = &pipeline.stage(id).name;
        if let Verdict::Cached(record) = &verdict {
            notes.extend(remarks(store, record).into_iter().map(|text| format!("stage `{name}`: {text}")));
        }
        let stage = Cell::Text(name.clone());
        let results = match &verdict {
            Verdict::Cached(record) => record.results.as_slice(),
            _ => &[],
        };
        let key = checker.key_of(id).filter(|_| never_ran(&verdict));
        let ended = key.and_then(|key| attempts.ended(&key.to_string()));
        let says = Cell::Text(ended.unwrap_or_else(|| standing(pipeline, &verdict)));
        // A cached stage without results is listed only if it was named.
        if results.is_empty() && (!matches!(verdict, Verdict::Cached(_)) || asked.contains(&id)) {
            rows.push(vec![stage.clone(), Cell::None, Cell::None, says.clone()]);
        }
        let row = |r: &erw_runner::event::Measure| {
            vec![stage.clone(), Cell::Text(r.name.clone()), Cell::Number(r.value), says.clone()]
        };
        rows.extend(results.iter().map(row));
    }
    let columns = ["stage", "metric", "value", "status"].map(Column::new).to_vec();
    Ok((Sheet { columns, rows, grouped: true }, notes))
}

fn never_ran(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Run(reasons) if reasons == &[Reason::NeverRan])
}

/// The status of a stage, in a few words.
pub fn standing(pipeline: &Pipeline, verdict: &Verdict) -> String {
    match verdict {
        Verdict::Cached(_) => "cached".into(),
        Verdict::Run(_) if never_ran(verdict) => "never ran".into(),
        Verdict::Run(reasons) => {
            format!("stale: {}", reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        }
        Verdict::Waiting(on) => {
            let names = on.iter().map(|id| pipeline.stage(*id).name.as_str());
            format!("waits for {}", suggest::ticked(names))
        }
        Verdict::Missing(missing) => {
            let params = missing.iter().map(|m| m.param.as_str());
            format!("missing: {}", suggest::ticked(params))
        }
    }
}
