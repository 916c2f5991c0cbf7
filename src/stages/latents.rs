//! `latents`: encodes images once, so that training reads posteriors instead of running the encoder.
//!
//! Means and standard deviations are stored, not samples: every step draws its own noise.

use super::support::{Walk, check_walk, device, move_files};
use crate::error::{Error, Result};
use crate::ml::data::images::{ImageSet, to_unit};
use crate::ml::data::packed::PackedWriter;
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
    let shards = attempt.checkpoint_dir().join("shards");
    let mut writer = PackedWriter::resume(&shards, "latents", p.rows_per_shard)?;
    let total = images.len();
    let mut done = writer.written().min(total);
    if done > 0 {
        attempt.resumed(done);
    }
    let labels = images.labels();
    if labels.len() as u64 != total {
        return Err(Error::stage(format!("{} labels were given with {total} images", labels.len())));
    }
    while done < total {
        if attempt.should_stop() {
            return Err(Error::suspended());
        }
        let indices: Vec<u64> = (done..(done + o.batch.max(1) as u64).min(total)).collect();
        writer.push(&encode(&vae, &images, &labels, &indices, &device)?)?;
        let before = done / p.rows_per_shard.max(1) as u64;
        done += indices.len() as u64;
        attempt.progress(done, total);
        if done / p.rows_per_shard.max(1) as u64 > before {
            attempt.checkpointed(writer.written());
        }
    }
    writer.finish(&meta(&vae, &images))?;
    move_files(&shards, &attempt.output("latents"))?;
    attempt.result("images", total as f64);
    Ok(())
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
