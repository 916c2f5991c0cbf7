//! The distance of SRA (arXiv 2505.02831) between a student's and a teacher's tokens.

use candle_core::{DType, Result, Tensor, bail};

/// Differences from here on count linearly; as in SRA's code.
const BETA: f64 = 0.05;

/// Mean over all elements of d^2 / 2 beta for |d| < beta and |d| - beta / 2 beyond, with d the
/// difference of two tensors of one shape. Computed in f32.
pub fn smooth_l1(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.dims() != b.dims() {
        bail!("tokens {:?} do not match tokens {:?}", a.dims(), b.dims());
    }
    let far = (a.to_dtype(DType::F32)? - b.to_dtype(DType::F32)?)?.abs()?;
    // q = min(|d|, beta), of which both cases are q (|d| - q / 2) / beta.
    let near = (&far - (&far - BETA)?.relu()?)?;
    ((&near * (far - (&near * 0.5)?)?)? * (1.0 / BETA))?.mean_all()
}
