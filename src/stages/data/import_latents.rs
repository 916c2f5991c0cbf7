//! `import-latents`: imports latents made by the preprocessing of REPA, LightningDiT or the ERW
//! authors' code, and writes the artifact that `latents` makes.

use super::latents::latents_meta;
use super::pack::Pack;
use crate::support::facts::BY_CHANNEL;
use crate::support::params::of_set;
use candle_core::Tensor;
use erw_base::error::{Error, Result};
use erw_ml::data::latent_scale::{Channels, LatentScale, STATS_FILE};
use erw_ml::data::latents::MIRRORED;
use erw_ml::data::released::ReadyLatents;
use erw_ml::data::source::ImageListing;
use erw_runner::kind::StageKind;
use erw_runner::kind::attempt::Attempt;
use erw_runner::kind::field::{Params as Values, parse};
use erw_runner::kind::property::Fact;
use serde::Deserialize;
use std::ops::RangeInclusive;
use std::path::PathBuf;

pub const KIND: StageKind = StageKind {
    name: "import-latents",
    manifest: include_str!("../../../stages/import-latents.toml"),
    check,
    facts,
    foresee: Some(foresee),
    run,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    source: PathBuf,
    images: Option<PathBuf>,
    scaling_factor: f64,
    shift_factor: f64,
    normalization: Normalization,
    rows_per_shard: usize,
    /// Also import the latents of the mirrored images.
    flip: bool,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Normalization {
    /// By channel if there are statistics and the latents are not of Stable Diffusion's four
    /// channels, whose trainings use the factor also where LightningDiT has written statistics.
    Auto,
    Factor,
    Channel,
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

/// Opens the files and their statistics, which have to fit.
fn foresee(params: &Values, _: &Values) -> Result<()> {
    let p: Params = parse(params)?;
    scale(&p, &open(&p)?.1).map(drop)
}

/// The latents, and the images that they were made of, if these are given.
fn open(p: &Params) -> Result<(Option<ImageListing>, ReadyLatents)> {
    let images = p.images.as_deref().map(|root| ImageListing::open(root, None, None)).transpose().map_err(of_set)?;
    let latents = ReadyLatents::open(&p.source, images.as_ref())?;
    Ok((images, latents))
}

/// The scale, where it does not depend on the files.
fn facts(params: &Values) -> Vec<Fact> {
    let Ok(p) = parse::<Params>(params) else { return vec![] };
    match p.normalization {
        Normalization::Channel => vec![Fact::new("scaling", BY_CHANNEL, &["normalization"])],
        Normalization::Auto if p.source.join(STATS_FILE).exists() => vec![],
        _ => vec![Fact::new("scaling", p.scaling_factor, &["scaling_factor"])],
    }
}

/// How these latents are normalised, and a line that says so.
fn scale(p: &Params, latents: &ReadyLatents) -> Result<(LatentScale, Option<String>)> {
    let (file, [channels, ..]) = (p.source.join(STATS_FILE), latents.shape());
    let by_factor = LatentScale { factor: p.scaling_factor, shift: p.shift_factor, channels: None };
    let (by_channel, why) = match (p.normalization, latents.scaled(), file.exists()) {
        (Normalization::Channel, true, _) => {
            return Err(Error::usage("`normalization`: the ERW authors' code stores latents already scaled")
                .hint("leave `normalization` out"));
        }
        (_, true, _) => {
            let none = LatentScale { factor: 1.0, shift: 0.0, channels: None };
            let why = "the ERW authors' code stores latents already scaled, so `scaling_factor` is not applied again";
            return Ok((none, Some(why.into())));
        }
        (Normalization::Channel, _, false) => {
            let folder = p.source.display();
            return Err(Error::usage(format!("`normalization` is \"channel\", but `{folder}` has no {STATS_FILE}"))
                .hint("the file is written by LightningDiT beside its latents, with tensors `mean` and `std`"));
        }
        (Normalization::Channel, ..) => (true, None),
        (Normalization::Auto, _, true) if channels != SD_CHANNELS => {
            (true, Some(format!("{STATS_FILE} normalises each channel, and `scaling_factor` is not applied")))
        }
        (Normalization::Auto, _, true) => {
            let why = "is not used: latents of 4 channels are scaled by `scaling_factor`";
            (false, Some(format!("{STATS_FILE} {why} unless `normalization` is \"channel\"")))
        }
        _ => (false, None),
    };
    if !by_channel {
        return Ok((by_factor, why));
    }
    let scale = LatentScale { factor: 1.0, shift: 0.0, channels: Some(Channels::read(&file)?) };
    let fits = scale.check(channels).map_err(Error::from);
    fits.map_err(|e| e.context(format!("`{}` does not fit the latents", file.display())))?;
    Ok((scale, why))
}

/// Standard deviations of latents that were scaled as they should be; chosen. A few images may
/// differ from the whole set, a forgotten or doubled factor of 0.18 leads further away.
const USUAL: RangeInclusive<f64> = 0.4..=2.5;

/// Channels of the latents of Stable Diffusion's autoencoders.
const SD_CHANNELS: usize = 4;

fn run(attempt: &Attempt) -> Result<()> {
    let (p, op): (Params, Operation) = (attempt.params()?, attempt.operation()?);
    if let Some(origin) = &op.origin {
        attempt.log(&format!("latents of {}: {origin}", p.source.display()));
    }
    let (images, latents) = open(&p)?;
    for warning in images.iter().flat_map(|images| images.warnings()) {
        attempt.log(&format!("warning: {warning}"));
    }
    let ([channels, height, width], total) = (latents.shape(), latents.len());
    let (scale, why) = scale(&p, &latents)?;
    let frozen = matches!(latents, ReadyLatents::Shards(_));
    attempt.log(&format!("{total} latents of {channels} x {height} x {width}, {} classes", latents.classes().len()));
    if frozen {
        attempt.log(
            "they are posterior samples: their noise was drawn once, every step sees the same latent, \
             and the stored standard deviation is 0",
        );
    }
    why.into_iter().for_each(|line| attempt.log(&line));
    let (mean, deviation) = moments(&scale.to_network(&latents.rows(0..total.min(64))?["mean"])?)?;
    let warning = if USUAL.contains(&deviation) { "" } else { "warning: " };
    attempt.log(&format!(
        "{warning}after scaling, the first latents have mean {mean:.3} and standard deviation {deviation:.3}; \
         training expects about 0 and 1"
    ));
    let meta = latents_meta([channels, height, width], &scale, latents.classes());
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
