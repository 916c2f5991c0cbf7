//! `warmup`: phase 1 of ERW. The first `depth` blocks of a SiT learn to represent clean latents
//! (t = 0) by an encoder's features, with the alignment loss only, at weight 1. `train` then trains
//! the whole network from these blocks.

use super::architecture::{Architecture, Depths};
use super::gpu::{self, OnGpu};
use super::ranks::with_ranks;
use super::settings::{LoopSettings, Optimization};
use super::sit::{SitTraining, Start};
use super::validation_params::{self, Held};
use super::watched::{self, Watched};
use super::{batch_pairs, dataset, trainer};
use crate::support::facts;
use crate::support::params::device;
use crate::support::sit_artifact::write_artifact;
use erw_base::error::{Error, Result};
use erw_ml::diffusion::alignment::Alignment;
use erw_ml::diffusion::interpolant::Path;
use erw_ml::nn::params::Tensors;
use erw_ml::train::Callbacks;
use erw_ml::train::config::FitConfig;
use erw_ml::train::sit::warmup::Warmup;
use erw_runner::kind::StageKind;
use erw_runner::kind::attempt::Attempt;
use erw_runner::kind::field::{Params as Values, parse};
use serde::Deserialize;

pub const KIND: StageKind = StageKind {
    name: "warmup",
    manifest: include_str!("../../../stages/warmup.toml"),
    check,
    facts: facts::warmup,
    foresee: None,
    run,
};

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
    depth: usize,
    #[serde(flatten)]
    alignment: Alignment,
}

impl Params {
    fn depths(&self) -> Depths {
        let encoder = vec![self.depth];
        Depths { encoder, class_token: false, self_alignment: None, latent_alignment: None, warmup: Some(self.depth) }
    }
}

fn check(params: &Values, operation: &Values, inputs: &[&str]) -> Result<()> {
    parse::<LoopSettings>(operation)?;
    let p: Params = parse(params)?;
    p.phase.features.check(inputs)?;
    p.phase.features.check_flip(p.phase.flip)?;
    batch_pairs::check(&p.alignment, p.phase.batch, p.phase.accumulate)?;
    p.phase.check()?;
    p.validation.check(inputs)?;
    p.alignment.over_pairs().map_or(Ok(()), |what| p.validation.check_pairs(what))?;
    p.optimization.check()?;
    let blocks = p.architecture.sizes()?.1;
    if !(1..=blocks).contains(&p.depth) {
        return Err(Error::usage(format!("`depth` {} is not one of the blocks 1 to {blocks}", p.depth)));
    }
    p.architecture.check(p.depths())
}

fn run(attempt: &Attempt) -> Result<()> {
    let p: Params = attempt.params()?;
    let phase = &p.phase;
    let device = device(attempt.device())?;
    let mode = Some(phase.features);
    let mut examples = dataset::open(attempt, mode, phase.flip, &device)?;
    let config = dataset::network(&examples, mode, &p.architecture, p.depths())?;
    let cfg = phase.fit(attempt, &p.optimization)?;
    let recipe = gpu::recipe(&config, phase.precision, phase.micro_batch(), &cfg, attempt, p.alignment)?;
    let points = watched::points(p.validation.validate_every > 0, recipe.batch, false);
    let recipe = watched::counted(recipe, points, None, &device)?;
    let gpu = gpu::open(attempt, &device, &recipe, None, &mut examples.features)?;
    let home = gpu::home(&device, gpu.as_ref());
    let note = dataset::note(&examples, Path::Linear);
    let Start { params, model, loaded } = phase.start(attempt, &config, &home, &note)?;
    let warmup = Warmup { examples: &examples, model: &model, batches: phase.batches(), alignment: p.alignment };
    let watched = Watched::new(&model, points, gpu.as_ref(), &device)?;
    let home = watched.home();
    let mut watch = Callbacks::default();
    let held_out = Held { examples: &examples, seed: phase.seed, batch: phase.micro_batch(), device: &home };
    if let Some(v) = validation_params::open(attempt, &p.validation, &held_out)? {
        let features = |rows: &[u64]| examples.features.tokens(rows, &[], [&device, &home]);
        let (watched, alignment) = (&watched, &p.alignment);
        let losses = move |weights: &Tensors| {
            watched.projections(weights, |projections| v.alignment(alignment, features, projections))
        };
        watch.validate = Some((p.validation.validate_every, Box::new(losses)));
    }
    let make = |place| warmup.batch(place);
    let trained = with_ranks(attempt, gpu.as_ref().map(|gpu| &gpu.opened), |ranks| {
        let cfg = FitConfig { ranks, ..cfg };
        match &gpu {
            Some(training) => {
                let gpu = OnGpu { training, model: &model };
                trainer::train_on_gpu(attempt, &gpu, &params, &cfg, &mut watch, &make, &|_, batch| warmup.feed(batch))
            }
            None => trainer::train_on_ranks(attempt, &params, &cfg, &mut watch, &make, &|_, batch| warmup.loss(&batch)),
        }
    })?;
    let Some(trained) = trained else { return Ok(()) };
    if let Some(last) = trained.curve.last() {
        attempt.result("alignment", last.parts.get("alignment").copied().unwrap_or(last.loss));
    }
    if let Some(loaded) = loaded {
        attempt.result("loaded_tensors", loaded as f64);
    }
    let out = attempt.output("warmed");
    write_artifact(&out, &model, &trained, &note)?;
    validation_params::write(attempt, &out, &trained, "alignment")
}
