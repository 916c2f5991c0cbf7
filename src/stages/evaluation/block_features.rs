//! What the blocks of a SiT compute for a set of images: hidden tokens averaged over patches, at
//! chosen timesteps. This is REPA's protocol (arXiv 2410.06940): no projector, EMA weights, a
//! noised posterior sample, the null class. It also averages the features of an encoder. It does
//! not know what is measured.

use crate::support::observer::{AttemptObserver, share};
use crate::support::params::device;
use crate::support::same_classes::classes_of;
use crate::support::sit_artifact::TrainingNote;
use crate::support::trained_on::{check_classes, check_scale, note_of};
use candle_core::{DType, Device, Tensor};
use erw_base::error::{Error, Result};
use erw_ml::data::latent_scale::LatentScale;
use erw_ml::data::packed::Packed;
use erw_ml::diffusion::interpolant::Path as NoisePath;
use erw_ml::models::sit::{SiT, SiTConfig};
use erw_ml::nn::params::{self, Frozen};
use erw_ml::pieces::Pieces;
use erw_ml::rng::{Purpose, normal_rows};
use erw_ml::train::sit::features::{TOKENS, class_tokens};
use erw_runner::kind::attempt::Attempt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// How images are presented to a SiT: parameters that several manifests share.
#[derive(Deserialize, Clone, Copy)]
pub struct Look {
    pub seed: u64,
    pub path: NoisePath,
    pub label: Label,
}

/// Which class label the SiT gets: the null class, or the image's own.
#[derive(Deserialize, Serialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Label {
    Null,
    Own,
}

/// Images to look at: rows of latents. Each set of a stage has its own noise; otherwise an image
/// would be close to the image with the same number in the other set.
pub struct Shown<'a> {
    pub latents: &'a Packed,
    pub ids: &'a [u64],
    /// Number of the set.
    pub set: u64,
    /// Features of the same images, of which a network of REG needs the class tokens.
    pub features: Option<&'a Packed>,
}

/// A SiT whose hidden states are read.
pub struct Observer {
    sit: SiT,
    note: Option<TrainingNote>,
    look: Look,
    batch: usize,
    device: Device,
}

/// Checks that there is a timestep and that all lie between data and noise.
pub fn check_timesteps(timesteps: &[f64]) -> Result<()> {
    if timesteps.is_empty() {
        return Err(Error::usage("`timesteps` is empty"));
    }
    match timesteps.iter().find(|t| !(0.0..=1.0).contains(*t)) {
        Some(t) => Err(Error::usage(format!("timestep {t} is not between 0 (data) and 1 (noise)"))),
        None => Ok(()),
    }
}

impl Observer {
    /// Opens the SiT of input `sit`, to process `batch` images at a time.
    pub fn open(attempt: &Attempt, look: Look, batch: usize) -> Result<Self> {
        let device = device(attempt.device())?;
        let dir = attempt.input("sit")?;
        let sit = open_sit(dir, &device)?;
        let note = note_of(dir)?;
        same_path(note.as_ref(), dir, look.path)?;
        if look.label == Label::Null && sit.config().class_dropout == 0.0 {
            let text = "the SiT was trained without class dropout and has no null class";
            return Err(Error::stage(text).hint("set `label = \"own\"`"));
        }
        Ok(Self { sit, note, look, batch: batch.max(1), device })
    }

    pub fn blocks(&self) -> usize {
        self.sit.config().blocks()
    }

    /// Checks that the latents of input `input` have the shape, the scale and, where labels are used,
    /// the classes that the SiT was trained on.
    pub fn check(&self, latents: &Packed, input: &str) -> Result<()> {
        let config = self.sit.config();
        let (ours, shape) = ([config.in_channels, config.input_size, config.input_size], latents.shape("mean")?);
        if shape == ours {
            let Some(note) = &self.note else { return Ok(()) };
            check_scale(note, &LatentScale::of(latents.meta())?, &format!("input `{input}`"))?;
            return match self.look.label {
                Label::Null => Ok(()),
                Label::Own => check_classes(note, &classes_of(latents), &format!("input `{input}` has")),
            };
        }
        let text = format!("input `{input}` has latents of shape {shape:?}, but the SiT was trained on {ours:?}");
        let hint = "make both with the same autoencoder from images of the same `resolution`; \
                    shapes are [channels, height, width]";
        Err(Error::stage(text).hint(hint))
    }

