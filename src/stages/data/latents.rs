//! `latents`: encodes images once, so that training reads posteriors instead of running the
//! encoder.
//!
//! It stores means and standard deviations, not samples: every step draws its own noise. The latent
//! of a mirrored image is not the mirrored latent, so mirrored images are encoded separately.

use super::pack::Pack;
use crate::support::frozen_networks::{Maps, encoder};
use crate::support::params::{Walk, check_walk, device};
use candle_core::{Device, Tensor};
use erw_base::error::{Error, Result};
use erw_ml::data::augment::mirror;
use erw_ml::data::images::{ImageSet, to_unit};
use erw_ml::data::latent_scale::{Channels, LatentScale};
use erw_ml::data::latents::MIRRORED;
use erw_ml::models::vae::AutoencoderKl;
use erw_ml::nn::params::Tensors;
use erw_ml::nn::precision::Precision;
use erw_runner::kind::attempt::Attempt;
use erw_runner::kind::{StageKind, no_facts};
use serde::Deserialize;
use serde_json::{Value, json};

pub const KIND: StageKind = StageKind {
    name: "latents",
    manifest: include_str!("../../../stages/latents.toml"),
    check: check_walk::<Params>,
    facts: no_facts,
    foresee: None,
    run,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    rows_per_shard: usize,
    /// Also store the latents of the mirrored images.
    flip: bool,
    vae_precision: Option<Precision>,
}

fn run(attempt: &Attempt) -> Result<()> {
    let (p, o): (Params, Walk) = (attempt.params()?, attempt.operation()?);
    let device = device(attempt.device())?;
    let images = ImageSet::open(attempt.input("images")?)?;
    let precision = p.vae_precision.unwrap_or_default();
    let maps = Maps { batch: o.batch, size: [images.height(), images.width()], precision };
    let (vae, device) = encoder(attempt, attempt.input("vae")?, maps, &device)?;
    let (total, labels) = (images.len(), images.labels());
    if labels.len() as u64 != total {
        return Err(Error::stage(format!("the image set has {total} images but {} labels", labels.len())));
    }
    let pack = Pack { output: "latents", rows_per_shard: p.rows_per_shard, total, batch: o.batch };
    pack.fill(attempt, &meta(&vae, &images)?, |rows| {
        let rows: Vec<u64> = rows.collect();
        let pixels = images.batch(&rows, &device)?;
        let mut tensors = encode(&vae, &pixels, "")?;
        if p.flip {
            tensors.extend(encode(&vae, &mirror(&pixels, &vec![true; rows.len()])?, MIRRORED)?);
        }
        let labels: Vec<i64> = rows.iter().map(|i| labels[*i as usize]).collect();
        tensors.insert("labels".to_string(), Tensor::new(labels, &Device::Cpu)?);
        Ok(tensors)
    })
}

/// Mean and standard deviation of the latents of u8 images `[n, 3, H, W]`, as tensors `mean` and
/// `std` with `ending` appended to their names.
fn encode(vae: &AutoencoderKl, pixels: &Tensor, ending: &str) -> Result<Tensors> {
    let posterior = vae.encode(&to_unit(pixels)?)?;
    let cpu = Device::Cpu;
    Ok([
        (format!("mean{ending}"), posterior.mean.to_device(&cpu)?),
        (format!("std{ending}"), posterior.std.to_device(&cpu)?),
    ]
    .into())
}

fn meta(vae: &AutoencoderKl, images: &ImageSet) -> Result<Value> {
    let f = vae.config().downsampling();
    let shape = [vae.config().latent_channels, images.height() / f, images.width() / f];
    Ok(latents_meta(shape, &vae.config().scale()?, images.classes()))
}

/// The description of packed latents `[channels, height, width]`.
pub(super) fn latents_meta([channels, height, width]: [usize; 3], scale: &LatentScale, classes: &[String]) -> Value {
    let mut meta = json!({
        "channels": channels,
        "height": height,
        "width": width,
        "scaling_factor": scale.factor,
        "shift_factor": scale.shift,
        "classes": classes,
    });
    if let Some(Channels { mean, std }) = &scale.channels {
        (meta["latents_mean"], meta["latents_std"]) = (json!(mean), json!(std));
    }
    meta
}
