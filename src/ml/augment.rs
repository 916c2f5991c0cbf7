//! Light augmentation of training images, a function of (seed, step, sample) like all randomness.

use super::rng::{self, Purpose};
use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

/// Moves each u8 image `[n, 3, H, W]` by up to `reach` pixels in every direction; what comes in from outside
/// continues the edge.
pub fn shift(images: &Tensor, reach: usize, seed: u64, step: u64, samples: &[u64]) -> Result<Tensor> {
    if reach == 0 {
        return Ok(images.clone());
    }
    let (n, c, h, w) = images.dims4()?;
    let source = images.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<u8>()?;
    let mut moved = vec![0u8; source.len()];
    let size = (c * h * w).max(1);
    moved.par_chunks_mut(size).zip(source.par_chunks(size)).zip(samples).for_each(|((to, from), sample)| {
        let mut stream = rng::stream(seed, Purpose::Augment, step, *sample);
        let mut draw = || stream.below(2 * reach as u64 + 1) as isize - reach as isize;
        let (dy, dx) = (draw(), draw());
        for (to, from) in to.chunks_exact_mut(h * w).zip(from.chunks_exact(h * w)) {
            for (y, row) in to.chunks_exact_mut(w).enumerate() {
                let from = &from[clamped(y, dy, h) * w..][..w];
                row.iter_mut().enumerate().for_each(|(x, v)| *v = from[clamped(x, dx, w)]);
            }
        }
    });
    Tensor::from_vec(moved, (n, c, h, w), images.device())
}

fn clamped(position: usize, offset: isize, len: usize) -> usize {
    position.saturating_add_signed(offset).min(len - 1)
}
