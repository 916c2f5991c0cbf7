//! The subcommands, in the order of the help. Each is a file or a folder beside this one.

use super::common::remote_args;
use super::{
    cache, compare, completions, config, eval, explain, export, graph, help, init, jobs, log, logs, man, metrics, plan,
    plot, report, run, schema, show, site, stages, stop, sweep, verify, weights, why, worker,
};

pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    success
  1    a stage failed, or a result differs from the lock file or the cache
  2    bad pipeline or arguments, or a limit of this machine is too low
       (threads, processes, open files)
  3    suspended at a checkpoint; rerun to resume
  4    the cache is damaged
  5    `erw plan --exit-code`: there is work to do
  70   a bug in erw
  130  interrupted (Ctrl-C); 143: terminated (SIGTERM); 129: terminal closed
       (SIGHUP); rerun to resume";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Write a pipeline to begin with: the quick start, or one for your own images
    Init(init::Args),
    /// Run stale stages and take the rest from the cache
    #[command(after_help = EXIT_CODES)]
    Run(run::flags::Args),
    /// Show what would run and why, without running it
    Plan(plan::Args),
    /// Explain why a stage is stale, or what changed since its previous result
    Why(why::Args),
    /// Show every value of a stage and where it is set
    Explain(explain::Args),
    /// Show the stages and their connections
    Graph(graph::Args),
    /// List stage kinds, or print the manifest of one
    Stages(stages::Args),
    /// Print a JSON Schema of pipeline files or of settings, for editors
    Schema(schema::Args),
    /// Run all trials of a sweep and compare their results
    #[command(after_help = EXIT_CODES)]
    Sweep(Box<sweep::Args>),
    /// Print the results of cached stages, without running anything
    Metrics(metrics::Args),
    /// Evaluate images or features from any tool: FID and related metrics, CKNNA
    Eval(eval::Args),
    /// Plot the results of a sweep as curves
    Plot(plot::Args),
    /// Write an HTML page of a pipeline, a sweep or a run: results, pictures, curves, costs
    Report(report::Args),
    /// Show how two pipelines, trials, revisions or runs differ in parameters and results
    Compare(compare::Args),
    /// Run cached stages again and compare their outputs with the cache
    #[command(after_help = EXIT_CODES)]
    Verify(verify::Args),
    /// List past runs, or the stages of one run
    Log(log::Args),
    /// Print the log of a stage's last attempt
    Logs(logs::Args),
    /// List what is queued and runs, also of runs that are gone
    Jobs(jobs::Args),
    /// Ask what runs to save a checkpoint and stop, from any host that sees the cache
    Stop(stop::Args),
    /// Show what an artifact was made from, back to the original files
    Show(show::Args),
    /// Inspect, clean up and share the cache
    #[command(after_help = remote_args::HELP)]
    Cache(cache::Args),
    /// Copy an artifact from the cache to a folder
    Export(export::Args),
    /// Fetch published weights, import and export weight files
    Weights(weights::Args),
    /// Show the settings of this machine, user and project, and where they come from
    Config(config::Args),
    /// Check whether jobs of this site can use this cache
    Site(site::Args),
    /// Print a shell completion script
    Completions(completions::Args),
    /// Write the man pages
    Man(man::Args),
    /// Print the help of a subcommand, or the manifest of a stage kind
    Help(help::Args),
    /// Run one attempt; started by `erw run`
    #[command(hide = true)]
    Worker(worker::Args),
}
