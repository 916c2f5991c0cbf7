//! `train`: full training of a SiT, velocity loss plus a scheduled alignment loss; phase 2 of ERW when it starts from
//! warmed-up blocks, REPA when it starts fresh with a constant coefficient, SiT with none.

use super::alignment::{Alignment, check_pairs_of_batch};
use super::architecture::{Architecture, Depths};
use super::dataset::{Batch, Examples};
use super::preview::Preview;
use super::settings::{LoopSettings, Optimization};
use super::sit::{SitTraining, Start};
use super::validation::{self, Validation};
use super::{size_defaults, trainer};
use crate::support::params::{device, usage};
use crate::support::sit_artifact::{CUSTOM, TrainingNote, write_artifact, write_snapshots};
use crate::support::{ema_files, facts};
use candle_core::{Device, Tensor};
use erw_base::error::{Error, Result};
use erw_ml::data::prefetch::MicroBatch;
use erw_ml::diffusion::alignment_schedule::Schedule;
use erw_ml::diffusion::interpolant::{Path as NoisePath, TimeDistribution};
use erw_ml::diffusion::loss;
use erw_ml::models::sit::{Also, SiT, SiTConfig};
use erw_ml::nn::params::Tensors;
use erw_ml::one_or_many::OneOrMany;
use erw_ml::rng::{self, Purpose};
use erw_ml::train::config::StepLoss;
use erw_ml::train::trained::Trained;
use erw_ml::train::{Hooks, Snapshots};
use erw_runner::kind::StageKind;
use erw_runner::kind::attempt::Attempt;
use erw_runner::kind::field::{Params as Values, parse};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub const KIND: StageKind =
    StageKind { name: "train", manifest: include_str!("../../../stages/train.toml"), check, facts: facts::train, run };

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    #[serde(flatten)]
    phase: SitTraining,
    #[serde(flatten)]
    architecture: Architecture,
    #[serde(flatten)]
    optimization: Optimization,
    #[serde(flatten)]
    validation: validation::Settings,
    /// Left out, as all that is optional here: by the network's size.
    encoder_depth: Option<OneOrMany<usize>>,
    path: NoisePath,
    time: TimeDistribution,
    alignment: String,
    alignment_weight: Option<f64>,
    alignment_steps: u64,
    #[serde(flatten)]
    comparison: Alignment,
    dispersive: f64,
    dispersive_depth: Option<usize>,
    dispersive_temperature: f64,
    /// Steps after which the averaged weights are kept.
    snapshots: Vec<u64>,
}

impl Params {
    fn alignment_weight(&self) -> f64 {
        let default = || size_defaults::alignment_weight(self.architecture.model(), &self.alignment);
        self.alignment_weight.unwrap_or_else(default)
    }

    fn schedule(&self) -> Result<Schedule> {
        Schedule::new(&self.alignment, self.alignment_weight(), self.alignment_steps).map_err(usage)
    }

    fn depths(&self) -> Result<Depths> {
        let default = || size_defaults::encoder_depth(self.architecture.model(), &self.alignment);
        let encoder = match (&self.encoder_depth, default()) {
            (Some(given), _) => given.to_vec(),
            (None, Some(block)) => vec![block],
            // Nothing is projected.
            (None, None) if self.schedule()? == Schedule::None => vec![1],
            (None, None) => return Err(Error::usage(format!("`model = \"{CUSTOM}\"` needs `encoder_depth`"))),
        };
        Ok(Depths { encoder, warmup: None })
    }

    /// Block, from 1, whose output is dispersed.
    fn dispersed(&self) -> Result<Option<usize>> {
        let blocks = self.architecture.sizes()?.1;
        let depth = self.dispersive_depth.unwrap_or((blocks / 4).max(1));
        if depth > blocks {
            return Err(Error::usage(format!("`dispersive_depth` {depth} is not one of the blocks 1 to {blocks}")));
        }
        Ok((self.dispersive > 0.0).then_some(depth))
    }

