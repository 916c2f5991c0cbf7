//! The arguments of `erw sweep`.

use super::search::args::SearchArgs;
use super::table_options::TableArgs;
use crate::common::pipeline_args::PipelineArgs;
use crate::run::flags::Flags;

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
    #[command(flatten)]
    pub search: SearchArgs,
    /// Print the table of cached results, without running anything
    #[arg(long, conflicts_with_all = ["json", "dry_run", "force"])]
    pub table: bool,
    /// Accepted only to explain that a sweep has no lock file.
    #[arg(long, hide = true)]
    pub(super) lock: bool,
    #[arg(long, hide = true)]
    pub(super) locked: bool,
    #[command(flatten)]
    pub options: TableArgs,
    #[command(flatten)]
    pub flags: Flags,
}
