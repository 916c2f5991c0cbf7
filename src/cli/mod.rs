//! The command line. One file per subcommand: arguments in, calls out.

pub mod cache;
pub mod command;
pub mod common;
pub mod compare;
pub mod completions;
pub mod eval;
pub mod explain;
pub mod export;
pub mod graph;
pub mod log;
pub mod logs;
pub mod metrics;
pub mod plan;
pub mod plot;
pub mod reference;
pub mod run;
pub mod schema;
pub mod show;
mod stage_arguments;
pub mod stages;
pub mod sweep;
pub mod verify;
pub mod weights;
pub mod why;
pub mod worker;

use clap::{CommandFactory, Parser};
use command::{Command, EXIT_CODES};
use erw_base::error::Result;
use erw_base::process;
use erw_runner::kind::Registry;
use std::path::PathBuf;

/// Run pipelines of cached, resumable stages, from images to FID and CKNNA
#[derive(Debug, Parser)]
#[command(name = "erw", version, about, after_help = EXIT_CODES, disable_help_subcommand = true)]
struct Cli {
    /// Folder for artifacts, records and unfinished work; default: ERW_CACHE_DIR, otherwise the
    /// nearest `cache` in this folder or its parents
    #[arg(long, global = true, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    cache_dir: Option<PathBuf>,
    /// Accepted by every subcommand; those that use it declare it again.
    #[command(flatten)]
    _remote: common::remote_args::RemoteArgs,
    #[command(subcommand)]
    command: Command,
}

/// The definition of the command line.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Whether this process is a worker. This is needed before the command line is parsed.
pub fn trains() -> bool {
    std::env::args_os().nth(1).is_some_and(|first| first == "worker")
}

/// Runs the command line with these stage kinds and returns the exit code.
pub fn main(registry: Registry) -> Result<i32> {
    let mut cli = Cli::parse();
    stage_arguments::settle(&mut cli.command)?;
    let cache = &match &cli.command {
        // These do not use the cache.
        Command::Stages(_) | Command::Schema(_) | Command::Completions(_) | Command::Worker(_) => PathBuf::new(),
        _ => common::cache_dir::cache_dir(cli.cache_dir.as_deref()),
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
