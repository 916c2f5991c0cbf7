//! The subcommands, in the order of the help. Each is a file or a folder beside this one.

use super::common::remote_args;
use super::{
    cache, compare, completions, eval, explain, export, graph, log, logs, metrics, plan, plot, run, schema, show,
    stages, sweep, verify, weights, why, worker,
};

pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    a stage failed, or a result is not the locked or the stored one
  2    bad pipeline or usage, or this machine allows too little: threads, processes, open files
  3    suspended: put down before its end, goes on when run again
  4    the cache is damaged
  5    with `erw plan --exit-code`: there is work to do
  70   a bug in erw
  130  interrupted (Ctrl-C); 143 terminated (SIGTERM); 129 the terminal was closed (SIGHUP)";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Run what is stale, reuse the rest
    #[command(after_help = EXIT_CODES)]
    Run(run::flags::Args),
    /// Say what would run and why, and run nothing
    Plan(plan::Args),
    /// Say why a stage would run, or what set it apart from the record before it
    Why(why::Args),
    /// Show every value of a stage and where it came from
    Explain(explain::Args),
    /// Show the stages and what flows between them
    Graph(graph::Args),
    /// List stage kinds, or print the manifest of one
    Stages(stages::Args),
    /// Print a JSON Schema of pipeline files, for editors
    Schema(schema::Args),
    /// Run every trial of a pipeline's [sweep] and compare their results
    #[command(after_help = EXIT_CODES)]
    Sweep(sweep::Args),
    /// Print the results of cached stages, and run nothing
    Metrics(metrics::Args),
    /// Measure images or features that any tool made: FID and its kin, CKNNA
    Eval(eval::Args),
    /// Draw the results of a pipeline's [sweep] as curves
    Plot(plot::Args),
    /// Show what differs between two pipelines, trials, revisions or runs: parameters and results
    Compare(compare::Args),
    /// Run stages again beside the cache and compare what they make
    #[command(after_help = EXIT_CODES)]
    Verify(verify::Args),
    /// List the runs of this cache, or the stages of one
    Log(log::Args),
    /// Print what the last attempt at a stage wrote
    Logs(logs::Args),
    /// Say what an artifact was made of, down to the files it all began with
    Show(show::Args),
    /// Look after the cache folder, and share it
    #[command(after_help = remote_args::HELP)]
    Cache(cache::Args),
    /// Take an artifact out of the cache, as a folder for others
    Export(export::Args),
    /// Fetch published weights, convert foreign ones, give ours to the released code
    Weights(weights::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
    /// Run one attempt; started by `erw run`
    #[command(hide = true)]
    Worker(worker::Args),
}
