//! Dispersive loss (arXiv 2506.09027): pushes apart the hidden states of the images of a batch,
//! like a contrastive loss without positives. This is the InfoNCE form with squared Euclidean
//! distances, which the paper recommends.

use candle_core::{DType, Device, Result, Tensor, bail};

/// Settings of the dispersive loss.
#[derive(Debug, Clone, Copy)]
pub struct Dispersion {
    pub weight: f64,
    /// Block whose output is dispersed, counted from 1.
    pub block: usize,
    pub temperature: f64,
}

/// log mean_ij e^(-|z_i - z_j|^2 / (d tau)) over all pairs of a batch of hidden states `[B, ..]` of
/// d values each. As in the authors' code, pairs i = j count, and distances are averaged over d.
/// Computed in f32. 0 if all states are equal, -log B if they are far apart.
///
/// # Errors
/// A batch of one, which has no pairs.
pub fn dispersive(hidden: &Tensor, temperature: f64) -> Result<Tensor> {
    let batch = hidden.dim(0)?;
    if batch < 2 {
        bail!("the dispersive loss needs at least two images");
    }
    let z = hidden.to_dtype(DType::F32)?.reshape((batch, ()))?;
    // Centring does not change distances, and the products below lose fewer digits.
    let z = z.broadcast_sub(&z.mean_keepdim(0)?)?;
    let products = z.matmul(&z.t()?)?;
    let norms = z.sqr()?.sum_keepdim(1)?;
    // Rounding can make the distance between equal states slightly negative.
    let distances = (products * -2.0)?.broadcast_add(&norms)?.broadcast_add(&norms.t()?)?.relu()?;
    let distances = (distances * &apart(batch, z.device())?)?;
    (distances * (-1.0 / (z.dim(1)? as f64 * temperature)))?.exp()?.mean_all()?.log()
}

/// 0 on the diagonal, 1 elsewhere.
fn apart(n: usize, device: &Device) -> Result<Tensor> {
    let values: Vec<f32> = (0..n * n).map(|i| if i / n == i % n { 0.0 } else { 1.0 }).collect();
    Tensor::from_vec(values, (n, n), device)
}
