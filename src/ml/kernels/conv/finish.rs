//! The last step of a convolution: adding the bias and applying ReLU as sums are written to the
//! result. Both algorithms, tiled and Winograd, use it.

use crate::kernels::simd::simd;

/// What to apply to a sum.
#[derive(Clone, Copy)]
pub(super) struct Finish<'a> {
    pub(super) bias: Option<&'a [f32]>,
    pub(super) relu: bool,
}

impl Finish<'_> {
    /// Copies a run of pixels of channel `c`.
    pub(super) fn copy(&self, c: usize, source: &[f32], target: &mut [f32]) {
        let bias = self.bias.map_or(0.0, |b| b[c]);
        match (self.relu, self.bias) {
            (false, None) => target.copy_from_slice(source),
            (false, Some(_)) => target.iter_mut().zip(source).for_each(|(t, s)| *t = *s + bias),
            (true, _) => rectified(source, bias, target),
        }
    }
}

simd! {
    /// max(0, source + bias). NaN is kept, which `f32::max` would drop.
    fn rectified(source: &[f32], bias: f32, target: &mut [f32]) {
        for (t, s) in target.iter_mut().zip(source) {
            let v = *s + bias;
            *t = if v < 0.0 { 0.0 } else { v };
        }
    }
}
