//! Samplers from noise (t = 1) to data (t = 0): Euler, Heun, Dormand–Prince and Euler–Maruyama,
//! guided away from the unconditional velocity (Ho and Salimans 2022) or from that of a weaker
//! network (autoguidance, Karras et al. 2024).
//!
//! Those of fixed steps match REPA's step by step: the state is f64, the network gets f32, and the
//! stochastic sampler runs to t = 0.04 and takes one last step without noise. Networks are closures;
//! decoding to images happens elsewhere.

use super::dopri5::{self, Tolerance};
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
    /// Steps of each sample's own, by a tolerance.
    OdeDopri5,
    /// Euler–Maruyama with diffusion g² = 2t.
    Sde,
}

/// The tolerances of SiT's sampler.
pub const ATOL: f64 = 1e-6;
pub const RTOL: f64 = 1e-3;

/// Where the last step of the stochastic sampler, without noise, starts.
const LAST_STEP: f64 = 0.04;

/// Settings of a sampler. Fields that can be left out were added later, and are written only if they
/// are there.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplerConfig {
    pub method: Method,
    /// Time steps. Heun evaluates the network twice in all but the last; Dormand–Prince chooses its
    /// own.
    pub steps: usize,
    /// s of the shifted times s t / (1 + (s - 1) t) of Euler and Heun (Esser et al. 2024, eq. 23):
    /// above 1 steps are shorter near noise. `None`: equal steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shift: Option<f64>,
    /// Absolute and relative tolerance of Dormand–Prince; `None`: [`ATOL`] and [`RTOL`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub atol: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtol: Option<f64>,
    /// Guidance scale; 1 and below means no guidance.
    pub cfg_scale: f64,
    /// Guidance is active where `low <= t <= high`.
    pub guidance_low: f64,
    pub guidance_high: f64,
    /// The path the network was trained on; only the stochastic sampler needs it.
    pub path: Path,
}

/// A network: velocity at points `[B, ..]`, times `[B]` and classes `[B]`. Points and times are f32;
/// times are all equal, but with Dormand–Prince.
pub type Velocity<'a> = dyn FnMut(&Tensor, &Tensor, &Tensor) -> Result<Tensor> + 'a;

