//! `warmup`: phase 1 of ERW. The first `depth` blocks of a SiT learn to put an encoder's features into clean latents:
//! t = 0, alignment loss only, weight 1. What follows trains the whole network from these blocks.

use super::alignment::Alignment;
use super::examples::{Architecture, Batch, Depths, Draw, Examples, write_artifact};
use super::feature_source::Mode;
use super::hand_over::take_over;
use super::support::{device, parse, write_json};
use super::trainer::{self, CONFIG_FILE, Cadence, Optimization};
use super::validation::{self, Validation};
use crate::error::Result;
use crate::ml::models::sit::SiT;
use crate::ml::path::Path;
use crate::ml::precision::Precision;
use crate::ml::train::{FitConfig, StepLoss, Watch};
use crate::ml::weights::{ParamSet, Tensors};
use crate::runner::attempt::Attempt;
use crate::runner::manifest::{Params as Values, StageKind};
use candle_core::{DType, Tensor};
use serde::Deserialize;

pub const KIND: StageKind =
    StageKind { name: "warmup", manifest: include_str!("../../stages/warmup.toml"), check, run };

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    seed: u64,
    #[serde(flatten)]
    architecture: Architecture,
    depth: usize,
    init_weights: String,
    features: Mode,
    #[serde(flatten)]
    alignment: Alignment,
    flip: f64,
    batch: usize,
    accumulate: usize,
    precision: Precision,
    #[serde(flatten)]
    optimization: Optimization,
    #[serde(flatten)]
    validation: validation::Settings,
}

impl Params {
    fn fit(&self, attempt: &Attempt) -> Result<FitConfig> {
        let config = self.optimization.fit(attempt, self.batch, self.accumulate)?;
        Ok(FitConfig { loss_scaling: self.precision.needs_loss_scaling(), ..config })
    }

    fn depths(&self) -> Depths {
        Depths { encoder: vec![self.depth], warmup: Some(self.depth) }
    }
}

fn check(params: &Values, operation: &Values, inputs: &[&str]) -> Result<()> {
    parse::<Cadence>(operation)?;
    let p: Params = parse(params)?;
    p.features.check(inputs)?;
    p.features.check_flip(p.flip)?;
    super::examples::check_batch(p.batch, p.accumulate)?;
    p.alignment.check(p.batch, p.accumulate)?;
    p.optimization.check()?;
    p.architecture.check(p.depths())
}

fn run(attempt: &Attempt) -> Result<()> {
    let p: Params = attempt.params()?;
    let device = device(attempt.device())?;
    let examples = Examples::open(attempt, Some(p.features), &device)?;
    examples.check_flip(p.flip)?;
    let config = examples.network(&p.architecture, p.depths())?;
    let (params, vb) = ParamSet::init(p.seed, DType::F32, &device);
    let keep = attempt.operation::<Cadence>()?.keep();
    let model = SiT::new(&config, vb)?.with_precision(p.precision).keeping(keep);
    p.precision.caveat(&device).into_iter().for_each(|text| attempt.log(text));
    attempt.log(&format!("{} parameters in {} of {} blocks", params.count(), config.blocks(), config.depth));
    let loaded = take_over(attempt, &p.init_weights, &params, &model)?;
    let draw = Draw { seed: p.seed, batch: p.batch, accumulate: p.accumulate, flip: p.flip };
    let align = |_, batch: Batch| {
        let t = Tensor::zeros(batch.slots.len(), DType::F32, &device)?;
        let features = examples.features(&batch)?;
        let (latents, classes) = (batch.latents.to_device(&device)?, batch.classes.to_device(&device)?);
        let projections = model.projections(&latents, &t, &classes)?;
        Ok(StepLoss { loss: p.alignment.loss(features, &projections)?, parts: vec![] })
    };
    let mut watch = Watch::default();
    if let Some(v) = Validation::open(attempt, &p.validation, &examples, p.seed, p.batch / p.accumulate, &device)? {
        let (config, features) = (&config, |rows: &[u64]| examples.features_of(rows));
        let losses = move |weights: &Tensors| v.alignment(config, weights, features);
        watch.validate = Some((p.validation.validate_every, Box::new(losses)));
    }
    let make = |place| examples.batch(&draw, &config, place, true);
    let cfg = p.fit(attempt)?;
    write_json(&attempt.checkpoint_dir().join(CONFIG_FILE), &config)?;
    let trained = trainer::train(attempt, &params, &cfg, &mut watch, &make, &align)?;
    if let Some(last) = trained.curve.last() {
        attempt.result("alignment", last.loss);
    }
    if let Some(loaded) = loaded {
        attempt.result("loaded_tensors", loaded as f64);
    }
    let out = attempt.output("warmed");
    write_artifact(&out, &model, &trained, &examples.note(Path::Linear))?;
    validation::write(attempt, &out, &trained, "alignment")
}
