//! Metrics of sets of images: the arguments, and the pipeline that computes them.

use super::enough::Counts;
use super::execute::{OutputOptions, each_once, run_pipeline};
use super::input::{EvalInput, Holds, STATS, Side};
use super::network::{self, Network};
use super::pipeline::{Extraction, METRICS, NETWORK, REFERENCE, SAMPLES, Stages};
use super::workspace::Workspace;
use super::{answer, statistics};
use crate::common::print;
use clap::ValueEnum;
use clap::builder::PossibleValue;
use erw_base::error::{Error, Result};
use erw_ml::evaluation::metric::Metric;
use erw_ml::metrics::kid::Subsets;
use erw_ml::models::feature_network::mode::Mode;
use erw_runner::exec::resources::Limits;
use erw_stages::OTHER_NETWORKS;
use serde_json::json;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
#[command(after_help = "`erw eval --help` describes SAMPLES, REFERENCE and the output of --json.")]
pub struct Args {
    /// Generated images
    samples: String,
    /// Reference images or their statistics
    reference: String,
    #[command(flatten)]
    settings: Settings,
}

impl Args {
    pub(super) fn how(&mut self) -> &mut OutputOptions {
        &mut self.settings.how
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = "`erw eval --help` describes SAMPLES and the output of --json.")]
pub struct Alone {
    /// Generated images
    samples: String,
    #[command(flatten)]
    settings: Settings,
}

impl Alone {
    pub(super) fn how(&mut self) -> &mut OutputOptions {
        &mut self.settings.how
    }
}

#[derive(Debug, clap::Args)]
pub struct StatsArgs {
    /// Images to measure
    images: String,
    /// File to write
    #[arg(short, long, value_name = "OUT.npz", value_hint = clap::ValueHint::FilePath)]
    output: PathBuf,
    /// Also store N of the images, spread evenly, for precision, recall and KID; the ADM suite
    /// stores 10000
    #[arg(long = "arr-0", value_name = "N")]
    arr_0: Option<u32>,
    #[command(flatten)]
    settings: Settings,
}

impl StatsArgs {
    pub(super) fn how(&mut self) -> &mut OutputOptions {
        &mut self.settings.how
    }
}

/// [`Mode`] as an argument.
#[derive(Debug, Clone, Copy)]
struct ModeArg(Mode);

impl ValueEnum for ModeArg {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self(Mode::Adm), Self(Mode::PytorchFid), Self(Mode::CleanFid), Self(Mode::TorchFidelity)]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self.0 {
            Mode::Adm => "ADM suite, whose values papers report (default)",
            Mode::PytorchFid => "pytorch-fid",
            Mode::CleanFid => "clean-fid, mode \"clean\"",
            Mode::TorchFidelity => "torch-fidelity",
        };
        Some(PossibleValue::new(self.0.name()).help(help))
    }
}

#[derive(Debug, clap::Args)]
struct Settings {
    /// Metrics to compute in one pass over the images: for `all` only these, otherwise these in
    /// addition
    #[arg(long, value_delimiter = ',', value_name = "METRIC,…", value_parser = Metric::ALL.map(Metric::name))]
    metrics: Vec<String>,
    /// Tool whose values to reproduce: its preparation of images and its conventions
    #[arg(long, value_enum, value_name = "MODE")]
    mode: Option<ModeArg>,
    /// Feature network: a published name (`erw weights list`), a weight file of the default
    /// network, NAME=FILE for a file of another network, a folder from `erw export`, or
    /// FILE.toml:STAGE
    #[arg(long, value_name = "NAME|FILE")]
    network: Option<String>,
    /// Use at most N images of each side, spread evenly
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Number of neighbours for precision, recall, density and coverage [default: 3]
    #[arg(short, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    k: Option<u32>,
    /// Number of subsets over which KID is averaged [default: 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(Subsets::MOST)))]
    kid_subsets: Option<u32>,
    /// Number of images in each subset of KID [default: 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=i64::from(Subsets::LARGEST)))]
    kid_subset_size: Option<u32>,
    /// Batch size; results do not depend on it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch: Option<u32>,
    /// Device: `cpu`, `cuda` or `cuda:N`
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: String,
    #[command(flatten)]
    how: OutputOptions,
}

