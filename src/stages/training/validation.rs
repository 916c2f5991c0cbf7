//! Losses at fixed points, for trainings of a SiT: the same latents, noise and times at every look, so that two losses
//! differ by what was learned and by nothing else. (A training loss moves by several per cent from batch to batch.)
//!
//! It is part of the result, and its settings are parameters: a series that is compared between trials must not vanish
//! with a log, nor depend on how a training was watched. It knows nothing of the order of training.

use super::alignment::Alignment;
use super::dataset::Examples;
use crate::support::files::write_lines;
use crate::support::scale::{Scale, labels};
use candle_core::{DType, Device, Tensor};
use erw_base::error::{Error, Result};
use erw_ml::data::packed::Packed;
use erw_ml::diffusion::interpolant::Path as NoisePath;
use erw_ml::diffusion::loss;
use erw_ml::models::sit::{SiT, SiTConfig};
use erw_ml::nn::params::{Frozen, Tensors};
use erw_ml::rng::{self, Purpose};
use erw_ml::train::Losses;
use erw_ml::train::trained::Trained;
use erw_runner::kind::attempt::Attempt;
use serde::Deserialize;
use std::path::Path;

/// The slot of held-out latents.
pub const SLOT: &str = "validation";
/// Times at which the velocity is judged: the middles of eighths, since the loss differs tenfold along the path.
const TIMES: u64 = 8;

/// The parameters, as the manifests of both phases name them. Flattened into theirs.
#[derive(Debug, Deserialize)]
pub struct Settings {
    pub validate_every: u64,
    validation_samples: u64,
}

impl Settings {
    /// An input of no use would still be made first and stand in the key.
    pub fn check(&self, inputs: &[&str]) -> Result<()> {
        if self.validate_every == 0 && inputs.contains(&SLOT) {
            return Err(Error::usage(format!("input `{SLOT}` is connected, but `validate_every` is 0"))
                .hint("set `validate_every` to a number of steps, or leave the input open"));
        }
        Ok(())
    }
}

/// Latents with what belongs to them.
pub struct Validation {
    /// Rows in their set.
    rows: Vec<u64>,
    /// Fixed draws from the posteriors, scaled, `[n, C, h, w]`.
    latents: Tensor,
    classes: Tensor,
    seed: u64,
    /// Samples at a time.
    batch: usize,
}

impl Validation {
    /// The first latents of slot `validation`; of those that are trained on where none is connected. `None` where there
    /// is no validation.
    pub fn open(
        attempt: &Attempt,
        settings: &Settings,
        examples: &Examples,
        seed: u64,
        batch: usize,
        device: &Device,
    ) -> Result<Option<Self>> {
        if settings.validate_every == 0 {
            return Ok(None);
        }
        let ours = examples.latents();
        let held_out = attempt.optional_input(SLOT).map(Packed::open).transpose()?;
        let set = held_out.as_ref().unwrap_or(ours);
        if let Some(what) = ["mean", "classes", "scale"].into_iter().find(|what| differs(what, ours, set)) {
            let text = format!("input `{SLOT}` differs from `latents` in {}", told(what));
            return Err(Error::stage(text).hint("make both with the same autoencoder, from images of the same classes"));
        }
        if set.is_empty() {
            return Err(Error::stage(format!("input `{SLOT}` is empty")));
        }
        let rows: Vec<u64> = (0..settings.validation_samples.min(set.len())).collect();
        let of = |field: &str| set.rows(field, &rows, device)?.to_dtype(DType::F32);
        let (mean, std) = (of("mean")?, of("std")?);
        let noise = rng::normal_rows(seed, Purpose::Validation, 0, &rows, &mean.dims()[1..], device)?;
        let latents = Scale::of(set).apply(&(mean + (std * noise)?)?)?;
        let all = labels(set, examples.classes())?;
        let classes = Tensor::new(&all[..rows.len()], device)?;
        Ok(Some(Self { rows, latents, classes, seed, batch: batch.max(1) }))
    }

