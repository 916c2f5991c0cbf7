//! `warmup`: phase 1 of ERW. The first `depth` blocks of a SiT learn to put an encoder's features into clean latents:
//! t = 0, alignment loss only, weight 1. What follows trains the whole network from these blocks.

use super::Reporter;
use super::examples::{Architecture, Depths, Draw, Examples, write_artifact};
use super::feature_source::Mode;
use super::hand_over::{Weights, take_over};
use super::support::{device, parse};
use super::trainer::{Cadence, Optimization};
use crate::error::{Error, Result};
use crate::ml::loss;
use crate::ml::models::sit::SiT;
use crate::ml::path::Path;
use crate::ml::precision::Precision;
use crate::ml::train::{Fit, FitConfig, StepLoss, fit};
use crate::ml::weights::ParamSet;
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
    init_weights: Weights,
    features: Mode,
    batch: usize,
    accumulate: usize,
    precision: Precision,
    #[serde(flatten)]
    optimization: Optimization,
}

impl Params {
    fn fit(&self, attempt: &Attempt) -> Result<FitConfig> {
        let config = self.optimization.fit(attempt, self.accumulate)?;
        Ok(FitConfig { loss_scaling: self.precision.needs_loss_scaling(), ..config })
    }

    fn depths(&self) -> Depths {
        Depths { encoder: self.depth, warmup: Some(self.depth) }
    }
}

fn check(params: &Values, operation: &Values, inputs: &[&str]) -> Result<()> {
    parse::<Cadence>(operation)?;
    let p: Params = parse(params)?;
    p.features.check(inputs)?;
    super::examples::check_batch(p.batch, p.accumulate)?;
    p.architecture.check(p.depths())
}

fn run(attempt: &Attempt) -> Result<()> {
    let p: Params = attempt.params()?;
    let device = device(attempt.device())?;
    let examples = Examples::open(attempt, Some(p.features), &device)?;
    let config = examples.network(&p.architecture, p.depths())?;
    let (params, vb) = ParamSet::init(p.seed, DType::F32, &device);
    let model = SiT::new(&config, vb)?.with_precision(p.precision);
    p.precision.caveat(&device).into_iter().for_each(|text| attempt.log(text));
    attempt.log(&format!("{} parameters in {} of {} blocks", params.count(), config.blocks(), config.depth));
    let loaded = take_over(attempt, p.init_weights, &params, &model)?;
    let draw = Draw { seed: p.seed, batch: p.batch, accumulate: p.accumulate };
    let mut align = |step: u64, micro: usize| {
        let batch = examples.batch(&draw, &config, step, micro)?;
        let t = Tensor::zeros(batch.slots.len(), DType::F32, &device)?;
        let features = examples.features(&batch)?;
        let projections = model.projections(&batch.latents, &t, &batch.classes)?;
        Ok(StepLoss { loss: loss::alignment(&features, &projections)?, parts: vec![] })
    };
    let Fit::Done(trained) = fit(&params, &p.fit(attempt)?, &Reporter(attempt), &mut align)? else {
        return Err(Error::suspended());
    };
    if let Some(last) = trained.curve.last() {
        attempt.result("alignment", last.loss);
    }
    if let Some(loaded) = loaded {
        attempt.result("loaded_tensors", loaded as f64);
    }
    write_artifact(&attempt.output("warmed"), &model, &trained, &examples.note(Path::Linear))
}