/// The metrics of a subcommand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricSet {
    Fid,
    Sfid,
    PrecisionRecall,
    Kid,
    Fd,
    Cmmd,
    All,
}

impl MetricSet {
    fn default_network(self) -> &'static str {
        match self {
            Self::Fd => network::DINOV2,
            Self::Cmmd => network::CLIP,
            _ => network::INCEPTION,
        }
    }

    /// The metrics that the tool of this mode computes.
    fn metrics(self, mode: Mode, inception: bool) -> Vec<&'static str> {
        let all: &[&str] = match (self, mode) {
            (Self::Sfid, _) => &["sfid"],
            (Self::PrecisionRecall, _) => &["precision", "recall"],
            (Self::Kid, _) => &["kid"],
            (Self::Cmmd, _) => &["cmmd"],
            (Self::Fid, Mode::Adm) if inception => &["fid", "sfid"],
            (Self::Fid | Self::Fd, _) => &["fid"],
            (Self::All, _) if !inception => &["fid", "precision", "recall", "kid"],
            (Self::All, Mode::Adm) => &["fid", "sfid", "is", "precision", "recall", "kid"],
            (Self::All, Mode::TorchFidelity) => &["is", "fid", "kid", "precision", "recall"],
            (Self::All, Mode::CleanFid) => &["fid", "kid"],
            (Self::All, Mode::PytorchFid) => &["fid"],
        };
        all.to_vec()
    }

    /// Whether it is a bundle. Metrics of a bundle that cannot be computed are left out; those
    /// given by name are refused.
    fn is_bundle(self) -> bool {
        matches!(self, Self::Fid | Self::All)
    }
}

impl Settings {
    fn extraction(&self) -> Result<(Extraction, Option<usize>)> {
        let gpu = self.gpu()?;
        let number = |n: u32| n as usize;
        let mode = self.mode.map(|m| m.0.name());
        let (limit, batch) = (self.limit.map(number), self.batch.map(number));
        Ok((Extraction { mode, limit, batch, arr_0: None, gpu: gpu.is_some() }, gpu))
    }

    fn counts(&self) -> Counts {
        let mode = self.mode.map_or(Mode::Adm, |m| m.0);
        Counts { k: self.k, kid_subset_size: self.kid_subset_size, mode, limit: self.limit }
    }

    /// The index of the requested GPU among the visible ones.
    fn gpu(&self) -> Result<Option<usize>> {
        let number = match self.device.split_once(':') {
            None if self.device == "cpu" => return Ok(None),
            None if self.device == "cuda" => Some(0),
            Some(("cuda", number)) => number.parse().ok(),
            _ => None,
        };
        let Some(number) = number else {
            let error = Error::usage(format!("unknown device `{}`", self.device));
            return Err(error.hint("devices are `cpu`, `cuda` and `cuda:N`"));
        };
        let visible = Limits::of_machine().gpus.len();
        if number < visible {
            return Ok(Some(number));
        }
        let seen = if visible == 0 { "no GPU is visible".into() } else { format!("the GPUs are 0 to {}", visible - 1) };
        Err(Error::usage(format!("no device `{}`", self.device)).because(seen))
    }

    fn network(&self, default: &str, place: Workspace<'_>) -> Result<Network> {
        let network = Network::of(self.network.as_deref(), default, place)?;
        match self.mode {
            Some(ModeArg(mode)) if !network.is_inception() => {
                let text = format!("`--mode {}` applies only to Inception, but the network is another", mode.name());
                Err(Error::usage(text))
            }
            _ => Ok(network),
        }
    }
}

