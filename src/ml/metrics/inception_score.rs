//! Inception Score (Salimans et al. 2016): exp(E KL(p(y|x) | p(y))), high if a classifier is sure
//! about each image and the classes are used evenly. It is computed over parts of the samples, and
//! their mean is reported.
//!
//! With q the mean of p, the mean of KL(p | q) is the mean of sum p log p, minus sum q log q. So
//! samples are read once, and a part needs one sum per class. Probabilities and sums are f64; tools
//! that use f32 agree to about 1e-5.

use super::random_state::RandomState;
use candle_core::{DType, Result, Tensor, bail};
use serde::{Deserialize, Serialize};

/// How samples are split into parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parts {
    /// Parts of this many samples in order; the last has the rest. As in the evaluator of the ADM
    /// suite.
    Size(usize),
    /// `count` parts of (nearly) equal size after a permutation by numpy's `RandomState(seed)`. As
    /// in torch-fidelity.
    Shuffled { count: usize, seed: u32 },
}

impl Parts {
    /// The parts of the ADM suite's evaluator.
    pub const ADM: Self = Self::Size(5000);
    /// The parts of torch-fidelity.
    pub const TORCH_FIDELITY: Self = Self::Shuffled { count: 10, seed: 2020 };

    /// The part of each of `n` samples, and the number of parts.
    fn assign(self, n: usize) -> Result<(Vec<u32>, usize)> {
        match self {
            Self::Size(size) if size > 0 => Ok(((0..n).map(|i| (i / size) as u32).collect(), n.div_ceil(size))),
            Self::Shuffled { count, seed } if count > 0 => {
                if n < count {
                    bail!("an Inception Score over {count} parts needs at least {count} samples, got {n}");
                }
                let order = RandomState::new(seed).permutation(n as u32);
                let mut part = vec![0; n];
                for p in 0..count {
                    order[p * n / count..(p + 1) * n / count].iter().for_each(|i| part[*i as usize] = p as u32);
                }
                Ok((part, count))
            }
            _ => bail!("an Inception Score needs at least one part"),
        }
    }
}

/// Sums over the samples so far. They can be stored and continued.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InceptionScore {
    /// The part of each sample.
    part: Vec<u32>,
    seen: usize,
    sums: Vec<Sums>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Sums {
    count: u64,
    /// Sum of p log p over samples and classes.
    negentropy: f64,
    /// Sum of p by class.
    probability: Vec<f64>,
}

/// The score over parts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    pub mean: f64,
    /// Population standard deviation over the parts.
    pub std: f64,
    pub parts: Vec<f64>,
}

impl InceptionScore {
    /// For `n` samples of `classes` classes.
    pub fn new(n: usize, classes: usize, parts: Parts) -> Result<Self> {
        if n == 0 || classes == 0 {
            bail!("an Inception Score needs samples and classes, got {n} samples of {classes} classes");
        }
        let (part, count) = parts.assign(n)?;
        let empty = Sums { count: 0, negentropy: 0.0, probability: vec![0.0; classes] };
        Ok(Self { part, seen: 0, sums: vec![empty; count] })
    }

    /// Adds the next samples by their logits, `[b, classes]` of any float type. The bits do not
    /// depend on how samples are split into batches.
    pub fn push(&mut self, logits: &Tensor) -> Result<()> {
        let (count, classes) = logits.dims2()?;
        let wanted = self.sums[0].probability.len();
        if classes != wanted {
            bail!("logits of {classes} classes were added to an Inception Score of {wanted} classes");
        }
        if self.seen + count > self.part.len() {
            bail!("an Inception Score of {} samples was given {}", self.part.len(), self.seen + count);
        }
        let rows = logits.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        if let Some(at) = rows.iter().position(|x| !x.is_finite()) {
            bail!("logit {} of sample {} is not finite", at % classes, self.seen + at / classes);
        }
        for row in rows.chunks_exact(classes) {
            self.sums[self.part[self.seen] as usize].add(row);
            self.seen += 1;
        }
        Ok(())
    }

    /// The score of all samples.
    pub fn score(&self) -> Result<Score> {
        if self.seen != self.part.len() {
            bail!("an Inception Score of {} samples has only {}", self.part.len(), self.seen);
        }
        let parts: Vec<f64> = self.sums.iter().map(Sums::score).collect();
        let mean = parts.iter().sum::<f64>() / parts.len() as f64;
        let variance = parts.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / parts.len() as f64;
        Ok(Score { mean, std: variance.sqrt(), parts })
    }
}

impl Sums {
    fn add(&mut self, logits: &[f64]) {
        let largest = logits.iter().fold(f64::NEG_INFINITY, |m, x| m.max(*x));
        let exp: Vec<f64> = logits.iter().map(|x| (x - largest).exp()).collect();
        let total: f64 = exp.iter().sum();
        let log_total = total.ln();
        for ((sum, e), x) in self.probability.iter_mut().zip(&exp).zip(logits) {
            let p = e / total;
            *sum += p;
            self.negentropy += p * (x - largest - log_total);
        }
        self.count += 1;
    }

    fn score(&self) -> f64 {
        let n = self.count as f64;
        let mean = self.probability.iter().map(|s| s / n);
        // A class of probability 0 contributes nothing.
        let negentropy: f64 = mean.filter(|q| *q > 0.0).map(|q| q * q.ln()).sum();
        (self.negentropy / n - negentropy).exp()
    }
}
