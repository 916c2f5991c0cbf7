//! `latents`: encodes images once, so that training reads posteriors instead of running the encoder.
//!
//! Means and standard deviations are stored, not samples: every step draws its own noise.

use super::pack::Pack;
use super::support::{Walk, check_walk, device};
use crate::error::{Error, Result};
use crate::ml::data::images::{ImageSet, to_unit};
use crate::ml::models::vae::AutoencoderKl;
use crate::ml::weights::Tensors;
use crate::runner::attempt::Attempt;
use crate::runner::manifest::StageKind;
use candle_core::{Device, Tensor};
use serde::Deserialize;
use serde_json::json;

pub const KIND: StageKind = StageKind {
    name: "latents",
    manifest: include_str!("../../stages/latents.toml"),
    check: check_walk::<Params>,
    run,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    rows_per_shard: usize,
}

fn run(attempt: &Attempt) -> Result<()> {
    let (p, o): (Params, Walk) = (attempt.params()?, attempt.operation()?);
    let device = device(attempt.device())?;
    let images = ImageSet::open(attempt.input("images")?)?;
    let vae = AutoencoderKl::load(attempt.input("vae")?, &device)?;
    let (total, labels) = (images.len(), images.labels());
    if labels.len() as u64 != total {
        return Err(Error::stage(format!("{} labels were given with {total} images", labels.len())));
    }
    let pack = Pack { output: "latents", rows_per_shard: p.rows_per_shard, total, batch: o.batch };
    pack.fill(attempt, &meta(&vae, &images), |rows| encode(&vae, &images, &labels, &rows.collect::<Vec<_>>(), &device))
}

fn encode(vae: &AutoencoderKl, images: &ImageSet, labels: &[i64], indices: &[u64], device: &Device) -> Result<Tensors> {
    let posterior = vae.encode(&to_unit(&images.batch(indices, device)?)?)?;
    let labels: Vec<i64> = indices.iter().map(|i| labels[*i as usize]).collect();
    let cpu = Device::Cpu;
    Ok([
        ("mean".to_string(), posterior.mean.to_device(&cpu)?),
        ("std".to_string(), posterior.std.to_device(&cpu)?),
        ("labels".to_string(), Tensor::from_vec(labels, indices.len(), &cpu)?),
    ]
    .into())
}

fn meta(vae: &AutoencoderKl, images: &ImageSet) -> serde_json::Value {
    let config = vae.config();
    let f = config.downsampling();
    json!({
        "channels": config.latent_channels,
        "height": images.height() / f,
        "width": images.width() / f,
        "scaling_factor": config.scaling_factor,
        "shift_factor": config.shift_factor.unwrap_or(0.0),
        "classes": images.classes(),
    })
}