    /// What was left out and is not the same for all networks, as it was taken.
    fn resolved(&self) -> Result<BTreeMap<String, Value>> {
        let mut values = BTreeMap::new();
        let aligned = self.schedule()? != Schedule::None;
        if aligned && self.alignment_weight.is_none() {
            values.insert("alignment_weight".to_string(), json!(self.alignment_weight()));
        }
        if aligned && self.encoder_depth.is_none() {
            values.insert("encoder_depth".to_string(), json!(self.depths()?.encoder[0]));
        }
        if let (Some(depth), None) = (self.dispersed()?, self.dispersive_depth) {
            values.insert("dispersive_depth".to_string(), json!(depth));
        }
        Ok(values)
    }

    /// Is there a block for every encoder that is connected?
    fn check_depths(&self, inputs: &[&str]) -> Result<()> {
        let Some(OneOrMany::Many(depths)) = &self.encoder_depth else { return Ok(()) };
        let slot = self.phase.features.slot();
        let encoders = inputs.iter().filter(|i| i.split('.').next() == Some(slot)).count();
        if depths.len() == encoders {
            return Ok(());
        }
        let text = format!("`encoder_depth` has {} blocks, but input `{slot}` is {encoders} artifacts", depths.len());
        Err(Error::usage(text).hint("give one block for each, or a single number for all"))
    }
}

fn check(params: &Values, operation: &Values, inputs: &[&str]) -> Result<()> {
    parse::<LoopSettings>(operation)?;
    let p: Params = parse(params)?;
    // Without alignment, features may be connected or not: trials with and without share their inputs.
    let (phase, batch) = (&p.phase, p.phase.batch);
    if p.schedule()? != Schedule::None {
        phase.features.check(inputs).map_err(|e| e.hint("or set `alignment = \"none\"`, which takes none"))?;
        phase.features.check_flip(phase.flip)?;
        p.check_depths(inputs)?;
        p.comparison.check(batch, phase.accumulate)?;
    }
    if p.dispersed()?.is_some() {
        check_pairs_of_batch("dispersive", batch, phase.accumulate)?;
    }
    ema_files::check_steps(&p.snapshots, p.optimization.steps)?;
    phase.check()?;
    p.validation.check(inputs)?;
    p.optimization.check()?;
    p.architecture.check(p.depths()?)
}

fn run(attempt: &Attempt) -> Result<()> {
    let p: Params = attempt.params()?;
    let device = device(attempt.device())?;
    let schedule = p.schedule()?;
    let features = (schedule != Schedule::None).then_some(p.phase.features);
    let examples = Examples::open(attempt, features, &device)?;
    examples.check_flip(p.phase.flip)?;
    let config = examples.network(&p.architecture, p.depths()?)?;
    let resolved = p.resolved()?;
    for (name, value) in &resolved {
        attempt.log(&format!("`{name}` is left out; for this network and method it is {value}"));
    }
    let Start { params, model, loaded } = p.phase.start(attempt, &config, &device)?;
    let dispersed = p.dispersed()?;
    let training =
        Training { p: &p, schedule, dispersed, examples: &examples, config: &config, model: &model, device: &device };
    let cfg = p.phase.fit(attempt, &p.optimization)?;
    let (make, step_loss) = (|place| training.prepare(place), |step, noised| training.loss(step, noised));
    let snapshots = Snapshots { dir: attempt.checkpoint_dir().join("snapshots"), steps: p.snapshots.clone() };
    let mut watch = Hooks { snapshots: Some(snapshots.clone()), ..watch(attempt, &training)? };
    let trained = trainer::train(attempt, &params, &cfg, &mut watch, &make, &step_loss)?;
    report(attempt, &trained, loaded);
    let out = attempt.output("sit");
    let note = TrainingNote { resolved, ..examples.note(p.path) };
    write_artifact(&out, &model, &trained, &note)?;
    write_snapshots(&out, &model, &snapshots)?;
    validation::write(attempt, &out, &trained, "velocity")
}

