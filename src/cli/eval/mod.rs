//! `erw eval`: metrics of files that any tool made, without a pipeline file. It writes the pipeline that says what is to
//! be computed, of the kinds that pipelines use, and runs it through the same runner and cache. So results are cached,
//! an interrupted extraction of features resumes, and another metric reuses the statistics of both sides.
//!
//! What is given on the command line is told apart in `given`, the pipeline is written in `pipeline`, the answer in
//! `answer`. None of them computes anything.

mod answer;
mod enough;
pub mod execute;
mod features;
mod given;
mod images;
mod network;
mod pipeline;
pub mod place;
mod statistics;

use erw_base::error::Result;
use erw_runner::kind::Registry;
use place::Workspace;
use std::path::Path;

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

pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    use images::MetricSet;
    let place = Workspace { cache, registry };
    match &args.command {
        Command::Fid(args) => images::run(MetricSet::Fid, args, place),
        Command::Sfid(args) => images::run(MetricSet::Sfid, args, place),
        Command::Is(args) => images::run_alone(args, place),
        Command::Pr(args) => images::run(MetricSet::PrecisionRecall, args, place),
        Command::Kid(args) => images::run(MetricSet::Kid, args, place),
        Command::Fd(args) => images::run(MetricSet::Fd, args, place),
        Command::Cmmd(args) => images::run(MetricSet::Cmmd, args, place),
        Command::All(args) => images::run(MetricSet::All, args, place),
        Command::Stats(args) => images::run_stats(args, place),
        Command::Cknna(args) => features::run("cknna", args, place),
        Command::Cka(args) => features::run("cka", args, place),
        Command::MutualKnn(args) => features::run("mutual-knn", args, place),
    }
}
