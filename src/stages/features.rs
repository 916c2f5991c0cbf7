//! `features`: patch tokens of an encoder for every image, packed. Continues after the last whole shard.

use super::support::{Walk, check_walk, device, labels_digest, move_files};
use crate::error::{Error, Result};
use crate::ml::data::images::ImageSet;
use crate::ml::data::packed::PackedWriter;
use crate::ml::models::encoder::Encoder;
use crate::ml::weights::Tensors;
use crate::runner::attempt::Attempt;
use crate::runner::manifest::StageKind;
use candle_core::DType;
use serde::Deserialize;
use serde_json::json;

pub const KIND: StageKind = StageKind {
    name: "features",
    manifest: include_str!("../../stages/features.toml"),
    check: check_walk::<Params>,
    run,
};

/// Bytes of tokens in a shard: about what is lost when an attempt is killed.
const SHARD_BYTES: usize = 64 << 20;
const STEM: &str = "features";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    dtype: Stored,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum Stored {
    F32,
    F16,
}

impl Stored {
    fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
        }
    }
}

fn run(attempt: &Attempt) -> Result<()> {
    let dtype = attempt.params::<Params>()?.dtype.dtype();
    let batch = attempt.operation::<Walk>()?.batch as u64;
    let device = device(attempt.device())?;
    let images = ImageSet::open(attempt.input("images")?)?;
    let encoder = Encoder::open(attempt.input("encoder")?, &device)?;
    let (tokens, dim) = encoder.shape(images.height())?;
    let rows = (SHARD_BYTES / (tokens * dim * dtype.size_in_bytes())).max(1);

    let part = attempt.checkpoint_dir().join(STEM);
    let mut writer = PackedWriter::resume(&part, STEM, rows)?;
    let mut done = writer.written().min(images.len());
    if done > 0 {
        attempt.resumed(done);
    }
    while done < images.len() {
        if attempt.should_stop() {
            return Err(Error::suspended());
        }
        let ids: Vec<u64> = (done..(done + batch).min(images.len())).collect();
        let x = encoder.tokens(&images.batch(&ids, &device)?)?.to_dtype(dtype)?;
        let before = writer.written();
        writer.push(&Tensors::from([("tokens".into(), x)]))?;
        done += ids.len() as u64;
        if writer.written() > before {
            attempt.checkpointed(writer.written());
        }
        attempt.progress(done, images.len());
    }
    let name = if dtype == DType::F16 { "f16" } else { "f32" };
    let labels = labels_digest(&images.labels());
    writer.finish(&json!({"tokens": tokens, "dim": dim, "dtype": name, "labels": labels}))?;
    move_files(&part, &attempt.output("features"))?;
    attempt.result("images", images.len() as f64);
    Ok(())
}
