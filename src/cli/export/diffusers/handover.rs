//! What is handed over: a trained SiT with the autoencoder, the samplers and the measurements that
//! belong to it, read from the cache and checked. Writes nothing.

use super::super::record::record;
use super::lineage::{Lineage, Made, Measured};
use crate::cli::common::pipeline_args::PipelineArgs;
use crate::report::text::number;
use erw_base::error::{Error, Result};
use erw_ml::diffusion::interpolant::Path as NoisePath;
use erw_ml::models::sit::{SiTConfig, release};
use erw_ml::models::vae::VaeConfig;
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
    /// The set of weights of the SiT.
    pub weights: String,
    pub sit: Artifact,
    pub config: SiTConfig,
    /// Missing for imported weights.
    pub note: Option<TrainingNote>,
    pub vae: Artifact,
    pub vae_config: VaeConfig,
    /// Values of the command line and the environment, as they were given.
    pub overrides: Vec<String>,
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
        let sit = Artifact::of(pipeline, cache, &lineage.sit)?;
        let vae = Artifact::of(pipeline, cache, &lineage.vae)?;
        let config: SiTConfig = read(&sit.dir.join(CONFIG_FILE))?;
        let note = sit.dir.join(TRAINING_NOTE_FILE);
        let note = if note.exists() { Some(read(&note)?) } else { None };
        let vae_config = VaeConfig::read(&vae.dir.join(CONFIG_FILE))?;
        if vae_config.latent_channels != config.in_channels {
            let (a, b) = (vae_config.latent_channels, config.in_channels);
            let name = &pipeline.stage(lineage.vae.0).name;
            return Err(Error::usage(format!("the latents of `{name}` have {a} channels, those of the SiT {b}")));
        }
        if !sit.dir.join(format!("{weights}.safetensors")).exists() {
            let text = format!("stage `{}` has no weights `{weights}`", pipeline.stage(id).name);
            return Err(Error::usage(text).hint(format!("there are {}", ema_files::there(&sit.dir)?.join(", "))));
        }
        let given = args.overrides();
        let env = given.env.into_iter().map(|(name, value)| format!("{name}={value}"));
        let set = given.set.into_iter().map(|set| format!("--set {set}"));
        let overrides = env.chain(set).chain(args.axis.iter().map(|axis| format!("--axis {axis}"))).collect();
        let weights = weights.into();
        Ok(Self { pipeline, cache, lineage, weights, sit, config, note, vae, vae_config, overrides })
    }

    /// What was written, in a line.
    pub fn summary(&self) -> String {
        let name = |id: StageId| &self.pipeline.stage(id).name;
        let (sit, vae) = (name(self.lineage.sit.0), name(self.lineage.vae.0));
        format!("weights `{}` of `{sit}` with the autoencoder of `{vae}`, for diffusers", self.weights)
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
        if names.len() == self.config.num_classes { names } else { &[] }
    }

    /// Pixels along a side of an image.
    pub fn side(&self) -> usize {
        self.config.input_size * self.vae_config.downsampling()
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
        let measured = self.lineage.measured(self.pipeline, &self.weights);
        Ok(measured.into_iter().filter_map(|m| Some((cached.remove(&m.stage)?, m))).map(|(r, m)| (m, r)).collect())
    }

    /// How a stage draws samples, in a few words.
    pub fn sampler(&self, id: StageId) -> String {
        let params = &self.pipeline.stage(id).params;
        let real = |name: &str| params.get(name).and_then(Value::as_f64).unwrap_or_default();
        let word = |name: &str| params.get(name).and_then(Value::as_str).unwrap_or_default();
        let guidance = match real("cfg_scale") {
            scale if scale > 1.0 => format!(
                "guidance {} in t {} to {}",
                number(Some(scale)),
                number(Some(real("guidance_low"))),
                number(Some(real("guidance_high")))
            ),
            _ => "no guidance".into(),
        };
        format!("{}, {} steps, {guidance}", word("sampler"), real("steps"))
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = erw_base::text::read(path).map_err(|e| Error::io("read", path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::usage(format!("cannot read `{}`", path.display())).because(e))
}
