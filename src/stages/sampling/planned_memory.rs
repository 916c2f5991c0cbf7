//! The GPU memory that the networks of sampling take, told by `erw plan` before anything runs. The
//! decoder, of which no shapes are known before it is read, comes on top.

use erw_ml::gpu::product_type;
use erw_ml::gpu::velocity::Evaluation;
use erw_ml::models::sit::{MlpKind, NormKind, SiTConfig};
use erw_ml::nn::precision::Precision;
use erw_runner::kind::field::Params;
use erw_runner::kind::property::InputProperties;
use serde_json::Value;
use std::collections::BTreeMap;

/// Bytes of GPU memory that the networks of a `sample` stage take. `None` for what candle's
/// operations compute, and if a size is not known yet. The number of classes is taken to be 1,000:
/// a table of 4 MB.
pub fn of_sample(params: &Params, operation: &Params, inputs: &InputProperties) -> Option<u64> {
    let precision: Precision = serde_json::from_value(params.get("precision")?.clone()).ok()?;
    let images = operation.get("batch")?.as_u64()?.clamp(1, params.get("count")?.as_u64()?.max(1)) as usize;
    let guided = params.get("cfg_scale")?.as_f64()? > 1.0;
    let by_network = params.get("guide_weights").is_some_and(Value::is_string);
    let batch = if guided && !by_network { 2 * images } else { images };
    let of = |slot: &str| {
        let evaluation = Evaluation { config: network(inputs.get(slot)?)?, batch, ty: product_type(precision) };
        evaluation.memory().ok().map(|bytes| bytes as u64)
    };
    Some(of("sit")? + if by_network { of("guide")? } else { 0 })
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
