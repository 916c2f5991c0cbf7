//! `cknna`: agreement of every block of a SiT, at several times, with an encoder's features of the same images. The
//! protocol is REPA's: tokens averaged over patches, no projector, null class, 10 neighbours.

use super::support::{check_pairs, create_dir, device, parse, spread, stated_labels, write_json};
use crate::error::{Error, Result};
use crate::ml::data::packed::Packed;
use crate::ml::data::picture::Rgb;
use crate::ml::metrics::alignment::{Measure, Protocol, Representation};
use crate::ml::metrics::cknna::Estimator;
use crate::ml::metrics::unit_rows::{Clamp, Over};
use crate::ml::models::sit::{SiT, SiTConfig};
use crate::ml::path::Path as NoisePath;
use crate::ml::rng::{Purpose, normal_rows};
use crate::ml::weights::{self, Frozen};
use crate::runner::attempt::Attempt;
use crate::runner::manifest::{Params as Values, StageKind};
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;

pub const KIND: StageKind = StageKind { name: "cknna", manifest: include_str!("../../stages/cknna.toml"), check, run };

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    seed: u64,
    timesteps: Vec<f64>,
    path: NoisePath,
    label: Label,
    k: usize,
    clamp: f64,
    images: u64,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Label {
    Null,
    Own,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Operation {
    batch: usize,
}

fn check(params: &Values, operation: &Values, _: &[&str]) -> Result<()> {
    parse::<Operation>(operation)?;
    let p: Params = parse(params)?;
    if p.timesteps.is_empty() {
        return Err(Error::usage("`timesteps` is empty"));
    }
    match p.timesteps.iter().find(|t| !(0.0..=1.0).contains(*t)) {
        Some(t) => Err(Error::usage(format!("timestep {t} is not between 0 (data) and 1 (noise)"))),
        None => Ok(()),
    }
}

fn run(attempt: &Attempt) -> Result<()> {
    let p: Params = attempt.params()?;
    let batch = attempt.operation::<Operation>()?.batch.max(1);
    let device = device(attempt.device())?;
    let sit = open_sit(attempt.input("sit")?, &device)?;
    let latents = Packed::open(attempt.input("latents")?)?;
    let features = Packed::open(attempt.input("features")?)?;
    check_inputs(&p, &sit, &latents, &features)?;
    let ids = spread(latents.len(), p.images);
    let target = neighbours(&mean_features(&features, &ids, batch, &device)?, &p)?;

    let probe = Probe { attempt, p: &p, sit: &sit, latents: &latents, ids: &ids, batch, device: &device };
    let mut scores: Vec<Vec<f64>> = vec![vec![]; sit.config().blocks()];
    for column in 0..p.timesteps.len() {
        for (row, state) in scores.iter_mut().zip(probe.block_means(column)?) {
            row.push(neighbours(&state, &p)?.score(&target, Measure::Cknna)?);
        }
    }
    report(attempt, &p, &scores, ids.len())
}

fn open_sit(dir: &Path, device: &Device) -> Result<SiT> {
    let path = dir.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
    let bad =
        |e: &dyn std::fmt::Display| Error::stage(format!("`{}` does not describe a SiT", path.display())).because(e);
    let config: SiTConfig = serde_json::from_str(&text).map_err(|e| bad(&e))?;
    config.check().map_err(|e| bad(&e))?;
    let frozen = Frozen::new(weights::load(&dir.join("ema.safetensors"), device)?);
    Ok(SiT::new(&config, frozen.builder(DType::F32, device))?)
}

fn check_inputs(p: &Params, sit: &SiT, latents: &Packed, features: &Packed) -> Result<()> {
    check_pairs(latents, "features", features.len(), stated_labels(features))?;
    if p.label == Label::Null && sit.config().class_dropout == 0.0 {
        let text = "the SiT was trained without class dropout and has no null class";
        return Err(Error::stage(text).hint("set `label = \"own\"`"));
    }
    Ok(())
}

/// Mean token of each image, `[n, D]` f32.
fn mean_features(features: &Packed, ids: &[u64], batch: usize, device: &Device) -> Result<Tensor> {
    let mean = |ids: &[u64]| features.rows("tokens", ids, device)?.to_dtype(DType::F32)?.mean(1);
    let all: Vec<Tensor> = ids.chunks(batch.max(1)).map(mean).collect::<candle_core::Result<_>>()?;
    Ok(Tensor::cat(&all, 0)?)
}

fn neighbours(features: &Tensor, p: &Params) -> Result<Representation> {
    let clamp = Clamp { quantile: p.clamp, over: Over::Set };
    let protocol = Protocol { measures: vec![Measure::Cknna], k: p.k, clamp, estimator: Estimator::Unbiased };
    Ok(Representation::of(features, &protocol)?)
}

/// What stays the same while a SiT is looked into.
struct Probe<'a> {
    attempt: &'a Attempt,
    p: &'a Params,
    sit: &'a SiT,
    latents: &'a Packed,
    ids: &'a [u64],
    batch: usize,
    device: &'a Device,
}

