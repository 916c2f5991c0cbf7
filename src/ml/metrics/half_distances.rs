//! Squared distances in half precision, bit-identical to the evaluator of the ADM suite. The
//! evaluator computes `max(|u|^2 - 2 u.v + |v|^2, 0)` from left to right and rounds every step.
//!
//! Values are stored as f32 that f16 can represent. [`to_half`] rounds; it is branch-free, so loops
//! over it vectorise.

use super::pairs::Vectors;
use crate::kernels::simd::simd;
use rayon::prelude::*;

/// Largest finite f16.
pub(super) const LARGEST: f32 = 65504.0;

/// Rounds to the nearest f16, ties to even; infinite from 65520 on, as in IEEE 754. Keeps NaN.
#[inline(always)]
pub(super) fn to_half(x: f32) -> f32 {
    /// The 13 mantissa bits of f32 that f16 does not have.
    const DROPPED: u32 = 0x1FFF;
    /// Smallest normal f16. Smaller f16 values are multiples of 2^-24, the spacing of f32 between
    /// 0.5 and 1.
    const NORMAL: f32 = 6.103_515_6e-5;
    const SHIFT: f32 = 0.75;
    const OVERFLOW: f32 = 65520.0;
    let bits = x.to_bits() & 0x7FFF_FFFF;
    let size = f32::from_bits(bits);
    let normal = f32::from_bits((bits + (DROPPED >> 1) + ((bits >> 13) & 1)) & !DROPPED);
    let small = (size + SHIFT) - SHIFT;
    let rounded = if size < NORMAL { small } else { normal };
    let rounded = if size >= OVERFLOW { f32::INFINITY } else { rounded };
    rounded.copysign(x)
}

/// max(x, 0) that keeps NaN, unlike `f32::max`, so that infinite lengths stay visible.
#[inline(always)]
fn not_negative(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

simd! {
/// Squared distances from a vector of squared length `norm` to vectors of squared lengths `norms`,
/// with inner products `products`.
pub(super) fn distances(norm: f32, norms: &[f32], products: &[f32], out: &mut [f32]) {
    for ((out, n), p) in out.iter_mut().zip(norms).zip(products) {
        *out = not_negative(to_half(to_half(norm - to_half(2.0 * to_half(*p))) + n));
    }
}
}

simd! {
/// Squared distances to a vector of squared length `norm` from vectors of squared lengths `norms`.
pub(super) fn distances_from(norm: f32, norms: &[f32], products: &[f32], out: &mut [f32]) {
    for ((out, n), p) in out.iter_mut().zip(norms).zip(products) {
        *out = not_negative(to_half(to_half(n - to_half(2.0 * to_half(*p))) + norm));
    }
}
}

/// The squared length of each vector of f16 values, as TensorFlow sums squares on a CPU: every
/// square and every partial sum is rounded. Found by experiment with TensorFlow 2.21, whose sums
/// are bit-identical for dimensions divisible by 8; its result on a GPU may differ.
pub(super) fn squared_norms(vectors: &Vectors) -> Vec<f32> {
    let norm = |i: usize| {
        let squares: Vec<f32> = vectors.row(i).map(|x| to_half(x * x)).collect();
        sum(&squares)
    };
    (0..vectors.len()).into_par_iter().map(norm).collect()
}

/// Number of partial sums kept side by side.
const LANES: usize = 8;
/// Longest sum that is not split in two.
const LEAF: usize = 1600;

fn sum(x: &[f32]) -> f32 {
    if x.len() > LEAF {
        let (left, right) = x.split_at(x.len().div_ceil(2).next_multiple_of(LANES));
        return to_half(sum(left) + sum(right));
    }
    let mut sums = [[0f32; LANES]; 4];
    let (groups, rest) = x.as_chunks::<{ 4 * LANES }>();
    for group in groups {
        sums.iter_mut().zip(group.as_chunks::<LANES>().0).for_each(|(sum, x)| add(sum, x));
    }
    let [mut total, others @ ..] = sums;
    others.iter().for_each(|sum| add(&mut total, sum));
    let (packets, rest) = rest.as_chunks::<LANES>();
    packets.iter().for_each(|x| add(&mut total, x));
    let last = rest.iter().fold(0.0, |sum, x| to_half(sum + x));
    to_half(last + to_half(total.iter().sum()))
}

fn add(sum: &mut [f32; LANES], x: &[f32; LANES]) {
    sum.iter_mut().zip(x).for_each(|(sum, x)| *sum = to_half(*sum + x));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_rounded_to_nearest_even() {
        for bits in 0..=u16::MAX {
            let exact = half_value(bits);
            if exact.is_finite() {
                assert_eq!(to_half(exact).to_bits(), exact.to_bits(), "{exact}");
            }
        }
        // Ties and their neighbours, at 1, below the normal range, and at both ends.
        for (x, want) in [
            (1.0 + 1.0 / 2048.0, 1.0),
            (1.0 + 3.0 / 2048.0, 1.0 + 1.0 / 512.0),
            (1.000_489, 1.000_976_6),
            (2f32.powi(-25), 0.0),
            (3.0 * 2f32.powi(-25), 2f32.powi(-23)),
            (2f32.powi(-25) * 1.001, 2f32.powi(-24)),
            (65519.0, 65504.0),
            (65520.0, f32::INFINITY),
            (f32::INFINITY, f32::INFINITY),
        ] {
            assert_eq!(to_half(x), want, "{x}");
            assert_eq!(to_half(-x), -want, "-{x}");
        }
        assert!(to_half(f32::INFINITY - f32::INFINITY).is_nan());
    }

    fn half_value(bits: u16) -> f32 {
        let (exponent, mantissa) = (i32::from(bits >> 10 & 0x1F), f32::from(bits & 0x3FF));
        let size = match exponent {
            0 => mantissa * 2f32.powi(-24),
            31 => f32::INFINITY,
            e => (1024.0 + mantissa) * 2f32.powi(e - 25),
        };
        if bits >> 15 == 0 { size } else { -size }
    }
}
