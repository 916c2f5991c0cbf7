//! `train-classifier`: trains a small classifier on images. Its accuracy on samples evaluates them,
//! and its features measure Fréchet distances.

use super::settings::{LoopSettings, Optimization};
use super::trainer;
use crate::support::files::{create_dir, write_json};
use crate::support::params::{device, usage};
use crate::support::same_classes::{Named, check_common};
use candle_core::{DType, Device, Tensor};
use erw_base::error::{Error, Result};
use erw_ml::data::augment;
use erw_ml::data::batches::batches;
use erw_ml::data::images::ImageSet;
use erw_ml::data::prefetch::MicroBatch;
use erw_ml::metrics::confusion::Confusion;
use erw_ml::models::classifier::{Classifier, ClassifierConfig, cross_entropy};
use erw_ml::models::feature_network::pixels_to_unit;
use erw_ml::nn::params::{self, ParamSet};
use erw_ml::train::config::StepLoss;
use erw_ml::train::outcome::Trained;
use erw_ml::train::{Callbacks, batch_indices};
use erw_runner::kind::attempt::Attempt;
use erw_runner::kind::field::{Params as Values, parse};
use erw_runner::kind::{StageKind, no_facts};
use serde::Deserialize;

pub const KIND: StageKind = StageKind {
    name: "train-classifier",
    manifest: include_str!("../../../stages/train-classifier.toml"),
    check,
    facts: no_facts,
    foresee: None,
    run,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    seed: u64,
    channels: Vec<usize>,
    features: usize,
    norm_num_groups: usize,
    shift: usize,
    batch: usize,
    #[serde(flatten)]
    optimization: Optimization,
}

impl Params {
    fn network(&self, classes: Vec<String>, height: usize, width: usize) -> ClassifierConfig {
        ClassifierConfig {
            arch: Classifier::ARCH.into(),
            channels: self.channels.clone(),
            features: self.features,
            norm_num_groups: self.norm_num_groups,
            classes,
            height,
            width,
        }
    }
}

fn check(params: &Values, operation: &Values, _: &[&str]) -> Result<()> {
    parse::<LoopSettings>(operation)?;
    let p: Params = parse(params)?;
    p.optimization.check()?;
    p.network(vec![], 1, 1).check().map_err(usage)
}

fn run(attempt: &Attempt) -> Result<()> {
    let p: Params = attempt.params()?;
    let device = device(attempt.device())?;
    let images = ImageSet::open(attempt.input("images")?)?;
    let config = p.network(class_names(&images)?, images.height(), images.width());
    let holdout = attempt.optional_input("holdout").map(ImageSet::open).transpose()?;
    if let Some(holdout) = &holdout {
        check_holdout(&config, holdout)?;
    }
    let trained = train(attempt, &p, &config, &images, &device)?;
    let out = attempt.output("classifier");
    create_dir(&out)?;
    params::save(&trained.ema, &out.join("classifier.safetensors"))?;
    write_json(&out.join("config.json"), &config)?;

    let net = Classifier::load(&out, &device)?;
    if let Some(holdout) = &holdout {
        attempt.result("holdout_accuracy", accuracy(&net, holdout, p.batch, &device)?);
    }
    attempt.result("training_accuracy", accuracy(&net, &images, p.batch, &device)?);
    Ok(())
}

/// Checks the held-out set before training.
fn check_holdout(config: &ClassifierConfig, holdout: &ImageSet) -> Result<()> {
    let (ours, theirs) = ((config.height, config.width), (holdout.height(), holdout.width()));
    if ours != theirs {
        let text = format!("input `holdout` has images of {theirs:?} pixels, input `images` of {ours:?}");
        return Err(Error::stage(text).hint("use the same `resolution` for both"));
    }
    let ours = Named { what: "input `holdout` has", classes: holdout.classes() };
    let theirs = Named { what: "input `images` has", classes: &config.classes };
    check_common(&ours, &theirs, "classes are numbered in the order of their names: both sets must have the same")?;
    let known = config.classes.len();
    match holdout.labels().iter().find(|l| usize::try_from(**l).map_or(true, |l| l >= known)) {
        Some(label) => {
            Err(Error::stage(format!("input `holdout` has label {label}, but input `images` has {known} classes")))
        }
        None => Ok(()),
    }
}

/// Class names by label; numbers if the set has no names.
fn class_names(images: &ImageSet) -> Result<Vec<String>> {
    let labels = images.labels();
    let (Some(low), Some(high)) = (labels.iter().min(), labels.iter().max()) else {
        return Err(Error::stage("the images have no labels to learn"));
    };
    let named = images.classes();
    let count = (usize::try_from(*high).unwrap_or(0) + 1).max(named.len());
    if *low < 0 {
        return Err(Error::stage(format!("an image has the negative label {low}")));
    }
    Ok((0..count).map(|i| named.get(i).cloned().unwrap_or_else(|| i.to_string())).collect())
}

fn train(
    attempt: &Attempt,
    p: &Params,
    config: &ClassifierConfig,
    images: &ImageSet,
    device: &Device,
) -> Result<Trained> {
    let (params, vb) = ParamSet::init(p.seed, DType::F32, device);
    let net = Classifier::new(config, vb)?;
    let labels = images.labels();
    let make = |(step, micro): MicroBatch| -> candle_core::Result<(Tensor, Vec<i64>)> {
        let samples = batch_indices(p.seed, step, micro, 1, p.batch, labels.len());
        let x = augment::shift(&images.batch(&samples, &Device::Cpu)?, p.shift, p.seed, step, &samples)?;
        Ok((x, samples.iter().map(|s| labels[*s as usize]).collect()))
    };
    let loss = |_: u64, (x, wanted): (Tensor, Vec<i64>)| -> candle_core::Result<StepLoss> {
        let (loss, right) = cross_entropy(&net.logits(&pixels_to_unit(&x.to_device(device)?)?)?, &wanted)?;
        Ok(StepLoss { loss, parts: vec![("accuracy", right as f64 / wanted.len().max(1) as f64)] })
    };
    let cfg = p.optimization.fit(attempt, p.batch, 1)?;
    trainer::train(attempt, &params, &cfg, &mut Callbacks::default(), &make, &loss)
}

fn accuracy(net: &Classifier, images: &ImageSet, batch: usize, device: &Device) -> Result<f64> {
    let labels = images.labels();
    let mut answers = Confusion::new(net.config().classes.len());
    for range in batches(labels.len() as u64, batch) {
        let indices: Vec<u64> = range.clone().collect();
        let labels = &labels[range.start as usize..range.end as usize];
        answers.add(net, &images.batch(&indices, device)?, labels)?;
    }
    Ok(answers.accuracy())
}
