//! NT-Xent between projected tokens and features (ERW paper, arXiv 2504.10188, eq. 13; the loss is
//! SimCLR's, arXiv 2002.05709): a token should be closer to its own feature than to those of other
//! images.
//!
//! The paper says in-batch negatives without saying which. Here they are the features of the other
//! images of the batch at the same position of the grid. Other positions of the same image show
//! related content and should not be pushed away.

use super::{NORMALIZE, check_pairs, unit};
use candle_core::{D, Result, Tensor, bail};

/// Mean over encoders, samples and tokens of -log(e^(s_ii / tau) / sum_j e^(s_ij / tau)), where
/// s_ij is the cosine of the projection of image i and the feature of image j, each `[B, N, Z]`.
/// Computed in f32.
///
/// # Errors
/// A batch of one, which has no negatives: the loss and its gradient would be 0.
pub fn nt_xent(features: &[Tensor], projections: &[Tensor], temperature: f64) -> Result<Tensor> {
    check_pairs(features, projections)?;
    let mut total: Option<Tensor> = None;
    for (f, p) in features.iter().zip(projections) {
        if f.dim(0)? < 2 {
            bail!("the contrastive loss needs at least two images");
        }
        let (f, p) = (unit(f, NORMALIZE)?, unit(p, NORMALIZE)?);
        let positive = (&f * &p)?.sum(D::Minus1)?.mean_all()?;
        // [N, B, B]: one row per image i, one column per feature j.
        let by_place = |t: &Tensor| t.transpose(0, 1)?.contiguous();
        let scores = (by_place(&p)?.matmul(&by_place(&f)?.transpose(1, 2)?.contiguous()?)? / temperature)?;
        let loss = (log_sum_exp(&scores)?.mean_all()? - (positive / temperature)?)?;
        total = Some(match total {
            None => loss,
            Some(so_far) => (so_far + loss)?,
        });
    }
    let Some(total) = total else { bail!("an alignment loss without features") };
    total / features.len() as f64
}

/// log sum e^x along the last axis, which is kept. The subtracted maximum is a constant; it does not change the
/// gradient.
pub(super) fn log_sum_exp(x: &Tensor) -> Result<Tensor> {
    let max = x.detach().max_keepdim(D::Minus1)?;
    let sum = x.broadcast_sub(&max)?.exp()?.sum_keepdim(D::Minus1)?;
    sum.log()? + max
}