    /// Mean token of each image after every block at timestep `t`: `[n, D]` f32 for each block, in
    /// order. `seen` is called with the size of each finished batch; its error ends the work.
    pub fn means(&self, shown: &Shown, t: f64, seen: &mut dyn FnMut(usize) -> Result<()>) -> Result<Vec<Tensor>> {
        let width = self.sit.config().hidden;
        let empty = || Vec::with_capacity(shown.ids.len() * width);
        let mut blocks: Vec<Vec<f32>> = (0..self.blocks()).map(|_| empty()).collect();
        for ids in shown.ids.chunks(self.batch) {
            let times = vec![t as f32; ids.len()];
            let x = self.noisy(shown, ids, &times)?;
            let times = Tensor::new(times, &self.device)?;
            let outputs = self.sit.block_outputs(&x, &times, &self.labels(shown, ids)?)?;
            for (i, (block, tokens)) in blocks.iter_mut().zip(outputs).enumerate() {
                let rows = tokens.mean(1)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
                if let Some(at) = rows.iter().position(|x| !x.is_finite()) {
                    let (block, image) = (i + 1, ids[at / width]);
                    let text = format!("the output of block {block} at timestep {t} is not finite for image {image}");
                    return Err(Error::stage(text).hint("the training has diverged, or the latents are damaged"));
                }
                block.extend(rows);
            }
            seen(ids.len())?;
        }
        // The measures run on the CPU.
        let tensor = |rows: Vec<f32>| Tensor::from_vec(rows, (shown.ids.len(), width), &Device::Cpu);
        Ok(blocks.into_iter().map(tensor).collect::<candle_core::Result<_>>()?)
    }

    /// Scaled posterior samples with noise added, each at its time. An image has the same noise at
    /// all times.
    fn noisy(&self, shown: &Shown, ids: &[u64], times: &[f32]) -> Result<Tensor> {
        let (latents, device) = (shown.latents, &self.device);
        let shape = latents.shape("mean")?;
        let draw = |purpose| normal_rows(self.look.seed, purpose, shown.set, ids, &shape, device);
        let rows = |name: &str| latents.rows(name, ids, device);
        let posterior = (rows("mean")? + (rows("std")? * draw(Purpose::Posterior)?)?)?;
        let x = LatentScale::of(latents.meta())?.to_network(&posterior)?;
        let point = self.look.path.point_and_velocity(&x, &draw(Purpose::Noise)?, times)?.0;
        let Some(width) = self.sit.config().class_token else { return Ok(point) };
        let class = self.class_tokens(shown, ids, width)?;
        let noise = normal_rows(self.look.seed, Purpose::ClassNoise, shown.set, ids, &[width], device)?;
        let class = self.look.path.point_and_velocity(&class, &noise, times)?.0;
        Ok(Tensor::cat(&[point.flatten_from(1)?, class], 1)?)
    }

    /// The class tokens `[n, Z]` that are noised as the latents are.
    fn class_tokens(&self, shown: &Shown, ids: &[u64], width: usize) -> Result<Tensor> {
        let stored = shown.features.map(|set| class_tokens(set, ids, &self.device)).transpose()?.flatten();
        let text = match stored {
            Some(stored) if stored.dims() == [ids.len(), width] => return Ok(stored),
            Some(stored) => format!(
                "the SiT takes class tokens of {width} numbers, but those of the features have {}",
                stored.dim(1)?
            ),
            None => "the SiT takes a noised class token beside each latent, but there are no features with them".into(),
        };
        Err(Error::stage(text).hint("connect features of the encoder of the training, made with `class_token = true`"))
    }

    fn labels(&self, shown: &Shown, ids: &[u64]) -> Result<Tensor> {
        let null = self.sit.config().null_class();
        if self.look.label == Label::Null {
            return Ok(Tensor::full(null, ids.len(), &self.device)?);
        }
        let labels = shown.latents.rows("labels", ids, &Device::Cpu)?.to_vec1::<i64>()?;
        if let Some(bad) = labels.iter().find(|l| **l < 0 || **l >= i64::from(null)) {
            return Err(Error::stage(format!("label {bad} is outside the SiT's {null} classes")));
        }
        Ok(Tensor::from_vec(labels.iter().map(|l| *l as u32).collect(), ids.len(), &self.device)?)
    }
}

