//! Light augmentation of training images, as a function of (seed, step, sample) like all
//! randomness.

use crate::rng::{self, Purpose};
use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

/// Mirrors, left to right, the u8 images `[n, 3, H, W]` whose entry of `flipped` is true.
pub fn mirror(images: &Tensor, flipped: &[bool]) -> Result<Tensor> {
    let (n, c, h, w) = images.dims4()?;
    let mut pixels = images.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<u8>()?;
    let size = (c * h * w).max(1);
    for (image, _) in pixels.chunks_exact_mut(size).zip(flipped).filter(|(_, flip)| **flip) {
        image.chunks_exact_mut(w.max(1)).for_each(<[u8]>::reverse);
    }
    Tensor::from_vec(pixels, (n, c, h, w), images.device())
}

/// Which samples of a step are mirrored, each with this probability. `slots` are the samples'
/// positions in the batch.
pub fn flips(probability: f64, seed: u64, step: u64, slots: &[u64]) -> Vec<bool> {
    let drawn = |slot: &u64| f64::from(rng::stream(seed, Purpose::Flip, step, *slot).uniform());
    slots.iter().map(|slot| drawn(slot) < probability).collect()
}

/// Shifts each u8 image `[n, 3, H, W]` by up to `reach` pixels in each direction. The edge pixels
/// are repeated outwards.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrored_images_are_read_from_the_right() {
        let images = Tensor::arange(0u8, 24, &Device::Cpu).unwrap().reshape((2, 2, 2, 3)).unwrap();
        let mirrored = mirror(&images, &[false, true]).unwrap();
        assert_eq!(mirrored.dims(), images.dims());
        let values = mirrored.flatten_all().unwrap().to_vec1::<u8>().unwrap();
        let want = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 13, 12, 17, 16, 15, 20, 19, 18, 23, 22, 21];
        assert_eq!(values, want);
    }

    #[test]
    fn flips_are_functions_of_seed_step_and_slot() {
        let slots: Vec<u64> = (0..2000).collect();
        let all = flips(0.25, 1, 3, &slots);
        let share = all.iter().filter(|f| **f).count() as f64 / 2000.0;
        assert!((share - 0.25).abs() < 0.04, "{share}");
        assert_eq!(flips(0.25, 1, 3, &slots[700..800]), all[700..800]);
        assert!(flips(0.25, 1, 4, &slots) != all && flips(0.25, 2, 3, &slots) != all);
        assert!(!flips(0.0, 1, 3, &slots).contains(&true) && !flips(1.0, 1, 3, &slots).contains(&false));
    }
}