/// What guidance leads away from.
pub enum Away<'a, 'f> {
    /// The network's velocity for these classes `[B]`: the null class.
    Classes(&'a Tensor),
    /// The velocity of another network for the samples' own classes.
    Network(&'a mut Velocity<'f>),
}

/// Standard normal noise for a step, f64, in the shape of the state.
pub type Noise<'a> = dyn FnMut(u64) -> Result<Tensor> + 'a;

/// Integrates from `start` (noise at t = 1, `[B, ..]`) to data. Returns f64.
pub fn sample<'a, 'f>(
    cfg: &'a SamplerConfig,
    start: &Tensor,
    classes: &'a Tensor,
    away: Away<'a, 'f>,
    noise: &mut Noise,
    velocity: &'a mut Velocity<'f>,
) -> Result<Tensor> {
    let mut field = Field { cfg, classes, away, velocity };
    let x = start.to_dtype(DType::F64)?;
    match cfg.method {
        Method::OdeEuler => ode(&mut field, x, false),
        Method::OdeHeun => ode(&mut field, x, true),
        Method::OdeDopri5 => adaptive(&mut field, x),
        Method::Sde => sde(&mut field, x, noise),
    }
}

fn ode(field: &mut Field, mut x: Tensor, heun: bool) -> Result<Tensor> {
    let mut times = linspace(1.0, 0.0, field.cfg.steps + 1);
    if let Some(s) = field.cfg.shift {
        times.iter_mut().for_each(|t| *t = s * *t / (1.0 + (s - 1.0) * *t));
    }
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

/// Dormand–Prince, whose time runs from 0 to 1.
fn adaptive(field: &mut Field, x: Tensor) -> Result<Tensor> {
    let (rows, device, cfg) = (x.flatten_from(1)?.to_vec2::<f64>()?, x.device().clone(), field.cfg);
    let tolerance = Tolerance { absolute: cfg.atol.unwrap_or(ATOL), relative: cfg.rtol.unwrap_or(RTOL) };
    let mut slopes = |rows: &[usize], times: &[f64], points: &[Vec<f64>]| {
        let times: Vec<f64> = times.iter().map(|time| 1.0 - time).collect();
        let dims: Vec<usize> = [&[rows.len()], &x.dims()[1..]].concat();
        let points = Tensor::from_vec(points.concat(), dims, &device)?;
        let velocity = field.velocities(rows, &times, &points)?;
        velocity.neg()?.flatten_from(1)?.to_vec2::<f64>()
    };
    let ends = dopri5::integrate(rows, tolerance, &mut slopes)?;
    Tensor::from_vec(ends.concat(), x.dims(), &device)
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
    away: Away<'a, 'f>,
    velocity: &'a mut Velocity<'f>,
}

impl Field<'_, '_> {
    fn is_guided(&self, t: f64) -> bool {
        // The last step of Dormand-Prince passes the end.
        let t = t.max(0.0);
        self.cfg.cfg_scale > 1.0 && self.cfg.guidance_low <= t && t <= self.cfg.guidance_high
    }

    /// Velocity for the classes, mixed with the one that guidance leads away from.
    fn velocity(&mut self, x: &Tensor, t: f64, guided: bool) -> Result<Tensor> {
        self.mixed(x, t, guided, &|v, _| Ok(v))
    }

    /// The same for some rows of the batch, whose points these are, at times of their own.
    fn velocities(&mut self, rows: &[usize], times: &[f64], points: &Tensor) -> Result<Tensor> {
        let device = points.device();
        let pick = |tensor: &Tensor, rows: &[u32]| tensor.index_select(&Tensor::new(rows, device)?, 0);
        let number = |rows: &[usize]| rows.iter().map(|row| *row as u32).collect::<Vec<u32>>();
        let points = points.to_dtype(DType::F32)?;
        let at: Vec<f32> = times.iter().map(|t| *t as f32).collect();
        let classes = pick(self.classes, &number(rows))?;
        let guided: Vec<usize> = (0..rows.len()).filter(|i| self.is_guided(times[*i])).collect();
        let Self { away, velocity, cfg, .. } = self;
        if guided.is_empty() {
            return velocity(&points, &Tensor::new(at, device)?, &classes)?.to_dtype(DType::F64);
        }
        let n = rows.len();
        let guided_at: Vec<f32> = guided.iter().map(|i| at[*i]).collect();
        let guided_points = pick(&points, &number(&guided))?;
        let (own, other) = match away {
            Away::Classes(null) => {
                let null = pick(null, &number(&guided))?;
                let both = Tensor::cat(&[&points, &guided_points], 0)?;
                let times = Tensor::new([at, guided_at].concat(), device)?;
                let v = velocity(&both, &times, &Tensor::cat(&[&classes, &null], 0)?)?;
                (v.narrow(0, 0, n)?, v.narrow(0, n, guided.len())?)
            }
            Away::Network(weaker) => {
                let guided_classes = pick(&classes, &number(&guided))?;
                let own = velocity(&points, &Tensor::new(at, device)?, &classes)?;
                (own, weaker(&guided_points, &Tensor::new(guided_at, device)?, &guided_classes)?)
            }
        };
        let (own, other) = (own.to_dtype(DType::F64)?, other.to_dtype(DType::F64)?);
        let mixed = (&other + ((pick(&own, &number(&guided))? - &other)? * cfg.cfg_scale)?)?;
        // Row i of the result is its own velocity, or the mixed one.
        let (mut order, mut next) = ((0..n as u32).collect::<Vec<_>>(), n as u32);
        for row in guided {
            order[row] = next;
            next += 1;
        }
        pick(&Tensor::cat(&[&own, &mixed], 0)?, &order)
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

    /// other + scale (own - other), applied to `slope` of each velocity.
    fn mixed(
        &mut self,
        x: &Tensor,
        t: f64,
        guided: bool,
        slope: &dyn Fn(Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let points = x.to_dtype(DType::F32)?;
        let Self { cfg, classes, away, velocity } = self;
        if !guided {
            return slope(evaluate(velocity, &points, t, classes)?, x);
        }
        let (own, other) = match away {
            // Both velocities in one batch.
            Away::Classes(null) => {
                let both = Tensor::cat(&[&points, &points], 0)?;
                let v = evaluate(velocity, &both, t, &Tensor::cat(&[*classes, *null], 0)?)?;
                let n = x.dim(0)?;
                (v.narrow(0, 0, n)?, v.narrow(0, n, n)?)
            }
            Away::Network(weaker) => (evaluate(velocity, &points, t, classes)?, evaluate(weaker, &points, t, classes)?),
        };
        let (own, other) = (slope(own, x)?, slope(other, x)?);
        &other + ((own - &other)? * cfg.cfg_scale)?
    }
}

fn evaluate(velocity: &mut Velocity, points: &Tensor, t: f64, classes: &Tensor) -> Result<Tensor> {
    let times = Tensor::full(t as f32, points.dim(0)?, points.device())?;
    velocity(points, &times, classes)?.to_dtype(DType::F64)
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
