//! `train`: full training of a SiT with the velocity loss plus a scheduled alignment loss. It is
//! phase 2 of ERW if it starts from warmed-up blocks, REPA if it starts fresh with a constant
//! coefficient, and plain SiT without alignment.

use super::architecture::{Architecture, Depths};
use super::batch_pairs::{self, check_pairs_of_batch};
use super::gpu::{self, OnGpu};
use super::ranks::with_ranks;
use super::settings::{LoopSettings, Optimization};
use super::sit::{SitTraining, Start};
use super::{dataset, preview_output, size_defaults, trainer, validation_params};
use crate::support::params::{device, usage};
use crate::support::sit_artifact::{CUSTOM, TrainingNote, write_artifact, write_snapshots};
use crate::support::{ema_files, facts};
use erw_base::error::{Error, Result};
use erw_ml::diffusion::alignment::Alignment;
use erw_ml::diffusion::alignment_schedule::Schedule;
use erw_ml::diffusion::interpolant::{Path as NoisePath, TimeDistribution};
use erw_ml::models::sit::SiTConfig;
use erw_ml::nn::params::Tensors;
use erw_ml::one_or_many::OneOrMany;
use erw_ml::train::config::FitConfig;
use erw_ml::train::outcome::Trained;
use erw_ml::train::sit::batch::Examples;
use erw_ml::train::sit::flow::{Dispersion, FlowMatching};
use erw_ml::train::{Callbacks, Snapshots};
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
    validation: validation_params::Settings,
    /// If unset, the default depends on the size of the network, as for all optional parameters
    /// here.
    encoder_depth: Option<OneOrMany<usize>>,
    path: NoisePath,
    time: TimeDistribution,
    velocity_cosine: f64,
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
            // Nothing is projected, so any block will do.
            (None, None) if self.schedule()? == Schedule::None => vec![1],
            (None, None) => return Err(Error::usage(format!("`model = \"{CUSTOM}\"` needs `encoder_depth`"))),
        };
        Ok(Depths { encoder, warmup: None })
    }

    fn dispersion(&self) -> Result<Option<Dispersion>> {
        let blocks = self.architecture.sizes()?.1;
        let depth = self.dispersive_depth.unwrap_or((blocks / 4).max(1));
        if depth > blocks {
            return Err(Error::usage(format!("`dispersive_depth` {depth} is not one of the blocks 1 to {blocks}")));
        }
        let (weight, temperature) = (self.dispersive, self.dispersive_temperature);
        Ok((weight > 0.0).then_some(Dispersion { weight, block: depth, temperature }))
    }

    /// The values used for unset parameters whose default depends on network and method.
    fn resolved(&self) -> Result<BTreeMap<String, Value>> {
        let mut values = BTreeMap::new();
        let aligned = self.schedule()? != Schedule::None;
        if aligned && self.alignment_weight.is_none() {
            values.insert("alignment_weight".to_string(), json!(self.alignment_weight()));
        }
        if aligned && self.encoder_depth.is_none() {
            values.insert("encoder_depth".to_string(), json!(self.depths()?.encoder[0]));
        }
        if let (Some(dispersion), None) = (self.dispersion()?, self.dispersive_depth) {
            values.insert("dispersive_depth".to_string(), json!(dispersion.block));
        }
        Ok(values)
    }

    /// A setting that erw's GPU kernels do not cover, if there is one.
    fn uncovered(&self) -> Result<Option<&'static str>> {
        let aligned = self.schedule()? != Schedule::None;
        let settings = [
            self.comparison.beyond_cosine().filter(|_| aligned),
            (self.velocity_cosine > 0.0).then_some("velocity_cosine"),
            self.dispersion()?.map(|_| "dispersive"),
        ];
        Ok(settings.into_iter().flatten().next())
    }

    /// A relation is scheduled with the alignment, so without one it would do nothing.
    fn check_relation(&self) -> Result<()> {
        if self.comparison.relation > 0.0 && self.schedule()? == Schedule::None {
            let text = "`relation` is given, but nothing is aligned";
            return Err(Error::usage(text).hint("set `alignment` and its weight, or leave out `relation`"));
        }
        Ok(())
    }

    /// Checks that a list `encoder_depth` has one block per connected encoder.
    fn check_depths(&self, inputs: &[&str]) -> Result<()> {
        let Some(OneOrMany::Many(depths)) = &self.encoder_depth else { return Ok(()) };
        let slot = self.phase.features.slot();
        let encoders = inputs.iter().filter(|i| i.split('.').next() == Some(slot)).count();
        if depths.len() == encoders {
            return Ok(());
        }
        let text = format!(
            "`encoder_depth` has {} blocks, but the number of artifacts of input `{slot}` is {encoders}",
            depths.len()
        );
        Err(Error::usage(text).hint("give one block for each, or a single number for all"))
    }
}

