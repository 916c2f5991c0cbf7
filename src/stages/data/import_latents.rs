//! `import-latents`: imports latents made by the preprocessing of REPA, LightningDiT or the ERW
//! authors' code, and writes the artifact that `latents` makes.

use super::pack::Pack;
use crate::support::params::of_set;
use candle_core::Tensor;
use erw_base::error::{Error, Result};
use erw_ml::data::latents::MIRRORED;
use erw_ml::data::released::ReadyLatents;
use erw_ml::data::source::ImageListing;
use erw_runner::kind::attempt::Attempt;
use erw_runner::kind::field::{Params as Values, parse};
use erw_runner::kind::{StageKind, no_facts};
use serde::Deserialize;
use serde_json::json;
use std::path::PathBuf;

pub const KIND: StageKind = StageKind {
    name: "import-latents",
    manifest: include_str!("../../../stages/import-latents.toml"),
    check,
    facts: no_facts,
    run,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    source: PathBuf,
    images: Option<PathBuf>,
    scaling_factor: f64,
    shift_factor: f64,
    rows_per_shard: usize,
    /// Also import the latents of the mirrored images.
    flip: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Operation {
    origin: Option<String>,
    batch: usize,
}

fn check(params: &Values, operation: &Values, _: &[&str]) -> Result<()> {
    parse::<Operation>(operation)?;
    let p: Params = parse(params)?;
    match p.scaling_factor > 0.0 {
        true => Ok(()),
        false => Err(Error::usage(format!("`scaling_factor` is {}; it must be above 0", p.scaling_factor))),
    }
}

fn run(attempt: &Attempt) -> Result<()> {
    let (p, op): (Params, Operation) = (attempt.params()?, attempt.operation()?);
    if let Some(origin) = &op.origin {
        attempt.log(&format!("latents of {}: {origin}", p.source.display()));
    }
    let images = p.images.as_deref().map(|root| ImageListing::open(root, None, None)).transpose().map_err(of_set)?;
    let latents = ReadyLatents::open(&p.source, images.as_ref())?;
    let ([channels, height, width], total) = (latents.shape(), latents.len());
    let (scale, shift) = if latents.scaled() { (1.0, 0.0) } else { (p.scaling_factor, p.shift_factor) };
    let frozen = matches!(latents, ReadyLatents::Shards(_));
    attempt.log(&format!("{total} latents of {channels} x {height} x {width}, {} classes", latents.classes().len()));
    if frozen {
        attempt.log(
            "they are posterior samples: their noise was drawn once, every step sees the same latent, \
             and the stored standard deviation is 0",
        );
    }
    if latents.scaled() {
        attempt.log("the ERW authors' code stores latents already scaled, so `scaling_factor` is not applied again");
    }
    let (mean, deviation) = moments(&latents.rows(0..total.min(64))?["mean"])?;
    let (mean, deviation) = ((mean - shift) * scale, deviation * scale);
    attempt.log(&format!(
        "after scaling, the first latents have mean {mean:.3} and standard deviation {deviation:.3}; \
         training expects about 0 and 1"
    ));
    let meta = json!({
        "channels": channels,
        "height": height,
        "width": width,
        "scaling_factor": scale,
        "shift_factor": shift,
        "classes": latents.classes(),
    });
    let pack = Pack { output: "latents", rows_per_shard: p.rows_per_shard, total, batch: op.batch };
    pack.fill(attempt, &meta, |rows| {
        let mut tensors = latents.rows(rows.clone())?;
        if p.flip {
            let [mean, std] = latents.mirrored(rows)?;
            tensors.extend([(format!("mean{MIRRORED}"), mean), (format!("std{MIRRORED}"), std)]);
        }
        Ok(tensors)
    })
}

/// Mean and standard deviation over all values.
fn moments(x: &Tensor) -> Result<(f64, f64)> {
    let mean = f64::from(x.mean_all()?.to_scalar::<f32>()?);
    let spread = f64::from(x.affine(1.0, -mean)?.sqr()?.mean_all()?.to_scalar::<f32>()?).sqrt();
    Ok((mean, spread))
}
