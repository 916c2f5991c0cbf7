//! The losses of representation-aligned training: velocity in two forms, alignment in two forms,
//! relation, attention, self-alignment, and dispersion.

mod attention_transfer;
mod contrastive;
mod dispersive;
mod relation;
mod smooth_l1;

pub use attention_transfer::attention_transfer;
pub use contrastive::nt_xent;
pub use dispersive::{Dispersion, dispersive};
pub use relation::{Relation, relation};
pub use smooth_l1::smooth_l1;

use crate::kernels;
use candle_core::{D, DType, Result, Tensor, bail};

/// Mean squared error of a predicted velocity over all elements.
pub fn velocity(predicted: &Tensor, target: &Tensor) -> Result<Tensor> {
    if kernels::suits(&[predicted, target]) {
        return predicted.contiguous()?.apply_op2(&target.contiguous()?, kernels::loss::MeanSquaredError);
    }
    (predicted - target)?.sqr()?.mean_all()
}

/// Mean over samples and places of 1 - cos(predicted, target), with the cosine over the channels of
/// velocities `[B, C, H, W]`: the velocity direction loss of LightningDiT (arXiv 2501.01423), which
/// adds it to the mean squared error with weight 1.
pub fn velocity_cosine(predicted: &Tensor, target: &Tensor) -> Result<Tensor> {
    let channels_last = |t: &Tensor| t.permute((0, 2, 3, 1))?.contiguous();
    mean_cosine(&channels_last(predicted)?, &channels_last(target)?, COSINE_SIMILARITY)?.affine(-1.0, 1.0)
}

/// Mean over encoders, samples and tokens of the negative cosine similarity of features and
/// projected tokens, each `[B, N, Z]`. Computed in f32: in half precision the norms overflow.
///
/// The warmup of the ERW authors' code counts only the last sample of a batch. The paper means all,
/// as here.
pub fn alignment(features: &[Tensor], projections: &[Tensor]) -> Result<Tensor> {
    check_pairs(features, projections)?;
    let mut total = None;
    for (f, p) in features.iter().zip(projections) {
        let cosine = mean_cosine(f, p, NORMALIZE)?;
        total = Some(match total {
            None => cosine,
            Some(so_far) => (so_far + cosine)?,
        });
    }
    let Some(total) = total else { bail!("an alignment loss without features") };
    total / -(features.len() as f64)
}

/// The least length of a vector in PyTorch's `normalize`, by which REPA normalises.
pub const NORMALIZE: f64 = 1e-12;
/// The same in its `cosine_similarity`, which LightningDiT uses. A network begins with velocities of
/// zero, where the gradient is the inverse of it: 1e12 would leave the range of f16 at any loss scale
/// and stay in the second moments of Adam for a thousand steps.
pub const COSINE_SIMILARITY: f64 = 1e-8;

/// Mean over all rows of the cosine similarity of two tensors of one shape, `[.., D]`, whose rows
/// count as at least as long as `least`.
pub fn mean_cosine(a: &Tensor, b: &Tensor, least: f64) -> Result<Tensor> {
    if kernels::suits(&[a, b]) {
        return a.contiguous()?.apply_op2(&b.contiguous()?, kernels::loss::MeanCosine { least });
    }
    plain_mean_cosine(a, b, least)
}

/// The same with candle's own operations, for any device and dtype.
pub fn plain_mean_cosine(a: &Tensor, b: &Tensor, least: f64) -> Result<Tensor> {
    (unit(a, least)? * unit(b, least)?)?.sum(D::Minus1)?.mean_all()
}

/// Checks that every set of features has a projection of the same shape.
fn check_pairs(features: &[Tensor], projections: &[Tensor]) -> Result<()> {
    if features.is_empty() || features.len() != projections.len() {
        bail!("{} sets of features for {} projections", features.len(), projections.len());
    }
    match features.iter().zip(projections).find(|(f, p)| f.dims() != p.dims()) {
        Some((f, p)) => bail!("features {:?} do not match projections {:?}", f.dims(), p.dims()),
        None => Ok(()),
    }
}

/// The normalisation that iREPA (arXiv 2512.10794) applies to an encoder's features `[B, T, D]`:
/// `(x - alpha mean) / (std + 1e-6)`, with mean and standard deviation over the tokens of an image,
/// per channel. Removing what all tokens share emphasises their differences. As in iREPA's code,
/// the standard deviation has the divisor n - 1.
pub fn spatial_zscore(features: &Tensor, alpha: f64) -> Result<Tensor> {
    let x = features.to_dtype(DType::F32)?;
    let tokens = x.dim(1)?;
    if tokens < 2 {
        bail!("a standard deviation over tokens needs at least two tokens");
    }
    let mean = x.mean_keepdim(1)?;
    let centred = x.broadcast_sub(&mean)?;
    let std = ((centred.sqr()?.sum_keepdim(1)? / (tokens - 1) as f64)?.sqrt()? + 1e-6)?;
    x.broadcast_sub(&(mean * alpha)?)?.broadcast_div(&std)
}

/// x / |x| along the last axis. The square of `least` under the root acts like a lower bound on |x|,
/// and keeps the gradient of a zero vector finite.
fn unit(x: &Tensor, least: f64) -> Result<Tensor> {
    let x = x.to_dtype(DType::F32)?;
    let norm = (x.sqr()?.sum_keepdim(D::Minus1)? + least * least)?.sqrt()?;
    x.broadcast_div(&norm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn alignment_is_a_mean_over_everything_and_safe_at_zero() {
        let f = Tensor::new(&[[[1f32, 0.0], [0.0, 2.0]], [[3.0, 4.0], [1.0, 0.0]]], &Device::Cpu).unwrap();
        let p = Tensor::new(&[[[2f32, 0.0], [0.0, -1.0]], [[6.0, 8.0], [0.0, 0.0]]], &Device::Cpu).unwrap();
        let p = Var::from_tensor(&p).unwrap();
        // Cosines 1, -1, 1 and, for the zero vector, 0.
        let loss = alignment(std::slice::from_ref(&f), &[p.as_tensor().clone()]).unwrap();
        assert!((loss.to_scalar::<f32>().unwrap() + 0.25).abs() < 1e-6);
        let grads = loss.backward().unwrap();
        let sum = grads.get(&p).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(sum.is_finite());
        assert!(alignment(&[f], &[]).is_err());
    }

    /// A network begins with velocities of zero, and f16 has numbers up to 65504.
    #[test]
    fn the_cosine_of_a_velocity_of_zero_has_the_gradient_of_pytorch() {
        // torch 2.15: cosine_similarity(zeros(1, 4, 1, 1), tensor([3, 0, 4, 0]), dim = 1) has the
        // gradient 1e8 * [0.6, 0, 0.8, 0].
        let target = Tensor::new(&[3f32, 0.0, 4.0, 0.0], &Device::Cpu).unwrap().reshape((1, 4, 1, 1)).unwrap();
        let zero = Var::zeros((1, 4, 1, 1), DType::F32, &Device::Cpu).unwrap();
        let loss = velocity_cosine(zero.as_tensor(), &target).unwrap();
        assert_eq!(loss.to_scalar::<f32>().unwrap(), 1.0);
        let grads = loss.backward().unwrap();
        let grad = grads.get(&zero).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (got, want) in grad.iter().zip([-0.6e8, 0.0, -0.8e8, 0.0]) {
            assert!((got - want).abs() <= 1e3, "{grad:?}");
        }
    }
}
