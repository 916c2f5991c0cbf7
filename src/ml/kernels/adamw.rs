//! One pass over memory for clipping, AdamW and the moving averages of the weights.

use super::simd::{simd, sum};
use super::slice;
use candle_core::{CpuStorage, InplaceOp1, Layout, Result, bail};
use rayon::prelude::*;
use std::cell::RefCell;

const CHUNK: usize = 32 * 1024;

/// old <- keep old + add new. The two weights are rounded to f32 separately: 1 - 0.9999 taken in f32 is off by 2e-4.
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

/// The numbers of one update, all that does not differ from element to element.
#[derive(Debug, Clone, Copy)]
pub struct Coefficients {
    /// Factor on the gradient: clipping and the mean over micro-batches.
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

/// What belongs to one parameter besides its value and gradient.
pub struct State<'a> {
    pub first: &'a mut [f32],
    pub second: &'a mut [f32],
    pub ema: &'a mut [f32],
    /// Averages with other decays.
    pub further: Vec<(Mix, &'a mut [f32])>,
}

/// Averages of `n` numbers, all of the first chunk first.
fn chunks_of_all<'a>(averages: &'a mut [(Mix, &mut [f32])], n: usize) -> Vec<Vec<(Mix, &'a mut [f32])>> {
    let mut all: Vec<Vec<_>> = (0..n.div_ceil(CHUNK)).map(|_| vec![]).collect();
    for (mix, average) in averages {
        for (list, chunk) in all.iter_mut().zip(average.chunks_mut(CHUNK)) {
            list.push((*mix, chunk));
        }
    }
    all
}

/// Updates a parameter in place. The state is behind a cell because candle hands the operation out shared.
pub struct Update<'g, 's> {
    pub grad: &'g [f32],
    pub state: RefCell<State<'s>>,
    pub coefficients: Coefficients,
}

impl InplaceOp1 for Update<'_, '_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let n = slice(storage, layout)?.len();
        let (CpuStorage::F32(data), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
            bail!("adamw updates contiguous f32 parameters")
        };
        let (mut state, c) = (self.state.borrow_mut(), self.coefficients);
        let lengths = [self.grad.len(), state.first.len(), state.second.len(), state.ema.len()];
        if lengths != [n; 4] || state.further.iter().any(|(_, e)| e.len() != n) {
            bail!("adamw given a gradient or a state of another length than the parameter");
        }
        let State { first, second, ema, further } = &mut *state;
        let further = chunks_of_all(further, n);
        data[start..end]
            .par_chunks_mut(CHUNK)
            .zip(self.grad.par_chunks(CHUNK))
            .zip(first.par_chunks_mut(CHUNK))
            .zip(second.par_chunks_mut(CHUNK))
            .zip(ema.par_chunks_mut(CHUNK))
            .zip(further)
            .for_each(|(((((p, g), m), v), e), further)| {
                update(p, g, m, v, e, c);
                further.into_iter().for_each(|(mix, e)| average(e, p, mix));
            });
        Ok(())
    }
}
