//! The command line. One file per subcommand: arguments in, calls out.

pub mod cache;
mod cache_dir;
pub mod common;
pub mod compare;
pub mod completions;
mod conditions;
mod curves;
pub mod eval;
pub mod explain;
pub mod export;
pub mod graph;
pub mod lock;
pub mod log;
pub mod logs;
pub mod metrics;
pub mod plan;
pub mod plot;
pub mod reference;
pub mod remote;
pub mod run;
pub mod schema;
mod settle;
pub mod show;
mod sides;
mod signals;
pub mod stages;
pub mod sweep;
mod trials;
pub mod verify;
pub mod watch;
pub mod weights;
pub mod why;
pub mod worker;

use crate::error::Result;
use crate::process;
use crate::runner::manifest::Registry;
use clap::{CommandFactory, Parser};
use std::path::PathBuf;

/// Runs pipelines of cached, resumable stages: from images to FID and CKNNA.
#[derive(Debug, Parser)]
#[command(name = "erw", version, about, after_help = EXIT_CODES, disable_help_subcommand = true)]
struct Cli {
    /// Where artifacts, records and work under way are kept; without it ERW_CACHE_DIR, or the nearest `cache` that is
    /// here or above in the project
    #[arg(long, global = true, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    cache_dir: Option<PathBuf>,
    /// Told to every subcommand; those that have a use for it state it too.
    #[command(flatten)]
    _remote: remote::RemoteArgs,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
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
enum Command {
    /// Run what is stale, reuse the rest
    #[command(after_help = EXIT_CODES)]
    Run(run::Args),
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
    #[command(after_help = remote::HELP)]
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

/// The definition of the command line.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Whether this process is to do the work of a stage. To be known before the command line is read in full.
pub fn trains() -> bool {
    std::env::args_os().nth(1).is_some_and(|first| first == "worker")
}

/// Does what the command line says with these stage kinds. The number is the exit code.
pub fn main(registry: Registry) -> Result<i32> {
    let mut cli = Cli::parse();
    settle::settle(&mut cli.command)?;
    let cache = &match &cli.command {
        // These have no use for it.
        Command::Stages(_) | Command::Schema(_) | Command::Completions(_) | Command::Worker(_) => PathBuf::new(),
        _ => cache_dir::cache_dir(cli.cache_dir.as_deref()),
    };
    if !matches!(cli.command, Command::Worker(_)) {
        process::build_pool(false)?;
    }
    match &cli.command {
        Command::Run(args) => run::run(args, cache, registry)?,
        Command::Plan(args) => return plan::run(args, cache, registry),
        Command::Why(args) => why::run(args, cache, registry)?,
        Command::Explain(args) => explain::run(args, cache, registry)?,
        Command::Graph(args) => graph::run(args, cache, registry)?,
        Command::Stages(args) => stages::run(args, registry)?,
        Command::Schema(args) => schema::run(args, registry)?,
        Command::Sweep(args) => sweep::run(args, cache, registry)?,
        Command::Metrics(args) => metrics::run(args, cache, registry)?,
        Command::Eval(args) => eval::run(args, cache, registry)?,
        Command::Plot(args) => plot::run(args, cache, registry)?,
        Command::Compare(args) => compare::run(args, cache, registry)?,
        Command::Verify(args) => verify::run(args, cache, registry)?,
        Command::Log(args) => log::run(args, cache)?,
        Command::Logs(args) => logs::run(args, cache, registry)?,
        Command::Show(args) => show::run(args, cache, registry)?,
        Command::Cache(args) => cache::run(args, cache, registry)?,
        Command::Export(args) => export::run(args, cache, registry)?,
        Command::Weights(args) => weights::run(args, cache, registry)?,
        Command::Completions(args) => completions::run(args, &mut Cli::command())?,
        Command::Worker(args) => return worker::run(args, registry),
    }
    Ok(0)
}
