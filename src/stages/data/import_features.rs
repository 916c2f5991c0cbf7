//! `import-features`: imports encoder tokens that the ERW authors' code stored beside its latents,
//! and writes the artifact that `features` makes. Row i belongs to row i of the latents that
//! `import-latents` makes from the same shards.

use super::features::{SHARD_BYTES, Stored, to_stored};
use super::pack::Pack;
use crate::support::params::{Walk, check_walk};
use erw_base::error::{Error, Result};
use erw_ml::data::pairing::labels_digest;
use erw_ml::data::released::shards::Shards;
use erw_ml::nn::params::Tensors;
use erw_ml::train::sit::features::TOKENS;
use erw_runner::kind::attempt::Attempt;
use erw_runner::kind::field::{Params as Values, parse};
use erw_runner::kind::{StageKind, no_facts};
use serde::Deserialize;
use serde_json::json;
use std::path::PathBuf;

pub const KIND: StageKind = StageKind {
    name: "import-features",
    manifest: include_str!("../../../stages/import-features.toml"),
    check: check_walk::<Params>,
    facts: no_facts,
    foresee: Some(foresee),
    run,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    source: PathBuf,
    encoder: usize,
    dtype: Stored,
}

/// Opens the shards, which have to have features of this encoder.
fn foresee(params: &Values, _: &Values) -> Result<()> {
    let p: Params = parse(params)?;
    Ok(open(&p)?.feature_shape(p.encoder).map(drop)?)
}

fn open(p: &Params) -> Result<Shards> {
    let files = Shards::find(&p.source)?;
    if files.is_empty() {
        return Err(Error::stage(format!("{} holds no latents_*.safetensors shards", p.source.display())));
    }
    Ok(Shards::open(&files)?)
}

fn run(attempt: &Attempt) -> Result<()> {
    let (p, op): (Params, Walk) = (attempt.params()?, attempt.operation()?);
    let shards = open(&p)?;
    let (tokens, dim) = shards.feature_shape(p.encoder)?;
    let dtype = p.dtype.dtype();
    let rows_per_shard = (SHARD_BYTES / (tokens * dim * dtype.size_in_bytes())).max(1);
    let meta = json!({"tokens": tokens, "dim": dim, "dtype": p.dtype.name(), "labels": labels_digest(shards.labels())});
    let pack = Pack { output: "features", rows_per_shard, total: shards.len(), batch: op.batch };
    pack.fill(attempt, &meta, |rows| {
        Ok(Tensors::from([(TOKENS.into(), to_stored(&shards.features(p.encoder, rows)?, p.dtype)?)]))
    })
}
