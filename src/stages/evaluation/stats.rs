//! `stats`: computes the statistics of a set of images under a feature network, in the published
//! layout: mean and covariance of pooled and spatial features, and some of the images. It also
//! stores features of single images and the Inception Score, so that a `fid` stage can compute
//! every metric from the artifact without the images.

use super::images::open_images::{self, caution, check_size};
use super::images::provenance::{self, Extractor, FEATURES_FILE, FORMAT, POOL, Provenance};
use super::images::warnings::lacking;
use crate::support::files::{NOTE_FILE, create_dir, write_json};
use crate::support::frozen_networks::feature_network;
use crate::support::observer::{AttemptObserver, share};
use crate::support::params::{Walk, device};
use erw_base::error::{Error, Result};
use erw_ml::data::batches::spread;
use erw_ml::evaluation::extract::{ExtraOutputs, Pass};
use erw_ml::evaluation::image_source::ImageSource;
use erw_ml::evaluation::inception_score::is_possible;
use erw_ml::evaluation::metric::Needs;
use erw_ml::evaluation::side_statistics::SideStatistics;
use erw_ml::formats::NpzFile;
use erw_ml::metrics::gaussian::{Gaussian, POOLED, SPATIAL, STATS_FILE};
use erw_ml::models::feature_network::mode::Mode;
use erw_ml::nn::params::{self, Tensors};
use erw_runner::kind::attempt::Attempt;
use erw_runner::kind::field::{Params as Values, parse};
use erw_runner::kind::{StageKind, no_facts};
use serde::Deserialize;
use std::path::{Path, PathBuf};

pub const KIND: StageKind = StageKind {
    name: "stats",
    manifest: include_str!("../../../stages/stats.toml"),
    check,
    facts: no_facts,
    foresee: None,
    run,
};

const IMAGES: &str = "images";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    source: Option<PathBuf>,
    mode: Option<Mode>,
    limit: Option<u64>,
    features: u64,
    arr_0: u64,
}

fn check(params: &Values, operation: &Values, inputs: &[&str]) -> Result<()> {
    parse::<Walk>(operation)?;
    let p: Params = parse(params)?;
    match (p.source.is_some(), inputs.contains(&IMAGES)) {
        (true, true) => Err(Error::usage("`source` is given, and input `images` is connected").hint("use one of them")),
        (false, false) => {
            Err(Error::usage("neither `source` is given nor is input `images` connected").hint("use one of them"))
        }
        _ => Ok(()),
    }
}

fn run(attempt: &Attempt) -> Result<()> {
    let (p, o): (Params, Walk) = (attempt.params()?, attempt.operation()?);
    let device = device(attempt.device())?;
    let origin = Origin::open(attempt, p.source.as_deref(), p.limit)?;
    let left_out = origin.pictures.left_out().clone();
    if !left_out.is_empty() {
        attempt.log(&format!("left out: {left_out}"));
    }
    lacking(IMAGES, &left_out).iter().for_each(|text| attempt.log(&format!("warning: {text}")));
    let dir = attempt.input("network")?;
    let network = feature_network(attempt, dir, p.mode, o.batch, &device)?;
    // The sizes of files are known when they are read: the pass checks each.
    let place = p.source.map_or_else(|| "input `images`".into(), |source| source.display().to_string());
    check_size(&origin.pictures, network.size()).map_err(|e| e.within(&place))?;
    origin.caution.iter().for_each(|text| attempt.log(text));
    let seen = Extractor::by(&*network, dir)?;
    let inception = seen.is_inception();
    let total = origin.pictures.len();
    let (obs, work) = (&AttemptObserver(attempt), &attempt.checkpoint_dir());
    let share = share(attempt);
    let pass = Pass {
        obs,
        share,
        dir: work,
        network: &*network,
        device: &device,
        batch: o.batch,
        total,
        before: 0,
        is_made: false,
    };
    let wanted = ExtraOutputs { spatial: inception, logits: inception };
    if attempt.rank() > 0 {
        return if pass.make(IMAGES, &origin.pictures, wanted)? { Ok(()) } else { Err(Error::suspended()) };
    }
    let features = pass.extract(IMAGES, &origin.pictures, wanted)?.ok_or_else(Error::suspended)?;
    let score = inception && is_possible(total, network.mode());
    let needs = Needs { pool: true, spatial: inception, score, vectors: false };
    let measured = SideStatistics::of_features(obs, &features, needs, network.mode())?.ok_or_else(Error::suspended)?;

    let out = attempt.output("stats");
    create_dir(&out)?;
    write_npz(attempt, &out.join(STATS_FILE), &measured, &origin.pictures, p.arr_0)?;
    let kept = spread(total, p.features);
    if !kept.is_empty() {
        let pool = Tensors::from([(POOL.to_string(), features.pool.chosen(&kept)?)]);
        params::save(&pool, &out.join(FEATURES_FILE))?;
    }
    let note = Provenance {
        format: FORMAT,
        seen,
        count: total,
        features: kept.len() as u64,
        inception_score: measured.score.clone(),
        sampler: origin.sampler,
        images: origin.digest,
        caution: origin.caution,
        left_out,
    };
    write_json(&out.join(NOTE_FILE), &note)?;
    attempt.result("images", total as f64);
    if let Some(score) = &measured.score {
        attempt.result("inception_score", score.mean);
    }
    Ok(())
}