fn check(params: &Values, operation: &Values, inputs: &[&str]) -> Result<()> {
    parse::<LoopSettings>(operation)?;
    let p: Params = parse(params)?;
    // Without alignment, features may still be connected, so that trials with and without alignment
    // share their inputs.
    let (phase, batch) = (&p.phase, p.phase.batch);
    if p.schedule()? != Schedule::None {
        phase.features.check(inputs).map_err(|e| e.hint("or set `alignment = \"none\"`, which needs no features"))?;
        phase.features.check_flip(phase.flip)?;
        p.check_depths(inputs)?;
        batch_pairs::check(&p.comparison, batch, phase.accumulate)?;
    }
    if p.dispersion()?.is_some() {
        check_pairs_of_batch("dispersive", batch, phase.accumulate)?;
    }
    p.check_relation()?;
    ema_files::check_steps(&p.snapshots, p.optimization.steps)?;
    phase.check()?;
    p.validation.check(inputs)?;
    p.optimization.check()?;
    p.architecture.check(p.depths()?)
}

fn run(attempt: &Attempt) -> Result<()> {
    let p: Params = attempt.params()?;
    let (phase, schedule) = (&p.phase, p.schedule()?);
    let device = device(attempt.device())?;
    let mode = (schedule != Schedule::None).then_some(phase.features);
    let examples = dataset::open(attempt, mode, phase.flip, &device)?;
    let config = dataset::network(&examples, mode, &p.architecture, p.depths()?)?;
    let resolved = p.resolved()?;
    for (name, value) in &resolved {
        attempt.log(&format!("`{name}` is left out; for this network and method it is {value}"));
    }
    let cfg = phase.fit(attempt, &p.optimization)?;
    let dispersion = p.dispersion()?;
    let recipe =
        gpu::recipe(&config, phase.precision, phase.micro_batch(), &cfg, attempt, p.comparison.spatial_norm())?;
    let gpu = gpu::open(attempt, &device, &recipe, p.uncovered()?)?;
    let home = gpu::home(&device, gpu.as_ref());
    let Start { params, model, loaded } = phase.start(attempt, &config, &home)?;
    let training = FlowMatching {
        examples: &examples,
        model: &model,
        batches: phase.batches(),
        path: p.path,
        time: p.time,
        velocity_cosine: p.velocity_cosine,
        schedule,
        alignment: p.comparison,
        dispersion,
    };
    let snapshots = Snapshots { dir: attempt.checkpoint_dir().join("snapshots"), steps: p.snapshots.clone() };
    let mut watch = Callbacks { snapshots: Some(snapshots.clone()), ..watch(attempt, &p, &examples, &config)? };
    let make = |place| training.batch(place);
    let trained = with_ranks(attempt, gpu.as_ref(), |ranks| {
        let cfg = FitConfig { ranks, ..cfg };
        match &gpu {
            Some(gpu) => {
                let gpu = OnGpu { gpu, recipe: &recipe, model: &model };
                trainer::train_on_gpu(attempt, &gpu, &params, &cfg, &mut watch, &make, &|step, noised| {
                    training.feed(step, noised)
                })
            }
            None => trainer::train_on_ranks(attempt, &params, &cfg, &mut watch, &make, &|step, noised| {
                training.loss(step, &noised)
            }),
        }
    })?;
    let Some(trained) = trained else { return Ok(()) };
    report(attempt, &trained, loaded);
    let out = attempt.output("sit");
    let note = TrainingNote { resolved, ..dataset::note(&examples, p.path) };
    write_artifact(&out, &model, &trained, &note)?;
    write_snapshots(&out, &model, &snapshots)?;
    validation_params::write(attempt, &out, &trained, "velocity")
}

/// The callbacks of this training: validation and preview samples.
fn watch<'a>(
    attempt: &'a Attempt,
    p: &'a Params,
    examples: &'a Examples,
    config: &'a SiTConfig,
) -> Result<Callbacks<'a>> {
    let mut watch = Callbacks::default();
    let phase = &p.phase;
    if let Some(v) = validation_params::open(attempt, &p.validation, examples, phase.seed, phase.micro_batch())? {
        let losses = Box::new(move |weights: &Tensors| v.velocity(config, p.path, weights));
        watch.validate = Some((p.validation.validate_every, losses));
    }
    let LoopSettings { samples_every, .. } = attempt.operation()?;
    if samples_every > 0 {
        let channels = examples.latents.scale().channels.as_ref();
        let preview = preview_output::open(attempt, config, p.path, phase.seed, &examples.device, channels)?;
        watch.show = Some((
            samples_every,
            Box::new(move |step, ema: &Tensors| preview_output::show(attempt, &preview, step, ema)),
        ));
    }
    Ok(watch)
}

/// Reports the results, the key metric first.
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
