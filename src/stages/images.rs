//! `images`: a folder of images to a packed set at one size. Files are read on all cores, written in listed order.

use super::support::parse;
use crate::error::{Error, Result};
use crate::ml::data::packed::PackedWriter;
use crate::ml::data::picture::Rgb;
use crate::ml::data::source::{self, Listing, Split, Transform};
use crate::ml::weights::Tensors;
use crate::runner::attempt::Attempt;
use crate::runner::manifest::{Params as Values, StageKind};
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::json;
use std::path::{Path, PathBuf};

pub const KIND: StageKind =
    StageKind { name: "images", manifest: include_str!("../../stages/images.toml"), check, run };

/// Bytes of pixels in a shard.
const SHARD_BYTES: usize = 256 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    source: PathBuf,
    resolution: usize,
    transform: Transform,
    split: Split,
    holdout_every: usize,
    on_error: OnError,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Operation {
    origin: Option<String>,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum OnError {
    Fail,
    Skip,
}

fn check(params: &Values, operation: &Values, _: &[&str]) -> Result<()> {
    parse::<Operation>(operation)?;
    parse::<Params>(params).map(|_| ())
}

fn run(attempt: &Attempt) -> Result<()> {
    let (p, op): (Params, Operation) = (attempt.params()?, attempt.operation()?);
    if let Some(origin) = &op.origin {
        attempt.log(&format!("images of {}: {origin}", p.source.display()));
    }
    let listing = list(&p)?;
    let size = p.resolution;
    let out = attempt.output("images");
    let mut writer = PackedWriter::create(&out, "images", (SHARD_BYTES / (size * size * 3)).max(1))?;
    let (total, mut done, mut skipped) = (listing.files.len(), 0, 0u64);
    for files in listing.files.chunks(16 * rayon::current_num_threads()) {
        if attempt.should_stop() {
            return Err(Error::suspended());
        }
        let images: Vec<_> = files.par_iter().map(|(path, _)| source::load(path, p.transform, size)).collect();
        let (mut pixels, mut labels) = (Vec::with_capacity(files.len() * size * size * 3), vec![]);
        for (image, (path, label)) in images.into_iter().zip(files) {
            match image {
                Ok(Rgb { data, .. }) => {
                    pixels.extend(data);
                    labels.push(*label);
                }
                Err(e) if p.on_error == OnError::Skip => {
                    attempt.log(&format!("skipped {}: {e}", shown(path, &p.source)));
                    skipped += 1;
                }
                Err(e) => return Err(Error::from(e).hint("set `on_error = \"skip\"` to leave unreadable images out")),
            }
        }
        let n = labels.len();
        if n > 0 {
            let images = Tensor::from_vec(pixels, (n, size, size, 3), &Device::Cpu)?;
            let labels = Tensor::from_vec(labels, n, &Device::Cpu)?;
            writer.push(&Tensors::from([("images".into(), images), ("labels".into(), labels)]))?;
        }
        done += files.len();
        attempt.progress(done as u64, total as u64);
    }
    if skipped as usize == total {
        return Err(Error::stage(format!("none of the {total} images in {} can be read", p.source.display())));
    }
    let meta = json!({"height": size, "width": size, "classes": listing.classes, "skipped": skipped});
    let count = writer.finish(&meta)?;
    attempt.result("images", count as f64);
    attempt.result("classes", listing.classes.len() as f64);
    Ok(())
}

fn list(p: &Params) -> Result<Listing> {
    let folder_hint = "`source` is a folder of images, in it a folder per class";
    let listing = Listing::scan(&p.source).map_err(|e| Error::from(e).hint(folder_hint))?;
    let listing = listing.split(p.split, p.holdout_every);
    if listing.files.is_empty() {
        let text = format!("no class in {} has {} images, so none is held out", p.source.display(), p.holdout_every);
        return Err(Error::stage(text).hint("lower `holdout_every`"));
    }
    Ok(listing)
}

fn shown(path: &Path, root: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}