    /// Errors of the velocity: the mean, then at each time.
    pub fn velocity(&self, config: &SiTConfig, path: NoisePath, weights: &Tensors) -> candle_core::Result<Losses> {
        let (model, device) = (network(config, weights, &self.latents)?, self.latents.device());
        let mut losses = vec![("velocity".to_string(), 0.0)];
        for time in 0..TIMES {
            let t = (time as f64 + 0.5) / TIMES as f64;
            let loss = self.mean(self.rows.len(), |rows, x, y| {
                let noise = rng::normal_rows(self.seed, Purpose::Validation, time + 1, rows, &x.dims()[1..], device)?;
                let times = vec![t as f32; rows.len()];
                let (point, target) = path.point_and_velocity(x, &noise, &times)?;
                loss::velocity(&model.velocity(&point, &Tensor::new(times, device)?, y)?, &target)
            })?;
            losses[0].1 += loss / TIMES as f64;
            losses.push((format!("velocity@{t}"), loss));
        }
        Ok(losses)
    }

    /// The loss that the phase trains, of clean latents with what `features` gives for their rows. Where it compares the
    /// images of a batch, of whole batches only: among fewer images it is smaller.
    pub fn alignment(
        &self,
        config: &SiTConfig,
        weights: &Tensors,
        alignment: &Alignment,
        features: impl Fn(&[u64]) -> candle_core::Result<Vec<Tensor>>,
    ) -> candle_core::Result<Losses> {
        let model = network(config, weights, &self.latents)?;
        let all = self.rows.len();
        let count = if alignment.is_over_pairs() && all > self.batch { all - all % self.batch } else { all };
        let loss = self.mean(count, |rows, x, y| {
            let t = Tensor::zeros(rows.len(), DType::F32, x.device())?;
            alignment.loss(features(rows)?, &model.projections(x, &t, y)?)
        })?;
        Ok(vec![("alignment".into(), loss)])
    }

    /// The mean over the first `count` samples of what is a mean over some of them.
    fn mean(
        &self,
        count: usize,
        loss: impl Fn(&[u64], &Tensor, &Tensor) -> candle_core::Result<Tensor>,
    ) -> candle_core::Result<f64> {
        let mut sum = 0.0;
        for start in (0..count).step_by(self.batch) {
            let n = self.batch.min(count - start);
            let (x, y) = (self.latents.narrow(0, start, n)?, self.classes.narrow(0, start, n)?);
            let mean = loss(&self.rows[start..start + n], &x, &y)?.to_dtype(DType::F32)?.to_scalar::<f32>()?;
            sum += f64::from(mean) * n as f64;
        }
        Ok(sum / count as f64)
    }
}

/// A network of these weights, apart from the one in training.
fn network(config: &SiTConfig, weights: &Tensors, like: &Tensor) -> candle_core::Result<SiT> {
    SiT::new(config, Frozen::new(weights.clone()).builder(DType::F32, like.device()))
}

fn differs(what: &str, a: &Packed, b: &Packed) -> bool {
    match what {
        "scale" => Scale::of(a) != Scale::of(b),
        "mean" => a.shape(what).ok() != b.shape(what).ok(),
        _ => a.meta()[what] != b.meta()[what],
    }
}

fn told(what: &str) -> &str {
    match what {
        "scale" => "the scale of latents",
        "mean" => "the shape of latents",
        _ => "the classes",
    }
}

/// `validation.jsonl`, a line per validation, and the last one's first losses among the results.
pub fn write(attempt: &Attempt, dir: &Path, trained: &Trained, name: &str) -> Result<()> {
    let Some(last) = trained.validation.last() else { return Ok(()) };
    for (losses, set) in [(&last.model, ""), (&last.ema, "_ema")] {
        if let Some(value) = losses.get(name) {
            attempt.result(&format!("validation_{name}{set}"), *value);
        }
    }
    write_lines(&dir.join("validation.jsonl"), &trained.validation)
}
