//! Runs the pipeline of an evaluation and translates its errors to the command line.

use super::answer;
use super::pipeline::{self, Ran};
use super::workspace::Workspace;
use crate::common::remote_args::RemoteArgs;
use crate::run::execute::{execute, print_log};
use crate::run::flags::Flags;
use erw_base::error::{Error, Result};
use erw_fetch::library::NOT_FETCHED;
use erw_runner::exec::scheduler::Settled;
use erw_runner::pipeline::graph::Pipeline;
use erw_runner::pipeline::targets::select;

/// How the evaluation is run and printed.
#[derive(Debug, clap::Args)]
pub(crate) struct OutputOptions {
    /// Print one JSON object; `erw eval --help` lists its keys
    #[arg(long)]
    pub(crate) json: bool,
    /// Print lines instead of progress bars
    #[arg(long)]
    pub(crate) plain: bool,
    /// Number of threads; results do not depend on it
    #[arg(short, long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) threads: Option<u32>,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

/// The names without repetitions.
pub(crate) fn each_once<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut once = vec![];
    for name in names {
        if !once.contains(&name) {
            once.push(name);
        }
    }
    once
}

/// Runs a written pipeline. Errors are translated to the command line: stages have the names of its
/// arguments, and `said` has their values. `gpu` is the index of the GPU to use, if any.
pub(crate) fn run_pipeline(
    text: String,
    said: &[(&str, &str)],
    gpu: Option<usize>,
    how: &OutputOptions,
    place: Workspace<'_>,
) -> Result<Ran> {
    let in_words = |e: Error| answer::in_words_of_the_command_line(e, said);
    let pipeline = Pipeline::of_text(pipeline::FILE, text, place.registry).map_err(in_words)?;
    let flags = Flags { plain: how.plain, threads: how.threads, remote: how.remote.clone(), gpu, ..Flags::default() };
    let selected = select(&pipeline, &[])?;
    let outcome = execute(&pipeline, selected, Settled::default(), &flags, place.cache, vec![]).map_err(in_words)?;
    let outcome = outcome.ok_or_else(|| Error::internal("an evaluation was a dry run"))?;
    if let Some(error) = outcome.error {
        // The error of a download already says what was tried.
        if !error.message.contains(NOT_FETCHED) {
            print_log(&outcome.ends);
        }
        return Err(in_words(error));
    }
    Ok(Ran { ends: outcome.ends })
}
