//! `fid`: Fréchet distance of the features of samples and of reference images. Features of a network trained here give
//! a distance that is good for comparing runs and is called `fd`; only Inception's is comparable with published FID.

use super::support::{batches, create_dir, device, parse, write_json};
use crate::error::{Error, Result};
use crate::ml::data::images::ImageSet;
use crate::ml::metrics::frechet;
use crate::ml::metrics::stats::Stats;
use crate::ml::models::features::{FeatureNetwork, open_feature_network};
use crate::runner::attempt::Attempt;
use crate::runner::manifest::{Params as Values, StageKind};
use candle_core::{Device, Tensor};
use serde::Deserialize;
use serde_json::json;

pub const KIND: StageKind = StageKind { name: "fid", manifest: include_str!("../../stages/fid.toml"), check, run };

/// What Inception networks call themselves; all others give `fd`.
const INCEPTION: &str = "inception";

/// Images whose features join the statistics together. A fixed number: the rounding of sums depends on it, and the
/// batch of an operation must not show in a result.
const BLOCK: usize = 512;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Operation {
    batch: usize,
}

fn check(params: &Values, operation: &Values, _: &[&str]) -> Result<()> {
    parse::<Params>(params)?;
    parse::<Operation>(operation).map(drop)
}

fn run(attempt: &Attempt) -> Result<()> {
    let (Params {}, o): (Params, Operation) = (attempt.params()?, attempt.operation()?);
    let device = device(attempt.device())?;
    let samples = ImageSet::open(attempt.input("samples")?)?;
    let reference = ImageSet::open(attempt.input("reference")?)?;
    let network = open_feature_network(attempt.input("network")?, &device)?;
    let total = samples.len() + reference.len();
    let ours = statistics(attempt, &*network, &samples, &o, &device, (0, total))?;
    let theirs = statistics(attempt, &*network, &reference, &o, &device, (samples.len(), total))?;
    let value = frechet::between(&ours, &theirs)?;

    let name = if network.name().contains(INCEPTION) { "fid" } else { "fd" };
    let warning = warning(ours.count().min(theirs.count()), network.dim());
    warning.iter().for_each(|w| attempt.log(w));
    let metrics = json!({
        "metric": name,
        "value": value,
        "network": network.name(),
        "dim": network.dim(),
        "n_samples": ours.count(),
        "n_reference": theirs.count(),
        "warning": warning,
    });
    let out = attempt.output("metrics");
    create_dir(&out)?;
    write_json(&out.join("metrics.json"), &metrics)?;
    attempt.result(name, value);
    Ok(())
}

/// The distance falls with the number of samples, so numbers compare only at equal counts; below `dim` samples the
/// covariance has no full rank either.
fn warning(samples: u64, dim: usize) -> Option<String> {
    (samples <= dim as u64).then(|| {
        format!("{samples} images for features of dimension {dim}: the covariance is singular, the bias large")
    })
}

fn statistics(
    attempt: &Attempt,
    network: &dyn FeatureNetwork,
    images: &ImageSet,
    operation: &Operation,
    device: &Device,
    (before, total): (u64, u64),
) -> Result<Stats> {
    let mut stats = Stats::new(network.dim());
    for range in batches(images.len(), BLOCK) {
        let ids: Vec<u64> = range.collect();
        let mut features = vec![];
        for part in ids.chunks(operation.batch.max(1)) {
            if attempt.should_stop() {
                return Err(Error::suspended());
            }
            features.push(network.features(&images.batch(part, device)?)?);
            attempt.progress(before + part.last().map_or(0, |last| last + 1), total);
        }
        stats.push(&Tensor::cat(&features, 0)?)?;
    }
    Ok(stats)
}
