//! `erw eval`: metrics of files from any tool, without a pipeline file. It writes a pipeline of the
//! ordinary stage kinds and runs it with the same runner and cache. So results are cached, an
//! interrupted extraction of features resumes, and another metric reuses the statistics of both
//! sides.
//!
//! `input` recognises the arguments, `pipeline` writes the pipeline, `execute` runs it, `answer`
//! formats the results. None of them computes anything.

mod answer;
mod enough;
pub mod execute;
mod features;
mod images;
mod input;
mod network;
mod pipeline;
mod statistics;
pub mod workspace;

use erw_base::error::Result;
use erw_runner::kind::Registry;
use std::path::Path;
use workspace::Workspace;

#[derive(Debug, clap::Args)]
#[command(after_help = HELP, subcommand_help_heading = "Metrics", subcommand_value_name = "METRIC")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
SAMPLES and REFERENCE can be:
  - a folder, ZIP or tar of images, with or without subfolders, or a Parquet
    table of them; files that are not images, or of an unsupported format, are
    counted and reported
  - an npz with images (`arr_0`, u8, [N,H,W,3]) as for the ADM suite, or an npy;
    compressed, channels-first and grey arrays work, floating point does not
  - for REFERENCE also an npz with published statistics (`mu` and `sigma`)
  - a folder from `erw export`, the first digits of an artifact's digest, or
    FILE.toml:STAGE for the output of a stage

Keys of --json (one object):
  metrics     the value of each metric by name; null if it is not finite
  samples     given: the argument; images: their number; sampler: how erw drew
              them, if it did; left_out: numbers of skipped files by reason
  reference   the same; images is null for published statistics
  network, preparation, mode
              the feature network, and how images were prepared for it
  warnings    what to know before comparing the values
  cached      whether all results came from the cache
  detail      everything recorded with the result: settings, digests
For cknna, cka and mutual-knn, `samples` is a number, and `a` and `b` have the
keys given and dim. For stats, there are output and images, and no metrics.";

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Fréchet inception distance; in mode adm also sFID, at no extra cost
    Fid(images::Args),
    /// Fréchet distance of spatial Inception features, as in the ADM suite
    Sfid(images::Args),
    /// Inception Score
    Is(images::Alone),
    /// Precision and recall by nearest neighbours (Kynkäänniemi et al. 2019)
    Pr(images::Args),
    /// Kernel inception distance
    Kid(images::Args),
    /// FD-DINOv2: Fréchet distance of the features of DINOv2, or of another --network
    Fd(images::Args),
    /// CMMD: maximum mean discrepancy of CLIP embeddings
    Cmmd(images::Args),
    /// All metrics of the mode's tool: in mode adm FID, sFID, Inception Score, precision and
    /// recall, and KID
    All(images::Args),
    /// Write mean and covariance of the features of a set of images as an npz for other tools
    Stats(images::StatsArgs),
    /// CKNNA: agreement of two representations about nearest neighbours (Huh et al. 2024)
    Cknna(features::Args),
    /// Linear centred kernel alignment (CKA) of two representations
    Cka(features::Args),
    /// Share of nearest neighbours that two representations have in common
    MutualKnn(features::Args),
}

impl Args {
    /// How the evaluation is run and printed.
    pub(crate) fn how(&mut self) -> &mut execute::OutputOptions {
        match &mut self.command {
            Command::Fid(args) | Command::Sfid(args) | Command::Pr(args) | Command::Kid(args) => args.how(),
            Command::Fd(args) | Command::Cmmd(args) | Command::All(args) => args.how(),
            Command::Is(args) => args.how(),
            Command::Stats(args) => args.how(),
            Command::Cknna(args) | Command::Cka(args) | Command::MutualKnn(args) => args.how(),
        }
    }
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
