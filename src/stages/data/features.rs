//! `features`: encodes every image and stores its patch tokens, and on demand its class token, in a
//! packed array. An interrupted stage resumes after the last complete shard.

use super::pack::Pack;
use crate::support::facts;
use crate::support::frozen_networks::feature_encoder;
use crate::support::params::{Walk, check_walk, device};
use candle_core::{DType, Tensor};
use erw_base::error::{Error, Result};
use erw_ml::data::images::ImageSet;
use erw_ml::data::pairing::labels_digest;
use erw_ml::models::encoder::{CONFIG_FILE, read_config};
use erw_ml::nn::params::Tensors;
use erw_ml::train::sit::features::{CLASS_TOKEN, TOKENS};
use erw_runner::kind::StageKind;
use erw_runner::kind::attempt::Attempt;
use serde::Deserialize;
use serde_json::json;

pub const KIND: StageKind = StageKind {
    name: "features",
    manifest: include_str!("../../../stages/features.toml"),
    check: check_walk::<Params>,
    facts: facts::features,
    foresee: None,
    run,
};

/// Bytes of tokens in a shard. A killed attempt loses at most about this much work.
pub(crate) const SHARD_BYTES: usize = 64 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    dtype: Stored,
    class_token: Option<bool>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Stored {
    F32,
    F16,
}

impl Stored {
    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
        }
    }

    /// The name in `meta.json`.
    pub(crate) fn name(self) -> &'static str {
        self.dtype().as_str()
    }
}

/// From here on f16 rounds to infinity.
const ROUNDED_UP: f32 = 65_520.0;

/// Tokens as they are stored.
///
/// # Errors
/// When a number is too large for the type and would be stored as infinity.
pub(crate) fn to_stored(tokens: &Tensor, stored: Stored) -> Result<Tensor> {
    if matches!(stored, Stored::F16) {
        let largest = tokens.abs()?.flatten_all()?.max(0)?.to_dtype(DType::F32)?.to_scalar::<f32>()?;
        if largest.is_finite() && largest >= ROUNDED_UP {
            return Err(Error::stage(format!("a token has a value of magnitude {largest}, which f16 cannot hold"))
                .because("the largest that it holds is 65504")
                .hint("set `dtype = \"f32\"`"));
        }
    }
    Ok(tokens.to_dtype(stored.dtype())?)
}

fn run(attempt: &Attempt) -> Result<()> {
    let p: Params = attempt.params()?;
    let (stored, dtype) = (p.dtype, p.dtype.dtype());
    let with_class = p.class_token.unwrap_or(false);
    let batch = attempt.operation::<Walk>()?.batch;
    let device = device(attempt.device())?;
    let images = ImageSet::open(attempt.input("images")?)?;
    let dir = attempt.input("encoder")?;
    let (tokens, dim) = read_config(&dir.join(CONFIG_FILE))?.shape(images.height())?;
    let encoder = feature_encoder(attempt, dir, images.height(), batch.max(1), &device)?;
    let rows = (SHARD_BYTES / (tokens * dim * dtype.size_in_bytes())).max(1);

    let labels = labels_digest(&images.labels());
    let meta = json!({"tokens": tokens, "dim": dim, "dtype": stored.name(), "labels": labels});
    let pack = Pack { output: "features", rows_per_shard: rows, total: images.len(), batch };
    pack.fill(attempt, &meta, |ids| {
        let outputs = encoder.outputs(&images.batch(&ids.collect::<Vec<_>>(), &device)?, &[])?;
        let mut rows = Tensors::from([(TOKENS.into(), to_stored(&outputs.tokens, stored)?)]);
        if with_class {
            let class = outputs.class_token.ok_or_else(|| Error::stage("the encoder has no class token"))?;
            rows.insert(CLASS_TOKEN.into(), to_stored(&class, stored)?);
        }
        Ok(rows)
    })
}