/// Where the images come from.
struct Origin {
    pictures: ImageSource,
    sampler: Option<String>,
    digest: Option<String>,
    caution: Option<String>,
}

impl Origin {
    fn open(attempt: &Attempt, source: Option<&Path>, limit: Option<u64>) -> Result<Self> {
        Ok(match source {
            Some(path) => {
                let pictures = open_images::of_path(path)?.limited(limit);
                let notes = Some(pictures.notes().join("; ")).filter(|notes| !notes.is_empty());
                Self { pictures, sampler: provenance::sampler(path), digest: None, caution: caution(path).or(notes) }
            }
            None => {
                let dir = attempt.input(IMAGES)?;
                let (sampler, digest) = (provenance::sampler(dir), provenance::artifact_digest(dir));
                let pictures = open_images::of_artifact(dir)?.limited(limit);
                Self { pictures, sampler, digest, caution: None }
            }
        })
    }
}

/// Writes the npz in the published layout. `images` is the number of images to store.
fn write_npz(
    attempt: &Attempt,
    path: &Path,
    measured: &SideStatistics,
    pictures: &ImageSource,
    images: u64,
) -> Result<()> {
    let mut npz = NpzFile::create(path)?;
    for (names, gaussian) in [(POOLED, &measured.pool), (SPATIAL, &measured.spatial)] {
        if let Some(gaussian) = gaussian {
            write_gaussian(&mut npz, names, gaussian)?;
        }
    }
    write_images(attempt, &mut npz, pictures, &spread(pictures.len(), images))?;
    Ok(npz.finish()?)
}

fn write_gaussian(npz: &mut NpzFile, [mean, covariance]: [&str; 2], gaussian: &Gaussian) -> Result<()> {
    let (dim, sigma) = (gaussian.dim(), gaussian.covariance());
    npz.numbers(mean, &[dim], gaussian.mean().iter().copied())?;
    let entries = (0..dim).flat_map(|i| (0..dim).map(move |j| sigma[(i, j)]));
    Ok(npz.numbers(covariance, &[dim, dim], entries)?)
}

/// Stores the chosen images as `arr_0`, u8 `[n, H, W, 3]`. All must have the same size.
fn write_images(attempt: &Attempt, npz: &mut NpzFile, pictures: &ImageSource, chosen: &[u64]) -> Result<()> {
    let mut size = None;
    for &i in chosen {
        if attempt.should_stop() {
            return Err(Error::suspended());
        }
        let (bytes, (height, width)) = pictures.bytes(i)?;
        if size.is_none() {
            npz.begin("arr_0", "|u1", 1, &[chosen.len(), height, width, 3])?;
        }
        let (h, w) = *size.get_or_insert((height, width));
        if (h, w) != (height, width) {
            let text = format!("{} has {height} x {width} pixels, others have {h} x {w}", pictures.place(i));
            return Err(
                Error::stage(text).hint("set `arr_0 = 0` to store no images: an array holds images of one size")
            );
        }
        npz.write(&bytes)?;
    }
    Ok(())
}
