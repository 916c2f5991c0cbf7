//! `erw plan`: what would run, why, and how long it will take, estimated from earlier runs; or what
//! changed since a git revision.

mod changed;
pub mod jobs;
pub mod line;
mod status;

pub use status::planned;

use super::common::job_args::JobArgs;
use super::common::pipeline_args::{PipelineArgs, tell_of_link, warn_of};
use super::common::print;
use super::common::remote_args::{RemoteArgs, warn};
use erw_base::error::{ErrorKind, Result};
use erw_runner::kind::Registry;
use erw_runner::pipeline::targets::select;
use erw_runner::settings::Settings;
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
    let cache = args.remote.cache_for_plans(cache)?;
    let mut planned = match &args.since {
        None => planned(&pipeline, (&cache).into(), &selected, forced)?,
        Some(revision) => {
            let known = (registry, &args.pipeline.overrides());
            changed::planned(&pipeline, &cache, &selected, revision, known)?
        }
    };
    warn(cache.remote.as_ref());
    jobs::add(&mut planned, &pipeline, &args.settings);
    print(&match args.format {
        Format::Text => planned.text(),
        Format::Json => planned.json(),
        Format::Markdown => planned.markdown(),
    })?;
    jobs::check(&planned, &pipeline, &args.settings)?;
    let work = planned.stages.iter().any(|line| line.stale);
    let lacking = planned.stages.iter().any(|line| line.verdict == "missing");
    Ok(match args.exit_code {
        // The exit code that a run would have.
        true if lacking => ErrorKind::Usage.exit_code(),
        true if work => WORK,
        _ => 0,
    })
}