impl Probe<'_> {
    /// Mean token of each image behind every block, `[n, D]` each, at timestep number `column`.
    fn block_means(&self, column: usize) -> Result<Vec<Tensor>> {
        let mut blocks: Vec<Vec<Tensor>> = vec![vec![]; self.sit.config().blocks()];
        let total = (self.ids.len() * self.p.timesteps.len()) as u64;
        let mut done = (self.ids.len() * column) as u64;
        for ids in self.ids.chunks(self.batch) {
            if self.attempt.should_stop() {
                return Err(Error::suspended());
            }
            let times = vec![self.p.timesteps[column] as f32; ids.len()];
            let x = self.noisy(ids, &times)?;
            let outputs = self.sit.block_outputs(&x, &Tensor::new(times, self.device)?, &self.labels(ids)?)?;
            for (block, tokens) in blocks.iter_mut().zip(outputs) {
                block.push(tokens.mean(1)?);
            }
            done += ids.len() as u64;
            self.attempt.progress(done, total);
        }
        Ok(blocks.iter().map(|parts| Tensor::cat(parts, 0)).collect::<candle_core::Result<_>>()?)
    }

    /// Scaled posterior samples, each at its time; an image has the same noise at every time.
    fn noisy(&self, ids: &[u64], times: &[f32]) -> Result<Tensor> {
        let shape = self.latents.shape("mean")?;
        let number = |key: &str, default: f64| self.latents.meta().get(key).and_then(Value::as_f64).unwrap_or(default);
        let (scale, shift) = (number("scaling_factor", 1.0), number("shift_factor", 0.0));
        let draw = |purpose| normal_rows(self.p.seed, purpose, 0, ids, &shape, self.device);
        let rows = |name: &str| self.latents.rows(name, ids, self.device);
        let posterior = (rows("mean")? + (rows("std")? * draw(Purpose::Posterior)?)?)?;
        let x = (posterior - shift)?.affine(scale, 0.0)?;
        Ok(self.p.path.point_and_velocity(&x, &draw(Purpose::Noise)?, times)?.0)
    }

    fn labels(&self, ids: &[u64]) -> Result<Tensor> {
        let null = self.sit.config().null_class();
        if self.p.label == Label::Null {
            return Ok(Tensor::full(null, ids.len(), self.device)?);
        }
        let labels = self.latents.rows("labels", ids, &Device::Cpu)?.to_vec1::<i64>()?;
        if let Some(bad) = labels.iter().find(|l| **l < 0 || **l >= i64::from(null)) {
            return Err(Error::stage(format!("label {bad} is not one of the SiT's {null} classes")));
        }
        Ok(Tensor::from_vec(labels.iter().map(|l| *l as u32).collect(), ids.len(), self.device)?)
    }
}

/// The key metric is the best block at the middle timestep.
fn report(attempt: &Attempt, p: &Params, scores: &[Vec<f64>], images: usize) -> Result<()> {
    let middle = p.timesteps.len() / 2;
    let best = |column: usize| {
        let at = scores.iter().map(|row| row[column]).enumerate();
        at.max_by(|a, b| a.1.total_cmp(&b.1)).map_or((0, f64::NAN), |(i, v)| (i + 1, v))
    };
    let (block, value) = best(middle);
    let out = attempt.output("metrics");
    create_dir(&out)?;
    let metrics = json!({
        "metric": "cknna",
        "value": value,
        "block": block,
        "timestep": p.timesteps[middle],
        "timesteps": p.timesteps,
        "blocks": scores,
        "k": p.k,
        "clamp": p.clamp,
        "label": if p.label == Label::Null { "null" } else { "own" },
        "images": images,
    });
    write_json(&out.join("metrics.json"), &metrics)?;
    heat_map(scores).save(&out.join("cknna.png"))?;
    attempt.result("cknna", value);
    attempt.result("block", block as f64);
    attempt.show("metrics", "cknna.png");
    Ok(())
}

/// A row of cells per block, the first on top, a column per timestep; dark is 0 and bright the largest score.
fn heat_map(scores: &[Vec<f64>]) -> Rgb {
    const CELL: usize = 24;
    let columns = scores.first().map_or(0, Vec::len);
    let top = scores.iter().flatten().fold(f64::MIN_POSITIVE, |a, b| a.max(*b));
    let mut map = Rgb::filled(scores.len() * CELL, columns * CELL, [0; 3]);
    for (y, row) in scores.iter().enumerate() {
        for (x, score) in row.iter().enumerate() {
            map.paste(&colour(score / top), 1, 1, CELL, y * CELL, x * CELL);
        }
    }
    map
}

/// From dark violet over teal to yellow, even in brightness, for 0 to 1.
fn colour(value: f64) -> [u8; 3] {
    const STOPS: [[f64; 3]; 5] =
        [[68., 1., 84.], [59., 82., 139.], [33., 145., 140.], [94., 201., 98.], [253., 231., 37.]];
    let at = value.clamp(0.0, 1.0) * (STOPS.len() - 1) as f64;
    let i = (at as usize).min(STOPS.len() - 2);
    let mix = |c: usize| STOPS[i][c] + (STOPS[i + 1][c] - STOPS[i][c]) * (at - i as f64);
    [mix(0) as u8, mix(1) as u8, mix(2) as u8]
}
