//! `train`: full training of a SiT with the velocity loss plus a scheduled alignment loss. It is
//! phase 2 of ERW if it starts from warmed-up blocks, REPA if it starts fresh with a constant
//! coefficient, and plain SiT without alignment.

use super::architecture::{Architecture, Depths};
use super::batch_pairs::{self, check_pairs_of_batch};
use super::feature_source::Mode;
use super::gpu::{self, OnGpu};
use super::ranks::with_ranks;
use super::settings::{LoopSettings, Optimization};
use super::sit::{SitTraining, Start};
use super::validation_params::{self, Held};
use super::watched::{self, Watched};
use super::{dataset, preview_output, size_defaults, trainer};
use crate::support::params::{device, usage};
use crate::support::sit_artifact::{CUSTOM, TrainingNote, write_artifact, write_snapshots};
use crate::support::{ema_files, facts};
use erw_base::error::{Error, Result};
use erw_ml::diffusion::alignment::Alignment;
use erw_ml::diffusion::alignment_schedule::Schedule;
use erw_ml::diffusion::interpolant::{Path as NoisePath, TimeDistribution};
use erw_ml::diffusion::loss::Dispersion;
use erw_ml::gpu::sit::Recipe;
use erw_ml::nn::params::Tensors;
use erw_ml::one_or_many::OneOrMany;
use erw_ml::train::config::FitConfig;
use erw_ml::train::outcome::Trained;
use erw_ml::train::sit::batch::Examples;
use erw_ml::train::sit::flow::{AttentionTransfer, FlowMatching};
use erw_ml::train::sit::preview::Preview;
use erw_ml::train::sit::self_alignment::SelfAlignment;
use erw_ml::train::{Callbacks, Preview as Show, Snapshots};
use erw_runner::kind::StageKind;
use erw_runner::kind::attempt::Attempt;
use erw_runner::kind::field::{Params as Values, parse};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub const KIND: StageKind = StageKind {
    name: "train",
    manifest: include_str!("../../../stages/train.toml"),
    check,
    facts: facts::train,
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
    class_token: f64,
    attention: f64,
    attention_blocks: Vec<usize>,
    attention_encoder_blocks: Vec<usize>,
    self_alignment: f64,
    self_alignment_depth: Option<usize>,
    self_alignment_teacher: Option<usize>,
    self_alignment_interval: f64,
    latent_alignment: Option<f64>,
    latent_alignment_depth: Option<usize>,
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
        let self_alignment = self.self_alignment_blocks()?.map(|[student, _]| student);
        let latent_alignment = self.latent_alignment_block()?;
        Ok(Depths { encoder, class_token: self.class_token > 0.0, self_alignment, latent_alignment, warmup: None })
    }

    /// This block, if the network has it: parameter `name`, counted from 1.
    fn block(&self, name: &str, block: usize) -> Result<usize> {
        let blocks = self.architecture.sizes()?.1;
        if block > blocks {
            return Err(Error::usage(format!("`{name}` {block} is not one of the blocks 1 to {blocks}")));
        }
        Ok(block)
    }

    /// The attention alignment, if there is one. Whether the encoder has these blocks shows when it
    /// is opened.
    fn attention(&self) -> Result<Option<AttentionTransfer>> {
        if self.attention == 0.0 {
            return Ok(None);
        }
        let (blocks, theirs) = (&self.attention_blocks, &self.attention_encoder_blocks);
        if blocks.is_empty() || blocks.len() != theirs.len() {
            let text = format!(
                "`attention_blocks` has {} blocks, but `attention_encoder_blocks` has {}",
                blocks.len(),
                theirs.len()
            );
            return Err(Error::usage(text).hint("give a block of the encoder for each block of the network"));
        }
        blocks.iter().try_for_each(|block| self.block("attention_blocks", *block).map(drop))?;
        let (blocks, encoder_blocks) = (blocks.clone(), theirs.clone());
        Ok(Some(AttentionTransfer { weight: self.attention, blocks, encoder_blocks }))
    }

    /// An attention alignment is scheduled with the alignment, and only an encoder that runs while
    /// training shows its attention.
    fn check_attention(&self, inputs: &[&str]) -> Result<()> {
        if self.attention()?.is_none() {
            return Ok(());
        }
        if self.schedule()? == Schedule::None {
            let text = "`attention` is given, but nothing is aligned";
            return Err(Error::usage(text).hint("set `alignment` and its weight, or leave out `attention`"));
        }
        if matches!(self.phase.features, Mode::Stored) {
            let text = "`attention` compares with the attention of an encoder, which stored features do not have";
            return Err(Error::usage(text).hint("set `features = \"online\"` and connect `images` and `encoder`"));
        }
        self.check_one_encoder("attention", inputs)
    }

    fn check_one_encoder(&self, name: &str, inputs: &[&str]) -> Result<()> {
        match inputs.iter().filter(|i| i.split('.').next() == Some(self.phase.features.slot())).count() {
            1 => Ok(()),
            n => Err(Error::usage(format!("`{name}` is given, but the number of encoders is {n}"))
                .hint("connect one encoder")),
        }
    }

    /// A class token is of one encoder, and does not go with what knows patches alone.
    fn check_class_token(&self, inputs: &[&str]) -> Result<()> {
        if self.class_token == 0.0 {
            return Ok(());
        }
        let error = |text: &str, hint: &str| Err(Error::usage(text).hint(hint));
        if self.schedule()? == Schedule::None {
            return error(
                "`class_token` is given, but nothing is aligned",
                "set `alignment`, or leave out `class_token`",
            );
        }
        if self.comparison.spatial_norm().is_some() {
            return error(
                "`spatial_norm` is over patches, but `class_token` is aligned too",
                "leave out one of the two",
            );
        }
        let patches = [
            ("attention", self.attention),
            ("self_alignment", self.self_alignment),
            ("latent_alignment", self.latent_alignment()),
        ];
        if let Some((name, _)) = patches.iter().find(|(_, weight)| *weight > 0.0) {
            let text = format!("`class_token` does not go with `{name}`, which knows patches alone");
            return error(&text, "leave out one of them");
        }
        if self.validation.validate_every > 0 {
            return error("`validate_every` has no class tokens for `class_token`", "set `validate_every = 0`");
        }
        self.check_one_encoder("class_token", inputs)
    }

    /// The blocks of student and teacher, counted from 1; `None` without self-alignment.
    fn self_alignment_blocks(&self) -> Result<Option<[usize; 2]>> {
        if self.self_alignment == 0.0 {
            return Ok(None);
        }
        let own = [
            ("self_alignment_depth", self.self_alignment_depth),
            ("self_alignment_teacher", self.self_alignment_teacher),
        ];
        let block = |(name, value): (&str, Option<usize>)| match value {
            None => Err(Error::usage(format!("`self_alignment` needs `{name}`"))
                .hint("choose an earlier block to align: SRA has 8 and 20 for SiT-XL/2, and 4 and 8 for SiT-B/2")),
            Some(block) => self.block(name, block),
        };
        let [student, teacher] = [block(own[0])?, block(own[1])?];
        if teacher < student {
            let text = format!("`self_alignment_teacher` {teacher} is before `self_alignment_depth` {student}");
            return Err(Error::usage(text).hint("choose a later block: SRA has 20 behind 8 for SiT-XL/2"));
        }
        Ok(Some([student, teacher]))
    }

    fn self_alignment(&self) -> Result<Option<SelfAlignment>> {
        let aligned =
            |[_, teacher]: [usize; 2]| SelfAlignment::new(self.self_alignment, teacher, self.self_alignment_interval);
        Ok(self.self_alignment_blocks()?.map(aligned))
    }

    /// The weight of the alignment with latents; 0 without one.
    fn latent_alignment(&self) -> f64 {
        self.latent_alignment.unwrap_or(0.0)
    }

    /// The block, counted from 1, that is aligned with the latents; `None` without that.
    fn latent_alignment_block(&self) -> Result<Option<usize>> {
        match self.latent_alignment_depth {
            _ if self.latent_alignment() == 0.0 => Ok(None),
            None => Err(Error::usage("`latent_alignment` needs `latent_alignment_depth`")
                .hint("choose an early block: SRA 2 has 8 for SiT-XL/2 and SiT-L/2, and 2 for SiT-B/2")),
            Some(block) => self.block("latent_alignment_depth", block).map(Some),
        }
    }

    fn dispersion(&self) -> Result<Option<Dispersion>> {
        let blocks = self.architecture.sizes()?.1;
        let depth = self.block("dispersive_depth", self.dispersive_depth.unwrap_or((blocks / 4).max(1)))?;
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

    /// A setting beside network and alignment that erw's GPU kernels do not cover, if there is one.
    fn uncovered(&self) -> Option<&'static str> {
        let settings = [
            ("self_alignment", self.self_alignment),
            ("latent_alignment", self.latent_alignment()),
            ("attention", self.attention),
        ];
        settings.into_iter().find(|(_, weight)| *weight > 0.0).map(|(name, _)| name)
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
    p.check_attention(inputs)?;
    p.check_class_token(inputs)?;
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
    let mut examples = dataset::open(attempt, mode, phase.flip, &device)?;
    let config = dataset::network(&examples, mode, &p.architecture, p.depths()?)?;
    let resolved = p.resolved()?;
    for (name, value) in &resolved {
        attempt.log(&format!("`{name}` is left out; for this network and method it is {value}"));
    }
    let cfg = phase.fit(attempt, &p.optimization)?;
    let dispersion = p.dispersion()?;
    let recipe = gpu::recipe(&config, phase.precision, phase.micro_batch(), &cfg, attempt, p.comparison)?;
    let recipe = Recipe { velocity_cosine: p.velocity_cosine, dispersion, class_token: p.class_token, ..recipe };
    let note = TrainingNote { resolved, ..dataset::note(&examples, p.path) };
    let LoopSettings { samples_every, .. } = attempt.operation()?;
    let decoder = preview_output::decoder(attempt, samples_every, &config, &note)?;
    let points = watched::points(p.validation.validate_every > 0, recipe.batch, samples_every > 0);
    let recipe = watched::counted(recipe, points, decoder.as_ref(), &device)?;
    let gpu = gpu::open(attempt, &device, &recipe, p.uncovered(), &mut examples.features)?;
    let home = gpu::home(&device, gpu.as_ref());
    let Start { params, model, loaded } = phase.start(attempt, &config, &home, &note)?;
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
        self_alignment: p.self_alignment()?,
        latent_alignment: p.latent_alignment(),
        attention: p.attention()?,
        class_token: p.class_token,
    };
    let snapshots = Snapshots { dir: attempt.checkpoint_dir().join("snapshots"), steps: p.snapshots.clone() };
    let watched = Watched::new(&model, points, gpu.as_ref(), &device)?;
    let decoder =
        decoder.map(|vae| preview_output::placed(attempt, vae, &config, gpu.as_ref(), &device)).transpose()?;
    let preview = Preview { config: &config, decoder, path: p.path, seed: phase.seed, device: watched.home() };
    let shown = (samples_every > 0).then_some((samples_every, &preview));
    let mut watch = Callbacks { snapshots: Some(snapshots.clone()), ..watch(attempt, &p, &examples, &watched, shown)? };
    if let Some(alignment) = &training.self_alignment {
        watch.teach = Some(Box::new(|averages| alignment.teach(&model, averages)));
    }
    let make = |place| training.batch(place);
    let trained = with_ranks(attempt, gpu.as_ref().map(|gpu| &gpu.opened), |ranks| {
        let cfg = FitConfig { ranks, ..cfg };
        match &gpu {
            Some(on_gpu) => {
                let gpu = OnGpu { training: on_gpu, model: &model };
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
    write_artifact(&out, &model, &trained, &note)?;
    write_snapshots(&out, &model, &snapshots)?;
    validation_params::write(attempt, &out, &trained, "velocity")
}

/// The callbacks of this training: validation and preview samples.
fn watch<'a>(
    attempt: &'a Attempt,
    p: &'a Params,
    examples: &'a Examples,
    watched: &'a Watched<'a>,
    shown: Option<(u64, &'a Preview<'a>)>,
) -> Result<Callbacks<'a>> {
    let mut watch = Callbacks::default();
    let phase = &p.phase;
    let device = &watched.home();
    let held_out = Held { examples, seed: phase.seed, batch: phase.micro_batch(), device };
    if let Some(v) = validation_params::open(attempt, &p.validation, &held_out)? {
        let losses =
            Box::new(move |weights: &Tensors| watched.velocity(weights, |velocity| v.velocity(p.path, velocity)));
        watch.validate = Some((p.validation.validate_every, losses));
    }
    watch.show = shown.map(|(every, preview)| {
        let show = move |step, ema: &Tensors| preview_output::show(attempt, preview, watched, step, ema);
        (every, Box::new(show) as Show<'a>)
    });
    Ok(watch)
}

/// Reports the results, the key metric first. An alignment that was not computed at the end is none.
fn report(attempt: &Attempt, trained: &Trained, loaded: Option<usize>) {
    if let Some(last) = trained.curve.last() {
        let aligned = last.parts.get("alignment_weight").is_some_and(|weight| *weight != 0.0);
        for name in ["velocity", "alignment"].into_iter().take(if aligned { 2 } else { 1 }) {
            if let Some(value) = last.parts.get(name) {
                attempt.result(name, *value);
            }
        }
    }
    if let Some(loaded) = loaded {
        attempt.result("loaded_tensors", loaded as f64);
    }
}
