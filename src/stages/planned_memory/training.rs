//! The GPU memory of a training, with its validation and previews, and with the encoders that compute
//! features meanwhile.

use super::foreseen::{Foreseen, Maker};
use super::networks;
use crate::support::sit_artifact::CUSTOM;
use crate::training::{train, warmup, watched};
use erw_ml::diffusion::alignment::{Alignment, AlignmentLoss};
use erw_ml::diffusion::loss::Dispersion;
use erw_ml::gpu::product_type;
use erw_ml::gpu::sit::{Recipe, memory};
use erw_ml::gpu::vit::VitEvaluation;
use erw_ml::models::projector::ProjectorKind;
use erw_ml::models::sit::{MlpKind, NormKind, SavedActivations, SiTConfig};
use erw_ml::nn::precision::Precision;
use erw_runner::kind::field::Params;
use serde_json::Value;

/// Bytes that each rank of a `warmup` or `train` stage takes. `None` for other kinds, for what candle's
/// operations train, and if a size is not known yet. The number of classes is taken to be 1,000: a
/// table of 4 MB.
pub fn of_training(stage: &Foreseen) -> Option<u64> {
    let Foreseen { kind, params, operation, inputs, makers, ranks } = stage;
    let text = |name: &str| params.get(name)?.as_str();
    let number = |name: &str| params.get(name)?.as_u64().map(|n| n as usize);
    let switch = |name: &str| params.get(name).and_then(Value::as_bool).unwrap_or(false);
    let weight = |name: &str| params.get(name).and_then(Value::as_f64).unwrap_or(0.0);
    let known = |slot: &str, name: &str| inputs.get(slot)?.get(name)?.as_u64().map(|n| n as usize);
    let is_warmup = *kind == warmup::KIND.name;
    if !is_warmup && *kind != train::KIND.name
        || ["attention", "relation", "self_alignment", "latent_alignment"].iter().any(|name| weight(name) > 0.0)
    {
        return None;
    }
    let aligned = is_warmup || text("alignment") != Some("none");
    let encoders = inputs.iter().filter(|(slot, _)| {
        let slot = slot.split('.').next().unwrap_or_default();
        aligned && (slot == "features" || slot == "encoder")
    });
    let z_dims: Vec<usize> = encoders.filter_map(|(slot, _)| known(slot, "dim")).collect();
    let class_token = z_dims.first().copied().filter(|_| weight("class_token") > 0.0);
    let (hidden, depth, heads, patch_size) = match text("model")? {
        CUSTOM => (number("hidden")?, number("blocks")?, number("heads")?, number("patch_size")?),
        published => SiTConfig::sizes(published).ok()?,
    };
    let swiglu = text("mlp") == Some("swiglu");
    let config = SiTConfig {
        input_size: known("latents", "side")?,
        in_channels: known("latents", "channels")?,
        patch_size,
        hidden,
        depth,
        heads,
        mlp_ratio: 4.0,
        mlp: if swiglu { MlpKind::SwiGlu } else { MlpKind::Gelu },
        norm: if text("norm") == Some("rms") { NormKind::Rms } else { NormKind::Layer },
        num_classes: 1000,
        class_dropout: 0.1,
        z_dims,
        projector: if text("projector") == Some("conv3") { ProjectorKind::Conv3 } else { ProjectorKind::Mlp },
        projector_dim: number("projector_dim").unwrap_or(2048),
        // In a warmup the last block, whatever this says.
        encoder_depth: vec![depth],
        rope: switch("rope"),
        qk_norm: switch("qk_norm"),
        class_token,
        self_alignment: None,
        latent_alignment: None,
        warmup_depth: if is_warmup { Some(number("depth")?) } else { None },
    };
    let accumulate = number("accumulate").unwrap_or(1).max(1);
    let precision: Precision = serde_json::from_value(params.get("precision")?.clone()).ok()?;
    let blocks = operation.get("checkpointing").and_then(Value::as_str) == Some("blocks");
    let nt_xent = text("alignment_loss") == Some("nt-xent");
    let loss = if nt_xent { AlignmentLoss::NtXent } else { AlignmentLoss::Cosine };
    let recipe = Recipe {
        micro_batches: accumulate,
        ranks: *ranks,
        keep: if blocks { SavedActivations::Inputs } else { SavedActivations::Everything },
        averages: params.get("ema_decay").and_then(Value::as_array).map_or(1, Vec::len),
        alignment: Alignment { loss, ..Alignment::COSINE },
        velocity_cosine: weight("velocity_cosine"),
        dispersion: (weight("dispersive") > 0.0).then_some(Dispersion { weight: 1.0, block: 1, temperature: 1.0 }),
        ..Recipe::new(config, number("batch")? / accumulate, product_type(precision))
    };
    let counts = |params: &Params, name: &str| params.get(name).and_then(Value::as_u64).is_some_and(|every| every > 0);
    let (config, shows) = (&recipe.config, counts(operation, "samples_every"));
    let points = watched::points(counts(params, "validate_every"), recipe.batch, shows);
    let vae = makers.get("decoder").filter(|_| shows).and_then(networks::autoencoder);
    let between = watched::memory(config, points, vae.as_ref(), recipe.ty).ok()?;
    let grid = config.tokens().isqrt();
    let encoders = makers.iter().filter(|(slot, _)| aligned && slot.split('.').next() == Some("encoder"));
    let of_encoder = |maker: &Maker| {
        let config = networks::transformer(maker, grid)?;
        VitEvaluation { config, grid, batch: recipe.batch }.memory().ok()
    };
    let encoders: usize = encoders.filter_map(|(_, maker)| of_encoder(maker)).sum();
    Some((memory(&Recipe { between, ..recipe }).ok()? + encoders) as u64)
}
