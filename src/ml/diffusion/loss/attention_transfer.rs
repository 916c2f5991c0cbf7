//! The attention alignment of HASTE (arXiv 2505.16792, eq. 5): a block of the network should attend
//! to the patches to which a block of the encoder attends.

use super::contrastive::log_sum_exp;
use candle_core::{D, DType, Result, Tensor, bail};

/// Mean over blocks, samples, heads and queries of the cross-entropy of the network's attention to
/// the encoder's, both softmaxes of scores `[B, H, N, N]`, one tensor of each per block. As in the
/// authors' code, head i is compared with head i, and heads that only one of the two has are left
/// out. Computed in f32.
pub fn attention_transfer(encoder: &[Tensor], network: &[Tensor]) -> Result<Tensor> {
    if encoder.is_empty() || encoder.len() != network.len() {
        bail!("attention of {} blocks of the encoder for {} of the network", encoder.len(), network.len());
    }
    let mut total: Option<Tensor> = None;
    for (theirs, ours) in encoder.iter().zip(network) {
        let ((b, h, n, m), (b2, h2, n2, m2)) = (theirs.dims4()?, ours.dims4()?);
        if [b, n, m] != [b2, n2, m2] {
            bail!("attention {:?} of the encoder does not match {:?} of the network", theirs.dims(), ours.dims());
        }
        let heads = |t: &Tensor| t.narrow(1, 0, h.min(h2))?.to_dtype(DType::F32);
        let (theirs, ours) = (log_softmax(&heads(theirs)?)?.exp()?, log_softmax(&heads(ours)?)?);
        let loss = (theirs * ours)?.sum(D::Minus1)?.mean_all()?;
        total = Some(match total {
            None => loss,
            Some(so_far) => (so_far + loss)?,
        });
    }
    let Some(total) = total else { bail!("an attention alignment without blocks") };
    total / -(encoder.len() as f64)
}

fn log_softmax(scores: &Tensor) -> Result<Tensor> {
    scores.broadcast_sub(&log_sum_exp(scores)?)
}
