//! `train-encoder`: trains a small vision transformer on the images of the experiment, so that
//! alignment works without a download. It is evaluated by nearest neighbours of its mean patch
//! tokens on held-out images.

use super::settings::{LoopSettings, Optimization, warn_of_copies};
use super::trainer;
use crate::support::facts;
use crate::support::files::{create_dir, write_json};
use crate::support::params::device;
use crate::support::same_classes::{Named, check_common};
use candle_core::{Device, Tensor};
use erw_base::error::{Error, Result};
use erw_ml::data::images::ImageSet;
use erw_ml::data::prefetch::MicroBatch;
use erw_ml::metrics::knn;
use erw_ml::models::encoder::config::EncoderConfig;
use erw_ml::models::encoder::{CONFIG_FILE, Encoder, WEIGHTS_FILE};
use erw_ml::models::vit::VitConfig;
use erw_ml::nn::params;
use erw_ml::train::config::StepLoss;
use erw_ml::train::outcome::Trained;
use erw_ml::train::pretrain::{self, Learner, Objective};
use erw_ml::train::{Callbacks, batch_indices};
use erw_runner::kind::StageKind;
use erw_runner::kind::attempt::Attempt;
use erw_runner::kind::field::{Params as Values, parse};
use serde::Deserialize;

pub const KIND: StageKind = StageKind {
    name: "train-encoder",
    manifest: include_str!("../../../stages/train-encoder.toml"),
    check,
    facts: facts::train_encoder,
    foresee: None,
    run,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    seed: u64,
    objective: Objective,
    patch_size: usize,
    dim: usize,
    depth: usize,
    heads: usize,
    mask_ratio: f64,
    batch: usize,
    neighbours: usize,
    #[serde(flatten)]
    optimization: Optimization,
}

fn check(params: &Values, operation: &Values, _: &[&str]) -> Result<()> {
    parse::<LoopSettings>(operation)?;
    let p: Params = parse(params)?;
    p.optimization.check()?;
    if !p.dim.is_multiple_of(p.heads) {
        return Err(Error::usage(format!("`dim` {} is not a multiple of `heads` {}", p.dim, p.heads)));
    }
    Ok(())
}

fn run(attempt: &Attempt) -> Result<()> {
    let p: Params = attempt.params()?;
    let device = device(attempt.device())?;
    let images = ImageSet::open(attempt.input("images")?)?;
    let config = config(&p, &images)?;
    let held_out = attempt.optional_input("holdout").map(ImageSet::open).transpose()?;
    if let Some(held_out) = &held_out {
        let ours = Named { what: "input `holdout` has", classes: held_out.classes() };
        let theirs = Named { what: "input `images` has", classes: images.classes() };
        check_common(&ours, &theirs, "classes are numbered in the order of their names: both sets must have the same")?;
    }
    let learner = Learner::new(&config.vit, p.objective, images.classes().len(), p.mask_ratio, p.seed, &device)?;
    attempt.log(&format!("{} parameters, {} tokens per image", learner.params.count(), config.vit.tokens()));
    let trained = train(attempt, &p, &config, &learner, &images, &device)?;
    let out = attempt.output("encoder");
    create_dir(&out)?;
    params::save(&pretrain::transformer_only(&trained.ema)?, &out.join(WEIGHTS_FILE))?;
    write_json(&out.join(CONFIG_FILE), &config)?;
    report(attempt, &p, &trained, &images, held_out.as_ref(), &device)
}

fn transformer(p: &Params, image_size: usize) -> VitConfig {
    let plain = VitConfig::new(image_size, p.patch_size, p.dim, p.depth, p.heads);
    VitConfig { class_token: false, exact_gelu: false, ..plain }
}

/// The transformer that a stage with these parameters makes, for images of `grid` patches a side.
pub fn planned(params: &Values, grid: usize) -> Option<VitConfig> {
    parse::<Params>(params).ok().map(|p| transformer(&p, grid * p.patch_size))
}

fn config(p: &Params, images: &ImageSet) -> Result<EncoderConfig> {
    if images.height() != images.width() {
        let text = format!("images of {} x {} pixels are not square", images.height(), images.width());
        return Err(Error::stage(text));
    }
    let vit = transformer(p, images.height());
    vit.check()?;
    Ok(EncoderConfig::fixed(vit, [0.5; 3], [0.5; 3]))
}

fn train(
    attempt: &Attempt,
    p: &Params,
    config: &EncoderConfig,
    learner: &Learner,
    images: &ImageSet,
    device: &Device,
) -> Result<Trained> {
    let labels = images.labels();
    type Batch = (Vec<u64>, Tensor, Tensor);
    let make = |(step, micro): MicroBatch| -> candle_core::Result<Batch> {
        let ids = batch_indices(p.seed, step, micro, 1, p.batch, images.len() as usize);
        let picked: Vec<i64> = ids.iter().map(|i| labels[*i as usize]).collect();
        let x = config.prepare(&images.batch(&ids, &Device::Cpu)?)?;
        let y = Tensor::from_vec(picked, ids.len(), &Device::Cpu)?;
        Ok((ids, x, y))
    };
    let loss = |step, (ids, x, y): Batch| {
        let loss = learner.loss(&x.to_device(device)?, &y.to_device(device)?, step, &ids)?;
        Ok(StepLoss { loss, parts: vec![] })
    };
    warn_of_copies(attempt, p.batch, images.len());
    let cfg = p.optimization.fit(attempt, p.batch, 1)?;
    trainer::train(attempt, &learner.params, &cfg, &mut Callbacks::default(), &make, &loss)
}

/// The key metric comes first: accuracy on the held-out images if there are any, otherwise the
/// final loss.
fn report(
    attempt: &Attempt,
    p: &Params,
    trained: &Trained,
    images: &ImageSet,
    held_out: Option<&ImageSet>,
    device: &Device,
) -> Result<()> {
    if let Some(held_out) = held_out {
        let encoder = Encoder::open(&attempt.output("encoder"), device)?;
        let (bank, queries) = (mean_tokens(&encoder, images, device)?, mean_tokens(&encoder, held_out, device)?);
        let accuracy = knn::accuracy(&bank, &images.labels(), &queries, &held_out.labels(), p.neighbours)?;
        attempt.result("knn_accuracy", accuracy);
    }
    if let Some(last) = trained.curve.last() {
        attempt.result("loss", last.loss);
    }
    Ok(())
}

/// Mean patch token of every image, f32 `[n, D]`.
fn mean_tokens(encoder: &Encoder, images: &ImageSet, device: &Device) -> Result<Tensor> {
    let ids: Vec<u64> = (0..images.len()).collect();
    let means = ids.chunks(128).map(|ids| encoder.tokens(&images.batch(ids, device)?)?.mean(1));
    Ok(Tensor::cat(&means.collect::<candle_core::Result<Vec<_>>>()?, 0)?)
}
