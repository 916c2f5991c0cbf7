//! Samplers from noise (t = 1) to data (t = 0): Euler, Heun and Euler–Maruyama, with
//! classifier-free guidance.
//!
//! They match REPA's samplers step by step: the state is f64, the network gets f32, and the
//! stochastic sampler runs to t = 0.04 and takes one last step without noise. The network is a
//! closure; decoding to images happens elsewhere.

use super::interpolant::Path;
use crate::rng::{self, Purpose};
use candle_core::{DType, Result, Tensor};
use serde::{Deserialize, Serialize};

/// The integration method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    OdeEuler,
    OdeHeun,
    /// Euler–Maruyama with diffusion g² = 2t.
    Sde,
}

/// Where the last step of the stochastic sampler, without noise, starts.
const LAST_STEP: f64 = 0.04;

/// Settings of a sampler.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplerConfig {
    pub method: Method,
    /// Time steps. Heun evaluates the network twice in all but the last.
    pub steps: usize,
    /// Guidance scale; 1 and below means no guidance.
    pub cfg_scale: f64,
    /// Guidance is active where `low <= t <= high`.
    pub guidance_low: f64,
    pub guidance_high: f64,
    /// The path the network was trained on; only the stochastic sampler needs it.
    pub path: Path,
}

/// The network: velocity at points `[B, ..]`, times `[B]` (all equal) and classes `[B]`. Points and
/// times are f32.
pub type Velocity<'a> = dyn FnMut(&Tensor, &Tensor, &Tensor) -> Result<Tensor> + 'a;

/// Standard normal noise for a step, f64, in the shape of the state.
pub type Noise<'a> = dyn FnMut(u64) -> Result<Tensor> + 'a;

/// Integrates from `start` (noise at t = 1, `[B, ..]`) to data. `null` are the class indices for
/// the unconditional half of guidance. Returns f64.
pub fn sample(
    cfg: &SamplerConfig,
    start: &Tensor,
    classes: &Tensor,
    null: &Tensor,
    noise: &mut Noise,
    velocity: &mut Velocity,
) -> Result<Tensor> {
    let mut field = Field { cfg, classes, null, velocity };
    let x = start.to_dtype(DType::F64)?;
    match cfg.method {
        Method::OdeEuler => ode(&mut field, x, false),
        Method::OdeHeun => ode(&mut field, x, true),
        Method::Sde => sde(&mut field, x, noise),
    }
}

fn ode(field: &mut Field, mut x: Tensor, heun: bool) -> Result<Tensor> {
    let times = linspace(1.0, 0.0, field.cfg.steps + 1);
    for (i, pair) in times.windows(2).enumerate() {
        let (t0, t1) = (pair[0], pair[1]);
        let guided = field.is_guided(t0);
        let slope = field.velocity(&x, t0, guided)?;
        let mut next = (&x + (&slope * (t1 - t0))?)?;
        if heun && i + 1 < field.cfg.steps {
            // Whether guidance is active is decided at t0 for both slopes.
            let second = field.velocity(&next, t1, guided)?;
            next = (&x + ((slope * 0.5)? + (second * 0.5)?)? * (t1 - t0))?;
        }
        x = next;
    }
    Ok(x)
}

fn sde(field: &mut Field, mut x: Tensor, noise: &mut Noise) -> Result<Tensor> {
    let times = linspace(1.0, LAST_STEP, field.cfg.steps);
    for (i, pair) in times.windows(2).enumerate() {
        let (t, dt) = (pair[0], pair[1] - pair[0]);
        let drift = (field.drift(&x, t)? * dt)?;
        let kick = (noise(i as u64)? * ((2.0 * t).sqrt() * (-dt).sqrt()))?;
        x = ((x + drift)? + kick)?;
    }
    let last = times.last().copied().unwrap_or(1.0);
    &x + (field.drift(&x, last)? * -last)?
}

/// The network with guidance.
struct Field<'a, 'f> {
    cfg: &'a SamplerConfig,
    classes: &'a Tensor,
    null: &'a Tensor,
    velocity: &'a mut Velocity<'f>,
}

