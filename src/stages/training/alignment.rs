//! How both phases compare projections with features: the parameters of it, as their manifests name them.

use candle_core::Tensor;
use erw_base::error::{Error, Result};
use erw_ml::diffusion::loss;
use serde::Deserialize;

/// Flattened into the parameters of a phase.
#[derive(Debug, Deserialize)]
pub struct Alignment {
    alignment_loss: Kind,
    /// Of `nt-xent`.
    temperature: f64,
    spatial_norm: SpatialNorm,
    spatial_norm_alpha: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Cosine,
    NtXent,
}

/// What is done to features first.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SpatialNorm {
    None,
    Zscore,
}

impl Alignment {
    pub fn check(&self, batch: usize, accumulate: usize) -> Result<()> {
        match self.alignment_loss {
            Kind::Cosine => Ok(()),
            Kind::NtXent => check_pairs_of_batch("alignment_loss = \"nt-xent\"", batch, accumulate),
        }
    }

    /// Whether the loss compares the images of a batch with each other.
    pub fn is_over_pairs(&self) -> bool {
        self.alignment_loss == Kind::NtXent
    }

    /// The loss of a micro-batch; features and projections `[B, N, Z]`, one each per encoder.
    pub fn loss(&self, features: Vec<Tensor>, projections: &[Tensor]) -> candle_core::Result<Tensor> {
        let features = match self.spatial_norm {
            SpatialNorm::None => features,
            SpatialNorm::Zscore => {
                let norm = |f: &Tensor| loss::spatial_zscore(f, self.spatial_norm_alpha);
                features.iter().map(norm).collect::<candle_core::Result<_>>()?
            }
        };
        match self.alignment_loss {
            Kind::Cosine => loss::alignment(&features, projections),
            Kind::NtXent => loss::nt_xent(&features, projections, self.temperature),
        }
    }
}

/// A loss over pairs of images must see all pairs of a batch: micro-batches have fewer, so that `accumulate`, which is to
/// save memory and nothing else, would change what is trained.
pub fn check_pairs_of_batch(what: &str, batch: usize, accumulate: usize) -> Result<()> {
    if accumulate > 1 {
        let text = format!("`{what}` compares all images of a batch, which `accumulate` {accumulate} would part");
        return Err(Error::usage(text).hint("set `accumulate = 1`"));
    }
    if batch < 2 {
        return Err(Error::usage(format!("`{what}` compares the images of a batch, and `batch` is {batch}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_over_pairs_needs_the_batch_in_one_piece() {
        let said = |loss: &str, batch, accumulate| {
            let values = serde_json::json!({"alignment_loss": loss, "temperature": 0.1, "spatial_norm": "none",
                "spatial_norm_alpha": 0.6});
            let alignment: Alignment = serde_json::from_value(values).unwrap();
            alignment.check(batch, accumulate).err().map(|e| e.message)
        };
        assert_eq!(said("cosine", 1, 1), None);
        assert_eq!(said("cosine", 8, 4), None);
        assert_eq!(said("nt-xent", 8, 1), None);
        assert_eq!(
            said("nt-xent", 8, 2).unwrap(),
            "`alignment_loss = \"nt-xent\"` compares all images of a batch, which `accumulate` 2 would part"
        );
        assert_eq!(
            said("nt-xent", 1, 1).unwrap(),
            "`alignment_loss = \"nt-xent\"` compares the images of a batch, and `batch` is 1"
        );
    }
}
