//! Runs the pipeline that an evaluation is, and tells its errors in the words of the command line.

use super::answer;
use super::pipeline::{self, Ran};
use super::place::Workspace;
use crate::cli::common::remote_args::RemoteArgs;
use crate::cli::run::execute::{execute, print_log};
use crate::cli::run::flags::Flags;
use erw_base::error::{Error, Result};
use erw_runner::pipeline::graph::Pipeline;
use erw_runner::pipeline::targets::select;

/// How it is run and told.
#[derive(Debug, clap::Args)]
pub(crate) struct OutputOptions {
    /// Print one object, for programs; see below for its keys
    #[arg(long)]
    pub(crate) json: bool,
    /// Print lines instead of bars
    #[arg(long)]
    plain: bool,
    /// Threads; results do not depend on them
    #[arg(short, long, value_parser = clap::value_parser!(u32).range(1..))]
    threads: Option<u32>,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Each name where it stands first.
pub(crate) fn each_once<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut once = vec![];
    for name in names {
        if !once.contains(&name) {
            once.push(name);
        }
    }
    once
}

/// Runs a written pipeline. Errors speak of what was given on the command line: stages have the names of its places, and
/// `said` tells what was given there. `gpu` is the one to use, if any.
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
    let outcome = execute(&pipeline, selected, &flags, place.cache, vec![]).map_err(in_words)?;
    let outcome = outcome.ok_or_else(|| Error::internal("an evaluation ran dry"))?;
    if let Some(error) = outcome.error {
        // What was tried to fetch a file stands in the error.
        if !error.message.contains("could not be fetched") {
            print_log(&outcome.ends);
        }
        return Err(in_words(error));
    }
    Ok(Ran { ends: outcome.ends })
}