/// Compares two sets.
pub fn run(wanted: MetricSet, args: &Args, place: Workspace<'_>) -> Result<()> {
    let settings = &args.settings;
    let samples = EvalInput::of(&args.samples, place)?;
    if let EvalInput::Statistics(path, _) = &samples {
        let error = Error::usage(format!("`{}` holds published statistics, not samples", path.display()));
        return Err(error.hint("the order is SAMPLES REFERENCE"));
    }
    let reference = EvalInput::of(&args.reference, place)?;
    let network = settings.network(wanted.default_network(), place)?;
    let holds = if let EvalInput::Statistics(_, holds) = &reference { Some(*holds) } else { None };
    let mode = settings.mode.map_or(Mode::Adm, |m| m.0);
    let mut told = vec![];
    if let EvalInput::Statistics(path, _) = &reference
        && let Some(note) = statistics::note(path)
    {
        note.check(&args.reference, &network, settings.mode.map(|m| m.0))?;
    }
    let mut metrics: Vec<&str> = settings.metrics.iter().map(String::as_str).collect();
    let sides = [Side::new(SAMPLES, &args.samples, samples), Side::new(REFERENCE, &args.reference, reference)];
    let check = |metric: &str| {
        check(metric, &network, holds.map(|holds| (args.reference.as_str(), holds)))?;
        settings.counts().check(metric, &sides)
    };
    if wanted != MetricSet::All || metrics.is_empty() {
        let mut usual = wanted.metrics(mode, network.is_inception());
        if wanted.is_bundle() {
            usual.retain(|metric| check(metric).map_err(|e| told.push(format!("no {metric}: {e}"))).is_ok());
        }
        metrics.splice(0..0, usual);
    }
    metrics.iter().try_for_each(|metric| check(metric))?;
    measure(&metrics, &sides, &network, settings, told, place)
}

/// Refuses, before features are extracted, a metric that the network or the statistics do not
/// support.
fn check(metric: &str, network: &Network, statistics: Option<(&str, Holds)>) -> Result<()> {
    if ["sfid", "is"].contains(&metric) && !network.is_inception() {
        let text = format!("`{metric}` needs Inception, but the network is of type `{}`", network.ty());
        return Err(Error::usage(text).hint(answer::NAME_AN_INCEPTION));
    }
    if metric == "cmmd" && !network.may_be_clip() {
        let text = "`cmmd` needs CLIP embeddings, but the network is not CLIP";
        return Err(Error::usage(text).hint(answer::NAME_A_CLIP));
    }
    let Some((given, holds)) = statistics else { return Ok(()) };
    let lacks = match metric {
        "sfid" if !holds.spatial => "spatial statistics (`mu_s` and `sigma_s`)",
        "precision" | "recall" | "density" | "coverage" | "kid" | "cmmd" if !holds.images => "images (`arr_0`)",
        _ => return Ok(()),
    };
    Err(Error::usage(format!("`{given}` holds no {lacks}, which `{metric}` needs")))
}

/// Measures a single set, which is also passed as its own reference.
///
/// # Errors
/// If a metric compares with a reference: the set would be compared with itself and look perfect.
pub fn run_alone(args: &Alone, place: Workspace<'_>) -> Result<()> {
    if let Some(metric) = args.settings.metrics.iter().find(|metric| *metric != "is") {
        let text = format!("`{metric}` needs a reference, but `erw eval is` takes none");
        return Err(Error::usage(text).hint("run `erw eval fid SAMPLES REFERENCE --metrics is` to compute both"));
    }
    let samples = EvalInput::of(&args.samples, place)?;
    if samples.is_statistics() && !matches!(samples, EvalInput::Stage(..)) {
        return Err(Error::usage(format!("`{}` holds published statistics, not samples", args.samples)));
    }
    let network = args.settings.network(network::INCEPTION, place)?;
    check("is", &network, None)?;
    let sides = [Side::new(SAMPLES, &args.samples, samples)];
    args.settings.counts().check("is", &sides)?;
    measure(&["is"], &sides, &network, &args.settings, vec![], place)
}

