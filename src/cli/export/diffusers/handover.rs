//! What is handed over: a trained SiT with the autoencoder, the samplers and the measurements that
//! belong to it, read from the cache and checked. Writes nothing.

use super::super::record::record;
use super::lineage::{Lineage, Made, Measured};
use crate::common::pipeline_args::PipelineArgs;
use erw_base::error::{Error, Result};
use erw_ml::diffusion::interpolant::Path as NoisePath;
use erw_ml::diffusion::sampler::{ATOL, RTOL};
use erw_ml::models::sit::{SiTConfig, release};
use erw_ml::models::vae::VaeConfig;
use erw_report::text::number;
use erw_runner::cache::Cache;
use erw_runner::cache::action_cache::Record;
use erw_runner::files::digest::Digest;
use erw_runner::pipeline::graph::{Pipeline, StageId};
use erw_runner::plan::{CacheChecker, Verdict, plan};
use erw_stages::{CONFIG_FILE, TRAINING_NOTE_FILE, TrainingNote, ema_files};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A trained SiT with all that goes along.
pub struct Handover<'a> {
    pub pipeline: &'a Pipeline,
    pub cache: &'a Cache,
    pub lineage: Lineage,
    pub sit: Network,
    /// The network that guidance leads away from, if not from the null class.
    pub guide: Option<Network>,
    /// Missing for imported weights.
    pub note: Option<TrainingNote>,
    pub vae: Artifact,
    pub vae_config: VaeConfig,
    /// Values of the command line and the environment, as they were given.
    pub overrides: Vec<String>,
}

/// A SiT, and which of its weights are handed over.
pub struct Network {
    pub artifact: Artifact,
    pub config: SiTConfig,
    pub weights: String,
}

impl Network {
    fn of(pipeline: &Pipeline, cache: &Cache, made: &Made, weights: &str) -> Result<Self> {
        let artifact = Artifact::of(pipeline, cache, made)?;
        let config = read(&artifact.dir.join(CONFIG_FILE))?;
        let this = Self { artifact, config, weights: weights.into() };
        if !this.file().exists() {
            let text = format!("stage `{}` has no weights `{weights}`", pipeline.stage(made.0).name);
            let there = ema_files::there(&this.artifact.dir)?.join(", ");
            return Err(Error::usage(text).hint(format!("there are {there}")));
        }
        Ok(this)
    }

    pub fn file(&self) -> PathBuf {
        self.artifact.dir.join(format!("{}.safetensors", self.weights))
    }
}

/// A stored artifact, which is whole.
pub struct Artifact {
    pub dir: PathBuf,
    pub digest: Digest,
    /// Of the stage that made it.
    pub record: Record,
}

impl Artifact {
    fn of(pipeline: &Pipeline, cache: &Cache, (id, output): &Made) -> Result<Self> {
        let record = record(pipeline, cache, *id)?;
        let output = record.outputs.get(output).ok_or_else(|| Error::internal("a record lacks an output"))?;
        let digest = output.measured.digest;
        cache.check(&digest)?;
        Ok(Self { dir: cache.object(&digest), digest, record })
    }
}

impl<'a> Handover<'a> {
    /// # Errors
    /// When something that is needed is not up to date, damaged or does not fit.
    pub fn of(
        pipeline: &'a Pipeline,
        cache: &'a Cache,
        (id, output): (StageId, Option<&str>),
        weights: Option<&str>,
        args: &PipelineArgs,
    ) -> Result<Self> {
        let weights = weights.unwrap_or(release::EMA);
        ema_files::check("--weights", weights)?;
        let lineage = Lineage::of(pipeline, id, output)?;
        let sit = Network::of(pipeline, cache, &lineage.sit, weights)?;
        let guide = lineage.guide.as_ref().map(|made| {
            let weights = lineage.sampling.and_then(|id| pipeline.stage(id).params.get("guide_weights")?.as_str());
            Network::of(pipeline, cache, made, weights.unwrap_or(release::EMA))
        });
        let guide = guide.transpose()?;
        let vae = Artifact::of(pipeline, cache, &lineage.vae)?;
        let note = sit.artifact.dir.join(TRAINING_NOTE_FILE);
        let note = if note.exists() { Some(read(&note)?) } else { None };
        let vae_config = VaeConfig::read(&vae.dir.join(CONFIG_FILE))?;
        if vae_config.latent_channels != sit.config.in_channels {
            let (a, b) = (vae_config.latent_channels, sit.config.in_channels);
            let name = &pipeline.stage(lineage.vae.0).name;
            return Err(Error::usage(format!("the latents of `{name}` have {a} channels, those of the SiT {b}")));
        }
        let given = args.overrides();
        let env = given.env.into_iter().map(|(name, value)| format!("{name}={value}"));
        let set = given.set.into_iter().map(|set| format!("--set {set}"));
        let overrides = env.chain(set).chain(args.axis.iter().map(|axis| format!("--axis {axis}"))).collect();
        Ok(Self { pipeline, cache, lineage, sit, guide, note, vae, vae_config, overrides })
    }