impl Field<'_, '_> {
    fn is_guided(&self, t: f64) -> bool {
        self.cfg.cfg_scale > 1.0 && self.cfg.guidance_low <= t && t <= self.cfg.guidance_high
    }

    /// Velocity for the classes; with guidance both velocities are evaluated in one batch and
    /// mixed.
    fn velocity(&mut self, x: &Tensor, t: f64, guided: bool) -> Result<Tensor> {
        self.mixed(x, t, guided, &|v, _| Ok(v))
    }

    /// Drift of the reverse SDE with g² = 2t, from the velocity through the score: v - t s, with s
    /// = ((alpha/alpha') v - x) / (sigma² - (alpha/alpha') sigma' sigma).
    fn drift(&mut self, x: &Tensor, t: f64) -> Result<Tensor> {
        let c = self.cfg.path.at(t);
        let ratio = c.alpha / c.d_alpha;
        let scale = 1.0 / (c.sigma * c.sigma - ratio * c.d_sigma * c.sigma);
        let guided = self.is_guided(t);
        self.mixed(x, t, guided, &|v, x| {
            let score = (((&v * ratio)? - x)? * scale)?;
            v - (score * t)?
        })
    }

    /// null + scale (class - null), applied to `slope` of each velocity.
    fn mixed(
        &mut self,
        x: &Tensor,
        t: f64,
        guided: bool,
        slope: &dyn Fn(Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let points = x.to_dtype(DType::F32)?;
        if !guided {
            let v = self.evaluate(&points, t, self.classes.clone())?;
            return slope(v, x);
        }
        let both = Tensor::cat(&[&points, &points], 0)?;
        let v = self.evaluate(&both, t, Tensor::cat(&[self.classes, self.null], 0)?)?;
        let n = x.dim(0)?;
        let class = slope(v.narrow(0, 0, n)?, x)?;
        let null = slope(v.narrow(0, n, n)?, x)?;
        &null + ((class - &null)? * self.cfg.cfg_scale)?
    }

    fn evaluate(&mut self, points: &Tensor, t: f64, classes: Tensor) -> Result<Tensor> {
        let times = Tensor::full(t as f32, points.dim(0)?, points.device())?;
        (self.velocity)(points, &times, &classes)?.to_dtype(DType::F64)
    }
}

/// `count` values from `first` to `last`. As in PyTorch, each is computed from the nearer end.
fn linspace(first: f64, last: f64, count: usize) -> Vec<f64> {
    let step = (last - first) / (count.max(2) - 1) as f64;
    (0..count)
        .map(|i| if i < count.div_ceil(2) { first + step * i as f64 } else { last - step * (count - 1 - i) as f64 })
        .collect()
}

/// Starting noise of samples, as a function of (seed, sample): it does not depend on the batch.
pub fn start_noise(seed: u64, samples: &[u64], shape: &[usize], device: &candle_core::Device) -> Result<Tensor> {
    rng::normal_rows(seed, Purpose::SampleStart, 0, samples, shape, device)
}

/// Noise for a step of the stochastic sampler, as a function of (seed, step, sample).
pub fn step_noise(
    seed: u64,
    step: u64,
    samples: &[u64],
    shape: &[usize],
    device: &candle_core::Device,
) -> Result<Tensor> {
    rng::normal_rows(seed, Purpose::SampleNoise, step, samples, shape, device)?.to_dtype(DType::F64)
}

/// How generated images get their classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Labels {
    /// Sample i has class i mod the number of classes.
    Balanced,
    /// Uniform, by (seed, sample).
    Random,
}

impl Labels {
    /// The class of a sample, from 0 up to `classes`.
    pub fn of(self, seed: u64, sample: u64, classes: u64) -> u32 {
        match self {
            Self::Balanced => (sample % classes.max(1)) as u32,
            Self::Random => rng::stream(seed, Purpose::SampleLabel, 0, sample).below(classes) as u32,
        }
    }
}