fn measure(
    metrics: &[&str],
    sides: &[Side<'_>],
    network: &Network,
    settings: &Settings,
    told: Vec<String>,
    place: Workspace<'_>,
) -> Result<()> {
    let (extraction, gpu) = settings.extraction()?;
    let mut stages = Stages::of(sides.iter().map(|side| side.said));
    let from = network.reference();
    let mut inputs = json!({});
    // If both sides are cached statistics, no network is needed.
    if sides.iter().any(|side| !matches!(&side.given, EvalInput::Stage(_, ty, _) if ty == STATS)) {
        network.add(&mut stages)?;
        inputs["network"] = json!(from);
    }
    for side in sides {
        inputs[side.place] = json!(extraction.add(&mut stages, side.place, &side.given, from)?);
    }
    if sides.len() == 1 {
        inputs[REFERENCE] = inputs[SAMPLES].clone();
    }
    let params = json!({
        "metrics": each_once(metrics.iter().copied()), "mode": extraction.mode, "k": settings.k,
        "kid_subsets": settings.kid_subsets, "kid_subset_size": settings.kid_subset_size,
    });
    let mut last = json!({ "kind": "fid", "inputs": inputs, "params": params });
    extraction.operate(&mut last);
    stages.add(METRICS, last);
    let mut said: Vec<(&str, &str)> = sides.iter().map(|side| (side.place, side.said)).collect();
    said.extend(settings.network.as_deref().map(|network| (NETWORK, network)));
    for side in sides {
        side.check().map_err(|e| answer::of_place(e, side.place, &said))?;
    }
    let unlike = |e: Error| match sides.iter().find(|side| matches!(side.given, EvalInput::Statistics(..))) {
        Some(side) if e.message.contains(OTHER_NETWORKS) => statistics::of_another(side.said, e.causes),
        _ => e,
    };
    let ran = run_pipeline(stages.text()?, &said, gpu, &settings.how, place);
    let ran = ran.map_err(|e| unlike(network.missing(e)))?;
    let detail = answer::detail(&ran)?;
    for side in sides {
        if let EvalInput::Statistics(path, _) = &side.given
            && let Some(note) = statistics::note(path)
        {
            note.confirm(side.said, &detail)?;
        }
    }
    let limited = sides.iter().filter(|side| settings.limit.is_some() && side.given.is_statistics());
    let limited = limited.map(|side| format!("`--limit` is about images: the statistics `{}` are of all", side.said));
    let told = limited.chain(told).collect();
    print(&answer::of_images(&ran, &detail, &said, told, settings.how.json)?)
}

/// Writes the statistics of a set in the published layout.
pub fn run_stats(args: &StatsArgs, place: Workspace<'_>) -> Result<()> {
    let settings = &args.settings;
    if !settings.metrics.is_empty() {
        return Err(Error::usage("`erw eval stats` computes no metrics").hint("leave `--metrics` out"));
    }
    check_output(&args.output)?;
    let images = EvalInput::of(&args.images, place)?;
    if images.is_statistics() {
        return Err(Error::usage(format!("`{}` already holds statistics", args.images)));
    }
    let network = settings.network(network::INCEPTION, place)?;
    let (extraction, gpu) = settings.extraction()?;
    let extraction = Extraction { arr_0: args.arr_0, ..extraction };
    let mut stages = Stages::of([args.images.as_str()]);
    network.add(&mut stages)?;
    let side = Side::new(SAMPLES, &args.images, images);
    extraction.add(&mut stages, SAMPLES, &side.given, network.reference())?;
    let mut said = vec![(SAMPLES, args.images.as_str())];
    said.extend(settings.network.as_deref().map(|network| (NETWORK, network)));
    side.check().map_err(|e| answer::of_place(e, SAMPLES, &said))?;
    let ran = run_pipeline(stages.text()?, &said, gpu, &settings.how, place).map_err(|e| network.missing(e))?;
    statistics::write(&ran.output(SAMPLES)?, &args.output)?;
    print(&answer::of_stats(&ran, &said, &args.output, settings.how.json)?)
}

/// Checks that the output file can be created, because it is written last.
fn check_output(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Err(Error::usage(format!("`{}` is a folder", path.display())).hint("give a file for `-o`"));
    }
    match path.parent().filter(|dir| !dir.as_os_str().is_empty() && !dir.is_dir()) {
        Some(dir) => Err(Error::usage(format!("no folder `{}` for `-o {}`", dir.display(), path.display()))),
        None => Ok(()),
    }
}
