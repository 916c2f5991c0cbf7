//! The GPU memory of sampling: its networks and their decoder.

use super::foreseen::Foreseen;
use super::networks;
use crate::support::frozen_networks::{Maps, VAE_PRECISION, decoder_plan};
use erw_ml::gpu::product_type;
use erw_ml::gpu::velocity::Evaluation;
use erw_ml::models::sit::{MlpKind, NormKind, SiTConfig};
use erw_ml::nn::precision::Precision;
use serde_json::Value;
use std::collections::BTreeMap;

/// Bytes that a `sample` stage takes. `None` for what candle's operations compute, and if a size is not
/// known yet. The number of classes is taken to be 1,000: a table of 4 MB.
pub fn of_sample(stage: &Foreseen) -> Option<u64> {
    let Foreseen { params, operation, inputs, makers, .. } = stage;
    let precision = |name: &str| serde_json::from_value::<Option<Precision>>(params.get(name)?.clone()).ok()?;
    let images = operation.get("batch")?.as_u64()?.clamp(1, params.get("count")?.as_u64()?.max(1)) as usize;
    let guided = params.get("cfg_scale")?.as_f64()? > 1.0;
    let by_network = params.get("guide_weights").is_some_and(Value::is_string);
    let batch = if guided && !by_network { 2 * images } else { images };
    let sit = network(inputs.get("sit")?)?;
    let of_decoder = precision(VAE_PRECISION).unwrap_or_default();
    let latents = Maps { batch: images, size: [sit.input_size; 2], precision: of_decoder };
    let ty = product_type(precision("precision")?);
    let of = |config| Evaluation { config, batch, ty }.memory().ok();
    let guide = if by_network { of(network(inputs.get("guide")?)?)? } else { 0 };
    let vae = makers.get("vae").and_then(networks::autoencoder);
    let decoder = vae.and_then(|vae| decoder_plan(&vae, latents).memory().ok()).unwrap_or(0);
    Some((of(sit)? + guide + decoder) as u64)
}

/// As far as it decides about memory.
fn network(sit: &BTreeMap<String, Value>) -> Option<SiTConfig> {
    let number = |name: &str| sit.get(name)?.as_u64().map(|n| n as usize);
    let switch = |name: &str| sit.get(name).and_then(Value::as_bool).unwrap_or(false);
    let swiglu = sit.get("mlp").and_then(Value::as_str) == Some("swiglu");
    if switch("class_token") {
        return None;
    }
    let rms = sit.get("norm").and_then(Value::as_str) == Some("rms");
    Some(SiTConfig {
        input_size: number("side")?,
        in_channels: number("channels")?,
        patch_size: number("patch_size")?,
        hidden: number("width")?,
        depth: number("blocks")?,
        heads: number("heads")?,
        mlp_ratio: 4.0,
        mlp: if swiglu { MlpKind::SwiGlu } else { MlpKind::Gelu },
        norm: if rms { NormKind::Rms } else { NormKind::Layer },
        num_classes: 1000,
        class_dropout: 0.1,
        z_dims: vec![],
        projector: Default::default(),
        projector_dim: 1,
        encoder_depth: vec![1],
        rope: switch("rope"),
        qk_norm: switch("qk_norm"),
        class_token: None,
        self_alignment: None,
        latent_alignment: None,
        warmup_depth: None,
    })
}
