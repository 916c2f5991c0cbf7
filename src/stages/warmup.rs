//! `warmup`: phase 1 of ERW. The first `depth` blocks of a SiT learn to put an encoder's features into clean latents:
//! t = 0, alignment loss only, weight 1. What follows trains the whole network from these blocks.

use super::alignment::Alignment;
use super::examples::{Architecture, Batch, Depths, Draw, Examples, write_artifact};
use super::feature_source::Mode;
use super::support::{device, parse};
use super::trainer::{Cadence, Optimization, train};
use crate::error::{Error, Result};
use crate::ml::models::sit::SiT;
use crate::ml::path::Path;
use crate::ml::train::{Fit, StepLoss};
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
    features: Mode,
    #[serde(flatten)]
    alignment: Alignment,
    flip: f64,
    batch: usize,
    accumulate: usize,
    #[serde(flatten)]
    optimization: Optimization,
}

impl Params {
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
    let model = SiT::new(&config, vb)?;
    attempt.log(&format!("{} parameters in {} of {} blocks", params.count(), config.blocks(), config.depth));
    let draw = Draw { seed: p.seed, batch: p.batch, accumulate: p.accumulate, flip: p.flip };
    let align = |_, batch: Batch| {
        let t = Tensor::zeros(batch.slots.len(), DType::F32, &device)?;
        let features = examples.features(&batch)?;
        let (latents, classes) = (batch.latents.to_device(&device)?, batch.classes.to_device(&device)?);
        let projections = model.projections(&latents, &t, &classes)?;
        Ok(StepLoss { loss: p.alignment.loss(features, &projections)?, parts: vec![] })
    };
    let cfg = p.optimization.fit(attempt, p.accumulate)?;
    let make = |place| examples.batch(&draw, &config, place, true);
    let Fit::Done(trained) = train(attempt, &params, &cfg, &make, &align)? else {
        return Err(Error::suspended());
    };
    if let Some(last) = trained.curve.last() {
        attempt.result("alignment", last.loss);
    }
    write_artifact(&attempt.output("warmed"), &model, &trained, &examples.note(Path::Linear))
}