/// Checks that noise is added as in training, if the artifact records how that was. A warmup is
/// trained without noise.
fn same_path(note: Option<&TrainingNote>, dir: &Path, ours: NoisePath) -> Result<()> {
    let is_warmup = serde_json::from_slice::<SiTConfig>(&std::fs::read(dir.join("config.json")).unwrap_or_default())
        .is_ok_and(|config| config.warmup_depth.is_some());
    match note.filter(|note| note.path != ours && !is_warmup) {
        Some(note) => Err(Error::stage(format!("`path` is {ours:?}, but the SiT was trained on {:?}", note.path))
            .hint("set `path` as in training")),
        None => Ok(()),
    }
}

fn open_sit(dir: &Path, device: &Device) -> Result<SiT> {
    let path = dir.join("config.json");
    let text = erw_base::text::read(&path).map_err(|e| Error::io("read", &path, e))?;
    let bad =
        |e: &dyn std::fmt::Display| Error::stage(format!("`{}` does not describe a SiT", path.display())).because(e);
    let config: SiTConfig = serde_json::from_str(&text).map_err(|e| bad(&e))?;
    config.check().map_err(|e| bad(&e))?;
    let frozen = Frozen::new(params::load(&dir.join("ema.safetensors"), device)?);
    Ok(SiT::new(&config, frozen.builder(DType::F32, device))?)
}

/// Mean token of each image, `[n, D]` f32, from the features of input `input`.
pub fn mean_features(features: &Packed, input: &str, ids: &[u64], batch: usize) -> Result<Tensor> {
    let mut means = vec![];
    for ids in ids.chunks(batch.max(1)) {
        let rows = features.rows(TOKENS, ids, &Device::Cpu)?.to_dtype(DType::F32)?.mean(1)?.to_vec2::<f32>()?;
        if let Some(at) = rows.iter().position(|row| row.iter().any(|x| !x.is_finite())) {
            return Err(Error::stage(format!("input `{input}` has values that are not finite for image {}", ids[at])));
        }
        means.extend(rows.into_iter().flatten());
    }
    Ok(Tensor::from_vec(means, (ids.len(), features.shape(TOKENS)?[1]), &Device::Cpu)?)
}

/// Calls `make` for each of `count` timesteps: pieces that ranks share. Progress counts `images` for
/// each. `None` for other ranks than the first, which have done their part.
pub fn each_timestep<T: Serialize + DeserializeOwned>(
    attempt: &Attempt,
    count: usize,
    images: usize,
    mut make: impl FnMut(usize, &mut dyn FnMut(usize) -> Result<()>) -> Result<T>,
) -> Result<Option<Vec<T>>> {
    let total = (count * images) as u64;
    let read = |path: &Path| -> Option<T> { serde_json::from_slice(&std::fs::read(path).ok()?).ok() };
    let pieces = Pieces {
        dir: attempt.checkpoint_dir().join("timesteps"),
        stem: "timestep",
        ending: ".json",
        total,
        size: images.max(1) as u64,
        share: share(attempt),
        is_sound: &|path, _| read(path).is_some(),
        obs: &AttemptObserver(attempt),
        before: 0,
        of: total,
    };
    let missing = pieces.missing().map_err(|e| Error::io("prepare", &pieces.dir, e))?;
    for piece in &missing.numbers {
        let mut done = 0;
        let made = make(*piece as usize, &mut |seen| {
            done += seen as u64;
            missing.progress(done);
            if attempt.should_stop() { Err(Error::suspended()) } else { Ok(()) }
        })?;
        missing
            .put(*piece, |path| std::fs::write(path, serde_json::to_vec(&made)?))
            .map_err(|e: std::io::Error| Error::io("write", &pieces.path(*piece), e))?;
    }
    if attempt.rank() > 0 {
        return Ok(None);
    }
    if !pieces.wait() {
        return Err(Error::suspended());
    }
    let kept = |piece: u64| {
        let path = pieces.path(piece);
        read(&path).ok_or_else(|| Error::stage(format!("cannot read back `{}`", path.display())))
    };
    (0..pieces.count()).map(kept).collect::<Result<Vec<T>>>().map(Some)
}