/// What looks at this training.
fn watch<'a>(attempt: &'a Attempt, training: &Training<'a>) -> Result<Hooks<'a>> {
    let Training { p, config, device, examples, .. } = *training;
    let mut watch = Hooks::default();
    let phase = &p.phase;
    if let Some(v) = Validation::open(attempt, &p.validation, examples, phase.seed, phase.micro_batch(), device)? {
        let losses = Box::new(move |weights: &Tensors| v.velocity(config, p.path, weights));
        watch.validate = Some((p.validation.validate_every, losses));
    }
    let LoopSettings { samples_every, .. } = attempt.operation()?;
    if samples_every > 0 {
        let preview = Preview::open(attempt, config, p.path, phase.seed, device)?;
        watch.show = Some((samples_every, Box::new(move |step, ema: &Tensors| preview.show(step, ema))));
    }
    Ok(watch)
}

/// The loss as a function of the step.
struct Training<'a> {
    p: &'a Params,
    schedule: Schedule,
    /// Block, from 1, whose output is dispersed.
    dispersed: Option<usize>,
    examples: &'a Examples,
    config: &'a SiTConfig,
    model: &'a SiT,
    device: &'a Device,
}

/// A micro-batch on its way to noise, on the CPU.
struct Noised {
    batch: Batch,
    t: Tensor,
    point: Tensor,
    /// Its velocity, which the network is to tell.
    target: Tensor,
}

impl Training<'_> {
    /// All that a step needs besides the network and what encoders compute online.
    fn prepare(&self, place: MicroBatch) -> candle_core::Result<Noised> {
        let (p, step) = (self.p, place.0);
        let draw = p.phase.draw();
        let batch = self.examples.batch(&draw, self.config, place, self.schedule.at(step) != 0.0)?;
        let x = &batch.latents;
        let noise = rng::normal_rows(draw.seed, Purpose::Noise, step, &batch.slots, &x.dims()[1..], &Device::Cpu)?;
        let t = p.time.draw(p.path, draw.seed, step, &batch.slots);
        let (point, target) = p.path.point_and_velocity(x, &noise, &t)?;
        Ok(Noised { t: Tensor::new(t, &Device::Cpu)?, point, target, batch })
    }

    fn loss(&self, step: u64, noised: Noised) -> candle_core::Result<StepLoss> {
        let batch = &noised.batch;
        let here = |t: &Tensor| t.to_device(self.device);
        let (t, point, target) = (here(&noised.t)?, here(&noised.point)?, here(&noised.target)?);
        let classes = here(&batch.classes)?;
        let number = |t: &Tensor| t.to_scalar::<f32>().map(f64::from);
        let weight = self.schedule.at(step);
        // Without weight neither encoders nor projectors are run; the moments and weights of these rest.
        let also = Also { projections: weight != 0.0, hidden: self.dispersed };
        let out = self.model.forward_with(&point, &t, &classes, &also)?;
        let velocity = loss::velocity(&out.velocity, &target)?;
        let mut parts = vec![("velocity", number(&velocity)?)];
        let (mut loss, mut aligned) = (velocity, 0.0);
        if weight != 0.0 {
            let align = self.p.comparison.loss(self.examples.features(batch)?, &out.projections)?;
            aligned = number(&align)?;
            loss = (loss + (align * weight)?)?;
        }
        parts.extend([("alignment", aligned), ("alignment_weight", weight)]);
        if let Some(hidden) = &out.hidden {
            let spread = loss::dispersive(hidden, self.p.dispersive_temperature)?;
            parts.push(("dispersive", number(&spread)?));
            loss = (loss + (spread * self.p.dispersive)?)?;
        }
        Ok(StepLoss { loss, parts })
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
