//! Gradient clipping, AdamW and the moving averages of the weights in one pass over memory.

use super::simd::{simd, sum};
use super::with_all_mut;
use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

const CHUNK: usize = 32 * 1024;

/// old <- keep old + add new. Both weights are rounded to f32 separately: 1 - 0.9999 computed in
/// f32 is off by 2e-4.
#[derive(Debug, Clone, Copy)]
pub struct Mix {
    pub keep: f32,
    pub add: f32,
}

impl Mix {
    /// Weights `decay` and 1 - `decay`.
    pub fn new(decay: f64) -> Self {
        Self { keep: decay as f32, add: (1.0 - decay) as f32 }
    }
}

/// The numbers of one update that are the same for all elements.
#[derive(Debug, Clone, Copy)]
pub struct Coefficients {
    /// Factor for the gradient: clipping and the mean over micro-batches.
    pub grad_scale: f32,
    pub first: Mix,
    pub second: Mix,
    pub eps: f32,
    /// lr / (1 - beta1^t)
    pub step_size: f32,
    /// 1 / (1 - beta2^t)
    pub second_scale: f32,
    /// 1 - lr * weight_decay
    pub decay: f32,
    pub ema: Mix,
}

simd! {
    fn update(p: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32], ema: &mut [f32], c: Coefficients) {
        for ((((p, g), m), v), e) in p.iter_mut().zip(grad).zip(m).zip(v).zip(ema) {
            let g = g * c.grad_scale;
            *m = c.first.keep * *m + c.first.add * g;
            *v = c.second.keep * *v + c.second.add * g * g;
            *p = *p * c.decay - c.step_size * *m / ((*v * c.second_scale).sqrt() + c.eps);
            *e = c.ema.keep * *e + c.ema.add * *p;
        }
    }
}

simd! {
    /// A further average of a chunk that [`update`] has just written, while it is in the cache.
    fn average(e: &mut [f32], p: &[f32], mix: Mix) {
        for (e, p) in e.iter_mut().zip(p) {
            *e = mix.keep * *e + mix.add * *p;
        }
    }
}

simd! {
    fn sum_of_squares_in(x: &[f32]) -> f32 {
        sum(x, |v| v * v)
    }
}

/// Sum of squares, the same for any number of threads.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    let parts: Vec<f64> = x.par_chunks(CHUNK).map(|c| f64::from(sum_of_squares_in(c))).collect();
    parts.into_iter().sum()
}

/// The chunks of averages of `n` elements: first the first chunk of each average, and so on.
fn chunks_of_all<'a>(averages: &'a mut [(Mix, &mut [f32])], n: usize) -> Vec<Vec<(Mix, &'a mut [f32])>> {
    let mut all: Vec<Vec<_>> = (0..n.div_ceil(CHUNK)).map(|_| vec![]).collect();
    for (mix, average) in averages {
        for (list, chunk) in all.iter_mut().zip(average.chunks_mut(CHUNK)) {
            list.push((*mix, chunk));
        }
    }
    all
}

/// Updates a parameter, its two moments, its average, and averages with other decays, all in place
/// and of the parameter's shape.
pub fn step(
    param: &Tensor,
    grad: &[f32],
    [first, second, ema]: [&Tensor; 3],
    further: &[(Mix, &Tensor)],
    c: Coefficients,
) -> Result<()> {
    let tensors: Vec<&Tensor> =
        [param, first, second, ema].into_iter().chain(further.iter().map(|(_, e)| *e)).collect();
    with_all_mut(&tensors, |numbers| {
        let n = grad.len();
        if numbers.iter().any(|x| x.len() != n) {
            bail!("AdamW: the gradient or the state has another length than the parameter");
        }
        let mut numbers = numbers.into_iter();
        let (Some(p), Some(m), Some(v), Some(e)) = (numbers.next(), numbers.next(), numbers.next(), numbers.next())
        else {
            bail!("AdamW: there is no state")
        };
        let mut further: Vec<(Mix, &mut [f32])> = further.iter().map(|(mix, _)| *mix).zip(numbers).collect();
        p.par_chunks_mut(CHUNK)
            .zip(grad.par_chunks(CHUNK))
            .zip(m.par_chunks_mut(CHUNK))
            .zip(v.par_chunks_mut(CHUNK))
            .zip(e.par_chunks_mut(CHUNK))
            .zip(chunks_of_all(&mut further, n))
            .for_each(|(((((p, g), m), v), e), further)| {
                update(p, g, m, v, e, c);
                further.into_iter().for_each(|(mix, e)| average(e, p, mix));
            });
        Ok(())
    })
}
