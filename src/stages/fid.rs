//! `fid`: Fréchet distance of the features of samples and of reference images. Features of a network trained here give
//! a distance that is good for comparing runs and is called `fd`; only Inception's is comparable with published FID.

use super::support::{Walk, batches, check_walk, create_dir, device, write_json};
use crate::error::{Error, Result};
use crate::ml::data::images::ImageSet;
use crate::ml::metrics::frechet;
use crate::ml::metrics::gaussian::{Gaussian, POOLED, STATS_FILE};
use crate::ml::metrics::stats::Stats;
use crate::ml::models::features::{FeatureNetwork, open_feature_network_with};
use crate::ml::models::inception::Inception;
use crate::ml::models::mode::Mode;
use crate::runner::attempt::Attempt;
use crate::runner::manifest::StageKind;
use candle_core::{Device, Tensor};
use serde::Deserialize;
use serde_json::json;
use std::path::Path;

pub const KIND: StageKind =
    StageKind { name: "fid", manifest: include_str!("../../stages/fid.toml"), check: check_walk::<Params>, run };

/// Images whose features join the statistics together. A fixed number: the rounding of sums depends on it, and the
/// batch of an operation must not show in a result.
const BLOCK: usize = 512;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    mode: Option<Mode>,
}

fn run(attempt: &Attempt) -> Result<()> {
    let (p, o): (Params, Walk) = (attempt.params()?, attempt.operation()?);
    let device = device(attempt.device())?;
    let samples = ImageSet::open(attempt.input("samples")?)?;
    let network = open_feature_network_with(attempt.input("network")?, p.mode, &device)?;
    let reference = Reference::open(attempt.input("reference")?, network.dim())?;
    let total = samples.len() + reference.images().map_or(0, ImageSet::len);
    let ours = statistics(attempt, &*network, &samples, o.batch, &device, (0, total))?;
    let (theirs, n_reference) = match &reference {
        Reference::Published(gaussian) => (gaussian.clone(), None),
        Reference::Images(images) => {
            let stats = statistics(attempt, &*network, images, o.batch, &device, (samples.len(), total))?;
            (stats.gaussian()?, Some(stats.count()))
        }
    };
    let value = frechet::between_gaussians(&ours.gaussian()?, &theirs)?;

    let name = if network.name() == Inception::ARCH { "fid" } else { "fd" };
    let warning = warning(ours.count().min(n_reference.unwrap_or(u64::MAX)), network.dim());
    warning.iter().for_each(|w| attempt.log(w));
    let metrics = json!({
        "metric": name,
        "value": value,
        "network": network.name(),
        "preparation": network.preparation(),
        "dim": network.dim(),
        "n_samples": ours.count(),
        // Published statistics do not say.
        "n_reference": n_reference,
        "warning": warning,
    });
    let out = attempt.output("metrics");
    create_dir(&out)?;
    write_json(&out.join("metrics.json"), &metrics)?;
    attempt.result(name, value);
    Ok(())
}

/// What the samples are held against.
enum Reference {
    Images(ImageSet),
    Published(Gaussian),
}

impl Reference {
    fn open(dir: &Path, dim: usize) -> Result<Self> {
        let stats = dir.join(STATS_FILE);
        if !stats.exists() {
            return Ok(Self::Images(ImageSet::open(dir)?));
        }
        let gaussian = Gaussian::read(&stats, POOLED)?;
        if gaussian.dim() != dim {
            let text = format!("{} is of {} features, the network makes {dim}", stats.display(), gaussian.dim());
            return Err(Error::stage(text).hint("published statistics are of Inception's 2048 pooled features"));
        }
        Ok(Self::Published(gaussian))
    }

    fn images(&self) -> Option<&ImageSet> {
        match self {
            Self::Images(images) => Some(images),
            Self::Published(_) => None,
        }
    }
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
    batch: usize,
    device: &Device,
    (before, total): (u64, u64),
) -> Result<Stats> {
    let mut stats = Stats::new(network.dim());
    for range in batches(images.len(), BLOCK) {
        let ids: Vec<u64> = range.collect();
        let mut features = vec![];
        for part in ids.chunks(batch.max(1)) {
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
