//! `train`: full training of a SiT, velocity loss plus a scheduled alignment loss; phase 2 of ERW when it starts from
//! warmed-up blocks, REPA when it starts fresh with a constant coefficient, SiT with none.

use super::Reporter;
use super::examples::{Architecture, Depths, Draw, Examples, write_artifact};
use super::feature_source::Mode;
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
use crate::ml::weights::{self, ParamSet};
use crate::runner::attempt::Attempt;
use crate::runner::manifest::{Params as Values, StageKind};
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use std::path::Path;

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

/// Which weights of an artifact to take.
#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Weights {
    Model,
    Ema,
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
    let loaded = take_over(attempt, &p, &params, &model)?;
    let training = Training { p: &p, schedule, examples: &examples, config: &config, model: &model, device: &device };
    let mut step_loss = |step, micro| training.loss(step, micro);
    let Fit::Done(trained) =
        fit(&params, &p.fit(attempt)?, &Reporter(attempt), &mut step_loss)?
    else {
        return Err(Error::suspended());
    };
    report(attempt, &trained, loaded);
    write_artifact(&attempt.output("sit"), &model, &trained, &examples.note(p.path))
}

/// Copies what fits of the `init` artifact into the parameters, and tells what did and what did not. Returns how many
/// tensors did; `None` without `init`.
fn take_over(attempt: &Attempt, p: &Params, params: &ParamSet, model: &SiT) -> Result<Option<usize>> {
    let Some(dir) = attempt.optional_input("init") else { return Ok(None) };
    same_attention(dir, model.config())?;
    let file = match p.init_weights {
        Weights::Model => "model.safetensors",
        Weights::Ema => "ema.safetensors",
    };
    let saved = weights::load(&dir.join(file), &Device::Cpu)?;
    let report = params.assign(&saved)?;
    if report.loaded.is_empty() {
        let text = format!("no tensor of `init` ({file}) has a name and shape of this model");
        return Err(Error::stage(text).because(report));
    }
    if let Some(first) = report.mismatched.first() {
        let text = format!("`init` is of another architecture: {} tensors differ in shape", report.mismatched.len());
        return Err(Error::stage(text).because(first).hint("give `warmup` and `train` the same model parameters"));
    }
    let unused: Vec<&String> = report.unexpected.iter().filter(|n| !model.buffers().contains_key(*n)).collect();
    for (names, fate) in [(&report.loaded, "loaded"), (&report.missing, "fresh")] {
        if !names.is_empty() {
            attempt.log(&format!("hand-over from `init`: {} tensors {fate} ({})", names.len(), layers(names)));
        }
    }
    if !unused.is_empty() {
        attempt.log(&format!("in `init` but not in this model: {unused:?}"));
    }
    Ok(Some(report.loaded.len()))
}

/// Names of tensors by layer, in a line: `blocks.0-3, x_embedder`.
fn layers(names: &[String]) -> String {
    let mut groups: Vec<(&str, Vec<usize>)> = vec![];
    for name in names {
        let mut parts = name.split('.');
        let (first, number) = (parts.next().unwrap_or_default(), parts.next().and_then(|n| n.parse::<usize>().ok()));
        let group = match groups.iter().position(|(g, _)| *g == first) {
            Some(at) => at,
            None => {
                groups.push((first, vec![]));
                groups.len() - 1
            }
        };
        groups[group].1.extend(number);
    }
    let text = groups.into_iter().map(|(name, mut numbers)| {
        numbers.sort_unstable();
        numbers.dedup();
        match (numbers.first(), numbers.last()) {
            (Some(a), Some(b)) if a == b => format!("{name}.{a}"),
            (Some(a), Some(b)) if b - a + 1 == numbers.len() => format!("{name}.{a}-{b}"),
            (Some(_), _) => format!("{name}.{numbers:?}"),
            _ => name.to_string(),
        }
    });
    text.collect::<Vec<_>>().join(", ")
}

/// Refuses to go on from blocks that attended in another way. A rotary embedding has no weights of its own: the names
/// and shapes of tensors do not tell whether it was there, and the warmed-up blocks would be of little use.
fn same_attention(dir: &Path, ours: &SiTConfig) -> Result<()> {
    // Weights from elsewhere may come without a configuration.
    let Ok(text) = std::fs::read_to_string(dir.join("config.json")) else { return Ok(()) };
    let Ok(theirs) = serde_json::from_str::<SiTConfig>(&text) else { return Ok(()) };
    let settings = [("rope", theirs.rope, ours.rope), ("qk_norm", theirs.qk_norm, ours.qk_norm)];
    match settings.into_iter().find(|(_, theirs, ours)| theirs != ours) {
        None => Ok(()),
        Some((name, theirs, ours)) => {
            Err(Error::stage(format!("`init` was trained with `{name} = {theirs}`, this stage has `{name} = {ours}`"))
                .hint(format!("give both stages the same `{name}`")))
        }
    }
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

#[cfg(test)]
mod tests {
    #[test]
    fn layers_are_told_in_a_line() {
        let names = ["blocks.0.a", "blocks.10.a", "blocks.9.b", "blocks.9.a", "final.w", "projectors.0.2.bias"];
        let told = |from: usize| super::layers(&names[from..].iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(told(0), "blocks.[0, 9, 10], final, projectors.0");
        assert_eq!(told(1), "blocks.9-10, final, projectors.0");
    }
}
