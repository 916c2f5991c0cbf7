//! The GPU memory that a training takes, told by `erw plan` before anything runs. A training that
//! does not fit is refused when it opens the GPU ([`super::gpu`]). Encoders that compute features
//! meanwhile come on top.

use erw_ml::diffusion::alignment::{Alignment, AlignmentLoss};
use erw_ml::diffusion::loss::Dispersion;
use erw_ml::gpu::product_type;
use erw_ml::gpu::sit::Recipe;
use erw_ml::models::projector::ProjectorKind;
use erw_ml::models::sit::{MlpKind, NormKind, SavedActivations, SiTConfig};
use erw_ml::nn::precision::Precision;
use erw_ml::train::sit::gpu::memory;
use erw_runner::kind::field::Params;
use erw_runner::kind::property::InputProperties;
use serde_json::Value;

/// Bytes of GPU memory that each rank of a `warmup` or `train` stage takes, before it runs: from its parameters
/// and what is known of its inputs. `None` for other kinds, for what candle's operations train, and
/// if a size is not known yet. The number of classes is taken to be 1,000: a table of 4 MB.
pub fn of_training(
    kind: &str,
    params: &Params,
    operation: &Params,
    inputs: &InputProperties,
    ranks: usize,
) -> Option<u64> {
    let text = |name: &str| params.get(name)?.as_str();
    let number = |name: &str| params.get(name)?.as_u64().map(|n| n as usize);
    let switch = |name: &str| params.get(name).and_then(Value::as_bool).unwrap_or(false);
    let weight = |name: &str| params.get(name).and_then(Value::as_f64).unwrap_or(0.0);
    let known = |slot: &str, name: &str| inputs.get(slot)?.get(name)?.as_u64().map(|n| n as usize);
    let is_warmup = kind == super::warmup::KIND.name;
    if !is_warmup && kind != super::train::KIND.name
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
    let (hidden, depth, heads, patch_size) = SiTConfig::sizes(text("model")?).ok()?;
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
        encoder_depth: vec![1],
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
        ranks,
        keep: if blocks { SavedActivations::Inputs } else { SavedActivations::Everything },
        averages: params.get("ema_decay").and_then(Value::as_array).map_or(1, Vec::len),
        alignment: Alignment { loss, ..Alignment::COSINE },
        velocity_cosine: weight("velocity_cosine"),
        dispersion: (weight("dispersive") > 0.0).then_some(Dispersion { weight: 1.0, block: 1, temperature: 1.0 }),
        ..Recipe::new(config, number("batch")? / accumulate, product_type(precision))
    };
    memory(&recipe).ok().map(|bytes| bytes as u64)
}
