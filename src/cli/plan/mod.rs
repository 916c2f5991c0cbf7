//! `erw plan`: what would run, why, and how long it will take, estimated from earlier runs; or what
//! changed since a git revision.

mod changed;
mod gpu_memory;
mod gpu_needed;
pub mod jobs;
pub mod line;
mod status;

pub use status::planned;
use status::planned_part;

use super::common::job_args::JobArgs;
use super::common::pipeline_args::{PipelineArgs, tell_of_link, warn_of};
use super::common::print;
use super::common::remote_args::{RemoteArgs, warn};
use erw_base::error::{ErrorKind, Result};
use erw_runner::cache::Cache;
use erw_runner::cache::store::Store;
use erw_runner::exec::up_to_date::{self, Part, Recalled};
use erw_runner::kind::Registry;
use erw_runner::pipeline::graph::Pipeline;
use erw_runner::pipeline::targets::select;
use erw_runner::settings::Settings;
use line::Planned;
use std::mem::ManuallyDrop;
use std::path::Path;

/// The exit code with `--exit-code` if there is work to do.
const WORK: i32 = 5;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Only these stages and their dependencies
    pub targets: Vec<String>,
    /// Plan this stage as if it were not cached
    #[arg(long, value_name = "STAGE")]
    pub force: Vec<String>,
    /// Compare with the pipeline and its files at this git revision instead of with the cache
    #[arg(long, value_name = "REVISION", conflicts_with = "force")]
    pub since: Option<String>,
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
    /// Plan the stages of all trials of the sweep
    #[arg(long, conflicts_with = "since")]
    pub sweep: bool,
    /// Exit with 5 if there is work to do, 0 if there is none, and 2 if a file or folder is missing
    #[arg(long)]
    pub exit_code: bool,
    #[command(flatten)]
    pub job: JobArgs,
    #[command(flatten)]
    pub remote: RemoteArgs,
    #[arg(skip)]
    pub settings: Settings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Table for terminals
    Text,
    /// One JSON object
    Json,
    /// Markdown table, for the summary of a CI job
    Markdown,
}

pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<i32> {
    // A broken pipeline leaves no cache folder behind.
    let early = Store::is_at(cache).then(|| args.remote.cache_for_plans(cache)).transpose()?;
    if let Some(cache) = &early
        && let Some((planned, part)) = recalled(args, cache, registry)
    {
        tell_of_link(&args.pipeline.pipeline);
        let Some(part) = part else {
            warn(cache.remote.as_ref());
            return print(&planned.text()).map(|()| 0);
        };
        warn_of(&part);
        return finish(planned, &part, args, cache);
    }
    // The process ends after printing, so the memory of a large pipeline is not freed piece by
    // piece.
    let pipeline = ManuallyDrop::new(match args.sweep {
        true => args.pipeline.load_or_sweep(true, registry)?,
        false => args.pipeline.load_for(&args.targets, registry, cache)?,
    });
    tell_of_link(&args.pipeline.pipeline);
    warn_of(&pipeline);
    let selected = select(&pipeline, &args.targets)?;
    let forced = super::common::pipeline_args::forced(&pipeline, &args.force)?;
    let cache = early.map_or_else(|| args.remote.cache_for_plans(cache), Ok)?;
    let planned = match &args.since {
        None => planned(&pipeline, (&cache).into(), &selected, forced)?,
        Some(revision) => {
            let known = (registry, &args.pipeline.overrides());
            changed::planned(&pipeline, &cache, &selected, revision, known)?
        }
    };
    finish(planned, &pipeline, args, &cache)
}

/// Prints a plan. Returns the exit code.
fn finish(mut planned: Planned, pipeline: &Pipeline, args: &Args, cache: &Cache) -> Result<i32> {
    warn(cache.remote.as_ref());
    jobs::add(&mut planned, pipeline, &args.settings);
    print(&match args.format {
        Format::Text => planned.text(),
        Format::Json => planned.json(),
        Format::Markdown => planned.markdown(),
    })?;
    jobs::check(&planned, pipeline, &args.settings)?;
    gpu_needed::check(&planned, pipeline, &args.settings)?;
    gpu_memory::check(&planned, pipeline, &args.settings)?;
    let work = planned.stages.iter().any(|line| line.stale);
    let lacking = planned.stages.iter().any(|line| line.verdict == "missing");
    Ok(match args.exit_code {
        // The exit code that a run would have.
        true if lacking => ErrorKind::Usage.exit_code(),
        true if work => WORK,
        _ => 0,
    })
}

/// The plan of a large pipeline in which most is cached, as a run would know it, and what of the
/// pipeline was read for it, if not all is cached. An error is one only if the whole has it.
fn recalled(args: &Args, cache: &Cache, registry: Registry) -> Option<(Planned, Option<Pipeline>)> {
    let is_plain = args.format == Format::Text && args.force.is_empty() && args.since.is_none() && !args.sweep;
    let query = is_plain.then(|| args.pipeline.query(&args.targets, registry)).flatten()?;
    match up_to_date::look(&cache.store, query)? {
        Recalled::All(answer) => {
            let planned = Planned::all_cached(answer.pipeline(), &answer.stages()?, registry)?;
            Some((planned, None))
        }
        Recalled::Most(partial) => {
            let file = &args.pipeline.pipeline;
            let part = partial.read(file, registry, &args.pipeline.overrides(), None)?;
            let stages = partial.stages(&part)?;
            let Part { pipeline, selected, settled } = part;
            let planned = planned_part(&pipeline, cache.into(), &selected, settled.known, &stages, registry).ok()??;
            Some((planned, Some(pipeline)))
        }
    }
}
