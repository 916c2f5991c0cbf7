//! The distance of SRA (arXiv 2505.02831) between a student's and a teacher's tokens, and of SRA 2
//! (arXiv 2601.17830) between predicted and clean latents.

use candle_core::{DType, Result, Tensor, bail};

/// Differences from here on count linearly; as in SRA's code; SRA 2 says the same value.
const BETA: f64 = 0.05;

/// Mean over all elements of d^2 / 2 beta for |d| < beta and |d| - beta / 2 beyond, with d the
/// difference of two tensors of one shape. Computed in f32.
pub fn smooth_l1(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.dims() != b.dims() {
        bail!("numbers {:?} do not match numbers {:?}", a.dims(), b.dims());
    }
    let far = (a.to_dtype(DType::F32)? - b.to_dtype(DType::F32)?)?.abs()?;
    // q = min(|d|, beta), of which both cases are q (|d| - q / 2) / beta.
    let near = (&far - (&far - BETA)?.relu()?)?;
    ((&near * (far - (&near * 0.5)?)?)? * (1.0 / BETA))?.mean_all()
}
