//! `erw eval`: metrics of files that any tool made, without a pipeline file. It writes the pipeline that says what is to
//! be computed, of the kinds that pipelines use, and runs it through the same runner and cache. So results are cached,
//! an interrupted extraction of features resumes, and another metric reuses the statistics of both sides.
//!
//! What is given on the command line is told apart in `given`, the pipeline is written in `pipeline`, the answer in
//! `answer`. None of them computes anything.

mod answer;
mod enough;
mod features;
mod given;
mod images;
mod network;
mod pipeline;
mod statistics;

use super::remote::RemoteArgs;
use super::run::{Flags, execute, print_log};
use crate::error::{Error, Result};
use crate::runner::event::StageEnd;
use crate::runner::graph::Pipeline;
use crate::runner::manifest::Registry;
use crate::runner::select::select;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
#[command(after_help = HELP, subcommand_help_heading = "Metrics", subcommand_value_name = "METRIC")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
Examples:
  erw eval fid samples.npz VIRTUAL_imagenet256_labeled.npz
  erw eval all samples/ photos.zip --mode torch-fidelity --json
  erw eval fd samples/ photos/ --limit 10000 --device cuda:0
  erw eval kid pipelines/digits.toml:sample pipelines/digits.toml:held-out \\
      --network pipelines/digits.toml:classifier
  erw eval cknna sit.safetensors dinov2.npy --key block8
  erw eval stats photos/ -o photos-stats.npz

SAMPLES and REFERENCE:
  a folder or a ZIP of images, with or without folders in it; what lies in
  it and is no image, or of a format that is not read, is counted and told
  an npz with images, `arr_0` u8 [N,H,W,3], as the ADM suite takes it, or an
  npy; compressed, channels first and grey are read, other types refused
  as REFERENCE also an npz with published statistics, `mu` and `sigma`
  a folder that `erw export` wrote, the first digits of an artifact's digest,
  or FILE.toml:STAGE for what a stage of a pipeline made

Keys of --json (one object):
  metrics     a number for each metric, by name; null if it is not finite
  samples     given, images; for samples of ours also how they were drawn;
              left_out, counts by reason, where anything was
  reference   given, images; null where published statistics do not say;
              left_out likewise
  network, preparation, mode
              what made the features, and how images came to its size
  warnings    what to know before the number is compared with others
  cached      whether everything was known before
  detail      all that is recorded with the result: settings, digests
Of cknna, cka and mutual-knn `samples` is a number, and `a` and `b` have
given and dim; of stats there are output and images, and no metrics.";

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Fréchet inception distance; in mode adm also sFID, which costs nothing more
    Fid(images::Args),
    /// Fréchet distance of spatial Inception features, as the ADM suite has it
    Sfid(images::Args),
    /// Inception Score
    Is(images::Alone),
    /// Precision and recall by nearest neighbours (Kynkäänniemi et al. 2019)
    Pr(images::Args),
    /// Kernel inception distance
    Kid(images::Args),
    /// FD-DINOv2: Fréchet distance of DINOv2 features, or those of another --network
    Fd(images::Args),
    /// CMMD: maximum mean discrepancy of CLIP embeddings
    Cmmd(images::Args),
    /// All that the tool of the mode prints: in mode adm FID, sFID, Inception Score, precision and recall, and KID
    All(images::Args),
    /// Mean and covariance of a set's features, written as an npz that other tools read
    Stats(images::StatsArgs),
    /// How far two representations agree about which samples are near each other (Huh et al. 2024)
    Cknna(features::Args),
    /// Centred kernel alignment of two representations, linear
    Cka(features::Args),
    /// Share of nearest neighbours that two representations have in common
    MutualKnn(features::Args),
}

/// How it is run and told.
#[derive(Debug, clap::Args)]
struct How {
    /// Print one object, for programs; see below for its keys
    #[arg(long)]
    json: bool,
    /// Print lines instead of bars
    #[arg(long)]
    plain: bool,
    /// Threads; results do not depend on them
    #[arg(short, long, value_parser = clap::value_parser!(u32).range(1..))]
    threads: Option<u32>,
    #[command(flatten)]
    remote: RemoteArgs,
}

pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    use images::Wanted;
    let place = Place { cache, registry };
    match &args.command {
        Command::Fid(args) => images::run(Wanted::Fid, args, place),
        Command::Sfid(args) => images::run(Wanted::Sfid, args, place),
        Command::Is(args) => images::run_alone(args, place),
        Command::Pr(args) => images::run(Wanted::PrecisionRecall, args, place),
        Command::Kid(args) => images::run(Wanted::Kid, args, place),
        Command::Fd(args) => images::run(Wanted::Fd, args, place),
        Command::Cmmd(args) => images::run(Wanted::Cmmd, args, place),
        Command::All(args) => images::run(Wanted::All, args, place),
        Command::Stats(args) => images::run_stats(args, place),
        Command::Cknna(args) => features::run("cknna", args, place),
        Command::Cka(args) => features::run("cka", args, place),
        Command::MutualKnn(args) => features::run("mutual-knn", args, place),
    }
}

/// Each name where it stands first.
fn each_once<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut once = vec![];
    for name in names {
        if !once.contains(&name) {
            once.push(name);
        }
    }
    once
}

/// Where things are kept and what stages can be of.
#[derive(Clone, Copy)]
struct Place<'a> {
    cache: &'a Path,
    registry: Registry,
}

/// What a run of a written pipeline came to.
struct Ran {
    ends: Vec<StageEnd>,
}

impl Ran {
    /// How this stage ended.
    fn end(&self, stage: &str) -> Result<&StageEnd> {
        let end = self.ends.iter().find(|end| end.stage == stage);
        end.ok_or_else(|| Error::internal(format!("stage `{stage}` did not end")))
    }

    /// The folder of the one output of this stage.
    fn output(&self, stage: &str) -> Result<PathBuf> {
        let output = self.end(stage)?.outputs.first();
        output.map(|o| o.path.clone()).ok_or_else(|| Error::internal(format!("stage `{stage}` has no output")))
    }
}

/// Runs a written pipeline. Errors speak of what was given on the command line: stages have the names of its places, and
/// `said` tells what was given there. `gpu` is the one to use, if any.
fn run_pipeline(text: String, said: &[(&str, &str)], gpu: Option<usize>, how: &How, place: Place<'_>) -> Result<Ran> {
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