    /// What was written, in a line.
    pub fn summary(&self) -> String {
        let name = |id: StageId| &self.pipeline.stage(id).name;
        let (sit, vae) = (name(self.lineage.sit.0), name(self.lineage.vae.0));
        let guide = self.guide_name().map(|guide| format!(", guided by {guide},")).unwrap_or_default();
        format!("weights `{}` of `{sit}`{guide} with the autoencoder of `{vae}`, for diffusers", self.sit.weights)
    }

    /// The weights that guide and the stage that made them, if guidance is by a network.
    pub fn guide_name(&self) -> Option<String> {
        let (guide, (id, _)) = self.guide.as_ref().zip(self.lineage.guide.as_ref())?;
        Some(format!("`{}` of `{}`", guide.weights, self.pipeline.stage(*id).name))
    }

    /// The path of the training; for imported weights the one that sampling states.
    pub fn path(&self) -> Value {
        let stated = || {
            let sampling = self.pipeline.stage(self.lineage.sampling?);
            sampling.params.get("path").filter(|path| !path.is_null()).cloned()
        };
        match &self.note {
            Some(note) => json!(note.path),
            None => stated().unwrap_or_else(|| json!(NoisePath::Linear)),
        }
    }

    /// Names of the classes; none if they are unknown.
    pub fn classes(&self) -> &[String] {
        let names = self.note.as_ref().map_or(&[][..], |note| &note.classes);
        if names.len() == self.sit.config.num_classes { names } else { &[] }
    }

    /// Pixels along a side of an image.
    pub fn side(&self) -> usize {
        self.sit.config.input_size * self.vae_config.downsampling()
    }

    /// The stages that measured these weights and are up to date, with their records.
    pub fn measured(&self) -> Result<Vec<(Measured, Record)>> {
        let all: Vec<StageId> = (0..self.pipeline.stages.len()).map(StageId).collect();
        let verdicts = plan(&CacheChecker::new(self.pipeline, self.cache, BTreeSet::new()), &all)?;
        let mut cached: BTreeMap<StageId, Record> = BTreeMap::new();
        for (id, verdict) in verdicts {
            if let Verdict::Cached(record) = verdict {
                cached.insert(id, *record);
            }
        }
        let measured = self.lineage.measured(self.pipeline, &self.sit.weights);
        Ok(measured.into_iter().filter_map(|m| Some((cached.remove(&m.stage)?, m))).map(|(r, m)| (m, r)).collect())
    }

    /// How a stage draws samples, in a few words.
    pub fn sampler(&self, id: StageId) -> String {
        let stage = self.pipeline.stage(id);
        let real = |name: &str| stage.params.get(name).and_then(Value::as_f64);
        let told = |name: &str| number(real(name));
        let word = |name: &str| stage.params.get(name).and_then(Value::as_str).unwrap_or_default();
        let steps = match (word("sampler"), real("time_shift")) {
            ("ode-dopri5", _) => {
                format!("atol {}, rtol {}", real("atol").unwrap_or(ATOL), real("rtol").unwrap_or(RTOL))
            }
            (_, Some(shift)) => format!("{} steps, shift {}", told("steps"), number(Some(shift))),
            (_, None) => format!("{} steps", told("steps")),
        };
        let by = stage.inputs.get("guide").map(|edge| &self.pipeline.stage(edge.from).name);
        let by = by.map(|name| format!(" by `{}` of `{name}`", word("guide_weights"))).unwrap_or_default();
        let guidance = match told("cfg_scale") {
            scale if real("cfg_scale").is_some_and(|scale| scale > 1.0) => {
                format!("guidance {scale}{by} in t {} to {}", told("guidance_low"), told("guidance_high"))
            }
            _ => "no guidance".into(),
        };
        format!("{}, {steps}, {guidance}", word("sampler"))
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = erw_base::text::read(path).map_err(|e| Error::io("read", path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::usage(format!("cannot read `{}`", path.display())).because(e))
}
