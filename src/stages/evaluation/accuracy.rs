//! `accuracy`: measures how often a classifier assigns a sample to the class that it was generated
//! for.

use crate::support::files::{create_dir, write_json};
use crate::support::params::{Walk, check_walk, device};
use crate::support::same_classes::{Named, check_same};
use candle_core::Device;
use erw_base::error::{Error, Result};
use erw_ml::data::batches::batches;
use erw_ml::data::images::ImageSet;
use erw_ml::metrics::bounds::Requirements;
use erw_ml::metrics::confusion::Confusion;
use erw_ml::models::classifier::Classifier;
use erw_runner::kind::attempt::Attempt;
use erw_runner::kind::{StageKind, no_facts};
use serde::Deserialize;
use serde_json::json;

pub const KIND: StageKind = StageKind {
    name: "accuracy",
    manifest: include_str!("../../../stages/accuracy.toml"),
    check: check_walk::<Params>,
    facts: no_facts,
    foresee: None,
    run,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {}

fn run(attempt: &Attempt) -> Result<()> {
    let (Params {}, o): (Params, Walk) = (attempt.params()?, attempt.operation()?);
    let device = device(attempt.device())?;
    let samples = ImageSet::open(attempt.input("samples")?)?;
    let net = Classifier::load(attempt.input("classifier")?, &device)?;
    net.check_size(samples.height(), samples.width()).map_err(|e| Error::from(e).context("input `samples`"))?;
    let ours = Named { what: "the samples have", classes: samples.classes() };
    let theirs = Named { what: "the classifier knows", classes: &net.config().classes };
    check_same(&ours, &theirs, "train the classifier on images of the same classes as the samples")?;
    let answers = classify(attempt, &net, &samples, o.batch, &device)?;
    let out = attempt.output("metrics");
    create_dir(&out)?;
    let accuracy = answers.accuracy();
    let warnings: Vec<String> = Requirements::PLAIN.poor("accuracy", answers.total()).into_iter().collect();
    warnings.iter().for_each(|text| attempt.log(text));
    let metrics = json!({
        "metric": "accuracy",
        "value": accuracy,
        "accuracy": accuracy,
        "per_class": answers.per_class(),
        "confusion": answers.counts(),
        "classes": net.config().classes,
        "count": answers.total(),
        "warnings": warnings,
    });
    write_json(&out.join("metrics.json"), &metrics)?;
    attempt.result("accuracy", accuracy);
    Ok(())
}

fn classify(
    attempt: &Attempt,
    net: &Classifier,
    samples: &ImageSet,
    batch: usize,
    device: &Device,
) -> Result<Confusion> {
    let labels = samples.labels();
    if labels.is_empty() || labels.len() as u64 != samples.len() {
        return Err(Error::stage("the samples have no labels"));
    }
    let mut answers = Confusion::new(net.config().classes.len());
    for range in batches(samples.len(), batch) {
        if attempt.should_stop() {
            return Err(Error::suspended());
        }
        let indices: Vec<u64> = range.clone().collect();
        let labels = &labels[range.start as usize..range.end as usize];
        answers.add(net, &samples.batch(&indices, device)?, labels)?;
        attempt.progress(range.end, samples.len());
    }
    Ok(answers)
}
