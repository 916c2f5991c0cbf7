//! The command line. One file per subcommand: arguments in, calls out.

pub mod cache;
pub mod command;
pub mod common;
pub mod compare;
pub mod completions;
pub mod config;
pub mod eval;
pub mod explain;
pub mod export;
pub mod graph;
pub mod help;
pub mod init;
pub mod jobs;
pub mod log;
pub mod logs;
pub mod man;
pub mod metrics;
pub mod plan;
pub mod plot;
pub mod reference;
pub mod report;
pub mod run;
pub mod schema;
mod setting_defaults;
pub mod settings_schema;
pub mod show;
pub mod site;
mod stage_arguments;
pub mod stages;
pub mod stop;
pub mod sweep;
pub mod sweep_schema;
pub mod verify;
mod version;
pub mod weights;
pub mod why;
pub mod worker;

use clap::{CommandFactory, FromArgMatches, Parser};
use command::{Command, EXIT_CODES};
use erw_base::error::Result;
use erw_base::process;
use erw_report::colour;
use erw_runner::kind::Registry;
use std::path::{Path, PathBuf};

/// Embedded Representation Warmup as a cached, resumable pipeline: from images to FID and CKNNA in
/// one binary
#[derive(Debug, Parser)]
#[command(name = "erw", version = version::text(), after_help = EXIT_CODES, disable_help_subcommand = true)]
struct Cli {
    /// Folder for artifacts, records and unfinished work; default: ERW_CACHE_DIR, otherwise the
    /// setting `cache_dir`, otherwise the nearest `cache` in this folder or its parents
    #[arg(long, global = true, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    cache_dir: Option<PathBuf>,
    /// Profile of the settings; default: ERW_PROFILE. `erw config` shows them
    #[arg(long, global = true, value_name = "PROFILE")]
    profile: Option<String>,
    /// Colour of help and error messages: auto, always or never [default: auto]
    #[arg(long, global = true, value_name = "WHEN", value_parser = ["auto", "always", "never"], hide_possible_values = true)]
    color: Option<String>,
    /// Accepted by every subcommand; those that use it declare it again.
    #[command(flatten)]
    remote: common::remote_args::RemoteArgs,
    #[command(subcommand)]
    command: Command,
}

/// The definition of the command line.
pub fn command() -> clap::Command {
    help::extended(Cli::command())
}

/// What the line says of colour, before it is understood: what is wrong with it is told in colour,
/// too.
fn colour_on_line() -> Option<String> {
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let stated = common::pipeline_args::values_of("--color", words.iter().map(String::as_str));
    stated.into_iter().next_back().or_else(|| std::env::var("ERW_COLOUR").ok())
}

/// Whether this process is a worker. This is needed before the command line is parsed.
pub fn trains() -> bool {
    std::env::args_os().nth(1).is_some_and(|first| first == "worker")
}

/// Runs the command line with these stage kinds and returns the exit code.
pub fn main(registry: Registry) -> Result<i32> {
    if completions::answer(Cli::command, registry) {
        return Ok(0);
    }
    if let Some(word) = colour_on_line() {
        colour::choose(&word);
    }
    let mut cli = Cli::from_arg_matches(&command().get_matches()).unwrap_or_else(|e| e.exit());
    stage_arguments::settle(&mut cli.command)?;
    match &cli.command {
        // These use neither settings nor the cache. A worker finds everything in its job.
        Command::Worker(args) => return worker::run(args, registry),
        Command::Site(site::Args { command: site::Command::Probe(args) }) => return site::probe::run(args).map(|()| 0),
        Command::Stages(args) => return stages::run(args, registry).map(|()| 0),
        Command::Init(args) => return init::run(args, registry).map(|()| 0),
        Command::Help(args) => return help::run(args, command(), registry).map(|()| 0),
        Command::Completions(args) => return completions::run(args).map(|()| 0),
        Command::Man(args) => return man::run(args, command()).map(|()| 0),
        Command::Config(config::Args { command: config::Command::Path(args) }) => {
            return config::path(args).map(|()| 0);
        }
        _ => {}
    }
    let globals = setting_defaults::Globals {
        profile: cli.profile.as_deref(),
        cache_dir: cli.cache_dir.as_deref(),
        remote: cli.remote.remote.as_deref(),
        colour: cli.color.as_deref(),
    };
    let site = setting_defaults::of(&cli.command, globals, registry)?;
    setting_defaults::apply(&site);
    setting_defaults::complete(&mut cli.command, &site);
    let cache = &setting_defaults::cache_dir(&cli.command, globals, &site);
    process::build_pool(false)?;
    match &cli.command {
        Command::Run(args) => {
            reported(&args.flags, &args.pipeline, false, cache, registry, || run::run(args, cache, registry))?
        }
        Command::Plan(args) => return plan::run(args, cache, registry),
        Command::Why(args) => why::run(args, cache, registry)?,
        Command::Explain(args) => explain::run(args, cache, registry)?,
        Command::Graph(args) => graph::run(args, cache, registry)?,
        Command::Schema(args) => schema::run(args, registry)?,
        Command::Sweep(args) => {
            reported(&args.flags, &args.pipeline, true, cache, registry, || sweep::run(args, cache, registry))?
        }
        Command::Metrics(args) => metrics::run(args, cache, registry)?,
        Command::Eval(args) => eval::run(args, cache, registry)?,
        Command::Plot(args) => plot::run(args, cache, registry)?,
        Command::Report(args) => report::run(args, cache, registry)?,
        Command::Compare(args) => compare::run(args, cache, registry)?,
        Command::Verify(args) => verify::run(args, cache, registry)?,
        Command::Log(args) => log::run(args, cache)?,
        Command::Logs(args) => logs::run(args, cache, registry)?,
        Command::Jobs(args) => jobs::run(args, cache)?,
        Command::Stop(args) => stop::run(args, cache)?,
        Command::Site(args) => site::run(args, cache, &site.settings)?,
        Command::Show(args) => show::run(args, cache, registry)?,
        Command::Cache(args) => cache::run(args, cache, registry)?,
        Command::Export(args) => export::run(args, cache, registry)?,
        Command::Weights(args) => weights::run(args, cache, registry)?,
        Command::Config(args) => config::run(args, cli.cache_dir.as_deref(), &site)?,
        Command::Init(_)
        | Command::Stages(_)
        | Command::Completions(_)
        | Command::Help(_)
        | Command::Man(_)
        | Command::Worker(_) => {}
    }
    Ok(0)
}

/// Runs, then writes the report if one was requested, also of a run that failed.
fn reported(
    flags: &run::flags::Flags,
    pipeline: &common::pipeline_args::PipelineArgs,
    sweep: bool,
    cache: &Path,
    registry: Registry,
    run: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let Some(file) = &flags.report else { return run() };
    report::check_name(file)?;
    let result = run();
    match (report::after_run(file, pipeline, sweep, cache, registry), result) {
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(failed)) => {
            // A pipeline that cannot be read is told once.
            if error.message != failed.message {
                erw_report::diagnostic::print(&error);
            }
            Err(failed)
        }
        // Standard output is that of the events.
        (Ok(_), result) if flags.json => result,
        (Ok(size), result) => result.and(common::print(&report::written(file, size))),
    }
}
