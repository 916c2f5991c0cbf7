//! `train`: full training of a SiT, velocity loss plus a scheduled alignment loss; phase 2 of ERW when it starts from
//! warmed-up blocks, REPA when it starts fresh with a constant coefficient, SiT with none.

use super::Reporter;
use super::examples::{Architecture, Depths, Draw, Examples, write_artifact};
use super::feature_source::Mode;
use super::hand_over::{Weights, take_over};
use super::support::{device, parse, usage};
use super::trainer::{Cadence, Optimization};
use crate::error::{Error, Result};
use crate::ml::align::Schedule;
use crate::ml::loss;
use crate::ml::models::sit::{SiT, SiTConfig};
use crate::ml::path::{Path as NoisePath, TimeDistribution};
use crate::ml::precision::Precision;
use crate::ml::rng::{self, Purpose};
use crate::ml::train::{Fit, FitConfig, StepLoss, Trained, fit};
use crate::ml::weights::ParamSet;
use crate::runner::attempt::Attempt;
use crate::runner::manifest::{Params as Values, StageKind};
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

pub const KIND: StageKind = StageKind { name: "train", manifest: include_str!("../../stages/train.toml"), check, run };

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    seed: u64,
    #[serde(flatten)]
    architecture: Architecture,
    encoder_depth: usize,
    init_weights: Weights,
    path: NoisePath,
    time: TimeDistribution,
    features: Mode,
    alignment: String,
    alignment_weight: f64,
    alignment_steps: u64,
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
        Depths { encoder: self.encoder_depth, warmup: None }
    }

    fn schedule(&self) -> Result<Schedule> {
        Schedule::new(&self.alignment, self.alignment_weight, self.alignment_steps).map_err(usage)
    }
}

fn check(params: &Values, operation: &Values, inputs: &[&str]) -> Result<()> {
    parse::<Cadence>(operation)?;
    let p: Params = parse(params)?;
    // Without alignment, features may be connected or not: trials with and without share their inputs.
    if p.schedule()? != Schedule::None {
        p.features.check(inputs).map_err(|e| e.hint("or set `alignment = \"none\"`, which takes none"))?;
    }
    super::examples::check_batch(p.batch, p.accumulate)?;
    p.architecture.check(p.depths())
}

fn run(attempt: &Attempt) -> Result<()> {
    let p: Params = attempt.params()?;
    let device = device(attempt.device())?;
    let schedule = p.schedule()?;
    let features = (schedule != Schedule::None).then_some(p.features);
    let examples = Examples::open(attempt, features, &device)?;
    let config = examples.network(&p.architecture, p.depths())?;
    let (params, vb) = ParamSet::init(p.seed, DType::F32, &device);
    let model = SiT::new(&config, vb)?.with_precision(p.precision);
    p.precision.caveat(&device).into_iter().for_each(|text| attempt.log(text));
    attempt.log(&format!("{} parameters in {} blocks", params.count(), config.depth));
    let loaded = take_over(attempt, p.init_weights, &params, &model)?;
    let training = Training { p: &p, schedule, examples: &examples, config: &config, model: &model, device: &device };
    let mut step_loss = |step, micro| training.loss(step, micro);
    let Fit::Done(trained) = fit(&params, &p.fit(attempt)?, &Reporter(attempt), &mut step_loss)? else {
        return Err(Error::suspended());
    };
    report(attempt, &trained, loaded);
    write_artifact(&attempt.output("sit"), &model, &trained, &examples.note(p.path))
}

/// The loss as a function of the step.
struct Training<'a> {
    p: &'a Params,
    schedule: Schedule,
    examples: &'a Examples,
    config: &'a SiTConfig,
    model: &'a SiT,
    device: &'a Device,
}

impl Training<'_> {
    fn loss(&self, step: u64, micro: usize) -> candle_core::Result<StepLoss> {
        let p = self.p;
        let draw = Draw { seed: p.seed, batch: p.batch, accumulate: p.accumulate };
        let batch = self.examples.batch(&draw, self.config, step, micro)?;
        let x = &batch.latents;
        let noise = rng::normal_rows(p.seed, Purpose::Noise, step, &batch.slots, &x.dims()[1..], self.device)?;
        let t = p.time.draw(p.path, p.seed, step, &batch.slots);
        let (point, target) = p.path.point_and_velocity(x, &noise, &t)?;
        let t = Tensor::new(t, self.device)?;
        let number = |t: &Tensor| t.to_scalar::<f32>().map(f64::from);
        let weight = self.schedule.at(step);
        if weight == 0.0 {
            // Neither encoders nor projectors are run; the moments and weights of these rest.
            let velocity = loss::velocity(&self.model.velocity(&point, &t, &batch.classes)?, &target)?;
            let parts = vec![("velocity", number(&velocity)?), ("alignment", 0.0), ("alignment_weight", 0.0)];
            return Ok(StepLoss { loss: velocity, parts });
        }
        let features = self.examples.features(&batch)?;
        let (v, projections) = self.model.forward(&point, &t, &batch.classes)?;
        let velocity = loss::velocity(&v, &target)?;
        let align = loss::alignment(&features, &projections)?;
        let parts =
            vec![("velocity", number(&velocity)?), ("alignment", number(&align)?), ("alignment_weight", weight)];
        Ok(StepLoss { loss: (velocity + (align * weight)?)?, parts })
    }
}

/// The key metric first.
fn report(attempt: &Attempt, trained: &Trained, loaded: Option<usize>) {
    if let Some(last) = trained.curve.last() {
        for name in ["velocity", "alignment"] {
            if let Some(value) = last.parts.get(name) {
                attempt.result(name, *value);
            }
        }
    }
    if let Some(loaded) = loaded {
        attempt.result("loaded_tensors", loaded as f64);
    }
}
